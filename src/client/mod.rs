//! The wire: a typed client of Together's OpenAI-compatible API.
//!
//! Usable by itself: it retries within a budget, keeps every bound of time and size, and returns errors with their
//! evidence. It knows nothing of routing, caching or money.
//!
//! - [`TogetherClient`] makes calls; one resource a file, its types beside its calls: [`Chat`], [`Completions`],
//!   [`Embeddings`], [`Images`], [`Rerank`], [`Moderation`], [`Models`], [`Files`], [`Batches`].
//! - [`Transport`] is the seam under it.
//! - [`Error`] says what failed, whether the request left, whether a repeat makes sense.

mod ask;
mod batches;
mod blame;
mod bounded;
mod call;
mod chat;
mod completions;
mod config;
mod deprecations;
mod dialect;
mod elements;
mod embeddings;
mod error;
mod error_body;
mod fields;
mod files;
mod headers;
mod http;
mod images;
mod lenient;
mod loose;
mod models;
mod moderation;
mod record;
mod rerank;
mod retry;
mod retry_budget;
mod sse;
mod supported;
mod transport;
mod whoami;

#[cfg(feature = "batch")]
pub(crate) use self::chat::completion_of as chat_completion_of;
pub(crate) use self::chat::replay;
pub(crate) use self::fields::is_taken;
pub use self::{
    batches::{BatchJob, BatchStatus, Batches, CancelledBatch, CreateBatch, CreatedBatch},
    blame::Blame,
    call::{CallOptions, TogetherClient},
    chat::{
        BadArguments, Chat, ChatCompletion, ChatInput, ChatRequest, ChatStream, Choice, ChoiceDelta, Content, Delta,
        Fold, Function, FunctionCall, JsonSchema, Logprobs, Message, Part, ResponseFormat, Tool, ToolCall,
        ToolCallDelta, ToolChoice,
    },
    completions::{CompletionRequest, Completions, PromptInput},
    config::{Caps, ClientBuilder, DEFAULT_BASE_URL, Timeouts},
    deprecations::{DEPRECATIONS_URL, Deprecation, parse_deprecations},
    dialect::Dialect,
    embeddings::{Embedded, EmbeddingInput, EmbeddingRequest, Embeddings},
    error::{Error, ErrorKind, Sent},
    files::{
        BatchFileProblems, BatchFileSummary, BatchLines, FileContent, FilePurpose, FileUpload, Files, LineProblem,
        Progress, RemoteFile, UploadedFile,
    },
    headers::{RateLimits, Window},
    images::{GeneratedImages, Image, ImageInput, ImageRequest, Images, Lora},
    models::{Model, Models, Pricing},
    moderation::{Moderation, Verdict},
    rerank::{Document, Ranked, Rerank, RerankInput, RerankRequest, Reranked},
    retry::RetryPolicy,
    retry_budget::RetryBudget,
    supported::{SupportedModel, SupportedQuery},
    transport::{Body, Transport, TransportError, TransportErrorKind},
    whoami::Whoami,
};
