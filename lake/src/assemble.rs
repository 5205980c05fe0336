//! Faults that were too large for their sink lie in parts: they are sent again as the one unit that they were.

use std::collections::BTreeMap;

use streambreaker::FaultEvent;
use uuid::Uuid;

use crate::resubmit_report::Refused;

/// Puts faults together that were too large for their sink and lie in parts; parts whose others are not there are refused.
pub(crate) fn assemble(
    faults: Vec<FaultEvent>,
    refused: &mut BTreeMap<Uuid, Refused>,
) -> Vec<FaultEvent> {
    let (mut whole, mut parts): (Vec<FaultEvent>, BTreeMap<Uuid, Vec<FaultEvent>>) =
        (Vec::new(), BTreeMap::new());
    for fault in faults {
        match fault.part {
            Some(part) => parts.entry(part.of).or_default().push(fault),
            None => whole.push(fault),
        }
    }
    for (of, mut found) in parts {
        found.sort_by_key(|fault| fault.part.map(|part| part.first));
        let total = found.iter().filter_map(|fault| fault.part).map(|part| part.total).max();
        let mut next = 0u32;
        let joined = found.iter().all(|fault| {
            let fits = fault.part.is_some_and(|part| part.first == next);
            next = next.saturating_add(u32::try_from(fault.records.len()).unwrap_or(u32::MAX));
            fits
        });
        if !joined || total != Some(next) {
            refused.extend(found.iter().map(|f| (f.id, Refused::Partial { whole: of })));
            continue;
        }
        let records = found.iter().flat_map(|fault| fault.records.clone()).collect();
        let mut one = found.swap_remove(0);
        one.part = None;
        one.id = of;
        one.records = records;
        whole.push(one);
    }
    whole.sort_by_key(|fault| (fault.timestamp, fault.id));
    whole
}
