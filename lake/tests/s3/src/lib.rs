//! An S3 server in process, which fails as S3 does when it is told to.
//!
//! The protocol (conditions, lists in pages, errors) is that of `s3s-fs`. Where it is not as S3 is, that is made good here. It
//! looks whether an object is there and writes it in two steps, so of two requests with `If-None-Match: *` at once both can win;
//! on S3 one wins, so those are let in one at a time. And it fails where more of an object's end is asked for than it has; S3
//! gives all of it. For that, requests change on the way, so they are not signed. And a list has small pages, as S3 may give them:
//! with the thousand objects that it gives as a rule, a list of several pages would take minutes to make.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{HeaderValue, IF_NONE_MATCH, RANGE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::{BackoffConfig, RetryConfig};
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::TcpListener;

/// What becomes of a request that creates an object where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is done.
    Done,
    /// `503 SlowDown`, and nothing is done.
    Throttled,
    /// `409 ConditionalRequestConflict`, and nothing is done.
    Conflict,
    /// It is done, but the connection breaks before the answer.
    ReplyLost,
}

struct Shared {
    s3: S3Service,
    root: PathBuf,
    /// In turn, again and again.
    fates: Vec<Fate>,
    creates: AtomicUsize,
    pages: AtomicUsize,
    one_at_a_time: tokio::sync::Mutex<()>,
    /// Whether conditions are taken for other headers that nobody knows.
    deaf: AtomicBool,
}

/// A server with one bucket, in a folder; gone when it is dropped.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

const BUCKET: &str = "lake";

/// How many objects and folders a page of a list has at most.
pub const PAGE: usize = 20;

impl Server {
    /// Starts one on which all goes well.
    pub async fn start() -> Self {
        Self::with_fates(&[Fate::Done]).await
    }

    /// Starts one that does this with what creates objects, in turn, again and again.
    ///
    /// # Panics
    /// Without fates, and where no server can be started.
    pub async fn with_fates(fates: &[Fate]) -> Self {
        assert!(!fates.is_empty(), "at least one fate");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join(BUCKET)).expect("a bucket");
        let files = s3s_fs::FileSystem::new(folder.path()).expect("a server over the folder");
        let shared = Arc::new(Shared {
            s3: S3ServiceBuilder::new(files).build(),
            root: folder.path().to_owned(),
            fates: fates.to_vec(),
            creates: AtomicUsize::new(0),
            pages: AtomicUsize::new(0),
            one_at_a_time: tokio::sync::Mutex::default(),
            deaf: AtomicBool::new(false),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let accepting = tokio::spawn(accept(listener, shared.clone()));
        Self { address, shared, accepting, _folder: folder }
    }

    /// The same, but it has never heard of `If-None-Match`.
    #[must_use]
    pub fn deaf(self) -> Self {
        self.shared.deaf.store(true, Ordering::Relaxed);
        self
    }

    /// How to reach it.
    pub fn builder(&self) -> AmazonS3Builder {
        // an HTTP client asks for one, though nothing here is encrypted; that there is one already is no error
        let _ = rustls::crypto::ring::default_provider().install_default();
        let backoff = BackoffConfig {
            init_backoff: std::time::Duration::from_millis(1),
            max_backoff: std::time::Duration::from_millis(5),
            base: 2.0,
        };
        AmazonS3Builder::new()
            .with_endpoint(format!("http://{}", self.address))
            .with_allow_http(true)
            .with_region("eu-central-1")
            .with_bucket_name(BUCKET)
            .with_skip_signature(true)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_retry(RetryConfig { backoff, ..RetryConfig::default() })
    }

    /// A client of it.
    ///
    /// # Panics
    /// Where none can be built.
    pub fn store(&self) -> Arc<AmazonS3> {
        Arc::new(self.builder().build().expect("a client"))
    }

    /// How often an object was to be created where there is none.
    pub fn creates(&self) -> usize {
        self.shared.creates.load(Ordering::Relaxed)
    }

    /// How many pages of lists were asked for; a page has [`PAGE`] objects at most.
    pub fn pages(&self) -> usize {
        self.shared.pages.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((socket, _)) = listener.accept().await {
        let shared = shared.clone();
        let answering = service_fn(move |request| answer(shared.clone(), request));
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), answering));
    }
}

async fn answer(
    shared: Arc<Shared>,
    mut request: Request<Incoming>,
) -> io::Result<Response<s3s::Body>> {
    let creates = request.method() == Method::PUT && request.headers().contains_key(IF_NONE_MATCH);
    if !creates {
        if request.uri().query().is_some_and(|query| query.contains("list-type=2")) {
            shared.pages.fetch_add(1, Ordering::Relaxed);
            let of_pages = format!("{}&max-keys={PAGE}", request.uri());
            *request.uri_mut() = of_pages.parse::<Uri>().map_err(io::Error::other)?;
        }
        return done(&shared, request).await;
    }
    if shared.deaf.load(Ordering::Relaxed) {
        request.headers_mut().remove(IF_NONE_MATCH);
    }
    let number = shared.creates.fetch_add(1, Ordering::Relaxed);
    match shared.fates[number % shared.fates.len()] {
        Fate::Done => {
            let _turn = shared.one_at_a_time.lock().await;
            done(&shared, request).await
        }
        Fate::ReplyLost => {
            let _turn = shared.one_at_a_time.lock().await;
            done(&shared, request).await?;
            Err(io::Error::other("the connection breaks"))
        }
        Fate::Throttled => refuse(request, StatusCode::SERVICE_UNAVAILABLE, "SlowDown").await,
        Fate::Conflict => refuse(request, StatusCode::CONFLICT, "ConditionalRequestConflict").await,
    }
}

async fn done(shared: &Shared, mut request: Request<Incoming>) -> io::Result<Response<s3s::Body>> {
    let range = request.headers().get(RANGE).and_then(|range| range.to_str().ok());
    if let Some(end) = range.and_then(|range| range.strip_prefix("bytes=-")) {
        let asked: u64 = end.parse().map_err(io::Error::other)?;
        let path = object_store::path::Path::from_url_path(request.uri().path());
        let path = shared.root.join(path.map_err(io::Error::other)?.as_ref());
        if std::fs::metadata(path).is_ok_and(|file| file.len() < asked) {
            request.headers_mut().insert(RANGE, HeaderValue::from_static("bytes=0-"));
        }
    }
    shared
        .s3
        .call(request.map(s3s::Body::from))
        .await
        .map_err(|error| io::Error::other(format!("{error:?}")))
}

async fn refuse(
    request: Request<Incoming>,
    status: StatusCode,
    code: &str,
) -> io::Result<Response<s3s::Body>> {
    // read to its end, so that the connection can be used again
    request.into_body().collect().await.map_err(io::Error::other)?;
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>");
    let mut response = Response::new(s3s::Body::from(Bytes::from(body)));
    *response.status_mut() = status;
    Ok(response)
}
