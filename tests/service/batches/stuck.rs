//! Jobs that do not move: a person is told, once each, and nothing is sent again.

use std::{sync::atomic::Ordering, time::Duration};

use together_inference::{
    notify::{Alert, AlertKind},
    service::BatchOptions,
};

use super::{Shop, check, lines};
use crate::{
    doubles::{Alerts, Flaky},
    world::secs,
};

const HOUR: u64 = 3_600;

/// When alerts of stuck jobs came, in seconds from the beginning, and what they say.
fn told(shop: &Shop, alerts: &[Alert]) -> Vec<(u64, String)> {
    let stuck = alerts.iter().filter(|alert| alert.kind() == AlertKind::BatchStuck);
    stuck
        .map(|alert| {
            let title = alert.title().split_once("has ").unwrap().1;
            (alert.at().duration_since(shop.clock.start()).unwrap().as_secs(), title.to_owned())
        })
        .collect()
}

async fn shop(alerts: Alerts) -> Shop {
    let shop = Shop::at_pace(secs(5), BatchOptions::default(), |builder| builder.notifier(alerts)).await;
    shop.sim.batch_window(Duration::MAX);
    shop
}

#[tokio::test(start_paused = true)]
async fn a_job_that_hangs_for_three_days_is_told_of_at_its_marks_and_never_sent_again() {
    let alerts = Alerts::default();
    let shop = shop(alerts.clone()).await;
    shop.sim.stick_batches(0.6);
    let ticket = shop.submit(lines(50)).await;
    shop.hurry_after(1, secs(300)).await;
    tokio::time::sleep(secs(HOUR)).await;
    let sent = (shop.asked("POST", "/v1/files"), shop.asked("POST", "/v1/batches"));
    tokio::time::sleep(secs(73 * HOUR)).await;
    let told = told(&shop, &alerts.taken());
    let words: Vec<_> = told.iter().map(|(_, title)| &**title).collect();
    let expected = ["not moved for two hours", "run for a day", "run for three days: ask the provider's support"];
    assert_eq!(words, expected);
    for ((at, title), mark) in told.iter().zip([2 * HOUR, 24 * HOUR, 72 * HOUR]) {
        assert!((mark..mark + 3_600).contains(at), "{title}: at {at}");
    }
    let sent_by_now = (shop.asked("POST", "/v1/files"), shop.asked("POST", "/v1/batches"));
    assert_eq!(sent_by_now, sent, "it was sent again, or stopped");
    let jobs = shop.sim.batches();
    assert_eq!((jobs.len(), &*jobs[0].status), (1, "IN_PROGRESS"));
    shop.sim.heal();
    let report = ticket.await.unwrap();
    check(&report);
    assert!(report.is_complete() && report.jobs.len() == 1, "{report}");
    shop.judge().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_whose_lines_are_not_read_is_told_of_after_half_an_hour() {
    let alerts = Alerts::default();
    let shop = shop(alerts.clone()).await;
    shop.sim.batch_validation(secs(3 * HOUR));
    let ticket = shop.submit(lines(5)).await;
    shop.hurry_after(1, secs(60)).await;
    let report = ticket.await.unwrap();
    assert!(report.is_complete(), "{report}");
    let told = told(&shop, &alerts.taken());
    assert_eq!(told.len(), 1, "{told:?}");
    assert!((1_800..2_400).contains(&told[0].0) && told[0].1.contains("validated"), "{told:?}");
    shop.judge().await;
}

#[tokio::test(start_paused = true)]
async fn a_part_that_does_not_become_a_job_is_told_of_after_half_an_hour() {
    let alerts = Alerts::default();
    let shop = shop(alerts.clone()).await;
    // Whether the first try made a job cannot be found out in time: each list takes longer than a submission may.
    shop.sim.lose_request("POST /v1/batches", 1);
    shop.sim.late_reply("GET /v1/batches", 200, secs(75));
    let ticket = shop.submit(lines(5)).await;
    tokio::time::sleep(secs(2 * HOUR)).await;
    let titles: Vec<String> = alerts.taken().iter().map(|alert| alert.title().to_owned()).collect();
    let told = titles.iter().filter(|title| title.contains("has waited half an hour to become a job")).count();
    assert_eq!(told, 1, "{titles:?}");
    shop.sim.heal();
    let report = ticket.await.unwrap();
    assert!(report.is_complete(), "{report}");
    assert_eq!(shop.sim.batches().len(), 1);
    shop.judge().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_moves_is_not_told_of_however_slow_it_is() {
    let alerts = Alerts::default();
    let shop = shop(alerts.clone()).await;
    shop.sim.batch_time(secs(20 * HOUR));
    let id = shop.submit(lines(40)).await.id();
    shop.hurry_after(1, secs(300)).await;
    tokio::time::sleep(secs(5 * HOUR)).await;
    // Nor is one that nobody looked at for hours.
    shop.service.shutdown(secs(30)).await;
    tokio::time::sleep(secs(5 * HOUR)).await;
    let notifier = alerts.clone();
    let other = shop.another_with(BatchOptions::default(), |builder| builder.notifier(notifier));
    let report = other.find_batch(id).await.unwrap().await.unwrap();
    assert!(report.is_complete(), "{report}");
    assert_eq!(told(&shop, &alerts.taken()), []);
}

/// The service that saw the job reach its marks is not the one that looks at it later.
#[tokio::test(start_paused = true)]
async fn another_process_does_not_tell_again_what_was_told() {
    let (alerts, later) = (Alerts::default(), Alerts::default());
    let shop = shop(alerts.clone()).await;
    shop.sim.stick_batches(0.6);
    let id = shop.submit(lines(20)).await.id();
    shop.hurry_after(1, secs(600)).await;
    tokio::time::sleep(secs(25 * HOUR)).await;
    shop.service.shutdown(secs(30)).await;
    let notifier = later.clone();
    let other = shop.another_with(BatchOptions::default(), |builder| builder.notifier(notifier));
    let ticket = other.find_batch(id).await.unwrap();
    let waiting = tokio::time::timeout(secs(10 * HOUR), ticket.clone()).await;
    assert!(waiting.is_err());
    assert_eq!((told(&shop, &alerts.taken()).len(), told(&shop, &later.taken())), (2, vec![]));
    shop.sim.heal();
    assert!(ticket.await.unwrap().is_complete());
}

#[tokio::test(start_paused = true)]
async fn what_nobody_heard_is_told_when_somebody_can_and_then_no_more() {
    let notifier = Flaky::default();
    notifier.ill.store(true, Ordering::SeqCst);
    let heard = notifier.clone();
    let shop = Shop::at_pace(secs(5), BatchOptions::default(), |builder| builder.notifier(heard)).await;
    shop.sim.batch_window(Duration::MAX);
    shop.sim.stick_batches(0.6);
    let ticket = shop.submit(lines(20)).await;
    shop.hurry_after(1, secs(180)).await;
    tokio::time::sleep(secs(4 * HOUR)).await;
    notifier.ill.store(false, Ordering::SeqCst);
    tokio::time::sleep(secs(4 * HOUR)).await;
    let told = told(&shop, &notifier.taken.taken());
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].0 >= 4 * HOUR && told[0].0 < 5 * HOUR, "{told:?}");
    shop.sim.heal();
    assert!(ticket.await.unwrap().is_complete());
    shop.judge().await;
}
