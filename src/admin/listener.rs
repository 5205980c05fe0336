//! Where the listener is bound, and what it accepts.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::connection::{App, Render, serve};
use super::guard::Hosts;
use super::recorder::Recorder;
#[cfg(unix)]
use super::socket::Socket;
use crate::minutely::Minutely;
use crate::processor::Handle;

/// Connections at once.
const CONNECTIONS: u32 = 32;
/// How long to wait when none can be accepted: there may be no file descriptor left.
const BREATH: Duration = Duration::from_millis(100);
/// How often histograms are put in order.
const UPKEEP: Duration = Duration::from_secs(5);

/// Why there is no listener, or no recorder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// The address can be reached from outside.
    #[error(
        "{address} is not a loopback address, and the listener has no authentication; bind to 127.0.0.1 or to a \
         Unix socket, or say `allow_any_address`"
    )]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// The address is none, or cannot be bound.
    #[error("the admin listener cannot be bound to {address}")]
    Bind {
        /// What was asked for.
        address: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another recorder of metrics has been installed.
    #[error("another recorder of metrics has been installed; give its text to `metrics_by`")]
    Recorder,
}

/// Serves the status, the metrics and the switches of a processor. See [the module](super).
pub struct Listener {
    door: Door,
    hosts: Hosts,
    read_only: bool,
    metrics: Metrics,
    connections: u32,
}

/// Where `/metrics` comes from.
#[derive(Clone, Default)]
enum Metrics {
    #[default]
    None,
    Own(Recorder),
    Theirs(Render),
}

enum Door {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(Socket),
}

#[derive(Clone, Debug)]
enum Place {
    Tcp(String),
    #[cfg(unix)]
    Unix(std::path::PathBuf),
}

/// A listener that is about to be bound: await it.
#[must_use = "it is bound when this is awaited"]
pub struct Bind {
    place: Place,
    any_address: bool,
    read_only: bool,
    hosts: Vec<String>,
    metrics: Metrics,
    connections: u32,
}

impl Listener {
    /// Binds to an address of the loopback and a port: `127.0.0.1:9464`, `[::1]:9464`, `localhost:9464`. Port 0
    /// takes one that is free: see [`local_addr`](Self::local_addr).
    ///
    /// # Errors
    /// [`AdminError::NotLoopback`] unless [`Bind::allow_any_address`] was said; [`AdminError::Bind`] if it is
    /// no address, or taken.
    pub fn bind(address: impl Into<String>) -> Bind {
        Bind::to(Place::Tcp(address.into()))
    }

    /// Binds to a Unix socket of this path, to which only this user may connect. A socket that a dead process
    /// left there is replaced; it is removed when the listener is dropped.
    ///
    /// Put it into a directory that is this user's alone: its permissions are narrowed just after it is bound.
    ///
    /// # Errors
    /// [`AdminError::Bind`] if the path cannot be bound, somebody listens on it, or it is no socket.
    #[cfg(unix)]
    pub fn bind_unix(path: impl Into<std::path::PathBuf>) -> Bind {
        Bind::to(Place::Unix(path.into()))
    }

    /// The address that it is bound to; `None` for a Unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.door {
            Door::Tcp(listener) => listener.local_addr().ok(),
            #[cfg(unix)]
            Door::Unix(_) => None,
        }
    }

    /// The address or the path, for people.
    fn place(&self) -> String {
        match &self.door {
            Door::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|_| "an address unknown".to_owned(), |address| address.to_string()),
            #[cfg(unix)]
            Door::Unix(socket) => socket.path().display().to_string().escape_debug().to_string(),
        }
    }

    /// Serves until it is dropped.
    ///
    /// # Cancel safety
    /// Dropping it closes the listener; requests that are under way are answered, within 2 s.
    pub async fn serve(self, handle: Handle) {
        let stop = CancellationToken::new();
        let _stopped = stop.clone().drop_guard();
        self.run(handle, stop).await;
    }

    /// Serves in a task of its own, until what this returns is dropped.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn spawn(self, handle: Handle) -> Serving {
        let stop = CancellationToken::new();
        let address = self.local_addr();
        let task = tokio::spawn(self.run(handle, stop.clone()));
        Serving { address, stop: stop.drop_guard(), task }
    }

    fn run(self, handle: Handle, stop: CancellationToken) -> impl Future<Output = ()> + Send {
        let Self { door, hosts, read_only, metrics, connections } = self;
        let render: Option<Render> = match &metrics {
            Metrics::None => None,
            Metrics::Own(recorder) => {
                let recorder = recorder.clone();
                Some(Arc::new(move || recorder.render()))
            }
            Metrics::Theirs(render) => Some(render.clone()),
        };
        let app = Arc::new(App { handle, hosts, read_only, metrics: render });
        async move {
            let free = Arc::new(Semaphore::new(connections as usize));
            accept(door, &metrics, &app, &free, &stop).await;
            // what is under way has been told, and is bounded in time
            let _ = free.acquire_many(connections).await;
        }
    }
}

