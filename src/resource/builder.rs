//! Building a resource: all settings, all their checks.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::account::Account;
use super::breaker::Breaker;
use super::circuit::Circuit;
use super::classify::Classifier;
use super::quota::{QuotaState, RetryQuota};
use super::rate::{Rate, RateState};
use super::retry::Retry;
use super::{Inner, OnExhausted, Resource};
use crate::clock::{FAR, Random};
use crate::config::{BreakerConfig, Config, ConfigError, QuotaConfig, ResourceConfig, RetryConfig};
use crate::error::Class;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Settings {
    pub(super) timeout: Duration,
    pub(super) retry: Retry,
    pub(super) retry_quota: RetryQuota,
    pub(super) breaker: Option<Breaker>,
    pub(super) rate: Option<Rate>,
    pub(super) concurrency: Option<usize>,
    pub(super) on_exhausted: OnExhausted,
    pub(super) return_limit: Option<u32>,
    pub(super) max_wait: Duration,
}

/// Builds a [`Resource`]; begun by [`Resource::builder`]. Only the timeout must be set.
#[derive(Debug)]
#[must_use = "a builder does nothing unless `build()` is called"]
pub struct ResourceBuilder {
    name: String,
    timeout: Option<Duration>,
    settings: Settings,
    classifier: Option<Classifier>,
    seed: Option<u64>,
    /// The configuration has settings for a breaker that is not there.
    homeless_breaker: bool,
    /// What the configuration said of it.
    taken: Option<ResourceConfig>,
}

