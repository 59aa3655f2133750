//! The worker that carries out batches.
//!
//! A turn claims what is due in the journal, takes each chunk one step further, and lets go of it. Nothing is kept between
//! turns: whatever a worker that is killed leaves behind, the next one finds where it stood. What takes longer than a
//! claim holds renews it, and stops when somebody else has taken over.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::{
    task::JoinSet,
    time::{Instant, interval_at},
};

use crate::{
    batch::Claim,
    service::{Error, InferenceService, WeakService},
};

/// How often a worker says that it lives: it is thought to for three times as long.
const BEAT: Duration = Duration::from_secs(10);
/// How long a worker rests that the store failed.
const FAILED: Duration = Duration::from_secs(5);
/// Steps at a time.
const STEPS: usize = 8;

/// Works until the service stops, and then ends what it has begun.
pub(super) async fn work(weak: WeakService, look: Duration) {
    let Some(mut moved) = weak.upgrade().and_then(|service| service.batches_moved()) else { return };
    let Some(_at_work) = weak.upgrade().map(|service| service.at_work()) else { return };
    let mut steps = JoinSet::new();
    let mut beaten: Option<Instant> = None;
    loop {
        let Some(service) = weak.upgrade() else { break };
        // What moves during the turn wakes the next one.
        moved.mark_unchanged();
        let turned = turn(&service, &mut steps, &mut beaten).await;
        drop(service);
        let rest = match turned {
            Ok(()) => look,
            Err(error) => {
                tracing::warn!(%error, "the worker of batches could not do its turn");
                FAILED.max(look)
            }
        };
        tokio::select! {
            biased;
            () = weak.stopped() => break,
            Some(_) = steps.join_next(), if !steps.is_empty() => {}
            changed = moved.changed() => if changed.is_err() { break },
            () = tokio::time::sleep(rest) => {}
        }
    }
    while steps.join_next().await.is_some() {}
}

async fn turn(service: &InferenceService, steps: &mut JoinSet<()>, beaten: &mut Option<Instant>) -> Result<(), Error> {
    if beaten.is_none_or(|at| at.elapsed() >= BEAT) {
        service.beat().await?;
        *beaten = Some(Instant::now());
    }
    while steps.try_join_next().is_some() {}
    // What is late is rescued before more of it is submitted.
    service.turn_batches().await?;
    let jobs = service.claim_jobs().await?;
    if !jobs.is_empty() {
        steps.spawn(poll(service.clone(), jobs));
    }
    let free = STEPS.saturating_sub(steps.len());
    if free > 0 {
        for claim in service.claim_steps(free).await? {
            steps.spawn(step(service.clone(), claim));
        }
    }
    Ok(())
}

/// Asks after jobs.
async fn poll(service: InferenceService, claims: Vec<Claim>) {
    if let Err(error) = service.poll_chunks(&claims).await {
        tracing::warn!(%error, "jobs could not be asked after");
    }
    // All at once: the store writes together what comes together.
    join_all(claims.iter().map(|claim| let_go(&service, claim))).await;
}

/// Takes one chunk a step further, as long as it is this worker's.
async fn step(service: InferenceService, claim: Claim) {
    let mut failed = false;
    {
        let mut stepping = std::pin::pin!(service.step_chunk(&claim));
        let every = service.renew_every();
        let mut renewals = interval_at(Instant::now() + every, every);
        loop {
            tokio::select! {
                biased;
                stepped = &mut stepping => {
                    if let Err(error) = stepped {
                        tracing::warn!(batch = %claim.chunk.key.batch, %error, "a chunk could not be taken further");
                        failed = true;
                    }
                    break;
                }
                _ = renewals.tick() => match service.renew(&claim).await {
                    Ok(true) => {}
                    Ok(false) => {
                        tracing::warn!(batch = %claim.chunk.key.batch, "another worker has taken over a chunk");
                        return;
                    }
                    Err(error) => tracing::warn!(%error, "a claim could not be renewed"),
                },
            }
        }
    }
    if failed && let Err(error) = service.rest_chunk(&claim).await {
        tracing::warn!(%error, "a chunk could not be left alone");
    }
    let_go(&service, &claim).await;
}

async fn let_go(service: &InferenceService, claim: &Claim) {
    if let Err(error) = service.release(&claim.chunk.key, claim.fence).await {
        tracing::warn!(%error, "a claim could not be given back; it ends by itself");
    }
}
