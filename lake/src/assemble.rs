//! Faults that were too large for their sink lie in parts: they are sent again as the one unit that they were.

use std::collections::BTreeMap;

use streambreaker::FaultEvent;
use uuid::Uuid;

use crate::resubmit_report::Refused;

/// Puts faults together that were too large for their sink and lie in parts.
#[derive(Default)]
pub(crate) struct Assembly(BTreeMap<Uuid, Vec<FaultEvent>>);

impl Assembly {
    /// Takes a fault; gives it back as it is, or the whole whose last part it was.
    pub(crate) fn add(&mut self, fault: FaultEvent) -> Option<FaultEvent> {
        let Some(part) = fault.part else { return Some(fault) };
        let found = self.0.entry(part.of).or_default();
        found.push(fault);
        found.sort_by_key(|fault| fault.part.map(|part| part.first));
        let total = found.iter().filter_map(|fault| fault.part).map(|part| part.total).max();
        let mut next = 0u32;
        let joined = found.iter().all(|fault| {
            let fits = fault.part.is_some_and(|part| part.first == next);
            next = next.saturating_add(u32::try_from(fault.records.len()).unwrap_or(u32::MAX));
            fits
        });
        if !joined || total != Some(next) {
            return None;
        }
        let mut found = self.0.remove(&part.of)?;
        let records = found.iter().flat_map(|fault| fault.records.clone()).collect();
        let mut whole = found.swap_remove(0);
        whole.part = None;
        whole.id = part.of;
        whole.records = records;
        Some(whole)
    }

    /// The parts whose others have not come.
    pub(crate) fn rest(self) -> impl Iterator<Item = (Uuid, Refused)> {
        self.0.into_iter().flat_map(|(whole, parts)| {
            parts.into_iter().map(move |part| (part.id, Refused::Partial { whole }))
        })
    }
}
