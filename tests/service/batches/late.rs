//! What is lost or late on the way, in each call of a batch, and how late the provider's list is: one job of each chunk,
//! every line ends once, and the ledger is the bill.

use std::time::Duration;

use together_inference::{
    notify::AlertKind,
    service::{BatchOptions, Cancel},
    testing::Together,
};

use super::{Shop, check, lines};
use crate::{doubles::Alerts, world::secs};

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Good,
    RequestLost,
    ReplyLost,
    /// The reply comes after so long.
    ReplyLate(Duration),
    /// The connection breaks, and the provider has the request only after so long.
    RequestLate(Duration),
}

pub(super) const FATES: [Fate; 7] = [
    Fate::Good,
    Fate::RequestLost,
    Fate::ReplyLost,
    Fate::ReplyLate(secs(5)),
    Fate::ReplyLate(secs(60)),
    Fate::RequestLate(secs(5)),
    Fate::RequestLate(secs(60)),
];

/// How late the list of jobs is, in seconds.
pub(super) const LAGS: [u64; 3] = [0, 20, 119];

impl Fate {
    /// Befalls the next call of this kind.
    pub(super) fn befall(self, sim: &Together, call: Call) {
        let place = call.place();
        match self {
            Self::Good => {}
            Self::RequestLost => sim.lose_request(place, 1),
            Self::ReplyLost => sim.lose_reply(place, 1),
            Self::ReplyLate(late) => sim.late_reply(place, 1, late),
            Self::RequestLate(late) => sim.late_request(place, 1, late),
        }
    }
}

/// A call of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// Where to put the lines.
    Ask,
    /// The lines.
    Put,
    /// They are there.
    Tell,
    Create,
    List,
    Download,
    Cancel,
}

impl Call {
    const fn place(self) -> &'static str {
        match self {
            Self::Ask => "POST /v1/files",
            Self::Put => "PUT /storage/*",
            Self::Tell => "POST /v1/files/*/preprocess",
            Self::Create => "POST /v1/batches",
            Self::List => "GET /v1/batches",
            Self::Download => "GET /v1/files/*/content",
            Self::Cancel => "POST /v1/batches/*/cancel",
        }
    }
}

/// A service that has alerts, on a provider to whose next calls this happens.
async fn shop(fates: Vec<(Call, Fate)>, lag: Duration, (takes, step): (Duration, Duration)) -> (Shop, Alerts) {
    let alerts = Alerts::default();
    let taken = alerts.clone();
    let options = BatchOptions::default().chunk_lines(3).singly_below(0);
    let shop = Shop::on(Together::new(), step, options, |builder| builder.notifier(taken)).await;
    for (call, fate) in fates {
        fate.befall(&shop.sim, call);
    }
    shop.sim.batch_list_lag(lag);
    shop.sim.batch_time(takes);
    (shop, alerts)
}

/// Carries a batch of two chunks out; whatever happens to a call, it is one job of each.
async fn carried_out(call: Call, fate: Fate, lag: u64) {
    let case = format!("{call:?}, {fate:?}, the list {lag} s late");
    let (shop, alerts) = shop(vec![(call, fate)], secs(lag), (secs(40), secs(5))).await;
    let ticket = shop.submit(lines(6)).await;
    if call == Call::Cancel {
        // When both jobs have answers.
        while shop.sim.batches().len() < 2 || shop.sim.batches().iter().any(|job| job.finished < 1) {
            tokio::time::sleep(secs(1)).await;
        }
        assert!(ticket.cancel(Cancel::KeepFinished).await.unwrap());
    }
    let report = ticket.await.unwrap();
    check(&report);
    match call {
        Call::Cancel => assert!(report.succeeded >= 1 && report.failed.is_empty(), "{case}: {report}"),
        _ => assert!(report.is_complete(), "{case}: {report}"),
    }
    assert_eq!((shop.sim.batches().len(), report.double_billed), (2, 0), "{case}: {report}");
    assert_eq!(shop.sim.bill().lines.len() as u64, report.succeeded, "{case}: {report}");
    assert!(alerts.taken().is_empty(), "{case}: {:?}", alerts.taken());
    shop.judge().await;
}

const CALLS: [Call; 7] = [Call::Ask, Call::Put, Call::Tell, Call::Create, Call::List, Call::Download, Call::Cancel];

/// Carries one out for each of these cases.
async fn all_carried_out(is_wanted: impl Fn(Call, Fate, u64) -> bool) {
    let mut count = 0;
    for lag in LAGS {
        for (call, fate) in CALLS.into_iter().flat_map(|call| FATES.map(|fate| (call, fate))) {
            if is_wanted(call, fate, lag) {
                carried_out(call, fate, lag).await;
                count += 1;
            }
        }
    }
    println!("{count} cases");
}

