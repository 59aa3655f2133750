//! What it costs to set money aside and to settle it: in the process, in Redis with `--features redis`, and in PostgreSQL
//! with `--features postgres`.

use std::{
    collections::HashMap,
    hint::black_box,
    sync::{Arc, Mutex},
    time::Duration,
};

use cpu_time::ThreadTime;
use together_inference::{
    cost::{Account, BudgetStore, Charge, Hold, Line, MemoryBudgets, Period},
    types::AttemptId,
    usd,
};

const TURNS: u32 = 200_000;
const RUNS: usize = 15;
/// CPU of a reservation with its settlement, over three levels.
const BOUND_NS: f64 = 100.0;

const NAMES: [&str; 3] = ["day|UTC|hard|global", "day|UTC|hard|tenant:acme", "total|UTC|hard|session:run-7"];

fn lines() -> Vec<Line> {
    NAMES.map(|name| Line::new(Account::new(name), Period::new(0), usd!("1000000"))).to_vec()
}

/// One reservation and one settlement, over three accounts, beside a lock over a map of strings.
pub fn in_process() {
    let (ours, lines) = (MemoryBudgets::new(), lines());
    let holds: Vec<_> = (0..1_024_u128).map(|n| AttemptId::new((n << 64) | (n * 7_919))).collect();
    let holds: Vec<_> = holds
        .into_iter()
        .map(|id| Arc::new(Hold::new(id, usd!("0.01"), lines.clone(), Duration::from_secs(60))))
        .collect();
    let by_hand =
        Mutex::new(NAMES.map(|name| (name.to_owned(), (0_i64, 0_i64))).into_iter().collect::<HashMap<_, _>>());
    let (mut of_ours, mut of_theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..=RUNS {
        let took = ours_in(&ours, &holds);
        let theirs = theirs_in(&by_hand);
        of_ours.push(took);
        of_theirs.push(theirs);
        ratios.push(took / theirs);
    }
    let middle = |mut figures: Vec<f64>| {
        // The first pass warms up.
        figures.remove(0);
        figures.sort_by(f64::total_cmp);
        (figures[RUNS / 4], figures[RUNS / 2], figures[RUNS * 3 / 4])
    };
    let ((low, median, high), (_, theirs, _), (_, ratio, _)) = (middle(of_ours), middle(of_theirs), middle(ratios));
    let verdict = if median <= BOUND_NS { "" } else { "  MISSED" };
    println!(
        "{:<44} {ratio:>8.3}x {:>7} {:>15} ({median:.0} of {BOUND_NS:.0} / {theirs:.0} ns){verdict}",
        "budget: reserve and settle, 3 levels",
        "",
        format!("{low:.0}-{high:.0} ns"),
    );
}

fn ours_in(store: &MemoryBudgets, holds: &[Arc<Hold>]) -> f64 {
    let start = ThreadTime::now();
    for hold in holds.iter().cycle().take(TURNS as usize) {
        assert!(store.reserve_now(black_box(hold)).is_some_and(|reserved| reserved.is_ok()));
        assert!(store.settle_now(hold, Charge::Spent(usd!("0.000001"))).is_some());
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(TURNS)
}

/// What a counter of one's own costs: spent and reserved by name, under one lock.
fn theirs_in(books: &Mutex<HashMap<String, (i64, i64)>>) -> f64 {
    let start = ThreadTime::now();
    let add = |spent: i64, reserved: i64| {
        let mut books = books.lock().expect("no panic");
        for name in NAMES {
            let account = books.get_mut(black_box(name)).expect("an account");
            *account = (account.0 + spent, account.1 + reserved);
        }
    };
    for _ in 0..TURNS {
        add(0, 10_000_000);
        add(1_000, -10_000_000);
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(TURNS)
}

/// Three accounts in one script, beside one counter.
#[cfg(feature = "redis")]
pub fn in_redis(runtime: &tokio::runtime::Runtime) {
    use redis::{Client, IntoConnectionInfo, io::tcp::TcpSettings};
    use together_inference::cost::RedisBudgets;

    use crate::{many, pairs};

    let (_server, url) = crate::shared::start();
    let store = runtime.block_on(RedisBudgets::connect(&*url)).expect("a store");
    assert!(store.is_connected());
    let info = url.as_str().into_connection_info().expect("a URL");
    let client = Client::open(info.set_tcp_settings(TcpSettings::default().set_nodelay(true))).expect("a client");
    let plain = runtime.block_on(client.get_connection_manager()).expect("a connection");
    let (next, lines) = (std::sync::atomic::AtomicU64::new(0), lines());
    let ours = async || {
        let id = AttemptId::new(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed).into());
        let hold = Arc::new(Hold::new(id, usd!("0.000001"), lines.clone(), Duration::from_secs(60)));
        store.reserve(&hold).await.expect("room");
    };
    let theirs = async || {
        let asked = redis::cmd("INCRBY").arg("counter").arg(1_000).query_async::<i64>(&mut plain.clone()).await;
        assert!(asked.is_ok());
    };
    let ours_alone = || async {
        for _ in 0..2_000 {
            ours().await;
        }
    };
    let theirs_alone = || async {
        for _ in 0..2_000 {
            theirs().await;
        }
    };
    pairs(runtime, 2_000, ours_alone, theirs_alone).report_wall("budget in redis: reserve, 3 levels, wall", 2.00);
    let at_once = pairs(runtime, 10_000, || many(10_000, |_| ours()), || many(10_000, |_| theirs()));
    at_once.report("budget in redis: reserve, 64 in flight", 2.50, 0.0);
}

#[cfg(feature = "postgres")]
#[path = "../tests/service/ledger/server.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "the tests' server, of which this needs little")]
mod server;

/// Three accounts set aside and settled on a server that waits for its disk, beside a bare round trip: by one caller, by
/// eight of one process, and by eight processes that all want the same accounts.
#[cfg(feature = "postgres")]
pub fn in_postgres(runtime: &tokio::runtime::Runtime) {
    use std::{
        sync::atomic::{AtomicU64, Ordering},
        time::Instant,
    };

    use futures_util::future::join_all;
    use together_inference::{cost::PostgresBudgets, store::Store};
    use tokio_postgres::{Client, Statement};

    const TIMES: usize = 500;
    let (next, lines) = (AtomicU64::new(0), lines());
    let ours = async |store: &PostgresBudgets| {
        let id = AttemptId::new(next.fetch_add(1, Ordering::Relaxed).into());
        let hold = Arc::new(Hold::new(id, usd!("0.000001"), lines.clone(), Duration::from_secs(60)));
        store.reserve(&hold).await.expect("room");
        store.settle(&hold, Charge::Spent(usd!("0.000001"))).await.expect("a settlement");
    };
    let bare = async |(client, asked): &(Client, Statement)| {
        drop(client.query_one(asked, &[]).await.expect("an answer"));
    };
    /// The middle, the slowest of a hundred, and how many a second, of all that take turns at it.
    async fn timed<T>(all: &[T], turn: impl AsyncFn(&T)) -> (Duration, Duration, f64) {
        let start = Instant::now();
        let each = join_all(all.iter().map(async |one| {
            let mut took = Vec::with_capacity(TIMES);
            for _ in 0..TIMES {
                let start = Instant::now();
                turn(one).await;
                took.push(start.elapsed());
            }
            took
        }));
        let mut took: Vec<Duration> = each.await.into_iter().flatten().collect();
        let rate = took.len() as f64 / start.elapsed().as_secs_f64();
        took.sort();
        (took[took.len() / 2], took[took.len() * 99 / 100], rate)
    }
    runtime.block_on(async {
        let server = server::Server::start().await;
        server.durable().await;
        let database = server.database().await;
        let open = async || {
            let store = Store::connect(&database.url()).await.expect("a store");
            PostgresBudgets::new(&store).expect("budgets")
        };
        let one = open().await;
        let apart = join_all((0..8).map(|_| open())).await;
        let client = async || {
            let client = database.client().await;
            let asked = client.prepare("SELECT 1").await.expect("a statement");
            (client, asked)
        };
        let clients = join_all((0..8).map(|_| client())).await;
        let together = vec![one.clone(); 8];
        timed(&apart, &ours).await;
        for (name, stores, clients) in [
            ("1 caller", std::slice::from_ref(&one), &clients[..1]),
            ("8 callers of one process", &together[..], &clients[..]),
            ("8 processes, the same accounts", &apart[..], &clients[..]),
        ] {
            let (theirs, ours) = (timed(clients, &bare).await, timed(stores, &ours).await);
            println!(
                "budget in postgres: reserve and settle, {name}: {:.0}/s, p50 {:?}, p99 {:?}; SELECT 1 {:.0}/s, p50 {:?}: \
                 {:.1}x",
                ours.2,
                ours.0,
                ours.1,
                theirs.2,
                theirs.0,
                ours.0.as_secs_f64() / theirs.0.as_secs_f64(),
            );
        }
    });
}
