//! The provider's list of jobs, looked at once by all who ask at the same time what became of a try.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::sync::Mutex;

use super::{BatchError, Phase, RemoteId};
use crate::{
    client::{BatchJob, TogetherClient},
    types::Clock,
};

/// For how long a look serves others. It must be shorter than the grace of a try.
const FRESH: Duration = Duration::from_secs(30);

/// A job in the list.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) id: RemoteId,
    pub(super) has_ended: bool,
    /// Whether it ended without all of its answers.
    is_lost: bool,
    created: SystemTime,
}

/// The list as it was when it was asked for: the jobs of each file.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) at: SystemTime,
    jobs: HashMap<Box<str>, Vec<Listed>>,
}

impl Look {
    /// The jobs of these files, the one to adopt first.
    pub(super) fn of(&self, files: &[Box<str>]) -> Vec<&Listed> {
        let mut jobs: Vec<_> = files.iter().filter_map(|file| self.jobs.get(file)).flatten().collect();
        // One that still brings answers before one that ended without, and of those the oldest.
        jobs.sort_by(|a, b| (a.is_lost, a.created, a.id.as_str()).cmp(&(b.is_lost, b.created, b.id.as_str())));
        jobs
    }
}

/// The last look.
#[derive(Debug, Default)]
pub(super) struct Looks(Mutex<Option<Arc<Look>>>);

impl Looks {
    /// A look at that moment or later: somebody's, if it is fresh, or a new one that others wait for.
    pub(super) async fn since(
        &self,
        moment: SystemTime,
        client: &TogetherClient,
        clock: &dyn Clock,
    ) -> Result<Arc<Look>, BatchError> {
        let mut last = self.0.lock().await;
        let at = clock.now();
        let serves = |look: &&Arc<Look>| look.at >= moment && at.duration_since(look.at).is_ok_and(|age| age < FRESH);
        if let Some(look) = last.as_ref().filter(serves) {
            return Ok(Arc::clone(look));
        }
        *last = None;
        let jobs = std::sync::Mutex::new(HashMap::new());
        // Taken down while it is read: an account may have ten thousands.
        client
            .batches()
            .list_where(|job| {
                note(&mut jobs.lock().unwrap_or_else(PoisonError::into_inner), job);
                false
            })
            .await?;
        let jobs = jobs.into_inner().unwrap_or_else(PoisonError::into_inner);
        let look = Arc::new(Look { at, jobs });
        *last = Some(Arc::clone(&look));
        Ok(look)
    }
}

/// Takes a job down, once: a list that broke off is read again. One without a file is nobody's.
fn note(jobs: &mut HashMap<Box<str>, Vec<Listed>>, job: &BatchJob) {
    let Some(file) = &job.input_file_id else { return };
    let same = jobs.entry(file.as_str().into()).or_default();
    if same.iter().any(|other| other.id.as_str() == job.id) {
        return;
    }
    let (has_ended, phase) = (job.status.is_final(), Phase::from(job.status.as_str()));
    same.push(Listed {
        id: RemoteId::from(&*job.id),
        has_ended,
        is_lost: has_ended && phase != Phase::Completed,
        created: job.created_at.unwrap_or(SystemTime::UNIX_EPOCH),
    });
}
