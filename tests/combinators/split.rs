//! `split`.

use streambreaker::{Delivery, PartPath};
use uuid::Uuid;

use super::*;

#[tokio::test(start_paused = true)]
async fn split_settles_a_record_when_all_its_parts_are() {
    // a record's digits are its parts: 0 is filtered, 9 faulted, others done
    let ran = run([12, 10, 900, 99, 190], |flow| {
        flow.json::<u32>()
            .split(|n| n.to_string().bytes().map(|b| b - b'0').collect::<Vec<_>>())
            .filter(|digit| *digit != 0)
            .try_map(|digit| if digit == 9 { Err("nine").fault() } else { Ok(digit) })
    })
    .await;
    assert_eq!(ran.fates(), (2, 0, 3));
    // each faulted part is a fault of its own, holds the whole record, and names the part
    let mut parts: Vec<_> = ran
        .faults
        .iter()
        .map(|fault| (payloads(fault)[0].clone(), fault.records[0].part.indices().to_vec()))
        .collect();
    parts.sort();
    let part = |payload: &str, index| (payload.to_owned(), vec![index]);
    assert_eq!(parts, [part("190", 1), part("900", 0), part("99", 0), part("99", 1)]);
    let ids: std::collections::BTreeSet<Uuid> = ran.faults.iter().map(|fault| fault.id).collect();
    assert_eq!(ids.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn split_filters_what_has_no_parts_and_faults_a_panic() {
    let ran = run(0..3, |flow| {
        flow.json::<u32>().split(|n| match *n {
            0 => Vec::new(),
            1 => panic!("one"),
            n => vec![n; 3],
        })
    })
    .await;
    assert_eq!((ran.fates(), ran.classes()), ((1, 1, 1), vec![Class::Panic]));
}

#[tokio::test(start_paused = true)]
async fn split_refuses_more_parts_than_it_can_count_also_from_an_iterator_without_end() {
    let ran = run([65_535u64, 65_536, u64::MAX], |flow| flow.json::<u64>().split(|n| 0..*n)).await;
    assert_eq!((ran.fates(), ran.names()), ((1, 0, 2), vec!["TooManyParts"; 2]));
}

fn resubmitted(part: &[u32]) -> Record {
    let (fault, part) = (Uuid::from_u128(1), PartPath::new(part));
    record(1, "[[1,2],[3,4]]").with_delivery(Delivery::Resubmit {
        fault,
        attempt: 1,
        part,
        run: None,
    })
}

#[tokio::test(start_paused = true)]
async fn l8_only_the_named_part_of_a_resubmitted_unit_passes() {
    for (part, want) in [(vec![], vec![1, 2, 3, 4]), (vec![1], vec![3, 4]), (vec![1, 0], vec![3])] {
        let seen = Seen::new();
        let note = seen.clone();
        let (outcome, _) = process([resubmitted(&part)], move |flow| {
            let note = note.clone();
            flow.json::<Vec<Vec<u32>>>()
                .split(|rows| rows.into_inner())
                .split(|row| row)
                .inspect(move |n| note.push(*n))
        })
        .await;
        assert_eq!((seen.all(), outcome.settled.len()), (want, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn l8_a_resubmitted_part_that_is_not_made_any_more_is_a_fault_and_not_filtered() {
    for made in [0usize, 1] {
        let (outcome, faults) = process([resubmitted(&[1])], move |flow| {
            flow.json::<Vec<Vec<u32>>>().split(move |rows| rows.into_inner().into_iter().take(made))
        })
        .await;
        assert_eq!((outcome.faulted.len(), &*faults[0].err.name), (1, "NoSuchPart"));
    }
}

#[tokio::test(start_paused = true)]
async fn f1_a_part_that_is_faulted_is_not_worked_on_again_when_another_part_is_returned() {
    let (seen, tries) = (Seen::new(), Arc::new(Mutex::new(0)));
    let note = seen.clone();
    let ran = run(["[[7],[9,8,6]]"], move |flow| {
        let (note, tries) = (note.clone(), tries.clone());
        flow.json::<Vec<Vec<u32>>>()
            .split(|rows| rows.into_inner())
            .split(|row| row)
            .inspect(move |n| note.push(*n))
            .try_map(move |n| match n {
                9 | 7 => Err("poison").fault(),
                8 => {
                    let mut tries = tries.lock().unwrap();
                    *tries += 1;
                    if *tries < 4 { Err("busy").transient() } else { Ok(n) }
                }
                n => Ok(n),
            })
    })
    .await;
    let mut parts: Vec<_> =
        ran.faults.iter().map(|fault| fault.records[0].part.indices().to_vec()).collect();
    parts.sort();
    assert_eq!((ran.fates(), parts), ((0, 0, 1), vec![vec![0, 0], vec![1, 0]]));
    let times = |n| seen.all().into_iter().filter(|seen| *seen == n).count();
    assert_eq!((times(7), times(9), times(8)), (1, 1, 4));
}
