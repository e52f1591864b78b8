//! Two nodes with one name must not both run: before this one acts, whoever is known under its name is asked.

use crate::rest_client;
use ha_core::cluster::Cluster;
use ha_core::config::Config;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

/// A node that is alive answers by then.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Where the question stands.
#[derive(Debug)]
pub enum Namesake {
    /// The store has not been read yet. Past this moment we go on without, and ask once it can be read.
    Unasked {
        /// When patience ends.
        until: Instant,
    },
    /// It is being asked.
    Asking(Receiver<bool>),
    /// There is none.
    None,
    /// There is one.
    Alive,
}

impl Namesake {
    /// To be asked as soon as the store can be read.
    #[must_use]
    pub fn unasked() -> Self {
        Namesake::Unasked { until: Instant::now() + Duration::from_secs(10) }
    }

    /// Goes on. `cluster` is the newest view of the store; `wake` is called when there is an answer.
    pub fn advance(&mut self, cluster: Option<&Cluster>, config: &Config, wake: impl Fn() + Send + 'static) {
        match self {
            Namesake::Unasked { .. } => {
                if let Some(cluster) = cluster {
                    *self = ask(cluster, config, wake);
                }
            }
            Namesake::Asking(answer) => match answer.try_recv() {
                Ok(true) => *self = Namesake::Alive,
                Ok(false) | Err(TryRecvError::Disconnected) => *self = Namesake::None,
                Err(TryRecvError::Empty) => {}
            },
            Namesake::None | Namesake::Alive => {}
        }
    }

    /// Whether this node may act.
    #[must_use]
    pub fn lets_act(&self) -> bool {
        match self {
            Namesake::Unasked { until } => Instant::now() >= *until,
            Namesake::None => true,
            Namesake::Asking(_) | Namesake::Alive => false,
        }
    }
}

fn ask(cluster: &Cluster, config: &Config, wake: impl Fn() + Send + 'static) -> Namesake {
    let Some(url) = cluster.members.get(&config.name).and_then(|member| member.api_url.clone()) else {
        return Namesake::None;
    };
    // Whoever else announces our very address cannot be listening on it: we are.
    if url == config.identity().api_url {
        return Namesake::None;
    }
    let (sender, receiver) = channel();
    let asked = std::thread::Builder::new().name("ha_namesake".to_owned()).spawn(move || {
        let _ = sender.send(answers(&url));
        wake();
    });
    if asked.is_err() { Namesake::None } else { Namesake::Asking(receiver) }
}

/// Whether anything answers there: `GET /liveness`, any HTTP answer. Over TLS a connection is answer enough.
fn answers(url: &str) -> bool {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let host_port = rest.split('/').next().unwrap_or_default();
    if scheme == "https" {
        return rest_client::connect(host_port, TIMEOUT).is_ok();
    }
    rest_client::get(host_port, "/liveness", TIMEOUT).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    fn one_answer(answer: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}/patroni", listener.local_addr().expect("bound"));
        let serving = std::thread::Builder::new().spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut request = [0; 512];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(answer);
        });
        serving.expect("a thread");
        url
    }

    #[test]
    fn any_http_answer_counts_and_nothing_else() {
        assert!(answers(&one_answer(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")));
        assert!(!answers(&one_answer(b"")));
        assert!(!answers(&one_answer(b"SSH-2.0-x\r\n")));
        assert!(!answers("http://127.0.0.1:1/patroni"));
    }
}
