//! Commands that were given in SQL, carried out by the loop worker with the rules of the REST API.

use crate::fence;
use crate::mailbox::{self, Command, Ticket};
use crate::pg::sessions::Session;
use crate::shmem::Shared;
use ha_core::api::{self, Answer, LiveNow, Question, Reply, Request, Snapshot, SwitchoverWait, Written};
use ha_core::clock::{Millis, Tick};
use ha_core::config::Config;
use ha_core::dcs::DcsReply;
use ha_core::ids::Revision;
use ha_node::clock;
use ha_node::driver::Driver;
use ha_node::net::StoreHealth;
use std::sync::Arc;

/// Commands under way.
pub struct Commands {
    shared: &'static Shared,
    open: Vec<Open>,
    told: Vec<Told>,
    cleaned_at: Tick,
}

struct Open {
    ticket: Ticket,
    since: Tick,
    stage: Stage,
}

/// A session that was just given its answer.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    ticket: Ticket,
    /// Its process.
    pub pid: i32,
    at: Tick,
}

enum Stage {
    /// The request is on its way to the store.
    Writing(Written),
    /// It is there; the session shall find it in its own view too.
    Settling(Revision, Reply),
    /// The change of leader is waited for.
    Waiting(SwitchoverWait),
}

/// How long a change may take to come back from the store.
const SETTLE_MAX: Millis = Millis(2000);
/// How long after its answer a session may still be telling its client.
const TOLD_KEPT: Millis = Millis(100);
/// How often letters of vanished sessions are looked for.
const CLEAN_EVERY: Millis = Millis(5000);

impl Commands {
    /// No command yet.
    pub fn new(shared: &'static Shared) -> Self {
        mailbox::begin(shared);
        Self { shared, open: Vec::new(), told: Vec::new(), cleaned_at: clock::now() }
    }

    /// Whether a session is about to be told of a change that it will look for in its own views.
    pub fn settles_now(&self, driver: &Driver) -> bool {
        let seen = driver.cluster().map(|cluster| cluster.revision);
        self.open.iter().any(|open| matches!(open.stage, Stage::Settling(revision, _) if seen >= Some(revision)))
    }

    /// Takes commands in and goes on with those under way. `snapshot` is that of the last tick; without one (the seat is
    /// not ours, or there was no tick yet) a command is answered that it cannot be done now.
    pub fn turn(&mut self, driver: &mut Driver, snapshot: Option<&Arc<Snapshot>>) {
        let now = clock::now();
        if now.since(self.cleaned_at) >= CLEAN_EVERY {
            self.cleaned_at = now;
            mailbox::clean(self.shared);
        }
        for (ticket, command) in mailbox::receive(self.shared) {
            let answer = match snapshot {
                Some(snapshot) => self.route(&command, snapshot),
                None => Answer::Now(reply(503, "this node does not act at the moment")),
            };
            self.go_on(driver, ticket, now, answer);
        }
        for (number, reply) in driver.take_written() {
            let Some(position) = self.open.iter().position(|open| open.ticket.number() == number) else { continue };
            let open = self.open.swap_remove(position);
            let Stage::Writing(then) = open.stage else { continue };
            match (api::after_write(then, &reply), reply) {
                (Answer::Now(answer), DcsReply::Written(revision)) => {
                    self.open.push(Open { stage: Stage::Settling(revision, answer), since: now, ..open });
                }
                (answer, _) => self.go_on(driver, open.ticket, open.since, answer),
            }
        }
        self.check_waits(driver, now);
    }

    /// The server of those who wait is about to be stopped: they get an answer while there is time. Who was given one now or a moment
    /// ago.
    pub fn leave(&mut self) -> Vec<Told> {
        for open in std::mem::take(&mut self.open) {
            match &open.stage {
                Stage::Waiting(wait) => self.answer(open.ticket, &wait.left()),
                Stage::Settling(_, reply) => self.answer(open.ticket, reply),
                Stage::Writing(_) => self.open.push(open),
            }
        }
        std::mem::take(&mut self.told)
    }

