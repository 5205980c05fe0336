//! Orders to try it with, made from a seed: late, doubled, out of order, and some of it poison.
//!
//! What happens to an order happens at some time, and arrives at a later one; the lines are in the order in which they arrive.
//! Nothing arrives later than the grace of the rules, except copies: of an event that came in time a second copy may
//! come days after. The timer's `order-due` comes when deadline and grace are over, as a timer would send it.

use std::time::Duration;

use serde_json::{Value, json};
use streambreaker::clock::Random;

use crate::event::{Order, OrderEvent, What};
use crate::rules::Rules;

/// The first order of all is submitted at this time: the year 2025 begins, in milliseconds since 1970.
const START: i64 = 1_735_689_600_000;
/// A new order every so often.
const EVERY: Duration = Duration::from_secs(600);

/// What to make.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Generator {
    /// The same seed makes the same events.
    pub seed: u64,
    /// How many orders; each has about five events.
    pub orders: u32,
    /// The share of events beside which something stands that cannot be processed.
    pub poison: f64,
    /// The share of events that come twice.
    pub doubled: f64,
}

impl Default for Generator {
    fn default() -> Self {
        Self { seed: 1, orders: 1_000, poison: 0.02, doubled: 0.1 }
    }
}

/// What is being made.
struct Making {
    random: Random,
    generator: Generator,
    rules: Rules,
    /// When each line arrives, then in which order they were made.
    lines: Vec<(i64, usize, String)>,
}

impl Generator {
    /// The lines of a stream, in the order in which they arrive.
    pub fn lines(&self, rules: Rules) -> Vec<String> {
        let random = Random::seeded(self.seed);
        let mut making = Making { random, generator: *self, rules, lines: Vec::new() };
        for n in 0..self.orders {
            making.order(n);
        }
        making.lines.sort();
        making.lines.into_iter().map(|(_, _, line)| line).collect()
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl Making {
    fn chance(&self, share: f64) -> bool {
        self.random.next_f64() < share
    }

    /// Something from nothing to all of a span.
    fn within(&self, span: Duration) -> i64 {
        millis(span.mul_f64(self.random.next_f64()))
    }

    fn order(&mut self, n: u32) {
        let id = format!("o-{n}");
        let submitted = START + i64::from(n) * millis(EVERY);
        let deadline = submitted + millis(self.rules.overdue_after);
        let customer = format!("customer-{}", self.random.next_u64() % 200);
        let cents = 500 + (self.random.next_u64() % 20_000) as i64;
        let address = |n: u32| format!("{n} Some Street");
        let order =
            |n| What::Submitted(Order { customer: customer.clone(), address: address(n), cents });

        self.event(&id, "s", submitted, order(n));
        if self.chance(0.2) {
            // the newest address is the one that counts, whichever comes last
            for k in 1..3 {
                let moved = Order { customer: customer.clone(), address: address(n + k), cents };
                let at = submitted + self.within(self.rules.overdue_after / 2);
                self.event(&id, &format!("c{k}"), at, What::Changed(moved));
            }
        }
        // most are in time, some too late, and of some the rest never comes
        let [paid, shipped] = ["payment", "shipment"].map(|_| match self.random.next_f64() {
            f if f < 0.85 => Some(submitted + 1 + self.within(self.rules.overdue_after)),
            f if f < 0.93 => Some(deadline + 1 + self.within(self.rules.overdue_after)),
            _ => None,
        });
        if let Some(at) = paid {
            let first = if self.chance(0.25) { cents / 3 } else { 0 };
            if first > 0 {
                self.event(&id, "p1", submitted + 1, What::Paid { cents: first });
            }
            self.event(&id, "p2", at, What::Paid { cents: cents - first });
        }
        if let Some(at) = shipped {
            let carrier = ["post", "courier", "pigeon"][(self.random.next_u64() % 3) as usize];
            self.event(&id, "d", at, What::Shipped { carrier: carrier.to_owned() });
        }
        self.event(&id, "t", deadline + millis(self.rules.grace), What::Due);
    }

    /// An event with its lateness, its copy, and what comes along with it.
    fn event(&mut self, order: &str, name: &str, timestamp: i64, what: What) {
        let id = format!("{order}-{name}");
        let event = OrderEvent { id, timestamp, order: order.to_owned(), what };
        let mut line = json!(event);
        line["partitionKey"] = order.into();
        let arrives = timestamp + self.within(self.rules.grace);
        self.push(arrives, line.to_string());
        if self.chance(self.generator.doubled) {
            let again = arrives + self.within(self.rules.overdue_after);
            self.push(again, line.to_string());
        }
        if self.chance(self.generator.poison) {
            let poison = self.poison(line);
            self.push(arrives, poison);
        }
    }

    fn push(&mut self, arrives: i64, line: String) {
        self.lines.push((arrives, self.lines.len(), line));
    }

    /// Something that looks like an event and is none.
    fn poison(&self, mut line: Value) -> String {
        line["id"] = format!("{}-poison", line["id"].as_str().unwrap_or_default()).into();
        match self.random.next_u64() % 5 {
            0 => {
                let text = line.to_string();
                return text[..text.len() / 2].to_owned();
            }
            1 => line["timestamp"] = "yesterday".into(),
            2 => line["order"] = "".into(),
            3 => {
                line["type"] = "payment-received".into();
                line["cents"] = (-5).into();
            }
            _ => {
                line["type"] = "order-submitted".into();
                line["customer"] = Value::Null;
            }
        }
        line.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const RULES: Rules =
        Rules { overdue_after: Duration::from_secs(172_800), grace: Duration::from_secs(21_600) };

    #[test]
    fn a_seed_makes_the_same_lines_and_another_one_others() {
        let lines = |seed| Generator { seed, ..Generator::default() }.lines(RULES);
        assert_eq!(lines(7), lines(7));
        assert_ne!(lines(7), lines(8));
    }

    #[test]
    fn it_makes_what_it_promises_late_doubled_disordered_and_poison() {
        let lines = Generator::default().lines(RULES);
        let events: Vec<OrderEvent> = lines
            .iter()
            .filter_map(|line| serde_json::from_str(line).ok())
            .filter(|event: &OrderEvent| event.check().is_ok())
            .collect();
        let ids: BTreeSet<_> = events.iter().map(|event| &event.id).collect();
        assert!(events.len() < lines.len(), "some are poison");
        assert!(ids.len() < events.len(), "some come twice");
        let disordered = events.windows(2).filter(|pair| pair[0].timestamp > pair[1].timestamp);
        assert!(disordered.count() > 100, "some come behind what happened later");
        let poison = (lines.len() - events.len()) as f64 / lines.len() as f64;
        assert!((0.01..0.03).contains(&poison), "{poison}");
    }
}
