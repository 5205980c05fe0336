//! What an object claims to hold, before anything is reserved for it.
//!
//! The Parquet library reserves as many bytes as the header of a page claims, up to 2 GiB, and the metadata at the end of
//! the object, which were checked, need not agree with it. It also reserves as many groups of rows, and as many columns
//! of a schema, as the metadata claim, up to 2 billion, and as many lengths as a column of differences claims, without any
//! limit; and what cannot be reserved ends the process, caught by nobody. So all of it is walked through first. Most is
//! structs of Thrift's compact protocol, of which a few numbers matter; the rest is skipped.

use parquet::basic::Encoding;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::column::reader::{ColumnReader, get_column_reader};
use parquet::errors::ParquetError;
use parquet::file::reader::RowGroupReader;

/// How deep structs may lie in each other: a page header has three levels, the metadata of an object have seven.
const DEEPEST: u32 = 12;

/// What an element of a schema may have below it, and the groups of rows of an object: this crate's own schema has twelve
/// columns, and an object that is written has a few hundred groups at most.
const MOST_CHILDREN: i64 = 1_000;
const MOST_GROUPS: u64 = 32_767;

struct Compact<'a>(&'a [u8]);

impl<'a> Compact<'a> {
    fn take(&mut self, bytes: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(bytes).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn advance(&mut self, bytes: u64) -> Option<()> {
        self.take(bytes).map(|_| ())
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
                let (len, kind) = self.list()?;
                for _ in 0..len {
                    match kind {
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

    /// How many elements a list claims to have, and their type.
    fn list(&mut self) -> Option<(u64, u8)> {
        let header = self.byte()?;
        let len = match header >> 4 {
            15 => self.varint()?,
            len => u64::from(len),
        };
        Some((len, header & 0x0f))
    }

    /// An element of the schema, if it does not claim to have too much below it.
    fn schema_element(&mut self) -> Option<()> {
        let mut id = 0;
        loop {
            let (next, kind) = self.field(id)?;
            match (next, kind) {
                (_, 0) => return Some(()),
                (5, 5) => {
                    self.number().filter(|children| *children <= MOST_CHILDREN)?;
                }
                (_, kind) => self.skip(kind, DEEPEST)?,
            }
            id = next;
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

/// Whether the metadata at the end of an object have as much in them as they claim; none where they have not, or cannot be
/// read.
pub(crate) fn metadata(bytes: &[u8]) -> Option<()> {
    let mut rest = Compact(bytes);
    let mut id = 0;
    loop {
        let (next, kind) = rest.field(id)?;
        match (next, kind) {
            (_, 0) => return Some(()),
            (2, 9) => {
                let (len, kind) = rest.list()?;
                for _ in 0..len {
                    match kind {
                        12 => rest.schema_element()?,
                        _ => return None,
                    }
                }
            }
            (4, 9) => {
                let mut claim = Compact(rest.0);
                claim.list().filter(|(groups, _)| *groups <= MOST_GROUPS)?;
                rest.skip(kind, DEEPEST)?;
            }
            (_, kind) => rest.skip(kind, DEEPEST)?,
        }
        id = next;
    }
}

/// The numbers of a stream of packed differences, and what lies behind it; none where it claims more than `most`, or cannot
/// be read.
fn differences(bytes: &[u8], most: u64) -> Option<(Vec<i32>, &[u8])> {
    let mut rest = Compact(bytes);
    let (block, parts, count) = (rest.varint()?, rest.varint()?, rest.varint()?);
    let mut last = i32::try_from(rest.number()?).ok()?;
    let each = block.checked_div(parts)?;
    if each == 0 || each % 32 != 0 || count > most {
        return None;
    }
    let mut all: Vec<i32> = Vec::new();
    if count > 0 {
        all.push(last);
    }
    while (all.len() as u64) < count {
        let least = i32::try_from(rest.number()?).ok()?;
        for width in rest.take(parts)? {
            let left = count - all.len() as u64;
            if left == 0 {
                break;
            }
            let width = u64::from(*width);
            if width > 32 {
                return None;
            }
            let packed = rest.take(each.checked_mul(width)? / 8)?;
            for n in 0..each.min(left) {
                let at = n * width;
                let five = packed.get((at / 8) as usize..)?.iter().take(5).rev();
                let word = five.fold(0u64, |word, byte| word << 8 | u64::from(*byte));
                let difference = (word >> (at % 8)) & ((1 << width) - 1);
                last = last.wrapping_add(least).wrapping_add(difference as u32 as i32);
                all.push(last);
            }
        }
    }
    Some((all, rest.0))
}

/// How many bytes the values of a page unpack to, each of which begins as the one before did; none where they are more than
/// `most` values, or cannot be read.
fn prefixed(bytes: &[u8], most: u64) -> Option<u64> {
    let (prefixes, rest) = differences(bytes, most)?;
    let (suffixes, _) = differences(rest, most)?;
    let lengths = prefixes.iter().chain(&suffixes);
    lengths.map(|length| u64::try_from(*length).ok()).sum()
}

/// The columns of a group of rows, whose pages are looked at before their values are unpacked.
pub(crate) struct Columns<'a> {
    pub(crate) group: &'a dyn RowGroupReader,
    /// What a group may unpack to.
    pub(crate) bytes: u64,
}

/// What a value takes in memory at least, beside its bytes.
const VALUE: u64 = 64;

impl Columns<'_> {
    pub(crate) fn column(&self, place: usize) -> Result<ColumnReader, ParquetError> {
        let column = self.group.metadata().schema_descr().column(place);
        let pages = Looked {
            pages: self.group.get_column_page_reader(place)?,
            flat: column.max_def_level() == 0 && column.max_rep_level() == 0,
            values_left: self.bytes / VALUE,
            bytes_left: self.bytes,
        };
        Ok(get_column_reader(column, Box::new(pages)))
    }
}

/// Pages of a column, looked at.
struct Looked {
    pages: Box<dyn PageReader>,
    /// Whether there is a value in each row.
    flat: bool,
    values_left: u64,
    bytes_left: u64,
}

impl Looked {
    fn look(&mut self, page: &Page) -> Option<()> {
        let (values, encoding, levels) = match page {
            Page::DictionaryPage { buf, num_values, .. } => {
                // each begins with its length, or is a number
                return (u64::from(*num_values) * 4 <= buf.len() as u64).then_some(());
            }
            Page::DataPage { num_values, encoding, .. } => (*num_values, *encoding, 0),
            Page::DataPageV2 {
                num_values,
                encoding,
                def_levels_byte_len,
                rep_levels_byte_len,
                ..
            } => {
                let levels = u64::from(*def_levels_byte_len) + u64::from(*rep_levels_byte_len);
                (*num_values, *encoding, levels)
            }
        };
        let values = u64::from(values);
        self.values_left = self.values_left.checked_sub(values)?;
        let mut rest = Compact(page.buffer());
        rest.advance(levels)?;
        match encoding {
            Encoding::DELTA_BYTE_ARRAY if self.flat => {
                self.bytes_left = self.bytes_left.checked_sub(prefixed(rest.0, values)?)?;
            }
            Encoding::DELTA_LENGTH_BYTE_ARRAY if self.flat => {
                differences(rest.0, values)?;
            }
            // what is not in each row is never written so
            Encoding::DELTA_BYTE_ARRAY | Encoding::DELTA_LENGTH_BYTE_ARRAY => return None,
            _ => {}
        }
        Some(())
    }
}

impl PageReader for Looked {
    fn get_next_page(&mut self) -> Result<Option<Page>, ParquetError> {
        let page = self.pages.get_next_page()?;
        if let Some(page) = &page {
            self.look(page).ok_or_else(|| {
                ParquetError::General("a page claims more than it may hold".to_owned())
            })?;
        }
        Ok(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>, ParquetError> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<(), ParquetError> {
        self.pages.skip_next_page()
    }

    fn at_record_boundary(&mut self) -> Result<bool, ParquetError> {
        self.pages.at_record_boundary()
    }
}

impl Iterator for Looked {
    type Item = Result<Page, ParquetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
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
            let _ = metadata(&bytes);
            let _ = prefixed(&bytes, 1_000);
        }
    }

    #[test]
    fn packed_differences_are_unpacked() {
        // blocks of 128 in 4 parts; 1, 2, 3, 4, 5: a difference of 1 each, of no bits
        let even = [128, 1, 4, 5, 2, 2, 0, 0, 0, 0, 9];
        assert_eq!(differences(&even, 5), Some((vec![1, 2, 3, 4, 5], &[9][..])));
        assert_eq!(differences(&even, 4), None, "more than may be");
        // 7, 5, 3, 1, 2, 3, 4, 5: differences of -2 and more, of two bits
        let odd = [128, 1, 4, 8, 14, 3, 2, 0, 0, 0, 0b1100_0000, 0b11_1111, 0, 0, 0, 0, 0, 0];
        assert_eq!(differences(&odd, 8), Some((vec![7, 5, 3, 1, 2, 3, 4, 5], &[][..])));
        assert!((0..odd.len()).all(|len| differences(&odd[..len], 8).is_none()));
        assert_eq!(
            differences(&[128, 1, 4, 0xff, 0xff, 0xff, 0xff, 0x7f, 0], u64::MAX >> 20),
            None
        );
        // prefixes of 0, 100 and 200 bytes, and 100 bytes behind each
        let prefixes = [128, 1, 4, 3, 0, 0xc8, 1, 0, 0, 0, 0];
        let suffixes = [128, 1, 4, 3, 0xc8, 1, 0, 0, 0, 0, 0];
        assert_eq!(prefixed(&[prefixes, suffixes].concat(), 3), Some(600));
    }

    #[test]
    fn l5_metadata_that_claim_more_than_they_hold_are_found() {
        // a schema of one element with `children` below it, a number of rows, and `groups` groups of rows, all of them empty
        let file = |children: u8, groups: &[u8]| {
            [&[0x29, 0x1c, 0x55, children << 1, 0, 0x16, 2, 0x19][..], groups, &[0]].concat()
        };
        assert_eq!(metadata(&file(3, &[0x2c, 0, 0])), Some(()));
        assert_eq!(metadata(&file(3, &[0x3c, 0, 0])), None, "a group is missing");
        assert_eq!(metadata(&file(3, &[0xfc, 0xff, 0xff, 0xff, 0xff, 0x07, 0])), None);
        // as many as there are bytes for, but more than are ever written
        let many = [&[0xfc, 0x80, 0x80, 0x02][..], &vec![0; 1 << 15]].concat();
        assert_eq!(metadata(&file(3, &many)), None);
        let children = [0x29, 0x1c, 0x55, 0xfe, 0xff, 0xff, 0xff, 0x0f, 0, 0x16, 2, 0x19, 0x0c, 0];
        assert_eq!(metadata(&children), None);
    }

    #[test]
    fn l5_nesting_is_bounded() {
        assert_eq!(metadata(&[0x1c; 1 << 16]), None);
        assert_eq!(unpacked(&[0x1c; 1 << 16]), None);
        // a list that claims to be endless ends with the bytes
        assert_eq!(unpacked(&[0x19, 0xf5, 0xff, 0xff, 0xff, 0xff, 0x7f, 1, 2]), None);
        // and one of nothing costs nothing
        assert_eq!(unpacked(&[0x19, 0xf0, 0xff, 0xff, 0xff, 0xff, 0x7f]), None);
    }
}
