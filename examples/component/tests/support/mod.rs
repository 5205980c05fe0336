//! What has to come out, computed from the lines in a way that shares nothing with the component; and what came out.
#![allow(dead_code, unreachable_pub)] // each test file uses its part

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use orders_component::rules::Rules;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use streambreaker::fault::FaultEvent;

pub const RULES: Rules =
    Rules { overdue_after: Duration::from_secs(2 * 86_400), grace: Duration::from_secs(6 * 3_600) };

/// An order as the view shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub address: String,
    pub cents: i64,
    pub paid: i64,
    pub carrier: Option<String>,
    pub status: String,
}

/// What is said of which order.
pub type Said = BTreeSet<(String, String)>;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Expected {
    pub said: Said,
    pub view: BTreeMap<String, Row>,
    /// The lines that each pipeline has to fault.
    pub poison: BTreeMap<&'static str, BTreeSet<String>>,
}

enum Fit {
    No,
    Yes(Value),
}

fn fit(line: &str) -> Fit {
    let Ok(event) = serde_json::from_str::<Value>(line) else { return Fit::No };
    let text = |name: &str| event[name].as_str().is_some_and(|text| !text.is_empty());
    let fields = match event["type"].as_str() {
        Some("order-submitted" | "order-changed") => {
            text("customer") && text("address") && event["cents"].as_i64().is_some_and(|c| c > 0)
        }
        Some("payment-received") => event["cents"].as_i64().is_some_and(|c| c > 0),
        Some("shipment-sent") => text("carrier"),
        Some("order-due") => true,
        other => panic!("the generator makes no {other:?}"),
    };
    match fields && text("id") && text("order") && event["timestamp"].is_i64() {
        true => Fit::Yes(event),
        false => Fit::No,
    }
}

pub fn expected(lines: &[String], rules: Rules) -> Expected {
    let mut expected = Expected::default();
    let mut orders: BTreeMap<String, BTreeMap<(i64, String), Value>> = BTreeMap::new();
    for line in lines {
        match fit(line) {
            Fit::Yes(event) => {
                let (order, id) = (event["order"].as_str().unwrap(), event["id"].as_str().unwrap());
                let version = (event["timestamp"].as_i64().unwrap(), id.to_owned());
                orders.entry(order.to_owned()).or_default().insert(version, event);
            }
            Fit::No => {
                expected.poison.entry("rules").or_default().insert(line.clone());
                let timer = line.contains(r#""type":"order-due""#)
                    && serde_json::from_str::<Value>(line).is_ok();
                if !timer {
                    expected.poison.entry("view").or_default().insert(line.clone());
                }
            }
        }
    }
    for (order, events) in orders {
        let of =
            |kind: &str| events.values().filter(move |e| e["type"] == kind).collect::<Vec<_>>();
        let [submitted] = of("order-submitted")[..] else { panic!("{order} is submitted once") };
        let newest = events
            .values()
            .rfind(|e| e["type"] == "order-submitted" || e["type"] == "order-changed")
            .unwrap();
        let cents = submitted["cents"].as_i64().unwrap();
        let at = |event: &Value| event["timestamp"].as_i64().unwrap();
        let payments = of("payment-received");
        let paid: i64 = payments.iter().map(|p| p["cents"].as_i64().unwrap()).sum();
        let shipment = of("shipment-sent").last().copied();

        let complete = (paid >= cents && shipment.is_some()).then(|| {
            // all payments that are made are needed
            let last = payments.iter().map(|p| at(p)).max().unwrap();
            last.max(at(shipment.unwrap())).max(at(submitted))
        });
        let deadline = at(submitted) + rules.overdue_after.as_millis() as i64;
        if complete.is_none_or(|at| at > deadline) {
            expected.said.insert(("order-overdue".into(), order.clone()));
        }
        if complete.is_some() {
            expected.said.insert(("order-completed".into(), order.clone()));
        }
        let status = match (paid >= cents, shipment.is_some()) {
            (true, true) => "complete",
            (true, false) => "paid",
            (false, true) => "shipped",
            (false, false) => "open",
        };
        let text = |event: &Value, name: &str| event[name].as_str().unwrap().to_owned();
        let row = Row {
            address: text(newest, "address"),
            cents,
            paid,
            carrier: shipment.map(|s| text(s, "carrier")),
            status: status.into(),
        };
        expected.view.insert(order, row);
    }
    expected
}

/// What the database shows.
pub fn view(database: &Path) -> rusqlite::Result<BTreeMap<String, Row>> {
    let database = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let mut rows = database
        .prepare("SELECT order_id, address, cents, paid, carrier, status FROM order_status")?;
    let rows = rows.query_map([], |row| {
        let shown = Row {
            address: row.get(1)?,
            cents: row.get(2)?,
            paid: row.get(3)?,
            carrier: row.get(4)?,
            status: row.get(5)?,
        };
        Ok((row.get(0)?, shown))
    })?;
    rows.collect()
}

/// The lines that a pipeline has faulted, as they are in the faults.
pub fn faulted(faults: &[FaultEvent], pipeline: &str) -> BTreeSet<String> {
    let of = faults.iter().filter(|fault| fault.pipeline == pipeline);
    of.flat_map(|fault| &fault.records)
        .map(|kept| String::from_utf8(kept.record.payload().to_vec()).unwrap())
        .collect()
}
