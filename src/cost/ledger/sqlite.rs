//! The ledger in SQLite.

use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use rusqlite::{Connection, OptionalExtension, Row as SqlRow, params, types::Type};

use super::{
    row::Row,
    sums::{COLUMNS, Folded, NAMES},
    zone::{Zone, hour_of},
};
pub(super) use crate::store::error_of;
use crate::{
    cost::CostRecord,
    types::{BoxError, Price},
};

type Result<T> = std::result::Result<T, rusqlite::Error>;

/// Records that a chore takes at a time: more would hold up the calls.
const CHUNK: usize = 500;

/// What the writing side remembers of the store.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The numbers of prices that were written.
    prices: Mutex<Vec<(Price, i64)>>,
    /// The zone that was set when it was last looked at.
    zone: Mutex<Option<Zone>>,
}

impl Memory {
    /// The zone in which the store's days begin: another process may have changed it.
    pub(super) fn zone(&self, connection: &Connection) -> Result<Zone> {
        let name = setting(connection, ZONE)?;
        let name = name.as_deref().unwrap_or("UTC");
        let mut zone = self.zone.lock().unwrap_or_else(PoisonError::into_inner);
        match &*zone {
            Some(zone) if zone.name() == name => Ok(zone.clone()),
            _ => Ok(zone.insert(Zone::named(name).unwrap_or_else(Zone::utc)).clone()),
        }
    }

    /// A transaction was undone: what it wrote is not there.
    pub(super) fn forget(&self) {
        self.prices.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn price(&self, connection: &Connection, price: Option<Price>) -> Result<Option<i64>> {
        let Some(price) = price else { return Ok(None) };
        let mut prices = self.prices.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, id)) = prices.iter().find(|(known, _)| *known == price) {
            return Ok(Some(*id));
        }
        let body =
            serde_json::to_string(&price).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        connection.prepare_cached("INSERT INTO price (body) VALUES (?1) ON CONFLICT DO NOTHING")?.execute([&body])?;
        let id =
            connection.prepare_cached("SELECT id FROM price WHERE body = ?1")?.query_row([&body], |row| row.get(0))?;
        // A program has a handful of them; one that makes them up must not fill the memory.
        if prices.len() >= 1_024 {
            prices.clear();
        }
        prices.push((price, id));
        Ok(Some(id))
    }
}

/// Everything that [`Row`] has, in this order.
const COLUMN_NAMES: &str = "attempt, request, at, tenant, session, tags, task, priority, upstream, model, served, \
     prompt, cached, completion, reasoning, images, pixels, seconds, usage_source, cost, cost_exact, saved, saved_exact, price, \
     price_version, source, ending, error, latency, first_token, batch, arm, trace_id";

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

static SELECT: LazyLock<String> = LazyLock::new(|| {
    let columns = COLUMN_NAMES.replace(" price,", " (SELECT body FROM price WHERE id = cost_record.price),");
    format!("SELECT {columns} FROM cost_record")
});

fn write(
    connection: &Connection,
    sql: &str,
    record: &CostRecord,
    memory: &Memory,
    open_by: Option<i64>,
) -> Result<usize> {
    let row = Row::of(record);
    let price = memory.price(connection, row.price)?;
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
    let mut rollups = Rollups::of(memory.zone(connection)?);
    for record in page {
        let settles = record.ending.is_attempt() && write(connection, &SETTLE, record, memory, None)? == 1;
        if settles || write(connection, &INSERT, record, memory, None)? == 1 {
            rollups.add(record);
        } else if let Some(bound) = recovered(connection, record)? {
            // It was given up for lost, and was not: what is known now counts instead.
            write(connection, &UPDATE, record, memory, None)?;
            rollups.take(&bound);
            rollups.add(record);
        }
    }
    rollups.write(connection)
}

/// The record as it was given up for lost.
fn recovered(connection: &Connection, record: &CostRecord) -> Result<Option<CostRecord>> {
    let attempt = record.attempt.value().to_be_bytes();
    let sql = format!("{} WHERE attempt = ?1 AND recovered = 1", &*SELECT);
    connection.prepare_cached(&sql)?.query_row([attempt.as_slice()], read).optional()
}

