use super::*;
use crate::usd;

const HOLD: Duration = Duration::from_secs(60);

fn line(name: &str, limit: Usd) -> Line {
    Line::new(Account::new(name), Period::new(0), limit)
}

fn hold(id: u128, amount: Usd, line: Line) -> Arc<Hold> {
    Arc::new(Hold::new(AttemptId::new(id), amount, vec![line], HOLD))
}

async fn reserve(budgets: &MemoryBudgets, hold: &Arc<Hold>) -> bool {
    budgets.reserve(hold).await.is_ok()
}

fn used(budgets: &MemoryBudgets, line: &Line) -> (Usd, Usd) {
    let books = budgets.lock();
    books
        .accounts
        .get(&line.account)
        .map(|it| it.read(line.period))
        .map_or_else(Default::default, |balance| (balance.spent, balance.reserved))
}

#[tokio::test(start_paused = true)]
async fn expired_reservations_make_room_for_new_ones_and_stay_spent() {
    let budgets = MemoryBudgets::new();
    let (cent, all) = (usd!("0.001"), line("all", usd!("1000")));
    for id in 0..MAX_HELD as u128 {
        assert!(reserve(&budgets, &hold(id, cent, all.clone())).await);
    }
    let next = || hold(MAX_HELD as u128, cent, all.clone());
    assert!(matches!(budgets.reserve(&next()).await, Err(BudgetError::Store(_))));
    tokio::time::advance(HOLD).await;
    assert!(reserve(&budgets, &next()).await);
    assert_eq!(used(&budgets, &all), (usd!("100"), cent));
}

#[tokio::test(start_paused = true)]
async fn what_expires_in_a_slot_that_is_forgotten_counts_nowhere() {
    // Scenario: a call that costs nothing sets aside nothing, in a rolling window, and is never settled; its slot is forgotten
    // among many later ones before it expires.
    // Expected: the account is as if it had not been, and others go on.
    let budgets = MemoryBudgets::new();
    let at = |slot| Line { period: Period::rolling(slot, slot - 60), ..line("r", usd!("1")) };
    let free = |id: u128, slot| hold(id, Usd::ZERO, at(slot).expired(Expired::Return));
    assert!(reserve(&budgets, &free(0, 0)).await);
    for n in 1..=OLD_SLOTS as u128 + 2 {
        let later = free(n, 1_000 * i64::try_from(n).unwrap());
        assert!(reserve(&budgets, &later).await);
        budgets.settle(&later, Charge::Spent(Usd::ZERO)).await.unwrap();
    }
    let all = [(at(0).account, at(0).period)];
    let before = budgets.read(&all).await.unwrap();
    tokio::time::advance(HOLD).await;
    assert_eq!(budgets.read(&all).await.unwrap(), before);
    assert!(budgets.settle(&free(0, 0), Charge::NotSent).await.is_ok());
    assert!(reserve(&budgets, &free(100, 0)).await);
}

#[tokio::test(start_paused = true)]
async fn a_reservation_may_be_for_ever() {
    let budgets = MemoryBudgets::new();
    let for_ever = Hold::new(AttemptId::new(1), usd!("1"), vec![line("all", usd!("1"))], Duration::MAX);
    assert!(reserve(&budgets, &Arc::new(for_ever)).await);
    tokio::time::advance(HOLD * 1_000_000).await;
    assert!(!reserve(&budgets, &hold(2, usd!("1"), line("all", usd!("1")))).await);
    assert_eq!(used(&budgets, &line("all", usd!("1"))), (Usd::ZERO, usd!("1")));
}

#[tokio::test(start_paused = true)]
async fn accounts_are_bounded_and_only_those_of_no_more_use_are_forgotten() {
    // Scenario: a quarter of a million sessions, one of which spends money all day, and one is under way all day.
    // Expected: there is no room for more until the others were left alone for a day, and those two are still known.
    let budgets = MemoryBudgets::new();
    let keep = Duration::from_secs(86_400);
    let session = |n: usize| line(&n.to_string(), usd!("1")).keep(keep);
    for n in 0..MAX_ACCOUNTS {
        let hold = Arc::new(Hold::new(AttemptId::new(n as u128), usd!("0.5"), vec![session(n)], keep * 3));
        assert!(reserve(&budgets, &hold).await);
        if n != 1 {
            budgets.settle(&hold, Charge::Spent(usd!("0.25"))).await.unwrap();
        }
    }
    let late = || hold(u128::MAX, usd!("0.1"), session(MAX_ACCOUNTS));
    assert!(matches!(budgets.reserve(&late()).await, Err(BudgetError::Store(_))));
    tokio::time::advance(keep / 2).await;
    let busy = hold(u128::MAX - 1, usd!("0.5"), session(0));
    assert!(reserve(&budgets, &busy).await);
    budgets.settle(&busy, Charge::Spent(usd!("0.5"))).await.unwrap();
    tokio::time::advance(keep / 2).await;
    assert!(reserve(&budgets, &late()).await);
    assert_eq!(budgets.lock().accounts.all.len(), 3);
    assert_eq!(used(&budgets, &session(0)), (usd!("0.75"), Usd::ZERO));
    assert_eq!(used(&budgets, &session(1)), (Usd::ZERO, usd!("0.5")));
}

#[tokio::test(start_paused = true)]
async fn windows_that_are_over_are_forgotten_but_for_the_last_few() {
    let budgets = MemoryBudgets::new();
    let day = |n: i64| Line { period: Period::new(n * 86_400), ..line("day", usd!("1")) };
    let open = hold(0, usd!("0.5"), day(0));
    assert!(reserve(&budgets, &open).await);
    for n in 1..100 {
        let hold = hold(n, usd!("1"), day(i64::try_from(n).unwrap()));
        assert!(reserve(&budgets, &hold).await);
        budgets.settle(&hold, Charge::Spent(usd!("1"))).await.unwrap();
    }
    let slots = |budgets: &MemoryBudgets| budgets.lock().accounts.get(&day(0).account).unwrap().slots.len();
    assert!(slots(&budgets) <= OLD_SLOTS + 3, "{} slots", slots(&budgets));
    assert_eq!(used(&budgets, &day(98)), (usd!("1"), Usd::ZERO), "for a clock that is set back");
    budgets.settle(&open, Charge::Spent(usd!("0.25"))).await.unwrap();
    assert_eq!(used(&budgets, &day(0)), (usd!("0.25"), Usd::ZERO), "a charge finds its window whenever it comes");
}

#[tokio::test(start_paused = true)]
async fn a_charge_that_comes_when_its_window_is_long_forgotten_counts_nowhere() {
    // Scenario: reservations of a day, one of nothing and one that expired, are settled ten days later.
    // Expected: no balance below zero, nor a day that nobody asks for any more.
    let budgets = MemoryBudgets::new();
    let day = |n: i64| Line { period: Period::new(n * 86_400), ..line("day", usd!("1")) };
    let late = [hold(1, Usd::ZERO, day(0)), hold(2, usd!("0.5"), day(0))];
    for hold in &late {
        assert!(reserve(&budgets, hold).await);
    }
    tokio::time::advance(HOLD).await;
    for n in 1..10 {
        let hold = hold(n + 10, usd!("1"), day(i64::try_from(n).unwrap()));
        assert!(reserve(&budgets, &hold).await);
        budgets.settle(&hold, Charge::Spent(usd!("1"))).await.unwrap();
    }
    for hold in &late {
        budgets.settle(hold, Charge::NotSent).await.unwrap();
    }
    assert_eq!(used(&budgets, &day(0)), (Usd::ZERO, Usd::ZERO));
}
