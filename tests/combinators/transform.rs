//! `filter`, `filter_map`, `map`, `try_map`, `inspect`.

use super::*;

#[tokio::test(start_paused = true)]
async fn filter_keeps_units_out_and_faults_a_panic() {
    let seen = Seen::new();
    let note = seen.clone();
    let ran = run(0..6, move |flow| {
        let note = note.clone();
        flow.json::<u32>()
            .filter(|n| {
                assert_ne!(**n, 4, "four");
                **n % 2 == 0
            })
            .inspect(move |n| note.push(**n))
    })
    .await;
    assert_eq!(ran.fates(), (2, 3, 1));
    assert_eq!(seen.all(), [0, 2]);
    assert_eq!((ran.classes(), ran.payloads()), (vec![Class::Panic], vec![vec!["4".to_owned()]]));
    assert_eq!(ran.faults[0].stage, "filter");
}

#[tokio::test(start_paused = true)]
async fn filter_map_makes_a_value_of_some_and_faults_a_panic() {
    let seen = Seen::new();
    let note = seen.clone();
    let ran = run(0..5, move |flow| {
        let note = note.clone();
        flow.json::<u32>()
            .filter_map(|n| match *n {
                3 => panic!("three"),
                n => (n % 2 == 0).then_some(n * 10),
            })
            .inspect(move |n| note.push(*n))
    })
    .await;
    assert_eq!(ran.fates(), (3, 1, 1));
    assert_eq!((seen.all(), ran.classes()), (vec![0, 20, 40], vec![Class::Panic]));
}

#[tokio::test(start_paused = true)]
async fn map_loses_the_value_with_a_panic_and_not_the_record() {
    let seen = Seen::new();
    let note = seen.clone();
    let ran = run(0..3, move |flow| {
        let note = note.clone();
        flow.json::<u32>()
            .map(|n| if *n == 1 { panic!("one") } else { n.to_string() })
            .inspect(move |text| note.push(text.clone()))
    })
    .await;
    assert_eq!((ran.fates(), seen.all()), ((2, 0, 1), vec!["0".to_owned(), "2".to_owned()]));
    assert_eq!(ran.payloads(), [["1"]]);
}

#[tokio::test(start_paused = true)]
async fn try_map_faults_errors_and_panics_and_returns_what_is_transient() {
    let records = (0..5).map(|n| record(n, n));
    let (outcome, faults) = process(records, |flow| {
        flow.json::<u32>().try_map(|n| match *n {
            1 => Err("bad").fault(),
            2 => panic!("two"),
            3 => Err("busy").transient(),
            n => Ok("7".parse::<u32>()? + n),
        })
    })
    .await;
    assert_eq!((outcome.settled.len(), outcome.faulted.len()), (2, 2));
    assert_eq!(outcome.first_returned("s", &"0".into()), Some(&Position::from(3)));
    let classes: Vec<Class> = faults.iter().map(|fault| fault.class).collect();
    assert_eq!(classes, [Class::Fault, Class::Panic]);
}

#[tokio::test(start_paused = true)]
async fn inspect_changes_nothing_and_faults_a_panic() {
    let seen = Seen::new();
    let note = seen.clone();
    let ran = run(0..4, move |flow| {
        let note = note.clone();
        flow.json::<u32>().inspect(move |n| {
            assert_ne!(**n, 2, "two");
            note.push(**n);
        })
    })
    .await;
    assert_eq!((ran.fates(), seen.all()), ((3, 0, 1), vec![0, 1, 3]));
}

#[tokio::test(start_paused = true)]
async fn i8_a_stream_without_records_or_with_filtered_ones_only_comes_to_its_end() {
    let none: [u32; 0] = [];
    assert_eq!(run(none, |flow| flow.json::<u32>()).await.fates(), (0, 0, 0));
    assert_eq!(run(0..600, |flow| flow.filter(|_| false)).await.fates(), (0, 600, 0));
}
