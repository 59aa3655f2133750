//! The wire: a typed client of Together's OpenAI-compatible API.
//!
//! Usable by itself: it retries within a budget, keeps every bound of time and size, and returns errors with their
//! evidence. It knows nothing of routing, caching or money.
//!
//! - [`TogetherClient`] makes calls; one resource a file, its types beside its calls: [`Chat`], [`Models`].
//! - [`Transport`] is the seam under it.
//! - [`Error`] says what failed, whether the request left, whether a repeat makes sense.

mod bounded;
mod call;
mod chat;
mod config;
mod error;
mod error_body;
mod headers;
mod http;
mod lenient;
mod models;
mod retry;
mod sse;
mod transport;

pub use self::{
    call::{CallOptions, TogetherClient},
    chat::{
        Chat, ChatCompletion, ChatInput, ChatRequest, ChatStream, Choice, ChoiceDelta, Content, Delta, Fold, Function,
        FunctionCall, JsonSchema, Logprobs, Message, Part, ResponseFormat, Tool, ToolCall, ToolCallDelta, ToolChoice,
    },
    config::{Caps, ClientBuilder, DEFAULT_BASE_URL, Timeouts},
    error::{Error, ErrorKind, Sent},
    headers::{RateLimits, Window},
    models::{Model, Models, Pricing},
    retry::{RetryBudget, RetryPolicy},
    transport::{Body, Transport, TransportError, TransportErrorKind},
};
