//! The ledger in PostgreSQL: what many callers hand over is written by a few statements.

mod read;
mod rows;

use std::{
    collections::HashSet,
    sync::{Arc, LazyLock, Weak},
};

use async_trait::async_trait;

pub(super) use self::read::Reader;
use self::{
    read::{DELETE, SELECT, record_of},
    rows::{COLUMNS_OF, Column, Rows, cleaned},
};
use super::{
    anew,
    keeping::{Cut, KEPT, Keeping},
    memory::Memory,
    rollups::{CHUNK, COLUMN_NAMES, HOURS_PRUNED, PRUNED, Rollups, ZONE, columns_to_read},
    sums::{COLUMNS, Folded, NAMES},
    zone::{Zone, hour_of},
};
use crate::{
    cost::CostRecord,
    store::{Blocking, PostgresChore, Session, StoreError, Value, Writes},
    types::{AttemptId, Price},
};

type Result<T> = std::result::Result<T, StoreError>;

/// What is handed over to be written.
#[derive(Debug)]
pub(crate) enum Entry {
    /// An attempt is about to be made.
    Intent(Box<CostRecord>),
    /// Records that ended.
    Page(Vec<CostRecord>),
    /// Attempts that were not made after all.
    Withdrawn(Vec<AttemptId>),
}

impl Entry {
    pub(super) fn intent(record: CostRecord) -> Self {
        Self::Intent(Box::new(cleaned(record)))
    }

    pub(super) fn page(page: &[CostRecord]) -> Self {
        Self::Page(page.iter().cloned().map(cleaned).collect())
    }
}

/// Writes entries, each once.
#[derive(Debug)]
pub(crate) struct Entries {
    memory: Memory,
    process: i64,
}

static INSERT: LazyLock<String> = LazyLock::new(|| {
    format!(
        "INSERT INTO cost_record ({COLUMN_NAMES}, open_by) SELECT *, $34::INT8 FROM {}
         ON CONFLICT (attempt) DO NOTHING RETURNING attempt",
        *COLUMNS_OF
    )
});

static SETTLE: LazyLock<String> = LazyLock::new(|| update("old.open_by IS NOT NULL"));

static REPLACE: LazyLock<String> = LazyLock::new(|| update("old.recovered"));

fn update(condition: &str) -> String {
    let set: Vec<String> = COLUMN_NAMES.split(", ").skip(1).map(|name| format!("{name} = new.{name}")).collect();
    format!(
        "UPDATE cost_record AS old SET {}, open_by = $34::INT8, recovered = FALSE
         FROM {} AS new ({COLUMN_NAMES}) WHERE old.attempt = new.attempt AND {condition} RETURNING old.attempt",
        set.join(", "),
        *COLUMNS_OF
    )
}

#[async_trait]
impl Writes for Entries {
    type Item = Entry;

    async fn write(&self, session: &Session, entries: &[&Entry]) -> Result<()> {
        let (mut intents, mut ended, mut withdrawn) = (Vec::new(), Vec::new(), Vec::new());
        let mut seen = HashSet::new();
        for entry in entries {
            match entry {
                Entry::Intent(record) => intents.push(&**record),
                // The first of an attempt counts.
                Entry::Page(page) => ended.extend(page.iter().filter(|record| seen.insert(record.attempt))),
                Entry::Withdrawn(attempts) => withdrawn.extend(attempts),
            }
        }
        self.learn_prices(session, &intents).await?;
        self.learn_prices(session, &ended).await?;
        self.write_rows(session, &INSERT, &intents, Some(self.process)).await?;
        if !ended.is_empty() {
            self.settle(session, &ended).await?;
        }
        if withdrawn.is_empty() { Ok(()) } else { self.withdraw(session, &withdrawn).await }
    }

    fn forget(&self) {
        self.memory.forget();
    }

    fn may_expire(entry: &Entry) -> bool {
        matches!(entry, Entry::Intent(_))
    }
}

impl Entries {
    pub(super) fn of(process: i64) -> Self {
        Self { memory: Memory::default(), process }
    }

