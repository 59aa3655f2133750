//! A disk whose flushes fail: what the system took may not be there after a loss of power, and the program is told so.

use std::{env, fs, process::Command};

use together_inference::{
    cost::{CostSink, Durability, Ledger},
    notify::AlertKind,
    service::ErrorKind,
    store::Store,
    testing::Together,
};

use super::{audit, home::Folder, muse, secs, service};
use crate::{disk, doubles::Alerts};

const STORE: &str = "TOGETHER_FLUSH_TEST_STORE";
const MODE: &str = "TOGETHER_FLUSH_TEST_MODE";
/// As long as it is there, no flush succeeds.
const FAILS: &str = "DISK_FAILS_IF";

/// What a child does; nothing where there is no parent.
#[tokio::test]
async fn child() {
    let Ok(path) = env::var(STORE) else { return };
    let fails = env::var(FAILS).unwrap();
    let is_strict = env::var(MODE).unwrap() == "strict";
    let durability = if is_strict { Durability::Strict } else { Durability::Standard };
    let ledger = Ledger::new(&Store::open(path).await.unwrap()).durability(durability);
    let (together, told) = (Together::new(), Alerts::default());
    let service = service(&together, |builder| builder.cost_sink(ledger.clone()).notifier(told.clone()));
    for _ in 0..3 {
        service.complete(muse("why?")).await.unwrap();
    }
    assert!(service.flush().await);
    assert_eq!(audit(&ledger).await.len(), 3);

    fs::write(&fails, "").unwrap();
    for _ in 0..5 {
        match service.complete(muse("why?")).await {
            Ok(_) => assert!(!is_strict, "it was bought and could not be written down for good"),
            Err(error) => assert!(is_strict && error.kind() == ErrorKind::Policy, "{error}"),
        }
    }
    assert_eq!(together.bill().calls, if is_strict { 3 } else { 8 });
    assert!(service.flush().await);
    let (error, lost) = (CostSink::flush(&ledger).await.err(), service.health().records_lost);
    // From then on what is written is known not to be safe.
    if !is_strict {
        assert!(error.unwrap().to_string().contains("disk I/O error"));
        for _ in 0..3 {
            service.complete(muse("why?")).await.unwrap();
        }
        assert!(service.flush().await);
        assert_eq!(service.health().records_lost, lost + 3);
        assert!(told.kinds().contains(&AlertKind::LedgerGap), "{:?}", told.kinds());
    }

    // It works again.
    fs::remove_file(&fails).unwrap();
    for _ in 0..3 {
        service.complete(muse("why?")).await.unwrap();
    }
    service.shutdown(secs(10)).await;
    let records = audit(&ledger).await;
    let lost = service.health().records_lost;
    println!("{} records of {} calls, {lost} lost, told: {:?}", records.len(), together.bill().calls, told.kinds());
    assert_eq!(records.len() as u64 + lost, together.bill().calls);
    assert_eq!(lost > 0, told.kinds().contains(&AlertKind::LedgerGap), "{:?}", told.kinds());
    let known: i64 = records.iter().filter_map(|record| record.cost.known()).map(|cost| cost.nanos()).sum();
    assert!(lost > 0 || known == together.bill().nano_usd, "the ledger is not the bill");
}

#[tokio::test]
async fn a_disk_that_cannot_flush_stops_paid_calls_or_is_told_of_and_nothing_is_lost_unseen() {
    for mode in ["strict", "standard"] {
        let folder = Folder::new();
        let path = folder.path();
        let fails = path.with_extension("fails");
        let mut child = Command::new(env::current_exe().unwrap());
        child
            .args(["--exact", "ledger::flushes::child", "--nocapture", "--test-threads", "1"])
            .env(STORE, &path)
            .env(MODE, mode);
        disk::watch(&mut child, path.parent().unwrap(), Some(&fails));
        let ended = tokio::task::spawn_blocking(move || child.output().unwrap()).await.unwrap();
        let said = [ended.stdout, ended.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
        assert!(ended.status.success(), "{mode}: {said}");
        assert!(said.contains("disk refused"), "{mode}: no flush failed: {said}");
        println!("{mode}: {}", said.lines().filter(|line| !line.starts_with("disk ")).collect::<Vec<_>>().join("\n"));
    }
}
