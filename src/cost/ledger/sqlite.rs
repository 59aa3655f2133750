//! The ledger in SQLite.

use std::sync::{Arc, LazyLock};

use rusqlite::{Connection, OptionalExtension, Row as SqlRow, params, types::Type};

use super::{
    anew,
    keeping::{KEPT, Keeping},
    memory::Memory,
    rollups::{CHUNK, COLUMN_NAMES, HOURS_PRUNED, PRUNED, Rollups, ZONE, columns_to_read},
    row::Row,
    source::{Bucket, Order, Source, TakeRecord, TakeSums},
    sums::{COLUMNS, NAMES, Sums},
    zone::{Zone, hour_of},
};
use crate::{
    cost::CostRecord,
    store::{StoreError, error_of},
    types::{AttemptId, BoxError, Price},
};

type Result<T> = std::result::Result<T, rusqlite::Error>;

/// The zone in which the store's days begin: another process may have changed it.
fn zone(connection: &Connection, memory: &Memory) -> Result<Zone> {
    Ok(memory.zone(setting(connection, ZONE)?.as_deref()))
}

/// The number of a price, which is written if need be.
fn price_id(connection: &Connection, price: Option<Price>, memory: &Memory) -> Result<Option<i64>> {
    let Some(price) = price else { return Ok(None) };
    if let Some(id) = memory.price(&price) {
        return Ok(Some(id));
    }
    let body = serde_json::to_string(&price).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    connection.prepare_cached("INSERT INTO price (body) VALUES (?1) ON CONFLICT DO NOTHING")?.execute([&body])?;
    let id = connection.prepare_cached("SELECT id FROM price WHERE body = ?1")?.query_row([&body], |row| row.get(0))?;
    memory.learn(price, id);
    Ok(Some(id))
}

static INSERT: LazyLock<String> = LazyLock::new(|| {
    let places: Vec<String> = (1..=34).map(|place| format!("?{place}")).collect();
    let places = places.join(", ");
    format!("INSERT INTO cost_record ({COLUMN_NAMES}, open_by) VALUES ({places}) ON CONFLICT (attempt) DO NOTHING")
});

static UPDATE: LazyLock<String> = LazyLock::new(|| {
    let set: Vec<String> =
        COLUMN_NAMES.split(", ").zip(1..).skip(1).map(|(name, place)| format!("{name} = ?{place}")).collect();
    let set = set.join(", ");
    format!("UPDATE cost_record SET {set}, open_by = ?34, recovered = 0 WHERE attempt = ?1")
});

static SETTLE: LazyLock<String> = LazyLock::new(|| format!("{} AND open_by IS NOT NULL", &*UPDATE));

static SELECT: LazyLock<String> = LazyLock::new(|| format!("SELECT {} FROM cost_record", columns_to_read()));

fn write(
    connection: &Connection,
    sql: &str,
    record: &CostRecord,
    memory: &Memory,
    open_by: Option<i64>,
) -> Result<usize> {
    let row = Row::of(record);
    // What fails is undone with the price that was written for it, and others of the transaction are not.
    let written = write_row(connection, sql, &row, price_id(connection, row.price, memory)?, open_by);
    written.inspect_err(|_| memory.forget())
}

fn write_row(
    connection: &Connection,
    sql: &str,
    row: &Row<'_>,
    price: Option<i64>,
    open_by: Option<i64>,
) -> Result<usize> {
    let [prompt, cached, completion, reasoning, images, pixels, seconds] = row.usage;
    let trace_id = row.trace_id.as_ref().map(<[u8; 16]>::as_slice);
    connection.prepare_cached(sql)?.execute(params![
        row.attempt.as_slice(),
        row.request.as_slice(),
        row.at,
        row.tenant.as_deref(),
        row.session.as_deref(),
        row.tags.as_deref(),
        &*row.task,
        &*row.priority,
        &*row.upstream,
        &*row.model,
        row.served.as_deref(),
        prompt,
        cached,
        completion,
        reasoning,
        images,
        pixels,
        seconds,
        &*row.usage_source,
        row.cost.0,
        row.cost.1,
        row.saved.0,
        row.saved.1,
        price,
        row.price_version,
        &*row.source,
        &*row.ending,
        row.error.as_deref(),
        row.latency,
        row.first_token,
        row.batch.as_deref(),
        row.arm.as_deref(),
        trace_id,
        open_by,
    ])
}

