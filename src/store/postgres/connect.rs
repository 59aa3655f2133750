//! Where a server is, and the way to it.

use std::{fmt, future::Future, io, pin::Pin, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};
use rustls_platform_verifier::Verifier;
use tokio_postgres::{
    Client, Config, Error, NoTls,
    config::{Host, SslMode},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::super::{StoreError, StoreErrorKind};

/// How long a connection may take, unless the address says so.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a peer may be silent before it is asked whether it is there, and may then stay so.
const SILENCE: Duration = Duration::from_secs(15);

/// What carries the bytes of a connection, until it ends.
pub(super) type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A database of a server.
pub(super) struct Server {
    config: Config,
    tls: Option<MakeRustlsConnect>,
    name: Box<str>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("name", &self.name).field("tls", &self.tls.is_some()).finish_non_exhaustive()
    }
}

impl Server {
    /// Reads an address. Errors name it without its password.
    pub(super) fn at(url: &str) -> Result<Self, StoreError> {
        let (url, settings) = own_settings(url);
        let mut config: Config = url.parse().map_err(|error: Error| refused("postgres", &error))?;
        let name = name_of(&config);
        // Addresses are where it goes to; names beside them are what certificates are for.
        let addresses = config.get_hostaddrs();
        let is_near = if addresses.is_empty() {
            !config.get_hosts().is_empty() && config.get_hosts().iter().all(is_near)
        } else {
            addresses.iter().all(std::net::IpAddr::is_loopback)
        };
        // What stays on this machine needs no certificate; anything else is not sent unprotected unless told to.
        match (settings.mode, is_near) {
            // A preference is one that whoever is in between may refuse.
            (Some(SslMode::Prefer) | None, false) => config.ssl_mode(SslMode::Require),
            (Some(mode), _) => config.ssl_mode(mode),
            (None, true) => config.ssl_mode(SslMode::Disable),
        };
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(SILENCE);
        }
        config.keepalives_idle(SILENCE);
        if config.get_application_name().is_none() {
            config.application_name("together-inference");
        }
        let tls = match config.get_ssl_mode() {
            SslMode::Disable => None,
            _ => {
                Some(tls(settings.roots).map_err(|error| StoreError::caused(StoreErrorKind::Unreachable, &name, error)))
            }
        };
        Ok(Self { config, tls: tls.transpose()?, name })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Opens a connection; somebody must drive it.
    pub(super) async fn connect(&self) -> Result<(Client, Driver), StoreError> {
        let failed = |error: Error| match error.code() {
            None => StoreError::explained(StoreErrorKind::Unreachable, &self.name, told(&error), error),
            Some(_) => error_of(&self.name, error),
        };
        let Some(tls) = self.tls.clone() else {
            let (client, connection) = self.config.connect(NoTls).await.map_err(failed)?;
            return Ok((client, drive(connection)));
        };
        let (client, connection) = self.config.connect(tls).await.map_err(failed)?;
        Ok((client, drive(connection)))
    }
}

fn drive(connection: impl Future<Output = Result<(), Error>> + Send + 'static) -> Driver {
    // Whoever uses the connection is told what ended it.
    Box::pin(async move { drop(connection.await) })
}

/// What the driver does not know itself.
#[derive(Default)]
struct Settings {
    mode: Option<SslMode>,
    roots: Option<String>,
}

/// Takes the settings of TLS out of an address. Certificates are always verified, so that `require` is what others call
/// `verify-full`.
fn own_settings(url: &str) -> (String, Settings) {
    let mut settings = Settings::default();
    let Some((base, query)) = url.split_once('?') else { return (url.to_owned(), settings) };
    let rest = query.split('&').filter(|pair| match pair.split_once('=') {
        Some(("sslmode", "verify-ca" | "verify-full" | "require")) => {
            settings.mode = Some(SslMode::Require);
            false
        }
        Some(("sslmode", "disable")) => {
            settings.mode = Some(SslMode::Disable);
            false
        }
        Some(("sslmode", "prefer" | "allow")) => {
            settings.mode = Some(SslMode::Prefer);
            false
        }
        Some(("sslrootcert", path)) => {
            settings.roots = Some(path.replace("%2F", "/"));
            false
        }
        _ => true,
    });
    let rest: Vec<&str> = rest.collect();
    let url = if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) };
    (url, settings)
}

