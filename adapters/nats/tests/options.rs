//! What is `async-nats`' own is passed through: who connects, over TLS, to which domain of JetStream.

#![allow(clippy::unwrap_used)] // a test may

mod support;

use std::path::Path;

use base64::Engine;
use nkeys::KeyPair;
use serde_json::{Value, json};
use streambreaker::prelude::*;
use streambreaker_nats::async_nats::jetstream::{self, Context};
use streambreaker_nats::async_nats::{ConnectErrorKind, ConnectOptions};
use streambreaker_nats::{NatsFaults, NatsSink, NatsSource, OpenError, Publication};
use support::*;

/// All of it by one connection: streams and a consumer are created, ten numbers read, nine copied, one set aside.
async fn it_works_by(context: Context) {
    for name in ["COPIES", "FAULTS"] {
        context.create_stream(stream(name)).await.unwrap();
    }
    let source = orders(&context, std::time::Duration::from_secs(30)).open().await.unwrap();
    publish(&context, 0..10).await;
    let sink = NatsSink::open(context.clone(), "COPIES").await.unwrap();
    let faults = NatsFaults::open(context.clone(), "faults.numbers").await.unwrap();
    let copies = db();
    let (trigger, shutdown) = Shutdown::by_hand();
    let processor = numbers(source, faults)
        .pipeline("copy", move |flow| {
            flow.json::<u64>()
                .validate(|n| if *n == 7 { Err("a seven") } else { Ok(()) })
                .map(|n| Publication::new("copies.n", n.to_string(), n.to_string()))
                .bulk_write(&copies, sink.clone())
        })
        .build()
        .unwrap();
    let run = tokio::spawn(async move { processor.run(shutdown).await });
    until("all is settled", async || left(&context).await == (0, 0)).await;
    trigger.pull();
    let report = run.await.unwrap().unwrap();
    let copy = &report.pipelines["copy"];
    assert_eq!((copy.done, copy.faulted, report.unsettled()), (9, 1, 0), "{report}");
    for (name, messages) in [("COPIES", 9), ("FAULTS", 1)] {
        let stored = context.get_stream(name).await.unwrap().cached_info().state.messages;
        assert_eq!(stored, messages, "{name}");
    }
}

/// Connects at once or not at all.
async fn connect(server: &Server, with: ConnectOptions) -> Result<Context, ConnectErrorKind> {
    let client = options(with).connect(server.address().to_string()).await;
    client.map(jetstream::new).map_err(|error| error.kind())
}

#[tokio::test]
async fn a_user_and_a_password() {
    let server = Server::configured(|_| {
        r#"authorization { user: "orders", password: "s3cret" }"#.to_owned()
    });
    let with = |password: &str| {
        ConnectOptions::with_user_and_password("orders".to_owned(), password.to_owned())
    };
    let refused = connect(&server, with("guess")).await.unwrap_err();
    assert_eq!(refused, ConnectErrorKind::AuthorizationViolation);
    it_works_by(connect(&server, with("s3cret")).await.unwrap()).await;
}

#[tokio::test]
async fn a_token() {
    let server = Server::configured(|_| r#"authorization { token: "t0ken" }"#.to_owned());
    let refused = connect(&server, ConnectOptions::new()).await.unwrap_err();
    assert_eq!(refused, ConnectErrorKind::AuthorizationViolation);
    it_works_by(connect(&server, ConnectOptions::with_token("t0ken".to_owned())).await.unwrap())
        .await;
}

#[tokio::test]
async fn an_nkey() {
    let (user, other) = (KeyPair::new_user(), KeyPair::new_user());
    let server = Server::configured(|_| {
        format!("authorization {{ users: [ {{ nkey: {} }} ] }}", user.public_key())
    });
    let with = |pair: &KeyPair| ConnectOptions::with_nkey(pair.seed().unwrap());
    let refused = connect(&server, with(&other)).await.unwrap_err();
    assert_eq!(refused, ConnectErrorKind::AuthorizationViolation);
    it_works_by(connect(&server, with(&user)).await.unwrap()).await;
}

/// What somebody signs of somebody else, as NATS writes it.
fn jwt(issuer: &KeyPair, subject: &str, name: &str, claims: &Value) -> String {
    let encode = |bytes: &[u8]| base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let header = json!({"typ": "JWT", "alg": "ed25519-nkey"}).to_string();
    let body = json!({
        "jti": name,
        "iat": 1_700_000_000,
        "iss": issuer.public_key(),
        "sub": subject,
        "name": name,
        "nats": claims,
    });
    let text = format!("{}.{}", encode(header.as_bytes()), encode(body.to_string().as_bytes()));
    let signature = encode(&issuer.sign(text.as_bytes()).unwrap());
    format!("{text}.{signature}")
}

#[tokio::test]
async fn a_credentials_file() {
    let (operator, account, user) =
        (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_user());
    let system = KeyPair::new_account();
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "conn": -1, "leaf": -1,
        "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
    });
    let of_operator = json!({
        "type": "operator", "version": 2, "system_account": system.public_key(),
    });
    let of_account = json!({"type": "account", "version": 2, "limits": limits});
    let of_system = json!({"type": "account", "version": 2, "limits": {
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "conn": -1, "leaf": -1,
    }});
    let of_user = json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}});
    let mut file = std::path::PathBuf::new();
    let server = Server::configured(|folder| {
        file = folder.join("orders.creds");
        let by_account = jwt(&account, &user.public_key(), "orders", &of_user);
        let seed = user.seed().unwrap();
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{by_account}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        std::fs::write(&file, text).unwrap();
        let signed = |key: &KeyPair, name, claims| jwt(&operator, &key.public_key(), name, claims);
        format!(
            "operator: {}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{\n{}: {}\n{}: {}\n}}\n",
            signed(&operator, "operator", &of_operator),
            system.public_key(),
            account.public_key(),
            signed(&account, "team", &of_account),
            system.public_key(),
            signed(&system, "system", &of_system),
        )
    });
    let refused = connect(&server, ConnectOptions::new()).await.unwrap_err();
    assert_eq!(refused, ConnectErrorKind::AuthorizationViolation);
    let with = ConnectOptions::with_credentials_file(&file).await.unwrap();
    it_works_by(connect(&server, with).await.unwrap()).await;
}

