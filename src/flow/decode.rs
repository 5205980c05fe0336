//! `json` and `decode`: from bytes to a value.

use std::fmt;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;

use super::inline::{Inline, Step};
use super::plan::StagePlan;
use super::{Flow, Stage, StageCx};
use crate::error::{BoxError, Class, StepError};
use crate::unit::{Event, Received, Uow};

/// Makes a value of a record's bytes.
///
/// Implemented for closures. A codec with versions looks at the record's headers or type, and makes of an old
/// form what the new one would have been (*upcasting*).
pub trait Codec<E>: Send + Sync {
    /// Decodes one record.
    ///
    /// # Errors
    /// What is wrong with it: a fault of the unit, with this text.
    fn decode(&self, received: &Received) -> Result<E, BoxError>;
}

impl<E, F> Codec<E> for F
where
    F: Fn(&Received) -> Result<E, BoxError> + Send + Sync,
{
    fn decode(&self, received: &Received) -> Result<E, BoxError> {
        self(received)
    }
}

/// An event that cannot be decoded. `Debug` leaves out why: a decoder's words may quote the payload.
#[derive(thiserror::Error)]
#[error("the event cannot be decoded as {wanted}: {source}")]
#[non_exhaustive]
pub struct DecodeError {
    /// The type that was wanted.
    pub wanted: &'static str,
    /// Why not.
    pub source: BoxError,
}

impl fmt::Debug for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DecodeError({})", self.wanted)
    }
}

struct Json;

impl<E: DeserializeOwned> Codec<E> for Json {
    fn decode(&self, received: &Received) -> Result<E, BoxError> {
        Ok(serde_json::from_slice(&received.data())?)
    }
}

struct Decode<E, C> {
    codec: C,
    wanted: PhantomData<fn() -> E>,
}

impl<E, C: Codec<E>> Step<Received> for Decode<E, C> {
    type Out = Event<E>;

    #[inline]
    fn step(&mut self, cx: &StageCx, unit: Uow<Received>) -> Option<Uow<Event<E>>> {
        let (received, lineage) = unit.into_parts();
        match cx.catch(|| self.codec.decode(&received)) {
            Ok(Ok(value)) => Some(lineage.with(Event::new(value, received))),
            Ok(Err(source)) => {
                let error = DecodeError { wanted: std::any::type_name::<E>(), source };
                cx.fault(
                    lineage.with(()),
                    StepError::new(Class::Fault, error).with_name("DecodeError"),
                );
                None
            }
            Err(panic) => {
                cx.fault(lineage.with(()), panic);
                None
            }
        }
    }
}

impl<S: Stage<Out = Received>> Flow<S> {
    /// Decodes each record with `codec`; one that cannot be decoded is a fault.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/flow/example.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use streambreaker::{BoxError, Received};
    ///
    /// // version 1 had whole units, version 2 has hundredths
    /// fn cents(received: &Received) -> Result<u64, BoxError> {
    ///     let n: u64 = serde_json::from_slice(received.payload())?;
    ///     match received.header("version").map(|version| &version[..]) {
    ///         None | Some(b"1") => Ok(n * 100),
    ///         Some(b"2") => Ok(n),
    ///         Some(_) => Err("a version that nobody knows".into()),
    ///     }
    /// }
    ///
    /// let report = run(["1", "one"], |flow| flow.decode(cents)).await;
    /// assert_eq!((report.done, report.faulted), (1, 1));
    /// # }
    /// ```
    pub fn decode<E, C>(self, codec: C) -> Flow<impl Stage<Out = Event<E>> + use<S, E, C>>
    where
        C: Codec<E>,
        E: Send + Sync + 'static,
    {
        self.decoding("decode", codec)
    }

    /// Decodes each record as JSON; what is not JSON, or not an `E`, is a fault, not a crash. Nesting is
    /// bounded (128 deep, serde_json's limit).
    ///
    /// Where the envelope wraps the event proper (CloudEvents' structured mode), that is what is decoded.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/flow/example.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// #[derive(serde::Deserialize)]
    /// struct Order {
    ///     amount: u64,
    /// }
    ///
    /// let report = run([r#"{"amount":1}"#, "{}", "not json"], |flow| {
    ///     flow.json::<Order>().filter(|order| order.amount > 0)
    /// })
    /// .await;
    /// assert_eq!((report.done, report.faulted), (1, 2));
    /// # }
    /// ```
    pub fn json<E>(self) -> Flow<impl Stage<Out = Event<E>> + use<S, E>>
    where
        E: DeserializeOwned + Send + Sync + 'static,
    {
        self.decoding("json", Json)
    }

    fn decoding<E, C>(
        self,
        name: &'static str,
        codec: C,
    ) -> Flow<impl Stage<Out = Event<E>> + use<S, E, C>>
    where
        C: Codec<E>,
        E: Send + Sync + 'static,
    {
        self.add(StagePlan::new(name), |above, cx| {
            Inline::new(above, cx, Decode { codec, wanted: PhantomData })
        })
    }
}
