//! Opening a file: whose it is, which version, what is missing.

use std::{fs::OpenOptions, path::Path, time::Duration};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::{StoreError, StoreErrorKind, is_uri};

/// Tells a store of this crate from other SQLite files: "TGIS".
const APPLICATION: i32 = 0x5447_4953;

/// What brings a store up to date, oldest first; the number of those that were done is kept in the file.
const MIGRATIONS: [&str; 3] = [
    include_str!("../migrations/sqlite/001_processes.sql"),
    include_str!("../migrations/sqlite/002_ledger.sql"),
    include_str!("../migrations/sqlite/003_batches.sql"),
];

/// How many there are.
#[expect(clippy::cast_possible_truncation, reason = "a handful")]
const KNOWN: u32 = MIGRATIONS.len() as u32;

/// How long a writer waits for another process's.
const BUSY: Duration = Duration::from_secs(5);

/// How often within that time it tries what SQLite does not wait for.
const TRIES: u32 = 100;

/// Opens a file to write it, made and brought up to date where necessary.
pub(super) fn open_to_write(path: &Path, max_bytes: Option<u64>, name: &str) -> Result<Connection, StoreError> {
    make(path).map_err(|error| StoreError::caused(StoreErrorKind::Unreachable, name, error))?;
    let mut connection = open_made(path, name)?;
    let failed = |error| error_of(name, error);
    connection.busy_timeout(BUSY).map_err(failed)?;
    // A file that can only be read refuses to begin.
    connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK").map_err(failed)?;
    let version = version(&connection, name)?;
    keep_a_journal(&connection, name)?;
    connection.pragma_update(None, "foreign_keys", true).map_err(failed)?;
    if let Some(bytes) = max_bytes {
        let page: u32 = connection.pragma_query_value(None, "page_size", |row| row.get(0)).map_err(failed)?;
        let pages = u32::try_from(bytes / u64::from(page.max(1))).unwrap_or(u32::MAX - 1);
        // The pragma answers a row, with what it is now.
        connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).map_err(failed)?;
    }
    if version < MIGRATIONS.len() {
        migrate(&mut connection, name)?;
    }
    Ok(connection)
}

/// Opens what was made, or has SQLite make what a URI names.
fn open_made(path: &Path, name: &str) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let failed = |error| error_of(name, error);
    match Connection::open_with_flags(path, flags) {
        // A URI's own mode may ask for less.
        Err(_) if is_uri(path) => {
            let create = flags | OpenFlags::SQLITE_OPEN_CREATE;
            let connection = Connection::open_with_flags(path, create).map_err(failed)?;
            keep_private(&connection).map_err(|error| StoreError::caused(StoreErrorKind::Unreachable, name, error))?;
            Ok(connection)
        }
        opened => opened.map_err(failed),
    }
}

/// A file that is new is its owner's alone, before anything is in it.
#[cfg(unix)]
fn keep_private(connection: &Connection) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;

    let Some(file) = connection.path().filter(|path| !path.is_empty()) else { return Ok(()) };
    if std::fs::metadata(file)?.len() > 0 {
        return Ok(());
    }
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600))
}

#[cfg(not(unix))]
fn keep_private(_: &Connection) -> std::io::Result<()> {
    Ok(())
}

/// Has writers and readers not wait for each other. Where several processes open a new file at once, SQLite says that it
/// is busy without having waited.
#[expect(clippy::disallowed_methods, reason = "the store's own thread, where there is no worker")]
fn keep_a_journal(connection: &Connection, name: &str) -> Result<(), StoreError> {
    let mut tries = 0;
    let mode: String = loop {
        match connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0)) {
            Ok(mode) => break mode,
            Err(error) => {
                let error = error_of(name, error);
                tries += 1;
                if error.kind() != StoreErrorKind::Busy || tries > TRIES {
                    return Err(error);
                }
                std::thread::sleep(BUSY / TRIES);
            }
        }
    };
    if mode == "wal" {
        return Ok(());
    }
    let detail = format!("it cannot keep a write-ahead log, its journal is {mode:?}; name a file of a local disk");
    Err(StoreError::new(StoreErrorKind::Other, name, detail))
}

