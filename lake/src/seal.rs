//! Sealing: payloads that cannot be read without a key.
//!
//! AES-256-GCM-SIV, a cipher that stands a nonce that comes twice: so the nonce is made of where the record lies, and the same
//! records make the same object, sealed or not. Stream, shard and position are authenticated with the payload: a sealed
//! payload that is moved elsewhere does not open. Each record says which key sealed it, and a check value of that key, so
//! that a wrong key is told from a payload that was changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use aes_gcm_siv::aead::{Aead, KeyInit, Payload};
use aes_gcm_siv::{Aes256GcmSiv, Nonce};
use async_trait::async_trait;
use bytes::Bytes;
use streambreaker::{BoxError, Record};
use uuid::Uuid;

use crate::encode::Stored;
use crate::error::{Damage, LakeError};

/// A key of 256 bits. `Debug` shows nothing of it.
#[derive(Clone)]
pub struct Key([u8; 32]);

impl Key {
    /// A key of these bytes, which are random and nobody else's.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    fn cipher(&self) -> Aes256GcmSiv {
        Aes256GcmSiv::new((&self.0).into())
    }

    /// Tells keys apart without telling anything of them.
    fn check_value(&self) -> String {
        // what the cipher makes of nothing, under a nonce that no record has
        let tag =
            self.cipher().encrypt(Nonce::from_slice(&[0xff; 12]), &b"streambreaker key check"[..]);
        let tag = tag.unwrap_or_default();
        tag.iter().rev().take(4).map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// It is not known here.
    #[error(
        "the key {id:?} is not known: tell its provider of it, or name it as forgotten, if it was given up for good"
    )]
    Unknown {
        /// Its id.
        id: String,
    },
    /// It was given up on purpose: what it sealed is skipped by whoever reads, and reported, and ends nothing.
    #[error("the key {id:?} is forgotten: what it sealed cannot be read any more")]
    Forgotten {
        /// Its id.
        id: String,
    },
    /// The provider has another key of this id.
    #[error("the key {id:?} is another one than sealed the record")]
    Wrong {
        /// Its id.
        id: String,
    },
    /// The lake was given no keys.
    #[error(
        "a record is sealed by the key {id:?}, and the lake has no keys: see `Lake::with_keys`, and `Operator::keys` of a command line"
    )]
    NoProvider {
        /// Its id.
        id: String,
    },
    /// The provider could not be asked. It may go better the next time.
    #[error("the key provider could not be asked")]
    Unavailable(#[source] BoxError),
}

/// Where keys come from: a secret manager, a file, a test.
///
/// To rotate, a provider names another key as the present one, and goes on to know the old ones: each record says by
/// which it was sealed. A key that is forgotten makes unreadable what it sealed, for good: the provider says so by
/// [`KeyError::Forgotten`], so that readers know it from a key that somebody forgot to configure, which ends them.
///
/// # Envelope encryption
/// A key service keeps one key and never gives it away: it wraps data keys by it. Then the id of a data key is what the
/// service has made of it, which lies beside what it sealed, and only the service makes a key of it again:
///
/// ```
/// use async_trait::async_trait;
/// use base64::Engine;
/// use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
/// use streambreaker::BoxError;
/// use streambreaker_lake::{Key, KeyError, KeyProvider};
///
/// # struct Service;
/// # impl Service {
/// #     async fn data_key(&self) -> Result<([u8; 32], Vec<u8>), BoxError> { Ok(([7; 32], vec![7 ^ 0xff; 32])) }
/// #     async fn unwrap_key(&self, wrapped: &[u8]) -> Result<[u8; 32], BoxError> {
/// #         Ok(<[u8; 32]>::try_from(wrapped)?.map(|byte| byte ^ 0xff))
/// #     }
/// # }
/// struct Enveloped(Service); // a client of the key service of your cloud
///
/// #[async_trait]
/// impl KeyProvider for Enveloped {
///     // asked once an object; keep a key for an hour if the service is slow
///     async fn present(&self, _stream: &str) -> Result<(String, Key), KeyError> {
///         let (key, wrapped) = self.0.data_key().await.map_err(KeyError::Unavailable)?;
///         Ok((BASE64.encode(wrapped), Key::new(key)))
///     }
///
///     // asked once a key, by each reader
///     async fn key(&self, id: &str) -> Result<Key, KeyError> {
///         let Ok(wrapped) = BASE64.decode(id) else { return Err(KeyError::Unknown { id: id.to_owned() }) };
///         self.0.unwrap_key(&wrapped).await.map(Key::new).map_err(KeyError::Unavailable)
///     }
/// }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// # let keys = Enveloped(Service);
/// # let (id, _) = keys.present("orders").await?;
/// # keys.key(&id).await?;
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait KeyProvider: Send + Sync + 'static {
    /// The key that seals the records of this stream from now on, and its id.
    async fn present(&self, stream: &str) -> Result<(String, Key), KeyError>;

    /// The key of this id.
    async fn key(&self, id: &str) -> Result<Key, KeyError>;
}