/// Closes attempts of processes that have ended, at their upper bound: `true` if there are more.
pub(super) fn recover(connection: &Connection, memory: &Memory) -> Result<bool> {
    let sql = format!(
        "{} WHERE open_by IS NOT NULL AND open_by NOT IN (SELECT id FROM process) ORDER BY id LIMIT {CHUNK}",
        &*SELECT
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let lost: Vec<CostRecord> = statement.query_map([], read)?.collect::<Result<_>>()?;
    let mut rollups = Rollups::of(memory.zone(connection)?);
    for record in &lost {
        let attempt = record.attempt.value().to_be_bytes();
        let sql = "UPDATE cost_record SET open_by = NULL, recovered = 1 WHERE attempt = ?1";
        connection.prepare_cached(sql)?.execute([attempt.as_slice()])?;
        rollups.add(record);
    }
    rollups.write(connection)?;
    if !lost.is_empty() {
        tracing::warn!(attempts = lost.len(), "attempts of a process that ended count at their upper bound");
    }
    Ok(lost.len() == CHUNK)
}

/// Deletes what is older than it is kept: `true` if there is more.
pub(super) fn prune(connection: &Connection, records_before: i64, hours_before: i64) -> Result<bool> {
    let sql = format!(
        "DELETE FROM cost_record WHERE id IN
         (SELECT id FROM cost_record WHERE at < ?1 AND open_by IS NULL ORDER BY at LIMIT {CHUNK})"
    );
    let records = connection.prepare_cached(&sql)?.execute([records_before])?;
    if records > 0 {
        set(connection, PRUNED, &records_before.to_string())?;
    }
    let sql = "DELETE FROM cost_hour WHERE bucket < ?1";
    if connection.prepare_cached(sql)?.execute([hour_of(hours_before)])? > 0 {
        set(connection, HOURS_PRUNED, &hours_before.to_string())?;
    }
    Ok(records == CHUNK)
}

/// Before this moment there are no records any more, in microseconds since 1970.
pub(super) const PRUNED: &str = "ledger: pruned before";
/// Before this moment there are no sums by hour any more, likewise.
pub(super) const HOURS_PRUNED: &str = "ledger: hours pruned before";
/// The zone in which the ledger's days begin.
pub(super) const ZONE: &str = "ledger: reporting zone";

pub(super) fn setting(connection: &Connection, name: &str) -> Result<Option<String>> {
    let mut statement = connection.prepare_cached("SELECT value FROM setting WHERE name = ?1")?;
    statement.query_row([name], |row| row.get(0)).optional()
}

pub(super) fn set(connection: &Connection, name: &str, value: &str) -> Result<()> {
    let sql =
        "INSERT INTO setting (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    connection.prepare_cached(sql)?.execute([name, value]).map(drop)
}

/// The order in which records are read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    Oldest,
    Written,
}

/// Hands on every record in a range of time that has ended.
pub(super) fn each<E: From<rusqlite::Error>>(
    connection: &Connection,
    order: Order,
    (from, until): (i64, i64),
    mut take: impl FnMut(CostRecord) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let order = match order {
        Order::Oldest => "at, id",
        Order::Written => "id",
    };
    let sql = format!("{} WHERE at >= ?1 AND at < ?2 AND open_by IS NULL ORDER BY {order}", &*SELECT);
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query([from, until])?;
    while let Some(row) = rows.next()? {
        take(read(row)?)?;
    }
    Ok(())
}

/// What a page changes in the sums by hour and by day.
struct Rollups {
    zone: Zone,
    hours: Folded,
    days: Folded,
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

impl Rollups {
    fn of(zone: Zone) -> Self {
        Self { zone, hours: Folded::default(), days: Folded::default() }
    }

    fn add(&mut self, record: &CostRecord) {
        let at = super::row::micros_since_1970(record.at);
        self.hours.add(hour_of(at), record);
        self.days.add(self.zone.day(at), record);
    }

    fn take(&mut self, record: &CostRecord) {
        let at = super::row::micros_since_1970(record.at);
        self.hours.take(hour_of(at), record);
        self.days.take(self.zone.day(at), record);
    }

    fn write(&self, connection: &Connection) -> Result<()> {
        for (sql, folded) in [(&*ADD_HOUR, &self.hours), (&*ADD_DAY, &self.days)] {
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
}

/// Makes the sums anew from the records that are there, in this zone. What is older than they are stays as it is.
pub(super) fn rebuild(connection: &Connection, zone: &Zone) -> Result<()> {
    let since: i64 = setting(connection, PRUNED)?.and_then(|since| since.parse().ok()).unwrap_or(i64::MIN);
    // The first hour and day of which every record is there.
    let hour = if since == i64::MIN { i64::MIN } else { hour_of(since.saturating_sub(1)) + 1 };
    let day = if since == i64::MIN { i64::MIN } else { zone.day(since.saturating_sub(1)) + 1 };
    connection.execute("DELETE FROM cost_hour WHERE bucket >= ?1", [hour])?;
    connection.execute("DELETE FROM cost_day WHERE bucket >= ?1", [day])?;
    set(connection, ZONE, zone.name())?;
    let mut rollups = Rollups::of(zone.clone());
    each::<rusqlite::Error>(connection, Order::Written, (since, i64::MAX), |record| {
        let at = super::row::micros_since_1970(record.at);
        if hour_of(at) >= hour {
            rollups.hours.add(hour_of(at), &record);
        }
        if zone.day(at) >= day {
            rollups.days.add(zone.day(at), &record);
        }
        Ok(())
    })?;
    rollups.write(connection)
}

/// Starts the chores of a ledger: takes over what others left, deletes what is too old.
pub(super) fn chore(memory: &Arc<Memory>, keep: super::Retention) -> crate::store::Chore {
    let memory = Arc::clone(memory);
    Box::new(move |connection| {
        let recovered = recover(connection, &memory)?;
        let (records, hours) = keep.cut_now();
        let pruned = prune(connection, records, hours)?;
        Ok(recovered || pruned)
    })
}
