//! `of_type`: keep out events of other types, without decoding them.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::inline::{Inline, Step};
use super::plan::StagePlan;
use super::{Flow, Stage, StageCx};
use crate::error::{Class, StepError};
use crate::unit::{Received, Uow};

/// Which types of events a pipeline wants: names, a glob, or a function.
pub trait TypeFilter {
    /// The function that decides.
    fn into_filter(self) -> impl Fn(&str) -> bool + Send + Sync + 'static;
}

impl TypeFilter for &str {
    /// A name, or a glob in which `*` stands for any text: `order-*`.
    fn into_filter(self) -> impl Fn(&str) -> bool + Send + Sync + 'static {
        let pattern = self.to_owned();
        move |kind: &str| glob(&pattern, kind)
    }
}

impl<const N: usize> TypeFilter for [&str; N] {
    /// Any of these names or globs.
    fn into_filter(self) -> impl Fn(&str) -> bool + Send + Sync + 'static {
        any_of(self.iter().map(|name| (*name).to_owned()).collect())
    }
}

impl TypeFilter for &[&str] {
    /// Any of these names or globs.
    fn into_filter(self) -> impl Fn(&str) -> bool + Send + Sync + 'static {
        any_of(self.iter().map(|name| (*name).to_owned()).collect())
    }
}

impl TypeFilter for Vec<String> {
    /// Any of these names or globs.
    fn into_filter(self) -> impl Fn(&str) -> bool + Send + Sync + 'static {
        any_of(self)
    }
}

impl<F: Fn(&str) -> bool + Send + Sync + 'static> TypeFilter for F {
    fn into_filter(self) -> impl Fn(&str) -> bool + Send + Sync + 'static {
        self
    }
}

fn any_of(names: Vec<String>) -> impl Fn(&str) -> bool + Send + Sync + 'static {
    let (globs, names): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| name.contains('*'));
    let names: BTreeSet<String> = names.into_iter().collect();
    move |kind: &str| names.contains(kind) || globs.iter().any(|pattern| glob(pattern, kind))
}

/// `*` stands for any text, also none; greedy with one point to go back to, so linear in practice and
/// never exponential.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(first) = parts.next() else { return text.is_empty() };
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

struct OfType<W>(W);

impl<W: Fn(&str) -> bool> Step<Received> for OfType<W> {
    type Out = Received;

    #[inline]
    fn step(&mut self, cx: &StageCx, unit: Uow<Received>) -> Option<Uow<Received>> {
        let verdict = cx.catch(|| unit.value().kind().map(|kind: Cow<'_, str>| (self.0)(&kind)));
        match verdict {
            Ok(Some(true)) => return Some(unit),
            Ok(Some(false)) => cx.filtered(unit),
            Ok(None) => cx.fault(
                unit,
                StepError::new(Class::Fault, "the event has no type that could be read")
                    .with_name("NoType"),
            ),
            Err(panic) => cx.fault(unit, panic),
        }
        None
    }
}

impl<S: Stage<Out = Received>> Flow<S> {
    /// Lets through only events of these types: names (`["order-submitted", "order-changed"]`), a glob
    /// (`"order-*"`), or a function of the type. The others end as `Filtered`.
    ///
    /// Asks the envelope, which looks at the outside of the event only. An event that has no type, bad JSON
    /// among them, is a fault: nobody could say that it was not for this pipeline.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/flow/example.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let events = [r#"{"type":"order-submitted"}"#, r#"{"type":"invoice"}"#, r#"{"type":"order-x"}"#];
    ///
    /// let report = run(events, |flow| flow.of_type(["order-submitted", "order-changed"])).await;
    /// assert_eq!((report.done, report.filtered), (1, 2));
    ///
    /// let report = run(events, |flow| flow.of_type("order-*")).await;
    /// assert_eq!((report.done, report.filtered), (2, 1));
    ///
    /// let report = run(events, |flow| flow.of_type(|kind: &str| kind.len() > 8)).await;
    /// assert_eq!((report.done, report.filtered), (1, 2));
    /// # }
    /// ```
    pub fn of_type<F>(self, types: F) -> Flow<impl Stage<Out = Received> + use<S, F>>
    where
        F: TypeFilter,
    {
        let wanted = types.into_filter();
        self.add(StagePlan::new("of_type"), |above, cx| Inline::new(above, cx, OfType(wanted)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_names() {
        for (pattern, text, want) in [
            ("order-*", "order-submitted", true),
            ("order-*", "reorder-x", false),
            ("*", "", true),
            ("*-created", "a-created", true),
            ("*-created", "a-created-b", false),
            ("a*b*c", "a--b--c", true),
            ("a*b*c", "a--c--b", false),
            ("ab*ba", "aba", false),
            ("exact", "exact", true),
            ("exact", "exactly", false),
        ] {
            assert_eq!(glob(pattern, text), want, "{pattern} {text}");
        }
        let filter = ["a", "b-*"].into_filter();
        assert!(filter("a") && filter("b-1") && !filter("c"));
    }
}
