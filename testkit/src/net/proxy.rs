//! A TCP proxy in this process, which stalls, cuts, delays and heals when it is told to.
//!
//! It knows no protocol. Between a client and a server it makes what a network makes: bytes that do not come, a
//! connection that is gone in the middle of a message, a server that refuses for a while.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Nothing is cut after a number of bytes.
const NEVER: u64 = u64::MAX;

/// How the network is just now.
#[derive(Clone, Copy, Debug)]
struct Weather {
    upstream: SocketAddr,
    stalled: bool,
    cut: bool,
    delay: Duration,
    /// Connections of an earlier number are closed.
    since: u64,
}

struct Inner {
    weather: watch::Sender<Weather>,
    /// Bytes that may still pass before all connections are closed.
    left: AtomicU64,
    accepted: AtomicU64,
    passed: AtomicU64,
}

/// A proxy on a port of its own, on the loopback. Ends with all its connections when it is dropped.
///
/// ```
/// use streambreaker_testkit::net::Proxy;
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
/// use tokio::net::{TcpListener, TcpStream};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let server = TcpListener::bind("127.0.0.1:0").await?;
/// let proxy = Proxy::start(server.local_addr()?).await?;
///
/// let mut client = TcpStream::connect(proxy.address()).await?;
/// let (mut at_server, _) = server.accept().await?;
/// client.write_all(b"hello").await?;
/// let mut heard = [0; 5];
/// at_server.read_exact(&mut heard).await?;
/// assert_eq!(&heard, b"hello");
///
/// proxy.cut();
/// assert_eq!(at_server.read(&mut heard).await.unwrap_or(0), 0, "it is closed");
/// proxy.heal();
/// # Ok(())
/// # }
/// ```
pub struct Proxy {
    address: SocketAddr,
    inner: Arc<Inner>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// A proxy in front of a server.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(upstream: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let weather =
            Weather { upstream, stalled: false, cut: false, delay: Duration::ZERO, since: 0 };
        let inner = Arc::new(Inner {
            weather: watch::Sender::new(weather),
            left: AtomicU64::new(NEVER),
            accepted: AtomicU64::new(0),
            passed: AtomicU64::new(0),
        });
        let accepting = tokio::spawn(accept(listener, inner.clone()));
        Ok(Self { address, inner, accepting })
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections were made so far.
    pub fn connections(&self) -> u64 {
        self.inner.accepted.load(Ordering::Acquire)
    }

    /// How many bytes passed so far, both ways together.
    pub fn bytes(&self) -> u64 {
        self.inner.passed.load(Ordering::Acquire)
    }

    fn change(&self, change: impl FnOnce(&mut Weather)) {
        self.inner.weather.send_modify(change);
    }

    /// New connections go to another server: one that was started again elsewhere.
    pub fn redirect(&self, upstream: SocketAddr) {
        self.change(|weather| weather.upstream = upstream);
    }

    /// Nothing passes any more, either way; connections stay as they are, and nobody is told. Until
    /// [`heal`](Self::heal), after which what was kept back passes.
    pub fn stall(&self) {
        self.change(|weather| weather.stalled = true);
    }

    /// Each piece that passes takes so long, each way.
    pub fn delay(&self, delay: Duration) {
        self.change(|weather| weather.delay = delay);
    }

    /// Closes all connections; new ones can be made.
    pub fn drop_connections(&self) {
        let now = self.connections();
        self.change(|weather| weather.since = now);
    }

    /// Closes all connections after so many bytes more, wherever that is in a message; new ones can be made. Once.
    pub fn cut_after(&self, bytes: u64) {
        self.inner.left.store(bytes, Ordering::Release);
    }

    /// Closes all connections, and each new one as soon as it is made. Until [`heal`](Self::heal).
    pub fn cut(&self) {
        self.drop_connections();
        self.change(|weather| weather.cut = true);
    }

    /// The network is well again: nothing is stalled, cut or delayed.
    pub fn heal(&self) {
        self.inner.left.store(NEVER, Ordering::Release);
        self.change(|weather| {
            (weather.stalled, weather.cut, weather.delay) = (false, false, Duration::ZERO);
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Proxy({}, {:?})", self.address, *self.inner.weather.borrow())
    }
}

async fn accept(listener: TcpListener, inner: Arc<Inner>) {
    // aborted with this task
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                let number = inner.accepted.fetch_add(1, Ordering::AcqRel) + 1;
                connections.spawn(serve(client, inner.clone(), number));
            }
        }
    }
}

async fn serve(client: TcpStream, inner: Arc<Inner>, number: u64) {
    let mut weather = inner.weather.subscribe();
    let now = *weather.borrow_and_update();
    if now.cut {
        return;
    }
    let Ok(server) = TcpStream::connect(now.upstream).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let closed = async {
        // a proxy that is gone closes it as well
        let _ = weather.wait_for(|weather| weather.since >= number).await;
    };
    tokio::select! {
        biased;
        () = closed => {}
        () = pass(&mut from_client, &mut to_server, &inner) => {}
        () = pass(&mut from_server, &mut to_client, &inner) => {}
    }
}

/// Passes bytes on, one way, until either end closes.
async fn pass(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    inner: &Inner,
) {
    let mut weather = inner.weather.subscribe();
    let mut piece = vec![0; 16 << 10];
    loop {
        let Ok(read @ 1..) = from.read(&mut piece).await else { return };
        if weather.wait_for(|weather| !weather.stalled).await.is_err() {
            return;
        }
        let delay = weather.borrow().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let take = |left: u64| (left != NEVER).then(|| left.saturating_sub(read as u64));
        let left = match inner.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, take) {
            Ok(before) if before < read as u64 => before as usize,
            _ => read,
        };
        let written = to.write_all(&piece[..left]).await;
        inner.passed.fetch_add(left as u64, Ordering::AcqRel);
        if left < read {
            inner.left.store(NEVER, Ordering::Release);
            let now = inner.accepted.load(Ordering::Acquire);
            inner.weather.send_modify(|weather| weather.since = now);
            return;
        }
        if written.is_err() {
            return;
        }
    }
}