/// The record that a row is.
fn read(row: &SqlRow<'_>) -> Result<CostRecord> {
    let text = |at: usize| row.get::<_, String>(at).map(Into::into);
    let maybe = |at: usize| row.get::<_, Option<String>>(at).map(|text| text.map(Into::into));
    let price: Option<String> = row.get(23)?;
    let price =
        price.map(|body| serde_json::from_str(&body)).transpose().map_err(|error| unreadable(23, error.into()))?;
    let columns = Row {
        attempt: row.get(0)?,
        request: row.get(1)?,
        at: row.get(2)?,
        tenant: maybe(3)?,
        session: maybe(4)?,
        tags: row.get(5)?,
        task: text(6)?,
        priority: text(7)?,
        upstream: text(8)?,
        model: text(9)?,
        served: maybe(10)?,
        usage: [row.get(11)?, row.get(12)?, row.get(13)?, row.get(14)?, row.get(15)?, row.get(16)?, row.get(17)?],
        usage_source: text(18)?,
        cost: (row.get(19)?, row.get(20)?),
        saved: (row.get(21)?, row.get(22)?),
        price,
        price_version: row.get(24)?,
        source: text(25)?,
        ending: text(26)?,
        error: maybe(27)?,
        latency: row.get(28)?,
        first_token: row.get(29)?,
        batch: maybe(30)?,
        arm: maybe(31)?,
        trace_id: row.get(32)?,
    };
    columns.record().map_err(|error| unreadable(0, error))
}

fn unreadable(column: usize, error: BoxError) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error)
}

/// Writes that an attempt is about to be made.
pub(super) fn intend(connection: &Connection, record: &CostRecord, memory: &Memory, process: i64) -> Result<()> {
    write(connection, &INSERT, record, memory, Some(process)).map(drop)
}

/// Writes records that ended, each once, and counts the new ones into the roll-ups.
pub(super) fn settle(connection: &Connection, page: &[CostRecord], memory: &Memory) -> Result<()> {
    let mut rollups = Rollups::of(zone(connection, memory)?);
    for record in page {
        let settles = record.ending.is_attempt() && write(connection, &SETTLE, record, memory, None)? == 1;
        if settles || write(connection, &INSERT, record, memory, None)? == 1 {
            rollups.add(record);
        } else if let Some(bound) = recovered(connection, record.attempt)? {
            // It was given up for lost, and was not: what is known now counts instead.
            write(connection, &UPDATE, record, memory, None)?;
            rollups.take(&bound);
            rollups.add(record);
        }
    }
    add(connection, &rollups)
}

/// Takes attempts out again that were not made, also where they were given up for lost meanwhile.
pub(super) fn withdraw(connection: &Connection, attempts: &[AttemptId], memory: &Memory) -> Result<()> {
    let mut rollups = Rollups::of(zone(connection, memory)?);
    for attempt in attempts {
        if let Some(bound) = recovered(connection, *attempt)? {
            rollups.take(&bound);
        }
        let sql = "DELETE FROM cost_record WHERE attempt = ?1 AND (open_by IS NOT NULL OR recovered = 1)";
        connection.prepare_cached(sql)?.execute([attempt.value().to_be_bytes().as_slice()])?;
    }
    add(connection, &rollups)
}

/// The record as it was given up for lost.
fn recovered(connection: &Connection, attempt: AttemptId) -> Result<Option<CostRecord>> {
    let attempt = attempt.value().to_be_bytes();
    let sql = format!("{} WHERE attempt = ?1 AND recovered = 1", &*SELECT);
    connection.prepare_cached(&sql)?.query_row([attempt.as_slice()], read).optional()
}

