//! Alerts that do not reach anybody: told again, counted, and never in the way.

use std::{sync::atomic::Ordering, time::Duration};

use together_inference::{client::RetryPolicy, notify::AlertKind, testing::Fault};
use tokio::time::sleep;

use crate::{
    doubles::Flaky,
    world::{LARGE, MID, World, muse, secs},
};

/// A service whose alerts nobody takes yet.
fn unheard() -> (World, Flaky) {
    let notifier = Flaky::default();
    notifier.ill.store(true, Ordering::SeqCst);
    let told = notifier.clone();
    (World::with(|builder| builder.notifier(told).retry(RetryPolicy::none())), notifier)
}

impl Flaky {
    fn recovers(&self) {
        self.ill.store(false, Ordering::SeqCst);
    }

    fn offered(&self) -> u64 {
        self.offered.load(Ordering::SeqCst)
    }
}

#[tokio::test(start_paused = true)]
async fn a_stopped_key_is_told_of_until_somebody_hears_it() {
    // Scenario: the provider refuses the key, call after call; the notifier fails at first and then takes what comes.
    // Expected: told at the first refusal after it is well, once; and again when the key was taken and is refused anew.
    let (world, notifier) = unheard();
    let refused = async || {
        world.sim.fail_next(1, Fault::status(401));
        world.service.complete(muse("hi").model(LARGE)).await.unwrap_err();
        sleep(secs(61)).await;
    };
    refused().await;
    refused().await;
    assert_eq!((notifier.offered(), notifier.taken.kinds()), (2, vec![]));
    assert_eq!(world.service.health().alerts_lost, 2);
    notifier.recovers();
    refused().await;
    refused().await;
    assert_eq!(notifier.taken.kinds(), [AlertKind::KeyUnauthorized]);
    let left_out: Vec<_> = notifier.taken.taken()[0].details().map(|(_, value)| value.to_owned()).collect();
    assert_eq!((left_out, world.service.health().alerts_lost), (vec!["2".to_owned()], 2));
    world.service.complete(muse("hi").model(LARGE)).await.unwrap();
    refused().await;
    assert_eq!(notifier.taken.kinds(), [AlertKind::KeyUnauthorized; 2]);
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_told_once_a_day_is_told_again_if_nobody_heard_it() {
    // Scenario: another model answers than was asked for, ten times a second; the notifier fails for ten minutes.
    // Expected: it is asked once a minute, and has it once when it is well.
    let (world, notifier) = unheard();
    world.sim.deprecate(LARGE, MID);
    let minute = async || {
        for _ in 0..600 {
            world.service.complete(muse("hi").model(LARGE)).await.unwrap();
            sleep(Duration::from_millis(100)).await;
        }
    };
    for _ in 0..10 {
        minute().await;
    }
    assert!((8..=10).contains(&notifier.offered()), "{}", notifier.offered());
    notifier.recovers();
    minute().await;
    minute().await;
    minute().await;
    assert_eq!(notifier.taken.kinds(), [AlertKind::ModelRedirected]);
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn an_ejection_is_told_of_while_it_lasts() {
    // Scenario: a route fails and is ejected, the notifier fails as well; it takes what comes when the route still fails.
    // Expected: a failing probe raises the alert again.
    let (world, notifier) = unheard();
    world.sim.fail_next(100_000, Fault::status(500));
    let minute = async || {
        for _ in 0..60 {
            world.service.complete(muse("hi").model(LARGE)).await.unwrap_err();
            sleep(secs(1)).await;
        }
    };
    minute().await;
    assert!(notifier.offered() > 0);
    notifier.recovers();
    minute().await;
    minute().await;
    assert_eq!(notifier.taken.kinds(), [AlertKind::BreakerOpen]);
}
