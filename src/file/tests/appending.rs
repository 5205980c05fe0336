//! Lines and faults written to files.

use super::*;

async fn write<T: Sync>(sink: &Lines<T>, items: &[T]) -> (Option<String>, Vec<bool>) {
    let mut log = OutcomeLog::new(items.len());
    let error = sink.write(items, &mut log.outcomes()).await.err().map(|e| e.message());
    (error, (0..items.len()).map(|n| log.is_done(n)).collect())
}

#[tokio::test]
async fn k1_lines_confirm_what_is_written_and_only_that() {
    let dir = Dir::new();
    let path = dir.path("a/b/out");
    let lines = Lines::open(&path, |item: &&str| match *item {
        "bad" => Err(crate::StepError::new(crate::Class::Fault, "of the test")),
        text => Ok(text.as_bytes().to_vec()),
    })
    .expect("it opens");
    assert_eq!(
        write(&lines, &["x", "bad", "two\nlines", "y"]).await,
        (None, vec![true, false, false, true])
    );
    assert_eq!(fs::read_to_string(&path).expect("a file"), "x\ny\n");
    assert_eq!((lines.size(&"four"), lines.size(&"bad")), (5, 0));
    fs::remove_file(&path).expect("removed");
    assert_eq!(write(&lines, &["z"]).await, (None, vec![true]));
    assert_eq!(fs::read_to_string(&path).expect("made again"), "z\n");
    fs::remove_file(&path).expect("removed");
    fs::create_dir(&path).expect("in its way");
    let (error, done) = write(&lines, &["w"]).await;
    assert!(error.is_some_and(|e| e.contains("cannot append")) && !done[0]);
    assert!(Lines::<u8>::json(&path).is_err_and(|e| e.to_string().contains("is a directory")));
}

#[tokio::test]
async fn k1_nothing_is_glued_to_a_line_that_was_cut_off() {
    let dir = Dir::new();
    let path = dir.file("out", "1\n{\"half");
    let lines = Lines::json(&path).expect("it opens");
    assert_eq!(lines.torn(), Some(8));
    assert_eq!(write(&lines, &[2]).await.1, [true]);
    assert_eq!(write(&lines, &[3]).await.1, [true]);
    assert_eq!(fs::read_to_string(&path).expect("a file"), "1\n{\"half\n2\n3\n");
}

#[tokio::test]
async fn k1_writers_that_share_a_file_do_not_mix_their_lines() {
    let dir = Dir::new();
    let path = dir.path("out");
    let lines = Lines::json(&path).expect("it opens");
    let tasks = (0..8).map(|task| {
        let lines = lines.clone();
        tokio::spawn(async move {
            for n in 0..10 {
                assert_eq!(write(&lines, &[(task, n); 20]).await.1, [true; 20]);
            }
        })
    });
    futures::future::join_all(tasks).await.into_iter().for_each(|task| task.expect("no panic"));
    let text = fs::read_to_string(&path).expect("a file");
    assert_eq!(text.lines().count(), 1_600);
    assert!(text.lines().all(|line| serde_json::from_str::<(u8, u8)>(line).is_ok()));
}

fn fault(position: u64) -> FaultEvent {
    let record = crate::Record::new("s", "0", crate::Position::from(position), "{}");
    let records = vec![crate::fault::FaultRecord::whole(record)];
    FaultEvent::new("p", "q", "json", crate::Class::Fault, records).finish(&crate::fault::Scrub)
}

#[tokio::test]
async fn f7_faults_come_back_and_a_torn_one_is_reported() {
    let dir = Dir::new();
    let path = dir.path("faults.ndjson");
    let sink = faults(&path).expect("it opens");
    let events = [fault(1), fault(2)];
    assert_eq!(write(&sink, &events).await.1, [true, true]);
    let read: Result<Vec<_>, _> = read_faults(&path).expect("it opens").collect();
    assert_eq!(read.expect("all of them"), events);

    let mut bytes = fs::read(&path).expect("a file");
    bytes.extend_from_slice(b"\n\r\nnonsense\n");
    bytes.extend_from_slice(&events[0].to_json());
    bytes.extend_from_slice(b"\n{\"id\":");
    fs::write(&path, bytes).expect("a file");
    let read: Vec<_> = read_faults(&path).expect("it opens").collect();
    assert_eq!(read.len(), 5);
    assert!(matches!(read[2], Err(FaultLineError::Parse { line: 5, .. })), "{:?}", read[2]);
    assert!(read[3].as_ref().is_ok_and(|event| *event == events[0]));
    assert!(matches!(read[4], Err(FaultLineError::Torn { line: 7, .. })), "{:?}", read[4]);
    assert!(read_faults(dir.path("missing")).is_err());
}
