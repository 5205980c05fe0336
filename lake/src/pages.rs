//! What the pages of a column say they unpack to, before anything is unpacked.
//!
//! The Parquet library reserves as many bytes as the header of a page claims, up to 2 GiB, and the metadata at the end of
//! the object, which were checked, need not agree with it. So the headers are walked through first. They are structs of
//! Thrift's compact protocol, of which two numbers matter; the rest is skipped.

/// How deep structs may lie in each other: a page header has three levels.
const DEEPEST: u32 = 8;

struct Compact<'a>(&'a [u8]);

impl Compact<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn advance(&mut self, bytes: u64) -> Option<()> {
        self.0 = self.0.get(usize::try_from(bytes).ok()?..)?;
        Some(())
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn number(&mut self) -> Option<i64> {
        let zigzag = self.varint()?;
        Some((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }

    /// The next field's id and type; an id of 0 where the struct ends.
    fn field(&mut self, before: i64) -> Option<(i64, u8)> {
        let header = self.byte()?;
        if header == 0 {
            return Some((0, 0));
        }
        let id = match header >> 4 {
            0 => self.number()?,
            delta => before.checked_add(i64::from(delta))?,
        };
        Some((id, header & 0x0f))
    }

    fn skip(&mut self, kind: u8, depth: u32) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match kind {
            // the value of a boolean is its type
            1 | 2 => Some(()),
            3 => self.advance(1),
            4..=6 => self.varint().map(|_| ()),
            7 => self.advance(8),
            8 => {
                let len = self.varint()?;
                self.advance(len)
            }
            9 | 10 => {
                let header = self.byte()?;
                let len = match header >> 4 {
                    15 => self.varint()?,
                    len => u64::from(len),
                };
                for _ in 0..len {
                    match header & 0x0f {
                        1 | 2 => self.advance(1)?,
                        kind => self.skip(kind, depth)?,
                    }
                }
                Some(())
            }
            12 => {
                let mut id = 0;
                loop {
                    let (next, kind) = self.field(id)?;
                    if kind == 0 {
                        return Some(());
                    }
                    self.skip(kind, depth)?;
                    id = next;
                }
            }
            // a page header has no maps
            _ => None,
        }
    }

    /// The next page's size, unpacked and packed.
    fn page_header(&mut self) -> Option<(u64, u64)> {
        let (mut unpacked, mut packed) = (None, None);
        let mut id = 0;
        loop {
            let (next, kind) = self.field(id)?;
            match (next, kind) {
                (_, 0) => return Some((unpacked?, packed?)),
                (2, 5) => unpacked = Some(u64::try_from(self.number()?).ok()?),
                (3, 5) => packed = Some(u64::try_from(self.number()?).ok()?),
                (_, kind) => self.skip(kind, DEEPEST)?,
            }
            id = next;
        }
    }
}

/// How many bytes the pages of this column chunk claim to unpack to; none where their headers cannot be read.
pub(crate) fn unpacked(chunk: &[u8]) -> Option<u64> {
    let mut rest = Compact(chunk);
    let mut sum = 0u64;
    while !rest.0.is_empty() {
        let (unpacked, packed) = rest.page_header()?;
        sum = sum.saturating_add(unpacked);
        rest.advance(packed)?;
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A page that claims to unpack to `unpacked` bytes, of `packed` bytes.
    fn page(unpacked: u8, packed: u8) -> Vec<u8> {
        let mut page = vec![0x15, 0, 0x15, unpacked << 1, 0x15, packed << 1];
        // a struct of a number, a list of two numbers, and some bytes
        page.extend([0x2c, 0x15, 8, 0x19, 0x25, 2, 4, 0x18, 3, b'a', b'b', b'c', 0, 0]);
        page.extend(std::iter::repeat_n(0xee, packed.into()));
        page
    }

    #[test]
    fn pages_are_added_up() {
        assert_eq!(unpacked(&[]), Some(0));
        assert_eq!(unpacked(&[page(60, 7), page(3, 0)].concat()), Some(63));
        let cut = page(60, 7);
        assert!((1..cut.len()).all(|len| unpacked(&cut[..len]).is_none()));
    }

    proptest! {
        #[test]
        fn l5_noise_ends(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = unpacked(&bytes);
        }
    }

    #[test]
    fn l5_nesting_is_bounded() {
        assert_eq!(unpacked(&[0x1c; 1 << 16]), None);
        // a list that claims to be endless ends with the bytes
        assert_eq!(unpacked(&[0x19, 0xf5, 0xff, 0xff, 0xff, 0xff, 0x7f, 1, 2]), None);
        // and one of nothing costs nothing
        assert_eq!(unpacked(&[0x19, 0xf0, 0xff, 0xff, 0xff, 0xff, 0x7f]), None);
    }
}
