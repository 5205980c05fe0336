//! What an object claims to hold, before anything is reserved for it.
//!
//! The Parquet library reserves as many bytes as the header of a page claims, up to 2 GiB, and the metadata at the end of
//! the object, which were checked, need not agree with it. It also reserves as many groups of rows, and as many columns
//! of a schema, as the metadata claim, up to 2 billion, and as many lengths as a column of differences claims, without any
//! limit; and what cannot be reserved ends the process, caught by nobody. So all of it is walked through first.

use parquet::basic::Encoding;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::column::reader::{ColumnReader, get_column_reader};
use parquet::errors::ParquetError;
use parquet::file::reader::RowGroupReader;

use crate::format;
use crate::thrift::Compact;

/// How many bytes the pages of this column chunk claim to unpack to; none where their headers cannot be read.
pub(crate) fn unpacked(chunk: &[u8]) -> Option<u64> {
    let mut rest = Compact(chunk);
    let mut sum = 0u64;
    while !rest.0.is_empty() {
        let (mut unpacked, mut packed) = (None, None);
        rest.walk(format::PAGE, |field, number| match field {
            format::UNPACKED => unpacked = u64::try_from(number).ok(),
            format::PACKED => packed = u64::try_from(number).ok(),
            _ => {}
        })?;
        sum = sum.saturating_add(unpacked?);
        rest.advance(packed?)?;
    }
    Some(sum)
}

/// Whether the metadata at the end of an object have as much in them as they claim; none where they have not, or cannot be
/// read.
pub(crate) fn metadata(bytes: &[u8]) -> Option<()> {
    Compact(bytes).walk(format::FILE, |_, _| {})
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
        // a struct of numbers and statistics, and a field that nobody knows
        page.extend([
            0x2c, 0x15, 8, 0x15, 0, 0x15, 6, 0x15, 6, 0x1c, 0x18, 3, b'a', b'b', b'c', 0, 0,
        ]);
        page.extend([0x98, 2, b'x', b'y', 0]);
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
    fn l5_what_could_be_read_in_two_ways_is_refused() {
        // a schema of one element: a name, and what comes behind it
        let file = |element: &[u8]| [&[0x29, 0x1c][..], element, &[0, 0]].concat();
        assert_eq!(metadata(&file(&[0x48, 1, b'a'])), Some(()));
        assert_eq!(metadata(&file(&[0x42, 1, b'a'])), None, "a name that says it is a boolean");
        assert_eq!(metadata(&file(&[0x48, 1, b'a', 0x08, 8, 1, b'a'])), None, "the same again");
        assert_eq!(metadata(&file(&[0x48, 1, b'a', 0x78, 1, b'a'])), Some(()), "an unknown one");
        assert_eq!(metadata(&file(&[0x48, 1, b'a', 0x79, 0x11, 1])), None, "unknown booleans");
        // a number that is negative here, and huge where 32 bits of it are read
        let huge = [0x55, 0x81, 0x80, 0x80, 0x80, 0x10];
        assert_eq!(metadata(&file(&huge)), None);
    }

    #[test]
    fn l5_nesting_and_lists_end() {
        assert_eq!(metadata(&[0x1c; 1 << 16]), None);
        assert_eq!(unpacked(&[0x1c; 1 << 16]), None);
        // a list that claims to be endless ends with the bytes
        assert_eq!(metadata(&[0x59, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x7f, 0, 0]), None);
        // and none has elements of nothing
        assert_eq!(metadata(&[0x59, 0xf0, 0xff, 0xff, 0xff, 0xff, 0x7f]), None);
    }
}