    /// Whether the session has told its client: it has the answer, and its transaction is over.
    pub fn has_told(&self, told: Told, session: Session) -> bool {
        !session.in_transaction && !mailbox::unread(self.shared, told.ticket)
    }

    fn route(&self, command: &Command, snapshot: &Snapshot) -> Answer {
        // Who may do this was decided by the privileges on the SQL function; the API's password guards its port.
        let mut config = Config::clone(&snapshot.config);
        config.restapi.authentication = None;
        let snapshot = Snapshot { config: Arc::new(config), ..snapshot.clone() };
        let live =
            LiveNow { now: clock::now(), lease_deadline: fence::deadline(self.shared), unix_ms: clock::wall_ms() };
        let (path, query) = command.path.split_once('?').unwrap_or((&command.path, ""));
        let request =
            Request { method: &command.method, path, query, authorization: None, body: Some(command.body.as_bytes()) };
        api::route(&request, Some(&snapshot), live)
    }

    fn go_on(&mut self, driver: &Driver, ticket: Ticket, since: Tick, answer: Answer) {
        let stage = match answer {
            Answer::Now(reply) => return self.answer(ticket, &reply),
            Answer::Fresh(question) => {
                let answer = from_view(&question, driver);
                return self.go_on(driver, ticket, since, answer);
            }
            Answer::Write { edit, then } => {
                driver.write(ticket.number(), edit);
                Stage::Writing(then)
            }
            Answer::AwaitSwitchover(wait) => Stage::Waiting(wait),
            // A member asks another through REST alone.
            Answer::Promise(_) => return self.answer(ticket, &api::Reply::page(501)),
        };
        self.open.push(Open { ticket, since, stage });
    }

    fn check_waits(&mut self, driver: &Driver, now: Tick) {
        let rejected = driver.memory().rejected.as_ref();
        let cluster = driver.cluster().map(AsRef::as_ref);
        for open in std::mem::take(&mut self.open) {
            let waited = now.since(open.since);
            let reply = match &open.stage {
                Stage::Writing(_) => None,
                Stage::Settling(revision, reply) => {
                    let seen = cluster.is_some_and(|cluster| cluster.revision >= *revision);
                    (seen || waited >= SETTLE_MAX).then(|| reply.clone())
                }
                Stage::Waiting(wait) => {
                    let over = || (waited >= Millis(wait.limit_ms)).then(|| Reply { status: 504, ..wait.timed_out() });
                    // The store has answered: what failed is what was asked for.
                    let result = cluster.and_then(|cluster| wait.result(cluster, rejected));
                    let failed =
                        |reply: Reply| if reply.status == 503 { Reply { status: 412, ..reply } } else { reply };
                    result.map(failed).or_else(over)
                }
            };
            match reply {
                Some(reply) => self.answer(open.ticket, &reply),
                None => self.open.push(open),
            }
        }
    }

    fn answer(&mut self, ticket: Ticket, reply: &Reply) {
        let now = clock::now();
        self.told.retain(|told| now.since(told.at) < TOLD_KEPT);
        self.told.push(Told { ticket, pid: mailbox::owner(self.shared, ticket), at: now });
        let answer = mailbox::Answer { status: reply.status, body: reply.body.clone() };
        mailbox::answer(self.shared, ticket, &answer);
    }
}

/// Goes on with the view that the watch keeps as new as the store: what is written is compared there again.
fn from_view(question: &Question, driver: &Driver) -> Answer {
    let Some(snapshot) = driver.snapshot() else {
        return Answer::Now(reply(503, "this node does not act at the moment"));
    };
    let cluster = match (driver.store(), driver.cluster()) {
        (StoreHealth::Fresh, Some(cluster)) => Ok(cluster.as_ref()),
        (StoreHealth::Fresh, None) => Err("it was not read yet"),
        (StoreHealth::Unreachable { why, .. }, _) => Err(why.as_str()),
    };
    api::after_fresh(question, cluster, &snapshot)
}

fn reply(status: u16, body: &str) -> Reply {
    Reply { status, content_type: None, headers: Vec::new(), body: body.to_owned() }
}