/// Opens a file that is a store to read it.
pub(super) fn open_to_read(path: &Path, name: &str) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let failed = |error| error_of(name, error);
    let connection = match Connection::open_with_flags(path, flags) {
        // A URI's own mode may ask for more, which SQLite refuses.
        Err(_) if is_uri(path) => {
            let all = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
            let flags = (flags & !OpenFlags::SQLITE_OPEN_READ_ONLY) | all;
            let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
            connection.pragma_update(None, "query_only", true).map_err(failed)?;
            connection
        }
        opened => opened.map_err(failed)?,
    };
    connection.busy_timeout(BUSY).map_err(failed)?;
    Ok(connection)
}

/// Makes the file, for its owner alone; SQLite gives the files beside it the same permissions.
fn make(path: &Path) -> std::io::Result<()> {
    if is_uri(path) {
        return Ok(());
    }
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        // It may be read-only: SQLite says so better.
        Err(_) if path.exists() => Ok(()),
        made => made.map(drop),
    }
}

/// How many migrations the file has seen; refuses what is not a store or not for this version of the crate.
fn version(connection: &Connection, name: &str) -> Result<usize, StoreError> {
    let failed = |error| error_of(name, error);
    let application: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(failed)?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    if application != APPLICATION && (application != 0 || version != 0 || tables != 0) {
        return Err(StoreError::new(StoreErrorKind::Foreign, name, format!("it has {tables} tables of its own")));
    }
    let known = MIGRATIONS.len();
    match usize::try_from(version) {
        Ok(version) if version <= known => Ok(version),
        _ => Err(StoreError::new(StoreErrorKind::Newer, name, format!("its version is {version}, {known} is known"))),
    }
}

/// Brings the file up to date: all of it or nothing. Another process may have been quicker.
fn migrate(connection: &mut Connection, name: &str) -> Result<(), StoreError> {
    let failed = |error| error_of(name, error);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    for migration in MIGRATIONS.iter().skip(version(&transaction, name)?) {
        transaction.execute_batch(migration).map_err(failed)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION).map_err(failed)?;
    transaction.pragma_update(None, "user_version", KNOWN).map_err(failed)?;
    transaction.commit().map_err(failed)
}

/// Whether the file is still of the version that this process knows.
pub(super) fn is_current(connection: &Connection) -> Result<bool, rusqlite::Error> {
    let version: u32 = connection.prepare_cached("PRAGMA user_version")?.query_row([], |row| row.get(0))?;
    Ok(version == KNOWN)
}

/// A failure of the database, as the store's.
pub(crate) fn error_of(name: &str, error: rusqlite::Error) -> StoreError {
    let kind = match error.sqlite_error_code() {
        Some(ErrorCode::ReadOnly) => StoreErrorKind::ReadOnly,
        Some(ErrorCode::DiskFull) => StoreErrorKind::Full,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreErrorKind::Busy,
        Some(ErrorCode::DatabaseCorrupt) => StoreErrorKind::Corrupt,
        Some(ErrorCode::NotADatabase) => StoreErrorKind::Foreign,
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => StoreErrorKind::Unreachable,
        None if is_unreadable(&error) => StoreErrorKind::Corrupt,
        _ => StoreErrorKind::Other,
    };
    StoreError::caused(kind, name, error)
}

/// Whether a column holds what it should not.
pub(crate) const fn is_unreadable(error: &rusqlite::Error) -> bool {
    matches!(
        error,
        rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::Utf8Error(..)
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Who reads the file until SQLite has said once that it is busy.
    static READER: Mutex<Option<Connection>> = Mutex::new(None);

    #[test]
    fn a_file_that_is_busy_without_sqlite_having_waited_is_tried_again() {
        let path = std::env::temp_dir().join(format!("together-inference-busy-{}.db", std::process::id()));
        let (ours, reader) = (Connection::open(&path).unwrap(), Connection::open(&path).unwrap());
        ours.execute_batch("CREATE TABLE a (b)").unwrap();
        reader.execute_batch("BEGIN; SELECT * FROM a").unwrap();
        *READER.lock().unwrap() = Some(reader);
        let stop_reading = |_| {
            drop(READER.lock().unwrap().take());
            false
        };
        ours.busy_handler(Some(stop_reading)).unwrap();
        keep_a_journal(&ours, "a store").unwrap();
        assert!(READER.lock().unwrap().is_none(), "it was busy");
        drop(ours);
        std::fs::remove_file(path).unwrap();
    }
}