#[tokio::test(start_paused = true)]
async fn whatever_becomes_of_the_create_a_chunk_is_one_job_and_a_line_is_paid_once() {
    all_carried_out(|call, _, _| call == Call::Create).await;
}

#[tokio::test(start_paused = true)]
async fn whatever_becomes_of_another_call_a_chunk_is_one_job_and_a_line_is_paid_once() {
    let worst = [Fate::ReplyLost, Fate::ReplyLate(secs(60)), Fate::RequestLate(secs(60))];
    all_carried_out(|call, fate, lag| call != Call::Create && lag == 119 && worst.contains(&fate)).await;
}

/// `cargo test --all-features --test service -- --ignored whatever_is_lost_or_late --nocapture`
#[tokio::test(start_paused = true)]
#[ignore = "takes minutes"]
async fn whatever_is_lost_or_late_on_the_way_a_chunk_is_one_job_and_a_line_is_paid_once() {
    all_carried_out(|_, _, _| true).await;
}

#[tokio::test(start_paused = true)]
async fn lines_that_take_a_minute_to_arrive_make_one_job_though_the_create_is_lost_or_late() {
    for put in [50, 60] {
        for create in [Fate::ReplyLost, Fate::RequestLate(secs(60))] {
            let fates = vec![(Call::Put, Fate::ReplyLate(secs(put))), (Call::Create, create)];
            let (shop, alerts) = shop(fates, secs(119), (secs(600), secs(5))).await;
            let report = shop.submit(lines(3)).await.await.unwrap();
            let case = format!("{put} s, {create:?}: {report}");
            assert!(report.is_complete(), "{case}");
            assert_eq!((shop.sim.batches().len(), report.double_billed), (1, 0), "{case}");
            assert!(alerts.taken().is_empty(), "{case}: {:?}", alerts.taken());
            shop.judge().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_job_that_a_later_list_shows_is_stopped_and_told_of() {
    for (fate, lag) in [(Fate::ReplyLost, 500), (Fate::RequestLate(secs(60)), 440), (Fate::RequestLate(secs(500)), 0)] {
        let case = format!("{fate:?}, the list {lag} s late");
        let (shop, alerts) = shop(vec![(Call::Create, fate)], secs(lag), (secs(3_600), secs(10))).await;
        let ticket = shop.submit(lines(3)).await;
        let report = ticket.await.unwrap();
        check(&report);
        assert!(report.is_complete(), "{case}: {report}");
        let jobs = shop.sim.batches();
        let ours = report.jobs[0].id.as_ref();
        let (kept, other): (Vec<_>, Vec<_>) = jobs.iter().partition(|job| job.id == ours);
        assert_eq!((kept.len(), other.len()), (1, 1), "{case}: {jobs:?}");
        assert_eq!((&*kept[0].status, &*other[0].status), ("COMPLETED", "CANCELLED"), "{case}");
        assert_eq!(
            (other[0].finished, report.double_billed),
            (0, 0),
            "{case}: it is stopped before it has cost anything"
        );
        let told = alerts.taken();
        let of_it = told.iter().filter(|alert| alert.kind() == AlertKind::BatchFailed);
        let titles: Vec<_> = of_it.map(|alert| alert.title().to_owned()).collect();
        assert_eq!(titles.len(), 1, "{case}: {titles:?}");
        assert!(titles[0].contains(&other[0].id) && titles[0].contains(ours), "{case}: {titles:?}");
        shop.judge().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_second_job_did_before_it_was_found_is_paid_read_and_told_of() {
    // The first job is in the list when half of it is done, and when all of it is while the second still runs.
    for (lag, expected) in [(700, "CANCELLED"), (1_250, "COMPLETED")] {
        let (shop, alerts) = shop(vec![(Call::Create, Fate::ReplyLost)], secs(lag), (secs(1_200), secs(10))).await;
        let ticket = shop.submit(lines(3)).await;
        let report = ticket.clone().await.unwrap();
        check(&report);
        assert!(report.is_complete(), "{lag}: {report}");
        // It may take longer to stop than the other one to end.
        tokio::time::sleep(secs(300)).await;
        let report = ticket.await.unwrap();
        let jobs = shop.sim.batches();
        let other = jobs.iter().find(|job| job.id != *report.jobs[0].id).unwrap();
        assert_eq!((jobs.len(), &*other.status), (2, expected), "{lag}: {jobs:?}");
        assert!(other.finished > 0, "{lag}: {other:?}");
        assert_eq!(report.double_billed, other.finished as u64, "{lag}: {report}");
        assert_eq!(shop.sim.bill().calls, 3 + other.finished as u64, "{lag}: {report}");
        let told = alerts.taken();
        let of_it: Vec<_> = told.iter().filter(|alert| alert.title().contains(&*other.id)).collect();
        assert_eq!(of_it.len(), 1, "{lag}: {of_it:?}");
        shop.judge().await;
    }
}
