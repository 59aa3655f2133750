//! The bodies of errors. The API has no single shape for them; these are the ones on record.

use std::borrow::Cow;

use http::StatusCode;
use serde_json::{Value, json};

/// The shape of an error body.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use together_inference::{client::ChatRequest, testing::{ErrorShape, Fault, Together}};
///
/// let together = Together::new();
/// let plain = Fault::status(400).message("no").shape(ErrorShape::Text);
/// together.fail_next(1, plain);
/// let error = together.client().chat().create(&ChatRequest::new("zai-org/GLM-5.3").user("hi")).await.unwrap_err();
/// assert_eq!((error.message(), &error.body()[..]), ("no", &br#"{"error":"no"}"#[..]));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorShape {
    /// `{"error":{"message","type","param","code"}}`: chat, models and most others.
    #[default]
    Data,
    /// [`Data`](Self::Data) with an `id` beside `error`, as recorded for `model_not_available`.
    DataWithId,
    /// `{"error":"…"}`: batches.
    Text,
    /// `{"message":"…"}`: fine-tune limits.
    Message,
    /// `{"detail":"…"}`: the fine-tune preview when it is overloaded.
    Detail,
    /// `{"error":{"message"},"error_type":"…"}`: one reading of the rate-limit pages.
    TopLevelType,
    /// An HTML page, as a gateway sends it.
    Html,
    /// No body at all.
    Empty,
}

/// An error of the API.
#[derive(Clone, Debug)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    pub(super) message: Cow<'static, str>,
    pub(super) kind: Cow<'static, str>,
    pub(super) param: Option<&'static str>,
    pub(super) code: Option<Cow<'static, str>>,
    pub(super) shape: ErrorShape,
}

impl ApiError {
    /// The error the API gives with this status.
    pub(super) fn new(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        let kind = match status.as_u16() {
            429 => "dynamic_request_limited",
            503 => "service_unavailable",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        Self { status, message: message.into(), kind: kind.into(), param: None, code: None, shape: ErrorShape::Data }
    }

    pub(super) fn bad_request(param: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { param: Some(param), ..Self::new(StatusCode::BAD_REQUEST, message) }
    }

    pub(super) fn with_code(mut self, code: &'static str) -> Self {
        self.code = Some(code.into());
        self
    }

    /// A model that is listed but can't be called without a dedicated endpoint.
    pub(super) fn model_not_available(model: &str) -> Self {
        let message = format!(
            "Unable to access non-serverless model {model}. Please visit https://api.together.ai/models/{model} \
             to create and start a new dedicated endpoint for the model."
        );
        let error = Self::new(StatusCode::BAD_REQUEST, message).with_code("model_not_available");
        Self { shape: ErrorShape::DataWithId, ..error }
    }

    /// The `error` object.
    pub(super) fn data(&self) -> Value {
        json!({"message": self.message, "type": self.kind, "param": self.param, "code": self.code})
    }

    /// Content type and text of the body.
    pub(super) fn body(&self, id: &str) -> (Option<&'static str>, String) {
        let value = match self.shape {
            ErrorShape::Data => json!({"error": self.data()}),
            ErrorShape::DataWithId => json!({"id": id, "error": self.data()}),
            ErrorShape::Text => json!({"error": self.message}),
            ErrorShape::Message => json!({"message": self.message}),
            ErrorShape::Detail => json!({"detail": self.message}),
            ErrorShape::TopLevelType => json!({"error": {"message": self.message}, "error_type": self.kind}),
            ErrorShape::Html => return (Some("text/html"), self.page()),
            ErrorShape::Empty => return (None, String::new()),
        };
        (Some("application/json"), value.to_string())
    }

    fn page(&self) -> String {
        format!(
            "<html>\r\n<head><title>{0}</title></head>\r\n<body>\r\n<center><h1>{0}</h1></center>\r\n{1}\r\n</body>\r\n\
             </html>",
            self.status, self.message
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unavailable_model_answers_as_recorded() {
        let recorded = json!({"id": "x", "error": {
            "message": "Unable to access non-serverless model Qwen/Qwen3-VL-8B-Instruct. Please visit \
                        https://api.together.ai/models/Qwen/Qwen3-VL-8B-Instruct to create and start a new dedicated \
                        endpoint for the model.",
            "type": "invalid_request_error",
            "param": null,
            "code": "model_not_available",
        }});
        let (kind, body) = ApiError::model_not_available("Qwen/Qwen3-VL-8B-Instruct").body("x");
        assert_eq!(kind, Some("application/json"));
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), recorded);
    }
}
