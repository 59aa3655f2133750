//! Budgets that hold: never overshot, never leaked, cut by the calendar, and explained.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::join_all;
use together_inference::{
    InferenceRequest, InferenceResponse, InferenceService, Price, Usd,
    cost::{Budget, BudgetStore, Expired, MemoryBudgets, MemoryCosts, Remaining, Scope, Unpriced, Window},
    notify::AlertKind,
    service::{BuildError, Error, ErrorKind, ServiceBuilder},
    testing::{Fault, SimModel, Together},
    types::ManualClock,
    usd,
};

use crate::{
    books::Books,
    budgets_everywhere::windows_hold,
    doubles::{Alerts, BrokenBudget, Canned, Fails, PanicsAtTimes, Remote, client},
    world::{LARGE, MID, ask, ms, muse, poll_at_most, route, secs, settle, spawn},
};

/// A dime for ten tokens.
const PRICE: Price = Price::per_million(Usd::ZERO, usd!("10000"));
const DIME: Usd = usd!("0.10");

/// A question whose answer costs a dime: it is cut after ten tokens.
fn dime() -> InferenceRequest {
    muse("why?").model(LARGE).max_tokens(10).deadline(secs(3_600))
}

/// A provider whose every answer is longer than anybody asks for, at that price.
fn provider() -> Together {
    let sim = Together::new();
    sim.add_model(SimModel::chat(LARGE).price(0, 10_000_000_000));
    sim.on("").reply("word ".repeat(100));
    sim.latency(ms(20));
    sim
}

/// A service on such a provider.
struct Shop {
    service: InferenceService,
    sim: Together,
    books: Books,
}

fn shop(edit: impl FnOnce(ServiceBuilder) -> ServiceBuilder) -> Shop {
    let sim = provider();
    shop_on(&sim, InferenceService::builder(sim.client()), edit)
}

fn shop_on(sim: &Together, builder: ServiceBuilder, edit: impl FnOnce(ServiceBuilder) -> ServiceBuilder) -> Shop {
    let costs = MemoryCosts::new(1_000_000);
    let service = edit(builder.price(&route(LARGE), PRICE).cost_sink(costs.clone())).build().unwrap();
    Shop { service, sim: sim.clone(), books: Books::new(sim, &costs) }
}

async fn left(service: &InferenceService, scope: &Scope) -> Remaining {
    service.budgets().remaining(scope).await.unwrap().remove(0)
}

/// Waits until nothing is on its way, and holds the records against the bill.
async fn adds_up(service: &InferenceService, books: &Books) {
    settle().await;
    assert!(service.flush().await);
    books.add_up();
}

/// Nothing is set aside any more, and this much is spent.
async fn has_spent(service: &InferenceService, scope: &Scope, spent: Usd) {
    settle().await;
    assert!(service.flush().await);
    let left = left(service, scope).await;
    assert_eq!((left.spent, left.reserved), (spent, Usd::ZERO), "{scope}");
}

#[tokio::test(start_paused = true)]
async fn what_a_stream_that_nobody_reads_set_aside_does_not_return() {
    // Scenario: a session of $1 has a stream of at most $0.60, whose reader stalls for a day after its first words; meanwhile
    // another call of the session asks for as much; then the stream is dropped.
    // Expected: the money is set aside as long as the stream is there, and the other call is refused; once it is over, what
    // it has brought is spent and the rest is there again. In no moment is there more than $1.
    for remote in [false, true] {
        let store = Arc::new(MemoryBudgets::new());
        let Shop { service, books, .. } = shop(|builder| {
            let builder = builder.budget(Budget::per_session(usd!("1")));
            if remote { builder.budget_store(Remote(store)) } else { builder.budget_store(store) }
        });
        let session = Scope::Session("run-1".into());
        let dear = || muse("why?").model(LARGE).max_tokens(60).session("run-1");
        let mut stream = service.stream(dear()).await.unwrap();
        for _ in 0..3 {
            stream.next().await.unwrap().unwrap();
        }
        for _ in 0..24 {
            tokio::time::sleep(secs(3_600)).await;
            let refused = service.complete(dear()).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::OverBudget, "remote: {remote}");
            assert!(left(&service, &session).await.reserved >= usd!("0.60"));
        }
        drop(stream);
        settle().await;
        assert!(service.flush().await);
        let after = left(&service, &session).await;
        assert!(after.reserved == Usd::ZERO && after.spent > Usd::ZERO && after.spent < usd!("0.40"), "{after:?}");
        service.complete(dear()).await.unwrap();
        settle().await;
        assert!(service.flush().await);
        let after = left(&service, &session).await;
        assert!(after.spent <= usd!("1") && after.calls == 2, "{after:?}");
        adds_up(&service, &books).await;
    }
}

