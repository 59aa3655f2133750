//! A server whose disk is full: what cannot be written down is not bought, or counted as a gap, and it goes on by itself.

use std::{
    fs::File,
    io::Write,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
};

use together_inference::{
    cost::{Durability, Ending, TracingCosts},
    notify::AlertKind,
    service::ErrorKind,
    testing::Together,
};

use super::{super::doubles::Alerts, audit, home::open, muse, secs, server::Server, service, sums};

/// A disk of few megabytes, in memory. Only root may mount it; who is not has to be let by `sudo`.
struct Disk(PathBuf);

fn as_root(command: &str) {
    let is_root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    let arguments: &[&str] = if is_root { &["sh", "-c", command] } else { &["sudo", "-n", "sh", "-c", command] };
    let output = Command::new(arguments[0]).args(&arguments[1..]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "a small disk cannot be had, which takes root or sudo: {command}: {said}");
}

impl Disk {
    fn mount() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("together-disk-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let disk = Self(std::env::temp_dir().join(name));
        let path = disk.0.display();
        as_root(&format!("mkdir {path} && mount -t tmpfs -o size=64m,mode=777 tmpfs {path}"));
        disk
    }

    fn rest(&self) -> PathBuf {
        self.0.join("rest")
    }

    /// Leaves no room at all.
    fn fill(&self) {
        let mut rest = File::create(self.rest()).unwrap();
        while rest.write_all(&[0; 4_096]).is_ok() {}
    }

    fn make_room(&self) {
        std::fs::remove_file(self.rest()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let path = self.0.display();
        let _ = std::panic::catch_unwind(|| as_root(&format!("umount --lazy {path} && rmdir {path}")));
    }
}

#[tokio::test]
#[ignore = "mounts a small disk, which not every machine allows: scripts/test runs it where it may"]
async fn a_full_disk_of_the_server_stops_paid_calls_where_the_ledger_is_strict() {
    // Scenario: calls until the disk is full, some more, and some when there is room again.
    // Expected: while it is full nothing is bought, and the error says why; then it goes on. Nothing that was bought is
    // lost.
    let (disk, server, together) = (Disk::mount(), Server::start().await, Together::new());
    let database = server.database_in(&disk.0).await;
    let ledger = open(&database.url()).await.durability(Durability::Strict);
    let strict = service(&together, |builder| builder.cost_sink(ledger.clone()));
    strict.complete(muse("why?")).await.unwrap();
    disk.fill();
    // What is left in pages that are there already is room for some more, now and then.
    let (mut bought, mut refusals) = (1, 0);
    while refusals < 6 {
        match strict.complete(muse("why?")).await {
            Ok(_) => bought += 1,
            Err(refused) => {
                assert_eq!(refused.kind(), ErrorKind::Policy, "{refused}");
                assert!(refused.to_string().contains("is full"), "{refused}");
                refusals += 1;
            }
        }
        assert!(bought < 5_000, "the disk has room");
    }
    assert_eq!(together.bill().calls, bought, "nothing is bought that cannot be written down");
    disk.make_room();
    strict.complete(muse("why?")).await.unwrap();
    strict.shutdown(secs(60)).await;
    drop((strict, ledger));
    let (records, bill) = (audit(&open(&database.url()).await).await, together.bill());
    let total = sums(&records);
    assert_eq!(total.attempts, bill.calls, "{total:?}");
    assert!(total.known.nanos() <= bill.nano_usd, "{total:?}");
    assert!(bill.nano_usd <= (total.known + total.unknown).nanos(), "{total:?}");
}

#[tokio::test]
#[ignore = "mounts a small disk, which not every machine allows: scripts/test runs it where it may"]
async fn a_full_disk_of_the_server_does_not_stop_calls_otherwise_and_the_gap_is_counted_and_told() {
    // Scenario: the disk is full for five hundred calls, and has room again for some more.
    // Expected: all calls are answered; the records that are missing are as many as were counted and told of.
    let (disk, server, together, told) = (Disk::mount(), Server::start().await, Together::new(), Alerts::default());
    let database = server.database_in(&disk.0).await;
    let ledger = open(&database.url()).await.durability(Durability::Standard);
    let standard = service(&together, |builder| {
        // Another sink that takes everything does not stand in for the ledger.
        builder.cost_sink(ledger.clone()).cost_sink(TracingCosts).notifier(told.clone())
    });
    standard.complete(muse("why?")).await.unwrap();
    disk.fill();
    for _ in 0..500 {
        standard.complete(muse("why?")).await.unwrap();
    }
    assert!(!standard.flush().await || standard.health().records_lost > 0, "the disk has room");
    disk.make_room();
    for _ in 0..10 {
        standard.complete(muse("and now?")).await.unwrap();
    }
    assert!(standard.flush().await);
    let (missing, lost) = (ledger.missed_intents(), standard.health().records_lost);
    assert!(missing > 0, "{lost} records were lost");
    standard.shutdown(secs(60)).await;
    drop((standard, ledger));
    let records = audit(&open(&database.url()).await).await;
    let settled = records.iter().filter(|record| record.ending != Ending::Lost).count() as u64;
    assert_eq!(settled + lost, together.bill().calls, "the gap is another than was counted");
    assert_eq!(told.kinds().contains(&AlertKind::LedgerGap), lost > 0, "{:?}", told.kinds());
}
