//! The SQLite store: what it keeps, for how long, in which order, and over whose restart.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use orders_component::event::{Order, OrderEvent, What};
use orders_component::handlers::Part;
use orders_component::store::Store;
use rusqlite::Connection;
use streambreaker::clock::PausedClock;
use streambreaker::idempotence::{Collected, EventStore, Put, Version, VersionedStore};
use streambreaker::{Class, Timestamp};

const HOUR: Duration = Duration::from_secs(3_600);

/// A database of its own for a test, not there yet.
fn database(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("store").join(name);
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    directory.join("orders.db")
}

fn open(path: &Path) -> Store {
    Store::with_clock(path, HOUR, PausedClock::starting_at(Timestamp::from_millis(0))).unwrap()
}

fn fact(id: &str, at: i64) -> Collected<OrderEvent> {
    let what = What::Paid { cents: at };
    let event = OrderEvent { id: id.into(), timestamp: at, order: "o".into(), what };
    Collected::new("o", id, Timestamp::from_millis(at), event)
}

async fn ids(store: &Store) -> Vec<String> {
    store.correlated("o").await.unwrap().into_iter().map(|fact| fact.id).collect()
}

#[tokio::test(start_paused = true)]
async fn l10_facts_are_kept_once_in_the_order_in_which_they_happened_over_a_restart() {
    let path = database("facts");
    let store = open(&path);
    for (id, at) in [("c", 2), ("b", 1), ("d", 1), ("a", 3), ("b", 9)] {
        store.put(&fact(id, at)).await.unwrap();
    }
    assert_eq!(ids(&store).await, ["b", "d", "c", "a"]);
    drop(store);
    let store = open(&path);
    assert_eq!(ids(&store).await, ["b", "d", "c", "a"]);
    assert_eq!(store.correlated("o").await.unwrap()[0].event.what, What::Paid { cents: 1 });
    let all = store.collect(&fact("e", 0)).await.unwrap();
    assert_eq!(all.len(), 5);
    assert_eq!(all[0].id, "e");
    store.delete("o").await.unwrap();
    assert_eq!(ids(&store).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn facts_are_forgotten_after_their_time_and_not_before_and_take_no_room_then() {
    let path = database("forgotten");
    let store = open(&path);
    store.put(&fact("a", 1)).await.unwrap();
    tokio::time::advance(HOUR / 2).await;
    store.put(&fact("b", 2)).await.unwrap();
    store.put(&fact("a", 1)).await.unwrap(); // a copy lives no longer than the first
    tokio::time::advance(HOUR / 2).await;
    assert_eq!(ids(&store).await, ["b"]);
    store.put(&fact("a", 7)).await.unwrap(); // after its time it begins anew
    assert_eq!(ids(&store).await, ["b", "a"]);
    for n in 0..100 {
        tokio::time::advance(HOUR / 4).await;
        store.put(&fact(&format!("n{n}"), 1)).await.unwrap();
    }
    let count = |sql| {
        let database = Connection::open(&path).unwrap();
        database.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap()
    };
    assert_eq!(count("SELECT count(*) FROM facts"), 4);
}

#[tokio::test(start_paused = true)]
async fn l10_the_newest_of_each_part_stays_and_stale_is_a_success() {
    let path = database("view");
    let store = open(&path);
    let order = |address: &str| {
        What::Changed(Order { customer: "ada".into(), address: address.into(), cents: 10 })
    };
    let part = || Part::Order("o".into());
    let version = |at, id: &str| Version::new(Timestamp::from_millis(at), id);
    let put = async |part: Part, version: Version, what: What| {
        store.put_if_newer(&part, &version, &what).await.unwrap()
    };
    assert_eq!(put(part(), version(5, "b"), order("new")).await, Put::Written);
    assert_eq!(put(part(), version(5, "b"), order("new")).await, Put::Stale);
    assert_eq!(put(part(), version(4, "z"), order("old")).await, Put::Stale);
    // of the same moment the id decides, in every order
    assert_eq!(put(part(), version(5, "a"), order("other")).await, Put::Stale);
    // another part has a version of its own
    let shipped = What::Shipped { carrier: "post".into() };
    assert_eq!(put(Part::Shipment("o".into()), version(1, "d"), shipped).await, Put::Written);
    let payment = || Part::Payment { order: "o".into(), id: "p".into() };
    for expected in [Put::Written, Put::Stale] {
        assert_eq!(put(payment(), version(2, "p"), What::Paid { cents: 10 }).await, expected);
    }
    let database = Connection::open(&path).unwrap();
    let sql = "SELECT address || ' ' || paid || ' ' || carrier || ' ' || status FROM order_status";
    let row: String = database.query_row(sql, [], |row| row.get(0)).unwrap();
    assert_eq!(row, "new 10 post complete");
}

#[tokio::test(start_paused = true)]
async fn what_waits_shares_a_transaction_and_each_hears_of_its_own() {
    let path = database("shared");
    let store = open(&path);
    let puts = (0..500).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { store.put(&fact(&format!("e{n:03}"), n)).await })
    });
    for put in puts.collect::<Vec<_>>() {
        put.await.unwrap().unwrap();
    }
    assert_eq!(ids(&store).await.len(), 500);
}

#[tokio::test(start_paused = true)]
async fn a_locked_database_is_transient_and_a_missing_table_is_not() {
    let path = database("locked");
    let store = open(&path);
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = store.put(&fact("a", 1)).await.unwrap_err();
    assert_eq!(error.class(), Class::Transient);
    other.execute_batch("ROLLBACK; DROP TABLE facts").unwrap();
    let error = store.put(&fact("a", 1)).await.unwrap_err();
    assert_eq!(error.class(), Class::Fault);
}

#[test]
fn migrations_are_applied_once_and_a_later_database_is_refused() {
    let path = database("migrations");
    open_now(&path).unwrap();
    open_now(&path).unwrap();
    let database = Connection::open(&path).unwrap();
    let version: i64 = database.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(version, 2);
    // one that stopped half way goes on
    database.execute_batch("DROP VIEW order_status; DROP TABLE view_orders; DROP TABLE view_shipments; DROP TABLE view_payments; PRAGMA user_version = 1").unwrap();
    open_now(&path).unwrap();
    database.execute_batch("PRAGMA user_version = 99").unwrap();
    let error = open_now(&path).unwrap_err().to_string();
    assert!(error.contains("99 migrations, this one knows 2"), "{error}");
    assert!(error.contains("run the later release"), "{error}");
}

fn open_now(path: &Path) -> Result<Store, orders_component::store::OpenError> {
    Store::open(path, HOUR)
}
