//! `lake …`, end to end.

#[path = "../../tests/heard/mod.rs"]
mod heard;
mod support;

use heard::Heard;
use serde_json::json;
use streambreaker_lake::{Key, Keys};
use streambreaker_operator::{Exit, Operator};
use support::{Keeps, World, given};

async fn stored() -> World {
    let world = World::new(Keeps::Lake);
    world.store().await;
    world
}

#[tokio::test]
async fn streams_and_objects_are_listed() {
    let world = stored().await;
    let before = world.bytes();
    let list = world.ask(&["lake", "ls", "--json"]).await.json();
    let stream = &list["streams"][0];
    assert_eq!((&stream["stream"], &stream["records"]), (&json!("orders"), &json!(40)));
    assert_eq!(stream["first_arrival"], "2026-11-01T00:00:00.000000Z");
    let objects = world.ask(&["lake", "ls", "orders", "--json"]).await.json();
    let objects = objects["objects"].as_array().unwrap();
    assert_eq!(objects.len() as u64, stream["objects"].as_u64().unwrap());
    assert!(objects.iter().all(|o| o["path"].as_str().unwrap().starts_with("stream=orders/date=")));
    let text = world.ask(&["lake", "ls"]).await.out;
    assert!(text.lines().nth(1).unwrap().starts_with("orders       40"), "{text}");
    assert_eq!(world.ask(&["lake", "ls", "orders"]).await.out.lines().count(), 1 + objects.len());

    let shown = world.ask(&["lake", "show", "--json"]).await.json();
    let shards = shown["shards"].as_array().unwrap();
    assert_eq!(shards[1]["covered"], json!([{ "first": "1", "last": "39", "records": 20 }]));
    let text = world.ask(&["lake", "show", "orders"]).await.out;
    assert!(text.contains("shard 0: 0 to 38, 20 records"), "{text}");

    let stats = world.ask(&["lake", "stats", "--json"]).await.json();
    let days = stats["streams"][0]["days"].as_array().unwrap();
    let of = |day: &serde_json::Value| {
        (day["day"].as_str().unwrap().to_owned(), day["records"].as_u64().unwrap())
    };
    assert_eq!(
        days.iter().map(of).collect::<Vec<_>>(),
        [("2026-11-01".to_owned(), 24), ("2026-11-02".to_owned(), 16)]
    );
    let text = world.ask(&["lake", "stats", "orders"]).await.out;
    assert!(text.starts_with("orders  40 records of 2 shards, "), "{text}");
    assert_eq!(world.bytes(), before, "who looks changes nothing");

    // what comes late is counted where it lies
    let late = support::record(102).with_arrival(support::record(0).arrival());
    world.store_all(vec![support::record(100), late]).await;
    let stats = world.ask(&["lake", "stats", "--json"]).await.json();
    let days: Vec<_> = stats["streams"][0]["days"].as_array().unwrap().iter().map(of).collect();
    assert_eq!((days[0].1, days.last()), (24, Some(&("2026-11-05".to_owned(), 2))));
}

#[tokio::test]
async fn l4_what_is_damaged_or_gone_is_named() {
    let world = stored().await;
    let sound = world.ask(&["lake", "verify"]).await;
    assert_eq!(sound.exit, Exit::Done);
    assert!(sound.out.starts_with("orders: sound, 40 records in "), "{}", sound.out);

    let whole = ["repair", "--shard", "0", "--from", "0", "--to", "38"];
    assert_eq!(world.ask(&whole).await.exit, Exit::Done);

    let objects = world.ask(&["lake", "ls", "orders", "--json"]).await.json();
    let path = |at: usize| objects["objects"][at]["path"].as_str().unwrap().to_owned();
    assert!(path(1).contains("/0-"), "of shard 0: {}", path(1));
    let torn = world.path("lake").join(path(1));
    let bytes = std::fs::read(&torn).unwrap();
    std::fs::write(&torn, &bytes[..bytes.len() / 2]).unwrap();
    let found = world.ask(&["lake", "verify", "--json"]).await;
    assert_eq!(found.exit, Exit::No);
    let found = found.document();
    assert_eq!((&found["sound"], &found["streams"][0]["sound"]), (&json!(false), &json!(false)));
    let text = world.ask(&["lake", "verify", "orders"]).await.out;
    assert!(
        text.starts_with("orders: not sound") && text.contains(&format!("damaged: {}", path(1))),
        "{text}"
    );
    let shown = world.ask(&["lake", "show"]).await;
    assert_eq!(shown.exit, Exit::No);
    assert!(
        shown.out.contains("missing between") && shown.out.contains("damaged: "),
        "{}",
        shown.out
    );

    // a replay skips it, and says so; a dry run, too
    let dry = world.ask(&["replay", "--json"]).await;
    dry.says(Exit::Partly, &["skipped, as it cannot be read", &path(1)]);
    assert!(dry.document()["records"].as_u64().unwrap() < 40);
    world.ask(&whole).await.says(Exit::Partly, &["does not have all of it"]);
    let replay = world.ask(&["replay", "--send", "--why", "a test", "--who", "ada"]).await;
    replay.says(Exit::Partly, &["skipped, as it cannot be read", &path(1)]);
    assert!(!replay.err.contains("not finished"), "it would be skipped again: {}", replay.err);
}

