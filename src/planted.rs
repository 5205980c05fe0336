//! Bugs planted on purpose, so that the testkit's simulator can show that it would see them.
//!
//! They exist only under `--cfg sim_bug`; which of them lives is then named by the variable `SIM_BUG`, so that
//! one build serves them all. Otherwise each condition is the constant `false`, and nothing of it is left.

/// Whether this bug is planted.
macro_rules! planted {
    ($name:literal) => {
        cfg!(sim_bug) && $crate::planted::lives($name)
    };
}

/// Whether the environment names this bug.
#[cfg(sim_bug)]
pub(crate) fn lives(name: &str) -> bool {
    static BUG: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    BUG.get_or_init(|| std::env::var("SIM_BUG").ok()).as_deref() == Some(name)
}

/// None does.
#[cfg(not(sim_bug))]
pub(crate) const fn lives(_: &str) -> bool {
    false
}
