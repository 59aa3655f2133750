//! Where reports and files read, whatever keeps it.

use super::sums::Sums;
use crate::{cost::CostRecord, store::StoreError};

/// The order in which records are read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    Oldest,
    Written,
}

impl Order {
    /// The columns that a dialect orders by.
    pub(super) const fn columns(self) -> &'static str {
        match self {
            Self::Oldest => "at, id",
            Self::Written => "id",
        }
    }
}

/// Sums of a bucket: what upstream, model, tenant, task and priority it is of.
pub(super) struct Bucket<'a> {
    /// The hour or the day, counted from 1970.
    pub(super) number: i64,
    pub(super) names: [&'a str; 5],
    pub(super) sums: Sums,
}

/// What takes the records of a [`Source`].
pub(super) type TakeRecord<'a> = &'a mut dyn FnMut(CostRecord) -> Result<(), StoreError>;

/// What takes its sums.
pub(super) type TakeSums<'a> = &'a mut dyn FnMut(&Bucket<'_>) -> Result<(), StoreError>;

/// A store that is read, as it was when the reading began.
pub(super) trait Source {
    fn name(&self) -> &str;

    fn setting(&self, name: &str) -> Result<Option<String>, StoreError>;

    /// Hands on every record in a range of time that has ended.
    fn each(&self, order: Order, range: (i64, i64), take: TakeRecord<'_>) -> Result<(), StoreError>;

    /// Hands on the sums of a table in a range of buckets, of one tenant or all.
    fn sums(&self, table: &str, range: (i64, i64), tenant: Option<&str>, take: TakeSums<'_>) -> Result<(), StoreError>;
}
