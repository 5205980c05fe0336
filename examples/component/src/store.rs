//! The component's SQLite database: the event store of the rules, and the materialised view.
//!
//! The decision that shaped it: all that waits goes into one transaction. A transaction an event would wait for the disk once
//! an event; so whoever comes while one is being written shares the next. A caller hears of success only after the
//! commit. One that has given up by then may have been served all the same, which its second try finds out.
//!
//! The work runs on tokio's blocking threads, and not on a thread of its own: then a test in paused time waits for it.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, ErrorCode, TransactionBehavior, params};
use streambreaker::clock::{Clock, SystemClock};
use streambreaker::idempotence::{Collected, EventStore, Put, Version, VersionedStore};
use streambreaker::{ResultExt, StepError, Timestamp};
use tokio::sync::oneshot;

use crate::event::{OrderEvent, What};
use crate::handlers::Part;

/// The most that one transaction takes.
const JOBS: usize = 1_000;

/// Each file is applied once, in this order, and never changed after it was released.
const MIGRATIONS: [&str; 2] =
    [include_str!("../migrations/0001_facts.sql"), include_str!("../migrations/0002_view.sql")];

const FACT: &str = "
    INSERT INTO facts (order_id, event_id, at, expires, event) VALUES (?1, ?2, ?3, ?4, ?5)
    ON CONFLICT DO UPDATE SET at = excluded.at, expires = excluded.expires, event = excluded.event
    WHERE facts.expires <= ?6";

// a few at each put keep up with what comes, and no put pays for a quiet night
const FORGET: &str = "
    DELETE FROM facts WHERE (order_id, event_id) IN
        (SELECT order_id, event_id FROM facts WHERE expires <= ?1 ORDER BY expires LIMIT 8)";

const KNOWN: &str = "
    SELECT event_id, at, event FROM facts WHERE order_id = ?1 AND expires > ?2 ORDER BY at, event_id";

// the lock: what is not newer than what is there changes nothing
const ORDER: &str = "
    INSERT INTO view_orders (order_id, customer, address, cents, at, event_id)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6)
    ON CONFLICT DO UPDATE SET customer = excluded.customer, address = excluded.address,
        cents = excluded.cents, at = excluded.at, event_id = excluded.event_id
    WHERE (excluded.at, excluded.event_id) > (view_orders.at, view_orders.event_id)";

const SHIPMENT: &str = "
    INSERT INTO view_shipments (order_id, carrier, at, event_id) VALUES (?1, ?2, ?3, ?4)
    ON CONFLICT DO UPDATE SET carrier = excluded.carrier, at = excluded.at, event_id = excluded.event_id
    WHERE (excluded.at, excluded.event_id) > (view_shipments.at, view_shipments.event_id)";

const PAYMENT: &str = "
    INSERT INTO view_payments (order_id, event_id, cents, at) VALUES (?1, ?2, ?3, ?4)
    ON CONFLICT DO UPDATE SET cents = excluded.cents, at = excluded.at
    WHERE excluded.at > view_payments.at";

/// The database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// SQLite says why.
    #[error("the database {path} cannot be opened")]
    Sqlite {
        /// Where it should be.
        path: String,
        /// Why not.
        #[source]
        source: rusqlite::Error,
    },
    /// A later release has changed its tables.
    #[error(
        "the database {path} is of a later release: it has {found} migrations, this one knows {known}; \
         run the later release"
    )]
    Newer {
        /// Where it is.
        path: String,
        /// How many it has.
        found: i64,
        /// How many there are here.
        known: i64,
    },
}

/// What did not go well in the database, and whether it may the next time.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{text}")]
struct StoreError {
    text: String,
    passing: bool,
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        use ErrorCode::*;
        // these say nothing about the event: it waits until the database is well
        let passing = matches!(
            error.sqlite_error_code(),
            Some(
                DatabaseBusy
                    | DatabaseLocked
                    | DiskFull
                    | SystemIoFailure
                    | OutOfMemory
                    | CannotOpen
            )
        );
        Self { text: error.to_string(), passing }
    }
}