/// A certificate of an authority of its own, for the address of this machine.
fn certificates(folder: &Path) -> (std::path::PathBuf, String) {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::from_params(&params, &authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let own = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let own = own.signed_by(&key, &issuer).unwrap();
    let write = |name: &str, text: String| {
        let file = folder.join(name);
        std::fs::write(&file, text).unwrap();
        file
    };
    let (cert, key) = (write("cert.pem", own.pem()), write("key.pem", key.serialize_pem()));
    let config = format!("tls {{ cert_file: {cert:?}, key_file: {key:?} }}");
    (write("authority.pem", authority.pem()), config)
}

#[tokio::test]
async fn tls_with_a_certificate_of_ones_own() {
    let mut authority = std::path::PathBuf::new();
    let server = Server::configured(|folder| {
        let (file, config) = certificates(folder);
        authority = file;
        config
    });
    let stranger = options(ConnectOptions::new().require_tls(true));
    let refused = stranger.connect(server.address().to_string()).await.unwrap_err();
    assert!(format!("{refused:?}").contains("UnknownIssuer"), "nobody vouches for it: {refused:?}");
    let with = ConnectOptions::new().add_root_certificates(authority.clone()).require_tls(true);
    let context = connect(&server, with).await.unwrap();
    it_works_by(context).await;
}

#[tokio::test]
async fn a_domain_of_jetstream_behind_a_leaf() {
    let leaves = free();
    let hub = Server::configured(|_| {
        format!("jetstream {{ domain: hub }}\nleafnodes {{ listen: \"{leaves}\" }}\n")
    });
    let leaf = Server::configured(|_| {
        format!(
            "jetstream {{ domain: leaf }}\n\
             leafnodes {{ remotes: [ {{ url: \"nats-leaf://{leaves}\" }} ] }}\n"
        )
    });
    let client = client(leaf.address()).await;
    let by_domain = |domain: &str| jetstream::with_domain(client.clone(), domain);
    until("the leaf has found the hub", async || {
        let opened = NatsSource::builder(by_domain("hub"), "ORDERS", "totals").open().await;
        matches!(opened, Err(OpenError::NoStream { .. }))
    })
    .await;
    let orders_of = |context: Context| async move {
        orders(&context, std::time::Duration::from_secs(30)).open().await
    };
    let error = orders_of(by_domain("nowhere")).await.unwrap_err();
    assert!(matches!(error, OpenError::NoJetStream), "{error}");
    assert!(error.to_string().contains("`jetstream::with_domain`"), "{error}");

    it_works_by(by_domain("hub")).await;
    let own = hub.context().await;
    assert_eq!(left(&own).await, (0, 0), "it is in the domain that was named");
    let other = by_domain("leaf").get_stream("ORDERS").await;
    assert!(other.is_err(), "and not in that of the server which it is connected to");
}

#[tokio::test]
async fn what_a_user_may_not_ask_for_is_named() {
    let server = Server::configured(|_| {
        r#"authorization { users: [ { user: "reader", password: "p", permissions: {
            publish: { deny: ["$JS.API.>"] } } } ] }"#
            .to_owned()
    });
    let with = ConnectOptions::with_user_and_password("reader".to_owned(), "p".to_owned());
    let context = connect(&server, with).await.unwrap();
    let error = orders(&context, std::time::Duration::from_secs(30)).open().await.unwrap_err();
    assert!(matches!(error, OpenError::NoAnswer { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("stream `ORDERS`") && text.contains("`$JS.API.>`"), "{text}");
    let error = NatsFaults::open(context, "faults.numbers").await.unwrap_err();
    assert!(matches!(error, OpenError::NoAnswer { .. }), "{error}");
}