    /// Writes records that ended, and counts the new ones into the roll-ups.
    async fn settle(&self, session: &Session, ended: &[&CostRecord]) -> Result<()> {
        let mut rollups = Rollups::of(self.zone(session).await?);
        let attempts: Vec<&CostRecord> = ended.iter().copied().filter(|record| record.ending.is_attempt()).collect();
        let settled = self.write_rows(session, &SETTLE, &attempts, None).await?;
        let rest = without(ended, &settled);
        let added = self.write_rows(session, &INSERT, &rest, None).await?;
        let rest = without(&rest, &added);
        let is_new = |record: &&&CostRecord| settled.contains(&record.attempt) || added.contains(&record.attempt);
        ended.iter().filter(is_new).for_each(|record| rollups.add(record));
        // What was given up for lost, and was not: what is known now counts instead.
        let bounds = recovered(session, rest.iter().map(|record| record.attempt)).await?;
        let late: HashSet<AttemptId> = bounds.iter().map(|bound| bound.attempt).collect();
        let late: Vec<&CostRecord> = rest.into_iter().filter(|record| late.contains(&record.attempt)).collect();
        self.write_rows(session, &REPLACE, &late, None).await?;
        bounds.iter().for_each(|bound| rollups.take(bound));
        late.iter().for_each(|record| rollups.add(record));
        add(session, &rollups).await
    }

    /// Takes attempts out again that were not made, also where they were given up for lost meanwhile.
    async fn withdraw(&self, session: &Session, attempts: &[AttemptId]) -> Result<()> {
        let mut rollups = Rollups::of(self.zone(session).await?);
        let attempts: Vec<[u8; 16]> = attempts.iter().map(|attempt| attempt.value().to_be_bytes()).collect();
        let attempts: Vec<&[u8]> = attempts.iter().map(<[u8; 16]>::as_slice).collect();
        // By what is deleted, and not by a look before: it may be given up for lost in between.
        for row in session.query(&DELETE, &[&attempts]).await? {
            if row.get("recovered") {
                rollups.take(&record_of(&row, session)?);
            }
        }
        add(session, &rollups).await
    }

    /// The zone in which the store's days begin, which nobody changes until this transaction has ended.
    async fn zone(&self, session: &Session) -> Result<Zone> {
        // Both go out at once, and the second sees what the first has waited for.
        let lock = session.run("LOCK TABLE cost_day IN ROW EXCLUSIVE MODE");
        let ((), name) = futures_util::try_join!(lock, setting(session, ZONE))?;
        Ok(self.memory.zone(name.as_deref()))
    }

    /// Writes prices that are not known to be written.
    async fn learn_prices(&self, session: &Session, records: &[&CostRecord]) -> Result<()> {
        let mut new: Vec<(String, Price)> = Vec::new();
        for price in records.iter().filter_map(|record| record.price) {
            if self.memory.price(&price).is_none() && !new.iter().any(|(_, known)| *known == price) {
                // Numbers always are JSON.
                new.push((serde_json::to_string(&price).unwrap_or_default(), price));
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        // In one order, so that processes that write the same ones do not wait for each other in a circle.
        new.sort_by(|one, other| one.0.cmp(&other.0));
        let bodies: Vec<&str> = new.iter().map(|(body, _)| &**body).collect();
        let sql = "INSERT INTO price (body) SELECT * FROM UNNEST($1::TEXT[]) ON CONFLICT DO NOTHING";
        session.execute(sql, &[&bodies]).await?;
        let rows = session.query("SELECT body, id FROM price WHERE body = ANY($1)", &[&bodies]).await?;
        for row in rows {
            let body: &str = row.get(0);
            if let Some((_, price)) = new.iter().find(|(known, _)| known == body) {
                self.memory.learn(*price, row.get(1));
            }
        }
        Ok(())
    }

    /// Writes records by this statement; the attempts of which it took.
    async fn write_rows(
        &self,
        session: &Session,
        sql: &str,
        records: &[&CostRecord],
        open_by: Option<i64>,
    ) -> Result<HashSet<AttemptId>> {
        if records.is_empty() {
            return Ok(HashSet::new());
        }
        let columns = Rows::of(records, &self.memory);
        let columns = columns.columns();
        let mut values: Vec<Value<'_>> = columns.iter().map(Column::value).collect();
        values.push(&open_by);
        let taken = session.query(sql, &values).await?;
        Ok(taken.iter().map(|row| AttemptId::new(rows::number(row.get(0)))).collect())
    }
}

fn without<'a>(records: &[&'a CostRecord], attempts: &HashSet<AttemptId>) -> Vec<&'a CostRecord> {
    records.iter().copied().filter(|record| !attempts.contains(&record.attempt)).collect()
}

