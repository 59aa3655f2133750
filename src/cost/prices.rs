//! What each route costs, by whose word.

use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock},
};

use crate::types::{Price, RouteId};

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

/// A price as it stands at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct PriceStamp {
    /// The price.
    pub price: Price,
    /// Whose word it is.
    pub source: PriceSource,
    /// Grows with each change of this route's price.
    pub version: u64,
}

/// Prices by route. An attempt is priced by the stamp at its dispatch, so that a change in flight does not touch it.
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
#[derive(Debug, Default)]
pub struct PriceBook(RwLock<HashMap<RouteId, PriceStamp>>);

impl PriceBook {
    /// Sets a route's price, unless a stronger word stands.
    ///
    /// An equally strong word replaces it.
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
    pub fn set(&self, route: &RouteId, price: Price, source: PriceSource) {
        let mut book = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match book.get_mut(route) {
            // A word that changes nothing is no new version: records of one price stay comparable.
            Some(stamp) if stamp.source > source || (stamp.price == price && stamp.source == source) => {}
            Some(stamp) => *stamp = PriceStamp { price, source, version: stamp.version + 1 },
            None => {
                book.insert(route.clone(), PriceStamp { price, source, version: 1 });
            }
        }
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
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(route).copied()
    }
}