#[tokio::test]
async fn what_is_deleted_is_missed_until_somebody_says_that_it_was_on_purpose() {
    let world = stored().await;
    assert_eq!(world.ask(&["lake", "verify"]).await.exit, Exit::Done);
    let objects = world.ask(&["lake", "ls", "orders", "--json"]).await.json();
    let objects = objects["objects"].as_array().unwrap();
    let path = objects.last().unwrap()["path"].as_str().unwrap();
    std::fs::remove_file(world.path("lake").join(path)).unwrap();
    let verify = ["lake", "verify"];
    let found = world.ask(&verify).await;
    found.says(Exit::No, &["lake forget"]);
    assert!(found.out.contains("not sound") && found.out.contains(path), "{}", found.out);
    // a replay that lacks it is not all that was asked for
    let replay = ["replay", "--send", "--why", "a test", "--who", "ada", "--json"];
    let replayed = world.ask(&replay).await;
    assert_eq!(replayed.exit, Exit::Partly);
    assert_eq!(replayed.document()["report"]["gaps"].as_array().unwrap().len(), 1);

    let forget = ["lake", "forget", "orders"];
    let dry = world.ask(&forget).await;
    dry.says(Exit::Done, &["nothing was forgotten"]);
    assert!(dry.out.contains(path) && dry.out.contains("would be forgotten"), "{}", dry.out);
    assert_eq!(world.ask(&verify).await.exit, Exit::No);
    world.ask(&[&forget[..], &["--yes"]].concat()).await.says(Exit::Unusable, &["--why"]);
    let heard = Heard::default();
    let _listening = heard.listen();
    let by = ["--yes", "--why", "the customer asked", "--who", "ada", "--json"];
    let forgotten = world.ask(&[&forget[..], &by].concat()).await.json();
    assert_eq!((&forgotten["objects"], &forgotten["dry_run"]), (&json!([path]), &json!(false)));
    let line = heard.with("deleted objects were forgotten").remove(0);
    assert_eq!((&*line.target, line.field("who")), ("streambreaker::audit", "\"ada\""));
    assert_eq!((line.field("why"), line.field("objects")), ("\"the customer asked\"", "1"));
    assert_eq!(world.ask(&verify).await.exit, Exit::Done);
    world.ask(&["lake", "forget", "ordres"]).await.says(Exit::Unusable, &["ordres"]);
}

