//! What a file may be instead of a store, and a disk that refuses.

use std::fs;

use futures_util::FutureExt;
use together_inference::{
    Price, RouteId,
    cost::{CostSink, Durability, Ledger, TracingCosts},
    notify::AlertKind,
    service::ErrorKind,
    store::{Store, StoreErrorKind, StoreOptions},
    testing::Together,
    usd,
};

use super::{super::doubles::Alerts, audit, home::Folder, muse, secs, service};

async fn open(path: &std::path::Path) -> Ledger {
    Ledger::new(&Store::open(path).await.unwrap())
}

async fn refused(path: impl Into<std::path::PathBuf>) -> (StoreErrorKind, String) {
    let error = Store::open(path).await.unwrap_err();
    (error.kind(), error.to_string())
}

#[tokio::test]
async fn what_is_not_a_store_is_refused_by_name() {
    let folder = Folder::new();
    fs::write(
        folder.path(),
        "this is a letter, and long enough to be taken for a database, or so one might think ....",
    )
    .unwrap();
    let (kind, message) = refused(folder.path()).await;
    assert_eq!(kind, StoreErrorKind::Foreign, "{message}");
    assert!(fs::read_to_string(folder.path()).unwrap().starts_with("this is a letter"), "and left as it is");

    let folder = Folder::new();
    let other = rusqlite::Connection::open(folder.path()).unwrap();
    other.execute_batch("CREATE TABLE cost_record (mine TEXT)").unwrap();
    let (kind, message) = refused(folder.path()).await;
    assert_eq!(kind, StoreErrorKind::Foreign, "{message}");

    assert_eq!(refused("/proc/none/inference.db").await.0, StoreErrorKind::Unreachable);
}

#[tokio::test]
async fn a_store_of_a_newer_crate_is_refused_and_one_of_an_older_crate_is_brought_up_to_date() {
    let folder = Folder::new();
    drop(open(&folder.path()).await);
    let file = rusqlite::Connection::open(folder.path()).unwrap();
    file.pragma_update(None, "user_version", 99).unwrap();
    let (kind, message) = refused(folder.path()).await;
    assert_eq!(kind, StoreErrorKind::Newer);
    assert!(message.contains("its version is 99"), "{message}");

    // As the first version left it: without a ledger.
    let folder = Folder::new();
    let file = rusqlite::Connection::open(folder.path()).unwrap();
    file.execute_batch(include_str!("../../../src/store/migrations/sqlite/001_processes.sql")).unwrap();
    file.pragma_update(None, "user_version", 1).unwrap();
    file.pragma_update(None, "application_id", 0x5447_4953).unwrap();
    drop(file);
    assert!(audit(&open(&folder.path()).await).await.is_empty());
}

#[tokio::test]
async fn a_process_stops_writing_when_a_newer_one_changes_the_store() {
    let folder = Folder::new();
    let ledger = open(&folder.path()).await;
    let file = rusqlite::Connection::open(folder.path()).unwrap();
    file.pragma_update(None, "user_version", 99).unwrap();
    let error = CostSink::record(&ledger, &[super::sums::record(1)]).await.unwrap_err();
    assert!(error.to_string().contains("newer version of this crate"), "{error}");
}

#[tokio::test]
async fn a_store_that_can_only_be_read_says_so() {
    let folder = Folder::new();
    drop(open(&folder.path()).await);
    let (kind, message) = refused(format!("file:{}?mode=ro", folder.path().display())).await;
    assert_eq!(kind, StoreErrorKind::ReadOnly);
    assert!(message.contains("cannot be written"), "{message}");
}

#[tokio::test]
async fn a_uri_makes_its_file_and_one_that_is_in_memory_alone_is_refused() {
    let folder = Folder::new();
    let ledger = open(format!("file:{}", folder.path().display()).as_ref()).await;
    CostSink::record(&ledger, &[super::sums::record(1)]).await.unwrap();
    assert!(folder.path().exists());
    assert_eq!(audit(&ledger).await.len(), 1);
    let (_, message) = refused(format!("file:{}?mode=memory&cache=shared", folder.path().display())).await;
    assert!(message.contains("name a file"), "{message}");
}

#[tokio::test]
async fn the_view_for_people_does_not_call_what_has_no_price_free() {
    let folder = Folder::new();
    let ledger = open(&folder.path()).await;
    let mut unpriced = super::sums::record(1);
    unpriced.cost = together_inference::Cost::Unpriced;
    CostSink::record(&ledger, &[unpriced, super::sums::record(2)]).await.unwrap();
    let file = rusqlite::Connection::open(folder.path()).unwrap();
    let mut rows = file.prepare("SELECT usd FROM cost ORDER BY attempt").unwrap();
    let amounts: Vec<Option<String>> = rows.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(amounts, [None, Some("0.001000001".into())]);
}

