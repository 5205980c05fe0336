//! The events that come in.
//!
//! All of them belong to one order, which is the key of the stream and the correlation key as well. `order-submitted` and
//! `order-changed` carry the whole order; the others say that something happened.

use serde::{Deserialize, Serialize};

/// Something that happened to an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderEvent {
    /// The event's own id, the same in all copies of it.
    pub id: String,
    /// When it happened: milliseconds since 1970. When it arrives is another matter.
    pub timestamp: i64,
    /// The order it is about.
    pub order: String,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum What {
    /// A customer has ordered.
    #[serde(rename = "order-submitted")]
    Submitted(Order),
    /// A customer has changed the order: where it goes, never what it costs.
    #[serde(rename = "order-changed")]
    Changed(Order),
    /// Money has come; an order may be paid in parts.
    #[serde(rename = "payment-received")]
    Paid {
        /// How much.
        cents: i64,
    },
    /// The goods are on their way.
    #[serde(rename = "shipment-sent")]
    Shipped {
        /// Who carries them.
        carrier: String,
    },
    /// The order's time is over: sent by a timer, that something may be said about what did *not* happen.
    #[serde(rename = "order-due")]
    Due,
}

/// A whole order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Who ordered.
    pub customer: String,
    /// Where it goes.
    pub address: String,
    /// What it costs.
    pub cents: i64,
}

/// What the rules look at: all types there are.
pub const ALL: [&str; 5] =
    ["order-submitted", "order-changed", "payment-received", "shipment-sent", "order-due"];

/// What the view shows: all that happened, but not the timer.
pub const SHOWN: [&str; 4] =
    ["order-submitted", "order-changed", "payment-received", "shipment-sent"];

impl OrderEvent {
    /// Whether it makes sense. What does not becomes a fault, with this as its reason; so it says what is wrong,
    /// and nothing of the customer.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.id.is_empty() {
            return Err("the event has no id, so its copies could not be told from others");
        }
        if self.order.is_empty() {
            return Err("the event belongs to no order");
        }
        match &self.what {
            What::Submitted(order) | What::Changed(order) if order.cents <= 0 => {
                Err("an order costs something")
            }
            What::Paid { cents } if *cents <= 0 => Err("a payment is worth something"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_flat_object_that_says_its_type() {
        let json = r#"{"id":"e1","timestamp":5,"order":"o1","type":"payment-received","cents":7}"#;
        let event: OrderEvent = serde_json::from_str(json).unwrap();
        assert_eq!(event.what, What::Paid { cents: 7 });
        assert_eq!(serde_json::to_string(&event).unwrap(), json);
        let due = r#"{"id":"e2","timestamp":5,"order":"o1","type":"order-due"}"#;
        assert_eq!(serde_json::from_str::<OrderEvent>(due).unwrap().what, What::Due);
    }
}
