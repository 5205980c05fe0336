//! The proxy does what a network does, and no more.

#![allow(clippy::unwrap_used)] // a test may

use std::time::Duration;

use streambreaker_testkit::net::Proxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// A server that says everything back, and a proxy in front of it.
async fn echo() -> Proxy {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    Proxy::start(address).await.unwrap()
}

async fn say(stream: &mut TcpStream, text: &[u8]) -> Option<Vec<u8>> {
    stream.write_all(text).await.ok()?;
    hear(stream, text.len()).await
}

async fn hear(stream: &mut TcpStream, bytes: usize) -> Option<Vec<u8>> {
    let mut heard = vec![0; bytes];
    stream.read_exact(&mut heard).await.ok()?;
    Some(heard)
}

#[tokio::test]
async fn what_is_kept_back_in_a_stall_passes_when_it_heals() {
    let proxy = echo().await;
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(say(&mut client, b"one").await.unwrap(), b"one");
    proxy.stall();
    client.write_all(b"two").await.unwrap();
    assert!(timeout(Duration::from_millis(100), hear(&mut client, 3)).await.is_err());
    proxy.heal();
    assert_eq!(hear(&mut client, 3).await.unwrap(), b"two");
    assert_eq!((proxy.connections(), proxy.bytes()), (1, 12));
}

#[tokio::test]
async fn a_cut_closes_what_is_there_and_what_comes_until_it_heals() {
    let proxy = echo().await;
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(say(&mut client, b"one").await.is_some());
    proxy.cut();
    assert_eq!(hear(&mut client, 1).await, None);
    let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(say(&mut refused, b"two").await, None);
    proxy.heal();
    let mut again = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(say(&mut again, b"three").await.unwrap(), b"three");
}

#[tokio::test]
async fn a_cut_after_so_many_bytes_comes_in_the_middle_and_once() {
    let proxy = echo().await;
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(say(&mut client, b"one").await.is_some());
    proxy.cut_after(5);
    assert_eq!(say(&mut client, b"four").await, None, "four there, one back");
    let mut again = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(say(&mut again, b"and more").await.unwrap(), b"and more");
}

#[tokio::test]
async fn a_redirect_is_for_new_connections() {
    let (proxy, other) = (echo().await, TcpListener::bind("127.0.0.1:0").await.unwrap());
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(say(&mut client, b"one").await.is_some());
    proxy.redirect(other.local_addr().unwrap());
    assert!(say(&mut client, b"two").await.is_some());
    let _new = TcpStream::connect(proxy.address()).await.unwrap();
    timeout(Duration::from_secs(10), other.accept()).await.unwrap().unwrap();
}