/// Tells one caller how it ended, once the transaction is committed, or not.
type Reply = Box<dyn FnOnce(Result<(), StoreError>) + Send>;
type Job = Box<dyn FnOnce(&Connection) -> Reply + Send>;

/// The database. A handle: clones are the same one.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    connection: Mutex<Connection>,
    queue: Mutex<Queue>,
    /// How long a fact is kept.
    keep: Duration,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Job>,
    /// Whether somebody is at work on it.
    served: bool,
}

// what a panic leaves behind is a transaction that was rolled back
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Opens the database, or makes it; brings its tables up to date. `keep` is how long the facts of an order are kept.
    ///
    /// # Errors
    /// When it cannot be opened, or a later release has written it.
    pub fn open(path: &Path, keep: Duration) -> Result<Self, OpenError> {
        Self::with_clock(path, keep, SystemClock)
    }

    /// The same, with the clock of a test.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn with_clock(path: &Path, keep: Duration, clock: impl Clock) -> Result<Self, OpenError> {
        let sqlite = |source| OpenError::Sqlite { path: path.display().to_string(), source };
        let mut connection = Connection::open(path).map_err(sqlite)?;
        prepare(&connection).map_err(sqlite)?;
        let found = applied(&connection).map_err(sqlite)?;
        let known = MIGRATIONS.len() as i64;
        if found > known {
            let path = path.display().to_string();
            return Err(OpenError::Newer { path, found, known });
        }
        migrate(&mut connection, found).map_err(sqlite)?;
        Ok(Self(Arc::new(Inner {
            connection: Mutex::new(connection),
            queue: Mutex::default(),
            keep,
            clock: Arc::new(clock),
        })))
    }

    /// Does some work in a transaction. Work that fails must leave nothing half done: let it be one statement that
    /// writes.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StepError> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            let result = work(connection).map_err(StoreError::from);
            Box::new(move |committed| {
                // nobody may be waiting any more
                let _ = reply.send(committed.and(result));
            })
        });
        let idle = {
            let mut queue = lock(&self.0.queue);
            queue.waiting.push(job);
            !std::mem::replace(&mut queue.served, true)
        };
        if idle {
            let inner = self.0.clone();
            tokio::task::spawn_blocking(move || inner.serve());
        }
        // no answer: the transaction never ended, nothing is known, and asking again does no harm
        answer.await.transient()?.transient_if(|error| error.passing)
    }
}

impl Inner {
    /// Takes whatever waits into one transaction, until nothing waits.
    fn serve(&self) {
        let _guard = Serving(&self.queue);
        loop {
            let jobs: Vec<Job> = {
                let mut queue = lock(&self.queue);
                let most = queue.waiting.len().min(JOBS);
                queue.served = most > 0;
                queue.waiting.drain(..most).collect()
            };
            if jobs.is_empty() {
                return;
            }
            let mut replies = Vec::with_capacity(jobs.len());
            let committed = self.transaction(jobs, &mut replies);
            for reply in replies {
                reply(committed.clone());
            }
        }
    }

    fn transaction(&self, jobs: Vec<Job>, replies: &mut Vec<Reply>) -> Result<(), StoreError> {
        let mut connection = lock(&self.connection);
        match connection.transaction_with_behavior(TransactionBehavior::Immediate) {
            Ok(transaction) => {
                replies.extend(jobs.into_iter().map(|job| job(&transaction)));
                Ok(transaction.commit()?)
            }
            // a job that is dropped tells its caller that nothing is known, and it comes again
            Err(error) => Err(error.into()),
        }
    }
}

/// Somebody is at work on the queue. A job that panics must not leave it without anybody for ever.
struct Serving<'a>(&'a Mutex<Queue>);

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            lock(self.0).served = false;
        }
    }
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_secs(2))?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    // a commit is on the disk before the checkpoint passes, or a power cut would take what nobody sends again
    connection.pragma_update(None, "synchronous", "full")
}

