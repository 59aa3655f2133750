//! Jobs that do not move or do not end: a person is told, once, whichever process finds out; nothing is sent again.
//!
//! Each is news at one moment. Whoever looks first past that moment tells: what the journal says of the look before shows
//! that nobody could yet.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    Batches,
    submit::{name_of, passed},
};
use crate::{
    batch::{ChunkRow, ChunkState, Phase, RemoteStatus},
    notify::AlertKind,
    service::state::State,
};

const HOUR: Duration = Duration::from_secs(3_600);
/// For how long lines may be submitted, and read.
const READING: Duration = Duration::from_secs(1_800);
/// For how long a job that runs may stand still.
const STILL: Duration = HOUR.saturating_mul(2);
/// What providers promise.
const DAY: Duration = HOUR.saturating_mul(24);
/// What they do not exceed by themselves.
const DAYS: Duration = HOUR.saturating_mul(72);

/// What is odd about a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Odd {
    Unread,
    Still,
    Day,
    Days,
}

impl Odd {
    const ALL: [Self; 4] = [Self::Unread, Self::Still, Self::Day, Self::Days];

    /// What repeats of it have in common.
    fn about(self, id: &str) -> String {
        let what = match self {
            Self::Unread => "unread",
            Self::Still => "still",
            Self::Day => "day",
            Self::Days => "days",
        };
        format!("{id} {what}")
    }

    fn title(self, id: &str) -> String {
        let what = match self {
            Self::Unread => "has been validated for half an hour",
            Self::Still => "has not moved for two hours",
            Self::Day => "has run for a day",
            Self::Days => "has run for three days: ask the provider's support",
        };
        format!("batch job {id} {what}")
    }

    /// The moment when it is news, if nothing changes until then.
    fn moment(self, chunk: &ChunkRow, phase: &Phase) -> Option<SystemTime> {
        let is_read = *phase != Phase::Validating;
        match self {
            Self::Unread => (!is_read).then(|| chunk.moved.checked_add(READING)),
            Self::Still => is_read.then(|| chunk.moved.checked_add(STILL)),
            Self::Day => Some(chunk.since.checked_add(DAY)),
            Self::Days => Some(chunk.since.checked_add(DAYS)),
        }
        .flatten()
    }
}

impl State {
    /// Has a person told of a chunk that does not become a job: its provider is away, or whether there is a job already
    /// cannot be found out.
    pub(super) fn tell_if_unsubmitted(self: &Arc<Self>, chunk: &ChunkRow, now: SystemTime) {
        if chunk.state != ChunkState::Submitting || passed(chunk.since, now) < READING {
            return;
        }
        let why = chunk.error.as_deref().unwrap_or("whether an earlier try made a job is not known");
        let batch = chunk.key.batch;
        let title = || format!("a part of batch {batch} has waited half an hour to become a job: {why}");
        self.tell_batch(AlertKind::BatchStuck, &name_of(&chunk.key), title);
    }

    /// Has a person told of a job that does not move or does not end. No status: the provider did not say how it stands.
    pub(super) fn tell_if_stuck(
        self: &Arc<Self>,
        batches: &Batches,
        chunk: &ChunkRow,
        status: Option<&RemoteStatus>,
        now: SystemTime,
    ) {
        let Some(id) = chunk.remote_id.as_deref() else { return };
        let said = Phase::from(chunk.remote_status.as_deref().unwrap_or_default());
        let phase = status.map_or(&said, |status| &status.phase);
        // When it was looked at before, or a little earlier.
        let before =
            chunk.next_at.checked_sub(batches.options.poll.saturating_mul(2)).unwrap_or(SystemTime::UNIX_EPOCH);
        let has_moved = status.is_some_and(|status| has_moved(chunk, &said, status));
        for odd in Odd::ALL {
            let about = odd.about(id);
            let is_over = phase.is_final() || has_moved && matches!(odd, Odd::Unread | Odd::Still);
            match odd.moment(chunk, phase).filter(|moment| !is_over && *moment <= now) {
                Some(moment) => {
                    self.tell_at(moment > before, (AlertKind::BatchStuck, &about), || odd.title(id));
                }
                None => self.told.forget(AlertKind::BatchStuck, &about),
            }
        }
    }
}

/// Whether a job is further than when it was looked at before.
fn has_moved(chunk: &ChunkRow, said: &Phase, status: &RemoteStatus) -> bool {
    // The journal rounds to a thousandth.
    let percent = match (chunk.percent, status.percent) {
        (Some(before), Some(now)) => (before - now).abs() > 0.000_6,
        (before, now) => before.is_none() && now.is_some(),
    };
    percent || status.phase != *said
}
