//! What the writing side remembers of the store.

use std::sync::{Mutex, PoisonError};

use super::zone::Zone;
use crate::types::Price;

/// Prices that are remembered: a program has a handful of them, and one that makes them up must not fill the memory.
const PRICES: usize = 1_024;

#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The numbers of prices that were written.
    prices: Mutex<Vec<(Price, i64)>>,
    /// The zone that was set when it was last looked at.
    zone: Mutex<Option<Zone>>,
}

impl Memory {
    /// The zone of this name, in which the store's days begin; UTC unless one is set.
    pub(super) fn zone(&self, name: Option<&str>) -> Zone {
        let name = name.unwrap_or("UTC");
        let mut zone = self.zone.lock().unwrap_or_else(PoisonError::into_inner);
        match &*zone {
            Some(zone) if zone.name() == name => zone.clone(),
            _ => zone.insert(Zone::named(name).unwrap_or_else(Zone::utc)).clone(),
        }
    }

    /// The number of a price that was written.
    pub(super) fn price(&self, price: &Price) -> Option<i64> {
        let prices = self.prices.lock().unwrap_or_else(PoisonError::into_inner);
        prices.iter().find(|(known, _)| known == price).map(|(_, id)| *id)
    }

    pub(super) fn learn(&self, price: Price, id: i64) {
        let mut prices = self.prices.lock().unwrap_or_else(PoisonError::into_inner);
        if prices.len() >= PRICES {
            prices.clear();
        }
        prices.push((price, id));
    }

    /// A transaction was undone: what it wrote is not there.
    pub(super) fn forget(&self) {
        self.prices.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
