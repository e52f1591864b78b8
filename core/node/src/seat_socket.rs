//! The control socket between worker and supervisor: `SOCK_SEQPACKET`, one JSON message per packet, file descriptors
//! by `SCM_RIGHTS`. Nothing here blocks.
//!
//! What arrives is not trusted further than that it parses: who may connect is judged by the caller from
//! [`Connection::peer_pid`], which the kernel vouches for as of `connect`.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// No message is larger than this.
pub const PACKET_BYTES_MAX: usize = 256 * 1024;
/// No message carries more descriptors than this.
pub const FDS_MAX: usize = 8;
/// What `sun_path` can hold, with its terminating zero.
const SUN_PATH_BYTES: usize = 108;

const NONBLOCK: SocketFlags = SocketFlags::NONBLOCK.union(SocketFlags::CLOEXEC);

/// The supervisor's end, which workers connect to.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
}

/// One connection. `S` is what is sent, `R` what is received.
pub struct Connection<S, R> {
    fd: OwnedFd,
    buffer: Vec<u8>,
    messages: PhantomData<fn(S) -> R>,
}

/// Why a message could not be sent.
#[derive(Debug)]
pub enum SendError {
    /// The peer does not read fast enough: nothing was sent. Drop a beat, retry anything else later.
    Full,
    /// The message is larger than [`PACKET_BYTES_MAX`].
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// The peer is gone, or the socket is broken.
    Broken(io::Error),
}

/// Why nothing more can be received: drop the connection.
#[derive(Debug)]
pub enum RecvError {
    /// The peer has closed it.
    Closed,
    /// What it sent is not a message.
    Garbage(String),
    /// The socket is broken.
    Broken(io::Error),
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SendError::Full => f.write_str("the other side of the control socket does not read"),
            SendError::TooLarge { bytes } => {
                write!(f, "a message of {bytes} bytes is too large for the control socket ({PACKET_BYTES_MAX})")
            }
            SendError::Broken(error) => write!(f, "cannot send on the control socket: {error}"),
        }
    }
}

impl std::error::Error for SendError {}

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecvError::Closed => f.write_str("the control socket was closed by the other side"),
            RecvError::Garbage(what) => write!(f, "no message on the control socket: {what}"),
            RecvError::Broken(error) => write!(f, "cannot receive on the control socket: {error}"),
        }
    }
}

impl std::error::Error for RecvError {}

