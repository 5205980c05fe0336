//! `faults …`, end to end.

mod support;

use std::io::Write;

use serde_json::{Value, json};
use streambreaker_operator::Exit;
use support::{Keeps, World, ids};

const EVERYWHERE: [Keeps; 3] = [Keeps::Lake, Keeps::File, Keeps::FileAlone];

#[tokio::test]
async fn faults_are_listed_wherever_they_are_kept() {
    for keeps in EVERYWHERE {
        let world = World::with_faults(keeps).await;
        let before = world.bytes();
        let list = world.ask(&["faults", "ls", "--json"]).await.json();
        assert_eq!((&list["total"], &list["skipped"]), (&json!(7), &json!([])), "{keeps:?}");
        let fault = &list["faults"].as_array().unwrap().iter().find(|f| f["class"] == "transient");
        let fault = fault.unwrap();
        assert_eq!((&fault["pipeline"], &fault["resource"]), (&json!("search"), &json!("index")));
        assert_eq!((&fault["position"], &fault["shard"]), (&json!("33"), &json!("1")));
        assert_eq!(fault["timestamp"], "2026-11-26T08:00:00.000000Z");
        assert_eq!(fault["ledger"], json!({ "state": "pending" }));
        assert_eq!(fault["error"]["message"], "the index is full");

        let text = world.ask(&["faults", "ls"]).await;
        assert_eq!(text.exit, Exit::Done);
        assert_eq!(text.out.lines().count(), 1 + 7 + 1, "{}", text.out);
        assert!(text.out.contains("totals/validate"), "{}", text.out);
        assert!(text.out.ends_with("7 faults\n"), "{}", text.out);
        let two = world.ask(&["faults", "ls", "--limit", "2"]).await;
        assert!(two.out.ends_with("the newest 2 of 7 faults: --limit\n"), "{}", two.out);
        assert_eq!(world.bytes(), before, "who looks changes nothing");
        assert!(world.tasks.lock().unwrap().len() == 1, "who looks builds no component");
    }
}

#[tokio::test]
async fn faults_are_selected_by_all_that_they_say() {
    for keeps in EVERYWHERE {
        let world = World::with_faults(keeps).await;
        let all = world.ask(&["faults", "ls", "--json"]).await.json();
        let of = |which: &dyn Fn(&Value) -> bool| {
            let faults: Vec<Value> =
                all["faults"].as_array().unwrap().iter().filter(|f| which(f)).cloned().collect();
            ids(&json!({ "faults": faults }))
        };
        let one = all["faults"][0].clone();
        let text = |field: &str| one[field].as_str().unwrap().to_owned();
        let cases: [(&[&str], Vec<String>); 11] = [
            (&["--pipeline", "search"], of(&|f| f["pipeline"] == "search")),
            (&["--stage", "validate"], of(&|f| f["stage"] == "validate")),
            (&["--class", "transient"], of(&|f| f["class"] == "transient")),
            (&["--resource", "index"], of(&|f| f["resource"] == "index")),
            (&["--release", "1.4.2"], of(&|_| true)),
            (&["--release", "1.4.3"], vec![]),
            (
                &["--fingerprint", &text("fingerprint")],
                of(&|f| f["fingerprint"] == one["fingerprint"]),
            ),
            (&["--id", &text("id")], of(&|f| f["id"] == one["id"])),
            (&["--since", "2026-11-26T08:00:00Z", "--until", "2026-11-27"], of(&|_| true)),
            (&["--since", "3h"], vec![]),
            (&["--since", "5h", "--until", "3h", "--stream", "orders"], of(&|_| true)),
        ];
        for (words, expected) in cases {
            let words = [&["faults", "ls", "--json"], words].concat();
            let found = world.ask(&words).await.json();
            assert_eq!(ids(&found), expected, "{words:?} {keeps:?}");
        }
    }
}

#[tokio::test]
async fn faults_are_grouped_the_most_frequent_first() {
    for keeps in EVERYWHERE {
        let world = World::with_faults(keeps).await;
        let kinds = world.ask(&["faults", "group", "--json"]).await.json();
        let kinds = kinds["kinds"].as_array().unwrap();
        let counts: Vec<u64> = kinds.iter().map(|kind| kind["count"].as_u64().unwrap()).collect();
        assert_eq!(counts, [4, 1, 1, 1]);
        assert_eq!(kinds[0]["message"], "a round number");
        assert_eq!(kinds[0]["releases"], json!({ "1.4.2": 4 }));
        assert_eq!(kinds[0]["first"], "2026-11-26T08:00:00.000000Z");
        let text = world.ask(&["faults", "group"]).await.out;
        assert!(text.ends_with("7 faults of 4 kinds\n"), "{text}");
        let none = world.ask(&["faults", "group", "--since", "1h"]).await;
        assert_eq!((none.exit, &*none.out), (Exit::Done, "no faults\n"));
    }
}

