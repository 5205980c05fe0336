//! A line of progress, where somebody watches.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::console::Console;
use crate::text::{span, thousands};

const EVERY: Duration = Duration::from_millis(200);
const WIDTH: usize = 24;

/// How far something is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Step {
    /// Of 1.
    pub(crate) part: f64,
    /// What has been handled.
    pub(crate) count: u64,
}

/// Waits for `work`, and draws meanwhile how far it is.
pub(crate) async fn watched<T>(
    console: &mut Console,
    what: &str,
    step: impl Fn() -> Step,
    work: impl Future<Output = T>,
) -> T {
    if !console.is_live() {
        return work.await;
    }
    let began = Instant::now();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tokio::pin!(work);
    let done = loop {
        tokio::select! {
            biased;
            done = &mut work => break done,
            _ = ticks.tick() => console.draw(&line(step(), what, began.elapsed())),
        }
    };
    console.undraw();
    done
}

/// `[######------------------]  25 %  1,234 records, 2,000/s, 3 s left`.
fn line(step: Step, what: &str, elapsed: Duration) -> String {
    let part = if step.part.is_finite() { step.part.clamp(0.0, 1.0) } else { 0.0 };
    let full = (part * WIDTH as f64) as usize;
    let bar = format!("{}{}", "#".repeat(full), "-".repeat(WIDTH - full));
    let secs = elapsed.as_secs_f64();
    let rate = if secs > 0.0 { step.count as f64 / secs } else { 0.0 };
    let mut line = format!(
        "[{bar}] {:>3.0} %  {} {what}, {}/s",
        part * 100.0,
        thousands(step.count),
        thousands(rate as u64)
    );
    if part > 0.01 && part < 1.0 {
        let left = secs / part - secs;
        let left = if left < 120.0 { format!("{left:.0} s") } else { span(left) };
        line.push_str(&format!(", {left} left"));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_and_how_fast() {
        let step = Step { part: 0.25, count: 1_000 };
        assert_eq!(
            line(step, "records", Duration::from_secs(2)),
            "[######------------------]  25 %  1,000 records, 500/s, 6 s left"
        );
        let long = line(step, "records", Duration::from_secs(3_600));
        assert!(long.ends_with(", 3.0 h left"), "{long}");
        let unknown = Step { part: f64::NAN, count: 0 };
        assert!(
            line(unknown, "records", Duration::ZERO)
                .starts_with("[------------------------]   0 %")
        );
    }
}