impl Listener {
    /// Makes the socket's directory (0700) and the socket (0600). A socket left behind by an earlier supervisor is
    /// replaced: the caller holds the supervisor's lock, so nobody listens on it.
    pub fn bind(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
        let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        std::fs::DirBuilder::new().mode(0o700).recursive(true).create(directory)?;
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700))?;
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, NONBLOCK, None)?;
        with_address(path, |address| rustix::net::bind(&fd, address))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        rustix::net::listen(&fd, 8)?;
        Ok(Self { fd })
    }

    /// The next connection, if one is waiting.
    pub fn accept<S: Serialize, R: DeserializeOwned>(&self) -> io::Result<Option<Connection<S, R>>> {
        loop {
            match rustix::net::accept_with(&self.fd, NONBLOCK) {
                Ok(fd) => return Connection::from_fd(fd).map(Some),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl<S: Serialize, R: DeserializeOwned> Connection<S, R> {
    /// Connects to the supervisor. `NotFound` and `ConnectionRefused` mean that there is none.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, NONBLOCK, None)?;
        with_address(path, |address| rustix::net::connect(&fd, address))?;
        Self::from_fd(fd)
    }

    /// A connection over a socket that is connected already; it must be non-blocking and of type `SEQPACKET`.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        // The kernel doubles it for its own bookkeeping and cuts it at `net.core.wmem_max` (212992 by default, so
        // 425984 in effect), which leaves room for the largest packet.
        sockopt::set_socket_send_buffer_size(&fd, PACKET_BYTES_MAX)?;
        Ok(Self { fd, buffer: Vec::new(), messages: PhantomData })
    }

    /// The process that connected (on the connecting side: that made the listener).
    pub fn peer_pid(&self) -> io::Result<i32> {
        Ok(sockopt::socket_peercred(&self.fd)?.pid.as_raw_pid())
    }

    /// Sends one message and, with it, duplicates of `fds`.
    pub fn send(&mut self, message: &S, fds: &[BorrowedFd<'_>]) -> Result<(), SendError> {
        let packet = serde_json::to_vec(message).map_err(|error| SendError::Broken(error.into()))?;
        if packet.len() > PACKET_BYTES_MAX {
            return Err(SendError::TooLarge { bytes: packet.len() });
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(SendError::Broken(io::Error::other("too many descriptors in one message")));
        }
        loop {
            match rustix::net::sendmsg(&self.fd, &[IoSlice::new(&packet)], &mut control, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN | Errno::NOBUFS) => return Err(SendError::Full),
                Err(Errno::MSGSIZE) => return Err(SendError::TooLarge { bytes: packet.len() }),
                Err(error) => return Err(SendError::Broken(error.into())),
            }
        }
    }

    /// The next message with its descriptors (close-on-exec), if one has arrived.
    pub fn try_recv(&mut self) -> Result<Option<(R, Vec<OwnedFd>)>, RecvError> {
        self.buffer.resize(PACKET_BYTES_MAX, 0);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut parts = [IoSliceMut::new(&mut self.buffer)];
            match rustix::net::recvmsg(&self.fd, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(received) => break received,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::CONNRESET) => return Err(RecvError::Closed),
                Err(error) => return Err(RecvError::Broken(error.into())),
            }
        };
        // Taken before anything can fail, so that no descriptor is leaked.
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(RecvError::Garbage("larger than any message".to_owned()));
        }
        if received.bytes == 0 {
            return Err(RecvError::Closed);
        }
        let packet = &self.buffer[..received.bytes];
        let message = serde_json::from_slice(packet).map_err(|error| RecvError::Garbage(error.to_string()))?;
        Ok(Some((message, fds)))
    }
}

impl<S, R> AsFd for Connection<S, R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl<S, R> fmt::Debug for Connection<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("fd", &self.fd).finish_non_exhaustive()
    }
}

