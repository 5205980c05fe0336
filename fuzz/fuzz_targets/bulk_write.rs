//! K1, K2, K5: whatever the other side answers, no item is lost, none that was confirmed is sent again, the rest keeps
//! its order, and no request is empty or over a limit.

#![no_main]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arbitrary::Arbitrary;
use async_trait::async_trait;
use libfuzzer_sys::fuzz_target;
use streambreaker::fault::FloodGuard;
use streambreaker::prelude::*;
use streambreaker::sink::{Limits, Outcomes};
use streambreaker::{Class, OnExhausted, Position, Processor, Record, Sink, memory};

#[derive(Arbitrary, Debug)]
struct Input {
    items: u8,
    limit: u8,
    bytes: u8,
    attempts: u8,
    in_flight: u8,
    give_back: bool,
    ordered: bool,
    /// What each request is answered, then what all others are: all well.
    answers: Vec<Answer>,
}

#[derive(Arbitrary, Debug, Clone)]
struct Answer {
    notes: Vec<Note>,
    end: End,
}

#[derive(Arbitrary, Debug, Clone, Copy)]
enum Note {
    Done(u8),
    Retry(u8),
    Reject(u8),
    Throttled(u8, u8),
    AllDone,
}

#[derive(Arbitrary, Debug, Clone, Copy)]
enum End {
    Ok,
    Transient,
    Fault,
    Throttled(u8),
    Hang,
    Panic,
}

#[derive(Default)]
struct State {
    answers: Vec<Answer>,
    confirmed: BTreeSet<u64>,
    rejected: BTreeSet<u64>,
}

#[derive(Clone)]
struct Hostile(Arc<Mutex<State>>, Limits);

/// One item's notes, as the rules read them: the first counts, and who contradicts it makes it unknown.
fn confirmed(notes: &[Note], index: usize, len: usize) -> bool {
    let mut said: Option<bool> = None;
    let mut muddled = false;
    for note in notes {
        let good = match *note {
            Note::AllDone => {
                // only of those of which nothing was noted
                if said.is_none() && !muddled {
                    said = Some(true);
                }
                continue;
            }
            Note::Done(n) if usize::from(n) % (len + 1) == index => true,
            Note::Retry(n) | Note::Reject(n) | Note::Throttled(n, _)
                if usize::from(n) % (len + 1) == index =>
            {
                false
            }
            _ => continue,
        };
        if said.is_some_and(|said| said != good) {
            muddled = true;
        }
        said = said.or(Some(good));
    }
    said == Some(true) && !muddled
}

#[async_trait]
impl Sink<u64> for Hostile {
    fn limits(&self) -> Limits {
        self.1
    }

    fn size(&self, item: &u64) -> usize {
        (*item % 7) as usize + 1
    }

    async fn write(&self, items: &[u64], outcomes: &mut Outcomes<'_>) -> Result<(), StepError> {
        assert!(!items.is_empty() && items.len() <= self.1.items, "K5");
        assert!(items.iter().map(|item| self.size(item)).sum::<usize>() <= self.1.bytes, "K5");
        assert!(items.is_sorted(), "K2: the order is the log's");
        let answer = {
            let mut state = self.0.lock().expect("not poisoned");
            assert!(
                items.iter().all(|item| !state.confirmed.contains(item)),
                "K2: confirmed, sent again"
            );
            assert!(
                items.iter().all(|item| !state.rejected.contains(item)),
                "K1: rejected, sent again"
            );
            let answer = match state.answers.pop() {
                Some(answer) => answer,
                None => Answer { notes: vec![Note::AllDone], end: End::Ok },
            };
            for (index, item) in items.iter().enumerate() {
                if confirmed(&answer.notes, index, items.len()) {
                    state.confirmed.insert(*item);
                }
            }
            answer
        };
        for note in &answer.notes {
            // one beyond the request is allowed
            let place = |n: u8| usize::from(n) % (items.len() + 1);
            match *note {
                Note::Done(n) => outcomes.done(place(n)),
                Note::Retry(n) => outcomes.retry(place(n), "again"),
                Note::Reject(n) => outcomes.reject(place(n), "never"),
                Note::Throttled(n, ms) => {
                    outcomes.throttled(place(n), Duration::from_millis(ms.into()), "later");
                }
                Note::AllDone => outcomes.all_done(),
            }
        }
        match answer.end {
            End::Ok => Ok(()),
            End::Transient => Err("gone").transient(),
            End::Fault => Err("wrong").fault(),
            End::Throttled(ms) => Err("slow").throttled(Duration::from_millis(ms.into())),
            End::Hang => std::future::pending().await,
            End::Panic => panic!("a sink panics"),
        }
    }
}

/// The fuzzer ends the process at every panic; those that are injected must come through.
fn spare_panics_on_purpose() {
    let abort = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload().downcast_ref::<&str>() != Some(&"a sink panics") {
            abort(info);
        }
    }));
}

fuzz_target!(init: spare_panics_on_purpose(), |input: Input| {
    let items = u64::from(input.items % 40) + 1;
    // every item fits: what does not is a fault of its own
    let limits = Limits::items(usize::from(input.limit % 9) + 1)
        .with_bytes(usize::from(input.bytes % 30) + 7);
    let mut answers: Vec<Answer> = input.answers.iter().take(30).cloned().collect();
    answers.reverse();
    let state = Arc::new(Mutex::new(State { answers, ..State::default() }));
    let sink = Hostile(state.clone(), limits);
    let exhausted = if input.give_back { OnExhausted::Return } else { OnExhausted::Fault };
    let resource = Resource::builder("index")
        .timeout(Duration::from_secs(1))
        .retry(Retry::exponential().max_attempts(u32::from(input.attempts % 5) + 1))
        .on_exhausted(exhausted)
        .seed(1)
        .build()
        .expect("valid");
    let faults = memory::faults();
    let (in_flight, ordered) = (usize::from(input.in_flight % 3) + 1, input.ordered);
    let processor = Processor::builder("p")
        .faults(faults.clone())
        .flood_guard(FloodGuard::off())
        .pipeline("q", move |flow| {
            let flow = flow.json::<u64>().map(|n| *n).bulk_write(&resource, sink.clone());
            let flow = flow.in_flight(in_flight);
            if ordered { flow.ordered_by(|n| n % 3).boxed() } else { flow.boxed() }
        })
        .build()
        .expect("valid");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let records = (0..items).map(|n| Record::new("s", "0", Position::from(n), n.to_string()));
    let outcome = runtime.block_on(async {
        let run = processor.process(records);
        tokio::time::timeout(Duration::from_secs(86_400), run).await.expect("it never ends")
    });
    let numbers = |records: &[Record]| -> BTreeSet<u64> {
        records.iter().map(|record| record.position().as_u64().expect("a number")).collect()
    };
    let (settled, faulted) = (numbers(&outcome.settled), numbers(&outcome.faulted));
    let returned = numbers(&outcome.returned);
    let state = state.lock().expect("not poisoned");
    assert_eq!(settled, state.confirmed, "K1: done is what was confirmed, and nothing else");
    assert_eq!(settled.len() + faulted.len() + returned.len(), items as usize, "K1: none is lost");
    assert!(input.give_back || returned.is_empty());
    // F3: a fault of one item, and of no other
    let events = faults.events();
    assert_eq!(events.len(), faulted.len());
    for event in &events {
        assert_eq!(event.records.len(), 1);
        assert_ne!(event.class, Class::Dropped);
        assert!(faulted.contains(&event.records[0].record.position().as_u64().expect("a number")));
    }
});
