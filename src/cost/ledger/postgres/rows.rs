//! Records as columns, the way that many rows go out in one statement.

use std::{borrow::Cow, sync::LazyLock};

use super::super::{memory::Memory, row::Row};
use crate::{cost::CostRecord, store::Value};

/// The types of the columns of a record, in their order.
const TYPES: [&str; 33] = [
    "BYTEA", "BYTEA", "INT8", "TEXT", "TEXT", "TEXT", "TEXT", "TEXT", "TEXT", "TEXT", "TEXT", "INT8", "INT8", "INT8",
    "INT8", "INT8", "INT8", "INT8", "TEXT", "INT8", "BOOL", "INT8", "BOOL", "INT8", "INT8", "TEXT", "TEXT", "TEXT",
    "INT8", "INT8", "TEXT", "TEXT", "BYTEA",
];

/// What makes rows of the columns of a statement.
pub(super) static COLUMNS_OF: LazyLock<String> = LazyLock::new(|| {
    let places: Vec<String> = (1..).zip(TYPES).map(|(place, of)| format!("${place}::{of}[]")).collect();
    format!("UNNEST({})", places.join(", "))
});

/// The number that sixteen bytes are.
pub(super) fn number(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// Rows with the numbers of their prices.
pub(super) struct Rows<'a>(Vec<(Row<'a>, Option<i64>)>);

/// The values of one column.
pub(super) enum Column<'a> {
    Bytes(Vec<Option<&'a [u8]>>),
    Number(Vec<Option<i64>>),
    Text(Vec<Option<&'a str>>),
    Truth(Vec<bool>),
}

impl Column<'_> {
    pub(super) fn value(&self) -> Value<'_> {
        match self {
            Self::Bytes(values) => values,
            Self::Number(values) => values,
            Self::Text(values) => values,
            Self::Truth(values) => values,
        }
    }
}

impl<'a> Rows<'a> {
    pub(super) fn of(records: &[&'a CostRecord], memory: &Memory) -> Self {
        let row = |record: &&'a CostRecord| {
            let row = Row::of(record);
            let price = row.price.as_ref().and_then(|price| memory.price(price));
            (row, price)
        };
        Self(records.iter().map(row).collect())
    }

    pub(super) fn columns(&self) -> [Column<'_>; 33] {
        [
            self.bytes(|row| Some(&row.attempt)),
            self.bytes(|row| Some(&row.request)),
            self.number(|row| Some(row.at)),
            self.text(|row| row.tenant.as_deref()),
            self.text(|row| row.session.as_deref()),
            self.text(|row| row.tags.as_deref()),
            self.text(|row| Some(&row.task)),
            self.text(|row| Some(&row.priority)),
            self.text(|row| Some(&row.upstream)),
            self.text(|row| Some(&row.model)),
            self.text(|row| row.served.as_deref()),
            self.number(|row| Some(row.usage[0])),
            self.number(|row| Some(row.usage[1])),
            self.number(|row| Some(row.usage[2])),
            self.number(|row| Some(row.usage[3])),
            self.number(|row| Some(row.usage[4])),
            self.number(|row| Some(row.usage[5])),
            self.number(|row| Some(row.usage[6])),
            self.text(|row| Some(&row.usage_source)),
            self.number(|row| row.cost.0),
            self.truth(|row| row.cost.1),
            self.number(|row| row.saved.0),
            self.truth(|row| row.saved.1),
            Column::Number(self.0.iter().map(|(_, price)| *price).collect()),
            self.number(|row| row.price_version),
            self.text(|row| Some(&row.source)),
            self.text(|row| Some(&row.ending)),
            self.text(|row| row.error.as_deref()),
            self.number(|row| Some(row.latency)),
            self.number(|row| row.first_token),
            self.text(|row| row.batch.as_deref()),
            self.text(|row| row.arm.as_deref()),
            self.bytes(|row| row.trace_id.as_ref()),
        ]
    }

    fn bytes(&self, of: impl for<'r> Fn(&'r Row<'a>) -> Option<&'r [u8; 16]>) -> Column<'_> {
        Column::Bytes(self.0.iter().map(|(row, _)| of(row).map(<[u8; 16]>::as_slice)).collect())
    }

    fn number(&self, of: impl Fn(&Row<'a>) -> Option<i64>) -> Column<'_> {
        Column::Number(self.0.iter().map(|(row, _)| of(row)).collect())
    }

    fn text(&self, of: impl for<'r> Fn(&'r Row<'a>) -> Option<&'r str>) -> Column<'_> {
        Column::Text(self.0.iter().map(|(row, _)| of(row)).collect())
    }

    fn truth(&self, of: impl Fn(&Row<'a>) -> bool) -> Column<'_> {
        Column::Truth(self.0.iter().map(|(row, _)| of(row)).collect())
    }
}

/// The record without what PostgreSQL has no room for in a text: the character 0, which becomes the replacement
/// character.
pub(super) fn cleaned(record: CostRecord) -> CostRecord {
    let mut row = Row::of(&record);
    let mut found = false;
    let mut clean = |text: &mut Cow<'_, str>| {
        if text.contains('\0') {
            found = true;
            *text = Cow::Owned(text.replace('\0', "\u{fffd}"));
        }
    };
    // Tags are JSON, which has no such character as it is.
    let always = [&mut row.upstream, &mut row.model];
    let maybe = [&mut row.tenant, &mut row.session, &mut row.served, &mut row.batch, &mut row.arm];
    always.into_iter().chain(maybe.into_iter().flatten()).for_each(&mut clean);
    if !found {
        drop(row);
        return record;
    }
    row.record().unwrap_or_else(|_| record.clone())
}
