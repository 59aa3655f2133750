//! What becomes of a chat request: decided at its arrival, before any wait.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

use super::{
    ask::Ask,
    chat::{Circumstances, Completion, complete},
    error::ApiError,
    faults::{Effect, Fault, StreamFault},
    limits::Admission,
    models::SimModel,
    script::Reply,
    sse::UsagePlacement,
    state::{Config, State},
    stream::Delivery,
    validate,
};

/// The path of chat completions.
pub(super) const CHAT: &str = "/v1/chat/completions";

/// The end of a request.
pub(super) enum Outcome {
    Fails(Fault),
    Answers(Box<Answer>),
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
pub(super) fn decide(state: &mut State, config: &Config, ask: Ask<'_>, serial: u64) -> Outcome {
    if state.hangs {
        return Outcome::Fails(Fault::hang());
    }
    let mut stream_fault = state.cut_after.map(StreamFault::Cut);
    match state.faults.take(CHAT, ask.model()) {
        Some(Fault { effect: Effect::Stream(fault), .. }) => stream_fault = Some(fault),
        Some(fault) => return Outcome::Fails(fault),
        None => {}
    }
    answer(state, config, ask, serial, stream_fault).unwrap_or_else(|fault| Outcome::Fails(*fault))
}

fn answer(
    state: &mut State,
    config: &Config,
    ask: Ask<'_>,
    serial: u64,
    mut stream_fault: Option<StreamFault>,
) -> Result<Outcome, Box<Fault>> {
    validate::chat(ask)?;
    let model = callable(state, ask)?.clone();
    let second = config.scaled(Duration::from_secs(1));
    let admission = state.limits.admit(model.id(), Instant::now(), second);
    if let Some(admission) = admission.filter(|admission| !admission.admitted) {
        let message = format!("You have exceeded your dynamic request limit for model {}.", model.id());
        let headers = admission.reset_header();
        let fault = Fault::from(ApiError::new(StatusCode::TOO_MANY_REQUESTS, message));
        return Err(Box::new(Fault { headers, ..fault }));
    }
    let reply = state.scripts.take(&ask.last_user_text(), ask.model());
    if let Some(Reply::Fail(fault)) = reply.as_deref() {
        match fault.effect {
            Effect::Stream(fault) => stream_fault = Some(fault),
            _ => return Err(Box::new(fault.clone())),
        }
    }
    let cached = match &mut state.prompt_cache {
        Some(cache) => cache.cached_tokens(model.id(), ask.messages()),
        None => 0,
    };
    let reply = reply.as_deref();
    let given = Circumstances { model: &model, reply, cached, seed: config.seed, serial };
    Ok(Outcome::Answers(Box::new(Answer {
        completion: complete(ask, given),
        usage: if ask.wants_usage() { state.usage } else { UsagePlacement::Never },
        delivery: Delivery { gap: config.scaled(state.token_latency), fragment: state.fragment, fault: stream_fault },
        headers: admission.map(Admission::headers).unwrap_or_default(),
    })))
}

/// The model that will answer, if it can.
fn callable<'a>(state: &'a State, ask: Ask<'a>) -> Result<&'a SimModel, ApiError> {
    let asked = ask.model();
    let served = state.redirected(asked);
    if state.unavailable.contains(asked) || state.unavailable.contains(served) {
        return Err(ApiError::model_not_available(asked));
    }
    let model = state.model(served).ok_or_else(|| {
        let message = format!("The model `{asked}` does not exist or you do not have access to it.");
        ApiError { param: Some("model"), ..ApiError::new(StatusCode::NOT_FOUND, message).with_code("model_not_found") }
    })?;
    if !model.is_chat() {
        return Err(ApiError::bad_request("model", format!("{asked} is not a chat model")));
    }
    if ask.has_image() && !model.sees {
        return Err(ApiError::bad_request("messages", format!("{asked} does not support image input")));
    }
    fits(ask, model)?;
    if state.overloaded.contains(asked) || state.overloaded.contains(served) {
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "The server is overloaded or not ready yet."));
    }
    Ok(model)
}

/// The API's rule, with its surprising status: prompt and `max_tokens` together must be below the context length.
fn fits(ask: Ask<'_>, model: &SimModel) -> Result<(), ApiError> {
    let (prompt, answer) = (ask.prompt_tokens(), ask.max_tokens().unwrap_or_default());
    if prompt.saturating_add(answer) < model.context || ask.truncates_context() {
        return Ok(());
    }
    let message = format!(
        "Input validation error: `inputs` tokens + `max_new_tokens` must be < {}. Given: {prompt} `inputs` tokens and \
         {answer} `max_new_tokens`",
        model.context
    );
    Err(ApiError::new(StatusCode::FORBIDDEN, message))
}