/// Of these, those that were given up for lost, as they were then.
async fn recovered(session: &Session, attempts: impl Iterator<Item = AttemptId> + Send) -> Result<Vec<CostRecord>> {
    let attempts: Vec<[u8; 16]> = attempts.map(|attempt| attempt.value().to_be_bytes()).collect();
    if attempts.is_empty() {
        return Ok(Vec::new());
    }
    let attempts: Vec<&[u8]> = attempts.iter().map(<[u8; 16]>::as_slice).collect();
    let sql = format!("{} WHERE attempt = ANY($1) AND recovered ORDER BY id FOR UPDATE", *SELECT);
    session.query(&sql, &[&attempts]).await?.iter().map(|row| record_of(row, session)).collect()
}

async fn setting(session: &Session, name: &str) -> Result<Option<String>> {
    let rows = session.query("SELECT value FROM setting WHERE name = $1", &[&name]).await?;
    Ok(rows.first().map(|row| row.get(0)))
}

async fn set(session: &Session, name: &str, value: &str) -> Result<()> {
    let sql =
        "INSERT INTO setting (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    session.execute(sql, &[&name, &value]).await.map(drop)
}

static ADD_HOUR: LazyLock<String> = LazyLock::new(|| add_to("cost_hour"));
static ADD_DAY: LazyLock<String> = LazyLock::new(|| add_to("cost_day"));

/// What adds to rows of sums, or makes them. A sum beyond the largest number stays at it.
fn add_to(table: &str) -> String {
    let places: Vec<String> = (7..7 + COLUMNS).map(|place| format!("${place}::INT8[]")).collect();
    let sum = |name: &str| {
        format!("{name} = least(old.{name}, {} - greatest(excluded.{name}, 0)) + excluded.{name}", i64::MAX)
    };
    let sums: Vec<String> = NAMES.iter().map(|name| sum(name)).collect();
    format!(
        "INSERT INTO {table} AS old (bucket, upstream, model, tenant, task, priority, {})
         SELECT * FROM UNNEST($1::INT8[], $2::TEXT[], $3::TEXT[], $4::TEXT[], $5::TEXT[], $6::TEXT[], {})
         ON CONFLICT (bucket, upstream, model, tenant, task, priority) DO UPDATE SET {}",
        NAMES.join(", "),
        places.join(", "),
        sums.join(", ")
    )
}

/// Adds what changed to the sums that are there: in the order of the keys, so that no two processes wait for each
/// other.
async fn add(session: &Session, rollups: &Rollups) -> Result<()> {
    futures_util::try_join!(
        add_folded(session, &ADD_HOUR, rollups.hours()),
        add_folded(session, &ADD_DAY, rollups.days())
    )
    .map(drop)
}

