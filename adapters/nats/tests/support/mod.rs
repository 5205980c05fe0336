//! A real server for each test, on a port and in a folder of its own.

#![allow(dead_code, unreachable_pub)] // each file of tests uses its part

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use streambreaker::prelude::*;
use streambreaker::{FaultEvent, Sink};
use streambreaker_nats::async_nats::jetstream::consumer::PullConsumer;
use streambreaker_nats::async_nats::jetstream::consumer::pull::Config as ConsumerConfig;
use streambreaker_nats::async_nats::jetstream::stream::Config as StreamConfig;
use streambreaker_nats::async_nats::jetstream::{self, Context};
use streambreaker_nats::async_nats::{self, Client};
use streambreaker_nats::{NatsSource, NatsSourceBuilder};

/// How long a test waits for what must happen.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A `nats-server` with JetStream. Killed, by its id, and its folder removed, when it is dropped.
pub struct Server {
    address: SocketAddr,
    folder: PathBuf,
    child: Option<Child>,
    jetstream: bool,
    configured: bool,
}

fn binary() -> PathBuf {
    let known = ["/usr/sbin", "/usr/bin", "/usr/local/bin"].map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(known)
        .map(|folder| folder.join("nats-server"))
        .find(|file| file.is_file());
    found.unwrap_or_else(|| {
        panic!(
            "there is no `nats-server`: install it with \
             `apt-get install -y --no-install-recommends nats-server`, or run scripts/test"
        )
    })
}

impl Server {
    pub fn start() -> Self {
        Self::with(true, |_| None)
    }

    pub fn without_jetstream() -> Self {
        Self::with(false, |_| None)
    }

    /// With a file of configuration. It is told the server's folder, for files of its own.
    pub fn configured(config: impl FnOnce(&Path) -> String) -> Self {
        Self::with(true, |folder| Some(config(folder)))
    }

    fn with(jetstream: bool, config: impl FnOnce(&Path) -> Option<String>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("streambreaker-nats-{}-{count}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let config = config(&folder);
        if let Some(config) = &config {
            std::fs::write(folder.join("config"), config).unwrap();
        }
        let configured = config.is_some();
        let mut server = Self { address: free(), folder, child: None, jetstream, configured };
        server.start_again();
        server
    }

    /// Starts it on the same port and folder.
    pub fn start_again(&mut self) {
        self.kill();
        let log = std::fs::File::create(self.folder.join("log")).unwrap();
        let mut command = Command::new(binary());
        command.args(["-a", "127.0.0.1", "-p", &self.address.port().to_string()]);
        if self.configured {
            command.arg("-c").arg(self.folder.join("config"));
        }
        if self.jetstream {
            command.arg("-js").arg("-sd").arg(&self.folder);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let began = Instant::now();
        while std::net::TcpStream::connect(self.address).is_err() {
            assert!(began.elapsed() < PATIENCE, "nats-server does not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// As `kill -9`: it has no chance to say anything to anybody.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// As an operator stops it: it writes what it has.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let id = child.id().to_string();
            Command::new("kill").args(["-TERM", &id]).status().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub async fn context(&self) -> Context {
        context(self.address).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// An address that is free now, and hardly taken by somebody else before it is used.
pub fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A context over a connection of its own, which does not give up.
pub async fn context(address: SocketAddr) -> Context {
    jetstream::ContextBuilder::new().timeout(Duration::from_secs(2)).build(client(address).await)
}

pub async fn client(address: SocketAddr) -> Client {
    options(async_nats::ConnectOptions::new())
        .retry_on_initial_connect()
        .connect(address.to_string())
        .await
        .unwrap()
}

/// With short waits: a test does not wait for a connection longer than it must.
pub fn options(options: async_nats::ConnectOptions) -> async_nats::ConnectOptions {
    options
        .ping_interval(Duration::from_millis(500))
        .reconnect_delay_callback(|_| Duration::from_millis(50))
        .request_timeout(Some(Duration::from_secs(2)))
}

pub fn stream(name: &str) -> StreamConfig {
    StreamConfig {
        name: name.to_owned(),
        subjects: vec![format!("{}.>", name.to_lowercase())],
        ..StreamConfig::default()
    }
}

pub fn consumer(ack_wait: Duration) -> ConsumerConfig {
    ConsumerConfig { ack_wait, max_ack_pending: 1_000, ..ConsumerConfig::default() }
}

/// The consumer `totals` of the stream `ORDERS`, made where it is missing.
pub fn orders(context: &Context, ack_wait: Duration) -> NatsSourceBuilder {
    NatsSource::builder(context.clone(), "ORDERS", "totals")
        .create_stream(stream("ORDERS"))
        .create(consumer(ack_wait))
}

/// Publishes numbers, `orders.0` to `orders.9` by their last digit, and waits until the stream has them.
pub async fn publish(context: &Context, numbers: std::ops::Range<u64>) {
    let mut acks = Vec::new();
    for n in numbers {
        let subject = format!("orders.{}", n % 10);
        acks.push(context.send_publish(subject, message(n)).await.unwrap());
        if acks.len() == 1_000 {
            for ack in acks.drain(..) {
                ack.await.unwrap();
            }
        }
    }
    for ack in acks {
        ack.await.unwrap();
    }
}

pub fn message(n: u64) -> jetstream::message::PublishMessage {
    jetstream::message::PublishMessage::build()
        .payload(n.to_string().into())
        .message_id(n.to_string())
}

/// What the consumer has: delivered and not acknowledged, not delivered.
pub async fn left(context: &Context) -> (usize, u64) {
    let consumer: PullConsumer =
        context.get_consumer_from_stream("totals", "ORDERS").await.unwrap();
    let info = consumer.cached_info();
    (info.num_ack_pending, info.num_pending)
}

/// What a dependency was made to do, by number: kept outside of what is tested.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<BTreeMap<u64, u32>>>);

impl Ledger {
    pub fn note(&self, n: u64) {
        *self.0.lock().unwrap().entry(n).or_default() += 1;
    }

    pub fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub fn effects(&self) -> u64 {
        self.0.lock().unwrap().values().map(|count| u64::from(*count)).sum()
    }

    /// Each number has its effect; how many had it more than once.
    pub fn holds(&self, numbers: std::ops::Range<u64>) -> usize {
        let effects = self.0.lock().unwrap();
        let missing: Vec<u64> =
            numbers.clone().filter(|n| !effects.contains_key(n)).take(20).collect();
        assert!(missing.is_empty(), "lost: {missing:?} …");
        let strays: Vec<_> = effects.keys().filter(|n| !numbers.contains(n)).take(20).collect();
        assert!(strays.is_empty(), "never published: {strays:?}");
        effects.values().filter(|count| **count > 1).count()
    }
}

/// Waits until something is so.
pub async fn until(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !is().await {
        assert!(began.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A dependency with a short timeout and no retry of its own.
pub fn db() -> Resource {
    Resource::builder("db")
        .timeout(Duration::from_millis(400))
        .retry(Retry::none())
        .concurrency(64)
        .build()
        .unwrap()
}

/// A processor of numbers with the limits of these tests, and one pipeline.
pub fn numbers(
    source: NatsSource,
    faults: impl Sink<FaultEvent> + 'static,
) -> streambreaker::ProcessorBuilder {
    Processor::builder("numbers")
        .source(source)
        .faults(faults)
        .in_flight(400, 8 << 20)
        .commit_every(Duration::from_millis(100), 200)
}
