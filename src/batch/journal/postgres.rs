//! The journal's statements on a server.

use std::borrow::Cow;

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio_postgres::{Row, types::ToSql};

use super::sql::{Param, Result, SqlError};
use crate::store::{Blocking, StoreError, Value};

/// Statements on their way at a time.
const ON_THE_WAY: usize = 256;

/// A value as the server takes it: a text there has no room for a zero.
#[derive(Debug)]
enum Held<'a> {
    Int(Option<i64>),
    Text(Option<Cow<'a, str>>),
    Bytes(Option<&'a [u8]>),
}

impl<'a> Held<'a> {
    fn of(param: &Param<'a>) -> Self {
        match *param {
            Param::Int(number) => Self::Int(number),
            Param::Text(text) => Self::Text(text.map(cleaned)),
            Param::Bytes(bytes) => Self::Bytes(bytes),
        }
    }

    fn value(&self) -> Value<'_> {
        match self {
            Self::Int(number) => number,
            Self::Text(text) => text,
            Self::Bytes(bytes) => bytes,
        }
    }
}

fn cleaned(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{fffd}").into() } else { text.into() }
}

fn held<'a>(row: &[Param<'a>]) -> Vec<Held<'a>> {
    row.iter().map(Held::of).collect()
}

fn values<'a>(row: &'a [Held<'_>]) -> Vec<Value<'a>> {
    row.iter().map(Held::value).collect()
}

/// The same statement with the server's places.
fn translated(sql: &str) -> String {
    sql.replace('?', "$")
}

fn count(changed: u64) -> usize {
    usize::try_from(changed).unwrap_or(usize::MAX)
}

pub(super) fn execute(connection: &Blocking, sql: &str, params: &[Param<'_>]) -> Result<usize> {
    let row = held(params);
    Ok(count(connection.wait(connection.session().execute(&translated(sql), &values(&row)))?))
}

pub(super) fn query(connection: &Blocking, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>> {
    let row = held(params);
    Ok(connection.wait(connection.session().query(&translated(sql), &values(&row)))?)
}

pub(super) fn execute_many(connection: &Blocking, sql: &str, rows: &[Vec<Param<'_>>]) -> Result<Vec<usize>> {
    let Some((first, rest)) = rows.split_first() else { return Ok(Vec::new()) };
    let (sql, session) = (&translated(sql), connection.session());
    // Alone, so that the statement is parsed once.
    let mut changed = vec![execute(connection, sql, first)?];
    let one = async |row: Vec<Held<'_>>| Ok::<_, StoreError>(count(session.execute(sql, &values(&row)).await?));
    let many = stream::iter(rest.iter().map(|row| held(row))).map(one).buffered(ON_THE_WAY);
    changed.extend(connection.wait(many.try_collect::<Vec<usize>>())?);
    Ok(changed)
}

pub(super) fn query_many(connection: &Blocking, sql: &str, rows: &[Vec<Param<'_>>]) -> Result<Vec<Row>> {
    let Some((first, rest)) = rows.split_first() else { return Ok(Vec::new()) };
    let (sql, session) = (&translated(sql), connection.session());
    let mut found = query(connection, sql, first)?;
    let one = async |row: Vec<Held<'_>>| session.query(sql, &values(&row)).await;
    let many = stream::iter(rest.iter().map(|row| held(row))).map(one).buffered(ON_THE_WAY);
    found.extend(connection.wait(many.try_collect::<Vec<_>>())?.into_iter().flatten());
    Ok(found)
}

/// All of a column's values: one statement takes them all.
#[derive(Debug)]
enum Column<'a> {
    Ints(Vec<Option<i64>>),
    Texts(Vec<Option<Cow<'a, str>>>),
    Bytes(Vec<Option<&'a [u8]>>),
}

impl<'a> Column<'a> {
    fn of(param: &Param<'_>) -> Self {
        match param {
            Param::Int(_) => Self::Ints(Vec::new()),
            Param::Text(_) => Self::Texts(Vec::new()),
            Param::Bytes(_) => Self::Bytes(Vec::new()),
        }
    }

    fn push(&mut self, param: &Param<'a>) {
        match (self, Held::of(param)) {
            (Self::Ints(numbers), Held::Int(number)) => numbers.push(number),
            (Self::Texts(texts), Held::Text(text)) => texts.push(text),
            (Self::Bytes(all), Held::Bytes(bytes)) => all.push(bytes),
            (column, held) => debug_assert!(false, "{held:?} does not belong into {column:?}"),
        }
    }

    const fn kind(&self) -> &'static str {
        match self {
            Self::Ints(_) => "BIGINT[]",
            Self::Texts(_) => "TEXT[]",
            Self::Bytes(_) => "BYTEA[]",
        }
    }

    fn value(&self) -> &(dyn ToSql + Sync) {
        match self {
            Self::Ints(numbers) => numbers,
            Self::Texts(texts) => texts,
            Self::Bytes(all) => all,
        }
    }
}

pub(super) fn insert(connection: &Blocking, table: &str, columns: &str, rows: &[Vec<Param<'_>>]) -> Result<()> {
    let Some(first) = rows.first() else { return Ok(()) };
    let mut held: Vec<Column<'_>> = first.iter().map(Column::of).collect();
    for row in rows {
        held.iter_mut().zip(row).for_each(|(column, param)| column.push(param));
    }
    let arrays = held.iter().zip(1..).map(|(column, place)| format!("${place}::{}", column.kind()));
    let arrays = arrays.collect::<Vec<_>>().join(", ");
    let sql = format!("INSERT INTO {table} ({columns}) SELECT * FROM UNNEST({arrays})");
    let values: Vec<Value<'_>> = held.iter().map(Column::value).collect();
    connection.wait(connection.session().execute(&sql, &values))?;
    Ok(())
}

/// The server's clock, in microseconds since 1970.
pub(super) fn clock(connection: &Blocking) -> Result<i64> {
    let sql = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)";
    query(connection, sql, &[])?.first().map(|row| row.get(0)).ok_or(SqlError::Unreadable(0))
}

/// Readies a transaction: whoever waited for a lock sees what was done meanwhile, each statement may take so much time,
/// and the store is still of the version that this process knows.
pub(super) fn prepare(connection: &Blocking, time: &str) -> std::result::Result<(), StoreError> {
    let settings = format!("SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = '{time}'");
    connection.run(&settings)?;
    connection.wait(connection.session().is_current())
}
