//! One SQL for both databases: `?1` stands for a value, and a column is read by its number.

use std::time::{Duration, SystemTime};

use rusqlite::{
    Connection, params_from_iter,
    types::{ToSqlOutput, Type, ValueRef},
};

#[cfg(feature = "postgres")]
use super::postgres;
#[cfg(feature = "postgres")]
use crate::store::Blocking;
use crate::store::{StoreError, StoreErrorKind, error_of, is_unreadable};

pub(super) type Result<T> = std::result::Result<T, SqlError>;

/// Why a statement failed.
#[derive(Debug)]
pub(super) enum SqlError {
    Sqlite(rusqlite::Error),
    #[cfg(feature = "postgres")]
    Store(StoreError),
    /// A column of this number does not hold what it should.
    Unreadable(usize),
}

impl SqlError {
    /// The same, for the store's own thread.
    pub(super) fn for_sqlite(self) -> rusqlite::Error {
        match self {
            Self::Sqlite(error) => error,
            #[cfg(feature = "postgres")]
            Self::Store(error) => rusqlite::Error::ToSqlConversionFailure(error.into()),
            Self::Unreadable(column) => {
                rusqlite::Error::FromSqlConversionFailure(column, Type::Null, "a word that is not known".into())
            }
        }
    }

    pub(super) fn for_store(self, name: &str) -> StoreError {
        match self {
            Self::Sqlite(error) => error_of(name, error),
            #[cfg(feature = "postgres")]
            Self::Store(error) => error,
            Self::Unreadable(column) => {
                StoreError::new(StoreErrorKind::Corrupt, name, format!("column {column} has a word that is not known"))
            }
        }
    }
}

impl SqlError {
    /// Whether a row has what nobody can read; others may be well.
    fn is_of_a_row(&self) -> bool {
        match self {
            Self::Unreadable(_) => true,
            Self::Sqlite(error) => is_unreadable(error),
            #[cfg(feature = "postgres")]
            Self::Store(_) => false,
        }
    }
}

impl From<rusqlite::Error> for SqlError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

#[cfg(feature = "postgres")]
impl From<StoreError> for SqlError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// A value that goes with a statement.
#[derive(Clone, Copy, Debug)]
pub(super) enum Param<'a> {
    Int(Option<i64>),
    Text(Option<&'a str>),
    Bytes(Option<&'a [u8]>),
}

impl From<i64> for Param<'_> {
    fn from(number: i64) -> Self {
        Self::Int(Some(number))
    }
}

impl From<u64> for Param<'_> {
    fn from(number: u64) -> Self {
        Self::Int(Some(int(number)))
    }
}

impl From<u32> for Param<'_> {
    fn from(number: u32) -> Self {
        Self::Int(Some(number.into()))
    }
}

impl From<u16> for Param<'_> {
    fn from(number: u16) -> Self {
        Self::Int(Some(number.into()))
    }
}

impl From<bool> for Param<'_> {
    fn from(is: bool) -> Self {
        Self::Int(Some(is.into()))
    }
}

impl From<Option<i64>> for Param<'_> {
    fn from(number: Option<i64>) -> Self {
        Self::Int(number)
    }
}

impl From<Option<u64>> for Param<'_> {
    fn from(number: Option<u64>) -> Self {
        Self::Int(number.map(int))
    }
}

impl From<SystemTime> for Param<'_> {
    fn from(at: SystemTime) -> Self {
        Self::Int(Some(micros(at)))
    }
}

impl From<Option<SystemTime>> for Param<'_> {
    fn from(at: Option<SystemTime>) -> Self {
        Self::Int(at.map(micros))
    }
}

impl<'a> From<&'a str> for Param<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(Some(text))
    }
}

impl<'a> From<Option<&'a str>> for Param<'a> {
    fn from(text: Option<&'a str>) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a Option<Box<str>>> for Param<'a> {
    fn from(text: &'a Option<Box<str>>) -> Self {
        Self::Text(text.as_deref())
    }
}

impl<'a> From<&'a [u8]> for Param<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(Some(bytes))
    }
}

impl<'a> From<Option<&'a [u8]>> for Param<'a> {
    fn from(bytes: Option<&'a [u8]>) -> Self {
        Self::Bytes(bytes)
    }
}

