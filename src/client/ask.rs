//! What every call of a model has in common: send, read, parse, tell an error inside a success from an answer.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use serde::Serialize;

use super::{
    CallOptions, Error, ErrorKind, RateLimits, TogetherClient,
    call::{Call, to_json},
    error_body::error_in_success,
    retry::Replay,
};
use crate::types::ModelId;

/// What came with an answer.
pub(super) struct Arrived {
    pub(super) request_id: Option<Arc<str>>,
    pub(super) rate_limits: Option<RateLimits>,
    pub(super) raw: Bytes,
}

/// Why a success holds no answer.
pub(super) enum NoAnswer {
    /// It is no JSON of the answer's shape.
    Json(serde_json::Error),
    /// It is JSON, but what must be there is not.
    Missing(&'static str),
    /// The model says that it failed: what came before it is no answer.
    BrokeOff,
}

impl From<serde_json::Error> for NoAnswer {
    fn from(error: serde_json::Error) -> Self {
        Self::Json(error)
    }
}

impl NoAnswer {
    pub(super) fn into_error(self, status: u16, raw: Bytes) -> Error {
        let inside = || error_in_success(&raw).map(|body| Error::inside_success(status, body, raw.clone()));
        match self {
            Self::BrokeOff => Error::new(ErrorKind::Server, "the model stopped with an error").with_body(raw),
            Self::Missing(what) => inside().unwrap_or_else(|| {
                let message = format!("the response holds no answer ({what})");
                Error::new(ErrorKind::Malformed, message).with_body(raw)
            }),
            Self::Json(error) => inside().unwrap_or_else(|| Error::of_json(&error, raw)),
        }
    }
}

impl TogetherClient {
    /// A call of a model that may be repeated: it creates nothing.
    pub(super) fn call_of<'a>(
        &self,
        path: &'a str,
        model: &'a ModelId,
        body: &impl Serialize,
        stream: bool,
    ) -> Result<Call<'a>, Error> {
        let body = self.dialect().adapt(to_json(body)?)?;
        Ok(Call { method: Method::POST, path, body, model: Some(model), stream, replay: Replay::Safe })
    }

    /// Makes a call, repeats it as the policy allows, and reads its answer.
    pub(super) async fn ask<T: Send>(
        &self,
        call: &Call<'_>,
        options: &CallOptions,
        parse: impl Fn(&Bytes) -> Result<T, NoAnswer> + Send + Sync,
    ) -> Result<(T, Arrived), Error> {
        self.with_retry(call, options, async |options| {
            let success = self.attempt(call, options).await?;
            let (status, request_id, rate_limits) = (success.status, success.request_id(), success.rate_limits());
            let raw = self.read_json(success).await?;
            match parse(&raw) {
                Ok(answer) => Ok((answer, Arrived { request_id, rate_limits, raw })),
                Err(none) => {
                    Err(none.into_error(status, raw).with_status(status).with_request_id(request_id.as_deref()))
                }
            }
        })
        .await
    }
}
