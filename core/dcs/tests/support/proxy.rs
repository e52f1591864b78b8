//! A TCP proxy that delays, holds back and cuts.

use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

// Independent ways to misbehave.
#[allow(clippy::struct_excessive_bools)]
#[derive(Clone, Copy, Default)]
struct Mood {
    target: u16,
    delay: Duration,
    /// Bytes towards the server are kept back until this is over.
    hold_requests: bool,
    /// Bytes towards the client are kept back until this is over.
    hold_answers: bool,
    /// Bytes towards the server that come now are lost, what is held back is not.
    lose_requests: bool,
    /// New connections are closed at once.
    refuse: bool,
    /// Connections of an earlier generation are cut.
    generation: u64,
    /// Connections of an earlier era hang.
    era: u64,
    /// The first request that contains this is held back, with all that is sent in the next 300 ms.
    trap: Option<&'static str>,
}

pub struct Proxy {
    port: u16,
    mood: watch::Sender<Mood>,
}

impl Proxy {
    pub async fn start(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", super::free_port())).await.expect("a listener");
        let port = listener.local_addr().expect("an address").port();
        let (mood, receiver) = watch::channel(Mood { target, ..Mood::default() });
        tokio::spawn(accept(listener, mood.clone(), receiver));
        Self { port, mood }
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn delay(&self, delay: Duration) {
        self.mood.send_modify(|mood| mood.delay = delay);
    }

    pub fn hold_requests(&self, hold: bool) {
        self.mood.send_modify(|mood| mood.hold_requests = hold);
    }

    /// Holds back what is sent in the next 300 ms; from then on everything is lost, so that the server never learns
    /// that a request was given up.
    pub fn hold_then_lose_requests(&self) {
        hold_then_lose(&self.mood);
    }

    /// The same, from the first request on that contains this text.
    pub fn hold_then_lose_from(&self, text: &'static str) {
        self.mood.send_modify(|mood| mood.trap = Some(text));
    }

    /// Whether requests are held back now.
    pub fn holds_requests(&self) -> bool {
        self.mood.borrow().hold_requests
    }

    pub fn hold_answers(&self, hold: bool) {
        self.mood.send_modify(|mood| mood.hold_answers = hold);
    }

    pub fn refuse(&self, refuse: bool) {
        self.mood.send_modify(|mood| mood.refuse = refuse);
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        self.mood.send_modify(|mood| mood.generation += 1);
    }

    /// Every present connection hangs for ever, as if packets were lost; later ones do not.
    pub fn strand(&self) {
        self.mood.send_modify(|mood| mood.era += 1);
    }

    /// Later connections go to another server; the present ones are cut.
    pub fn retarget(&self, target: u16) {
        self.mood.send_modify(|mood| {
            mood.target = target;
            mood.generation += 1;
        });
    }
}

fn hold_then_lose(mood: &watch::Sender<Mood>) {
    mood.send_modify(|mood| {
        mood.hold_requests = true;
        mood.trap = None;
    });
    let mood = mood.clone();
    tokio::spawn(async move {
        super::sleep_ms(300).await;
        mood.send_modify(|mood| mood.lose_requests = true);
    });
}

async fn accept(listener: TcpListener, changes: watch::Sender<Mood>, mood: watch::Receiver<Mood>) {
    while let Ok((client, _)) = listener.accept().await {
        let now = *mood.borrow();
        if !now.refuse {
            tokio::spawn(connect(client, now, changes.clone(), mood.clone()));
        }
    }
}

async fn connect(client: TcpStream, now: Mood, changes: watch::Sender<Mood>, mood: watch::Receiver<Mood>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", now.target)).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let to_be_trapped = move |bytes: &[u8]| {
        let trap = changes.borrow().trap;
        if trap.is_some_and(|text| bytes.windows(text.len()).any(|part| part == text.as_bytes())) {
            hold_then_lose(&changes);
        }
    };
    let held_and_lost = |mood: &Mood| (mood.hold_requests, mood.lose_requests);
    tokio::spawn(pump(from_client, to_server, mood.clone(), now, held_and_lost, to_be_trapped));
    tokio::spawn(pump(from_server, to_client, mood, now, |mood| (mood.hold_answers, false), |_| {}));
}

/// One direction. What was read is delivered even if the sender is gone by then, as a network may do.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut mood: watch::Receiver<Mood>,
    begun: Mood,
    held_and_lost: fn(&Mood) -> (bool, bool),
    seen: impl Fn(&[u8]) + Send + 'static,
) {
    let (queue, mut waiting) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let delays = mood.clone();
    let reader = tokio::spawn(async move {
        let queue = Arc::new(queue);
        let mut buffer = vec![0; 64 << 10];
        while let Ok(read) = from.read(&mut buffer).await {
            let now = *delays.borrow();
            if read > 0 && held_and_lost(&now).1 {
                continue;
            }
            seen(&buffer[..read]);
            if read == 0 || queue.send((Instant::now() + now.delay, buffer[..read].to_vec())).is_err() {
                break;
            }
        }
    });
    let mut cut = mood.clone();
    let deliver = async {
        while let Some((due, bytes)) = waiting.recv().await {
            tokio::time::sleep_until(due).await;
            if mood.wait_for(|mood| !held_and_lost(mood).0 && mood.era == begun.era).await.is_err()
                || to.write_all(&bytes).await.is_err()
            {
                break;
            }
        }
        // The last bytes are to be acted upon before the end of the connection is seen.
        super::sleep_ms(300).await;
    };
    let mut deliver = std::pin::pin!(deliver);
    let mut cut = std::pin::pin!(cut.wait_for(|mood| mood.generation != begun.generation));
    // Whichever ends first: all is delivered, or the connection is cut.
    std::future::poll_fn(|context| {
        if deliver.as_mut().poll(context).is_ready() || cut.as_mut().poll(context).is_ready() {
            return std::task::Poll::Ready(());
        }
        std::task::Poll::Pending
    })
    .await;
    reader.abort();
}

use std::future::Future;
