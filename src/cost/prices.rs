//! What each route costs, by whose word, and since when.
//!
//! # Why versions and not just a price
//!
//! A price that changes while an attempt is out must not change what the attempt cost, and a record of last month must
//! not be priced anew by today's list. So each change is a version with its time; an attempt carries the one that stood
//! when it was dispatched, and a record finds its own again.

mod said;

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::SystemTime,
};

use self::said::Said;
use crate::types::{Clock, Price, RouteId, SystemClock, UpstreamId};

/// Versions of a route's price that are kept; past it the oldest is forgotten. A list that changed its price every day
/// would be remembered for two months.
const MOST_VERSIONS: usize = 64;

/// What the provider takes off a batch, in percent, by its overview of 2026: no other model is discounted.
const DISCOUNTED: [(&str, u8); 2] = [("meta-llama/Llama-3.3-70B-Instruct-Turbo", 50), ("openai/whisper-large-v3", 50)];

/// Whose word a price is; a later one wins.
///
/// ```
/// use together_inference::cost::PriceSource;
///
/// assert!(PriceSource::User > PriceSource::ModelList && PriceSource::ModelList > PriceSource::Catalogue);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum PriceSource {
    /// The router's catalogue.
    Catalogue,
    /// The provider's model list.
    ModelList,
    /// `/v2/supported-models`.
    SupportedModels,
    /// The application.
    User,
}

impl PriceSource {
    /// The source's name in alerts and reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Catalogue => "catalogue",
            Self::ModelList => "model list",
            Self::SupportedModels => "supported models",
            Self::User => "application",
        }
    }
}

impl fmt::Display for PriceSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A price as it stood from one moment on.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct PriceStamp {
    /// The price.
    pub price: Price,
    /// The strongest word by which it stands.
    pub source: PriceSource,
    /// Grows with each change of this route's price, from 1 on. It begins anew with each book: what is kept for longer
    /// than a process keeps the price itself.
    pub version: u64,
    /// From when on it stands. Never before that of the version before, whatever the clock does.
    pub since: SystemTime,
    /// What the provider takes off a batch, in percent.
    pub batch_percent_off: u8,
}

impl PriceStamp {
    /// The price of the same in a batch.
    ///
    /// ```
    /// use together_inference::{Price, RouteId, cost::{PriceBook, PriceSource}, usd};
    ///
    /// let (book, price) = (PriceBook::default(), Price::per_million(usd!("0.88"), usd!("0.88")));
    /// for (model, dollars) in [("meta-llama/Llama-3.3-70B-Instruct-Turbo", usd!("0.44")), ("acme/m", usd!("0.88"))] {
    ///     let stamp = book.set(&RouteId::new("together", model), price, PriceSource::ModelList).now.unwrap();
    ///     assert_eq!(stamp.batch(), Price::per_million(dollars, dollars), "few models are discounted");
    /// }
    /// ```
    #[must_use]
    pub fn batch(&self) -> Price {
        if self.batch_percent_off == 0 { self.price } else { self.price.percent_off(self.batch_percent_off) }
    }
}

/// A route's price before and after somebody spoke.
///
/// ```
/// use together_inference::{Price, RouteId, cost::{PriceBook, PriceSource}, usd};
///
/// let (book, route) = (PriceBook::default(), RouteId::new("together", "m"));
/// let price = |dollars| Price::per_million(dollars, dollars);
/// assert!(!book.set(&route, price(usd!("1")), PriceSource::ModelList).is_change(), "there was none before");
/// let change = book.set(&route, price(usd!("2")), PriceSource::ModelList);
/// assert!(change.is_change());
/// assert_eq!(change.before.map(|stamp| stamp.price), Some(price(usd!("1"))));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct PriceChange {
    /// What stood before.
    pub before: Option<PriceStamp>,
    /// What stands now.
    pub now: Option<PriceStamp>,
}

impl PriceChange {
    /// Whether the route had a price and has another one now.
    #[must_use]
    pub fn is_change(&self) -> bool {
        matches!((self.before, self.now), (Some(before), Some(now)) if before.version != now.version)
    }

    fn of_prices(self) -> Self {
        Self { before: self.before.filter(is_price), now: self.now.filter(is_price) }
    }
}

/// Prices by route. An attempt is priced by the stamp at its dispatch, so that a change in flight does not touch it.
///
/// Of several who say a price the strongest [`PriceSource`] counts: the application, then `/v2/supported-models`, then
/// `/v1/models`, then the catalogue. A word that is withdrawn leaves it to the next one; where none is left, the last
/// price stands. A route of which nobody ever said a price has none: it is not free. Nor is one of which the strongest
/// says a [price below nothing](Price::is_negative): it has none while that word stands.
///
/// ```
/// use together_inference::{Price, RouteId, cost::{PriceBook, PriceSource}, usd};
///
/// let book = PriceBook::default();
/// let route = RouteId::new("together", "m");
/// book.set(&route, Price::per_million(usd!("1"), usd!("2")), PriceSource::User);
/// // What the provider lists does not override what the application says.
/// book.set(&route, Price::per_million(usd!("9"), usd!("9")), PriceSource::ModelList);
/// assert_eq!(book.get(&route).map(|stamp| stamp.price), Some(Price::per_million(usd!("1"), usd!("2"))));
/// ```
#[derive(Debug)]
pub struct PriceBook {
    pages: RwLock<HashMap<RouteId, Page>>,
    clock: Arc<dyn Clock>,
}