/// TLS with certificates as the system trusts them, or as a file says.
fn tls(roots: Option<String>) -> Result<MakeRustlsConnect, Box<dyn std::error::Error + Send + Sync>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let config = if let Some(path) = roots {
        let mut store = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(path)? {
            store.add(certificate?)?;
        }
        config.with_root_certificates(store)
    } else {
        config.dangerous().with_custom_certificate_verifier(Arc::new(Verifier::new(provider)?))
    };
    Ok(MakeRustlsConnect::new(config.with_no_client_auth()))
}

fn is_near(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => {
            name == "localhost" || name.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
        }
        #[cfg(unix)]
        Host::Unix(_) => true,
    }
}

/// `postgres://user@host:port/database`, without a password.
fn name_of(config: &Config) -> Box<str> {
    let port = |at: usize| config.get_ports().get(at).or_else(|| config.get_ports().first()).copied().unwrap_or(5432);
    let hosts = config.get_hosts().iter().enumerate().map(|(at, host)| match host {
        Host::Tcp(name) => format!("{name}:{}", port(at)),
        #[cfg(unix)]
        Host::Unix(path) => format!("{}:{}", path.display(), port(at)),
    });
    let hosts = hosts.collect::<Vec<_>>().join(",");
    let user = config.get_user().map_or_else(String::new, |user| format!("{user}@"));
    let database = config.get_dbname().map_or_else(String::new, |database| format!("/{database}"));
    format!("postgres://{user}{hosts}{database}").into()
}

/// What is wrong with an address; the driver names the setting and not its value.
fn refused(name: &str, error: &Error) -> StoreError {
    StoreError::new(StoreErrorKind::Other, name, told(error))
}

/// The driver's words with what caused them.
fn told(error: &Error) -> String {
    let mut told = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        told = format!("{told}: {error}");
        cause = error.source();
    }
    told
}

/// A failure of the server, as the store's.
pub(super) fn error_of(name: &str, error: Error) -> StoreError {
    let kind = match error.code().map(tokio_postgres::error::SqlState::code) {
        Some("25006" | "42501") => StoreErrorKind::ReadOnly,
        Some("53100") => StoreErrorKind::Full,
        Some("40001" | "40P01" | "55P03" | "57014") => StoreErrorKind::Busy,
        Some("XX001" | "XX002") => StoreErrorKind::Corrupt,
        Some("42P01" | "42703" | "3F000") => StoreErrorKind::Foreign,
        // It ends, begins, has no place or is none: connections, transactions that took too long, operators, passwords.
        Some("3D000" | "53300" | "25P03" | "25P04") => StoreErrorKind::Unreachable,
        Some(code) if ["08", "28", "57P"].iter().any(|class| code.starts_with(class)) => StoreErrorKind::Unreachable,
        None if is_broken(&error) => StoreErrorKind::Unreachable,
        _ => StoreErrorKind::Other,
    };
    StoreError::explained(kind, name, told(&error), error)
}

fn is_broken(error: &Error) -> bool {
    error.is_closed() || std::error::Error::source(error).is_some_and(<dyn std::error::Error>::is::<io::Error>)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_in_no_name_error_or_debug() {
        let server = Server::at("postgres://me:secret@localhost:5433/costs").unwrap();
        assert_eq!(server.name(), "postgres://me@localhost:5433/costs");
        assert!(!format!("{server:?}").contains("secret"));
        for url in
            ["postgres://me:secret@localhost:port/costs", "postgres://me:secret@localhost/costs?who=secret", "secret"]
        {
            let error = Server::at(url).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
        }
    }

    #[test]
    fn only_what_stays_on_the_machine_goes_without_tls_unasked() {
        let mode = |url: &str| Server::at(url).unwrap().config.get_ssl_mode();
        assert_eq!(mode("postgres://me@127.0.0.1/costs"), SslMode::Disable);
        assert_eq!(mode("postgres://me@db.example/costs"), SslMode::Require);
        assert_eq!(mode("postgres://me@db.example/costs?sslmode=verify-full"), SslMode::Require);
        assert_eq!(mode("postgres://me@db.example/costs?sslmode=disable&connect_timeout=3"), SslMode::Disable);
        assert_eq!(mode("postgres://me@localhost,db.example/costs"), SslMode::Require);
        for lax in ["prefer", "allow"] {
            assert_eq!(mode(&format!("postgres://me@db.example/costs?sslmode={lax}")), SslMode::Require);
            assert_eq!(mode(&format!("postgres://me@localhost/costs?sslmode={lax}")), SslMode::Prefer);
        }
        assert_eq!(mode("postgres://me@localhost/costs?hostaddr=192.0.2.7"), SslMode::Require);
        assert_eq!(mode("postgres://me@db.example/costs?hostaddr=127.0.0.1"), SslMode::Disable);
    }
}
