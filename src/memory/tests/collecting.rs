//! The sink that keeps what it is given.

use super::*;

#[tokio::test(start_paused = true)]
async fn k1_a_sink_answers_as_it_is_told() {
    let sink = Collect::new();
    let write = async |items: &[u32]| {
        let mut log = OutcomeLog::new(items.len());
        let result = timeout(SECOND, sink.write(items, &mut log.outcomes())).await;
        let done: Vec<bool> = (0..items.len()).map(|n| log.is_done(n)).collect();
        (result.map(|r| r.map_err(|e| e.class()).err()), done)
    };
    use crate::error::Class;
    sink.down();
    assert_eq!(write(&[1]).await, (Ok(Some(Class::Transient)), vec![false]));
    sink.up();
    sink.respond(1, Response::Throttle(SECOND));
    assert_eq!(write(&[1]).await, (Ok(Some(Class::Throttled)), vec![false]));
    sink.respond(1, Response::Hang);
    assert!(write(&[1]).await.0.is_err());
    assert!(sink.is_empty());
    sink.respond(1, Response::ReplyLost);
    assert_eq!(write(&[1]).await.1, [false]);
    sink.respond(1, Response::ApplyThenHang);
    assert!(write(&[2]).await.0.is_err());
    assert_eq!(sink.items(), [1, 2]);
    sink.decide(|_, item| match item {
        3 => Verdict::Done,
        4 => Verdict::Reject,
        5 => Verdict::ReplyLost,
        6 => Verdict::Throttled(SECOND),
        7 => Verdict::Retry,
        _ => Verdict::Silent,
    });
    assert_eq!(write(&[3, 4, 5, 6, 7, 8]).await.1, [true, false, false, false, false, false]);
    assert_eq!(sink.items(), [1, 2, 3, 5]);
    sink.decide_no_more();
    assert_eq!(write(&[9]).await, (Ok(None), vec![true]));
    assert_eq!(sink.requests().len(), 7);
}

#[tokio::test]
async fn l12_debug_shows_no_content() {
    let stream = Stream::new("s", 1);
    stream.push_keyed("secret", "secret");
    let sink = Collect::<&str>::new();
    sink.write(&["secret"], &mut OutcomeLog::new(1).outcomes()).await.expect("written");
    let text = format!("{stream:?} {sink:?} {:?}", stream.consumer("g"));
    assert_eq!(text, "Stream(s, 1 shards, 1 records) Collect(1 items) Consumer(g of s)");
}
