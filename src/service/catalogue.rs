//! The catalogue, brought up to date from what the upstreams list.

use std::{
    collections::HashSet,
    time::{Duration, SystemTime},
};

use super::InferenceService;
use crate::{
    client::{self, Deprecation},
    notify::AlertKind,
    router::{Listing, Retired},
    types::{RouteId, UpstreamId, rfc3339},
};

/// A catalogue that is older is told of: about three models a month leave the API.
const STALE: Duration = Duration::from_secs(30 * 86_400);

/// What became of [`InferenceService::refresh_catalogue`].
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Refreshed {
    /// Models that were listed, each counted once.
    pub listed: usize,
    /// Routes that were not known before.
    pub new: usize,
    /// Routes that changed.
    pub changed: usize,
    /// Prices that were taken over.
    pub prices: usize,
    /// Upstreams whose list could not be read; the others' were taken over all the same.
    pub failures: Vec<RefreshFailure>,
}

/// An upstream whose model list could not be read.
#[derive(Debug)]
#[non_exhaustive]
pub struct RefreshFailure {
    /// Which.
    pub upstream: UpstreamId,
    /// Why.
    pub error: client::Error,
}

impl InferenceService {
    /// Reads the model lists of every upstream and takes over prices, contexts, abilities and new models, which a request
    /// then can be routed to.
    ///
    /// `/v2/supported-models` says the most, `/v1/models` the rest; what the application said itself wins over both. A
    /// zero is no price. A model of Together's that only `/v1/models` lists may need an endpoint of one's own: it becomes
    /// a preview, which is used where a request names it. A known model that has left by [the page of
    /// deprecations](client::DEPRECATIONS_URL) is retired, and its replacement takes over; one that will is told of.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// use together_inference::{InferenceService, testing::{SimModel, Together}};
    ///
    /// let together = Together::new();
    /// together.add_model(SimModel::chat("acme/New-9B").price(10_000, 20_000));
    /// let service = InferenceService::builder(together.client()).build()?;
    /// let refreshed = service.refresh_catalogue().await;
    /// assert!(refreshed.new >= 1 && refreshed.failures.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Cancellation
    ///
    /// Dropping the future takes over nothing of the upstream that was being read.
    pub async fn refresh_catalogue(&self) -> Refreshed {
        self.refresh_within(Duration::ZERO).await
    }

    /// The same with lists that anybody who shares the cache read no longer ago than this.
    pub(super) async fn refresh_within(&self, age: Duration) -> Refreshed {
        let mut refreshed = Refreshed::default();
        for (upstream, client) in &self.state.upstreams {
            match self.state.model_list(upstream, client, age).await {
                Ok((mut listings, age)) => {
                    let at = self.state.clock.now();
                    self.take_over(&mut listings, at.checked_sub(age).unwrap_or(at), &mut refreshed);
                }
                Err(error) => refreshed.failures.push(RefreshFailure { upstream: upstream.clone(), error }),
            }
            if *upstream == UpstreamId::together() {
                match client.models().deprecations().await {
                    Ok(leaving) => self.take_leave(&leaving, &mut refreshed),
                    // Behind a firewall it cannot be read: the lists say most of it too.
                    Err(error) => tracing::debug!(%error, "the page of deprecations could not be read"),
                }
            }
        }
        refreshed
    }

    /// Takes models out of use that have left, and tells of those that will.
    fn take_leave(&self, leaving: &[Deprecation], refreshed: &mut Refreshed) {
        let (state, today) = (&self.state, rfc3339(self.state.clock.now()));
        let known = state.router.routes();
        for Deprecation { model, replacement, removal } in leaving {
            let route = RouteId::new(UpstreamId::together(), model.clone());
            let Some(day) = removal.as_deref().filter(|_| known.iter().any(|one| *one.id() == route && !one.is_own()))
            else {
                continue;
            };
            let to = replacement.clone().map(|model| RouteId::new(UpstreamId::together(), model));
            let instead = replacement.as_ref().map_or_else(String::new, |model| format!("; use {model} instead"));
            if day > today.get(..10).unwrap_or(&today) {
                let title = || format!("{route} leaves on {day}{instead}");
                state.tell_once(AlertKind::ModelDeprecated, &format!("{route} leaves"), title);
            } else if matches!(state.router.retire(&route, to.as_ref()), Ok(Retired::Now)) {
                refreshed.changed += 1;
                let title = || format!("{route} left on {day}{instead}");
                state.tell_once(AlertKind::ModelDeprecated, &format!("{route} left"), title);
            }
        }
    }

    fn take_over(&self, listings: &mut [Listing], at: SystemTime, refreshed: &mut Refreshed) {
        refreshed.prices += listings.iter().filter(|listing| listing.price.is_some()).count();
        self.state.hear_prices(listings, &self.state.router.routes());
        let heard = self.state.router.hear(listings, at);
        refreshed.new += heard.new;
        refreshed.changed += heard.changed;
        let seen: HashSet<_> = listings.iter().map(|listing| &listing.route).collect();
        refreshed.listed += seen.len();
    }

    /// How old the router's knowledge of the models is, where it says so.
    ///
    /// ```
    /// use together_inference::{InferenceService, testing::Together};
    ///
    /// let service = InferenceService::builder(Together::new().client()).build()?;
    /// assert!(service.catalogue_age().is_some(), "the catalogue that ships has a date");
    /// # Ok::<(), together_inference::service::BuildError>(())
    /// ```
    #[must_use]
    pub fn catalogue_age(&self) -> Option<Duration> {
        let as_of = self.state.router.as_of()?;
        // A date that is still to come is as fresh as can be.
        Some(self.state.clock.now().duration_since(as_of).unwrap_or_default())
    }

    /// Says once that the catalogue is old.
    pub(super) fn warn_if_stale(&self) {
        if let Some(age) = self.catalogue_age().filter(|age| *age > STALE) {
            tracing::warn!(
                days = age.as_secs() / 86_400,
                "the catalogue of models is old; call refresh_catalogue() or take a newer version of the crate"
            );
        }
    }
}
