use std::sync::Mutex;

use super::*;
use crate::{cost::MemoryBudgets, types::ManualClock, usd};

fn route() -> RouteId {
    RouteId::new("together", "m")
}

fn budgets(of: impl IntoIterator<Item = Budget>) -> (Budgets, Arc<ManualClock>, Arc<Mutex<Vec<u8>>>) {
    let clock = Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH));
    let budgets =
        Budgets::new(of.into_iter().collect(), Arc::new(MemoryBudgets::new()), Arc::clone(&clock) as _).unwrap();
    let told = Arc::<Mutex<Vec<u8>>>::default();
    let notices = Arc::clone(&told);
    budgets.listen(Box::new(move |notice| notices.lock().unwrap().push(notice.percent)));
    (budgets, clock, told)
}

/// Whether so much is set aside; it is spent at once.
async fn spend(budgets: &Budgets, id: u128, amount: Usd) -> bool {
    let drawn = budgets.draw(&InferenceRequest::chat("hi").tenant("acme"), &route()).unwrap();
    let held = drawn.hold(AttemptId::new(id), amount, Duration::from_secs(60));
    let is_set_aside = budgets.reserve(&held).await.is_ok();
    is_set_aside && budgets.settle_now(&held, Charge::Spent(amount))
}

#[tokio::test(start_paused = true)]
async fn a_threshold_is_told_once_for_a_whole_month_and_again_in_the_next() {
    // Scenario: a hundred dimes a month against $5, on the first of two months and again on their last days.
    // Expected: each threshold once a month, whoever remembers what was told for how long; the hard one is also used up.
    for budget in [Budget::monthly(usd!("5")).soft(), Budget::monthly(usd!("5"))] {
        let (budgets, clock, told) = budgets([budget]);
        for id in 0..400 {
            if id % 100 == 0 {
                clock.set(SystemTime::UNIX_EPOCH + Duration::from_secs([0, 29, 31, 57][id / 100] * 86_400));
            }
            spend(&budgets, id as u128, usd!("0.10")).await;
        }
        assert_eq!(*told.lock().unwrap(), [50, 80, 100, 50, 80, 100]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_no_window_has_room_for_is_no_news_and_the_first_that_finds_too_little_is() {
    let (budgets, _, told) = budgets([Budget::daily(usd!("5"))]);
    assert!(!spend(&budgets, 1, usd!("6")).await);
    assert!(told.lock().unwrap().is_empty());
    assert!(spend(&budgets, 2, usd!("1")).await);
    for id in 3..9 {
        assert!(!spend(&budgets, id, usd!("4.50")).await);
    }
    assert_eq!(*told.lock().unwrap(), [100]);
}

#[test]
fn what_an_attempt_falls_under_stands_in_one_order_however_it_was_written_down() {
    let of =
        || vec![Budget::total(usd!("1")).per_model(), Budget::daily(usd!("1")).per_tenant(), Budget::daily(usd!("1"))];
    let reversed = || of().into_iter().rev();
    let accounts = |budgets: &Budgets| {
        let drawn = budgets.draw(&InferenceRequest::chat("hi").tenant("acme"), &route()).unwrap();
        drawn.0.iter().map(|line| line.account.as_str().to_owned()).collect::<Vec<_>>()
    };
    let names = ["day|UTC|hard|global", "day|UTC|hard|tenant:acme", "total|UTC|hard|model:8:together/m"];
    assert_eq!(accounts(&budgets(of()).0), names);
    assert_eq!(accounts(&budgets(reversed()).0), names);
}

#[test]
fn shares_are_rounded_up_so_that_no_threshold_is_passed_too_early() {
    for (nanos, percent, share_of) in [(0, 50, 0), (1, 50, 1), (101, 50, 51), (100, 80, 80), (i64::MAX, 200, i64::MAX)]
    {
        assert_eq!(share(Usd::from_nanos(nanos), percent), Usd::from_nanos(share_of));
    }
}
