//! Random deadlines over jobs that are stuck: each is kept, only what is missing is sent again, and what is paid twice is
//! counted.

use together_inference::{
    InferenceRequest,
    service::BatchOptions,
    testing::{Fault, Together},
    types::{Rng, SeededRng},
};
use tokio::time::sleep;

use super::{MODEL, Pace, Shop, cases, check};
use crate::world::{ms, secs};

const CANCEL: &str = "POST /v1/batches/*/cancel";

/// What becomes of the question to stop a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stops {
    AtOnce,
    /// The provider fails so often.
    Fails(u32),
    /// The same, and it has ended the job.
    Loses(u32),
    NeverArrives(u32),
    /// It says that the job has ended, and it has not.
    SaysEnded(u32),
    /// It has ended, with all of its rows.
    HasEnded,
}

impl Stops {
    fn of(rng: &SeededRng) -> Self {
        let times = 1 + (rng.next_u64() % 40) as u32;
        match rng.next_u64() % 8 {
            0 => Self::Fails(times),
            1 => Self::Loses(times),
            2 => Self::NeverArrives(times),
            3 => Self::SaysEnded(times),
            4 => Self::HasEnded,
            _ => Self::AtOnce,
        }
    }

    fn plan(self, sim: &Together) {
        match self {
            Self::AtOnce | Self::HasEnded => {}
            Self::Fails(times) => sim.fail_next_at(CANCEL, times, Fault::status(500)),
            Self::Loses(times) => sim.lose_reply(CANCEL, times),
            Self::NeverArrives(times) => sim.lose_request(CANCEL, times),
            Self::SaysEnded(times) => sim.fail_next_at(
                CANCEL,
                times,
                Fault::status(409).message("Cannot cancel job - already in terminal state: CANCELLED"),
            ),
        }
    }
}

/// One world, with a few batches whose deadlines lie apart.
async fn world(seed: u64) {
    let rng = SeededRng::new(seed);
    let below = |most: u64| rng.next_u64() % most;
    let pace = Pace { busy: ms(500), idle: secs(60) };
    let slow = Pace { idle: secs(10), ..pace };
    let shop = Shop::on(Together::builder().seed(seed).build(), slow, BatchOptions::default(), |builder| builder).await;
    shop.sim.stick_batches(0.6);
    shop.sim.latency(ms(200 + below(1_500)));
    let stops = Stops::of(&rng);
    stops.plan(&shop.sim);
    let mut tickets = Vec::new();
    for batch in 0..3 {
        let lines: Vec<_> = (0..20 + below(60))
            .map(|number| InferenceRequest::chat(format!("{seed} {batch} {number}")).model(MODEL).max_tokens(8))
            .collect();
        let deadline = secs(4_200 + batch * 300 + below(900));
        tickets.push((
            lines.len() as u64,
            deadline,
            shop.service.batch(lines).deadline(deadline).submit().await.unwrap(),
        ));
    }
    shop.hurry_after(3, pace).await;
    // Until shortly before the first of them is rescued.
    sleep(secs(3_200)).await;
    shop.set_pace(slow);
    if stops == Stops::HasEnded {
        shop.sim.heal();
    }
    for (lines, deadline, ticket) in &tickets {
        let report = ticket.clone().await.unwrap();
        let case = format!("seed {seed}, {stops:?}: {report}");
        check(&report);
        assert!(report.is_complete(), "{case}");
        let took = report.finished.duration_since(report.started).unwrap();
        assert!(took <= *deadline, "after {took:?} of {deadline:?}, {case}");
        let missing = lines - lines * 6 / 10;
        match stops {
            Stops::AtOnce => assert_eq!((report.rescued, report.double_billed), (missing, 0), "{case}"),
            Stops::HasEnded => assert_eq!((report.rescued, report.double_billed), (0, 0), "{case}"),
            // Where nobody says that a job has ended in time, all of it is sent.
            _ => assert!([missing, *lines].contains(&report.rescued), "{case}"),
        }
    }
    // What still runs is stopped in the end, and what it did is paid and read.
    shop.set_pace(pace);
    let lines: u64 = tickets.iter().map(|(lines, ..)| lines).sum();
    let mut doubled = 0;
    for _ in 0..200 {
        doubled = 0;
        for (.., ticket) in &tickets {
            doubled += ticket.clone().await.unwrap().double_billed;
        }
        let runs = shop.sim.batches().iter().any(|job| ["IN_PROGRESS", "CANCELING"].contains(&&*job.status));
        if !runs && shop.sim.bill().calls == lines + doubled {
            break;
        }
        sleep(secs(60)).await;
    }
    assert_eq!(shop.sim.bill().calls, lines + doubled, "seed {seed}, {stops:?}: what was paid twice was not counted");
    shop.judge().await;
}

#[tokio::test(start_paused = true)]
async fn whatever_becomes_of_a_stuck_job_its_deadline_is_kept_and_only_what_is_missing_goes_again() {
    let first = std::env::var("BATCH_TEST_FIRST").map_or(0, |first| first.parse().unwrap());
    for seed in first..first + cases(4) {
        world(seed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_job_did_that_nobody_could_stop_is_paid_twice_and_counted() {
    let shop = Shop::at_pace(secs(10), BatchOptions::default(), |builder| builder).await;
    shop.sim.stick_batches(0.6);
    shop.sim.fail_next_at(CANCEL, 100_000, Fault::status(500));
    let lines = (0..30).map(super::line);
    let ticket = shop.service.batch(lines).deadline(secs(4_000)).submit().await.unwrap();
    let report = ticket.clone().await.unwrap();
    check(&report);
    assert!(report.is_complete(), "{report}");
    assert_eq!((report.rescued, report.double_billed), (30, 0), "{report}");
    // It goes on to its end.
    shop.sim.heal();
    sleep(secs(1_200)).await;
    let report = ticket.await.unwrap();
    assert_eq!((report.double_billed, shop.sim.bill().calls), (30, 60), "{report}");
    shop.judge().await;
}