impl rusqlite::ToSql for Param<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match *self {
            Self::Int(Some(number)) => ValueRef::Integer(number),
            Self::Text(Some(text)) => ValueRef::Text(text.as_bytes()),
            Self::Bytes(Some(bytes)) => ValueRef::Blob(bytes),
            Self::Int(None) | Self::Text(None) | Self::Bytes(None) => ValueRef::Null,
        }))
    }
}

/// A connection, within a transaction.
#[derive(Debug)]
pub(super) enum Sql<'a> {
    Sqlite(&'a Connection),
    #[cfg(feature = "postgres")]
    Postgres(&'a Blocking),
}

impl Sql<'_> {
    /// Tells how many rows were changed.
    pub(super) fn execute(&self, sql: &str, params: &[Param<'_>]) -> Result<usize> {
        match self {
            Self::Sqlite(connection) => Ok(connection.prepare_cached(sql)?.execute(params_from_iter(params))?),
            #[cfg(feature = "postgres")]
            Self::Postgres(connection) => postgres::execute(connection, sql, params),
        }
    }

    /// The same with many rows of values: how many rows each changed, in their order.
    pub(super) fn execute_many(&self, sql: &str, rows: &[Vec<Param<'_>>]) -> Result<Vec<usize>> {
        match self {
            Self::Sqlite(connection) => {
                let mut statement = connection.prepare_cached(sql)?;
                rows.iter().map(|row| Ok(statement.execute(params_from_iter(row))?)).collect()
            }
            #[cfg(feature = "postgres")]
            Self::Postgres(connection) => postgres::execute_many(connection, sql, rows),
        }
    }

    /// Inserts rows of these columns.
    pub(super) fn insert(&self, table: &str, columns: &str, rows: &[Vec<Param<'_>>]) -> Result<()> {
        let Some(first) = rows.first() else { return Ok(()) };
        match self {
            Self::Sqlite(_) => {
                let places: Vec<String> = (1..=first.len()).map(|place| format!("?{place}")).collect();
                let sql = format!("INSERT INTO {table} ({columns}) VALUES ({})", places.join(", "));
                self.execute_many(&sql, rows).map(drop)
            }
            #[cfg(feature = "postgres")]
            Self::Postgres(connection) => postgres::insert(connection, table, columns, rows),
        }
    }

    pub(super) fn query<T>(
        &self,
        sql: &str,
        params: &[Param<'_>],
        mut read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        match self {
            Self::Sqlite(connection) => {
                let mut statement = connection.prepare_cached(sql)?;
                let mut rows = statement.query(params_from_iter(params))?;
                let mut found = Vec::new();
                while let Some(row) = rows.next()? {
                    found.push(read(&Row::Sqlite(row))?);
                }
                Ok(found)
            }
            #[cfg(feature = "postgres")]
            Self::Postgres(connection) => {
                postgres::query(connection, sql, params)?.iter().map(|row| read(&Row::Postgres(row))).collect()
            }
        }
    }

    /// The rows that can be read. One that cannot is told of and left out: it is one batch's, and holds up no other.
    pub(super) fn query_readable<T>(
        &self,
        sql: &str,
        params: &[Param<'_>],
        mut read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let found = self.query(sql, params, |row| row.readable(read(row)))?;
        Ok(found.into_iter().flatten().collect())
    }

    /// The first row.
    pub(super) fn one<T>(
        &self,
        sql: &str,
        params: &[Param<'_>],
        read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        Ok(self.query(sql, params, read)?.into_iter().next())
    }

    /// The same question with many rows of values, each answered by at most one row.
    pub(super) fn one_each<T>(
        &self,
        sql: &str,
        rows: &[Vec<Param<'_>>],
        mut read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut found = Vec::new();
        match self {
            Self::Sqlite(connection) => {
                let mut statement = connection.prepare_cached(sql)?;
                for params in rows {
                    if let Some(row) = statement.query(params_from_iter(params))?.next()? {
                        found.push(read(&Row::Sqlite(row))?);
                    }
                }
            }
            #[cfg(feature = "postgres")]
            Self::Postgres(connection) => {
                for row in postgres::query_many(connection, sql, rows)? {
                    found.push(read(&Row::Postgres(&row))?);
                }
            }
        }
        Ok(found)
    }

    /// Keeps the rows of a `SELECT` from others until the transaction ends: in a file nobody else writes meanwhile.
    pub(super) const fn lock(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "",
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => "FOR UPDATE",
        }
    }

    /// Keeps those rows of `c` from others that nobody else keeps.
    pub(super) const fn lock_free(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "",
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => "FOR UPDATE OF c SKIP LOCKED",
        }
    }

    /// The clock of leases: the server's, where machines share it.
    pub(super) fn lease_clock(&self, now: SystemTime) -> Result<i64> {
        match self {
            Self::Sqlite(_) => Ok(micros(now)),
            #[cfg(feature = "postgres")]
            Self::Postgres(connection) => postgres::clock(connection),
        }
    }
}

/// A row that was read.
#[derive(Debug)]
pub(super) enum Row<'a> {
    Sqlite(&'a rusqlite::Row<'a>),
    #[cfg(feature = "postgres")]
    Postgres(&'a tokio_postgres::Row),
}

impl Row<'_> {
    /// What was read of it; nothing where it cannot be read. Its first column says whose it is.
    pub(super) fn readable<T>(&self, read: Result<T>) -> Result<Option<T>> {
        match read {
            Ok(read) => Ok(Some(read)),
            Err(error) if error.is_of_a_row() => {
                let batch = self.maybe_text(0).ok().flatten().unwrap_or_default();
                tracing::error!(batch = &*batch, ?error, "a row of the journal cannot be read and is left alone");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn maybe_int(&self, column: usize) -> Result<Option<i64>> {
        match self {
            Self::Sqlite(row) => Ok(row.get(column)?),
            #[cfg(feature = "postgres")]
            Self::Postgres(row) => row.try_get(column).map_err(|_| SqlError::Unreadable(column)),
        }
    }

    pub(super) fn int(&self, column: usize) -> Result<i64> {
        self.maybe_int(column)?.ok_or(SqlError::Unreadable(column))
    }

    /// A number that fits into its type.
    pub(super) fn number<T: TryFrom<i64>>(&self, column: usize) -> Result<T> {
        T::try_from(self.int(column)?).map_err(|_| SqlError::Unreadable(column))
    }

    pub(super) fn maybe_number<T: TryFrom<i64>>(&self, column: usize) -> Result<Option<T>> {
        let number = self.maybe_int(column)?;
        number.map(|number| T::try_from(number).map_err(|_| SqlError::Unreadable(column))).transpose()
    }

    pub(super) fn is(&self, column: usize) -> Result<bool> {
        Ok(self.int(column)? != 0)
    }

    pub(super) fn time(&self, column: usize) -> Result<SystemTime> {
        self.int(column).map(time)
    }

    pub(super) fn maybe_time(&self, column: usize) -> Result<Option<SystemTime>> {
        Ok(self.maybe_int(column)?.map(time))
    }

    pub(super) fn maybe_text(&self, column: usize) -> Result<Option<Box<str>>> {
        match self {
            Self::Sqlite(row) => Ok(row.get::<_, Option<String>>(column)?.map(Into::into)),
            #[cfg(feature = "postgres")]
            Self::Postgres(row) => {
                let text = row.try_get::<_, Option<&str>>(column).map_err(|_| SqlError::Unreadable(column))?;
                Ok(text.map(Into::into))
            }
        }
    }

    pub(super) fn text(&self, column: usize) -> Result<Box<str>> {
        self.maybe_text(column)?.ok_or(SqlError::Unreadable(column))
    }

    /// A text that stands for something else.
    pub(super) fn word<T>(&self, column: usize, read: impl FnOnce(&str) -> Option<T>) -> Result<T> {
        read(&self.text(column)?).ok_or(SqlError::Unreadable(column))
    }

    pub(super) fn maybe_hash(&self, column: usize) -> Result<Option<[u8; 32]>> {
        let bytes: Option<Vec<u8>> = match self {
            Self::Sqlite(row) => row.get(column)?,
            #[cfg(feature = "postgres")]
            Self::Postgres(row) => row.try_get(column).map_err(|_| SqlError::Unreadable(column))?,
        };
        bytes.map(|bytes| bytes.try_into().map_err(|_| SqlError::Unreadable(column))).transpose()
    }
}

/// What the columns hold: nothing here comes near to what has no room there.
fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn micros(at: SystemTime) -> i64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

pub(super) fn time(micros: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(micros).unwrap_or_default())
}
