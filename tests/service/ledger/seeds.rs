//! The random calls of the seeds with their money in real stores: what holds in memory holds there, after every step.

use std::sync::Arc;

#[cfg(feature = "redis")]
use std::{
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
};
#[cfg(feature = "postgres")]
use together_inference::cost::PostgresBudgets;
use together_inference::cost::{BudgetStore, Ledger, MemoryBudgets};
#[cfg(feature = "redis")]
use together_inference::{cost::RedisBudgets, store::RedisServer};

#[cfg(feature = "postgres")]
use super::server::Database;
use super::{
    super::seeds::{Kept, Run, stand_still},
    audit, sums,
};

/// Seeds of each store; the memory's are two thousand.
const SEEDS: std::ops::Range<u64> = 0..8;

/// Runs a seed, and holds the ledger against the records after every step.
async fn run(seed: u64, budgets: Arc<dyn BudgetStore>, ledger: Option<Ledger>) {
    eprintln!("seed {seed}");
    let sink = ledger.clone().map(|ledger| Arc::new(ledger) as Arc<_>);
    let each = async |run: &Run| {
        let records = run.check().await;
        if let Some(ledger) = &ledger {
            let kept = audit(ledger).await;
            assert_eq!((kept.len(), sums(&kept)), (records.len(), sums(&records)), "the ledger and the records");
        }
    };
    Run::new(seed, Kept { budgets, ledger: sink, is_outside: true }).run(each).await;
}

#[cfg(feature = "sqlite")]
#[tokio::test(start_paused = true)]
async fn seeds_keep_every_promise_with_a_ledger_in_a_file() {
    let _time = stand_still();
    for seed in SEEDS {
        let folder = super::home::Folder::new();
        run(seed, Arc::new(MemoryBudgets::new()), Some(super::open(&folder.path().display().to_string()).await)).await;
    }
}

#[cfg(feature = "postgres")]
#[tokio::test(start_paused = true)]
async fn seeds_keep_every_promise_with_budgets_and_a_ledger_on_a_server() {
    let _time = stand_still();
    for seed in SEEDS {
        let database = Database::new().await;
        let store = together_inference::store::Store::connect(&database.url()).await.unwrap();
        run(seed, Arc::new(PostgresBudgets::new(&store).unwrap()), Some(Ledger::new(&store))).await;
    }
}

/// A server of Redis, gone with the test.
#[cfg(feature = "redis")]
struct Redis(Child, u16);

#[cfg(feature = "redis")]
impl Redis {
    fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new("redis-server");
        command.args(["--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--port", &port.to_string()]);
        let started = command.current_dir(std::env::temp_dir()).stdout(Stdio::null()).stdin(Stdio::null()).spawn();
        let redis = Self(started.expect("redis-server cannot be run: apt-get install redis-server"), port);
        let ends = std::time::Instant::now() + super::secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(std::time::Instant::now() < ends, "redis-server did not start");
            std::thread::yield_now();
        }
        redis
    }
}

#[cfg(feature = "redis")]
impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(feature = "redis")]
#[tokio::test(start_paused = true)]
async fn seeds_keep_every_promise_with_budgets_in_redis() {
    let (redis, _time) = (Redis::start(), stand_still());
    for seed in SEEDS {
        let server = RedisServer::new(format!("redis://127.0.0.1:{}", redis.1)).operation_timeout(super::secs(60));
        let budgets = RedisBudgets::on(server).name(format!("seed-{seed}")).connect().await.unwrap();
        while !budgets.is_connected() {
            tokio::task::yield_now().await;
        }
        run(seed, Arc::new(budgets), None).await;
    }
}
