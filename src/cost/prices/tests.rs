use std::time::Duration;

use super::*;
use crate::{
    Usage, Usd,
    types::{ManualClock, Rate, Rng, SeededRng},
};

fn route() -> RouteId {
    RouteId::new("together", "m")
}

fn price(dollars: i64) -> Price {
    let dollars = Usd::from_nanos(dollars * 1_000_000_000);
    Price::per_million(dollars, dollars)
}

fn book() -> (PriceBook, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000)));
    (PriceBook::new(Arc::clone(&clock) as Arc<dyn Clock>), clock)
}

#[test]
fn the_strongest_word_counts_in_whatever_order_they_are_spoken() {
    let words = [PriceSource::Catalogue, PriceSource::ModelList, PriceSource::SupportedModels, PriceSource::User];
    let of = |at: usize| price(i64::try_from(at).unwrap() + 1);
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]] {
        let (book, _) = book();
        for at in order {
            book.set(&route(), of(at), words[at]);
        }
        for at in (0..4).rev() {
            let stamp = book.get(&route()).unwrap();
            assert_eq!((stamp.price, stamp.source), (of(at), words[at]), "{order:?}");
            book.withdraw(&route(), words[at]);
        }
        let last = book.get(&route()).unwrap();
        assert_eq!(last.price, price(1), "where nobody says one any more, the last price stands");
    }
}

#[test]
fn each_change_is_one_version_and_keeps_its_time() {
    let (book, clock) = book();
    for dollars in [1, 1, 2, 2, 3] {
        book.set(&route(), price(dollars), PriceSource::ModelList);
        clock.advance(Duration::from_secs(10));
    }
    let versions: Vec<_> = book.history(&route()).iter().map(|stamp| (stamp.version, stamp.price)).collect();
    assert_eq!(versions, [(1, price(1)), (2, price(2)), (3, price(3))]);
    let at = |seconds| book.at(&route(), SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).map(|at| at.version);
    assert_eq!(
        [999, 1_000, 1_019, 1_020, 1_039, 1_040, 9_999].map(at),
        [None, Some(1), Some(1), Some(2), Some(2), Some(3), Some(3)]
    );
    // The same price by a better word is the same version.
    book.set(&route(), price(3), PriceSource::SupportedModels);
    let stamp = book.get(&route()).unwrap();
    assert_eq!((stamp.version, stamp.source), (3, PriceSource::SupportedModels));
}

#[test]
fn the_history_is_bounded_and_versions_go_on() {
    let (book, _) = book();
    for dollars in 1..=1_000 {
        book.set(&route(), price(dollars), PriceSource::User);
    }
    let history = book.history(&route());
    assert_eq!(history.len(), MOST_VERSIONS);
    assert_eq!(history.last().map(|stamp| stamp.version), Some(1_000));
    assert_eq!(book.version(&route(), 936), None);
    assert_eq!(book.version(&route(), 937).map(|stamp| stamp.price), Some(price(937)));
}

#[test]
fn a_clock_that_is_set_back_leaves_the_versions_in_order() {
    let (book, clock) = book();
    book.set(&route(), price(1), PriceSource::User);
    clock.set(SystemTime::UNIX_EPOCH);
    book.set(&route(), price(2), PriceSource::User);
    let since: Vec<_> = book.history(&route()).iter().map(|stamp| stamp.since).collect();
    assert!(since.is_sorted());
    assert_eq!(book.at(&route(), SystemTime::UNIX_EPOCH + Duration::from_secs(1_000)).map(|at| at.version), Some(2));
}

#[test]
fn a_discount_is_a_version_of_its_own_and_stays_when_the_price_changes() {
    let (book, _) = book();
    book.set_batch_percent_off(&route(), Some(30));
    assert_eq!(book.get(&route()), None, "a discount is no price");
    book.set(&route(), price(1), PriceSource::ModelList);
    assert_eq!(book.get(&route()).unwrap().batch_percent_off, 30);
    let change = book.set_batch_percent_off(&route(), Some(50));
    assert!(change.is_change());
    book.set(&route(), price(2), PriceSource::ModelList);
    let stamp = book.get(&route()).unwrap();
    assert_eq!((stamp.version, stamp.batch()), (3, price(1)));
    book.set_batch_percent_off(&route(), None);
    assert_eq!(book.get(&route()).unwrap().batch(), price(2));
}

#[test]
fn only_the_providers_own_models_have_its_discount() {
    let (book, _) = book();
    let model = DISCOUNTED[0].0;
    for (upstream, percent) in [("together", 50), ("local", 0)] {
        book.set(&RouteId::new(upstream, model), price(1), PriceSource::User);
        assert_eq!(book.get(&RouteId::new(upstream, model)).unwrap().batch_percent_off, percent);
    }
}

/// What the usage costs, by whole numbers of 128 bits and nothing else.
fn reference(price: &Price, usage: &Usage) -> i128 {
    let cached = usage.cached.min(usage.prompt);
    let of = |rate: Rate, count: u64| i128::from(rate.picos()) * i128::from(count);
    let tokens = of(price.input, usage.prompt - cached)
        + of(price.cached_input.unwrap_or(price.input), cached)
        + of(price.output, usage.completion)
        + of(price.pixel, usage.pixels)
        + i128::from(price.image.nanos()) * i128::from(usage.images) * 1_000;
    let seconds = i128::from(usage.seconds);
    let timed = i128::from(price.audio_minute.nanos()) * 60 * seconds + i128::from(price.hour.nanos()) * seconds;
    let parts = tokens * 3_600 + timed * 1_000;
    (parts + 3_599_999) / 3_600_000
}

#[test]
fn a_million_random_usages_cost_what_the_reference_says_and_add_up() {
    let rng = SeededRng::new(11);
    let draw = |below: u64| rng.next_u64() % below;
    let (mut sum, mut expected) = (Usd::ZERO, 0_i128);
    for number in 0..1_000_000_u32 {
        let mut price = Price::from_rates(
            Rate::from_picos(draw(20_000_000)),
            (draw(2) == 0).then(|| Rate::from_picos(draw(5_000_000))),
            Rate::from_picos(draw(60_000_000)),
        );
        let mut usage = Usage { prompt: draw(200_000), cached: draw(250_000), completion: draw(40_000), ..Usage::ZERO };
        if number % 3 == 0 {
            (price.image, price.pixel) =
                (Usd::from_nanos(draw(50_000_000).cast_signed()), Rate::from_picos(draw(5_000)));
            (usage.images, usage.pixels) = (draw(9), draw(9 << 20));
        }
        if number % 5 == 0 {
            (price.audio_minute, price.hour) =
                (Usd::from_nanos(draw(10_000_000).cast_signed()), Usd::from_nanos(draw(9_000_000_000).cast_signed()));
            usage.seconds = draw(100_000);
        }
        let cost = price.cost(&usage);
        assert_eq!(i128::from(cost.nanos()), reference(&price, &usage), "{price:?} {usage:?}");
        assert!(price.upper_bound(&usage) >= cost);
        sum += cost;
        expected += i128::from(cost.nanos());
    }
    assert_eq!(i128::from(sum.nanos()), expected);
}