/// Keys that are at hand: the last one added seals, all of them open.
///
/// ```
/// use streambreaker_lake::{Key, Keys};
///
/// let keys = Keys::new("2025", Key::new([1; 32])).and("2026", Key::new([2; 32]));
/// assert_eq!(format!("{keys:?}"), r#"Keys(present "2026", 2 keys)"#);
/// ```
#[derive(Clone)]
pub struct Keys {
    present: String,
    keys: BTreeMap<String, Key>,
    forgotten: BTreeSet<String>,
}

impl Keys {
    /// One key.
    pub fn new(id: impl Into<String>, key: Key) -> Self {
        let present = id.into();
        let keys = BTreeMap::from([(present.clone(), key)]);
        Self { present, keys, forgotten: BTreeSet::new() }
    }

    /// And another, which seals from now on.
    #[must_use]
    pub fn and(mut self, id: impl Into<String>, key: Key) -> Self {
        self.present = id.into();
        self.forgotten.remove(&self.present);
        self.keys.insert(self.present.clone(), key);
        self
    }

    /// Without this one, for good: what it sealed is skipped from now on, and reported. A key that is neither here nor
    /// forgotten is an error for whoever meets what it sealed.
    #[must_use]
    pub fn forgotten(mut self, id: impl Into<String>) -> Self {
        let id = id.into();
        self.keys.remove(&id);
        self.forgotten.insert(id);
        self
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys(present {:?}, {} keys)", self.present, self.keys.len())
    }
}

#[async_trait]
impl KeyProvider for Keys {
    async fn present(&self, _: &str) -> Result<(String, Key), KeyError> {
        let key = self.key(&self.present).await?;
        Ok((self.present.clone(), key))
    }

    async fn key(&self, id: &str) -> Result<Key, KeyError> {
        let missing = || match self.forgotten.contains(id) {
            true => KeyError::Forgotten { id: id.to_owned() },
            false => KeyError::Unknown { id: id.to_owned() },
        };
        self.keys.get(id).cloned().ok_or_else(missing)
    }
}

#[async_trait]
impl<K: KeyProvider + ?Sized> KeyProvider for Arc<K> {
    async fn present(&self, stream: &str) -> Result<(String, Key), KeyError> {
        (**self).present(stream).await
    }

    async fn key(&self, id: &str) -> Result<Key, KeyError> {
        (**self).key(id).await
    }
}

/// A sealed payload begins with this: the version of its form.
const FORM: u8 = 1;
const NONCE: usize = 12;
const TAG: usize = 16;

/// By how many bytes what is sealed is longer than before.
pub(crate) const LONGER: usize = 1 + NONCE + TAG;

/// Where a record lies: authenticated with its payload, so that one that is moved elsewhere does not open.
fn place(record: &Record) -> Vec<u8> {
    let mut place = Vec::with_capacity(128);
    let position = record.position().to_string();
    for field in [record.stream(), record.shard().as_str(), &position] {
        place.extend_from_slice(&(field.len() as u64).to_le_bytes());
        place.extend_from_slice(field.as_bytes());
    }
    place
}

/// Seals with one key.
#[derive(Clone)]
pub(crate) struct Sealer {
    cipher: Aes256GcmSiv,
    sealed_by: Arc<str>,
}

impl Sealer {
    pub(crate) fn new(id: &str, key: &Key) -> Self {
        let sealed_by = format!("{id}#{}", key.check_value()).into();
        Self { cipher: key.cipher(), sealed_by }
    }

    /// The record with its payload sealed; its index stays in the open.
    pub(crate) fn seal(&self, mut stored: Stored) -> Stored {
        let sealed = self.seal_bytes(&place(&stored.record), stored.record.payload());
        stored.record = with_payload(&stored.record, sealed.into());
        stored.sealed_by = Some(self.sealed_by.clone());
        stored
    }

    /// Bytes sealed, together with where they belong.
    pub(crate) fn seal_bytes(&self, place: &[u8], bytes: &[u8]) -> Vec<u8> {
        let aad = [self.sealed_by.as_bytes(), &[0], place].concat();
        let nonce = Uuid::new_v5(&Uuid::NAMESPACE_OID, &aad);
        let nonce = &nonce.as_bytes()[..NONCE];
        let sealed = self
            .cipher
            .encrypt(Nonce::from_slice(nonce), Payload { msg: bytes, aad: &aad })
            .expect("a payload is shorter than the 64 GiB that the cipher takes");
        [&[FORM][..], nonce, &sealed].concat()
    }

