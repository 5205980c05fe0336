//! The database: one connection, on a thread of its own, that takes whatever waits into one transaction.
//!
//! A transaction of one group would wait for the disk once a group. Taking all that wait is no slower for the
//! first of them, and as fast as the disk for the rest. A caller hears "done" only after the commit; one that has
//! given up by then may have been served all the same, which a second try finds out and leaves alone.

use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior, params};
use streambreaker::{BoxError, Event, Group, ResultExt, StepError};
use tokio::sync::{mpsc, oneshot};

use super::event::Flight;

/// The most that one transaction takes.
const JOBS: usize = 2_000;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS delays (
        origin TEXT NOT NULL, day TEXT NOT NULL,
        flights INTEGER NOT NULL, total_delay INTEGER NOT NULL, worst_delay INTEGER NOT NULL,
        PRIMARY KEY (origin, day)
    ) WITHOUT ROWID;
    -- what has been added to delays already: an event that comes again changes nothing
    CREATE TABLE IF NOT EXISTS delays_events (id TEXT NOT NULL PRIMARY KEY) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS aircraft (
        tailnum TEXT NOT NULL PRIMARY KEY, dest TEXT NOT NULL, at INTEGER NOT NULL
    ) WITHOUT ROWID;";

const SEEN: &str = "INSERT INTO delays_events (id) VALUES (?1) ON CONFLICT DO NOTHING";

const ADD: &str = "
    INSERT INTO delays (origin, day, flights, total_delay, worst_delay) VALUES (?1, ?2, ?3, ?4, ?5)
    ON CONFLICT DO UPDATE SET
        flights = flights + excluded.flights,
        total_delay = total_delay + excluded.total_delay,
        worst_delay = max(worst_delay, excluded.worst_delay)";

// the lock: what is older than what is there is ignored; of two of the same moment the same one always wins
const SAW: &str = "
    INSERT INTO aircraft (tailnum, dest, at) VALUES (?1, ?2, ?3)
    ON CONFLICT DO UPDATE SET dest = excluded.dest, at = excluded.at
    WHERE (excluded.at, excluded.dest) > (aircraft.at, aircraft.dest)";

/// What did not go well, and whether it may the next time.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{text}")]
struct StoreError {
    text: String,
    passing: bool,
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let passing = matches!(
            error.sqlite_error_code(),
            Some(
                ErrorCode::DatabaseBusy
                    | ErrorCode::DatabaseLocked
                    | ErrorCode::DiskFull
                    | ErrorCode::SystemIoFailure
                    | ErrorCode::OutOfMemory
                    | ErrorCode::CannotOpen
            )
        );
        Self { text: error.to_string(), passing }
    }
}

enum Work {
    Delays { origin: String, day: String, flights: Vec<(String, i64)> },
    Aircraft { tailnum: String, dest: String, at: i64 },
}

struct Job {
    work: Work,
    reply: oneshot::Sender<Result<(), StoreError>>,
}

/// Asks the writer. Cheap to clone; the writer ends with the last of them.
#[derive(Clone)]
pub(crate) struct Store(mpsc::UnboundedSender<Job>);

/// The thread that writes.
pub(crate) struct Writer(JoinHandle<()>);

impl Store {
    /// Opens the database, or makes it.
    pub(crate) fn open(path: &Path) -> Result<(Store, Writer), BoxError> {
        let error = |e| format!("the database {} cannot be opened: {e}", path.display());
        let connection = prepare(path).map_err(error)?;
        // how much waits here is bounded by the concurrency of the resource
        let (jobs, waiting) = mpsc::unbounded_channel();
        let writer = std::thread::Builder::new()
            .name("writer".into())
            .spawn(|| serve(connection, waiting))?;
        Ok((Store(jobs), Writer(writer)))
    }

    /// Adds flights to those of their day, each only once, all or none of them.
    pub(crate) async fn add_delays(
        &self,
        group: &Group<(String, String), Event<Flight>>,
    ) -> Result<(), StepError> {
        let mut flights = Vec::with_capacity(group.items.len());
        for flight in group {
            flights.push((flight.id.clone(), flight.arrival_delay()?));
        }
        let (origin, day) = group.key.clone();
        self.ask(Work::Delays { origin, day, flights }).await
    }

    /// Notes where an aircraft goes, unless something later is known.
    pub(crate) async fn saw_aircraft(&self, flight: &Flight) -> Result<(), StepError> {
        let (tailnum, dest) = (flight.tailnum()?.to_owned(), flight.dest().to_owned());
        self.ask(Work::Aircraft { tailnum, dest, at: flight.timestamp }).await
    }

    async fn ask(&self, work: Work) -> Result<(), StepError> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Job { work, reply }).map_err(|_| "the writer is gone").fatal()?;
        // a transaction that never ended: nothing is known, and asking again does no harm
        let written = answer.await.transient()?;
        written.transient_if(|error| error.passing)
    }
}

impl Writer {
    /// Waits until all is written and the database closed. All [`Store`]s have to be gone.
    pub(crate) fn close(self) -> Result<(), BoxError> {
        self.0.join().map_err(|_| "the thread that writes to the database panicked".into())
    }
}

fn prepare(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(2))?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    // a commit is on the disk before the checkpoint passes, or a power cut would take what nobody sends again
    connection.pragma_update(None, "synchronous", "full")?;
    // ids come in no order: with the usual 2 MB most pages would be written many times over
    connection.pragma_update(None, "cache_size", -65_536)?;
    connection.pragma_update(None, "wal_autocheckpoint", 16_384)?;
    connection.execute_batch(SCHEMA)?;
    Ok(connection)
}

fn serve(mut connection: Connection, mut waiting: mpsc::UnboundedReceiver<Job>) {
    while let Some(first) = waiting.blocking_recv() {
        let mut jobs = vec![first];
        while jobs.len() < JOBS {
            match waiting.try_recv() {
                Ok(job) => jobs.push(job),
                Err(_) => break,
            }
        }
        // whoever ran into the timeout comes again
        jobs.retain(|job| !job.reply.is_closed());
        let results = transaction(&mut connection, &jobs)
            .unwrap_or_else(|error| jobs.iter().map(|_| Err(error.clone())).collect());
        for (job, result) in jobs.into_iter().zip(results) {
            let _ = job.reply.send(result);
        }
    }
}

/// Does all jobs in one transaction. One that fails leaves nothing behind; an error of the commit is one of all.
fn transaction(
    connection: &mut Connection,
    jobs: &[Job],
) -> Result<Vec<Result<(), StoreError>>, StoreError> {
    let mut transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut results = Vec::with_capacity(jobs.len());
    for job in jobs {
        results.push(work(&mut transaction, &job.work).map_err(StoreError::from));
    }
    transaction.commit()?;
    Ok(results)
}

fn work(transaction: &mut Transaction<'_>, work: &Work) -> rusqlite::Result<()> {
    match work {
        // one statement, which is all or nothing by itself
        Work::Aircraft { tailnum, dest, at } => {
            transaction.prepare_cached(SAW)?.execute(params![tailnum, dest, at]).map(|_| ())
        }
        Work::Delays { origin, day, flights } => {
            let part = transaction.savepoint()?;
            let mut new = Vec::with_capacity(flights.len());
            for (id, delay) in flights {
                if part.prepare_cached(SEEN)?.execute([id])? == 1 {
                    new.push(*delay);
                }
            }
            if let Some(worst) = new.iter().max() {
                let total: i64 = new.iter().sum();
                let row = params![origin, day, new.len() as i64, total, worst];
                part.prepare_cached(ADD)?.execute(row)?;
            }
            part.commit()
        }
    }
}
