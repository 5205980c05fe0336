//! `resubmit`, `faults dismiss` and `faults lessons`, end to end.

mod support;

use std::time::Duration;

use serde_json::json;
use streambreaker::{Record, Shutdown};
use streambreaker_operator::{Exit, Task};
use support::{Keeps, World, given, ids};
use tokio::time::Instant;

const EVERYWHERE: [Keeps; 3] = [Keeps::Lake, Keeps::File, Keeps::FileAlone];
const SEND: [&str; 5] = ["--send", "--why", "round numbers are orders, too", "--who", "ada"];

#[tokio::test]
async fn l8_a_dry_run_says_what_would_be_sent_and_changes_nothing() {
    for keeps in EVERYWHERE {
        let world = World::with_faults(keeps).await;
        let before = world.bytes();
        let dry = world.ask(&["resubmit", "--json"]).await;
        assert!(dry.err.contains("nothing was sent; --send"), "{}", dry.err);
        let dry = dry.json();
        assert_eq!((&dry["dry_run"], &dry["streams"]["orders"]["sent"]), (&json!(true), &json!(7)));
        let text = world.ask(&["resubmit", "--stage", "validate", "--max", "3"]).await;
        assert!(
            text.out.contains("orders: dry run: 3 faults (3 records) would be sent"),
            "{}",
            text.out
        );
        assert!(text.out.contains("there are more: --max"), "{}", text.out);
        assert_eq!(world.bytes(), before, "{keeps:?}");
        assert!(world.take_done().is_empty());
    }
}

#[tokio::test]
async fn l8_faults_are_sent_once_to_the_pipeline_that_refused_them() {
    for keeps in EVERYWHERE {
        let world = World::with_faults(keeps).await;
        world.mend();
        world.raise_index();
        let sent = world.ask(&[&["resubmit", "--json"], &SEND[..]].concat()).await;
        assert_eq!(sent.exit, Exit::No, "13 is no order yet: {}", sent.err);
        let report = &sent.document()["streams"]["orders"];
        assert_eq!((&report["sent"], &report["succeeded"]), (&json!(7), &json!(5)), "{keeps:?}");
        assert_eq!(report["failed_again"].as_object().unwrap().len(), 2);
        let expected = ["search:33", "totals:0", "totals:10", "totals:20", "totals:30"];
        assert_eq!(world.take_done(), expected);
        assert_eq!(world.tasks.lock().unwrap().last(), Some(&Task::Resubmit));

        // what became of them
        let open = world.ask(&["faults", "ls", "--open", "--json"]).await.json();
        assert_eq!(open["total"], 2, "the new faults of 13");
        let new = &open["faults"][0];
        let kinds = world.ask(&["faults", "group", "--open", "--json"]).await.json();
        let kinds = kinds["kinds"].as_array().unwrap();
        assert_eq!(kinds.iter().map(|kind| kind["count"].as_u64().unwrap()).sum::<u64>(), 2);
        let parent = world.ask(&["faults", "show", new["parent"].as_str().unwrap()]).await.out;
        assert!(parent.contains("failed again (1 fault) by ada"), "{parent}");
        assert!(
            parent.contains(&format!("became     {}", new["id"].as_str().unwrap())),
            "{parent}"
        );
        assert_eq!((&new["resubmits"], &new["release"]), (&json!(1), &json!("1.4.3")));
        let done = world.ask(&["faults", "ls", "--stage", "validate", "--json"]).await.json();
        let ledger = json!({ "state": "succeeded", "release": "1.4.3" });
        assert!(done["faults"].as_array().unwrap().iter().all(|fault| fault["ledger"] == ledger));
        let shown = world.ask(&["faults", "show", &ids(&done)[0]]).await.out;
        assert!(shown.contains("succeeded by ada: round numbers are orders, too"), "{shown}");

        // the same faults twice have one effect; what fails again has an end
        for (sent, refused) in [(2, 0), (2, 0), (0, 2)] {
            let again = world.ask(&[&["resubmit", "--json"], &SEND[..]].concat()).await;
            let report = &again.document()["streams"]["orders"];
            assert_eq!(report["sent"], sent, "{report}");
            assert_eq!(report["refused"].as_object().unwrap().len(), refused, "{report}");
        }
        assert!(world.take_done().is_empty());
        assert_eq!(world.path("faults.ndjson.ledger").exists(), keeps == Keeps::FileAlone);
    }
}