/// What is known of one route.
#[derive(Debug, Default)]
struct Page {
    said: Said,
    /// Oldest first.
    versions: VecDeque<PriceStamp>,
    percent_off: Option<u8>,
}

impl Default for PriceBook {
    /// An empty book by the system's clock.
    fn default() -> Self {
        Self::new(Arc::new(SystemClock))
    }
}

impl PriceBook {
    /// An empty book that takes the times of changes from this clock.
    ///
    /// ```
    /// use std::{sync::Arc, time::{Duration, SystemTime}};
    /// use together_inference::{Price, RouteId, cost::{PriceBook, PriceSource}, types::ManualClock, usd};
    ///
    /// let clock = Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH));
    /// let (book, route) = (PriceBook::new(clock.clone()), RouteId::new("together", "m"));
    /// book.set(&route, Price::per_image(usd!("0.01")), PriceSource::User);
    /// clock.advance(Duration::from_secs(60));
    /// book.set(&route, Price::per_image(usd!("0.02")), PriceSource::User);
    ///
    /// let at = |seconds| book.at(&route, SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    /// assert_eq!(at(59).map(|stamp| stamp.price), Some(Price::per_image(usd!("0.01"))));
    /// assert_eq!(at(60).map(|stamp| stamp.version), Some(2));
    /// ```
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { pages: RwLock::default(), clock }
    }

    /// Sets a route's price by this word. It counts unless a stronger word stands.
    ///
    /// ```
    /// use together_inference::{Price, RouteId, cost::{PriceBook, PriceSource}, usd};
    ///
    /// let (book, route) = (PriceBook::default(), RouteId::new("together", "m"));
    /// let price = |dollars| Price::per_million(dollars, dollars);
    /// book.set(&route, price(usd!("1")), PriceSource::ModelList);
    /// book.set(&route, price(usd!("1")), PriceSource::ModelList);
    /// assert_eq!(book.get(&route).map(|stamp| stamp.version), Some(1), "no change, no version");
    /// book.set(&route, price(usd!("2")), PriceSource::ModelList);
    /// assert_eq!(book.get(&route).map(|stamp| stamp.version), Some(2));
    /// ```
    pub fn set(&self, route: &RouteId, price: Price, source: PriceSource) -> PriceChange {
        self.say(route, &[(source, Some(price))])
    }

    /// Takes this word on a route back: the next strongest counts, or the last price where nobody else says one.
    ///
    /// ```
    /// use together_inference::{Price, RouteId, cost::{PriceBook, PriceSource}, usd};
    ///
    /// let (book, route) = (PriceBook::default(), RouteId::new("together", "m"));
    /// book.set(&route, Price::per_image(usd!("0.01")), PriceSource::ModelList);
    /// book.set(&route, Price::FREE, PriceSource::User);
    /// book.withdraw(&route, PriceSource::User);
    /// assert_eq!(book.get(&route).map(|stamp| stamp.price), Some(Price::per_image(usd!("0.01"))));
    /// book.withdraw(&route, PriceSource::ModelList);
    /// assert_eq!(book.get(&route).map(|stamp| stamp.price), Some(Price::per_image(usd!("0.01"))));
    /// ```
    pub fn withdraw(&self, route: &RouteId, source: PriceSource) -> PriceChange {
        self.say(route, &[(source, None)])
    }

    /// Takes over what several say of a route at once, so that it is one change.
    pub(crate) fn say(&self, route: &RouteId, words: &[(PriceSource, Option<Price>)]) -> PriceChange {
        let mut pages = self.pages.write().unwrap_or_else(PoisonError::into_inner);
        if !pages.contains_key(route) {
            if words.iter().all(|(_, price)| price.is_none()) {
                return PriceChange::default();
            }
            pages.insert(route.clone(), Page::default());
        }
        let Some(page) = pages.get_mut(route) else { return PriceChange::default() };
        for (source, price) in words {
            page.said.set(*source, *price);
        }
        page.turn(route, &*self.clock).of_prices()
    }

    /// Sets what the provider takes off this route's batches, in percent; `None` for what is known of the provider.
    ///
    /// ```
    /// use together_inference::{Price, RouteId, cost::{PriceBook, PriceSource}, usd};
    ///
    /// let (book, route) = (PriceBook::default(), RouteId::new("local", "m"));
    /// book.set(&route, Price::per_image(usd!("0.01")), PriceSource::User);
    /// book.set_batch_percent_off(&route, Some(25));
    /// assert_eq!(book.get(&route).map(|stamp| stamp.batch()), Some(Price::per_image(usd!("0.0075"))));
    /// ```
    pub fn set_batch_percent_off(&self, route: &RouteId, percent: Option<u8>) -> PriceChange {
        let mut pages = self.pages.write().unwrap_or_else(PoisonError::into_inner);
        let page = pages.entry(route.clone()).or_default();
        page.percent_off = percent;
        page.turn(route, &*self.clock).of_prices()
    }

    /// The price of a route, if anybody said one.
    ///
    /// ```
    /// use together_inference::{RouteId, cost::PriceBook};
    ///
    /// assert_eq!(PriceBook::default().get(&RouteId::new("local", "m")), None, "not known, which is not free");
    /// ```
    #[must_use]
    pub fn get(&self, route: &RouteId) -> Option<PriceStamp> {
        self.of(route, |versions| versions.back().copied().filter(is_price))
    }

    /// This version of a route's price, while it is remembered: the latest 64 are.
    ///
    /// ```
    /// use together_inference::{Price, RouteId, cost::{PriceBook, PriceSource}, usd};
    ///
    /// let (book, route) = (PriceBook::default(), RouteId::new("together", "m"));
    /// book.set(&route, Price::per_image(usd!("0.01")), PriceSource::ModelList);
    /// book.set(&route, Price::per_image(usd!("0.02")), PriceSource::ModelList);
    /// assert_eq!(book.version(&route, 1).map(|stamp| stamp.price), Some(Price::per_image(usd!("0.01"))));
    /// assert_eq!(book.version(&route, 3), None);
    /// ```
    #[must_use]
    pub fn version(&self, route: &RouteId, version: u64) -> Option<PriceStamp> {
        self.of(route, |versions| versions.iter().find(|stamp| stamp.version == version).copied().filter(is_price))
    }

    /// The price of a route as it stood then; `None` where that is longer ago than what is remembered.
    ///
    /// By the book's clock: after a clock was set back, [`version`](Self::version) says it for sure.
    ///
    /// ```
    /// use std::time::SystemTime;
    /// use together_inference::{Price, RouteId, cost::{PriceBook, PriceSource}};
    ///
    /// let (book, route) = (PriceBook::default(), RouteId::new("local", "m"));
    /// book.set(&route, Price::FREE, PriceSource::User);
    /// assert_eq!(book.at(&route, SystemTime::now()), book.get(&route));
    /// assert_eq!(book.at(&route, SystemTime::UNIX_EPOCH), None);
    /// ```
    #[must_use]
    pub fn at(&self, route: &RouteId, time: SystemTime) -> Option<PriceStamp> {
        self.of(route, |versions| versions.iter().rev().find(|stamp| stamp.since <= time).copied().filter(is_price))
    }

    /// Every version of a route's price that is remembered, oldest first.
    ///
    /// ```
    /// use together_inference::{RouteId, cost::PriceBook};
    ///
    /// assert!(PriceBook::default().history(&RouteId::new("local", "m")).is_empty());
    /// ```
    #[must_use]
    pub fn history(&self, route: &RouteId) -> Vec<PriceStamp> {
        let all = |versions: &VecDeque<PriceStamp>| versions.iter().copied().filter(is_price).collect();
        self.of(route, |versions| Some(all(versions))).unwrap_or_default()
    }

    fn of<T>(&self, route: &RouteId, read: impl FnOnce(&VecDeque<PriceStamp>) -> Option<T>) -> Option<T> {
        self.pages.read().unwrap_or_else(PoisonError::into_inner).get(route).and_then(|page| read(&page.versions))
    }
}

