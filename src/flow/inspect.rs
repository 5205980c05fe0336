//! `inspect`: look at each value on its way.

use super::inline::Inline;
use super::plan::StagePlan;
use super::{Flow, Stage};

impl<S: Stage> Flow<S> {
    /// Looks at each value on its way. A panic of `f` is a fault of that unit.
    pub fn inspect<F>(self, f: F) -> Flow<impl Stage<Out = S::Out> + use<S, F>>
    where
        F: Fn(&S::Out),
    {
        self.add(StagePlan::new("inspect"), |above, cx| {
            Inline::new(above, cx, move |cx, unit| match cx.catch(|| f(unit.value())) {
                Ok(()) => Some(unit),
                Err(panic) => {
                    cx.fault(unit, panic);
                    None
                }
            })
        })
    }
}
