//! Whom the client trusts.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use together_inference::{
    TogetherClient,
    client::{ClientBuilder, ErrorKind, RetryPolicy, Sent},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::aws_lc_rs, pki_types::PrivateKeyDer},
};

use crate::{
    fault::GOOD_JSON,
    support::{hello, shown},
};

/// A certificate authority of the tests.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }
}

/// A TLS server with one certificate that answers every request well.
struct Server {
    port: u16,
    answered: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Server {
    /// Its certificate is for this host, changed by `change`, and signed by the authority, or else by itself.
    async fn start(host: &str, authority: Option<&Authority>, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        change(&mut params);
        let certificate = match authority {
            Some(authority) => params.signed_by(&key, &authority.issuer),
            None => params.self_signed(&key),
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let config = config.with_single_cert(vec![certificate.unwrap().der().clone()], key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (answered, mut tasks) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
        let count = Arc::clone(&answered);
        tasks.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut request = [0; 4_096];
                if stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                    count.fetch_add(1, Ordering::SeqCst);
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", GOOD_JSON.len());
                    stream.write_all((head + GOOD_JSON).as_bytes()).await.unwrap();
                    let _ = stream.shutdown().await;
                }
            }
        });
        Self { port, answered, _tasks: tasks }
    }

    fn client(&self, scheme: &str) -> ClientBuilder {
        let url = format!("{scheme}://localhost:{}/v1", self.port);
        TogetherClient::builder().api_key("sk-canary").base_url(url).retry(RetryPolicy::none())
    }

    async fn refuses(&self, builder: ClientBuilder, why: &str) {
        let error = builder.build().unwrap().chat().create(&hello()).await.expect_err(why);
        assert_eq!((error.kind(), error.sent()), (ErrorKind::Connect, Sent::No), "{why}: {error:?}");
        assert!(!shown(&error).contains("canary"));
        assert_eq!(self.answered.load(Ordering::SeqCst), 0, "{why}");
    }
}

#[tokio::test]
async fn a_trusted_certificate_is_accepted() {
    let authority = Authority::new();
    let server = Server::start("localhost", Some(&authority), |_| {}).await;
    let client = server.client("https").root_certificates(authority.pem.clone()).build().unwrap();
    assert_eq!(client.chat().create(&hello()).await.unwrap().text(), "Hello");
    assert_eq!(server.answered.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_refused() {
    let (ours, other) = (Authority::new(), Authority::new());
    let server = Server::start("localhost", None, |_| {}).await;
    server.refuses(server.client("https"), "self-signed").await;
    let server = Server::start("localhost", Some(&ours), |_| {}).await;
    server.refuses(server.client("https"), "an unknown authority").await;
    server.refuses(server.client("https").root_certificates(other.pem), "another authority").await;
}

#[tokio::test]
async fn a_certificate_for_another_host_or_time_is_refused() {
    let authority = Authority::new();
    let trusting = |server: &Server| server.client("https").root_certificates(authority.pem.clone());
    let server = Server::start("other.example", Some(&authority), |_| {}).await;
    server.refuses(trusting(&server), "another host").await;
    let expired = |params: &mut CertificateParams| {
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(2002, 1, 1);
    };
    let server = Server::start("localhost", Some(&authority), expired).await;
    server.refuses(trusting(&server), "expired").await;
    let future = |params: &mut CertificateParams| params.not_before = date_time_ymd(4_000, 1, 1);
    let server = Server::start("localhost", Some(&authority), future).await;
    server.refuses(trusting(&server), "not valid yet").await;
}

#[test]
fn a_root_that_is_no_certificate_is_refused() {
    for pem in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let outcome = TogetherClient::builder().api_key("key").root_certificates(pem).build();
        assert_eq!(outcome.expect_err(pem).kind(), ErrorKind::Config, "{pem:?}");
    }
}
