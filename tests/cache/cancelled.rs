//! Callers that give up take nothing from the others on the connection.

use std::sync::atomic::{AtomicUsize, Ordering};

use together_inference::{
    cache::CacheLayer,
    types::{Rng, SeededRng},
};

use crate::{
    server::Server,
    support::{key, note, patient, text},
};

const CANCELLATIONS: usize = 100_000;
const KEYS: u64 = 200;

/// Lets the other tasks run so many times.
async fn turns(count: u64) {
    for _ in 0..count {
        tokio::task::yield_now().await;
    }
}

/// Replies on a multiplexed connection have no names: a client that forgets one that is under way gives the next caller
/// another one's. Each caller here gives up after a random number of turns, before its command is sent, between that and
/// the reply, or not at all; whatever arrives must be its own.
#[tokio::test]
async fn no_reply_reaches_another_one_than_who_asked() {
    let server = Server::start(&[]).await;
    let (writer, cache) = (patient(server.url()).await, patient(server.url()).await);
    let page = (0..KEYS).map(|n| (key(n.to_le_bytes()), note(n.to_string()))).collect();
    writer.set_many(page).await.unwrap();
    writer.flush().await.unwrap();
    let (cancelled, answered, rng) = (AtomicUsize::new(0), AtomicUsize::new(0), SeededRng::new(7));
    let caller = async || {
        while cancelled.load(Ordering::Relaxed) < CANCELLATIONS {
            let (n, m) = (rng.next_u64() % KEYS, rng.next_u64() % KEYS);
            let keys = [key(n.to_le_bytes()), key(m.to_le_bytes())];
            let patience = rng.next_u64() % 24;
            let is_many = rng.next_u64() % 8 == 0;
            let ask = async {
                if is_many { cache.get_many(&keys).await.unwrap() } else { vec![cache.get(&keys[0]).await.unwrap()] }
            };
            let found = tokio::select! {
                biased;
                found = ask => found,
                () = turns(patience) => {
                    cancelled.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
            };
            for (found, n) in found.iter().zip([n, m]) {
                assert_eq!(text(found.as_ref().unwrap()), n.to_string(), "another one's reply");
            }
            answered.fetch_add(1, Ordering::Relaxed);
        }
    };
    futures_util::future::join_all((0..64).map(|_| caller())).await;
    let (answered, stats) = (answered.into_inner(), cache.stats());
    println!("{answered} answered, {CANCELLATIONS} cancelled");
    assert!(answered > CANCELLATIONS / 100, "{answered} are too few to mean something");
    assert_eq!((stats.connections, stats.pauses, stats.refused), (1, 0, 0), "{stats:?}");
}
