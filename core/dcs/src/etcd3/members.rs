//! The members of the store: which one is talked to, and going on to the next when it fails.

use super::budget::Budget;
use super::failure::Failure;
use super::link::Link;
use super::options::Options;
use super::shared::Shared;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// After an outage a connection from before it may hang for as long as packets are not sent again. Once another one is answered, this
/// is what a request on it is given.
const STRANDED_AFTER: Duration = Duration::from_millis(150);

/// One connection at a time, kept as long as it works.
pub(super) struct Members {
    shared: Arc<Shared>,
    at: usize,
    link: Option<Link>,
}

/// An answer that counts.
pub(super) struct Settled<T> {
    pub(super) answer: T,
    /// An earlier attempt of the same request may have happened too, or may still happen.
    pub(super) doubt: bool,
}

impl Members {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, at: 0, link: None }
    }

    /// How many addresses there are to try.
    pub(super) fn count(&self) -> usize {
        self.shared.urls().len()
    }

    /// The connection in use, or a new one to the member whose turn it is.
    pub(super) async fn link(&mut self, options: &Options, limit: Duration) -> Result<&mut Link, Failure> {
        if self.link.is_none() {
            let urls = self.shared.urls();
            let url = urls.get(self.at % urls.len().max(1));
            let url = url.ok_or_else(|| Failure::Denied("no host of the store is configured".to_owned()))?;
            let opened = tokio::time::timeout(limit, Link::open(url, options, &self.shared, limit)).await;
            let opened = opened.unwrap_or_else(|_| Err(too_slow("connect", limit)));
            self.link = Some(opened.map_err(|failure| at_url(url, failure))?);
        }
        self.link.as_mut().ok_or_else(|| Failure::NotDone("not connected".to_owned()))
    }

    /// Gives the connection up; the next attempt goes to the next member.
    pub(super) fn move_on(&mut self) {
        self.link = None;
        self.at = (self.at + 1) % self.count().max(1);
    }

    /// Repeats a request at one member after the other until one gives an answer that counts, or the budget is
    /// spent. The request must be one that may be repeated: its conditions see to it that a second execution does
    /// nothing, and the caller reads [`Settled::doubt`].
    pub(super) async fn settle<T>(
        &mut self,
        options: &Options,
        budget: &mut Budget,
        request: impl AsyncFn(&mut Link) -> Result<T, Failure>,
    ) -> Result<Settled<T>, Stopped> {
        let mut doubt = false;
        let mut authenticated_anew = false;
        let mut foreign = 0;
        let mut last = Failure::NotDone("no time is left".to_owned());
        while let Some(limit) = budget.slice(self.count()) {
            let failure = match self.attempt(options, limit, &request).await {
                Ok(answer) => {
                    self.shared.announce_answer();
                    return Ok(Settled { answer, doubt });
                }
                Err(failure) => failure,
            };
            doubt |= failure.leaves_doubt();
            match failure {
                Failure::LeaseGone | Failure::Denied(_) => return Err(Stopped { failure, doubt }),
                Failure::Unauthenticated(why) if authenticated_anew => {
                    return Err(Stopped { failure: Failure::Denied(why), doubt });
                }
                Failure::Unauthenticated(_) => {
                    authenticated_anew = true;
                    match self.authenticate(options, limit).await {
                        Ok(()) => continue,
                        Err(failure @ Failure::Denied(_)) => return Err(Stopped { failure, doubt }),
                        Err(failure) => last = failure,
                    }
                }
                Failure::Foreign(_) => {
                    foreign += 1;
                    last = failure;
                    if foreign >= self.count() {
                        break;
                    }
                }
                Failure::NotDone(_) | Failure::Unclear(_) => last = failure,
            }
            tracing::debug!(target: "ha_dcs", "etcd: {last}");
            self.move_on();
            let pause = budget.failed(self.count());
            if !pause.is_zero() {
                self.shared.pause(pause).await;
            }
        }
        Err(Stopped { failure: last, doubt })
    }

    async fn attempt<T>(
        &mut self,
        options: &Options,
        limit: Duration,
        request: &impl AsyncFn(&mut Link) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let started = tokio::time::Instant::now();
        let shared = Arc::clone(&self.shared);
        let link = self.link(options, limit).await?;
        let limit = limit.saturating_sub(started.elapsed());
        let answer = pin!(tokio::time::timeout(limit, request(link)));
        let given_up = pin!(async {
            shared.restored().await;
            tokio::time::sleep(STRANDED_AFTER).await;
        });
        match first(answer, given_up).await {
            Some(Ok(answer)) => answer,
            Some(Err(_)) => Err(Failure::Unclear(format!("no answer within {} ms", limit.as_millis()))),
            None => Err(Failure::Unclear("the store is back, but does not answer on this connection".to_owned())),
        }
    }

    async fn authenticate(&mut self, options: &Options, limit: Duration) -> Result<(), Failure> {
        let link = self.link(options, limit).await?;
        match tokio::time::timeout(limit, link.authenticate()).await {
            Ok(result) => result,
            Err(_) => Err(too_slow("authenticate", limit)),
        }
    }
}

/// A request that has no answer.
pub(super) struct Stopped {
    pub(super) failure: Failure,
    /// Some attempt of it may have happened, or may still happen.
    pub(super) doubt: bool,
}

impl Stopped {
    /// Of a request that changes nothing but how long our own lease lives: whether it happened is no question.
    pub(super) fn of_a_question(self) -> Self {
        Self { doubt: false, ..self }
    }
}

/// The output, or nothing if `other` ends first.
async fn first<T>(mut wanted: Pin<&mut impl Future<Output = T>>, mut other: Pin<&mut impl Future>) -> Option<T> {
    std::future::poll_fn(|context| {
        if let Poll::Ready(output) = wanted.as_mut().poll(context) {
            return Poll::Ready(Some(output));
        }
        other.as_mut().poll(context).map(|_| None)
    })
    .await
}

fn too_slow(what: &str, limit: Duration) -> Failure {
    Failure::NotDone(format!("could not {what} within {} ms", limit.as_millis()))
}

/// A connection that does not come up proves that nothing was asked.
fn at_url(url: &str, failure: Failure) -> Failure {
    match failure {
        Failure::Unclear(why) | Failure::NotDone(why) => Failure::NotDone(format!("{url}: {why}")),
        Failure::Denied(why) => Failure::Denied(format!("{url}: {why}")),
        other @ (Failure::LeaseGone | Failure::Unauthenticated(_) | Failure::Foreign(_)) => other,
    }
}
