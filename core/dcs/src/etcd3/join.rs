//! Two requests at once.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;

/// Runs both to their end, in one task.
pub(super) async fn join<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
    let mut a = pin!(a);
    let mut b = pin!(b);
    let (mut a_ready, mut b_ready) = (None, None);
    std::future::poll_fn(move |context| {
        if a_ready.is_none()
            && let Poll::Ready(value) = a.as_mut().poll(context)
        {
            a_ready = Some(value);
        }
        if b_ready.is_none()
            && let Poll::Ready(value) = b.as_mut().poll(context)
        {
            b_ready = Some(value);
        }
        if a_ready.is_some() && b_ready.is_some() {
            match (a_ready.take(), b_ready.take()) {
                (Some(a), Some(b)) => return Poll::Ready((a, b)),
                (None, _) | (_, None) => unreachable!("both were checked"),
            }
        }
        Poll::Pending
    })
    .await
}
