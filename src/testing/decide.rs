//! What becomes of a request of a model: decided at its arrival, before any wait.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use serde_json::Value;
use tokio::time::Instant;

use super::{
    ask::Ask,
    bill::Tokens,
    chat::{Circumstances, Completion, complete},
    embeddings,
    endpoint::Endpoint,
    error::ApiError,
    faults::{Effect, Fault, StreamFault},
    images,
    limits::Admission,
    models::{Price, SimModel},
    moderation,
    random::Random,
    rerank,
    script::Reply,
    sse::UsagePlacement,
    state::{Config, State},
    stream::Delivery,
};

/// The end of a request.
pub(super) enum Outcome {
    Fails(Fault),
    Answers(Box<Answer>),
    /// An answer that is whole from the start.
    Whole(Box<Whole>),
}

/// An answer of one piece, with what it costs.
pub(super) struct Whole {
    pub(super) id: String,
    pub(super) model: String,
    pub(super) body: Value,
    pub(super) tokens: Tokens,
    pub(super) price: Price,
    /// Pictures that the body links to.
    pub(super) files: Vec<(String, Vec<u8>)>,
    pub(super) headers: HeaderMap,
}

/// An answer to send.
pub(super) struct Answer {
    pub(super) completion: Completion,
    /// Where a stream has its usage.
    pub(super) usage: UsagePlacement,
    pub(super) delivery: Delivery,
    pub(super) headers: HeaderMap,
}

/// Decides over a request. Faults that were planned come first, then what the API checks, then scripts.
pub(super) fn decide(state: &mut State, config: &Config, endpoint: Endpoint, ask: Ask<'_>, serial: u64) -> Outcome {
    if state.hangs {
        return Outcome::Fails(Fault::hang());
    }
    let mut stream_fault = state.cut_after.map(StreamFault::Cut);
    match state.faults.take(endpoint.path(), ask.model()) {
        Some(Fault { effect: Effect::Stream(fault), .. }) => stream_fault = Some(fault),
        Some(fault) => return Outcome::Fails(fault),
        None => {}
    }
    let call = Call { endpoint, ask, serial };
    answer(state, config, call, stream_fault).unwrap_or_else(|fault| Outcome::Fails(*fault))
}

#[derive(Clone, Copy)]
struct Call<'a> {
    endpoint: Endpoint,
    ask: Ask<'a>,
    serial: u64,
}

fn answer(
    state: &mut State,
    config: &Config,
    call: Call<'_>,
    mut stream_fault: Option<StreamFault>,
) -> Result<Outcome, Box<Fault>> {
    let Call { endpoint, ask, serial } = call;
    endpoint.validate(ask)?;
    let model = callable(state, call)?.clone();
    let second = config.scaled(Duration::from_secs(1));
    let admission = state.limits.admit(model.id(), Instant::now(), second);
    if let Some(admission) = admission.filter(|admission| !admission.admitted) {
        let message = format!("You have exceeded your dynamic request limit for model {}.", model.id());
        let headers = admission.reset_header();
        let fault = Fault::from(ApiError::new(StatusCode::TOO_MANY_REQUESTS, message));
        return Err(Box::new(Fault { headers, ..fault }));
    }
    moderation::screen(ask, state)?;
    let reply = state.scripts.take(&endpoint.text(ask), ask.model());
    if let Some(Reply::Fail(fault)) = reply.as_deref() {
        match fault.effect {
            Effect::Stream(fault) => stream_fault = Some(fault),
            _ => return Err(Box::new(fault.clone())),
        }
    }
    let headers = admission.map(Admission::headers).unwrap_or_default();
    if !matches!(endpoint, Endpoint::Chat | Endpoint::Completions) {
        return Ok(Outcome::Whole(Box::new(whole(state, config, call, &model, headers))));
    }
    let cached = match &mut state.prompt_cache {
        Some(cache) => cache.cached_tokens(model.id(), ask.messages()),
        None => 0,
    };
    let plain = endpoint == Endpoint::Completions;
    let given = Circumstances { model: &model, reply: reply.as_deref(), cached, seed: config.seed, serial, plain };
    Ok(Outcome::Answers(Box::new(Answer {
        completion: complete(ask, given),
        usage: if ask.wants_usage() { state.usage } else { UsagePlacement::Never },
        delivery: Delivery { gap: config.scaled(state.token_latency), fragment: state.fragment, fault: stream_fault },
        headers,
    })))
}

/// Answers a row of a batch: without planned faults, limits of requests, or an overload of the moment.
pub(super) fn row(state: &mut State, config: &Config, ask: Ask<'_>) -> Result<Completion, Box<Fault>> {
    let (endpoint, serial) = (Endpoint::Chat, state.serial);
    endpoint.validate(ask)?;
    let model = served(state, Call { endpoint, ask, serial })?.clone();
    moderation::screen(ask, state)?;
    let reply = state.scripts.take(&endpoint.text(ask), ask.model());
    if let Some(Reply::Fail(fault)) = reply.as_deref() {
        if !matches!(fault.effect, Effect::Stream(_)) {
            return Err(Box::new(fault.clone()));
        }
    }
    let cached = match &mut state.prompt_cache {
        Some(cache) => cache.cached_tokens(model.id(), ask.messages()),
        None => 0,
    };
    let given =
        Circumstances { model: &model, reply: reply.as_deref(), cached, seed: config.seed, serial, plain: false };
    Ok(complete(ask, given))
}

/// Answers what has no stream.
fn whole(state: &State, config: &Config, call: Call<'_>, model: &SimModel, headers: HeaderMap) -> Whole {
    let Call { endpoint, ask, serial } = call;
    let mut random = Random::new(config.seed ^ serial.rotate_left(17));
    let id = format!("o{}-{}-{:016x}", random.id(6), random.id(6), random.next());
    let (body, tokens, files) = match endpoint {
        Endpoint::Images => {
            let (body, files) = images::answer(ask, model, &id, random);
            (body, images::tokens(ask), files)
        }
        Endpoint::Rerank => (rerank::answer(ask, model, &id), rerank::tokens(ask), Vec::new()),
        _ => (embeddings::answer(ask, model, state.embedding_usage), embeddings::tokens(ask), Vec::new()),
    };
    Whole { id, model: model.id().to_owned(), body, tokens, price: model.price, files, headers }
}

/// The model that will answer, if it can now.
fn callable<'a>(state: &'a State, call: Call<'a>) -> Result<&'a SimModel, ApiError> {
    let asked = call.ask.model();
    let model = served(state, call)?;
    if state.overloaded.contains(asked) || state.overloaded.contains(model.id()) {
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "The server is overloaded or not ready yet."));
    }
    Ok(model)
}

/// The model that answers, if it takes this.
fn served<'a>(state: &'a State, call: Call<'a>) -> Result<&'a SimModel, ApiError> {
    let asked = call.ask.model();
    let served = state.redirected(asked);
    if state.unavailable.contains(asked) || state.unavailable.contains(served) {
        return Err(ApiError::model_not_available(asked));
    }
    let model = state.model(served).ok_or_else(|| {
        let message = format!("The model `{asked}` does not exist or you do not have access to it.");
        ApiError { param: Some("model"), ..ApiError::new(StatusCode::NOT_FOUND, message).with_code("model_not_found") }
    })?;
    call.endpoint.suits(call.ask, model)?;
    Ok(model)
}
