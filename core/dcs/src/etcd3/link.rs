//! One connection to one member: coming up, authentication, the keepalive stream.

use super::failure::Failure;
use super::options::{Options, Protocol};
use super::shared::Shared;
use etcd_client::{Certificate, Client, ConnectOptions, Identity, LeaseKeepAliveStream, LeaseKeeper, TlsOptions};
use ha_core::clock::Millis;
use ha_core::ids::LeaseId;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Largest answer we take: the whole cluster comes in one.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Where distributions keep the authorities they trust.
const SYSTEM_AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A connection. Dropping it aborts what is under way on it.
pub(super) struct Link {
    pub(super) client: Client,
    keepalive: Option<KeepAlive>,
    shared: Arc<Shared>,
}

/// The open keepalive stream. It is out of its place while a keepalive is in flight: one that is given up
/// (timeout, error, dropped call) takes the stream with it, so a late answer can never count for a later question.
struct KeepAlive {
    lease: LeaseId,
    keeper: LeaseKeeper,
    answers: LeaseKeepAliveStream,
}

/// The answer to a keepalive.
#[derive(Clone, Copy, Debug)]
pub(super) struct Alive {
    /// The time to live the lease has been given anew.
    pub(super) ttl: Millis,
    /// Raft term of the member that answered.
    pub(super) term: u64,
}

impl Link {
    /// Connects to one member. With credentials this authenticates; otherwise the connection comes up with the
    /// first request.
    pub(super) async fn open(
        url: &str,
        options: &Options,
        shared: &Arc<Shared>,
        limit: Duration,
    ) -> Result<Self, Failure> {
        let connect = options.connect_timeout.map_or(limit, |own| Duration::from_millis(own.0).min(limit));
        let mut base = ConnectOptions::new()
            .with_connect_timeout(connect)
            .with_require_leader(true)
            .with_keep_alive_while_idle(false)
            .with_keep_alive(ping_interval(options.ttl), super::budget::quiet_time(options.ttl));
        if options.protocol == Protocol::Https {
            base = base.with_tls(tls(options)?);
        }
        let client = match (&options.username, &options.password) {
            (Some(name), password) if !name.is_empty() => {
                let password = password.clone().unwrap_or_default();
                match Client::connect([url], Some(base.clone().with_user(name, password))).await {
                    // Credentials are configured but not needed (yet).
                    Err(error) if authentication_is_off(&error) => Client::connect([url], Some(base)).await?,
                    other => other?,
                }
            }
            _ => Client::connect([url], Some(base)).await?,
        };
        Ok(Self { client, keepalive: None, shared: Arc::clone(shared) })
    }

    /// A new token.
    pub(super) async fn authenticate(&mut self) -> Result<(), Failure> {
        self.keepalive = None;
        Ok(self.client.refresh_token().await?)
    }

    pub(super) fn kv(&self) -> etcd_client::KvClient {
        self.client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub(super) fn watch(&self) -> etcd_client::WatchClient {
        self.client.watch_client().max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// One keepalive, answered.
    pub(super) async fn keep_alive(&mut self, lease: LeaseId) -> Result<Alive, Failure> {
        let mut stream = match self.keepalive.take() {
            Some(stream) if stream.lease == lease => stream,
            _ => self.open_keepalive(lease).await?,
        };
        stream.keeper.keep_alive().await?;
        let answer = stream.answers.message().await?;
        let answer = answer.ok_or_else(|| Failure::Unclear("the keepalive stream was closed".to_owned()))?;
        self.shared.check(answer.header())?;
        if answer.id() != lease.0 {
            return Err(Failure::Unclear("a keepalive answer for another lease".to_owned()));
        }
        let ttl = u64::try_from(answer.ttl()).unwrap_or(0);
        if ttl == 0 {
            return Err(Failure::LeaseGone);
        }
        self.keepalive = Some(stream);
        Ok(Alive {
            ttl: Millis::from_secs(ttl),
            term: answer.header().map_or(0, etcd_client::ResponseHeader::raft_term),
        })
    }

    /// Opening costs a keepalive of its own, whose answer the client keeps to itself.
    async fn open_keepalive(&mut self, lease: LeaseId) -> Result<KeepAlive, Failure> {
        match self.client.lease_keep_alive(lease.0).await.map_err(Failure::from) {
            Ok((keeper, answers)) => Ok(KeepAlive { lease, keeper, answers }),
            // That answer's header was not checked, so ask in a way that can be.
            Err(Failure::LeaseGone) if self.lease_alive(lease).await? => {
                Err(Failure::Unclear("the store contradicts itself about our lease".to_owned()))
            }
            Err(failure) => Err(failure),
        }
    }

    /// Whether a lease is alive, as the leader of the store sees it.
    pub(super) async fn lease_alive(&mut self, lease: LeaseId) -> Result<bool, Failure> {
        let answer = match self.client.lease_time_to_live(lease.0, None).await.map_err(Failure::from) {
            Err(Failure::LeaseGone) => return Ok(false),
            other => other?,
        };
        self.shared.check(answer.header())?;
        // A lease that is over but not revoked yet has a negative time left and can be revived by a change of the
        // store's leader; only one that is not there was granted for nothing.
        Ok(answer.granted_ttl() > 0)
    }
}

fn authentication_is_off(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status) if status.message().contains("authentication is not enabled"))
}

/// HTTP/2 pings: etcd closes the connection of a client that pings more often than every five seconds.
fn ping_interval(ttl: Millis) -> Duration {
    Duration::from_millis((ttl.0 / 5).max(6_000))
}

fn tls(options: &Options) -> Result<TlsOptions, Failure> {
    let mut tls = TlsOptions::new();
    let authorities = match &options.cacert {
        Some(path) => read(path)?,
        None => SYSTEM_AUTHORITIES.iter().find_map(|path| std::fs::read(path).ok()).ok_or_else(|| {
            Failure::Denied("no cacert is configured and the system has no list of authorities".to_owned())
        })?,
    };
    tls = tls.ca_certificate(Certificate::from_pem(authorities));
    if let Some(cert) = &options.cert {
        let key = options.key.as_ref().unwrap_or(cert);
        tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
    }
    Ok(tls)
}

/// Read anew for each connection, so that renewed certificates are used without a restart.
fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::Denied(format!("cannot read {}: {error}", path.display())))
}
