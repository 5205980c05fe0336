//! The file source on any bytes, with any checkpoint beside it: every byte of the file is in a record, in the end of
//! a line, or in a line that is too long; and a checkpoint that is not ours is refused.

#![no_main]

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use streambreaker::file;
use streambreaker::source::{Change, Read, Reader, Room, Source};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    shards: u8,
    max_line: u8,
    room: u8,
    checkpoint: Option<&'a [u8]>,
    content: &'a [u8],
}

struct Place {
    directory: PathBuf,
    runtime: tokio::runtime::Runtime,
}

thread_local! {
    static PLACE: RefCell<Place> = RefCell::new({
        let directory = std::env::temp_dir().join(format!("fuzz-file-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Place { directory, runtime: runtime.expect("a runtime") }
    });
}

/// What the reader yields, by position; `None` where it gave up.
async fn read(
    path: &Path,
    checkpoint: Option<&Path>,
    input: &Input<'_>,
) -> Option<Vec<(u64, Vec<u8>)>> {
    let mut source = file::Source::open(path)
        .shards(usize::from(input.shards % 5) + 1)
        .max_line(usize::from(input.max_line) + 1);
    if let Some(checkpoint) = checkpoint {
        source = source.checkpoint(checkpoint);
    }
    let mut lines = Vec::new();
    loop {
        let Ok(change) = source.next().await else { return None };
        let Some(Change::Assigned { mut reader, .. }) = change else { break };
        let room = Room { records: usize::from(input.room) + 1, bytes: 1 << 20 };
        loop {
            match reader.read(room).await {
                Ok(Read::Records { records, .. }) => {
                    assert!(records.len() <= room.records);
                    lines.extend(records.iter().map(|record| {
                        (record.position().as_u64().expect("an offset"), record.payload().to_vec())
                    }));
                }
                Ok(Read::End) => break,
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }
    lines.sort();
    Some(lines)
}

fuzz_target!(|input: Input<'_>| {
    PLACE.with_borrow(|place| {
        let path = place.directory.join("input.ndjson");
        std::fs::write(&path, input.content).expect("written");
        // the lines by hand: empty ones are none, and for one that is too long stands a record without payload
        let (mut offset, limit) = (0, usize::from(input.max_line) + 1);
        let mut expected = Vec::new();
        for line in input.content.split(|byte| *byte == b'\n') {
            if !matches!(line, b"" | b"\r") {
                let payload = if line.len() > limit { Vec::new() } else { line.to_vec() };
                expected.push((offset, payload));
            }
            offset += line.len() as u64 + 1;
        }
        match place.runtime.block_on(read(&path, None, &input)) {
            Some(lines) => assert_eq!(lines, expected),
            // it needs a feature to read these
            None => assert!(
                [&[0x1f, 0x8b][..], &[0x28, 0xb5, 0x2f, 0xfd]]
                    .iter()
                    .any(|magic| input.content.starts_with(magic)),
                "it gave up"
            ),
        }
        if let Some(bytes) = input.checkpoint {
            let checkpoint = place.directory.join("checkpoint");
            std::fs::write(&checkpoint, bytes).expect("written");
            if let Some(lines) = place.runtime.block_on(read(&path, Some(&checkpoint), &input)) {
                assert!(lines.iter().all(|line| expected.contains(line)), "it made lines up");
            }
            let _ = std::fs::remove_file(&checkpoint);
        }
    });
});
