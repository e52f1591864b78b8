//! The few questions the supervisor itself asks over HTTP: whether a namesake lives, and its own node for `status`.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// No answer we ask for is larger.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;

/// GET of `path` at `host:port`: status code and body.
pub fn get(host_port: &str, path: &str, timeout: Duration) -> Result<(u16, String)> {
    let mut stream = connect(host_port, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {host_port}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    parse(&String::from_utf8_lossy(&answer)).ok_or_else(|| Error::new(ErrorKind::InvalidData, "no HTTP answer"))
}

/// Connects to the first address that takes it.
pub fn connect(host_port: &str, timeout: Duration) -> Result<TcpStream> {
    let mut last = ErrorKind::AddrNotAvailable.into();
    for address in host_port.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let mut words = head.lines().next()?.split(' ');
    if !words.next()?.starts_with("HTTP/") {
        return None;
    }
    Some((words.next()?.parse().ok()?, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn answers_are_read() {
        assert_eq!(parse("HTTP/1.0 503 x\r\nA: b\r\n\r\n{}"), Some((503, "{}".to_owned())));
        assert_eq!(parse("SSH-2.0\r\n\r\n"), None);
        assert_eq!(parse(""), None);
    }
}