impl Page {
    /// Makes a new version if the strongest word, or the discount, is another one than before.
    fn turn(&mut self, route: &RouteId, clock: &dyn Clock) -> PriceChange {
        let before = self.versions.back().copied();
        let strongest = self.said.strongest().or(before.map(|stamp| (stamp.source, stamp.price)));
        let Some((source, price)) = strongest else { return PriceChange::default() };
        let batch_percent_off = self.percent_off.unwrap_or_else(|| known_percent_off(route)).min(100);
        let is_same = |stamp: &&mut PriceStamp| stamp.price == price && stamp.batch_percent_off == batch_percent_off;
        if let Some(stamp) = self.versions.back_mut().filter(is_same) {
            // Another word for the same price is no new version: records of one price stay comparable.
            stamp.source = source;
            return PriceChange { before, now: Some(*stamp) };
        }
        let since = before.map_or_else(|| clock.now(), |stamp| clock.now().max(stamp.since));
        let version = before.map_or(1, |stamp| stamp.version + 1);
        let now = PriceStamp { price, source, version, since, batch_percent_off };
        if self.versions.len() >= MOST_VERSIONS {
            self.versions.pop_front();
        }
        self.versions.push_back(now);
        PriceChange { before, now: Some(now) }
    }
}

/// What is below nothing is a word without a price.
const fn is_price(stamp: &PriceStamp) -> bool {
    !stamp.price.is_negative()
}

fn known_percent_off(route: &RouteId) -> u8 {
    let is_it = |(model, _): &&(&str, u8)| *route.model() == **model && *route.upstream() == UpstreamId::together();
    DISCOUNTED.iter().find(is_it).map_or(0, |(_, percent)| *percent)
}

#[cfg(test)]
mod tests;
