use std::{
    path::PathBuf,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
};

use super::*;

/// A file of its own, gone with the test.
struct File(PathBuf);

impl File {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("together-inference-{}-{}.db", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self(std::env::temp_dir().join(name))
    }

    async fn open(&self) -> Sqlite {
        Sqlite::open(self.0.clone(), None).await.unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{end}", self.0.display()));
        }
    }
}

fn count(connection: &Connection) -> i64 {
    connection.query_row("SELECT count(*) FROM setting WHERE name LIKE 'test %'", [], |row| row.get(0)).unwrap()
}

fn add(connection: &Connection, name: &str) -> Result<(), rusqlite::Error> {
    connection.execute("INSERT INTO setting (name, value) VALUES ('test ' || ?1, '')", [name]).map(drop)
}

#[tokio::test]
async fn a_job_that_reads_twice_reads_the_same() {
    let file = File::new();
    let sqlite = file.open().await;
    let other = file.0.clone();
    let job = move |connection: &Connection| {
        let before = count(connection);
        let writer = Connection::open(other).unwrap();
        writer.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
        add(&writer, "a").unwrap();
        Ok::<_, StoreError>((before, count(connection), count(&writer)))
    };
    let (before, after, written) = sqlite.read(job).await.unwrap();
    assert_eq!(before, after);
    assert!(written > after);
}

/// Scenario: of five chores one ends, one fails and one panics, each time after it has written something.
/// Expected: those after them are done each turn, what failed leaves nothing behind and is done again, what ended is not.
#[tokio::test]
async fn a_chore_that_ends_fails_or_panics_leaves_the_others_as_they_were() {
    let file = File::new();
    let sqlite = file.open().await;
    let (done, turns) = mpsc::channel();
    let chore = |name: &'static str, end: fn() -> Result<Option<bool>, rusqlite::Error>| -> Chore {
        let done = done.clone();
        Box::new(move |connection| {
            done.send(name).unwrap();
            add(connection, &format!("{name} {}", count(connection)))?;
            end()
        })
    };
    for chore in [
        chore("first", || Ok(Some(false))),
        chore("ends", || Ok(None)),
        chore("fails", || Err(rusqlite::Error::InvalidQuery)),
        chore("panics", || panic!("it panics on purpose")),
        chore("last", || Ok(Some(false))),
    ] {
        sqlite.every_ten_seconds(chore);
        sqlite.sync().await.unwrap();
    }
    // Each came with a turn of all; one more.
    sqlite.every_ten_seconds(Box::new(|_| Ok(None)));
    sqlite.sync().await.unwrap();
    let all: Vec<&str> = turns.try_iter().collect();
    let times = |name: &str| all.iter().filter(|other| **other == name).count();
    let [first, ends, fails, panics, last] = ["first", "ends", "fails", "panics", "last"].map(times);
    assert_eq!(ends, 1);
    assert!(first >= fails && fails >= panics && panics >= last && last >= 2, "{all:?}");
    let written = sqlite.read(|connection| Ok::<_, StoreError>(count(connection))).await.unwrap();
    assert_eq!(usize::try_from(written).unwrap(), first + ends + last, "what failed leaves nothing behind");
}

/// Scenario: two jobs share a transaction; one ends the savepoint that it could be undone to, and fails.
/// Expected: neither is written, and both are told so: what failed must not be committed with the rest.
#[tokio::test]
async fn a_job_that_cannot_be_undone_alone_takes_its_group_with_it() {
    let file = File::new();
    let sqlite = file.open().await;
    let (go, gate) = mpsc::channel::<()>();
    let (begun, begins) = oneshot::channel();
    let plug = sqlite.write(
        Durable::Now,
        move |_| {
            begun.send(()).unwrap();
            gate.recv().map_err(|_| rusqlite::Error::InvalidQuery)
        },
        || {},
    );
    let both = async {
        begins.await.unwrap();
        let good = sqlite.write(Durable::Now, |connection| add(connection, "good"), || {});
        let bad = sqlite.write(
            Durable::Now,
            |connection| {
                add(connection, "bad")?;
                connection.execute_batch("RELEASE job")?;
                Err::<(), _>(rusqlite::Error::InvalidQuery)
            },
            || {},
        );
        let go = async {
            // Both wait behind the plug by now.
            tokio::task::yield_now().await;
            go.send(()).unwrap();
        };
        tokio::join!(good, bad, go)
    };
    let (plugged, (good, bad, ())) = tokio::join!(plug, both);
    plugged.unwrap();
    assert!(good.is_err() && bad.is_err(), "{good:?} {bad:?}");
    let written = sqlite.read(|connection| Ok::<_, StoreError>(count(connection))).await.unwrap();
    assert_eq!(written, 0);
    sqlite.write(Durable::Now, |connection| add(connection, "later"), || {}).await.unwrap();
}