async fn add_folded(session: &Session, sql: &str, folded: &Folded) -> Result<()> {
    let buckets: Vec<i64> = folded.iter().map(|(key, _)| key.bucket).collect();
    if buckets.is_empty() {
        return Ok(());
    }
    let mut names: [Vec<&str>; 5] = Default::default();
    let mut sums: [Vec<i64>; COLUMNS] = Default::default();
    for (key, of_key) in folded.iter() {
        let of_names = [&*key.upstream, &*key.model, &*key.tenant, key.task.as_str(), key.priority.as_str()];
        names.iter_mut().zip(of_names).for_each(|(column, name)| column.push(name));
        sums.iter_mut().zip(of_key).for_each(|(column, sum)| column.push(*sum));
    }
    let mut values: Vec<Value<'_>> = vec![&buckets];
    values.extend(names.iter().map(|column| column as Value<'_>));
    values.extend(sums.iter().map(|column| column as Value<'_>));
    session.execute(sql, &values).await.map(drop)
}

/// Makes the sums anew, in this zone.
pub(super) fn rebuild(connection: &Blocking, zone: Zone) -> Result<()> {
    // Those who write hold a lock that this one waits for, and see what is set here.
    connection.run("LOCK TABLE cost_day, cost_hour IN SHARE ROW EXCLUSIVE MODE")?;
    let session = connection.session();
    let anew = anew::of(&Reader { connection, name: session.name() }, zone)?;
    connection.wait(session.execute("DELETE FROM cost_hour WHERE bucket >= $1", &[&anew.from.0]))?;
    connection.wait(session.execute("DELETE FROM cost_day WHERE bucket >= $1", &[&anew.from.1]))?;
    for (name, value) in &anew.settings {
        connection.wait(set(session, name, value))?;
    }
    connection.wait(add(session, &anew.sums))
}

/// Takes over what others left, deletes what is too old.
struct Chores {
    entries: Arc<Entries>,
    keeping: Weak<Keeping>,
}

/// The chores of ledgers, until the last of them is gone.
pub(super) fn chore(entries: &Arc<Entries>, keeping: &Arc<Keeping>) -> Box<dyn PostgresChore> {
    Box::new(Chores { entries: Arc::clone(entries), keeping: Arc::downgrade(keeping) })
}

#[async_trait]
impl PostgresChore for Chores {
    async fn turn(&mut self, session: &Session) -> Result<Option<bool>> {
        let Some(keeping) = self.keeping.upgrade() else { return Ok(None) };
        let recovered = self.recover(session).await?;
        let cut = keeping.cut(setting(session, KEPT).await?.as_deref());
        let pruned = prune(session, cut).await?;
        Ok(Some(recovered || pruned))
    }
}

static RECOVER: LazyLock<String> = LazyLock::new(|| {
    format!(
        "UPDATE cost_record SET open_by = NULL, recovered = TRUE WHERE id IN (
             SELECT id FROM cost_record
             WHERE open_by IS NOT NULL AND NOT EXISTS (SELECT FROM process WHERE process.id = open_by)
             ORDER BY id LIMIT {CHUNK} FOR UPDATE OF cost_record SKIP LOCKED)
         RETURNING {}",
        columns_to_read()
    )
});

impl Chores {
    /// Closes attempts of processes that have ended, at their upper bound: `true` if there are more. What another
    /// process is taking over is left to it.
    async fn recover(&self, session: &Session) -> Result<bool> {
        let mut rollups = Rollups::of(self.entries.zone(session).await?);
        let lost = session.query(&RECOVER, &[]).await?;
        for row in &lost {
            rollups.add(&record_of(row, session)?);
        }
        add(session, &rollups).await?;
        if !lost.is_empty() {
            tracing::warn!(attempts = lost.len(), "attempts of a process that ended count at their upper bound");
        }
        Ok(lost.len() == CHUNK)
    }
}

/// Deletes what is older than it is kept: `true` if there is more.
async fn prune(session: &Session, cut: Cut) -> Result<bool> {
    let (records_before, hours_before) = cut.before;
    let sql = format!(
        "DELETE FROM cost_record WHERE id IN (
             SELECT id FROM cost_record WHERE at < $1 AND open_by IS NULL ORDER BY at LIMIT {CHUNK}
             FOR UPDATE SKIP LOCKED)"
    );
    let records = session.execute(&sql, &[&records_before]).await?;
    let sql = "DELETE FROM cost_hour WHERE (bucket, upstream, model, tenant, task, priority) IN (
            SELECT bucket, upstream, model, tenant, task, priority FROM cost_hour WHERE bucket < $1
            ORDER BY bucket FOR UPDATE SKIP LOCKED)";
    let hours = session.execute(sql, &[&hour_of(hours_before)]).await?;
    // Last, and in one order: what is set stays locked until the end.
    for (name, gone, before) in [(HOURS_PRUNED, hours, hours_before), (PRUNED, records, records_before)] {
        if gone > 0 {
            // What is gone stays gone, even if it is kept for longer now, and whoever says so meanwhile.
            let sql = "INSERT INTO setting (name, value) VALUES ($1, $2::INT8::TEXT) ON CONFLICT (name) DO UPDATE
                 SET value = greatest(setting.value::INT8, excluded.value::INT8)::TEXT";
            session.execute(sql, &[&name, &before]).await?;
        }
    }
    if let Some(told) = cut.told {
        set(session, KEPT, &told.to_string()).await?;
    }
    Ok(records == CHUNK as u64)
}