async fn all_at_once(
    service: &InferenceService,
    requests: Vec<InferenceRequest>,
) -> Vec<Result<InferenceResponse, Error>> {
    let calls: Vec<_> = requests.into_iter().map(|request| spawn(service.complete(request))).collect();
    join_all(calls).await.into_iter().map(Result::unwrap).collect()
}

fn admitted(replies: &[Result<InferenceResponse, Error>]) -> usize {
    let refused = replies.iter().filter_map(|reply| reply.as_ref().err());
    refused.for_each(|error| assert_eq!(error.kind(), ErrorKind::OverBudget, "{error}"));
    replies.iter().filter(|reply| reply.is_ok()).count()
}

fn at(time: &str) -> SystemTime {
    let (days, of_day) = time.split_once('T').unwrap();
    let number = |text: &str| text.parse::<u64>().unwrap();
    let [month, day] = [&days[5..7], &days[8..10]].map(number);
    // Of 2026 alone, which is what these tests are about.
    let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334][usize::try_from(month).unwrap() - 1];
    let [hours, minutes, seconds] = [&of_day[0..2], &of_day[3..5], &of_day[6..8]].map(number);
    let day_seconds = (20_454 + before + day - 1) * 86_400;
    SystemTime::UNIX_EPOCH + secs(day_seconds + hours * 3_600 + minutes * 60 + seconds)
}

/// A shop with a budget of $5 on a clock that is moved by hand.
fn on_clock(budget: Budget, start: &str) -> (Shop, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(at(start)));
    (shop(|builder| builder.budget(budget).clock(Arc::clone(&clock) as _)), clock)
}

/// A window is the one that the service's clock shows, on days of 23 and 25 hours and over every jump of the clock.
#[tokio::test(start_paused = true)]
async fn windows_hold_whatever_the_clock_does() {
    windows_hold(Arc::new(MemoryBudgets::new())).await;
}

