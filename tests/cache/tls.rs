//! Redis by TLS: whom the cache trusts.

use std::fs;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use together_inference::cache::{RedisCache, RedisConfig};

use crate::{
    server::{Folder, Server, free_port},
    support::{connected, is_up, keep, key, note, timed},
};

/// A certificate authority of the test.
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

/// A server that speaks TLS at the second port, with a certificate for this host.
async fn start(authority: &Authority, host: &str) -> (Server, u16, Folder) {
    let (key, folder, port) = (KeyPair::generate().unwrap(), Folder::new(), free_port());
    let params = CertificateParams::new([host.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority.issuer).unwrap().pem();
    let file = |name: &str, pem: &str| {
        let path = folder.0.join(name);
        fs::write(&path, pem).unwrap();
        path.display().to_string()
    };
    let (certificate, key) = (file("cert.pem", &certificate), file("key.pem", &key.serialize_pem()));
    let (roots, port_text) = (file("ca.pem", &authority.pem), port.to_string());
    let options = ["--tls-port", &port_text, "--tls-auth-clients", "no", "--tls-cert-file", &certificate];
    let more = ["--tls-key-file", &key, "--tls-ca-cert-file", &roots, "--requirepass", "secret"];
    let server = Server::start(&[options, more].concat()).await.with_cli(&["-a", "secret", "--no-auth-warning"]);
    (server, port, folder)
}

#[tokio::test]
async fn only_a_server_of_the_right_name_by_a_trusted_authority_is_used() {
    let authority = Authority::new();
    let (server, port, _folder) = start(&authority, "localhost").await;
    let url = format!("rediss://:secret@localhost:{port}");
    let trusting = || RedisConfig::new(&url).root_certificates(authority.pem.clone());
    let cache = trusting().connect().await.unwrap();
    is_up(&cache).await;
    keep(&cache, &key("a"), note("a")).await;
    assert!(timed(&cache, &key("a")).await.1);
    // The same value by the plain port: it was this server.
    let plain = connected(format!("redis://:secret@127.0.0.1:{}", server.port)).await;
    assert!(timed(&plain, &key("a")).await.1);

    let is_down = async |cache: RedisCache, why: &str| {
        assert!(!cache.stats().is_connected && cache.stats().connections == 0, "{why}");
        assert!(!timed(&cache, &key("a")).await.1, "{why}");
    };
    is_down(RedisCache::connect(&url).await.unwrap(), "the system does not know the authority").await;
    let other = RedisConfig::new(&url).root_certificates(Authority::new().pem);
    is_down(other.connect().await.unwrap(), "another authority").await;
    let by_address = RedisConfig::new(format!("rediss://:secret@127.0.0.1:{port}"));
    let by_address = by_address.root_certificates(authority.pem.clone());
    is_down(by_address.connect().await.unwrap(), "another name").await;
    let plain = format!("rediss://:secret@localhost:{}", server.port);
    let plain = RedisConfig::new(plain).root_certificates(authority.pem.clone());
    is_down(plain.connect().await.unwrap(), "a server without TLS").await;
}
