//! The catalogue, brought up to date from what the upstreams list.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use super::InferenceService;
use crate::{
    client::{self, Deprecation, ErrorKind, Model, SupportedModel, SupportedQuery, TogetherClient},
    cost::PriceSource,
    notify::AlertKind,
    router::{Known, Listing, Retired, Word},
    types::{RouteId, Task, UpstreamId, rfc3339},
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
        let mut refreshed = Refreshed::default();
        for (upstream, client) in &self.state.upstreams {
            match read(upstream, client).await {
                Ok(listings) => self.take_over(&listings, &mut refreshed),
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

    fn take_over(&self, listings: &[Listing], refreshed: &mut Refreshed) {
        let heard = self.state.router.hear(listings, self.state.clock.now());
        refreshed.new += heard.new;
        refreshed.changed += heard.changed;
        let seen: HashSet<_> = listings.iter().map(|listing| &listing.route).collect();
        for listing in listings {
            let source = match listing.word {
                Word::SupportedModels => PriceSource::SupportedModels,
                _ => PriceSource::ModelList,
            };
            if let Some(price) = listing.price {
                self.state.prices.set(&listing.route, price, source);
                refreshed.prices += 1;
            }
        }
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

/// Everything that an upstream lists, the better word last.
async fn read(upstream: &UpstreamId, client: &TogetherClient) -> Result<Vec<Listing>, client::Error> {
    let supported = match client.models().supported(&SupportedQuery::default()).await {
        Ok(models) => Some(models),
        // Other servers, and keys without that right, have the older list alone.
        Err(error) if is_absent(&error) => None,
        Err(error) => return Err(error),
    };
    let curated = supported.as_ref().map(|models| models.iter().map(|model| (&model.name, model)).collect());
    let curated: HashMap<_, &SupportedModel> = curated.unwrap_or_default();
    let is_together = *upstream == UpstreamId::together() || supported.is_some();
    let of_model = |model: Model| {
        let serverless = curated.get(&model.id).is_some_and(|model| model.is_serverless());
        let tasks = tasks_of(model.kind.as_deref(), is_together);
        let mut listing = Listing::new(RouteId::new(upstream.clone(), &model.id), Word::ModelList);
        listing.price = model.price();
        listing.context = model.context_length.filter(|tokens| *tokens > 0);
        listing.tasks = tasks;
        listing.callable = serverless || !is_together;
        listing
    };
    let mut listings: Vec<Listing> = client.models().list().await?.into_iter().map(of_model).collect();
    // A moderation model converses as well, but not for us.
    let idle: HashSet<RouteId> =
        listings.iter().filter(|one| one.tasks.is_empty()).map(|one| one.route.clone()).collect();
    let curated = supported.iter().flatten().map(|model| of_supported(upstream, model));
    listings.extend(curated.filter(|listing| !idle.contains(&listing.route)));
    Ok(listings)
}

fn is_absent(error: &client::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::Malformed)
        || matches!(error.status(), Some(405 | 501))
}

/// The tasks of a `type` of `/v1/models`. Servers of one's own often say none.
fn tasks_of(kind: Option<&str>, is_together: bool) -> Vec<Task> {
    match kind {
        Some("chat" | "language") => vec![Task::Chat],
        Some("code") => vec![Task::Code],
        Some("embedding") => vec![Task::Embedding],
        Some("image") => vec![Task::Image],
        Some("rerank") => vec![Task::Rerank],
        None if !is_together => vec![Task::Chat],
        // Moderation, speech, film: nothing that a request of ours asks for.
        _ => Vec::new(),
    }
}

fn of_supported(upstream: &UpstreamId, model: &SupportedModel) -> Listing {
    let mut listing = Listing::new(RouteId::new(upstream.clone(), &model.name), Word::SupportedModels);
    for (word, task) in [
        ("CAPABILITY_CHAT", Task::Chat),
        ("CAPABILITY_EMBEDDING", Task::Embedding),
        ("CAPABILITY_IMAGE_GENERATION", Task::Image),
        ("CAPABILITY_RERANKING", Task::Rerank),
    ] {
        if model.capabilities.iter().any(|capability| capability == word) {
            listing.tasks.push(task);
        }
    }
    // A list of features says what it has; that it lacks the others is not said of every model.
    let known = |has: bool| if has { Known::Yes } else { Known::Unknown };
    listing.capabilities.tools = known(model.has_feature("TOOL_CALLING"));
    listing.capabilities.json_schema = known(model.has_feature("STRUCTURED_OUTPUT"));
    listing.capabilities.reasoning = known(model.has_feature("REASONING"));
    listing.capabilities.vision = known(model.reads_images());
    listing.context = model.context_length.filter(|tokens| *tokens > 0);
    listing.price = model.pricing.and_then(|pricing| pricing.price());
    listing.callable = model.is_serverless();
    listing.deprecated = model.is_deprecated();
    listing
}