#[tokio::test]
async fn a_chore_that_fails_does_not_take_the_sign_of_life_back() {
    let folder = Folder::new();
    let store = Store::open(folder.path()).await.unwrap();
    let ledger = Ledger::new(&store);
    CostSink::record(&ledger, &[super::sums::record(1)]).await.unwrap();
    let file = rusqlite::Connection::open(folder.path()).unwrap();
    file.execute_batch(
        "PRAGMA busy_timeout = 5000;
         UPDATE cost_record SET ending = 'nobody knows this', open_by = 7;
         UPDATE process SET renewed_ms = 0",
    )
    .unwrap();
    // A new ledger begins with its chore, which cannot read what it is to take over.
    drop(ledger);
    CostSink::flush(&Ledger::new(&store)).await.unwrap();
    let renewed: i64 = file.query_row("SELECT renewed_ms FROM process", [], |row| row.get(0)).unwrap();
    assert!(renewed > 0);
}

#[tokio::test]
async fn a_price_that_was_not_written_after_all_is_not_remembered() {
    let folder = Folder::new();
    let ledger = open(&folder.path()).await;
    let file = rusqlite::Connection::open(folder.path()).unwrap();
    file.execute_batch(
        "PRAGMA busy_timeout = 5000;
         CREATE TRIGGER refuse BEFORE INSERT ON cost_record WHEN new.model = 'refused'
         BEGIN SELECT RAISE(ABORT, 'refused'); END",
    )
    .unwrap();
    let priced = |number, dollars| {
        let mut priced = super::sums::record(number);
        priced.price = Some(Price::per_million(usd!("0.15"), dollars));
        priced
    };
    let mut refused = priced(1, usd!("1.00"));
    refused.route = RouteId::new("together", "refused");
    // Whoever gives up waiting learns nothing of the failure; those who write next must.
    assert!(CostSink::record(&ledger, &[refused.clone()]).now_or_never().is_none());
    let written = [priced(2, usd!("2.00")), priced(3, usd!("1.00"))];
    CostSink::record(&ledger, &written[..1]).await.unwrap();
    CostSink::record(&ledger, &written[1..]).await.unwrap();
    assert_eq!(audit(&ledger).await, written);
}

#[cfg(unix)]
#[tokio::test]
async fn only_its_owner_may_read_it() {
    use std::os::unix::fs::PermissionsExt;

    let modes = |folder: &Folder| -> Vec<u32> {
        let files = fs::read_dir(folder.path().parent().unwrap()).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().permissions().mode() & 0o777).collect()
    };
    let uri = |folder: &Folder, mode: &str| format!("file:{}{mode}", folder.path().display()).replace(".db", "%2Edb");
    for kind in ["a path", "", "?mode=rwc"] {
        let folder = Folder::new();
        let path = if kind == "a path" { folder.path() } else { uri(&folder, kind).into() };
        let ledger = open(&path).await;
        CostSink::record(&ledger, &[super::sums::record(1)]).await.unwrap();
        assert_eq!(modes(&folder), [0o600; 3], "{kind}: it, its log, and what they share");
        drop(ledger);
        // One that its owner shares stays so.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(audit(&open(&path).await).await.len(), 1);
        assert_eq!(fs::metadata(folder.path()).unwrap().permissions().mode() & 0o777, 0o640, "{kind}");
    }
    // A URI may forbid that it is made.
    let folder = Folder::new();
    assert_eq!(refused(uri(&folder, "?mode=rw")).await.0, StoreErrorKind::Unreachable);
    assert!(!folder.path().exists());
}

/// A store that has room for little more than its tables.
async fn nearly_full(folder: &Folder, durability: Durability) -> Ledger {
    let options = StoreOptions::default().max_bytes(160 << 10);
    Ledger::new(&Store::open_with(folder.path(), options).await.unwrap()).durability(durability)
}

#[tokio::test]
async fn a_full_disk_stops_paid_calls_where_the_ledger_is_strict() {
    let (folder, together) = (Folder::new(), Together::new());
    let ledger = nearly_full(&folder, Durability::Strict).await;
    let service = service(&together, |builder| builder.cost_sink(ledger.clone()));
    let refused = loop {
        match service.complete(muse("why?")).await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(refused.kind(), ErrorKind::Policy, "{refused}");
    assert!(refused.to_string().contains("is full"), "{refused}");
    let billed = together.bill();
    for _ in 0..5 {
        service.complete(muse("why?")).await.unwrap_err();
    }
    assert_eq!(together.bill().calls, billed.calls, "nothing is bought that cannot be written down");
    service.shutdown(secs(10)).await;
}

#[tokio::test]
async fn a_full_disk_does_not_stop_calls_otherwise_and_the_gap_is_counted_and_told() {
    let (folder, together) = (Folder::new(), Together::new());
    let ledger = nearly_full(&folder, Durability::Standard).await;
    let told = Alerts::default();
    // Another sink that takes everything does not stand in for the ledger.
    let service =
        service(&together, |builder| builder.cost_sink(ledger.clone()).cost_sink(TracingCosts).notifier(told.clone()));
    for _ in 0..600 {
        service.complete(muse("why?")).await.unwrap();
    }
    service.shutdown(secs(10)).await;
    let (health, records) = (service.health(), audit(&ledger).await);
    assert!(health.records_lost > 0, "{health:?}");
    assert!(records.len() < 600);
    assert!(told.kinds().contains(&AlertKind::LedgerGap), "{:?}", told.kinds());
    assert!(ledger.missed_intents() > 0);
}
