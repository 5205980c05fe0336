//! The structs of Parquet that lie in an object: its metadata, and the headers of its pages. They are those of
//! `parquet.thrift`, of which an object of a lake has neither encryption nor geography.

use crate::thrift::Fields;
use crate::thrift::Holds::{Bool, Byte, Bytes, I16, I32, I64, List, Struct, UpTo};

/// What an element of a schema may have below it, and the groups of rows of an object: this crate's own schema has twelve
/// columns, and an object that is written has a few hundred groups at most.
const MOST_CHILDREN: i64 = 1_000;
const MOST_GROUPS: u64 = 32_767;

/// As many as there are bytes for.
const ANY: u64 = u64::MAX;

const EMPTY: crate::thrift::Holds = Struct(&[]);

pub(crate) const FILE: Fields = &[
    (1, I32),
    (2, List(ANY, &Struct(SCHEMA_ELEMENT))),
    (3, I64),
    (4, List(MOST_GROUPS, &Struct(ROW_GROUP))),
    (5, List(ANY, &Struct(KEY_VALUE))),
    (6, Bytes),
    // orders of columns
    (7, List(ANY, &Struct(&[(1, EMPTY)]))),
];

const SCHEMA_ELEMENT: Fields = &[
    (1, I32),
    (2, I32),
    (3, I32),
    (4, Bytes),
    (5, UpTo(MOST_CHILDREN)),
    (6, I32),
    (7, I32),
    (8, I32),
    (9, I32),
    (10, Struct(LOGICAL_TYPE)),
];

const LOGICAL_TYPE: Fields = &[
    (1, EMPTY),
    (2, EMPTY),
    (3, EMPTY),
    (4, EMPTY),
    // a decimal number
    (5, Struct(&[(1, I32), (2, I32)])),
    (6, EMPTY),
    (7, Struct(TIME)),
    (8, Struct(TIME)),
    // a whole number
    (10, Struct(&[(1, Byte), (2, Bool)])),
    (11, EMPTY),
    (12, EMPTY),
    (13, EMPTY),
    (14, EMPTY),
    (15, EMPTY),
];

/// Whether it is UTC, and its unit.
const TIME: Fields = &[(1, Bool), (2, Struct(&[(1, EMPTY), (2, EMPTY), (3, EMPTY)]))];

const ROW_GROUP: Fields = &[
    (1, List(ANY, &Struct(COLUMN))),
    (2, I64),
    (3, I64),
    // by what it is sorted
    (4, List(ANY, &Struct(&[(1, I32), (2, Bool), (3, Bool)]))),
    (5, I64),
    (6, I64),
    (7, I16),
];

const COLUMN: Fields =
    &[(1, Bytes), (2, I64), (3, Struct(COLUMN_METADATA)), (4, I64), (5, I32), (6, I64), (7, I32)];

const COLUMN_METADATA: Fields = &[
    (1, I32),
    (2, List(ANY, &I32)),
    (3, List(ANY, &Bytes)),
    (4, I32),
    (5, I64),
    (6, I64),
    (7, I64),
    (8, List(ANY, &Struct(KEY_VALUE))),
    (9, I64),
    (10, I64),
    (11, I64),
    (12, Struct(STATISTICS)),
    // how many pages are encoded in which way
    (13, List(ANY, &Struct(&[(1, I32), (2, I32), (3, I32)]))),
    (14, I64),
    (15, I32),
    // sizes
    (16, Struct(&[(1, I64), (2, List(ANY, &I64)), (3, List(ANY, &I64))])),
];

const STATISTICS: Fields =
    &[(1, Bytes), (2, Bytes), (3, I64), (4, I64), (5, Bytes), (6, Bytes), (7, Bool), (8, Bool)];

const KEY_VALUE: Fields = &[(1, Bytes), (2, Bytes)];

/// The fields of a page header that say how many bytes follow it, unpacked and packed.
pub(crate) const UNPACKED: i16 = 2;
pub(crate) const PACKED: i16 = 3;

pub(crate) const PAGE: Fields = &[
    (1, I32),
    (UNPACKED, UpTo(i32::MAX as i64)),
    (PACKED, UpTo(i32::MAX as i64)),
    (4, I32),
    // a page of data, of the first version
    (5, Struct(&[(1, I32), (2, I32), (3, I32), (4, I32), (5, Struct(STATISTICS))])),
    (6, EMPTY),
    // a dictionary
    (7, Struct(&[(1, I32), (2, I32), (3, Bool)])),
    // a page of data, of the second version
    (8, Struct(PAGE_V2)),
];

const PAGE_V2: Fields = &[
    (1, I32),
    (2, I32),
    (3, I32),
    (4, I32),
    (5, I32),
    (6, I32),
    (7, Bool),
    (8, Struct(STATISTICS)),
];