/// Closes attempts of processes that have ended, at their upper bound: `true` if there are more.
fn recover(connection: &Connection, memory: &Memory) -> Result<bool> {
    let sql = format!(
        "{} WHERE open_by IS NOT NULL AND open_by NOT IN (SELECT id FROM process) ORDER BY id LIMIT {CHUNK}",
        &*SELECT
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let lost: Vec<CostRecord> = statement.query_map([], read)?.collect::<Result<_>>()?;
    let mut rollups = Rollups::of(zone(connection, memory)?);
    for record in &lost {
        let attempt = record.attempt.value().to_be_bytes();
        let sql = "UPDATE cost_record SET open_by = NULL, recovered = 1 WHERE attempt = ?1";
        connection.prepare_cached(sql)?.execute([attempt.as_slice()])?;
        rollups.add(record);
    }
    add(connection, &rollups)?;
    if !lost.is_empty() {
        tracing::warn!(attempts = lost.len(), "attempts of a process that ended count at their upper bound");
    }
    Ok(lost.len() == CHUNK)
}

/// Deletes what is older than it is kept: `true` if there is more.
fn prune(connection: &Connection, (records_before, hours_before): (i64, i64)) -> Result<bool> {
    let sql = format!(
        "DELETE FROM cost_record WHERE id IN
         (SELECT id FROM cost_record WHERE at < ?1 AND open_by IS NULL ORDER BY at LIMIT {CHUNK})"
    );
    let records = connection.prepare_cached(&sql)?.execute([records_before])?;
    if records > 0 {
        // What is gone stays gone, even if records are kept for longer now.
        let gone = setting(connection, PRUNED)?.and_then(|gone| gone.parse().ok());
        set(connection, PRUNED, &records_before.max(gone.unwrap_or(i64::MIN)).to_string())?;
    }
    let sql = "DELETE FROM cost_hour WHERE bucket < ?1";
    if connection.prepare_cached(sql)?.execute([hour_of(hours_before)])? > 0 {
        let gone = setting(connection, HOURS_PRUNED)?.and_then(|gone| gone.parse().ok());
        set(connection, HOURS_PRUNED, &hours_before.max(gone.unwrap_or(i64::MIN)).to_string())?;
    }
    Ok(records == CHUNK)
}

fn setting(connection: &Connection, name: &str) -> Result<Option<String>> {
    let mut statement = connection.prepare_cached("SELECT value FROM setting WHERE name = ?1")?;
    statement.query_row([name], |row| row.get(0)).optional()
}

fn set(connection: &Connection, name: &str, value: &str) -> Result<()> {
    let sql =
        "INSERT INTO setting (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    connection.prepare_cached(sql)?.execute([name, value]).map(drop)
}

/// Hands on every record in a range of time that has ended.
fn each<E: From<rusqlite::Error>>(
    connection: &Connection,
    order: Order,
    (from, until): (i64, i64),
    mut take: impl FnMut(CostRecord) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let order = order.columns();
    let sql = format!("{} WHERE at >= ?1 AND at < ?2 AND open_by IS NULL ORDER BY {order}", &*SELECT);
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query([from, until])?;
    while let Some(row) = rows.next()? {
        take(read(row)?)?;
    }
    Ok(())
}

static ADD_HOUR: LazyLock<String> = LazyLock::new(|| add_to("cost_hour"));
static ADD_DAY: LazyLock<String> = LazyLock::new(|| add_to("cost_day"));

/// What adds to a row of sums, or makes it. A sum beyond the largest number stays at it.
fn add_to(table: &str) -> String {
    let names = NAMES.join(", ");
    let places: Vec<String> = (1..=6 + COLUMNS).map(|place| format!("?{place}")).collect();
    let sum = |name: &str| format!("{name} = min({name}, {} - max(excluded.{name}, 0)) + excluded.{name}", i64::MAX);
    let sums: Vec<String> = NAMES.iter().map(|name| sum(name)).collect();
    format!(
        "INSERT INTO {table} (bucket, upstream, model, tenant, task, priority, {names}) VALUES ({})
         ON CONFLICT (bucket, upstream, model, tenant, task, priority) DO UPDATE SET {}",
        places.join(", "),
        sums.join(", ")
    )
}

/// Adds what changed to the sums that are there.
fn add(connection: &Connection, rollups: &Rollups) -> Result<()> {
    for (sql, folded) in [(&*ADD_HOUR, rollups.hours()), (&*ADD_DAY, rollups.days())] {
        for (key, sums) in folded.iter() {
            let mut statement = connection.prepare_cached(sql)?;
            statement.raw_bind_parameter(1, key.bucket)?;
            let names = [&*key.upstream, &*key.model, &*key.tenant, key.task.as_str(), key.priority.as_str()];
            for (place, name) in (2..).zip(names) {
                statement.raw_bind_parameter(place, name)?;
            }
            for (place, sum) in (7..).zip(sums) {
                statement.raw_bind_parameter(place, sum)?;
            }
            statement.raw_execute()?;
        }
    }
    Ok(())
}

/// Makes the sums anew, in this zone.
pub(super) fn rebuild(connection: &Connection, zone: Zone) -> Result<()> {
    let anew = anew::of(&Reader { connection, name: "" }, zone).map_err(|error| unreadable(0, error.into()))?;
    connection.execute("DELETE FROM cost_hour WHERE bucket >= ?1", [anew.from.0])?;
    connection.execute("DELETE FROM cost_day WHERE bucket >= ?1", [anew.from.1])?;
    anew.settings.iter().try_for_each(|(name, value)| set(connection, name, value))?;
    add(connection, &anew.sums)
}

/// The chores of ledgers, until the last of them is gone: takes over what others left, deletes what is too old.
pub(super) fn chore(memory: &Arc<Memory>, keeping: &Arc<Keeping>) -> crate::store::Chore {
    let (memory, keeping) = (Arc::clone(memory), Arc::downgrade(keeping));
    Box::new(move |connection| {
        let Some(keeping) = keeping.upgrade() else { return Ok(None) };
        let recovered = recover(connection, &memory)?;
        let cut = keeping.cut(setting(connection, KEPT)?.as_deref());
        if let Some(told) = cut.told {
            set(connection, KEPT, &told.to_string())?;
        }
        let pruned = prune(connection, cut.before)?;
        Ok(Some(recovered || pruned))
    })
}

/// A connection that reads.
pub(super) struct Reader<'a> {
    pub(super) connection: &'a Connection,
    pub(super) name: &'a str,
}

