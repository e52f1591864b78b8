//! A connection for tests: every step has a deadline, so that a frozen server cannot hang a test.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

/// Password of the superuser in every test cluster.
pub const PASSWORD: &str = "secret-super";

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Address.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// What went wrong.
#[derive(Debug)]
pub enum SqlError {
    /// The deadline passed; the outcome is unknown.
    TimedOut,
    /// The server refused with this SQLSTATE and message; the connection may still live.
    Refused {
        /// SQLSTATE.
        code: String,
        /// Primary message, detail and hint.
        message: String,
        /// The detail alone.
        detail: String,
        /// The hint alone.
        hint: String,
    },
    /// The connection is broken; the outcome is unknown.
    Broken(String),
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SqlError::TimedOut => f.write_str("no answer in time"),
            SqlError::Refused { code, message, .. } => write!(f, "{code}: {message}"),
            SqlError::Broken(reason) => write!(f, "connection lost: {reason}"),
        }
    }
}

impl std::error::Error for SqlError {}

impl From<tokio_postgres::Error> for SqlError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(db) => SqlError::Refused {
                code: db.code().code().to_owned(),
                message: [Some(db.message()), db.detail(), db.hint()]
                    .into_iter()
                    .flatten()
                    .collect::<Vec<_>>()
                    .join("; "),
                detail: db.detail().unwrap_or_default().to_owned(),
                hint: db.hint().unwrap_or_default().to_owned(),
            },
            None => SqlError::Broken(error.to_string()),
        }
    }
}

/// One row as text.
pub type Row = Vec<Option<String>>;

/// A connection.
pub struct Session {
    runtime: Runtime,
    client: Client,
    end: Arc<Mutex<Option<SqlError>>>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session")
    }
}

impl Session {
    /// Connects as superuser to database postgres.
    pub fn open(server: &Server, within: Duration) -> Result<Self, SqlError> {
        Self::open_as(server, "postgres", PASSWORD, within)
    }

    /// Connects as somebody else.
    pub fn open_as(server: &Server, user: &str, password: &str, within: Duration) -> Result<Self, SqlError> {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
        let end: Arc<Mutex<Option<SqlError>>> = Arc::default();
        let ended = Arc::clone(&end);
        let client = runtime.block_on(async {
            let mut config = Config::new();
            config.host(&server.host).port(server.port).user(user).password(password).dbname("postgres");
            config.application_name("ha_tests").connect_timeout(within);
            let connecting = tokio::time::timeout(within, config.connect(NoTls));
            let (client, connection) = connecting.await.map_err(|_| SqlError::TimedOut)??;
            tokio::spawn(async move {
                // Its end shows in the client's next call too, but without the server's last words.
                if let Err(error) = connection.await {
                    *ended.lock().expect("nobody panics while holding it") = Some(error.into());
                }
            });
            Ok::<_, SqlError>(client)
        })?;
        Ok(Self { runtime, client, end })
    }

    /// Runs SQL text; the rows of all its statements.
    pub fn query(&self, sql: &str, within: Duration) -> Result<Vec<Row>, SqlError> {
        let messages = self.runtime.block_on(async {
            let running = tokio::time::timeout(within, self.client.simple_query(sql));
            Ok::<_, SqlError>(running.await.map_err(|_| SqlError::TimedOut)??)
        })?;
        Ok(messages
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => {
                    Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect())
                }
                _ => None,
            })
            .collect())
    }

    /// The first column of the first row.
    pub fn value(&self, sql: &str, within: Duration) -> Result<Option<String>, SqlError> {
        let rows = self.query(sql, within)?;
        Ok(rows.into_iter().next().and_then(|row| row.into_iter().next()).flatten())
    }

    /// The server's last words to a client that asked for nothing, once it has ended the connection.
    #[must_use]
    pub fn last_words(&self, within: Duration) -> Option<SqlError> {
        let said = || self.end.lock().expect("nobody panics while holding it").take();
        self.runtime.block_on(async {
            let begun = tokio::time::Instant::now();
            while !self.client.is_closed() && begun.elapsed() < within {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        said()
    }

    /// Whether the connection is known to be gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }
}

/// One statement on a connection of its own.
pub fn query(server: &Server, sql: &str) -> Result<Vec<Row>, SqlError> {
    Session::open(server, Duration::from_secs(3))?.query(sql, Duration::from_secs(10))
}

/// The first value of one statement on a connection of its own.
pub fn value(server: &Server, sql: &str) -> Result<Option<String>, SqlError> {
    Session::open(server, Duration::from_secs(3))?.value(sql, Duration::from_secs(10))
}
