//! What routes cost, as the service knows it: whose word counts, who is told of a change, and what has no price.

use std::{
    collections::{BTreeMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::time::timeout;

use super::{InferenceService, state::State};
use crate::{
    cost::{PriceChange, PriceSource, PriceStamp},
    inference::InferenceRequest,
    notify::AlertKind,
    router::{Candidate, Listing, ModelRoute, Word},
    types::{ModelId, Price, RouteId, Usd},
};

/// A word that says no price.
const UNKNOWN: Price = Price::per_million(Usd::from_nanos(-1), Usd::from_nanos(-1));
/// How long a choice waits for what is left of the budgets.
const BUDGET_PATIENCE: Duration = Duration::from_millis(50);

impl InferenceService {
    /// What a route costs now, by whose word and since when; `None` where nobody says a price.
    ///
    /// ```
    /// use together_inference::{InferenceService, Price, RouteId, cost::PriceSource, testing::Together};
    ///
    /// let route = RouteId::new("together", "zai-org/GLM-5.3");
    /// let service = InferenceService::builder(Together::new().client()).build()?;
    /// assert_eq!(service.price_of(&route).map(|stamp| stamp.source), Some(PriceSource::Catalogue));
    /// assert_eq!(service.price_of(&RouteId::new("together", "acme/unheard-of")), None);
    /// # Ok::<(), together_inference::service::BuildError>(())
    /// ```
    #[must_use]
    pub fn price_of(&self, route: &RouteId) -> Option<PriceStamp> {
        self.state.prices.get(route)
    }

    /// What a route cost over time, as far as it is remembered, oldest first: by which price a record was made.
    ///
    /// ```
    /// use together_inference::{InferenceService, RouteId, testing::Together};
    ///
    /// let service = InferenceService::builder(Together::new().client()).build()?;
    /// assert_eq!(service.price_history(&RouteId::new("together", "zai-org/GLM-5.3")).len(), 1);
    /// # Ok::<(), together_inference::service::BuildError>(())
    /// ```
    #[must_use]
    pub fn price_history(&self, route: &RouteId) -> Vec<PriceStamp> {
        self.state.prices.history(route)
    }

    /// Sets what a route costs, over what any list says, from now on: attempts that are out keep the price that they
    /// were made at. The router ranks by it from the next request on. With a price [below nothing](Price::is_negative) the
    /// route has none, whatever a list says: its calls are unpriced.
    ///
    /// ```
    /// use together_inference::{InferenceService, Price, RouteId, testing::Together, usd};
    ///
    /// let service = InferenceService::builder(Together::new().client()).build()?;
    /// let change = service.set_price(
    ///     &RouteId::new("together", "zai-org/GLM-5.3"),
    ///     Price::per_million(usd!("1.10"), usd!("3.50")), // as negotiated
    /// );
    /// assert!(change.is_change());
    /// # Ok::<(), together_inference::service::BuildError>(())
    /// ```
    pub fn set_price(&self, route: &RouteId, price: Price) -> PriceChange {
        let change = self.state.prices.set(route, price, PriceSource::User);
        self.state.tell_router(&[(route.clone(), price)]);
        self.state.tell_price(route, &change);
        change
    }
}

impl State {
    /// Tells the router what the application says of prices.
    pub(super) fn tell_router(&self, prices: &[(RouteId, Price)]) {
        if catch_unwind(AssertUnwindSafe(|| self.router.reprice(prices))).is_err() {
            tracing::warn!("the router panicked in reprice");
        }
    }

    /// Takes over the prices of lists, tells of those that changed, and puts into the lists what counts, for the router.
    pub(super) fn hear_prices(self: &Arc<Self>, listings: &mut [Listing], known: &[ModelRoute]) {
        let own: HashSet<&RouteId> =
            known.iter().filter(|route| route.is_own() && route.price.is_some()).map(ModelRoute::id).collect();
        // Both lists' words on a route are one change.
        let mut said: BTreeMap<RouteId, ([Option<Price>; 2], bool)> = BTreeMap::new();
        for listing in listings.iter().filter(|listing| !own.contains(&listing.route)) {
            let ([supported, listed], zero) = said.entry(listing.route.clone()).or_default();
            let word = if listing.word == Word::SupportedModels { supported } else { listed };
            *word = listing.price.or(*word);
            *zero |= listing.zero;
        }
        for (route, ([supported, listed], zero)) in said {
            let listed = match supported.or(listed) {
                Some(_) => listed,
                // No list says a price, and one says that nobody knows it any more.
                None if zero => Some(UNKNOWN),
                // What was listed last is newer than the catalogue.
                None => continue,
            };
            let words = [(PriceSource::SupportedModels, supported), (PriceSource::ModelList, listed)];
            let change = self.prices.say(&route, &words);
            self.tell_price(&route, &change);
        }
        for listing in listings {
            listing.price = self.prices.get(&listing.route).map(|stamp| stamp.price).or(listing.price);
        }
    }

    /// Tells that a price changed, or that it is known no more.
    fn tell_price(self: &Arc<Self>, route: &RouteId, change: &PriceChange) {
        let Some(before) = change.before else { return };
        let (version, title) = match change.now {
            Some(now) if change.is_change() => {
                let title = format!("{route} cost {} and costs {} by the {}", before.price, now.price, now.source);
                (now.version, title)
            }
            Some(_) => return,
            None => {
                let title = format!(
                    "{route} cost {}, and is listed at zero or set below it: it is unpriced until somebody says a price",
                    before.price
                );
                (before.version + 1, title)
            }
        };
        tracing::warn!("a price changed: {title}");
        self.tell_once(AlertKind::PriceChanged, &format!("{route} version {version}"), || title);
    }

    /// The price of a candidate: the book's, else the router's own.
    pub(super) fn price(self: &Arc<Self>, candidate: &Candidate) -> Option<PriceStamp> {
        let book = self.prices.get(&candidate.route);
        if book.as_ref().is_some_and(|stamp| stamp.source > PriceSource::Catalogue) || candidate.price.is_none() {
            return book;
        }
        if let Some(price) = candidate.price.filter(|price| book.is_none_or(|stamp| stamp.price != *price)) {
            let change = self.prices.set(&candidate.route, price, PriceSource::Catalogue);
            self.tell_price(&candidate.route, &change);
            return change.now;
        }
        book
    }

    /// The price of the model that answered in the place of another one, as it stood when it was asked.
    pub(super) fn price_of_served(
        &self,
        asked: &RouteId,
        served: &ModelId,
        at: std::time::SystemTime,
    ) -> Option<PriceStamp> {
        let route = RouteId::new(asked.upstream().clone(), served.clone());
        self.prices.at(&route, at).or_else(|| self.prices.get(&route))
    }

    /// What is left of the tightest budget that a request counts against, in thousandths.
    ///
    /// `None` where there is none, and where the store does not say so in time: the choice is then as usual.
    pub(super) async fn budget_left(&self, request: &InferenceRequest) -> Option<u16> {
        let looked = AssertUnwindSafe(self.budgets.left_for(request)).catch_unwind();
        match timeout(BUDGET_PATIENCE, looked).await {
            Ok(Ok(Ok(left))) => left,
            Ok(Ok(Err(error))) => {
                tracing::warn!(%error, "what is left of the budgets could not be read");
                None
            }
            Ok(Err(_)) => {
                tracing::warn!("the budget store panicked, going on without");
                None
            }
            Err(_) => None,
        }
    }

    /// A call was made whose cost is in no sum.
    pub(super) fn tell_unpriced(self: &Arc<Self>, route: &RouteId) {
        let title = || format!("the price of {route} is not known: its cost is in no sum; set it with .price(..)");
        self.tell_once(AlertKind::CallUnpriced, &route.to_string(), title);
    }

    /// Routes without a price, of those that are in use or were used.
    pub(super) fn unpriced_routes(&self) -> usize {
        let known = catch_unwind(AssertUnwindSafe(|| self.router.routes())).unwrap_or_default();
        let in_use = known.iter().filter(|route| route.is_in_use()).map(|route| route.id().clone());
        let used = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        let mut routes: HashSet<RouteId> = in_use.chain(used.keys().cloned()).collect();
        drop(used);
        routes.retain(|route| self.prices.get(route).is_none());
        routes.len()
    }
}
