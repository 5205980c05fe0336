//! Cuts bytes into lines, with their offsets, holding no line that is too long.

use std::io::{self, Read};

use bytes::{Bytes, BytesMut};

/// How much is read at once.
pub(super) const CHUNK: usize = 1 << 18;

/// Cuts what it is fed into lines. A line is what ends with `\n`; the `\n` is not part of it, all else
/// is. A line above the limit is counted to its end, not held.
pub(super) struct Splitter {
    carry: BytesMut,
    /// The offset of the first byte of `carry`.
    base: u64,
    /// How much of `carry` is known to hold no `\n`.
    scanned: usize,
    /// Where the line begins that is being skipped, and how long it is so far.
    skipping: Option<(u64, u64)>,
    max: usize,
    closed: bool,
}

/// One line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// Where it begins.
    pub(super) offset: u64,
    pub(super) line: Line,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Held(Bytes),
    /// Above the limit, and of this length.
    TooLong(u64),
}

impl Splitter {
    /// For bytes that begin at `base`, with lines of at most `max` bytes.
    pub(super) fn new(base: u64, max: usize) -> Self {
        let (carry, closed) = (BytesMut::new(), false);
        Self { carry, base, scanned: 0, skipping: None, max, closed }
    }

    /// The offset behind everything fed so far.
    pub(super) fn offset(&self) -> u64 {
        self.base + self.carry.len() as u64
    }

    /// Reads once; zero bytes is the end of the input, for now.
    pub(super) fn read_from(&mut self, input: &mut impl Read) -> io::Result<usize> {
        let have = self.carry.len();
        self.carry.resize(have + CHUNK, 0);
        let read = loop {
            match input.read(&mut self.carry[have..]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.carry.truncate(have + read.as_ref().copied().unwrap_or(0));
        read
    }

    /// Says that nothing follows: what is left without `\n` is a line too.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// The next line that is complete.
    pub(super) fn next(&mut self) -> Option<Cut> {
        let found = memchr::memchr(b'\n', &self.carry[self.scanned..]).map(|at| self.scanned + at);
        match found {
            Some(end) => {
                let cut = self.take(end);
                // the newline itself
                let _ = self.carry.split_to(1);
                self.base += 1;
                Some(cut)
            }
            None if self.closed => {
                let rest = self.carry.len();
                let open = rest > 0 || self.skipping.is_some();
                open.then(|| self.take(rest))
            }
            None => {
                self.scanned = self.carry.len();
                if self.skipping.is_some() || self.scanned > self.max {
                    let (start, length) = self.skipping.unwrap_or((self.base, 0));
                    self.skipping = Some((start, length + self.scanned as u64));
                    self.base += self.scanned as u64;
                    self.scanned = 0;
                    self.carry.clear();
                }
                None
            }
        }
    }

    /// Takes the line that ends before `end`.
    fn take(&mut self, end: usize) -> Cut {
        let (start, skipped) = self.skipping.take().unwrap_or((self.base, 0));
        let too_long = skipped > 0 || end > self.max;
        let bytes = self.carry.split_to(end);
        self.base += end as u64;
        self.scanned = 0;
        let line = match too_long {
            true => Line::TooLong(skipped + end as u64),
            false => Line::Held(bytes.freeze()),
        };
        Cut { offset: start, line }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Gives at most so many bytes a read, to put chunk borders everywhere.
    struct Trickle<'a>(&'a [u8], usize);

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = self.1.min(self.0.len()).min(buffer.len());
            buffer[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    fn cut_all(bytes: &[u8], step: usize, max: usize) -> Vec<Cut> {
        let (mut splitter, mut input) = (Splitter::new(0, max), Trickle(bytes, step));
        let mut cuts = Vec::new();
        loop {
            cuts.extend(std::iter::from_fn(|| splitter.next()));
            if splitter.closed {
                return cuts;
            }
            if splitter.read_from(&mut input).expect("memory reads") == 0 {
                splitter.close();
            }
        }
    }

    #[test]
    fn a_line_above_the_limit_is_counted_and_not_held() {
        let mut splitter = Splitter::new(0, 1_000);
        let mut input = io::repeat(b'x').take(64 << 20).chain(&b"\nafter\n"[..]);
        let mut cuts = Vec::new();
        let mut most = 0;
        while splitter.read_from(&mut input).expect("memory reads") > 0 {
            most = most.max(splitter.carry.capacity());
            cuts.extend(std::iter::from_fn(|| splitter.next()));
        }
        assert_eq!(cuts[0], Cut { offset: 0, line: Line::TooLong(64 << 20) });
        assert_eq!(cuts[1].offset, (64 << 20) + 1);
        assert_eq!(cuts[1].line, Line::Held(Bytes::from_static(b"after")));
        assert!(most <= 4 * CHUNK, "{most} bytes were held");
    }

    proptest! {
        #[test]
        fn i5_lines_are_those_of_a_plain_split(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..200),
            step in 1..50usize,
            max in 1..40usize,
        ) {
            let mut expected = Vec::new();
            let mut offset = 0;
            for line in bytes.split_inclusive(|b| *b == b'\n') {
                let end = line.strip_suffix(b"\n").unwrap_or(line);
                expected.push(Cut { offset, line: match end.len() > max {
                    true => Line::TooLong(end.len() as u64),
                    false => Line::Held(Bytes::copy_from_slice(end)),
                }});
                offset += line.len() as u64;
            }
            prop_assert_eq!(cut_all(&bytes, step, max), expected);
        }
    }
}