#[tokio::test]
async fn l12_a_fault_is_shown_and_no_terminal_is_harmed() {
    for keeps in EVERYWHERE {
        let world = World::with_faults(keeps).await;
        let list = world.ask(&["faults", "ls", "--stage", "json", "--json"]).await.json();
        let id = &ids(&list)[0];
        for words in [&["faults", "show", id][..], &["faults", "show", id, "--full"]] {
            let shown = world.ask(words).await;
            assert_eq!(shown.exit, Exit::Done);
            assert!(!shown.out.replace('\n', "").contains(char::is_control), "{}", shown.out);
            assert!(shown.out.contains(r#"{"id":"13\u{1b}[2J\u{9b}1m""#), "{}", shown.out);
            assert!(shown.out.contains("customer-3") && shown.out.contains("orders/1 @ 13"));
        }
        let json = world.ask(&["faults", "show", id, "--json"]).await;
        assert!(!json.out.trim_end().contains(char::is_control), "{}", json.out);
        let json = json.json();
        assert_eq!((&json["fault"]["id"], &json["ledger"]), (&json!(id), &json!([])));
        // the same event as it was stored
        let fault = serde_json::to_vec(&json["fault"]).unwrap();
        let fault = streambreaker::FaultEvent::from_json(&fault).unwrap();
        assert_eq!(*fault.records[0].record.payload(), *support::record(13).payload());
    }
}

#[tokio::test]
async fn what_is_not_there_is_told_with_what_to_do() {
    let world = World::with_faults(Keeps::Lake).await;
    let unknown = "00000000-0000-0000-0000-000000000001";
    world
        .ask(&["faults", "show", unknown])
        .await
        .says(Exit::No, &[unknown, "`faults ls` lists them"]);
    let stream = world.ask(&["faults", "ls", "--stream", "oders"]).await;
    stream.says(Exit::Unusable, &["no stream \"oders\"", "there is orders"]);
    world
        .ask(&["faults", "ls", "--since", "yesterday"])
        .await
        .says(Exit::Unusable, &["yesterday", "15m"]);
    for words in [&["faults", "ls"][..], &["faults", "group"], &["resubmit"]] {
        let turned = [words, &["--since", "5h", "--until", "2026-11-01"]].concat();
        world.ask(&turned).await.says(Exit::Unusable, &["--since is not before --until"]);
    }
    world
        .ask(&["faults", "ls", "--class", "fatl"])
        .await
        .says(Exit::Unusable, &["`fatal`", "`panic`"]);
    world.ask(&["faults", "show", "7"]).await.says(Exit::Unusable, &["invalid value '7'"]);
    world.ask(&["faults", "show"]).await.says(Exit::Unusable, &["UUID"]);
    let nowhere = world.path("nowhere");
    let nowhere = nowhere.to_str().unwrap();
    let lake = world.ask(&["faults", "ls", "--lake", nowhere]).await;
    lake.says(Exit::Unusable, &["no lake in", "nowhere", "check the path"]);
    assert!(!world.path("nowhere").exists(), "who looks makes no lake");
    let file = world.ask(&["faults", "ls", "--faults", nowhere]).await;
    file.says(Exit::Unusable, &["no file of faults", "--faults FILE"]);

    let nothing =
        streambreaker_operator::Operator::new("orders", async |_| Err("not needed".into()));
    let nothing = support::given(&nothing, &["faults", "ls", "--json"]).await;
    nothing.says(Exit::Unusable, &["--lake DIR or --faults FILE"]);
    assert_eq!(nothing.out, "");
}

#[tokio::test]
async fn l4_a_line_that_is_no_fault_is_named_and_skipped() {
    let world = World::with_faults(Keeps::FileAlone).await;
    let mut file = std::fs::OpenOptions::new().append(true).open(world.faults_file()).unwrap();
    file.write_all(b"no fault\n{\"type\":\"fa").unwrap();
    let list = world.ask(&["faults", "ls", "--json"]).await;
    assert!(list.err.contains("line 8") && list.err.contains("line 9"), "{}", list.err);
    let list = list.json();
    assert_eq!((list["total"].as_u64(), list["skipped"].as_array().unwrap().len()), (Some(7), 2));
}

#[tokio::test]
async fn faults_are_looked_for_where_the_command_says() {
    let (lake, file) =
        (World::with_faults(Keeps::Lake).await, World::with_faults(Keeps::FileAlone).await);
    let nowhere = streambreaker_operator::Operator::new("orders", async |_| Err("no".into()));
    let ask = async |words: &[&str]| support::given(&nowhere, words).await;
    let (path, faults) = (lake.path("lake"), file.faults_file());
    let (path, faults) = (path.to_str().unwrap(), faults.to_str().unwrap());
    for at in [&["--lake", path][..], &["--faults", faults], &["--faults", faults, "--lake", path]]
    {
        let list = ask(&[&["faults", "ls", "--json"], at].concat()).await.json();
        assert_eq!(list["total"], 7, "{at:?}");
        let kinds = ask(&[&["faults", "group", "--json"], at].concat()).await.json();
        assert_eq!(kinds["kinds"][0]["count"], 4, "{at:?}");
        let shown = ask(&[&["faults", "show", &ids(&list)[0], "--json"], at].concat()).await.json();
        assert_eq!(shown["ledger"], json!([]), "{at:?}");
    }
    // all of a file's, noted in the lake's ledger
    let dismissed = ["faults", "dismiss", "--all", "--faults", faults, "--lake", path];
    let yes = ["--yes", "--why", "a test", "--who", "ada", "--json"];
    assert_eq!(ask(&[&dismissed[..], &yes].concat()).await.json()["dismissed"], 7);
    assert!(!file.path("faults.ndjson.ledger").exists());
    assert_eq!(ask(&["faults", "ls", "--open", "--lake", path, "--json"]).await.json()["total"], 0);
}

#[tokio::test]
async fn the_faults_of_other_processors_are_not_ours() {
    let world = World::with_faults(Keeps::Lake).await;
    let others = world.clone();
    let operator =
        streambreaker_operator::Operator::new("others", async move |task| others.component(task))
            .lake_in(world.path("lake"));
    let list = support::given(&operator, &["faults", "ls", "--json"]).await.json();
    assert_eq!(list["total"], 0);
}