fn applied(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

fn migrate(connection: &mut Connection, applied: i64) -> rusqlite::Result<()> {
    for (n, migration) in (1..).zip(MIGRATIONS).filter(|(n, _)| *n > applied) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", n)?;
        transaction.commit()?;
    }
    Ok(())
}

#[async_trait]
impl EventStore<OrderEvent> for Store {
    async fn put(&self, event: &Collected<OrderEvent>) -> Result<(), StepError> {
        let put = self.put_job(event)?;
        self.run(put).await
    }

    async fn correlated(&self, key: &str) -> Result<Vec<Collected<OrderEvent>>, StepError> {
        let known = self.known_job(key);
        decoded(key, self.run(known).await?)
    }

    async fn delete(&self, key: &str) -> Result<(), StepError> {
        let key = key.to_owned();
        self.run(move |db| {
            db.prepare_cached("DELETE FROM facts WHERE order_id = ?1")?.execute([key]).map(drop)
        })
        .await
    }

    // one way to the database instead of two
    async fn collect(
        &self,
        event: &Collected<OrderEvent>,
    ) -> Result<Vec<Collected<OrderEvent>>, StepError> {
        let (put, known) = (self.put_job(event)?, self.known_job(&event.key));
        let rows = self
            .run(move |db| {
                put(db)?;
                known(db)
            })
            .await?;
        decoded(&event.key, rows)
    }
}

/// Id, moment and JSON of a fact.
type Row = (String, i64, String);

impl Store {
    fn put_job(
        &self,
        fact: &Collected<OrderEvent>,
    ) -> Result<impl FnOnce(&Connection) -> rusqlite::Result<()> + Send + use<>, StepError> {
        let json = serde_json::to_string(&fact.event)?;
        let (order, id, at) = (fact.key.clone(), fact.id.clone(), fact.time.as_micros());
        let now = self.0.clock.now();
        let (now, expires) = (now.as_micros(), now.plus(self.0.keep).as_micros());
        Ok(move |db: &Connection| {
            db.prepare_cached(FACT)?.execute(params![order, id, at, expires, json, now])?;
            db.prepare_cached(FORGET)?.execute([now]).map(drop)
        })
    }

    fn known_job(
        &self,
        key: &str,
    ) -> impl FnOnce(&Connection) -> rusqlite::Result<Vec<Row>> + Send + use<> {
        let (order, now) = (key.to_owned(), self.0.clock.now().as_micros());
        move |db: &Connection| {
            let mut known = db.prepare_cached(KNOWN)?;
            let rows = known.query_map(params![order, now], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })?;
            rows.collect()
        }
    }
}

fn decoded(key: &str, rows: Vec<Row>) -> Result<Vec<Collected<OrderEvent>>, StepError> {
    let fact = |(id, at, json): Row| {
        let event = serde_json::from_str(&json)?;
        Ok(Collected::new(key, id, Timestamp::from_micros(at), event))
    };
    rows.into_iter().map(fact).collect()
}

#[async_trait]
impl VersionedStore<Part, What> for Store {
    async fn put_if_newer(
        &self,
        part: &Part,
        version: &Version,
        what: &What,
    ) -> Result<Put, StepError> {
        let (at, id) = (version.time().as_micros(), version.id().to_owned());
        let (part, what) = (part.clone(), what.clone());
        let rows = self
            .run(move |db| match (part, what) {
                (Part::Order(key), What::Submitted(o) | What::Changed(o)) => db
                    .prepare_cached(ORDER)?
                    .execute(params![key, o.customer, o.address, o.cents, at, id]),
                (Part::Shipment(key), What::Shipped { carrier }) => {
                    db.prepare_cached(SHIPMENT)?.execute(params![key, carrier, at, id])
                }
                (Part::Payment { order, id }, What::Paid { cents }) => {
                    db.prepare_cached(PAYMENT)?.execute(params![order, id, cents, at])
                }
                // `Part::of` makes no such pair
                _ => Ok(0),
            })
            .await?;
        Ok(if rows == 0 { Put::Stale } else { Put::Written })
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store")
    }
}
