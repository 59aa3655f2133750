//! The words of the journal as the tables have them.

use super::words::{BatchState, ChunkState, LineState, Way};

/// Chunks that go on; the index of those to be claimed says the same.
pub(super) const OPEN: &str = "state NOT IN ('settled', 'refused', 'rescued', 'dropped')";

/// Chunks that a job of the provider's may exist of.
pub(super) const SUBMITTED: &str = "state IN ('submitting', 'running', 'cancelling') AND way = 'batch'";

impl BatchState {
    const ALL: [Self; 4] = [Self::Gathering, Self::Running, Self::Cancelling, Self::Finished];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Gathering => "gathering",
            Self::Running => "running",
            Self::Cancelling => "cancelling",
            Self::Finished => "finished",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

impl LineState {
    pub(super) const fn number(self) -> i64 {
        match self {
            Self::Waiting => 0,
            Self::Done => 1,
            Self::Failed => 2,
            Self::Cancelled => 3,
        }
    }

    pub(super) fn numbered(number: i64) -> Option<Self> {
        [Self::Waiting, Self::Done, Self::Failed, Self::Cancelled].into_iter().find(|state| state.number() == number)
    }
}

impl Way {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Realtime => "realtime",
            Self::Rescue => "rescue",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        [Self::Batch, Self::Realtime, Self::Rescue].into_iter().find(|way| way.name() == name)
    }
}

impl ChunkState {
    const ALL: [Self; 9] = [
        Self::Planned,
        Self::Submitting,
        Self::Running,
        Self::Cancelling,
        Self::Ended,
        Self::Settled,
        Self::Refused,
        Self::Rescued,
        Self::Dropped,
    ];

    /// Whether it is for good.
    pub(crate) const fn is_final(self) -> bool {
        matches!(self, Self::Settled | Self::Refused | Self::Rescued | Self::Dropped)
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Submitting => "submitting",
            Self::Running => "running",
            Self::Cancelling => "cancelling",
            Self::Ended => "ended",
            Self::Settled => "settled",
            Self::Refused => "refused",
            Self::Rescued => "rescued",
            Self::Dropped => "dropped",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Those of them that are not for good, as a list of SQL.
    pub(super) fn list(states: &[Self]) -> String {
        let names = states.iter().filter(|state| !state.is_final()).map(|state| format!("'{}'", state.name()));
        // No state is called nothing: a list must not be empty.
        std::iter::once("''".to_owned()).chain(names).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_is_what_is_not_for_good() {
        for state in ChunkState::ALL {
            assert_eq!(OPEN.contains(&format!("'{}'", state.name())), state.is_final(), "{state:?}");
            assert_eq!(ChunkState::named(state.name()), Some(state));
        }
        assert_eq!(ChunkState::list(&ChunkState::ALL).matches('\'').count(), 2 * 6);
        for table in [
            include_str!("../../store/migrations/sqlite/003_batches.sql"),
            include_str!("../../store/migrations/postgres/004_batches.sql"),
        ] {
            assert!(table.contains(&format!("ON chunk (next_at) WHERE {OPEN};")));
        }
    }
}
