//! The model lists of upstreams, read through the cache: of many processes that share one, one reads for all.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use super::{
    layer::ask,
    state::{PATIENCE, State},
};
use crate::{
    cache::{CacheEntry, CacheValue},
    client::{self, ErrorKind, Model, SupportedModel, SupportedQuery, TogetherClient},
    inference::{CacheKey, Kind},
    router::{Known, Listing, Word},
    types::{RouteId, Task, UpstreamId},
};

impl State {
    /// Everything that an upstream lists, and how old that is: no older than this.
    pub(super) async fn model_list(
        &self,
        upstream: &UpstreamId,
        client: &TogetherClient,
        age: Duration,
    ) -> Result<(Vec<Listing>, Duration), client::Error> {
        // Of the key as well: what is listed differs from account to account.
        let whose = [upstream.as_str().as_bytes(), &[0], &client.identity()].concat();
        let key = CacheKey::of_bytes(Kind::ModelList, None, &whose);
        if !age.is_zero()
            && let Some(found) = self.kept_list(&key, age).await
        {
            return Ok(found);
        }
        let listings = read(upstream, client).await?;
        if let Ok(json) = serde_json::to_vec(&listings) {
            self.keep(&key, CacheEntry::new(CacheValue::Json(json.into()), Kind::ModelList.ttl())).await;
        }
        Ok((listings, Duration::ZERO))
    }

    /// The list that the cache has, if it is young enough and whole. Whatever goes wrong is a miss.
    async fn kept_list(&self, key: &CacheKey, most: Duration) -> Option<(Vec<Listing>, Duration)> {
        let entry = ask(PATIENCE, async { self.cache.get(key).await }).await.ok()??;
        let age = entry.stored.elapsed();
        match entry.value {
            CacheValue::Json(json) if age <= most => Some((serde_json::from_slice(&json).ok()?, age)),
            _ => None,
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
        listing.zero = is_by_token(&tasks) && model.pricing.is_some_and(|pricing| pricing.is_zero());
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

/// Whether the price of a token is the price of it: pictures are listed at nothing a token.
fn is_by_token(tasks: &[Task]) -> bool {
    !tasks.is_empty() && tasks.iter().all(|task| *task != Task::Image)
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
    listing.zero = is_by_token(&listing.tasks) && model.pricing.is_some_and(|pricing| pricing.is_zero());
    listing.callable = model.is_serverless();
    listing.deprecated = model.is_deprecated();
    listing
}
