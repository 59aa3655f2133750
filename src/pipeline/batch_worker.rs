//! The worker that carries out batches.
//!
//! A turn claims what is due in the journal, takes each chunk one step further, and lets go of it. Nothing is kept between
//! turns: whatever a worker that is killed leaves behind, the next one finds where it stood. What takes longer than a
//! claim holds renews it, and stops when somebody else has taken over.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval_at, timeout_at},
};

use crate::{
    batch::Claim,
    service::{Error, InferenceService, WeakService},
};

/// How often a worker says that it lives: it is thought to for three times as long.
const BEAT: Duration = Duration::from_secs(10);
/// How long the store may take to answer where a claim may not hold any more.
const ANSWERS: Duration = Duration::from_secs(5);
/// How long a worker rests that the store failed.
const FAILED: Duration = Duration::from_secs(5);
/// A person is told when it has failed for so long.
const TELL: Duration = Duration::from_secs(60);
/// Steps at a time.
const STEPS: usize = 8;

/// Works until the service stops, and then ends what it has begun.
pub(super) async fn work(weak: WeakService, look: Duration) {
    let Some(mut moved) = weak.upgrade().and_then(|service| service.batches_moved()) else { return };
    let Some(_at_work) = weak.upgrade().map(|service| service.at_work()) else { return };
    let mut steps = JoinSet::new();
    let (mut beaten, mut failing): (Option<Instant>, Option<Instant>) = (None, None);
    loop {
        let Some(service) = weak.upgrade() else { break };
        // What moves during the turn wakes the next one.
        moved.mark_unchanged();
        let turned = turn(&service, &mut steps, &mut beaten).await;
        let rest = match turned {
            Ok(()) => {
                if failing.take().is_some() {
                    service.tell_of_worker(None);
                }
                look
            }
            Err(error) => {
                tracing::warn!(%error, "the worker of batches could not do its turn");
                if failing.get_or_insert_with(Instant::now).elapsed() >= TELL {
                    service.tell_of_worker(Some(&error));
                }
                FAILED.max(look)
            }
        };
        drop(service);
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

/// Asks after jobs, as long as they are this worker's: a provider may take longer to tell than a claim holds.
async fn poll(service: InferenceService, claims: Vec<Claim>) {
    let lapsed = AtomicBool::new(false);
    tokio::select! {
        biased;
        polled = service.poll_chunks(&claims) => if let Err(error) = polled {
            tracing::warn!(%error, "jobs could not be asked after");
        },
        () = hold(&service, &claims, &lapsed) => return,
    }
    // All at once: the store writes together what comes together.
    join_all(claims.iter().map(|claim| let_go(&service, claim))).await;
}

/// Takes one chunk a step further, as long as it is this worker's.
async fn step(service: InferenceService, claim: Claim) {
    let lapsed = AtomicBool::new(false);
    let stepped = tokio::select! {
        biased;
        stepped = service.step_chunk(&claim, &lapsed) => stepped,
        () = hold(&service, std::slice::from_ref(&claim), &lapsed) => return,
    };
    if let Err(error) = stepped {
        tracing::warn!(batch = %claim.chunk.key.batch, %error, "a chunk could not be taken further");
        if let Err(error) = service.rest_chunk(&claim, &error).await {
            tracing::warn!(%error, "a chunk could not be left alone");
        }
    }
    let_go(&service, &claim).await;
}

/// Renews claims beside the work on them. Returns when one is somebody else's, and when they could not be renewed for as
/// long as they hold: somebody else may work on them then, and what both do is paid twice. Where calls are out that are
/// paid, they are not given up: `lapsed` says that no other is to begin.
async fn hold(service: &InferenceService, claims: &[Claim], lapsed: &AtomicBool) {
    let (every, holds) = service.renewals();
    let mut held_until = Instant::now() + holds;
    let mut renewals = interval_at(Instant::now() + every, every);
    renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        renewals.tick().await;
        let asked = Instant::now();
        // A process that was stopped for long asks first: often nobody else was there.
        match timeout_at(held_until.max(asked + ANSWERS), service.renew(claims)).await {
            Ok(Ok(true)) => held_until = asked + holds,
            Ok(Ok(false)) => {
                tracing::warn!("another worker has taken over what this one worked on");
                return;
            }
            Ok(Err(error)) if Instant::now() < held_until => tracing::warn!(%error, "claims could not be renewed"),
            Ok(Err(_)) | Err(_) => {
                tracing::warn!("claims could not be renewed for as long as they hold: no more is begun");
                lapsed.store(true, Ordering::Relaxed);
                if !claims.iter().all(Claim::is_of_calls) {
                    return;
                }
                held_until = asked + holds;
            }
        }
    }
}

async fn let_go(service: &InferenceService, claim: &Claim) {
    if let Err(error) = service.release(&claim.chunk.key, claim.fence).await {
        tracing::warn!(%error, "a claim could not be given back; it ends by itself");
    }
}
