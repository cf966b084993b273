use std::collections::HashMap;
use std::fmt::{self, Debug};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::clock::{Clock, Moment};
use crate::credentials::without_margin;
use crate::store::STORE_LIMIT;
use crate::{BoxError, Error, Kept, SharedDatabase, key};

/// How long a ticket can be used (<https://developer.work.weixin.qq.com/document/path/90628>).
const LIFETIME: Duration = Duration::from_secs(30 * 60);

/// How long a rejected ticket is not used again. WeCom pushes a newer one every 10 minutes or so.
const REJECTED_FOR: Duration = Duration::from_secs(60);

/// How often a write is tried again after another process was faster.
const MOST_SWAPS: usize = 16;

/// The tickets that WeCom pushes to a service provider, which [`SuiteToken`](crate::SuiteToken) needs.
///
/// WeCom sends each suite a ticket every 10 minutes or so, in an encrypted callback
/// (<https://developer.work.weixin.qq.com/document/path/90628>). Decrypt it with a library of your choice, and pass its fields to
/// [`put`](Self::put):
///
/// ```
/// use reqwest_wecom::{Error, SuiteTickets};
///
/// /// The fields of a callback with the `InfoType` `suite_ticket`.
/// struct Callback {
///     suite_id: String,
///     suite_ticket: String,
///     time_stamp: u64,
/// }
///
/// async fn ticket_arrived(tickets: &SuiteTickets, callback: Callback) -> Result<(), Error> {
///     let Callback { suite_id, suite_ticket, time_stamp } = callback;
///     // Answer `success` only if this succeeds. Otherwise WeCom sends the ticket again.
///     tickets.put(&suite_id, suite_ticket, time_stamp).await
/// }
/// ```
///
/// A ticket is kept for 30 minutes, whatever happens to the tokens: a refresh, a rejected token or a cleared token store never removes it.
///
/// # Several processes
///
/// The callback reaches one process, but all need the ticket. Keep the tickets in the database that holds the tokens, such as that of a
/// `RedisStore`:
///
/// ```
/// use reqwest_wecom::{SuiteTickets, TokenStore};
///
/// fn tickets(store: &dyn TokenStore) -> Option<SuiteTickets> {
///     let database = store.database()?;
///     Some(SuiteTickets::shared(["ww_suite"], database))
/// }
/// ```
///
/// Each process keeps a copy of the newest ticket that it has seen. It uses the copy while the database is down, and writes it back if the
/// database has lost it. The key is `suite_ticket:{suite id}`, with the prefix that the database adds (`wecom:` in Redis), and the value is JSON: `{"ticket": "…", "time_stamp": 1700000000}`.
///
/// Clones share the tickets. [`Debug`] does not show them.
#[derive(Clone)]
pub struct SuiteTickets(Arc<Inner>);

struct Inner {
    suites: HashMap<String, Suite>,
    database: Option<Box<dyn SharedDatabase>>,
    clock: Clock,
}

#[derive(Default)]
struct Suite(Mutex<State>);

#[derive(Default)]
struct State {
    newest: Option<Held>,
    rejected: Option<Rejected>,
}

#[derive(Clone)]
struct Held {
    ticket: Ticket,
    since: Moment,
    /// How much time it had left then.
    left: Duration,
}

struct Rejected {
    time_stamp: u64,
    at: Instant,
    error: Error,
}

/// A ticket, and when WeCom created it, in seconds since the Unix epoch.
#[derive(Clone)]
pub(super) struct Ticket {
    value: SecretString,
    time_stamp: u64,
}