/// Calls `use_it` with an address for `path`, also when the path is longer than a socket address can hold: then it goes
/// through a descriptor of the directory.
fn with_address<T>(path: &Path, use_it: impl FnOnce(&SocketAddrUnix) -> rustix::io::Result<T>) -> io::Result<T> {
    if path.as_os_str().len() < SUN_PATH_BYTES {
        return Ok(use_it(&SocketAddrUnix::new(path)?)?);
    }
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, flags, Mode::empty())?;
    let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
    Ok(use_it(&SocketAddrUnix::new(&short)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_dir::TestDir;
    use ha_core::ids::NodeName;
    use ha_core::memory::Memory;
    use ha_core::seat::{LeaveReason, ToSupervisor, ToWorker};
    use std::io::{Read, Write};
    use std::path::PathBuf;

    type Worker = Connection<ToSupervisor, ToWorker>;
    type Supervisor = Connection<ToWorker, ToSupervisor>;

    fn pair() -> (Worker, Supervisor) {
        let (a, b) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, NONBLOCK, None).expect("pair");
        (Worker::from_fd(a).expect("worker"), Supervisor::from_fd(b).expect("supervisor"))
    }

    fn beat(peers: usize) -> ToSupervisor {
        let mut memory = Memory::default();
        for n in 0..peers {
            std::sync::Arc::make_mut(&mut memory.known_peers)
                .insert(NodeName::new(format!("node{n:06}")), "u".repeat(80));
        }
        ToSupervisor::Beat { memory: Box::new(memory), watchdog: None }
    }

    #[test]
    fn messages_and_descriptors_arrive_over_a_path_of_any_length() {
        let dir = TestDir::new("seat");
        for name in ["short".to_owned(), "x".repeat(150)] {
            let path: PathBuf = dir.path().join(name).join("control.sock");
            drop(Listener::bind(&path).expect("left behind by an earlier supervisor"));
            let listener = Listener::bind(&path).expect("bind");
            assert!(listener.accept::<ToWorker, ToSupervisor>().expect("accept").is_none());
            let mut worker = Worker::connect(&path).expect("connect");
            let mut supervisor: Supervisor = listener.accept().expect("accept").expect("one is waiting");
            assert_eq!(supervisor.peer_pid().expect("pid"), i32::try_from(std::process::id()).expect("pid"));
            assert!(supervisor.try_recv().expect("nothing yet").is_none());

            let (reader, writer) = std::io::pipe().expect("pipe");
            let hello = ToSupervisor::Hello { pid: 5, postmaster_pid: 4, memory: None, watchdog: None };
            worker.send(&hello, &[writer.as_fd()]).expect("send");
            drop(writer);
            let (message, fds) = supervisor.try_recv().expect("received").expect("there");
            assert_eq!((message, fds.len()), (hello, 1));
            let mut received = std::fs::File::from(fds.into_iter().next().expect("one"));
            let flags = rustix::io::fcntl_getfd(&received).expect("flags");
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
            received.write_all(b"through").expect("write");
            drop(received);
            let mut text = String::new();
            { reader }.read_to_string(&mut text).expect("the received descriptor was the pipe, and the only writer");
            assert_eq!(text, "through");

            supervisor.send(&ToWorker::PleaseLeave, &[]).expect("send");
            assert_eq!(worker.try_recv().expect("received").expect("there").0, ToWorker::PleaseLeave);
        }
    }

    #[test]
    fn the_largest_message_passes_and_a_larger_one_is_refused_by_name() {
        let (mut worker, mut supervisor) = pair();
        let large = beat(2600);
        let bytes = serde_json::to_vec(&large).expect("json").len();
        assert!((245_000..PACKET_BYTES_MAX).contains(&bytes), "{bytes}");
        worker.send(&large, &[]).expect("send");
        assert_eq!(supervisor.try_recv().expect("received").expect("there").0, large);
        let error = worker.send(&beat(4000), &[]).expect_err("too large");
        assert!(matches!(error, SendError::TooLarge { bytes } if bytes > PACKET_BYTES_MAX), "{error}");
    }

    #[test]
    fn garbage_is_an_error_and_leaks_no_descriptor() {
        let (worker, mut supervisor) = pair();
        let too_large = vec![b'x'; 300_000];
        for garbage in [&b"{\"Beat\":"[..], b"\xff\xfe", b"{\"Nonsense\":{}}", &too_large] {
            let (reader, mut writer) = std::io::pipe().expect("pipe");
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let fds = [reader.as_fd()];
            assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
            rustix::net::sendmsg(&worker, &[IoSlice::new(garbage)], &mut control, SendFlags::NOSIGNAL).expect("send");
            drop(reader);
            let error = supervisor.try_recv().expect_err("garbage");
            assert!(matches!(error, RecvError::Garbage(_)), "{error}");
            // The pipe has no reader left if the received copy was closed.
            let broken = writer.write(b"x").expect_err("nobody holds the other end");
            assert_eq!(broken.kind(), io::ErrorKind::BrokenPipe);
        }
        drop(worker);
        assert!(matches!(supervisor.try_recv(), Err(RecvError::Closed)));
    }

    #[test]
    fn a_peer_that_does_not_read_does_not_block_us() {
        let (mut worker, mut supervisor) = pair();
        let message = beat(100);
        let mut sent = 0;
        loop {
            match worker.send(&message, &[]) {
                Ok(()) => sent += 1,
                Err(SendError::Full) => break,
                Err(error) => panic!("{error}"),
            }
            assert!(sent < 100_000, "the queue must be bounded");
        }
        assert!(sent > 0);
        supervisor.try_recv().expect("received").expect("there");
        let leaving = ToSupervisor::Leaving { reason: LeaveReason::Shutdown, memory: Box::default(), watchdog: None };
        worker.send(&leaving, &[]).expect("room again");
    }
}