impl ResourceBuilder {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            timeout: None,
            settings: Settings {
                timeout: Duration::ZERO,
                retry: Retry::exponential(),
                retry_quota: RetryQuota::default(),
                breaker: None,
                rate: None,
                concurrency: None,
                on_exhausted: OnExhausted::Return,
                return_limit: None,
                max_wait: Duration::from_secs(30),
            },
            classifier: None,
            seed: None,
            homeless_breaker: false,
            taken: None,
        }
    }

    /// How long one attempt may take. Has no default: only you know what the dependency may take.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// When to try again. Default [`Retry::exponential`].
    pub fn retry(mut self, retry: Retry) -> Self {
        self.settings.retry = retry;
        self
    }

    /// How many retries all units may make together. Default [`RetryQuota::default`].
    pub fn retry_quota(mut self, quota: RetryQuota) -> Self {
        self.settings.retry_quota = quota;
        self
    }

    /// When to stop calling. Default: no breaker.
    pub fn breaker(mut self, breaker: Breaker) -> Self {
        self.settings.breaker = Some(breaker);
        self
    }

    /// How many attempts may start in a time. Default: no limit.
    pub fn rate(mut self, rate: Rate) -> Self {
        self.settings.rate = Some(rate);
        self
    }

    /// How many attempts may run at once, in the whole process. Default: no limit.
    pub fn concurrency(mut self, attempts: usize) -> Self {
        self.settings.concurrency = Some(attempts);
        self
    }

    /// Asked about errors that a handler left a fault (by `?`): the class it is, or `None` to leave it.
    /// It sees the original error and may downcast it; [`io_errors`](super::io_errors) is a ready-made
    /// one. Answers other than transient, throttled and fatal change nothing; if it panics, that is a
    /// panic of the unit.
    pub fn classify(
        mut self,
        classifier: impl Fn(&(dyn Error + Send + Sync + 'static)) -> Option<Class>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.classifier = Some(Classifier::new(classifier));
        self
    }

    /// What becomes of a unit whose retries are used up. Default [`OnExhausted::Return`].
    pub fn on_exhausted(mut self, on_exhausted: OnExhausted) -> Self {
        self.settings.on_exhausted = on_exhausted;
        self
    }

    /// How often a unit is returned before it becomes a fault of class `Returned`. Default: no limit.
    pub fn return_limit(mut self, returns: u32) -> Self {
        self.settings.return_limit = Some(returns);
        self
    }

    /// How long a unit may wait for permit or rate. Default 30 s; zero is no waiting.
    pub fn max_wait(mut self, max_wait: Duration) -> Self {
        self.settings.max_wait = max_wait;
        self
    }

    /// Repeats the jitter of another run. Default: seeded by the operating system.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Takes what the configuration says of a resource of this name; what it does not name stays as the code
    /// has it. To be called last: configuration wins. Where it is forgotten, `build()` of a processor with that
    /// configuration says so.
    ///
    /// ```
    /// use std::time::Duration;
    /// use streambreaker::{Config, Resource};
    ///
    /// let config: Config = serde_json::from_str(r#"{"resources": {"db": {"timeout": "2s"}}}"#)?;
    /// let db = Resource::builder("db").timeout(Duration::from_secs(1)).config(&config).build()?;
    /// assert!(format!("{db:?}").contains("2s"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn config(mut self, config: &Config) -> Self {
        match config.resources.get(&self.name) {
            Some(own) => {
                self.taken = Some(own.clone());
                own.apply(self)
            }
            None => self,
        }
    }

    pub(crate) fn change(
        mut self,
        retry: &RetryConfig,
        quota: &QuotaConfig,
        breaker: &BreakerConfig,
    ) -> Self {
        let settings = &mut self.settings;
        settings.retry = retry.apply(settings.retry);
        settings.retry_quota = quota.apply(settings.retry_quota);
        settings.breaker = breaker.apply(settings.breaker);
        self.homeless_breaker |= settings.breaker.is_none() && breaker.wants_one();
        self
    }

    /// The resource.
    ///
    /// # Errors
    /// The first setting that cannot be used, with what would be accepted.
    pub fn build(self) -> Result<Resource, ConfigError> {
        let Self { name, timeout, mut settings, classifier, seed, homeless_breaker, taken } = self;
        // a name is a label, and is printed: text that was not meant as one does not go further
        if name.trim().is_empty() {
            return Err(ConfigError::new("resource name", "empty", "a short text"));
        }
        if name.len() > 255 || name.chars().any(char::is_control) {
            let accepted = "a text of at most 255 bytes without control characters";
            return Err(ConfigError::new("resource name", "unfit as a label", accepted));
        }
        let of = format!("resource `{name}`");
        settings.timeout = match timeout {
            Some(timeout) if !timeout.is_zero() => timeout.min(FAR),
            other => {
                let found = if other.is_some() { "zero" } else { "not set" };
                let accepted = "a duration above zero, for one attempt";
                return Err(ConfigError::new(format!("{of}: timeout"), found, accepted));
            }
        };
        if homeless_breaker {
            return Err(ConfigError::new(
                format!("{of}: breaker"),
                "configured, but the code gives none",
                "`ratio` beside the other settings, which adds one",
            ));
        }
        settings.max_wait = settings.max_wait.min(FAR);
        settings.check(&of)?;

        let name: Arc<str> = name.into();
        let now = Instant::now();
        Ok(Resource(Arc::new(Inner {
            random: seed.map_or_else(Random::from_entropy, Random::seeded),
            quota: QuotaState::new(settings.retry_quota, now),
            circuit: settings.breaker.map(|breaker| Circuit::new(Arc::clone(&name), breaker, now)),
            rate: RateState::new(settings.rate, now),
            permits: settings.concurrency.map(|permits| Arc::new(Semaphore::new(permits))),
            account: Account::default(),
            worked: AtomicBool::new(false),
            name,
            settings,
            classifier,
            taken,
        })))
    }
}

impl Settings {
    fn check(&self, of: &str) -> Result<(), ConfigError> {
        self.retry.check(of)?;
        self.retry_quota.check(of)?;
        if let Some(rate) = &self.rate {
            rate.check(of)?;
        }
        if let Some(found) = self.concurrency {
            if found == 0 || found > Semaphore::MAX_PERMITS {
                let accepted = format!("a number from 1 to {}", Semaphore::MAX_PERMITS);
                return Err(ConfigError::new(format!("{of}: concurrency"), found, accepted));
            }
        }
        if self.return_limit == Some(0) {
            let accepted = "a number from 1; never to return: on_exhausted(OnExhausted::Fault)";
            return Err(ConfigError::new(format!("{of}: return_limit"), 0, accepted));
        }
        if let Some(breaker) = &self.breaker {
            breaker.check(of)?;
            if breaker.on_open.is_none() && self.on_exhausted == OnExhausted::Return {
                // returned while open, units would come straight back: the user must choose
                let accepted = "OnOpen::Fault (fault at once), OnOpen::Pause (wait for the probe) or \
                                OnOpen::Siphon (fault at once, exempt from the flood guard); or \
                                on_exhausted(OnExhausted::Fault)";
                return Err(ConfigError::new(
                    format!("{of}: breaker on_open"),
                    "not set",
                    accepted,
                ));
            }
        }
        Ok(())
    }
}