#[tokio::test(start_paused = true)]
async fn a_thousand_dimes_at_once_share_five_dollars_and_not_a_nano_dollar_more() {
    let stores: [Arc<dyn BudgetStore>; 2] = [Arc::new(MemoryBudgets::new()), Arc::new(Remote(Arc::default()))];
    for store in stores {
        let budget = Budget::daily(usd!("5")).hard();
        let Shop { service, sim, books } = shop(|builder| builder.budget(budget).budget_store(store));
        let replies = all_at_once(&service, vec![dime(); 1_000]).await;
        assert_eq!((admitted(&replies), sim.calls()), (50, 50));
        has_spent(&service, &Scope::Global, usd!("5")).await;
        books.add_up();
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_is_charged_to_all_its_budgets_or_to_none() {
    // Scenario: two tenants with $5 each and $7 together race, a hundred dimes each.
    // Expected: seventy in all, fifty of one at most; what the smaller budget refused took nothing of the others.
    let Shop { service, books, .. } = shop(|builder| {
        builder
            .budget(Budget::daily(usd!("7")))
            .budget(Budget::monthly(usd!("5")).per_tenant())
            .budget(Budget::total(usd!("100")).per_model().soft())
    });
    let of = |tenant: &str| dime().tenant(tenant);
    let replies = all_at_once(&service, (0..200).map(|n| of(["acme", "umbrella"][n % 2])).collect()).await;
    assert_eq!(admitted(&replies), 70);
    has_spent(&service, &Scope::Global, usd!("7")).await;
    has_spent(&service, &Scope::Model(route(LARGE)), usd!("7")).await;
    let (acme, umbrella) =
        (left(&service, &Scope::tenant("acme")).await, left(&service, &Scope::tenant("umbrella")).await);
    assert!(acme.spent <= usd!("5") && umbrella.spent <= usd!("5"));
    assert_eq!(acme.spent + umbrella.spent, usd!("7"));
    assert!((acme.calls + umbrella.calls, acme.window) == (70, Window::Month), "{acme:?} {umbrella:?}");
    adds_up(&service, &books).await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_given_up_anywhere_leaves_nothing_set_aside() {
    // Scenario: calls, whole ones and streams, dropped after so many polls; some are refused by the second budget.
    // Expected: at every point nothing stays reserved, and what is spent are dimes.
    for remote in [false, true] {
        let store: Arc<dyn BudgetStore> =
            if remote { Arc::new(Remote(Arc::default())) } else { Arc::new(MemoryBudgets::new()) };
        let budget = |amount| Budget::total(amount).hard();
        let Shop { service, books, .. } = shop(|builder| {
            builder.budget(budget(usd!("1000"))).budget(budget(usd!("1")).per_tenant()).budget_store(store)
        });
        for polls in 0..40 {
            let request = || dime().tenant(["acme", "umbrella"][polls % 2]);
            poll_at_most(polls, service.complete(request())).await;
            poll_at_most(polls, async { service.stream(request()).await?.finish().await }).await;
            settle().await;
            assert!(service.flush().await);
            let left = left(&service, &Scope::Global).await;
            assert_eq!((left.reserved, left.spent.nanos() % 10_000_000), (Usd::ZERO, 0), "{polls} polls, {left:?}");
        }
        let tenants = [left(&service, &Scope::tenant("acme")).await, left(&service, &Scope::tenant("umbrella")).await];
        let spent: Usd = tenants.iter().map(|left| left.spent).sum();
        has_spent(&service, &Scope::Global, spent).await;
        books.add_up();
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_given_up_calls_leave_nothing_set_aside() {
    let Shop { service, books, .. } = shop(|builder| builder.budget(Budget::total(usd!("100000"))));
    for n in 0..100_000 {
        poll_at_most(n % 3, service.complete(dime())).await;
        if n % 4_000 == 0 {
            settle().await;
            service.flush().await;
        }
    }
    settle().await;
    assert_eq!(left(&service, &Scope::Global).await.reserved, Usd::ZERO);
    adds_up(&service, &books).await;
}

#[tokio::test(start_paused = true)]
async fn time_outs_failures_and_panics_are_settled() {
    let sim = provider();
    let panics = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let transport = PanicsAtTimes { sim: sim.clone(), panics: Arc::clone(&panics) };
    let builder = InferenceService::builder(client(transport));
    let Shop { service, books, .. } = shop_on(&sim, builder, |builder| builder.budget(Budget::total(usd!("100"))));
    service.complete(dime()).await.unwrap_err();
    // Nobody knows whether it was sent: it counts as spent.
    has_spent(&service, &Scope::Global, DIME).await;
    panics.store(false, std::sync::atomic::Ordering::SeqCst);
    sim.fail_next(1, Fault::status(400));
    service.complete(dime()).await.unwrap_err();
    has_spent(&service, &Scope::Global, DIME).await;
    sim.latency(secs(60));
    let late = service.complete(dime().deadline(secs(1))).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::DeadlineExceeded);
    has_spent(&service, &Scope::Global, DIME + DIME).await;
    books.add_up();
}

#[tokio::test(start_paused = true)]
async fn around_midnight_each_day_is_charged_with_its_own_calls() {
    // Scenario: a hundred dimes under way against $5 a day when the day changes, and a hundred more.
    // Expected: fifty of each day, charged to the day of their reservation whenever they end.
    let (Shop { service, books, .. }, clock) = on_clock(Budget::daily(usd!("5")), "2026-11-28T23:59:59Z");
    let before: Vec<_> = (0..100).map(|_| spawn(service.complete(dime()))).collect();
    tokio::time::sleep(ms(1)).await;
    assert_eq!(left(&service, &Scope::Global).await.reserved, usd!("5"));
    clock.advance(secs(1));
    let after = all_at_once(&service, vec![dime(); 100]).await;
    let before: Vec<_> = join_all(before).await.into_iter().map(Result::unwrap).collect();
    assert_eq!((admitted(&before), admitted(&after)), (50, 50));
    has_spent(&service, &Scope::Global, usd!("5")).await;
    clock.set(at("2026-11-28T23:00:00Z"));
    has_spent(&service, &Scope::Global, usd!("5")).await;
    books.add_up();
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_allows_nothing_twice() {
    // Scenario: the clock jumps an hour forward over midnight and back, again and again, while dimes are spent.
    // Expected: $5 a day of those that it shows, whenever it shows them; of a rolling hour never more than $5 in one.
    let (Shop { service, books, .. }, clock) = on_clock(Budget::daily(usd!("5")), "2026-11-28T23:30:00Z");
    let mut counts = [0, 0];
    for turn in 0..20 {
        clock.set(at(["2026-11-28T23:30:00Z", "2026-11-29T00:30:00Z"][turn % 2]));
        counts[turn % 2] += admitted(&all_at_once(&service, vec![dime(); 10]).await);
    }
    assert_eq!(counts, [50, 50]);
    adds_up(&service, &books).await;

    let (Shop { service, books, .. }, clock) =
        on_clock(Budget::rolling(usd!("5"), secs(3_600)), "2026-11-28T23:30:00Z");
    let mut count = 0;
    for turn in 0..20 {
        clock.set(at(["2026-11-28T23:30:00Z", "2026-11-28T22:30:00Z"][turn % 2]));
        count += admitted(&all_at_once(&service, vec![dime(); 10]).await);
    }
    assert_eq!(count, 50);
    clock.set(at("2026-11-29T00:32:00Z"));
    assert_eq!(
        admitted(&all_at_once(&service, vec![dime(); 60]).await),
        50,
        "an hour and a sixtieth later it is empty"
    );
    adds_up(&service, &books).await;
}

#[tokio::test(start_paused = true)]
async fn days_are_as_long_as_the_zone_has_them() {
    let berlin = || Budget::daily(usd!("0.10")).zone("Europe/Berlin");
    for (begins, last, next) in [
        // 23 hours.
        ("2026-03-28T23:00:00Z", "2026-03-29T21:59:59Z", "2026-03-29T22:00:00Z"),
        // 25 hours.
        ("2026-10-24T22:00:00Z", "2026-10-25T22:59:59Z", "2026-10-25T23:00:00Z"),
    ] {
        let (Shop { service, books, .. }, clock) = on_clock(berlin(), begins);
        service.complete(dime()).await.unwrap();
        clock.set(at(last));
        let refused = service.complete(dime()).await.unwrap_err();
        assert_eq!(refused.over_budget().unwrap().resets_at, Some(at(next)), "{refused}");
        assert!(refused.is_retryable());
        clock.set(at(next));
        service.complete(dime()).await.unwrap();
        adds_up(&service, &books).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_costs_more_than_was_thought_is_spent_and_told_of() {
    // Scenario: a server that ignores max_tokens bills fifty tokens where ten were asked for.
    // Expected: all of it is recorded and spent, somebody is told, and later calls find that much less.
    let mut canned = Canned::completion("far too long", "stop");
    canned.body = canned
        .body
        .replace("\"m\"", &format!("{LARGE:?}"))
        .replace("\"completion_tokens\":2", "\"completion_tokens\":50");
    let alerts = Alerts::default();
    let builder = InferenceService::builder(client(canned)).price(&route(LARGE), PRICE).notifier(alerts.clone());
    let service = builder.budget(Budget::total(usd!("0.65")).alert_at([])).build().unwrap();
    let reply = service.complete(dime()).await.unwrap();
    assert_eq!(reply.cost().known(), Some(usd!("0.50")));
    has_spent(&service, &Scope::Global, usd!("0.50")).await;
    assert_eq!(alerts.kinds(), [AlertKind::BudgetOverReserved]);
    assert_eq!(admitted(&all_at_once(&service, vec![dime(); 10]).await), 1, "one more dime fits");
    has_spent(&service, &Scope::Global, usd!("1")).await;
    let refused = service.complete(dime()).await.unwrap_err();
    assert_eq!(refused.over_budget().unwrap().left(), -usd!("0.35"));
}

#[tokio::test(start_paused = true)]
async fn each_threshold_is_told_once_a_window_however_many_cross_it() {
    // Scenario: a hundred dimes at once against $5, soft and hard, on each of two days.
    // Expected: one alert at 50, 80 and 100 % of each budget and day.
    for hard in [false, true] {
        let (alerts, clock) = (Alerts::default(), Arc::new(ManualClock::new(at("2026-11-28T12:00:00Z"))));
        let budget = Budget::daily(usd!("5")).per_tenant();
        let budget = if hard { budget.hard() } else { budget.soft() };
        let Shop { service, books, .. } =
            shop(|builder| builder.budget(budget).notifier(alerts.clone()).clock(Arc::clone(&clock) as _));
        for day in 1..3 {
            let replies = all_at_once(&service, vec![dime().tenant("acme"); 100]).await;
            assert_eq!(admitted(&replies), if hard { 50 } else { 100 });
            settle().await;
            let mut kinds = alerts.kinds();
            kinds.sort_by_key(|kind| kind.as_str());
            let once = [AlertKind::Budget100, AlertKind::Budget50, AlertKind::Budget80];
            let wanted: Vec<_> = once.into_iter().flat_map(|kind| vec![kind; day]).collect();
            assert_eq!(kinds, wanted, "hard {hard}, day {day}");
            clock.advance(secs(86_400));
        }
        let of_acme = |title: &str| title.contains("the daily budget of tenant acme");
        assert!(alerts.taken().iter().all(|alert| of_acme(alert.title())), "{:?}", alerts.taken());
        adds_up(&service, &books).await;
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_that_a_request_says_chooses_whose_money_it_spends() {
    // Scenario: a poor tenant's request names a rich one in its text, its name, its metadata and other fields.
    // Expected: refused for the poor one's budget; nothing of the rich one's is touched.
    let Shop { service, sim, books } = shop(|builder| builder.budget(Budget::total(usd!("0.05")).per_tenant()));
    service.budgets().set(Scope::tenant("rich"), Window::Total, usd!("1000")).unwrap();
    let forged = InferenceRequest::chat("tenant: rich\n{\"tenant\": \"rich\", \"budget\": 1000}")
        .system("X-Tenant: rich; session=rich")
        .model(LARGE)
        .max_tokens(10)
        .tag("tenant", "rich")
        .session("rich")
        .extra("metadata", serde_json::json!({"tenant": "rich", "limit": "1000"}))
        .extra("user", "rich")
        .tenant("poor");
    let refused = service.complete(forged).await.unwrap_err();
    assert_eq!(refused.over_budget().unwrap().scope, Scope::tenant("poor"));
    assert_eq!(sim.calls(), 0);
    assert_eq!(left(&service, &Scope::tenant("rich")).await.calls, 0);
    books.add_up();
}

#[tokio::test(start_paused = true)]
async fn a_session_has_so_much_money_and_so_many_calls() {
    let Shop { service, sim, books } =
        shop(|builder| builder.budget(Budget::per_session(usd!("1.00")).max_calls(3).hard()));
    let run = |session: &str| dime().session(session);
    let replies = all_at_once(&service, vec![run("one"); 100]).await;
    assert_eq!((admitted(&replies), sim.calls()), (3, 3));
    let refused = service.complete(run("one")).await.unwrap_err();
    assert_eq!(refused.to_string(), "over_budget: the budget of session one allows 3 calls, and 3 were made",);
    // Others are not concerned, nor is what has no session, nor what the cache has.
    service.complete(run("two")).await.unwrap();
    service.complete(dime()).await.unwrap();
    sim.on("briefly").reply("yes");
    let cached = || ask("briefly?").model(LARGE).max_tokens(10).session("three");
    for _ in 0..9 {
        service.complete(cached()).await.unwrap();
    }
    let three = left(&service, &Scope::Session("three".into())).await;
    assert_eq!((three.calls, three.max_calls, three.spent), (1, Some(3), usd!("0.01")));
    // What was not sent was no call: its money is too little.
    let dear = service.complete(run("two").max_tokens(1_000)).await.unwrap_err();
    assert!(!dear.over_budget().unwrap().is_of_calls(), "{dear}");
    assert_eq!(left(&service, &Scope::Session("two".into())).await.calls, 1);
    adds_up(&service, &books).await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_says_which_budget_how_much_is_left_and_what_made_the_bound() {
    let (Shop { service, books, .. }, _) = on_clock(Budget::daily(usd!("0.25")).per_tenant(), "2026-11-28T12:00:00Z");
    let acme = || muse("why?").model(LARGE).tenant("acme");
    service.complete(acme().max_tokens(20)).await.unwrap();
    let refused = service.complete(acme().max_tokens(20)).await.unwrap_err();
    let prompt = refused.over_budget().unwrap().bound.unwrap().prompt_tokens;
    assert_eq!(
        refused.to_string(),
        format!(
            "over_budget: the daily budget of tenant acme has $0.05 of $0.25 left ($0.20 spent, $0.00 set aside), and the \
             call may cost $0.20: at most {prompt} prompt tokens at $0.00/M, 20 of the answer at $10000.00/M; it is full \
             again at 2026-11-29T00:00:00Z; ask for less, or raise the budget"
        )
    );
    assert_eq!((refused.status_hint(), refused.public_message()), (402, "The budget is used up."));
    service.complete(acme().max_tokens(5)).await.unwrap();
    adds_up(&service, &books).await;
}

#[tokio::test(start_paused = true)]
async fn a_hard_budget_of_tenants_asks_for_one_and_one_of_tags_applies_to_them_alone() {
    let tagged = Budget::daily(usd!("0.10")).per_tag("team");
    let Shop { service, sim, books } =
        shop(|builder| builder.budget(Budget::daily(usd!("5")).per_tenant()).budget(tagged));
    let refused = service.complete(dime()).await.unwrap_err();
    assert_eq!((refused.kind(), refused.invalid().unwrap().field), (ErrorKind::InvalidRequest, "tenant"));
    assert_eq!(sim.calls(), 0);
    let acme = || dime().tenant("acme");
    for _ in 0..3 {
        service.complete(acme()).await.unwrap();
        service.complete(acme().tag("other", "search")).await.unwrap();
    }
    service.complete(acme().tag("team", "search")).await.unwrap();
    let refused = service.complete(acme().tag("team", "search")).await.unwrap_err();
    assert_eq!(refused.over_budget().unwrap().scope, Scope::Tag("team".into(), "search".into()));
    service.complete(acme().tag("team", "ads")).await.unwrap();
    adds_up(&service, &books).await;

    let Shop { service, books, .. } = shop(|builder| builder.budget(Budget::daily(usd!("5")).per_tenant().soft()));
    service.complete(dime()).await.unwrap();
    adds_up(&service, &books).await;
}

#[tokio::test(start_paused = true)]
async fn under_a_hard_budget_alone_an_answer_without_a_bound_gets_one() {
    let sent = async |budget: Budget, request: InferenceRequest| {
        let Shop { service, sim, books } = shop(|builder| builder.budget(budget).default_max_tokens(7));
        service.complete(request).await.unwrap();
        adds_up(&service, &books).await;
        sim.requests()[0].body["max_tokens"].clone()
    };
    let open = || muse("why?").model(LARGE);
    assert_eq!(sent(Budget::daily(usd!("5")), open()).await, 7);
    assert_eq!(sent(Budget::daily(usd!("5")), open().max_tokens(3)).await, 3);
    assert!(sent(Budget::daily(usd!("5")).soft(), open()).await.is_null());
}

#[tokio::test(start_paused = true)]
async fn a_model_without_a_price_is_refused_with_the_line_that_sets_it_or_charged_as_assumed() {
    let unpriced = |edit: &dyn Fn(ServiceBuilder) -> ServiceBuilder| {
        let shop = shop(|builder| edit(builder.budget(Budget::daily(usd!("5")))));
        shop.sim.add_model(SimModel::chat("acme/own"));
        shop
    };
    let own = || dime().model("acme/own");
    let refused = unpriced(&|builder| builder).service.complete(own()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unpriced);
    let line = r#".price(&RouteId::new("together", "acme/own"), Price::per_million("#;
    assert!(refused.to_string().contains(line), "{refused}");

    let Shop { service, books, .. } = unpriced(&|builder| builder.unpriced(Unpriced::Assume(PRICE)));
    let replies = all_at_once(&service, vec![own(); 100]).await;
    assert_eq!(admitted(&replies), 50);
    assert!(replies.iter().flatten().all(|reply| reply.cost().known().is_none()), "its records stay without a price");
    has_spent(&service, &Scope::Global, usd!("5")).await;
    books.add_up();
}

#[tokio::test(start_paused = true)]
async fn amounts_change_while_the_service_runs() {
    let Shop { service, books, .. } = shop(|builder| builder.budget(Budget::daily(usd!("0.10")).per_tenant()));
    let budgets = service.budgets();
    let spend = async |tenant: &str, n| admitted(&all_at_once(&service, vec![dime().tenant(tenant); n]).await);
    assert_eq!((spend("acme", 3).await, spend("other", 3).await), (1, 1));
    budgets.set(Scope::tenant("acme"), Window::Day, usd!("0.30")).unwrap();
    assert_eq!((spend("acme", 9).await, spend("other", 9).await), (2, 0), "of one alone");
    // Where there was no budget, there is one.
    budgets.set(Scope::Model(route(LARGE)), Window::Month, Usd::ZERO).unwrap();
    budgets.set(Scope::tenant("acme"), Window::Day, usd!("5")).unwrap();
    assert_eq!(spend("acme", 3).await, 0);
    budgets.set(Scope::Model(route(LARGE)), Window::Month, usd!("5")).unwrap();
    assert_eq!(spend("acme", 3).await, 3);
    let negative = budgets.set(Scope::Global, Window::Total, -usd!("1")).unwrap_err();
    assert_eq!(negative.to_string(), "the hard budget of the whole service: -$1.00 is less than nothing");
    adds_up(&service, &books).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_stops_what_is_hard_alone() {
    for (budget, goes_on) in [(Budget::daily(usd!("5")).soft(), true), (Budget::daily(usd!("5")), false)] {
        let Shop { service, sim, books } =
            shop(|builder| builder.budget(budget).budget_store(BrokenBudget(Fails::Errs)));
        let reply = service.complete(dime()).await;
        assert_eq!((reply.is_ok(), sim.calls()), (goes_on, u64::from(goes_on)));
        assert!(reply.err().is_none_or(|error| error.kind() == ErrorKind::Policy));
        adds_up(&service, &books).await;
    }
}

#[tokio::test(start_paused = true)]
async fn another_model_that_fits_is_taken() {
    let Shop { service, books, .. } = shop(|builder| builder.budget(Budget::total(usd!("0.05"))));
    let reply = service.complete(dime().models([LARGE, MID])).await.unwrap();
    assert_eq!(reply.route, route(MID));
    adds_up(&service, &books).await;
}

#[test]
fn budgets_that_cannot_be_are_no_service() {
    let build = |budget: Budget| InferenceService::builder(Together::new().client()).budget(budget).build();
    for (budget, wrong) in [
        (Budget::daily(-usd!("1")), "-$1.00 is less than nothing"),
        (Budget::daily(usd!("1")).zone("Europe/Atlantis"), "there is no time zone \"Europe/Atlantis\""),
        (Budget::rolling(usd!("1"), ms(10)), "a rolling window takes a second at least"),
        (Budget::per_session(usd!("1")).max_calls(0), "max_calls(0) lets no call out"),
        (Budget::daily(usd!("1")).alert_at([0]), "an alert at 0 %"),
    ] {
        let error = build(budget).unwrap_err();
        assert!(matches!(error, BuildError::Budget(_)) && error.to_string().contains(wrong), "{error}");
    }
    let twice = InferenceService::builder(Together::new().client())
        .budget(Budget::daily(usd!("1")).per_tenant())
        .budget(Budget::daily(usd!("2")).per_tenant().expired(Expired::Return));
    assert!(twice.build().unwrap_err().to_string().contains("the hard daily budget per tenant: there are two of it"));
    build(Budget::rolling(usd!("1"), Duration::MAX).per_key()).unwrap();
}