#[derive(Debug, thiserror::Error)]
#[error("the database with the suite tickets failed")]
struct DatabaseFailed(#[source] BoxError);

impl SuiteTickets {
    /// Keeps the tickets of these suites in the memory of this process. After a restart there is none until WeCom pushes the next one, which takes
    /// up to about 10 minutes: see [`shared`](Self::shared).
    pub fn new(suite_ids: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self::with(suite_ids, None)
    }

    /// Keeps the tickets of these suites in a database, for several processes and across restarts.
    pub fn shared(
        suite_ids: impl IntoIterator<Item = impl Into<String>>,
        database: impl SharedDatabase,
    ) -> Self {
        Self::with(suite_ids, Some(Box::new(database)))
    }

    fn with(
        suite_ids: impl IntoIterator<Item = impl Into<String>>,
        database: Option<Box<dyn SharedDatabase>>,
    ) -> Self {
        let suites = suite_ids.into_iter().map(Into::into);
        let suites = suites.map(|id: String| (without_margin(&id).to_owned(), Suite::default()));
        Self(Arc::new(Inner {
            suites: suites.collect(),
            database,
            clock: Clock::default(),
        }))
    }

    /// Keeps a ticket that WeCom has pushed: `SuiteId`, `SuiteTicket` and `TimeStamp` of the decrypted callback. The time stamp is in seconds.
    ///
    /// The ticket with the newest time stamp counts. An older one changes nothing, in whatever order they arrive.
    ///
    /// # Errors
    ///
    /// [Refused](Error::refused) if the suite is not one of those given to [`new`](Self::new) or [`shared`](Self::shared), or if the ticket is
    /// empty. [Transient](Error::transient) if the database fails or gives no answer within 2 s. This process has the ticket nevertheless.
    ///
    /// # Cancel safety
    ///
    /// If you drop the future, this process has the ticket, but the database may not.
    pub async fn put(
        &self,
        suite_id: &str,
        ticket: impl Into<String>,
        time_stamp: u64,
    ) -> Result<(), Error> {
        let ticket = SecretString::from(ticket.into());
        let value = without_margin(ticket.expose_secret());
        if value.is_empty() {
            return Err(Error::refused(format!(
                "the ticket of the suite {suite_id} is empty: check how the callback is read"
            )));
        }
        let ticket = Ticket {
            value: value.into(),
            time_stamp,
        };
        let suite = self.suite(suite_id)?;
        suite.keep(ticket, LIFETIME, self.0.clock.moment());
        self.synchronize(suite_id, suite).await
    }

    /// The newest ticket, or why there is none to use.
    pub(super) async fn newest(&self, suite_id: &str) -> Result<Ticket, Error> {
        let suite = self.suite(suite_id)?;
        let synchronized = self.synchronize(suite_id, suite).await;
        let state = suite.lock();
        let Some(held) = state.held(self.0.clock.moment()) else {
            synchronized?;
            return Err(Error::not_ready(format!(
                "no ticket of the suite {suite_id} has arrived within 30 minutes: check that the callback passes it to `SuiteTickets::put`"
            )));
        };
        match &state.rejected {
            Some(rejected) if rejected.concerns(&held.ticket) => {
                Err(Error::not_ready(rejected.error.clone()))
            }
            _ => Ok(held.ticket.clone()),
        }
    }

    /// WeCom has rejected this ticket, with this error.
    pub(super) fn rejected(&self, suite_id: &str, ticket: &Ticket, error: &Error) {
        if let Ok(suite) = self.suite(suite_id) {
            suite.lock().rejected = Some(Rejected {
                time_stamp: ticket.time_stamp,
                at: Instant::now(),
                error: error.clone(),
            });
        }
    }

    fn suite(&self, suite_id: &str) -> Result<&Suite, Error> {
        self.0.suites.get(without_margin(suite_id)).ok_or_else(|| {
            Error::refused(format!(
                "the suite {suite_id} is not one of those whose tickets are kept: check the id, or add it to `SuiteTickets::new`"
            ))
        })
    }

    /// Brings this process and the database to the same ticket: the newer of the two.
    async fn synchronize(&self, suite_id: &str, suite: &Suite) -> Result<(), Error> {
        let Some(database) = &self.0.database else {
            return Ok(());
        };
        let own = suite.lock().newest.as_ref().map(|held| held.ticket.clone());
        // The database may quote each of these in an error.
        let mut handled: Vec<_> = own.into_iter().collect();
        let exchange = self.exchange(&**database, suite_id, suite, &mut handled);
        match timeout(STORE_LIMIT, exchange).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                let handled: Vec<_> = handled.iter().map(Ticket::expose_secret).collect();
                Err(Error::transient_without(&handled, DatabaseFailed(error)))
            }
            Err(_elapsed) => Err(Error::transient(format!(
                "the database with the suite tickets gave no answer within {STORE_LIMIT:?}"
            ))),
        }
    }

    /// `handled`: gets the tickets that were read and written.
    async fn exchange(
        &self,
        database: &dyn SharedDatabase,
        suite_id: &str,
        suite: &Suite,
        handled: &mut Vec<Ticket>,
    ) -> Result<(), BoxError> {
        let key = format!("suite_ticket:{}", key::part(without_margin(suite_id)));
        for _ in 0..MOST_SWAPS {
            let kept = database.load(&key).await?;
            let now = self.0.clock.moment();
            let found = kept.as_ref().and_then(Ticket::of_kept);
            handled.extend(found.clone());
            let found_at = found.as_ref().map(|ticket| ticket.time_stamp);
            if let (Some(ticket), Some(kept)) = (found, &kept) {
                suite.keep(ticket, kept.left(), now);
            }
            let Some(Held {
                ticket,
                since,
                left,
            }) = suite.lock().held(now)
            else {
                return Ok(());
            };
            if found_at >= Some(ticket.time_stamp) {
                return Ok(());
            }
            let expected = kept.as_ref().map(Kept::expose_secret);
            let new = Kept::new(ticket.to_json(), since.left_of(left, now));
            handled.push(ticket);
            if database.compare_and_swap(&key, expected, &new).await? {
                return Ok(());
            }
        }
        Err("other processes kept replacing the ticket".into())
    }
}

impl Suite {
    /// Keeps the ticket unless there is a newer one.
    fn keep(&self, ticket: Ticket, left: Duration, now: Moment) {
        let mut state = self.lock();
        let held = state.held(now);
        if held.is_none_or(|held| held.ticket.time_stamp < ticket.time_stamp) {
            state.newest = Some(Held {
                ticket,
                since: now,
                left: left.min(LIFETIME),
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The newest ticket that has not expired.
    fn held(&self, now: Moment) -> Option<Held> {
        let held = self.newest.as_ref()?;
        (!held.since.is_past(held.left, now)).then(|| held.clone())
    }
}

impl Rejected {
    fn concerns(&self, ticket: &Ticket) -> bool {
        self.time_stamp == ticket.time_stamp && self.at.elapsed() < REJECTED_FOR
    }
}

impl Ticket {
    pub(super) fn expose_secret(&self) -> &str {
        self.value.expose_secret()
    }

    fn to_json(&self) -> String {
        json!({ "ticket": self.expose_secret(), "time_stamp": self.time_stamp }).to_string()
    }

    fn of_kept(kept: &Kept) -> Option<Self> {
        let json: Value = serde_json::from_slice(kept.expose_secret()).ok()?;
        Some(Self {
            value: json.get("ticket")?.as_str()?.into(),
            time_stamp: json.get("time_stamp")?.as_u64()?,
        })
    }
}

impl Debug for SuiteTickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suites: Vec<_> = self.0.suites.keys().collect();
        f.debug_struct("SuiteTickets")
            .field("suites", &suites)
            .field("is_shared", &self.0.database.is_some())
            .finish_non_exhaustive()
    }
}
