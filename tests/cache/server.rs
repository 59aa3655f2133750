//! Redis servers of the tests: on free ports, in folders of their own, gone with their owner.

use std::{
    fs,
    io::Write as _,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use crate::support::eventually;

/// How long a server may take to be ready, on a busy machine.
const START: Duration = Duration::from_secs(20);

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn binary(name: &str) -> Command {
    let mut command = Command::new(name);
    // The tests' own settings, whatever the environment holds.
    command.env_remove("REDISCLI_AUTH").stdin(Stdio::null());
    command
}

/// A folder that is removed with its owner.
#[derive(Debug)]
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("together-redis-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A `redis-server`, or a sentinel.
pub struct Server {
    process: Option<Child>,
    arguments: Vec<String>,
    cli: Vec<String>,
    pub port: u16,
    pub folder: Folder,
}

impl Server {
    /// A server with more settings, `--name value`.
    pub async fn start(more: &[&str]) -> Self {
        let mut server = Self::stopped(more);
        server.run().await;
        server
    }

    /// A server that is to be started on its port later.
    pub fn stopped(more: &[&str]) -> Self {
        let (port, folder) = (free_port(), Folder::new());
        let own = ["--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--port", &port.to_string(), "--dir"];
        let mut arguments: Vec<String> = own.iter().map(ToString::to_string).collect();
        arguments.push(folder.0.display().to_string());
        arguments.extend(more.iter().map(ToString::to_string));
        Self { process: None, arguments, cli: vec!["-p".into(), port.to_string()], port, folder }
    }

    /// A sentinel of a master.
    pub async fn sentinel(name: &str, master: u16) -> Self {
        let (port, folder) = (free_port(), Folder::new());
        let file = folder.0.join("sentinel.conf");
        let settings = format!(
            "bind 127.0.0.1\nport {port}\ndir {}\nsentinel monitor {name} 127.0.0.1 {master} 1\n\
             sentinel down-after-milliseconds {name} 500\nsentinel failover-timeout {name} 3000\n",
            folder.0.display()
        );
        fs::write(&file, settings).unwrap();
        let arguments = vec![file.display().to_string(), "--sentinel".into()];
        let mut server = Self { process: None, arguments, cli: vec!["-p".into(), port.to_string()], port, folder };
        server.run().await;
        server
    }

    /// Options that `redis-cli` needs from now on.
    pub fn with_cli(mut self, options: &[&str]) -> Self {
        self.cli.extend(options.iter().map(ToString::to_string));
        self
    }

    pub async fn run(&mut self) {
        let log = fs::File::create(self.folder.0.join("log")).unwrap();
        let mut command = binary("redis-server");
        command.args(&self.arguments).stdout(log.try_clone().unwrap()).stderr(log);
        let started = command.spawn();
        self.process = Some(started.expect("redis-server cannot be run: apt-get install redis-server"));
        let port = self.port;
        let answers = async || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        if !eventually(START, answers).await {
            panic!("redis-server did not start:\n{}", fs::read_to_string(self.folder.0.join("log")).unwrap());
        }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The process is gone at once, as by a crash.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// The process stands still: connections stay open, and nothing is answered.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.process.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// What `redis-cli` prints for a command.
    pub fn cli(&self, command: &[&str]) -> String {
        text(&binary("redis-cli").args(&self.cli).args(command).output().unwrap())
    }

    /// Stores bytes under a name.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let mut command = binary("redis-cli");
        command.args(&self.cli).args(["-x", "SET", name]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut cli = command.spawn().unwrap();
        cli.stdin.take().unwrap().write_all(bytes).unwrap();
        assert_eq!(text(&cli.wait_with_output().unwrap()), "OK");
    }

    /// The bytes under a name.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let mut bytes = binary("redis-cli").args(&self.cli).args(["--raw", "GET", name]).output().unwrap().stdout;
        // The line's end is not the value's.
        bytes.pop();
        bytes
    }

    /// A counter of `INFO`.
    pub fn info(&self, name: &str) -> u64 {
        let info = self.cli(&["INFO"]);
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap().trim().parse().unwrap()
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A Redis Cluster.
pub struct Cluster {
    pub nodes: Vec<Server>,
}

impl Cluster {
    /// Three masters with so many replicas each.
    pub async fn start(replicas: usize) -> Self {
        let mut nodes = Vec::new();
        for _ in 0..3 * (replicas + 1) {
            let bus = free_port().to_string();
            let more = ["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", "1000"];
            nodes.push(Server::start(&more).await);
        }
        let mut create = binary("redis-cli");
        create.args(["--cluster", "create"]);
        create.args(nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)));
        create.args(["--cluster-replicas", &replicas.to_string(), "--cluster-yes"]);
        let output = create.output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        let cluster = Self { nodes };
        let count = cluster.nodes.len();
        let knows_all = |node: &Server| {
            let info = node.cli(&["CLUSTER", "INFO"]);
            info.contains("cluster_state:ok") && info.contains(&format!("cluster_known_nodes:{count}"))
        };
        assert!(eventually(START, async || cluster.nodes.iter().all(knows_all)).await, "the cluster did not form");
        let linked = |node: &Server| !node.cli(&["INFO", "replication"]).contains("master_link_status:down");
        assert!(eventually(START, async || cluster.nodes.iter().all(linked)).await, "the replicas did not follow");
        cluster
    }

    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Server::url).collect()
    }

    /// The place of a node that is a master now.
    pub fn a_master(&self) -> usize {
        self.nodes.iter().position(|node| node.cli(&["ROLE"]).starts_with("master")).unwrap()
    }
}