async fn accept(
    door: Door,
    metrics: &Metrics,
    app: &Arc<App>,
    free: &Arc<Semaphore>,
    stop: &CancellationToken,
) {
    let refused = Minutely::default();
    let mut upkeep = interval(UPKEEP);
    upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let next = async {
            let permit = free.clone().acquire_owned().await;
            (door.accept().await, permit)
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = upkeep.tick() => {
                if let Metrics::Own(recorder) = metrics {
                    recorder.upkeep();
                }
            }
            (stream, permit) = next => match (stream, permit) {
                (Ok(stream), Ok(permit)) => {
                    let (app, stop) = (app.clone(), stop.clone());
                    tokio::spawn(async move {
                        match stream {
                            Stream::Tcp(stream) => serve(stream, app, stop).await,
                            #[cfg(unix)]
                            Stream::Unix(stream) => serve(stream, app, stop).await,
                        }
                        drop(permit);
                    });
                }
                (Err(error), _) => {
                    if let Some(count) = refused.due() {
                        tracing::warn!(
                            target: "streambreaker::admin", kind = ?error.kind(), count,
                            "the admin listener could not accept a connection",
                        );
                    }
                    sleep(BREATH).await;
                }
                // nobody closes the semaphore
                (_, Err(_)) => return,
            },
        }
    }
}

enum Stream {
    Tcp(tokio::net::TcpStream),
    #[cfg(unix)]
    Unix(tokio::net::UnixStream),
}

impl Door {
    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Door::Tcp(listener) => listener.accept().await.map(|(stream, _)| Stream::Tcp(stream)),
            #[cfg(unix)]
            Door::Unix(socket) => socket.accept().await.map(Stream::Unix),
        }
    }
}

impl Bind {
    fn to(place: Place) -> Self {
        Self {
            place,
            any_address: false,
            read_only: false,
            hosts: Vec::new(),
            metrics: Metrics::None,
            connections: CONNECTIONS,
        }
    }

    /// Also an address that can be reached from outside. There is no authentication: whoever reaches it sees the
    /// status and, unless it is [`read_only`](Self::read_only), turns the switches.
    pub fn allow_any_address(mut self) -> Self {
        self.any_address = true;
        self
    }

    /// Serves what is to be looked at, and no switch: for probes and scrapers, which come from outside, beside a
    /// second listener on the loopback or a Unix socket for those who may turn switches.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Also serves requests for this name: by default only those for an IP address or `localhost`, so that a
    /// web page whose name is rebound to this address is refused. Without a port; case does not matter.
    pub fn allow_host(mut self, name: impl Into<String>) -> Self {
        self.hosts.push(name.into());
        self
    }

    /// Serves `/metrics` from this recorder; without one it is not found.
    pub fn metrics(mut self, recorder: Recorder) -> Self {
        self.metrics = Metrics::Own(recorder);
        self
    }

    /// Serves `/metrics` from a recorder of the component's own: `render` gives the text in Prometheus' format.
    pub fn metrics_by(mut self, render: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.metrics = Metrics::Theirs(Arc::new(render));
        self
    }

    /// So many connections at once, at least one; 32 by default. More wait until one has ended, which takes
    /// at most 10 s.
    pub fn max_connections(mut self, connections: u32) -> Self {
        self.connections = connections.clamp(1, 1 << 16);
        self
    }

    async fn open(self) -> Result<Listener, AdminError> {
        let Self { place, any_address, read_only, hosts, metrics, connections } = self;
        let (door, hosts) = match place {
            Place::Tcp(address) => {
                (Door::Tcp(tcp(&address, any_address).await?), Hosts::Known(hosts))
            }
            #[cfg(unix)]
            Place::Unix(path) => {
                let failed = |source| AdminError::Bind { address: format!("{path:?}"), source };
                (Door::Unix(Socket::bind(&path).await.map_err(failed)?), Hosts::Any)
            }
        };
        let listener = Listener { door, hosts, read_only, metrics, connections };
        tracing::info!(target: "streambreaker::admin", listener = %listener.place(), "the admin listener is bound");
        Ok(listener)
    }
}

async fn tcp(address: &str, any_address: bool) -> Result<TcpListener, AdminError> {
    let failed = |source| AdminError::Bind { address: address.escape_debug().to_string(), source };
    let found: Vec<SocketAddr> = tokio::net::lookup_host(address).await.map_err(failed)?.collect();
    // a name with one address inside and one outside is outside
    if let Some(&address) =
        found.iter().find(|a| !any_address && !a.ip().to_canonical().is_loopback())
    {
        return Err(AdminError::NotLoopback { address });
    }
    TcpListener::bind(&*found).await.map_err(failed)
}

impl IntoFuture for Bind {
    type Output = Result<Listener, AdminError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.open())
    }
}

/// A listener at work in a task of its own. Dropping it closes the listener; requests that are under way are
/// answered, within 2 s.
#[must_use = "the listener is closed when this is dropped"]
pub struct Serving {
    address: Option<SocketAddr>,
    stop: DropGuard,
    task: JoinHandle<()>,
}

impl Serving {
    /// The address that it is bound to; `None` for a Unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Closes the listener, and waits until what is under way has been answered; 2 s at most.
    ///
    /// # Cancel safety
    /// Dropping it waits no more; the listener is closed all the same.
    pub async fn stop(self) {
        let Self { stop, task, .. } = self;
        drop(stop);
        let _ = task.await;
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Listener({})", self.place())
    }
}

impl fmt::Debug for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bind")
            .field("place", &self.place)
            .field("any_address", &self.any_address)
            .field("read_only", &self.read_only)
            .field("hosts", &self.hosts)
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Serving({:?})", self.address)
    }
}
