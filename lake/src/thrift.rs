//! The structs of Parquet, in Thrift's compact protocol: walked through, and read no other way than the Parquet library
//! reads them.
//!
//! That library goes by the number of a field, whatever type the field says it has. Whoever went by the type would find
//! other fields behind it, and what was checked would not be what is reserved. So a field that is known must have its
//! type, numbers ascend, and what is not known may be a plain value only, which nobody can read in two ways.

/// A field's number in its struct, and what it holds.
pub(crate) type Fields = &'static [(i16, Holds)];

/// What a field, or an element of a list, holds.
pub(crate) enum Holds {
    /// Its type is its value.
    Bool,
    Byte,
    I16,
    I32,
    I64,
    /// A number that may not be negative, nor above this.
    UpTo(i64),
    Bytes,
    /// No more elements than this.
    List(u64, &'static Holds),
    Struct(Fields),
}

const BOOL: [u8; 2] = [1, 2];

impl Holds {
    /// The type that it must say it has.
    fn code(&self) -> u8 {
        match self {
            Holds::Bool => BOOL[0],
            Holds::Byte => 3,
            Holds::I16 => 4,
            Holds::I32 | Holds::UpTo(_) => 5,
            Holds::I64 => 6,
            Holds::Bytes => 8,
            Holds::List(..) => 9,
            Holds::Struct(_) => 12,
        }
    }
}

pub(crate) struct Compact<'a>(pub(crate) &'a [u8]);

impl<'a> Compact<'a> {
    pub(crate) fn take(&mut self, bytes: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(bytes).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    pub(crate) fn advance(&mut self, bytes: u64) -> Option<()> {
        self.take(bytes).map(|_| ())
    }

    pub(crate) fn varint(&mut self) -> Option<u64> {
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

    pub(crate) fn number(&mut self) -> Option<i64> {
        let zigzag = self.varint()?;
        Some((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }

    /// Goes through a struct to its end, and shows the numbers in it, not those of structs within, with their fields. None
    /// where it is cut, holds more than it may, or could be read in another way.
    pub(crate) fn walk(&mut self, known: Fields, mut see: impl FnMut(i16, i64)) -> Option<()> {
        let mut id = 0i16;
        loop {
            let header = self.byte()?;
            let (step, code) = (header >> 4, header & 0x0f);
            if code == 0 {
                return Some(());
            }
            // a step of 0 is one backwards, or a long one, which no field here needs
            id = id.checked_add(i16::from(step)).filter(|_| step > 0)?;
            match known.iter().find(|(known, _)| *known == id) {
                Some((_, Holds::Bool)) if BOOL.contains(&code) => {}
                Some((_, holds)) if holds.code() == code => {
                    if let Some(number) = self.value(holds)? {
                        see(id, number);
                    }
                }
                Some(_) => return None,
                None => self.plain(code)?,
            }
        }
    }

    /// Goes through what is of its type; a number is shown.
    fn value(&mut self, holds: &Holds) -> Option<Option<i64>> {
        match holds {
            Holds::Bool | Holds::Byte => self.advance(1)?,
            Holds::I16 | Holds::I32 | Holds::I64 => return self.number().map(Some),
            Holds::UpTo(most) => {
                return self.number().filter(|number| (0..=*most).contains(number)).map(Some);
            }
            Holds::Bytes => {
                let len = self.varint()?;
                self.advance(len)?;
            }
            Holds::List(most, element) => {
                let header = self.byte()?;
                let len = match header >> 4 {
                    15 => self.varint()?,
                    len => u64::from(len),
                };
                // a list of nothing need not say of what
                if len > *most || (len > 0 && header & 0x0f != element.code()) {
                    return None;
                }
                for _ in 0..len {
                    self.value(element)?;
                }
            }
            Holds::Struct(known) => self.walk(known, |_, _| {})?,
        }
        Some(None)
    }

    fn plain(&mut self, code: u8) -> Option<()> {
        match code {
            1 | 2 => Some(()),
            3 => self.advance(1),
            4..=6 => self.varint().map(|_| ()),
            7 => self.advance(8),
            8 => self.value(&Holds::Bytes).map(|_| ()),
            _ => None,
        }
    }
}
