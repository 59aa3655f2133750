//! PostgreSQL servers of the tests: on free ports, in folders of their own, gone with the test's process.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
};

use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A server.
pub(crate) struct Server {
    folder: PathBuf,
    port: u16,
    /// Ends the server when its standard input is closed, which the end of the test does in any case.
    keeper: Option<Child>,
}

/// One of PostgreSQL's programs, which refuse to run as root.
fn program(name: &str) -> Vec<String> {
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let found = installed.map(|version| version.path().join("bin").join(name)).filter(|path| path.exists()).max();
    let path = found.map_or_else(|| name.to_owned(), |path| path.display().to_string());
    let is_root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    if is_root { ["runuser", "-u", "postgres", "--", &path].map(str::to_owned).into() } else { vec![path] }
}

fn run(name: &str, arguments: &[&str]) {
    let program = program(name);
    let output = Command::new(&program[0]).args(&program[1..]).args(arguments).current_dir("/").output().unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Server {
    pub(crate) async fn start() -> Self {
        let name = format!("together-postgres-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        let mut server = Self { folder, port: 0, keeper: None };
        let data = server.data().display().to_string();
        // Made by whoever is to own it.
        run("initdb", &["-D", &data, "-U", "me", "--auth", "trust", "--no-sync", "-E", "UTF8", "--locale", "C.UTF-8"]);
        server.port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let settings = format!(
            "port = {}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\nfsync = off\n\
             max_connections = 200\nshared_buffers = 64MB\n",
            server.port
        );
        fs::write(server.data().join("postgresql.auto.conf"), settings).unwrap();
        server.pg_ctl(&["start", "-l", &format!("{data}/log")]);
        let stop =
            format!("cat > /dev/null; {} -D {data} -m immediate stop; rm -rf {data}", program("pg_ctl").join(" "));
        let mut keeper = Command::new("sh");
        keeper.args(["-c", &stop]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
        server.keeper = Some(keeper.spawn().unwrap());
        server
    }

    fn data(&self) -> &Path {
        &self.folder
    }

    fn pg_ctl(&self, arguments: &[&str]) {
        let data = self.data().display().to_string();
        let program = program("pg_ctl");
        // Its children keep what it writes to open.
        let status = Command::new(&program[0])
            .args(&program[1..])
            .args(["-D", &data, "-w", "-s"])
            .args(arguments)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "pg_ctl {arguments:?}");
    }

    /// Ends every connection at once, like a crash, and starts again.
    pub(crate) fn crash(&self) {
        self.pg_ctl(&["restart", "-m", "immediate", "-l", &format!("{}/log", self.data().display())]);
    }

    pub(crate) fn stop(&self) {
        self.pg_ctl(&["stop", "-m", "immediate"]);
    }

    pub(crate) fn run(&self) {
        self.pg_ctl(&["start", "-l", &format!("{}/log", self.data().display())]);
    }

    /// Has it speak TLS as `localhost`; the file of the authority to trust.
    pub(crate) async fn secure(&self) -> String {
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (certificate, key) = (self.data().join("server.crt"), self.data().join("server.key"));
        fs::write(&certificate, certified.cert.pem()).unwrap();
        fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
        // Nobody but the server's user may read it.
        let own = format!("chown --reference {0} {0}/server.key && chmod 600 {0}/server.key", self.data().display());
        assert!(Command::new("sh").args(["-c", &own]).status().unwrap().success());
        let client = client(&self.url("postgres")).await;
        client.batch_execute("ALTER SYSTEM SET ssl = on").await.unwrap();
        client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        certificate.display().to_string()
    }

    /// Has it wait for its disk.
    pub(crate) async fn durable(&self) {
        let client = client(&self.url("postgres")).await;
        client.batch_execute("ALTER SYSTEM SET fsync = on").await.unwrap();
        client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://me:secret@127.0.0.1:{}/{database}", self.port)
    }

    /// A new database whose tables lie in this folder.
    pub(crate) async fn database_in(&self, folder: &Path) -> Database {
        let own = format!("chown --reference {} {}", self.data().display(), folder.display());
        assert!(Command::new("sh").args(["-c", &own]).status().unwrap().success());
        let database = self.database().await;
        let client = client(&self.url("postgres")).await;
        client.batch_execute(&format!("CREATE TABLESPACE apart LOCATION '{}'", folder.display())).await.unwrap();
        client.batch_execute(&format!("ALTER DATABASE {} SET TABLESPACE apart", database.name)).await.unwrap();
        database
    }

    /// A new database.
    pub(crate) async fn database(&self) -> Database {
        let name = format!("test_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let database = Database { url: self.url(&name), name: name.clone(), server: self.url("postgres") };
        client(&self.url("postgres")).await.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        database
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            drop(keeper.stdin.take());
            let _ = keeper.wait();
        }
    }
}

/// A database of its own.
pub(crate) struct Database {
    url: String,
    name: String,
    server: String,
}

impl Drop for Database {
    /// There are many, each of some megabytes.
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        let drop = async move {
            if let Ok((client, connection)) = tokio_postgres::connect(&server, NoTls).await {
                tokio::spawn(connection);
                let _ = client.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await;
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _ = std::thread::spawn(move || runtime.block_on(drop)).join();
    }
}

impl Database {
    /// On the server that the tests of this process share.
    pub(crate) async fn new() -> Self {
        static SHARED: OnceCell<Server> = OnceCell::const_new();
        SHARED.get_or_init(Server::start).await.database().await
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// A connection whose names mean the store's tables.
    pub(crate) async fn client(&self) -> Client {
        let client = client(&self.url).await;
        client.batch_execute("SET search_path = together_inference").await.unwrap();
        client
    }
}

async fn client(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
