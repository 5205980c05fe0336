//! Any sequence of reads, commits, kills and restarts.

use super::*;

/// What happens to a source.
#[derive(Clone, Debug)]
enum Step {
    Read { shard: usize, records: usize, bytes: usize },
    Settle { shard: usize, back: usize },
    Kill,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4usize, 1..6usize, 1..60usize)
            .prop_map(|(shard, records, bytes)| Step::Read { shard, records, bytes }),
        2 => (0..4usize, 0..4usize).prop_map(|(shard, back)| Step::Settle { shard, back }),
        1 => Just(Step::Kill),
        1 => Just(Step::Restart),
    ]
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        6 => "[a-z]{0,12}",
        2 => "\\{\"k\":\"[a-c]\"\\}",
        1 => "\r",
        1 => "[0-9]{16,40}",
    ];
    (proptest::collection::vec(line, 0..40), any::<bool>())
        .prop_map(|(lines, end)| (lines.join("\n") + if end { "\n" } else { "" }).into_bytes())
}

/// A shard as the test sees it: what is open in this life, what is settled, and how often each line was
/// delivered to lives that died.
#[derive(Default)]
struct Model {
    open: Vec<u64>,
    settled: Vec<u64>,
    died: BTreeMap<u64, u32>,
}

async fn run(content: Vec<u8>, shards: usize, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let (dir, file) = Dir::with(&content);
    let source = || {
        Source::open(&file)
            .shards(shards)
            .key_field("k")
            .max_line(15)
            .checkpoint(dir.path("checkpoint"))
    };
    let mut models: Vec<Model> = (0..shards).map(|_| Model::default()).collect();
    let mut life = open(source()).await;
    let end = [Step::Kill];
    for step in steps.into_iter().chain(end) {
        match step {
            Step::Read { shard, records, bytes } => {
                let shard = shard % shards;
                let room = Room { records, bytes };
                let Some(batch) = read(&mut life[shard].0, room).await else { continue };
                let size: usize = batch.iter().map(Record::size).sum();
                prop_assert!(batch.len() <= records && (size <= bytes || batch.len() == 1));
                check_batch(&batch, &mut models[shard], &content)?;
            }
            Step::Settle { shard, back } => {
                let shard = shard % shards;
                let model = &mut models[shard];
                let count = model.open.len().saturating_sub(back);
                let Some(last) = count.checked_sub(1) else { continue };
                let position = Position::from(model.open[last]);
                let done = life[shard].1.settle(Settled::Through(&position)).await;
                prop_assert!(done.is_ok());
                model.settled.extend(model.open.drain(..count));
            }
            Step::Kill => {
                for model in &mut models {
                    for offset in model.open.drain(..) {
                        *model.died.entry(offset).or_default() += 1;
                    }
                }
                life = open(source()).await;
            }
            Step::Restart => {
                for (_, acker) in std::mem::take(&mut life) {
                    prop_assert!(Box::new(acker).release().await.is_ok());
                }
                models.iter_mut().for_each(|model| model.open.clear());
                life = open(source()).await;
            }
        }
    }
    let mut seen = Vec::new();
    for ((reader, _), model) in life.iter_mut().zip(&mut models) {
        while let Some(batch) = read(reader, ROOM).await {
            check_batch(&batch, model, &content)?;
        }
        model.settled.append(&mut model.open);
        prop_assert!(model.settled.is_sorted());
        seen.extend_from_slice(&model.settled);
    }
    seen.sort_unstable();
    let mut expected = Vec::new();
    let mut offset = 0;
    for line in content.split_inclusive(|b| *b == b'\n') {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        if !text.is_empty() && text != b"\r" {
            expected.push(offset);
        }
        offset += line.len() as u64;
    }
    prop_assert_eq!(seen, expected);
    Ok(())
}

fn check_batch(batch: &[Record], model: &mut Model, content: &[u8]) -> Result<(), TestCaseError> {
    for record in batch {
        let offset = record.position().as_u64().expect("a number");
        let died = model.died.get(&offset).copied().unwrap_or(0);
        prop_assert_eq!(record.deliveries(), died + 1);
        let text = &content[offset as usize..];
        let line = text.split(|b| *b == b'\n').next().unwrap_or(text);
        match record.header(UNREADABLE) {
            Some(_) => prop_assert!(line.len() > 15 && record.payload().is_empty()),
            None => prop_assert_eq!(&record.payload()[..], line),
        }
        model.open.push(offset);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn s6_every_line_is_settled_exactly_once_over_any_kills(
        content in content(),
        shards in 1..4usize,
        steps in proptest::collection::vec(step(), 0..30),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(run(content, shards, steps))?;
    }
}
