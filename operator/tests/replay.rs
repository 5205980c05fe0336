//! `replay` and `repair`, end to end.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use streambreaker::admin::Listener;
use streambreaker::memory::Stream;
use streambreaker::{Position, Shutdown};
use streambreaker_operator::{Exit, Task};
use support::{Keeps, World, given, record};
use tokio::time::Instant;

async fn stored() -> World {
    let world = World::new(Keeps::Lake);
    world.store().await;
    world
}

fn numbers(pipeline: &str, of: impl Fn(u64) -> bool) -> Vec<String> {
    let mut done: Vec<String> = (0..support::RECORDS)
        .filter(|n| *n != 13 && of(*n))
        .map(|n| format!("{pipeline}:{n}"))
        .collect();
    done.sort();
    done
}

#[tokio::test]
async fn l6_a_dry_run_says_how_much_it_would_be_and_changes_nothing() {
    let world = stored().await;
    let before = world.bytes();
    let dry = world.ask(&["replay", "--json"]).await;
    assert!(dry.err.contains("nothing was sent; --send"), "{}", dry.err);
    let dry = dry.json();
    let bytes: usize = (0..support::RECORDS).map(|n| record(n).size()).sum();
    assert_eq!(
        (&dry["dry_run"], &dry["records"], &dry["bytes"]),
        (&json!(true), &json!(40), &json!(bytes))
    );
    assert_eq!(dry["pipelines"], json!(["search", "totals"]));
    let text = world.ask(&["replay", "--pipeline", "totals"]).await;
    assert_eq!(text.exit, Exit::Done);
    assert!(text.out.starts_with("dry run: 40 records of orders ("), "{}", text.out);
    assert!(text.out.ends_with("would go into totals\n"), "{}", text.out);
    assert_eq!(world.bytes(), before);
    assert!(world.take_done().is_empty());
}