    fn open_bytes(&self, place: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Damage> {
        let changed = Damage::Contents("its seal: something was changed or moved");
        if sealed.first() != Some(&FORM) || sealed.len() < 1 + NONCE {
            return Err(changed);
        }
        let aad = [self.sealed_by.as_bytes(), &[0], place].concat();
        let payload = Payload { msg: &sealed[1 + NONCE..], aad: &aad };
        self.cipher.decrypt(Nonce::from_slice(&sealed[1..1 + NONCE]), payload).map_err(|_| changed)
    }

    /// By which key, and its check value.
    pub(crate) fn sealed_by(&self) -> &str {
        &self.sealed_by
    }
}

/// The same record with another payload.
fn with_payload(record: &Record, payload: Bytes) -> Record {
    let mut other =
        Record::new(record.stream(), record.shard().clone(), record.position().clone(), payload)
            .with_headers(record.headers().clone())
            .with_arrival(record.arrival())
            .with_delivery(record.delivery().clone())
            .with_deliveries(record.deliveries());
    if let Some(key) = record.key() {
        other = other.with_key(key.clone());
    }
    other
}

/// Opens what was sealed, and remembers the keys it was given.
#[derive(Default)]
pub(crate) struct Opener {
    /// What opens what this key has sealed; nothing, where it is forgotten.
    known: BTreeMap<Arc<str>, Result<Sealer, Damage>>,
}

impl Opener {
    /// The record as it was before it was sealed; as it is, if it was not.
    pub(crate) async fn open(
        &mut self,
        keys: Option<&Arc<dyn KeyProvider>>,
        stored: &Stored,
    ) -> Result<Result<Record, Damage>, LakeError> {
        let Some(sealed_by) = &stored.sealed_by else { return Ok(Ok(stored.record.clone())) };
        let place = place(&stored.record);
        let opened = self.open_bytes(keys, sealed_by, &place, stored.record.payload()).await?;
        Ok(opened.map(|payload| with_payload(&stored.record, payload.into())))
    }

    /// What was sealed by this key, where it belongs.
    pub(crate) async fn open_bytes(
        &mut self,
        keys: Option<&Arc<dyn KeyProvider>>,
        sealed_by: &str,
        place: &[u8],
        sealed: &[u8],
    ) -> Result<Result<Vec<u8>, Damage>, LakeError> {
        if !self.known.contains_key(sealed_by) {
            let (id, _) = sealed_by.rsplit_once('#').unwrap_or((sealed_by, ""));
            let id = id.to_owned();
            let Some(keys) = keys else { return Err(KeyError::NoProvider { id }.into()) };
            let sealer = match keys.key(&id).await {
                Ok(key) => Ok(Sealer::new(&id, &key)),
                Err(KeyError::Forgotten { id }) => Err(Damage::Forgotten(id)),
                Err(error) => return Err(error.into()),
            };
            if sealer.as_ref().is_ok_and(|sealer| *sealer.sealed_by != *sealed_by) {
                return Err(KeyError::Wrong { id }.into());
            }
            self.known.insert(sealed_by.into(), sealer);
        }
        Ok(self.known[sealed_by]
            .as_ref()
            .map_err(Clone::clone)
            .and_then(|s| s.open_bytes(place, sealed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use streambreaker::Position;
    use streambreaker::envelope::JsonEnvelope;

    fn sealed(position: u64, payload: &[u8]) -> Stored {
        let record =
            Record::new("s", "0", Position::from(position), payload.to_vec()).with_key("k");
        let stored = Stored::plain(record, &JsonEnvelope::new());
        Sealer::new("a", &Key::new([7; 32])).seal(stored)
    }

    async fn open(stored: &Stored) -> Result<Record, Damage> {
        let keys: Arc<dyn KeyProvider> = Arc::new(Keys::new("a", Key::new([7; 32])));
        Opener::default().open(Some(&keys), stored).await.expect("the key is known")
    }

    proptest! {
        #[test]
        fn l11_a_payload_that_was_changed_does_not_open(payload in proptest::collection::vec(any::<u8>(), 0..60), at in any::<proptest::sample::Index>(), bit in 0u8..8) {
            futures::executor::block_on(async {
                let stored = sealed(1, &payload);
                let opened = open(&stored).await.expect("opened");
                assert_eq!((&opened.payload()[..], opened.key().is_some()), (&payload[..], true));
                let mut bytes = stored.record.payload().to_vec();
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
                let changed = Stored { record: with_payload(&stored.record, bytes.into()), ..stored };
                assert!(open(&changed).await.is_err());
            });
        }
    }

    #[test]
    fn l11_a_payload_that_was_moved_or_cut_off_does_not_open() {
        futures::executor::block_on(async {
            let (one, two) = (sealed(1, b"one"), sealed(2, b"two"));
            let moved = Stored {
                record: with_payload(&one.record, two.record.payload().clone()),
                ..one.clone()
            };
            assert!(open(&moved).await.is_err());
            let whole = one.record.payload();
            for len in 0..whole.len() {
                let cut =
                    Stored { record: with_payload(&one.record, whole.slice(..len)), ..one.clone() };
                assert!(open(&cut).await.is_err());
            }
        });
    }

    #[test]
    fn l12_debug_of_keys_shows_none() {
        let key = Key::new([0xab; 32]);
        assert_eq!(format!("{key:?}"), "Key");
        assert!(!format!("{:?}", Keys::new("id", key)).contains("171"));
    }
}
