//! What a cluster that fails over costs a call at most, where a busy machine has no say: look-ups by a clock that only
//! timers move, and repeats by what is sent.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use together_inference::cache::{CacheLayer, RedisCache, RedisConfig};
use tokio::time::Instant;

use crate::{
    fake::Fake,
    support::{is_up, key, note},
};

/// The most that one look-up may take.
const LONGEST: Duration = Duration::from_millis(100);

/// A cluster of two nodes: one that knows both and has a single slot, and one in trouble that has all others.
struct Cluster {
    sound: Fake,
    troubled: Fake,
    /// Commands for keys that the troubled one was sent.
    sent: Arc<AtomicUsize>,
}

impl Cluster {
    /// `reply` is the troubled node's to a command for a key, by its own address; none is no reply, ever.
    async fn start(reply: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        let (ports, sent) = (Arc::new(OnceLock::new()), Arc::new(AtomicUsize::new(0)));
        let known = Arc::clone(&ports);
        let sound = Fake::start(move |words| match &*words[0] {
            b"CLUSTER" => Some(slots(*known.get()?)),
            _ => Some(format!("-MOVED 7 127.0.0.1:{}\r\n", known.get()?.1).into_bytes()),
        });
        let (known, count) = (Arc::clone(&ports), Arc::clone(&sent));
        let troubled = Fake::start(move |words| match &*words[0] {
            b"CLUSTER" => Some(slots(*known.get()?)),
            b"ASKING" => Some(b"+OK\r\n".to_vec()),
            _ => {
                count.fetch_add(1, Relaxed);
                let (_, own) = known.get()?;
                reply(&format!("127.0.0.1:{own}")).map(String::into_bytes)
            }
        });
        let (sound, troubled) = (sound.await, troubled.await);
        ports.set((sound.port, troubled.port)).unwrap();
        Self { sound, troubled, sent }
    }

    async fn connected(&self) -> RedisCache {
        let cache = RedisConfig::cluster([self.sound.url()]).connect().await.unwrap();
        is_up(&cache).await;
        cache
    }
}

/// The reply to `CLUSTER SLOTS`.
fn slots((sound, troubled): (u16, u16)) -> Vec<u8> {
    let node = |port: u16| format!("*2\r\n$9\r\n127.0.0.1\r\n:{port}\r\n");
    let all = [":0\r\n:0\r\n", ":1\r\n:16383\r\n"].into_iter().zip([sound, troubled]);
    let ranges: String = all.map(|(range, port)| format!("*3\r\n{range}{}", node(port))).collect();
    format!("*2\r\n{ranges}").into_bytes()
}

/// As many look-ups as it takes until the cache leaves the cluster alone, while nothing but timers moves the clock.
async fn all_miss_in_time(cache: &RedisCache) {
    tokio::time::pause();
    let mut slowest = Duration::ZERO;
    for _ in 0..5 {
        let begun = Instant::now();
        assert!(!cache.get(&key("a")).await.is_ok_and(|found| found.is_some()));
        slowest = slowest.max(begun.elapsed());
        assert!(slowest <= LONGEST, "{slowest:?}, {:?}", cache.stats());
    }
    println!("the slowest look-up took {slowest:?}; {:?}", cache.stats());
    let stats = cache.stats();
    assert_eq!((stats.failed, stats.pauses, stats.is_connected), (5, 1, false), "{stats:?}");
    let begun = Instant::now();
    assert!(cache.get(&key("a")).await.unwrap().is_none());
    assert_eq!(begun.elapsed(), Duration::ZERO, "what is left alone costs nothing");
}

#[tokio::test]
async fn a_node_that_hangs_costs_a_look_up_a_hundred_milliseconds_at_most_and_one_repeat() {
    let cluster = Cluster::start(|_| None).await;
    let cache = cluster.connected().await;
    all_miss_in_time(&cache).await;
    let sent = cluster.sent.load(Relaxed);
    assert!((1..=2 * 5).contains(&sent), "{sent} commands of five look-ups");
}

#[tokio::test]
async fn a_node_that_is_gone_costs_a_look_up_a_hundred_milliseconds_at_most() {
    let cluster = Cluster::start(|_| None).await;
    let cache = cluster.connected().await;
    drop(cluster.troubled);
    all_miss_in_time(&cache).await;
}

#[tokio::test]
async fn a_command_is_sent_twice_at_most_whatever_a_node_says() {
    for trouble in [
        "-TRYAGAIN multiple keys during rehashing of slot",
        "-CLUSTERDOWN the cluster is down",
        "-MASTERDOWN link with master is down",
        "-LOADING the dataset is in memory soon",
        "-READONLY you can't write against a read only replica",
        "-MOVED 7 {own}",
        "-ASK 7 {own}",
        "-ERR nonsense",
    ] {
        let cluster = Cluster::start(move |own| Some(format!("{}\r\n", trouble.replace("{own}", own)))).await;
        let cache = cluster.connected().await;
        let sent = || cluster.sent.swap(0, Relaxed);
        assert!(cache.get(&key("a")).await.is_err(), "{trouble}");
        assert!((1..=2).contains(&sent()), "a look-up, {trouble}");
        assert!(cache.get_many(&[key("a")]).await.is_err(), "{trouble}");
        assert!((1..=2).contains(&sent()), "a look-up of several, {trouble}");
        cache.set(&key("a"), note("a")).await.unwrap();
        cache.flush().await.unwrap();
        assert!((1..=2).contains(&sent()), "a write, {trouble}");
    }
}
