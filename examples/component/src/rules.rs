//! When an order is complete, and when it is overdue: pure functions of what is known of it.
//!
//! *Complete* is easy: once paid and shipped it stays so, whatever else comes to be known. *Overdue* is about something
//! that did **not** happen, and no event says so by itself. Two things make it safe to say:
//!
//! - Time goes by the events. An order is overdue if, in the time that the events tell, it was not complete by its
//!   deadline. The wall clock is never asked, so a replay of last year finds what was found last year.
//! - Silence counts only after a grace. Some event of the order must show that its deadline is past by more than the
//!   longest that an event may be late: mostly the timer's `order-due`, which is sent for that. Up to the grace the
//!   events may come in any order, and the outcome is the same.
//!
//! What is later than the grace comes too late to take back what was said: then both are published, and the view shows
//! the truth. Choose the grace by how late your events really are; it costs only that the news is that much older.

use std::time::Duration;

use serde::Serialize;
use streambreaker::Timestamp;
use streambreaker::idempotence::Collected;

use crate::event::{Order, OrderEvent, What};

/// The rules of overdue orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How long an order may take from its submission until it is paid and shipped.
    pub overdue_after: Duration,
    /// How late an event may arrive behind events that happened later.
    pub grace: Duration,
}

/// What is to be published of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Paid and shipped.
    Completed(Completed),
    /// Not paid and shipped by its deadline.
    Overdue(Overdue),
}

/// The body of `order-completed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Completed {
    /// Which order.
    pub order: String,
    /// Who ordered.
    pub customer: String,
    /// When the last thing happened that was missing: milliseconds since 1970.
    pub completed_at: i64,
    /// Whether that was after the deadline.
    pub late: bool,
}

/// The body of `order-overdue`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Overdue {
    /// Which order.
    pub order: String,
    /// Who ordered.
    pub customer: String,
    /// By when it should have been complete: milliseconds since 1970.
    pub deadline: i64,
}

impl Rules {
    /// What is to be said of one order, from all that is known of it, in the order in which it happened.
    pub fn evaluate(&self, known: &[Collected<OrderEvent>]) -> Vec<Outcome> {
        let Some((submitted, order, ordered)) =
            known.iter().find_map(|fact| match &fact.event.what {
                What::Submitted(ordered) => Some((fact.time, &fact.key, ordered)),
                _ => None,
            })
        else {
            return Vec::new();
        };
        let deadline = submitted.plus(self.overdue_after);
        let completed = completion(known, ordered);
        let late = completed.is_none_or(|at| at > deadline);
        let latest = known.last().map_or(submitted, |fact| fact.time);

        let mut outcomes = Vec::new();
        if late && latest >= deadline.plus(self.grace) {
            outcomes.push(Outcome::Overdue(Overdue {
                order: order.clone(),
                customer: ordered.customer.clone(),
                deadline: deadline.as_millis(),
            }));
        }
        if let Some(at) = completed {
            outcomes.push(Outcome::Completed(Completed {
                order: order.clone(),
                customer: ordered.customer.clone(),
                completed_at: at.as_millis(),
                late,
            }));
        }
        outcomes
    }
}

/// When the last of what an order needs had happened.
fn completion(known: &[Collected<OrderEvent>], order: &Order) -> Option<Timestamp> {
    let (mut submitted, mut shipped, mut paid) = (false, false, 0_i64);
    known.iter().find_map(|fact| {
        match &fact.event.what {
            What::Submitted(_) => submitted = true,
            What::Shipped { .. } => shipped = true,
            What::Paid { cents } => paid = paid.saturating_add(*cents),
            What::Changed(_) | What::Due => {}
        }
        (submitted && shipped && paid >= order.cents).then_some(fact.time)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules =
        Rules { overdue_after: Duration::from_millis(100), grace: Duration::from_millis(10) };

    fn facts(happened: &[(i64, What)]) -> Vec<Collected<OrderEvent>> {
        let fact = |(n, (time, what)): (usize, &(i64, What))| {
            let (id, order, what) = (n.to_string(), "o".to_owned(), what.clone());
            let event = OrderEvent { id: id.clone(), timestamp: *time, order, what };
            Collected::new("o", id, Timestamp::from_millis(*time), event)
        };
        happened.iter().enumerate().map(fact).collect()
    }

    fn submitted() -> What {
        let (customer, address) = ("ada".to_owned(), "home".to_owned());
        What::Submitted(Order { customer, address, cents: 10 })
    }

    fn shipped() -> What {
        What::Shipped { carrier: "post".into() }
    }

    /// `(overdue, completed at, late)`
    fn said(happened: &[(i64, What)]) -> (bool, Option<i64>, bool) {
        let mut said = (false, None, false);
        for outcome in RULES.evaluate(&facts(happened)) {
            match outcome {
                Outcome::Overdue(overdue) => {
                    assert_eq!(overdue.deadline, 100);
                    said.0 = true;
                }
                Outcome::Completed(completed) => {
                    said.1 = Some(completed.completed_at);
                    said.2 = completed.late;
                }
            }
        }
        said
    }

    #[test]
    fn an_order_is_complete_when_the_last_of_what_it_needs_has_happened() {
        let half = || What::Paid { cents: 5 };
        assert_eq!(said(&[(0, submitted()), (1, half()), (2, shipped())]), (false, None, false));
        let all = [(0, submitted()), (1, half()), (2, shipped()), (3, half())];
        assert_eq!(said(&all), (false, Some(3), false));
        // paid before it was submitted, by the producers' clocks
        let early = [(0, What::Paid { cents: 10 }), (0, submitted()), (2, shipped())];
        assert_eq!(said(&early), (false, Some(2), false));
        assert_eq!(said(&[(1, half()), (2, shipped()), (500, What::Due)]), (false, None, false));
    }

    #[test]
    fn silence_counts_only_when_the_grace_is_over() {
        assert_eq!(said(&[(0, submitted()), (109, What::Due)]), (false, None, false));
        assert_eq!(said(&[(0, submitted()), (110, What::Due)]), (true, None, false));
        let paid = || What::Paid { cents: 10 };
        // to the moment of the deadline it is in time
        let in_time = [(0, submitted()), (1, paid()), (100, shipped()), (110, What::Due)];
        assert_eq!(said(&in_time), (false, Some(100), false));
        // any event of the order shows that time has passed
        let late = [(0, submitted()), (1, shipped()), (400, paid())];
        assert_eq!(said(&late), (true, Some(400), true));
        // a little late, and nothing shows that the grace is over yet
        assert_eq!(
            said(&[(0, submitted()), (1, shipped()), (101, paid())]),
            (false, Some(101), true)
        );
    }
}