#[tokio::test]
async fn records_are_found_by_index_and_by_text() {
    let world = stored().await;
    let before = world.bytes();
    let by_id = world.ask(&["lake", "grep", "--id", "7", "--json"]).await.json();
    assert_eq!((&by_id["position"], &by_id["key"]), (&json!("7"), &json!("customer-2")));
    assert_eq!(by_id["payload"], r#"{"id":"7","type":"order-odd","n":7}"#);
    let cases: [(&[&str], usize); 6] = [
        (&["--type", "order-even"], 20),
        (&["--key", "customer-3"], 8),
        (&["\"n\":1"], 10),
        (&["\"n\":1", "--shard", "0"], 5),
        (&["--since", "2026-11-02"], 16),
        (&["--limit", "3"], 3),
    ];
    for (words, count) in cases {
        let found = world.ask(&[&["lake", "grep", "--json"], words].concat()).await;
        assert_eq!((found.exit, found.lines().len()), (Exit::Done, count), "{words:?}");
    }
    let some = world.ask(&["lake", "grep", "--limit", "3"]).await;
    assert!(some.err.contains("there are more than 3: --limit"), "{}", some.err);
    world.ask(&["lake", "grep", "--id", "41"]).await.says(Exit::No, &["no such record"]);
    world.ask(&["lake", "grep", "nowhere"]).await.says(Exit::No, &["no such record"]);

    // rule L12
    for more in [&[][..], &["--full"], &["--json"]] {
        let hostile =
            world.ask(&[&["lake", "grep", "--first", "13", "--last", "13"], more].concat()).await;
        assert!(!hostile.out.replace('\n', "").contains(char::is_control), "{}", hostile.out);
        assert!(hostile.out.contains("[2J"), "{}", hostile.out);
    }
    assert_eq!(world.bytes(), before);
}

#[tokio::test]
async fn a_key_that_is_no_text_is_found_as_it_is_shown() {
    let world = stored().await;
    let keys: [&[u8]; 3] = [b"\x00\xff", b"customer-1\x1b", b"hex:00ff"];
    let odd = (100..).zip(keys).map(|(n, key)| support::record(n).with_key(key.to_vec()));
    world.store_all(odd.collect()).await;
    let shown = world.ask(&["lake", "grep", "--first", "100"]).await.out;
    for (n, key) in
        ["hex:00ff", "hex:637573746f6d65722d311b", "hex:6865783a30306666"].iter().enumerate()
    {
        assert!(shown.contains(&format!("@{} {key}  ", 100 + n)), "{shown}");
        let found = world.ask(&["lake", "grep", "--key", key, "--json"]).await.json();
        assert_eq!(found["position"], (100 + n).to_string());
    }
    assert_eq!(
        world.ask(&["lake", "grep", "--key", "hex:00ff", "--json"]).await.json()["key_hex"],
        "00ff"
    );
    world.ask(&["lake", "grep", "--key", "hex:0x"]).await.says(Exit::Unusable, &["hex:00ff"]);
}

#[tokio::test]
async fn a_lake_that_is_not_there_is_not_made() {
    let world = World::new(Keeps::Lake);
    for words in [&["ls"][..], &["show"], &["verify"], &["grep", "a"], &["stats"]] {
        let words = [&["lake"], words].concat();
        world.ask(&words).await.says(Exit::Unusable, &["no lake in", "check the path"]);
    }
    assert!(world.bytes().is_empty());
    let elsewhere = stored().await;
    let lake = elsewhere.path("lake");
    let list = world.ask(&["lake", "ls", "--lake", lake.to_str().unwrap(), "--json"]).await.json();
    assert_eq!(list["streams"][0]["records"], 40);
    elsewhere.ask(&["lake", "verify", "oders"]).await.says(Exit::Unusable, &["there is orders"]);

    std::fs::create_dir(world.path("lake")).unwrap();
    for word in ["ls", "verify", "stats"] {
        assert_eq!(world.ask(&["lake", word]).await.out, "no streams\n", "{word}");
    }

    // any store will do
    let operator =
        Operator::new("orders", async |_| Err("not needed".into())).lake(elsewhere.lake());
    assert_eq!(given(&operator, &["lake", "verify"]).await.exit, Exit::Done);
}

#[tokio::test]
async fn l11_what_is_sealed_is_read_with_the_keys_of_the_component() {
    let world = World::new(Keeps::Lake);
    let keys = || Keys::new("2026", Key::new([7; 32]));
    world.store_in(&world.lake().with_keys(keys()), support::records()).await;
    let path = world.path("lake");
    let others = Keys::new("2025", Key::new([6; 32]));
    let component = world.clone();
    let operator = || {
        let component = component.clone();
        Operator::new("orders", async move |task| component.component(task))
    };
    let replay = ["replay", "--send", "--why", "a test", "--who", "ada"];
    for words in [&["lake", "grep", "--id", "7"][..], &["replay"], &replay] {
        let without = given(&operator().lake_in(&path), words).await;
        without.says(Exit::Failed, &["is sealed", "sealed by the key \"2026\"", "Operator::keys"]);
        assert!(!without.err.contains("its cause says why"), "{}", without.err);
        let wrong = given(&operator().lake_in(&path).keys(others.clone()), words).await;
        wrong.says(Exit::Failed, &["is sealed", "\"2026\""]);
    }
    assert!(world.take_done().is_empty());
    world.ask(&["lake", "verify"]).await.says(Exit::Done, &[]);

    let grep = ["lake", "grep", "--id", "7", "--json"];
    let found = given(&operator().lake_in(&path).keys(keys()), &grep).await.json();
    assert_eq!(found["payload"], r#"{"id":"7","type":"order-odd","n":7}"#);
    let named = [&grep[..], &["--lake", path.to_str().unwrap()]].concat();
    assert_eq!(given(&operator().keys(keys()), &named).await.json(), found);
}