#[tokio::test]
async fn l6_what_is_selected_is_replayed_and_nothing_else() {
    let world = stored().await;
    world.mend();
    world.raise_index();
    type Which<'a> = &'a dyn Fn(u64) -> bool;
    let cases: [(&[&str], Which<'_>); 9] = [
        (&[], &|_| true),
        (&["--type", "order-even"], &|n| n % 2 == 0),
        (&["--key", "customer-1", "--key", "hex:637573746f6d65722d32"], &|n| {
            n % 5 == 1 || n % 5 == 2
        }),
        (&["--id", "7"], &|n| n == 7),
        (&["--shard", "1", "--last", "9"], &|n| n % 2 == 1 && n <= 9),
        (&["--first", "30"], &|n| n >= 30),
        (&["--since", "2026-11-01T12:00:00Z"], &|n| n >= 12),
        (&["--until", "2026-11-02"], &|n| n < 24),
        (
            &[
                "--stream",
                "orders",
                "--since",
                "2026-11-01T03:00:00Z",
                "--until",
                "2026-11-01T05:00:00Z",
            ],
            &|n| (3..5).contains(&n),
        ),
    ];
    for (words, of) in cases {
        let words = [
            &[
                "replay",
                "--pipeline",
                "totals",
                "--send",
                "--why",
                "a test",
                "--who",
                "ada",
                "--json",
            ],
            words,
        ]
        .concat();
        let sent = world.ask(&words).await.json();
        assert_eq!(world.take_done(), numbers("totals", of), "{words:?}");
        let records = (0..support::RECORDS).filter(|n| of(*n)).count();
        assert_eq!(sent["records"], records, "{words:?}");
        assert_eq!(sent["report"]["pipelines"]["search"]["enabled"], false);
    }
    assert!(world.tasks.lock().unwrap().iter().all(|task| *task == Task::Replay));
}

#[tokio::test(start_paused = true)]
async fn l6_a_run_that_is_broken_off_goes_on_where_it_was() {
    let world = stored().await;
    world.mend();
    let operator =
        world.operator().stop(|| Shutdown::on(tokio::time::sleep(Duration::from_millis(300))));
    let words = [
        "replay",
        "--pipeline",
        "totals",
        "--rate",
        "50",
        "--send",
        "--why",
        "a test",
        "--who",
        "ada",
        "--json",
    ];
    let first = given(&operator, &words).await;
    let run = first.document()["run"].as_str().unwrap().to_owned();
    first.says(Exit::Partly, &[&format!("--resume {run}")]);
    let mut done = world.take_done();
    // 50 a second, for 300 ms; 13 is no order
    assert!((13..=16).contains(&done.len()), "{done:?}");

    let words = [
        "replay",
        "--pipeline",
        "totals",
        "--resume",
        &run,
        "--send",
        "--why",
        "it goes on",
        "--who",
        "ada",
    ];
    assert_eq!(world.ask(&words).await.exit, Exit::Done);
    done.extend(world.take_done());
    done.sort();
    assert_eq!(done, numbers("totals", |_| true), "each of them once");

    let other = [&words[..], &["--type", "order-even"]].concat();
    world.ask(&other).await.says(Exit::Unusable, &["begun with another selection"]);
    // what it has settled, it has settled for that pipeline
    let other: Vec<&str> =
        words.iter().map(|word| if *word == "totals" { "search" } else { *word }).collect();
    world.ask(&other).await.says(Exit::Unusable, &["or for other pipelines"]);
    assert!(world.take_done().is_empty());
}

#[tokio::test(start_paused = true)]
async fn l6_a_run_of_so_long_ago_is_resumed_with_the_times_of_then() {
    let world = stored().await;
    world.mend();
    let send = ["--pipeline", "totals", "--send", "--why", "a test", "--who", "ada"];
    let slow = ["replay", "--since", "25d", "--until", "24d", "--rate", "50"];
    let stopped =
        world.operator().stop(|| Shutdown::on(tokio::time::sleep(Duration::from_millis(100))));
    let first = given(&stopped, &[&slow[..], &send].concat()).await;
    first.says(Exit::Partly, &["it was not finished: the same command goes on with --resume "]);
    let mut done = world.take_done();
    let (_, again) = first.err.rsplit_once("goes on with ").unwrap();
    let again: Vec<&str> = again.trim().split(' ').collect();
    let [since, until] = ["2026-11-01T12:00:00.000000Z", "2026-11-02T12:00:00.000000Z"];
    assert_eq!(again[2..], ["--since", since, "--until", until]);
    world.clock.set("2026-11-26T14:00:00Z");
    let later = world.ask(&[&["replay"], &again[..], &send].concat()).await;
    assert_eq!(later.exit, Exit::Done, "{}", later.err);
    done.extend(world.take_done());
    done.sort();
    assert_eq!(done, numbers("totals", |n| (12..36).contains(&n)));
}

#[tokio::test]
async fn a_gap_is_repaired_from_the_lake() {
    let world = stored().await;
    world.mend();
    world.raise_index();
    let before = world.bytes();
    let gap = ["repair", "--shard", "1", "--from", "11", "--to", "21", "--json"];
    let dry = world.ask(&gap).await.json();
    let range = &dry["ranges"][0];
    assert_eq!(
        (&dry["dry_run"], &range["records"], &range["covered"]),
        (&json!(true), &json!(5), &json!(true))
    );
    assert_eq!((world.bytes(), world.take_done().len()), (before, 0));

    let sent = [&gap[..], &["--send", "--why", "the gap of last night", "--who", "ada"]].concat();
    let sent = world.ask(&sent).await.json();
    assert_eq!(sent["ranges"][0]["records"], 5);
    let of = |n: u64| n % 2 == 1 && (11..21).contains(&n);
    assert_eq!(world.take_done(), [numbers("search", of), numbers("totals", of)].concat());
    assert!(world.tasks.lock().unwrap().iter().all(|task| *task == Task::Repair));
}

#[tokio::test(start_paused = true)]
async fn a_repair_goes_into_the_pipelines_that_are_named_and_at_a_rate() {
    let world = stored().await;
    world.mend();
    let gap = ["repair", "--stream", "orders", "--shard", "1", "--from", "21", "--to", "31"];
    let how = ["--pipeline", "totals", "--rate", "2"];
    let by = ["--send", "--why", "a test", "--who", "ada"];
    let began = Instant::now();
    let sent = world.ask(&[&gap[..], &how, &by].concat()).await;
    let took = began.elapsed();
    assert_eq!(sent.exit, Exit::Done, "{}", sent.err);
    assert_eq!(world.take_done(), numbers("totals", |n| n % 2 == 1 && (21..31).contains(&n)));
    // five of them: the first at once
    let (least, most) = (Duration::from_millis(2_000), Duration::from_millis(2_600));
    assert!(took >= least && took <= most, "{took:?}");
    let other = [&gap[..2], &["oders"], &gap[3..]].concat();
    world.ask(&other).await.says(Exit::Unusable, &["there is orders"]);
}

#[tokio::test]
async fn s2_what_the_process_that_runs_has_missed_is_repaired_by_one_command() {
    let world = stored().await;
    world.mend();
    world.raise_index();
    // its stream forgets records before they are read
    let stream = Stream::new("orders", 2);
    (0..support::RECORDS).for_each(|n| stream.push_record(record(n)).unwrap());
    stream.truncate(1, &Position::from(9));
    let component = world.component(Task::Run).unwrap().source(stream.consumer("g"));
    let processor = component.build().unwrap();
    let serving = Listener::bind("127.0.0.1:0").await.unwrap().spawn(processor.handle());
    let url = format!("http://{}", serving.local_addr().unwrap());
    let (trigger, shutdown) = Shutdown::by_hand();
    let run = tokio::spawn(async move { processor.run(shutdown).await.unwrap() });
    while !stream.is_settled("g") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let gone = |n: u64| n % 2 == 1 && n < 9;
    let read = |n: u64| !gone(n);
    assert_eq!(world.take_done(), [numbers("search", read), numbers("totals", read)].concat());

    let status = world.ask(&["status", "--url", &url]).await.out;
    assert!(
        status.contains("orders/1: 1 up to 9 was lost before it was read: `repair`"),
        "{status}"
    );
    let dry = world.ask(&["repair", "--url", &url, "--json"]).await.json();
    let range = &dry["ranges"][0];
    assert_eq!((&range["records"], &range["covered"]), (&json!(4), &json!(true)), "{dry}");
    let by = ["--send", "--why", "the gap of last night", "--who", "ada"];
    let sent = world.ask(&[&["repair", "--url", &url], &by[..]].concat()).await;
    assert_eq!((sent.exit, &*sent.err), (Exit::Done, ""), "it has no --resume");
    assert_eq!(world.take_done(), [numbers("search", gone), numbers("totals", gone)].concat());
    trigger.pull();
    run.await.unwrap();
    serving.stop().await;
    let gone = world.ask(&["repair", "--url", &url]).await;
    gone.says(Exit::Failed, &["nobody answers on", "--report FILE"]);
}

#[tokio::test]
async fn the_report_of_a_run_says_what_is_to_be_repaired() {
    let world = stored().await;
    world.mend();
    let report = world.path("report.json");
    let gap =
        |from: &str, to: &str| json!({"stream": "orders", "shard": "0", "from": from, "to": to});
    let write = |gaps: Value, passed: Value| {
        let pipelines = json!({"search": {"passed_by": passed}, "totals": {}});
        std::fs::write(&report, json!({"gaps": gaps, "pipelines": pipelines}).to_string()).unwrap();
    };
    let words = ["repair", "--report", report.to_str().unwrap(), "--json"];
    let send = [&words[..], &["--send", "--why", "a test", "--who", "ada"]].concat();

    write(
        json!([gap("4", "8")]),
        json!([{"stream": "orders", "shard": "1", "first": "21", "last": "25"}]),
    );
    let sent = world.ask(&send).await.json();
    let ranges = sent["ranges"].as_array().unwrap();
    assert_eq!(
        (&ranges[0]["pipelines"], &ranges[1]["pipelines"]),
        (&json!(["search", "totals"]), &json!(["search"]))
    );
    let done = world.take_done();
    let passed = |n: u64| n % 2 == 1 && (21..=25).contains(&n);
    let gone = |n: u64| n == 4 || n == 6;
    assert_eq!(
        done,
        [numbers("search", |n| passed(n) || gone(n)), numbers("totals", gone)].concat()
    );

    // what the lake has only in part is said, and repaired as far as it goes
    write(json!([gap("36", "100")]), json!([]));
    let part = world.ask(&words).await;
    part.says(Exit::Partly, &["orders/0: 36 up to 100", "does not have all of it"]);
    assert_eq!(part.document()["ranges"][0]["records"], 2);

    write(json!([]), json!([]));
    assert_eq!(world.ask(&words).await.json()["ranges"], json!([]));
    std::fs::write(&report, "the report").unwrap();
    world.ask(&words).await.says(Exit::Unusable, &["is no report of `run --json`"]);
    let nowhere = world.path("nowhere.json");
    let nowhere = world.ask(&["repair", "--report", nowhere.to_str().unwrap()]).await;
    nowhere.says(Exit::Unusable, &["nowhere.json cannot be read"]);
    let turned = ["repair", "--shard", "0", "--from", "8", "--to", "8"];
    world.ask(&turned).await.says(Exit::Unusable, &["--from is not before --to"]);
    let nothing = world.ask(&["repair"]).await;
    nothing.says(Exit::Unusable, &["--report FILE", "--url", "--shard, --from and --to"]);
    world.ask(&["repair", "--from", "1"]).await.says(Exit::Unusable, &["--shard", "--to"]);
}

#[tokio::test]
async fn a_replay_that_cannot_be_used_says_what_can() {
    let world = stored().await;
    world.ask(&["replay", "--send"]).await.says(Exit::Unusable, &["--why"]);
    world.ask(&["replay", "--send", "--why", "  "]).await.says(Exit::Unusable, &["say why"]);
    world
        .ask(&["replay", "--send", "--why", "a", "--who", ""])
        .await
        .says(Exit::Unusable, &["--who NAME"]);
    world.ask(&["replay", "--pipeline", "total"]).await.says(Exit::Unusable, &["total", "totals"]);
    world.ask(&["replay", "--stream", "oders"]).await.says(Exit::Unusable, &["there is orders"]);
    world.ask(&["replay", "--since", "12"]).await.says(Exit::Unusable, &["2026-11-26T08:00:00Z"]);
    let turned = ["replay", "--since", "5h", "--until", "6h"];
    world.ask(&turned).await.says(Exit::Unusable, &["--since is not before --until"]);
    world.ask(&["replay", "--key", "hex:0"]).await.says(Exit::Unusable, &["hex:00ff"]);
    world.ask(&["replay", "--rate", "0"]).await.says(Exit::Unusable, &["--rate"]);
    world.ask(&["replay", "--resume", "7"]).await.says(Exit::Unusable, &["--resume"]);
    let empty = World::new(Keeps::Lake);
    empty.ask(&["replay"]).await.says(Exit::Unusable, &["no lake in"]);
    let file = World::new(Keeps::FileAlone);
    file.ask(&["replay"]).await.says(Exit::Unusable, &["this component has no lake", "--lake DIR"]);
    let broken = streambreaker_operator::Operator::new("orders", async |_| {
        Err("the database is away".into())
    })
    .lake_in(world.path("lake"));
    let broken = given(&broken, &["replay"]).await;
    broken.says(Exit::Unusable, &["cannot be put together: the database is away"]);
    let renamed = world.clone();
    let renamed =
        streambreaker_operator::Operator::new("order", async move |task| renamed.component(task))
            .lake_in(world.path("lake"));
    given(&renamed, &["replay"]).await.says(Exit::Unusable, &["\"orders\"", "\"order\""]);
}