#[tokio::test]
async fn l8_a_fault_that_was_mended_by_hand_is_sent_when_it_is_trusted() {
    let world = World::with_faults(Keeps::File).await;
    let file = world.faults_file();
    let faults = std::fs::read_to_string(&file).unwrap();
    // number 20, to which `validate` says no, becomes 21
    let mended = faults.replace(r#"\"n\":20}"#, r#"\"n\":21}"#);
    assert_ne!(mended, faults);
    std::fs::write(&file, mended).unwrap();
    let words = ["resubmit", "--stage", "validate", "--json"];
    let dry = world.ask(&words).await;
    assert_eq!(dry.exit, Exit::No);
    let report = &dry.document()["streams"]["orders"];
    assert_eq!(report["sent"], 3);
    let refused = report["refused"].as_object().unwrap().values().next().unwrap();
    assert_eq!(refused, &json!({ "refused": "other_record", "position": "20" }));
    let text = world.ask(&words[..3]).await;
    text.says(Exit::No, &["--trusted sends"]);
    assert!(text.out.contains("record 20 is not the one that the lake holds"), "{}", text.out);
    let trusted = [&words[..], &["--trusted", "--stop-at", "1"], &SEND].concat();
    let sent = world.ask(&trusted).await.document();
    assert_eq!(sent["streams"]["orders"]["succeeded"], 1, "{sent}");
    assert_eq!(world.take_done(), ["totals:21"]);
}

#[tokio::test]
async fn l8_what_somebody_sent_and_died_over_is_sent_only_when_that_is_said() {
    for keeps in EVERYWHERE {
        let world = World::with_faults(keeps).await;
        world.hang_index();
        let words = [&["resubmit", "--class", "transient"], &SEND[..]].concat();
        tokio::select! {
            biased;
            ran = world.ask(&words) => panic!("{}{}", ran.out, ran.err),
            () = world.index_asked.notified() => {}
        }
        world.raise_index();
        let of_class = ["faults", "ls", "--class", "transient", "--json"];
        let left = world.ask(&of_class).await.json()["faults"][0].clone();
        assert_eq!(left["ledger"], json!({ "state": "resubmitted", "attempt": 1 }), "{keeps:?}");
        let refused = world.ask(&words).await;
        assert_eq!(refused.exit, Exit::No, "{}", refused.out);
        let named = format!("{}: it was sent before", left["id"].as_str().unwrap());
        assert!(refused.out.contains(&named), "{}", refused.out);
        refused.says(Exit::No, &["--unfinished sends"]);
        assert!(world.take_done().is_empty());

        let said = [&words[..], &["--unfinished", "--json"]].concat();
        let sent = world.ask(&said).await.json();
        assert_eq!(sent["streams"]["orders"]["succeeded"], 1, "{sent}");
        assert_eq!(world.take_done(), ["search:33"]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_decided_within_its_span_stays_pending_and_is_sent_later() {
    for keeps in EVERYWHERE {
        let world = World::with_faults(keeps).await;
        world.hang_index();
        let words = [&["resubmit", "--class", "transient", "--json"], &SEND[..]].concat();
        // the index itself gives up after a second, which would be a fault
        let given_back = world.ask(&[&words[..], &["--within", "100ms"]].concat()).await;
        assert_eq!(given_back.exit, Exit::Partly, "{}{}", given_back.out, given_back.err);
        let report = &given_back.document()["streams"]["orders"];
        let of_class = ["faults", "ls", "--class", "transient", "--json"];
        let left = world.ask(&of_class).await.json();
        assert_eq!((&report["sent"], &report["returned"]), (&json!(1), &json!(ids(&left))));
        assert_eq!(left["faults"][0]["ledger"], json!({ "state": "pending" }), "{keeps:?}");

        world.raise_index();
        let sent = world.ask(&words).await.json();
        assert_eq!(sent["streams"]["orders"]["succeeded"], 1, "{sent}");
        assert_eq!(world.take_done(), ["search:33"]);
    }
}

#[tokio::test(start_paused = true)]
async fn faults_are_sent_at_a_rate() {
    for keeps in EVERYWHERE {
        let world = World::with_faults(keeps).await;
        world.mend();
        let words =
            [&["resubmit", "--stage", "validate", "--rate", "2", "--json"], &SEND[..]].concat();
        let began = Instant::now();
        let sent = world.ask(&words).await.json();
        let took = began.elapsed();
        assert_eq!(sent["streams"]["orders"]["sent"], 4, "{sent}");
        let (due, slack) = (Duration::from_millis(1_500), Duration::from_millis(10));
        assert!(took >= due && took <= due + slack, "{took:?}");
    }
}

/// Four streams with a fault each.
async fn of_four_streams(keeps: Keeps) -> World {
    let world = World::new(keeps);
    let records = ["a", "b", "c", "d"].map(|stream| {
        Record::new(stream, "0", 10.into(), r#"{"id":"10","type":"order-even","n":10}"#)
    });
    world.store_all(records.to_vec()).await;
    let component = world.component(Task::Run).unwrap().build().unwrap();
    assert_eq!(component.process(records).await.faults.len(), 4);
    world.take_done();
    world.mend();
    world
}

#[tokio::test(start_paused = true)]
async fn limits_hold_over_all_streams() {
    for keeps in [Keeps::Lake, Keeps::File] {
        let world = of_four_streams(keeps).await;
        let began = Instant::now();
        let words = ["resubmit", "--rate", "2", "--max", "3", "--json"];
        let sent = world.ask(&[&words[..], &SEND].concat()).await.json();
        let took = began.elapsed();
        assert_eq!(sent["not_looked_at"], json!(["d"]), "{sent}");
        assert_eq!(sent["streams"].as_object().unwrap().len(), 3);
        assert_eq!(world.take_done().len(), 3);
        // the first of three at once
        let (due, slack) = (Duration::from_millis(1_000), Duration::from_millis(10));
        assert!(took >= due && took <= due + slack, "{took:?}");

        // told to end while it waits for the next stream
        let world = of_four_streams(keeps).await;
        let stop = || Shutdown::on(tokio::time::sleep(Duration::from_millis(300)));
        let words = [&["resubmit", "--rate", "1"], &SEND[..]].concat();
        let ended = given(&world.operator().stop(stop), &words).await;
        assert_eq!(ended.exit, Exit::Partly, "{}", ended.out);
        assert!(ended.out.ends_with("as it was told\nnot looked at: b, c, d\n"), "{}", ended.out);
        assert_eq!(world.take_done().len(), 1);
    }
}

#[tokio::test]
async fn l8_a_unit_is_sent_so_often_as_is_allowed() {
    for keeps in EVERYWHERE {
        let world = World::with_faults(keeps).await;
        let send = async |attempts: &str| {
            let words = ["resubmit", "--stage", "validate", "--attempts", attempts];
            world.ask(&[&words[..], &SEND].concat()).await
        };
        let first = send("1").await;
        assert!(
            first.out.contains("4 sent") && first.out.contains("4 failed again"),
            "{}",
            first.out
        );
        let open = ["faults", "ls", "--open", "--stage", "validate", "--json"];
        let new = ids(&world.ask(&open).await.json());
        let refused = send("1").await;
        refused.says(Exit::No, &["--attempts N sends"]);
        assert!(
            refused.out.contains("0 sent") && refused.out.contains("4 refused"),
            "{}",
            refused.out
        );
        for id in new {
            assert!(
                refused.out.contains(&format!("{id}: it has been sent 1 time\n")),
                "{}",
                refused.out
            );
        }
        // three times is what it is unless told: a fourth has to be asked for
        for sent in ["4 sent", "4 sent", "0 sent"] {
            let again = send("3").await;
            assert!(again.out.contains(sent), "{}", again.out);
        }
        let again = send("4").await;
        assert!(again.out.contains("4 sent"), "{}", again.out);
    }
}

#[tokio::test]
async fn l8_a_lake_that_comes_later_takes_over_what_was_noted_before() {
    let mut world = World::with_faults(Keeps::FileAlone).await;
    world.mend();
    let words = [&["resubmit", "--stage", "validate"], &SEND[..]].concat();
    let sent = world.ask(&words).await;
    assert!(sent.out.contains("4 sent") && sent.out.contains("4 succeeded"), "{}", sent.out);
    let ledger = world.path("faults.ndjson.ledger");

    world.keeps = Keeps::File;
    world.store().await;
    for words in [&words[..], &["faults", "ls"], &["faults", "dismiss", "--all"]] {
        let refused = world.ask(words).await;
        refused
            .says(Exit::Unusable, &["faults.ndjson.ledger", "move what lies there into the lake"]);
    }
    let (from, to) =
        (ledger.join("stream=orders/_ledger"), world.path("lake/stream=orders/_ledger"));
    std::fs::rename(from, to).unwrap();
    std::fs::remove_dir_all(ledger).unwrap();
    let again = world.ask(&words).await;
    assert!(
        again.out.contains("0 sent") && again.out.contains("4 settled before"),
        "{}",
        again.out
    );
}

#[tokio::test]
async fn it_ends_when_too_many_fail_again() {
    let world = World::faulted(Keeps::Lake, 160).await;
    let which = ["resubmit", "--stage", "validate", "--json"];
    assert_eq!(world.ask(&which).await.json()["streams"]["orders"]["sent"], 16);
    // they are not mended, and the tenth is the first at which it is judged
    let stopped = world.ask(&[&which[..], &SEND].concat()).await;
    assert_eq!(stopped.exit, Exit::No, "{}", stopped.err);
    let report = stopped.document()["streams"]["orders"].clone();
    assert_eq!(
        (&report["sent"], &report["stopped"], &report["more"]),
        (&json!(10), &json!(true), &json!(true))
    );
    let text = world.ask(&[&["resubmit", "--stage", "validate"], &SEND[..]].concat()).await;
    assert_eq!(text.exit, Exit::No);
    assert!(text.out.contains("stopped: too many failed again"), "{}", text.out);
    assert!(!text.out.contains("run it again"), "{}", text.out);

    // how many is too many is said by the command
    let world = World::faulted(Keeps::Lake, 400).await;
    world.mend();
    let some = [&["resubmit", "--json", "--stop-at", "0.02"], &SEND[..]].concat();
    let stopped = world.ask(&some).await.document()["streams"]["orders"].clone();
    assert_eq!(stopped["stopped"], true, "13 is no order: {stopped}");
    let world = World::faulted(Keeps::Lake, 400).await;
    world.mend();
    let all = [&["resubmit", "--json", "--stop-at", "1"], &SEND[..]].concat();
    let sent = world.ask(&all).await.document()["streams"]["orders"].clone();
    assert_eq!((&sent["stopped"], &sent["more"]), (&json!(false), &json!(false)), "{sent}");
    assert_eq!((&sent["sent"], &sent["succeeded"]), (&json!(43), &json!(40)), "{sent}");
}

#[tokio::test]
async fn it_is_learned_what_time_alone_has_mended() {
    for keeps in EVERYWHERE {
        let world = World::with_faults(keeps).await;
        world.raise_index();
        let sent = world.ask(&[&["resubmit", "--class", "transient"], &SEND[..]].concat()).await;
        assert_eq!(sent.exit, Exit::Done, "{}", sent.err);
        let learned = world.ask(&["faults", "lessons", "--json"]).await.json();
        let lessons = learned["lessons"].as_array().unwrap();
        let of = |stage: &str| lessons.iter().find(|lesson| lesson["stage"] == stage).unwrap();
        let (retry, other) = (of("call"), of("validate"));
        assert_eq!((&retry["unchanged"], &retry["time_alone_mended"]), (&json!(1), &json!(true)));
        assert_eq!(retry["deserves_a_retry"], false, "it says `.transient()` already");
        assert_eq!((&other["open"], &other["time_alone_mended"]), (&json!(4), &json!(false)));
        assert_eq!(other["releases"], json!({ "1.4.2": 4 }));
        let text = world.ask(&["faults", "lessons"]).await.out;
        assert!(text.contains("time alone mended them: longer retries"), "{text}");
    }
}

#[tokio::test]
async fn what_is_dismissed_is_not_sent() {
    for keeps in EVERYWHERE {
        let world = World::with_faults(keeps).await;
        let before = world.bytes();
        let words = ["faults", "dismiss", "--stage", "json"];
        let dry = world.ask(&words).await;
        assert_eq!(
            (dry.exit, &*dry.out),
            (Exit::Done, "dry run: 2 faults would be dismissed, 0 settled before\n")
        );
        assert_eq!(world.bytes(), before);
        let yes = [&words[..], &["--yes", "--why", "no orders", "--who", "ada", "--json"]].concat();
        let done = world.ask(&yes).await.json();
        assert_eq!((&done["dismissed"], &done["settled_before"]), (&json!(2), &json!(0)));
        let done = world.ask(&yes).await.json();
        assert_eq!((&done["dismissed"], &done["settled_before"]), (&json!(0), &json!(2)));
        let list = world.ask(&["faults", "ls", "--stage", "json", "--json"]).await.json();
        assert_eq!(list["faults"][0]["ledger"], json!({ "state": "dismissed" }));
        let dry = world.ask(&["resubmit", "--json"]).await.json();
        let report = &dry["streams"]["orders"];
        assert_eq!((&report["sent"], &report["settled_before"]), (&json!(5), &json!(2)));
    }
}

#[tokio::test]
async fn what_cannot_be_used_says_what_can() {
    let world = World::with_faults(Keeps::Lake).await;
    let before = world.bytes();
    world.ask(&["resubmit", "--send"]).await.says(Exit::Unusable, &["--why"]);
    world
        .ask(&["resubmit", "--stop-at", "2"])
        .await
        .says(Exit::Unusable, &["a number from 0 to 1"]);
    world.ask(&["resubmit", "--within", "60"]).await.says(Exit::Unusable, &["800ms"]);
    world.ask(&["resubmit", "--max", "many"]).await.says(Exit::Unusable, &["--max"]);
    world.ask(&["faults", "dismiss"]).await.says(Exit::Unusable, &["--id, --fingerprint", "--all"]);
    world.ask(&["faults", "dismiss", "--all", "--yes"]).await.says(Exit::Unusable, &["--why"]);
    let unknown = "00000000-0000-0000-0000-000000000001";
    let nobody = ["faults", "dismiss", "--id", unknown, "--yes", "--why", "a", "--who", "b"];
    world.ask(&nobody).await.says(Exit::No, &["of 1 id, 1 name no fault of orders"]);
    for keeps in EVERYWHERE {
        let world = World::with_faults(keeps).await;
        let resubmit = world.ask(&["resubmit", "--id", unknown]).await;
        resubmit.says(Exit::No, &["of 1 id, 1 name no fault of orders", "`faults ls`"]);
    }
    assert_eq!(world.bytes(), before);
}
