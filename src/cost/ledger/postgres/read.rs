//! Reading the ledger.

use std::sync::LazyLock;

use tokio_postgres::Row as SqlRow;

use super::{
    super::{
        rollups::columns_to_read,
        row::Row,
        source::{Bucket, Order, Source, TakeRecord, TakeSums},
        sums::{COLUMNS, NAMES, Sums},
    },
    Result, rows, setting,
};
use crate::{
    cost::CostRecord,
    store::{Blocking, Session, StoreError, StoreErrorKind},
    types::BoxError,
};

pub(super) static SELECT: LazyLock<String> = LazyLock::new(|| format!("SELECT {} FROM cost_record", columns_to_read()));

/// Takes out what was never made, and answers with it.
pub(super) static DELETE: LazyLock<String> = LazyLock::new(|| {
    let columns = columns_to_read();
    format!(
        "DELETE FROM cost_record WHERE attempt = ANY($1) AND (open_by IS NOT NULL OR recovered) RETURNING {columns}, recovered"
    )
});

/// The record that a row is.
pub(super) fn record_of(row: &SqlRow, session: &Session) -> Result<CostRecord> {
    read(row).map_err(|error| StoreError::caused(StoreErrorKind::Corrupt, session.name(), error))
}

fn read(row: &SqlRow) -> std::result::Result<CostRecord, BoxError> {
    let bytes = |at: usize| row.try_get::<_, &[u8]>(at).map(|bytes| rows::number(bytes).to_be_bytes());
    let text = |at: usize| row.try_get::<_, &str>(at).map(Into::into);
    let maybe = |at: usize| row.try_get::<_, Option<&str>>(at).map(|text| text.map(Into::into));
    let price: Option<&str> = row.try_get(23)?;
    let trace_id: Option<&[u8]> = row.try_get(32)?;
    let columns = Row {
        attempt: bytes(0)?,
        request: bytes(1)?,
        at: row.try_get(2)?,
        tenant: maybe(3)?,
        session: maybe(4)?,
        tags: row.try_get(5)?,
        task: text(6)?,
        priority: text(7)?,
        upstream: text(8)?,
        model: text(9)?,
        served: maybe(10)?,
        usage: [
            row.try_get(11)?,
            row.try_get(12)?,
            row.try_get(13)?,
            row.try_get(14)?,
            row.try_get(15)?,
            row.try_get(16)?,
            row.try_get(17)?,
        ],
        usage_source: text(18)?,
        cost: (row.try_get(19)?, row.try_get(20)?),
        saved: (row.try_get(21)?, row.try_get(22)?),
        price: price.map(serde_json::from_str).transpose()?,
        price_version: row.try_get(24)?,
        source: text(25)?,
        ending: text(26)?,
        error: maybe(27)?,
        latency: row.try_get(28)?,
        first_token: row.try_get(29)?,
        batch: maybe(30)?,
        arm: maybe(31)?,
        trace_id: trace_id.map(|trace| rows::number(trace).to_be_bytes()),
    };
    columns.record()
}

/// A connection that reads.
pub(in super::super) struct Reader<'a> {
    pub(in super::super) connection: &'a Blocking,
    pub(in super::super) name: &'a str,
}

impl Source for Reader<'_> {
    fn name(&self) -> &str {
        self.name
    }

    fn setting(&self, name: &str) -> Result<Option<String>> {
        self.connection.wait(setting(self.connection.session(), name))
    }

    fn each(&self, order: Order, (from, until): (i64, i64), take: TakeRecord<'_>) -> Result<()> {
        let order = order.columns();
        let sql = format!("{} WHERE at >= $1 AND at < $2 AND open_by IS NULL ORDER BY {order}", *SELECT);
        self.connection.each(&sql, &[&from, &until], &mut |row| take(record_of(row, self.connection.session())?))
    }

    fn sums(&self, table: &str, (from, until): (i64, i64), tenant: Option<&str>, take: TakeSums<'_>) -> Result<()> {
        let sql = format!(
            "SELECT bucket, upstream, model, tenant, task, priority, {} FROM {table}
             WHERE bucket >= $1 AND bucket < $2 AND ($3::TEXT IS NULL OR tenant = $3)",
            NAMES.join(", ")
        );
        self.connection.each(&sql, &[&from, &until, &tenant], &mut |row| {
            let (mut names, mut sums) = ([""; 5], [0; COLUMNS]);
            names.iter_mut().enumerate().for_each(|(at, name)| *name = row.get(1 + at));
            sums.iter_mut().enumerate().for_each(|(at, sum)| *sum = row.get(6 + at));
            take(&Bucket { number: row.get(0), names, sums: Sums::from_columns(sums) })
        })
    }
}
