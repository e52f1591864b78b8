//! A client that speaks the protocol itself, so that a test sees every message that left the server, and nothing else.

use crate::sql::Server;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A connection.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
}

/// What came back for one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Kinds of messages, in order.
    pub kinds: String,
    /// Tags of completed commands.
    pub tags: Vec<String>,
    /// SQLSTATE and message of the first error.
    pub error: Option<(String, String)>,
    /// The server said that it is ready for more.
    pub ready: bool,
    /// The server closed the connection, or did not answer in time.
    pub lost: bool,
    /// It did not close the connection.
    pub silent: bool,
    /// First column of the last row.
    pub value: Option<String>,
}

fn text_end(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..text_end(bytes)]).into_owned()
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).expect("messages are short").to_be_bytes()
}

impl Wire {
    /// Connects as postgres to database postgres, and waits until the server is ready. `options` are parameters of the
    /// start message; the server trusts us.
    pub fn open(server: &Server, options: &[(&str, &str)]) -> io::Result<Self> {
        let stream = TcpStream::connect((server.host.as_str(), server.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(15)))?;
        stream.set_nodelay(true)?;
        let mut body = 196_608_u32.to_be_bytes().to_vec();
        for (name, value) in [("user", "postgres"), ("database", "postgres")].iter().chain(options) {
            body.extend_from_slice(name.as_bytes());
            body.push(0);
            body.extend_from_slice(value.as_bytes());
            body.push(0);
        }
        body.push(0);
        let mut wire = Self { stream };
        wire.stream.write_all(&length(body.len() + 4))?;
        wire.stream.write_all(&body)?;
        let heard = wire.listen();
        match heard.error {
            Some((code, message)) => Err(io::Error::other(format!("{code}: {message}"))),
            None if heard.ready => Ok(wire),
            None => Err(io::Error::other("the server does not become ready")),
        }
    }

    /// Sends one message.
    pub fn send(&mut self, kind: u8, body: &[u8]) {
        let mut message = vec![kind];
        message.extend_from_slice(&length(body.len() + 4));
        message.extend_from_slice(body);
        // A server that has gone shows in what is heard.
        let _ = self.stream.write_all(&message);
    }

    /// The next message; `None` when there will be none.
    pub fn message(&mut self) -> Option<(u8, Vec<u8>)> {
        self.read().ok()
    }

    fn read(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let length = usize::try_from(length).ok().and_then(|length| length.checked_sub(4));
        let mut body = vec![0; length.ok_or(io::ErrorKind::InvalidData)?];
        self.stream.read_exact(&mut body)?;
        Ok((head[0], body))
    }

    /// How long a message is waited for.
    pub fn patience(&self, patience: Duration) {
        self.stream.set_read_timeout(Some(patience)).expect("a timeout can be set");
    }

    /// Reads until the server is ready, wants data, or has gone.
    pub fn listen(&mut self) -> Heard {
        let mut heard = Heard::default();
        loop {
            let (kind, body) = match self.read() {
                Ok(message) => message,
                Err(error) => {
                    heard.lost = true;
                    heard.silent = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
                    return heard;
                }
            };
            heard.kinds.push(char::from(kind));
            match kind {
                b'Z' => {
                    heard.ready = true;
                    return heard;
                }
                b'G' | b'W' => return heard,
                b'C' => heard.tags.push(text(&body)),
                b'E' if heard.error.is_none() => heard.error = Some(error(&body)),
                b'D' => heard.value = first_column(&body),
                _ => {}
            }
        }
    }

    /// A simple query, of one statement or many.
    pub fn simple(&mut self, sql: &str) -> Heard {
        self.send(b'Q', &[sql.as_bytes(), &[0]].concat());
        self.listen()
    }

    /// Statements in one pipeline: nothing is waited for before the end of all of them.
    pub fn pipeline(&mut self, statements: &[&str]) -> Heard {
        for sql in statements {
            self.extended(sql);
        }
        self.send(b'S', &[]);
        self.listen()
    }

    /// Statements in one pipeline, each with an end of its own: all are sent before anything is read. Returns what was heard
    /// last, which is the first end that is not a success.
    pub fn synced(&mut self, statements: &[&str]) -> Heard {
        for sql in statements {
            self.extended(sql);
            self.send(b'S', &[]);
        }
        let mut heard = Heard::default();
        for _ in statements {
            heard = self.listen();
            if !heard.ready || heard.error.is_some() {
                break;
            }
        }
        heard
    }

    fn extended(&mut self, sql: &str) {
        self.send(b'P', &[&[0], sql.as_bytes(), &[0, 0, 0]].concat());
        self.send(b'B', &[0, 0, 0, 0, 0, 0, 0, 0]);
        self.send(b'E', &[0, 0, 0, 0, 0]);
    }

    /// A receiver that knows nothing yet asks the walsender to say something.
    pub fn ask_walsender(&mut self) {
        let mut status = vec![b'r'];
        status.extend_from_slice(&[0; 32]);
        status.push(1);
        self.send(b'd', &status);
    }

    /// The protocol's function call, with arguments and result in binary.
    pub fn call(&mut self, function: u32, arguments: &[&[u8]]) -> Heard {
        let mut body = function.to_be_bytes().to_vec();
        body.extend_from_slice(&[0, 1, 0, 1]);
        body.extend_from_slice(&u16::try_from(arguments.len()).expect("few arguments").to_be_bytes());
        for argument in arguments {
            body.extend_from_slice(&length(argument.len()));
            body.extend_from_slice(argument);
        }
        body.extend_from_slice(&[0, 1]);
        self.send(b'F', &body);
        self.listen()
    }

    /// COPY FROM STDIN of these lines.
    pub fn copy_in(&mut self, sql: &str, lines: &str) -> Heard {
        self.send(b'Q', &[sql.as_bytes(), &[0]].concat());
        let heard = self.listen();
        if !heard.kinds.ends_with('G') {
            return heard;
        }
        self.send(b'd', lines.as_bytes());
        self.send(b'c', &[]);
        self.listen()
    }
}

fn error(body: &[u8]) -> (String, String) {
    let (mut code, mut message, mut rest) = (String::new(), String::new(), body);
    while let Some((field, after)) = rest.split_first().filter(|(field, _)| **field != 0) {
        match field {
            b'C' => code = text(after),
            b'M' => message = text(after),
            _ => {}
        }
        rest = after.get(text_end(after) + 1..).unwrap_or_default();
    }
    (code, message)
}

fn first_column(body: &[u8]) -> Option<String> {
    let length = i32::from_be_bytes(body.get(2..6)?.try_into().ok()?);
    let length = usize::try_from(length).ok()?;
    Some(String::from_utf8_lossy(body.get(6..6 + length)?).into_owned())
}
