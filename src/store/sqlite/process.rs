//! Who uses a file, and who does not any more.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use rusqlite::{Connection, params};

/// A process that was silent for this long has ended, or is as good as that.
const SILENT: Duration = Duration::from_secs(30);

/// A process that uses the store.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pub(super) id: i64,
    host: Box<str>,
    pid: u32,
    started: i64,
}

impl Process {
    /// This one, under that id.
    pub(super) fn this(id: i64) -> Self {
        let pid = std::process::id();
        Self { id, host: host(), pid, started: started(pid).unwrap_or(0) }
    }

    /// Says that it lives.
    pub(super) fn renew(&self, connection: &Connection, now: SystemTime) -> Result<(), rusqlite::Error> {
        let mut statement = connection.prepare_cached(
            "INSERT INTO process (id, host, pid, started, renewed_ms) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (id) DO UPDATE SET renewed_ms = excluded.renewed_ms",
        )?;
        statement.execute(params![self.id, &*self.host, self.pid, self.started, millis(now)])?;
        Ok(())
    }

    /// Says that it has ended.
    pub(super) fn leave(&self, connection: &Connection) -> Result<(), rusqlite::Error> {
        connection.execute("DELETE FROM process WHERE id = ?1", [self.id])?;
        Ok(())
    }

    /// Strikes out those that have ended.
    pub(super) fn bury_others(&self, connection: &Connection, now: SystemTime) -> Result<(), rusqlite::Error> {
        let mut statement =
            connection.prepare_cached("SELECT id, host, pid, started, renewed_ms FROM process WHERE id <> ?1")?;
        let others = statement.query_map([self.id], |row| {
            let other =
                Self { id: row.get(0)?, host: row.get::<_, String>(1)?.into(), pid: row.get(2)?, started: row.get(3)? };
            Ok((other, row.get::<_, i64>(4)?))
        })?;
        let others: Vec<(Self, i64)> = others.collect::<Result<_, _>>()?;
        for (other, renewed) in others {
            let silent = millis(now).saturating_sub(renewed) > i64::try_from(SILENT.as_millis()).unwrap_or(i64::MAX);
            if silent || self.knows_the_end_of(&other) {
                other.leave(connection)?;
            }
        }
        Ok(())
    }

    /// Whether another process of this host is not there any more. What cannot be known is not.
    fn knows_the_end_of(&self, other: &Self) -> bool {
        let comparable = !self.host.is_empty() && self.host == other.host && self.started != 0 && other.started != 0;
        comparable && started(other.pid) != Some(other.started)
    }
}

/// Where process numbers mean the same: this boot of the machine, this namespace. Empty where nobody says.
fn host() -> Box<str> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    if boot.is_empty() { "".into() } else { format!("{} {}", boot.trim(), namespace.display()).into() }
}

/// When a process began, in ticks of the machine's clock.
fn started(pid: u32) -> Option<i64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may hold anything, brackets too; the time is the 22nd field, the 20th after the name.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    // A zombie has ended; nobody has asked for its status yet.
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

fn millis(at: SystemTime) -> i64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