/// What the store refused, or whoever took what it gave.
enum Failed {
    Sqlite(rusqlite::Error),
    Taker(StoreError),
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl Reader<'_> {
    fn done(&self, done: std::result::Result<(), Failed>) -> std::result::Result<(), StoreError> {
        done.map_err(|failed| match failed {
            Failed::Sqlite(error) => error_of(self.name, error),
            Failed::Taker(error) => error,
        })
    }

    fn read_sums(
        &self,
        table: &str,
        (from, until): (i64, i64),
        tenant: Option<&str>,
        take: TakeSums<'_>,
    ) -> std::result::Result<(), Failed> {
        let names = NAMES.join(", ");
        let sql = format!(
            "SELECT bucket, upstream, model, tenant, task, priority, {names} FROM {table}
             WHERE bucket >= ?1 AND bucket < ?2 AND (?3 IS NULL OR tenant = ?3)"
        );
        let mut statement = self.connection.prepare(&sql)?;
        let mut rows = statement.query(params![from, until, tenant])?;
        while let Some(row) = rows.next()? {
            let mut names = [""; 5];
            for (at, name) in names.iter_mut().enumerate() {
                *name = row.get_ref(1 + at)?.as_str().map_err(rusqlite::Error::from)?;
            }
            let mut sums = [0; COLUMNS];
            for (at, sum) in sums.iter_mut().enumerate() {
                *sum = row.get(6 + at)?;
            }
            take(&Bucket { number: row.get(0)?, names, sums: Sums::from_columns(sums) }).map_err(Failed::Taker)?;
        }
        Ok(())
    }
}

impl Source for Reader<'_> {
    fn name(&self) -> &str {
        self.name
    }

    fn setting(&self, name: &str) -> std::result::Result<Option<String>, StoreError> {
        setting(self.connection, name).map_err(|error| error_of(self.name, error))
    }

    fn each(&self, order: Order, range: (i64, i64), take: TakeRecord<'_>) -> std::result::Result<(), StoreError> {
        self.done(each(self.connection, order, range, |record| take(record).map_err(Failed::Taker)))
    }

    fn sums(
        &self,
        table: &str,
        range: (i64, i64),
        tenant: Option<&str>,
        take: TakeSums<'_>,
    ) -> std::result::Result<(), StoreError> {
        self.done(self.read_sums(table, range, tenant, take))
    }
}
