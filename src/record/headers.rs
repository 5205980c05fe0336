//! Headers of a record: an ordered list with duplicates, as brokers keep them.

use std::fmt;

use bytes::Bytes;

/// Names and values in the order in which the transport had them; a name may come twice.
///
/// An empty list allocates nothing. `Debug` prints how many there are, never what they say.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Option<Box<Pairs>>);

// a box around it, as most records have none: they are smaller for it, and dropped without a look
type Pairs = Vec<(Box<str>, Bytes)>;

impl Headers {
    /// No headers.
    pub const fn new() -> Self {
        Self(None)
    }

    /// Adds one at the end.
    pub fn push(&mut self, name: impl Into<Box<str>>, value: impl Into<Bytes>) {
        self.0.get_or_insert_default().push((name.into(), value.into()));
    }

    /// The first value of this name, compared without regard to ASCII case (brokers over HTTP and
    /// NATS fold names, Kafka does not; a producer that relies on case alone is not found).
    #[inline]
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        self.pairs()
            .iter()
            .find(|(have, _)| have.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Bytes)> {
        self.pairs().iter().map(|(name, value)| (&**name, value))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.pairs().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The bytes of all names and values.
    #[inline]
    pub fn size(&self) -> usize {
        self.pairs().iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    #[inline]
    fn pairs(&self) -> &[(Box<str>, Bytes)] {
        self.0.as_ref().map_or(&[], |pairs| pairs)
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Headers({})", self.len())
    }
}

impl<N: Into<Box<str>>, V: Into<Bytes>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let pairs: Vec<_> = pairs.into_iter().map(|(n, v)| (n.into(), v.into())).collect();
        // an empty list has one form, so that equal lists compare as equal
        Self(if pairs.is_empty() { None } else { Some(Box::new(pairs)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_duplicates_are_kept() {
        let headers: Headers = [("a", "1"), ("B", "2"), ("a", "3")].into_iter().collect();
        let seen: Vec<_> = headers.iter().map(|(n, v)| (n, &v[..])).collect();
        assert_eq!(seen, [("a", &b"1"[..]), ("B", b"2"), ("a", b"3")]);
        assert_eq!(headers.get("b").map(|v| &v[..]), Some(&b"2"[..]));
        assert_eq!(headers.get("a").map(|v| &v[..]), Some(&b"1"[..]));
        assert_eq!(headers.size(), 6);
        assert_eq!(format!("{headers:?}"), "Headers(3)");
        assert_eq!(Headers::from_iter([("", ""); 0]), Headers::new());
    }
}
