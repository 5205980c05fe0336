//! Headers of a record: an ordered list with duplicates, as brokers keep them.

use std::fmt;

use bytes::Bytes;

/// Names and values in the order in which the transport had them; a name may come twice.
///
/// An empty list allocates nothing. `Debug` prints how many there are, never what they say.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(Box<str>, Bytes)>);

impl Headers {
    /// No headers.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds one at the end.
    pub fn push(&mut self, name: impl Into<Box<str>>, value: impl Into<Bytes>) {
        self.0.push((name.into(), value.into()));
    }

    /// The first value of this name, compared without regard to ASCII case (brokers over HTTP and
    /// NATS fold names, Kafka does not; a producer that relies on case alone is not found).
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        self.0.iter().find(|(have, _)| have.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Bytes)> {
        self.0.iter().map(|(name, value)| (&**name, value))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes of all names and values.
    pub fn size(&self) -> usize {
        self.0.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Headers({})", self.0.len())
    }
}

impl<N: Into<Box<str>>, V: Into<Bytes>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(n, v)| (n.into(), v.into())).collect())
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
    }
}
