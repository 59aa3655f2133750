//! The models the simulator serves, with prices of its own.

use std::sync::Arc;

use serde_json::{Value, json};

/// What one token costs, in pico-dollars (10⁻¹² USD): `$0.15` per million tokens is 150,000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Price {
    pub(super) input: i64,
    pub(super) output: i64,
    /// Unknown for many models; they bill cached tokens like any other.
    pub(super) cached: Option<i64>,
    /// Of one pixel of a picture: `$0.0027` per megapixel is 2,700.
    pub(super) pixel: i64,
}

/// A model the simulator serves.
///
/// ```
/// use together_inference::testing::SimModel;
///
/// let model = SimModel::chat("acme/Tiny-1B").context(8_192).price(100_000, 400_000).vision();
/// assert_eq!(model.id(), "acme/Tiny-1B");
/// ```
#[derive(Clone, Debug)]
pub struct SimModel {
    id: Arc<str>,
    kind: &'static str,
    pub(super) context: u64,
    pub(super) price: Price,
    pub(super) sees: bool,
    pub(super) thinks: bool,
    /// Numbers of a vector.
    pub(super) dimensions: usize,
    /// Parameters that it refuses by name.
    pub(super) lacks: Vec<&'static str>,
}

impl SimModel {
    /// A chat model: 131,072 tokens of context, free of charge, text only, without reasoning.
    ///
    /// ```
    /// use together_inference::testing::{SimModel, Together};
    ///
    /// let together = Together::builder().models([SimModel::chat("acme/Tiny-1B")]).build();
    /// # let _ = together;
    /// assert_eq!(SimModel::chat("acme/Tiny-1B").id(), "acme/Tiny-1B");
    /// ```
    pub fn chat(id: impl Into<Arc<str>>) -> Self {
        Self::of_kind(id, "chat")
    }

    /// A model of another `type` of `/v1/models`, such as `"embedding"` or `"image"`.
    pub fn of_kind(id: impl Into<Arc<str>>, kind: &'static str) -> Self {
        Self {
            id: id.into(),
            kind,
            context: 131_072,
            price: Price::default(),
            sees: false,
            thinks: false,
            dimensions: 1_024,
            lacks: Vec::new(),
        }
    }

    /// The context length in tokens, prompt and answer together.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::{ChatRequest, ErrorKind}, testing::{SimModel, Together}};
    ///
    /// let together = Together::new();
    /// together.add_model(SimModel::chat("acme/Tiny-1B").context(100));
    /// let long = ChatRequest::new("acme/Tiny-1B").user("long ".repeat(200));
    /// let error = together.client().chat().create(&long).await.unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::ContextLength);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub const fn context(mut self, tokens: u64) -> Self {
        self.context = tokens;
        self
    }

    /// Prices in pico-dollars per token: `$0.15` per million tokens is 150,000.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::ChatRequest, testing::{SimModel, Together}};
    ///
    /// let together = Together::new();
    /// together.add_model(SimModel::chat("acme/Tiny-1B").price(150_000, 600_000));
    /// together.client().chat().create(&ChatRequest::new("acme/Tiny-1B").user("hi")).await?;
    /// let bill = together.bill();
    /// let picos = bill.prompt_tokens * 150_000 + bill.completion_tokens * 600_000;
    /// assert_eq!(bill.nano_usd, i64::try_from(picos.div_ceil(1_000))?);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub const fn price(mut self, input: i64, output: i64) -> Self {
        self.price.input = input;
        self.price.output = output;
        self
    }

    /// The price of a prompt token that was in the prompt cache, in pico-dollars.
    #[must_use]
    pub const fn cached_price(mut self, cached: i64) -> Self {
        self.price.cached = Some(cached);
        self
    }

    /// The price of a pixel of a picture, in pico-dollars: `$0.0027` per megapixel is 2,700.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::{ImageInput, ImageRequest}, testing::{SimModel, Together}};
    ///
    /// let together = Together::new();
    /// together.add_model(SimModel::of_kind("acme/Brush", "image").pixel_price(2_700));
    /// let request = ImageRequest::new("acme/Brush", ImageInput::new("a red sky").size(100, 100));
    /// together.client().images().generate(&request).await?;
    /// assert_eq!((together.bill().pixels, together.bill().nano_usd), (10_000, 27_000));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub const fn pixel_price(mut self, pixel: i64) -> Self {
        self.price.pixel = pixel;
        self
    }

    /// How many numbers a vector has; 1,024 unless set.
    #[must_use]
    pub const fn dimensions(mut self, numbers: usize) -> Self {
        self.dimensions = numbers;
        self
    }

    /// Refuses this parameter with a 400 that names it, as servers do whose engine lacks it.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::{ChatRequest, ResponseFormat}, testing::{SimModel, Together}};
    ///
    /// let together = Together::new();
    /// together.add_model(SimModel::chat("acme/Tiny-1B").without("response_format"));
    /// let request = ChatRequest::new("acme/Tiny-1B").user("hi").response_format(ResponseFormat::JsonObject);
    /// let error = together.client().chat().create(&request).await.unwrap_err();
    /// assert_eq!(error.status(), Some(400));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn without(mut self, parameter: &'static str) -> Self {
        self.lacks.push(parameter);
        self
    }

    /// Accepts images.
    #[must_use]
    pub const fn vision(mut self) -> Self {
        self.sees = true;
        self
    }

    /// Thinks when it is asked to, and reports usage with `…_details`.
    #[must_use]
    pub const fn reasoning(mut self) -> Self {
        self.thinks = true;
        self
    }

    /// The id, `organization/name`.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(super) const fn kind(&self) -> &'static str {
        self.kind
    }

    /// The row of `/v2/supported-models`.
    pub(super) fn supported(&self) -> Value {
        let (publisher, name) = self.id.split_once('/').unwrap_or(("", &self.id));
        let capabilities: &[&str] = match self.kind {
            "chat" => &["CAPABILITY_CHAT"],
            "embedding" => &["CAPABILITY_EMBEDDING"],
            "rerank" => &["CAPABILITY_RERANKING"],
            "image" => &["CAPABILITY_IMAGE_GENERATION"],
            _ => &[],
        };
        let input = if self.sees { vec!["MODALITY_TEXT", "MODALITY_IMAGE"] } else { vec!["MODALITY_TEXT"] };
        let has = |parameter: &str| !self.lacks.contains(&parameter);
        let mut features = Vec::new();
        features.extend((self.kind == "chat" && has("tools")).then_some("FEATURE_TOOL_CALLING"));
        features.extend((self.kind == "chat" && has("response_format")).then_some("FEATURE_STRUCTURED_OUTPUT"));
        features.extend(self.thinks.then_some("FEATURE_REASONING"));
        let mut pricing =
            json!({"input": usd_per_million(self.price.input), "output": usd_per_million(self.price.output)});
        if let (Some(cached), Some(map)) = (self.price.cached, pricing.as_object_mut()) {
            map.insert("cachedInput".into(), json!(usd_per_million(cached)));
        }
        json!({
            "id": format!("model-{name}"),
            "name": &*self.id,
            "displayName": name,
            "inputModalities": input,
            "outputModalities": [if self.kind == "image" { "MODALITY_IMAGE" } else { "MODALITY_TEXT" }],
            "products": ["PRODUCT_SERVERLESS"],
            "features": features,
            "capabilities": capabilities,
            "contextLength": self.context.to_string(),
            "publisher": publisher,
            "status": "SUPPORTED_MODEL_STATUS_SUPPORTED",
            "displayType": self.kind,
            "baseModelId": format!("base-{name}"),
            "baseModel": &*self.id,
            "deploymentProfiles": [],
            "pricing": pricing,
            "createdAt": "2026-10-01T00:00:00Z",
            "updatedAt": "2026-11-01T00:00:00Z",
        })
    }

    /// Where this model puts its thoughts: one family differs from the rest.
    pub(super) fn reasoning_key(&self) -> &'static str {
        if self.id.starts_with("moonshotai/Kimi-K3") { "reasoning_content" } else { "reasoning" }
    }

    /// The row of `/v1/models`.
    pub(super) fn listing(&self) -> Value {
        let (organization, name) = self.id.split_once('/').unwrap_or(("", &self.id));
        let mut pricing = json!({
            "hourly": 0,
            "input": usd_per_million(self.price.input),
            "output": usd_per_million(self.price.output),
            "base": 0,
            "finetune": 0,
        });
        if let (Some(cached), Some(map)) = (self.price.cached, pricing.as_object_mut()) {
            map.insert("cached_input".into(), json!(usd_per_million(cached)));
        }
        json!({
            "id": &*self.id,
            "object": "model",
            "created": 1_780_000_000,
            "type": self.kind,
            "display_name": name,
            "organization": organization,
            "link": format!("https://api.together.ai/models/{}", self.id),
            "license": Value::Null,
            "context_length": self.context,
            "pricing": pricing,
        })
    }
}

/// Dollars per million tokens, as `/v1/models` prices.
fn usd_per_million(pico: i64) -> f64 {
    i32::try_from(pico).map_or(0.0, f64::from) / 1_000_000.0
}

/// id, kind, context, input, output (of an image model: a pixel, in pico-dollars), cached (dollars per million tokens,
/// times 10,000; -1 is unknown), `v`ision and `r`easoning.
type Row = (&'static str, &'static str, u64, i64, i64, i64, &'static str);

/// As published on 2026-11-24; capabilities that nobody could confirm are off.
const BUILTIN: &[Row] = &[
    ("openai/gpt-oss-120b", "chat", 131_072, 1_500, 6_000, -1, "r"),
    ("zai-org/GLM-5.3-Flash", "chat", 1_048_575, 1_500, 5_000, 300, "vr"),
    ("Qwen/Qwen3.5-9B", "chat", 262_144, 1_700, 2_500, -1, "vr"),
    ("Qwen/Qwen3.8-Flash", "chat", 1_000_000, 1_500, 4_700, -1, ""),
    ("MiniMaxAI/MiniMax-M3.1-Flash", "chat", 1_048_576, 1_500, 6_000, 150, ""),
    ("meta-models/Muse-Glimmer-30B", "chat", 131_072, 3_500, 15_000, 400, ""),
    ("ricursive-ai/Ripple-65B-Preview", "chat", 131_072, 2_000, 6_000, 200, ""),
    ("deepseek-ai/DeepSeek-V4.1-Flash-1017", "chat", 1_048_576, 3_000, 12_000, 60, "vr"),
    ("deepseek-ai/DeepSeek-V4.1-Flash", "chat", 1_048_576, 3_000, 12_000, 60, "vr"),
    ("reflection/Beam-1.0-501B-A23B", "chat", 1_048_576, 4_000, 12_000, 400, ""),
    ("Qwen/Qwen3.7-Plus", "chat", 1_000_000, 3_200, 12_800, -1, ""),
    ("Qwen/Qwen3.6-Plus", "chat", 1_000_000, 5_000, 30_000, -1, "r"),
    ("zai-org/GLM-5.3", "chat", 1_048_575, 14_000, 44_000, 2_600, "r"),
    ("deepseek-ai/DeepSeek-V4-Pro-0813", "chat", 1_048_576, 13_200, 39_600, 1_300, ""),
    ("meta-models/Muse-Spark-Open-816B-A42B", "chat", 1_048_576, 12_500, 42_500, 1_500, ""),
    ("Qwen/Qwen3.7-Max", "chat", 1_000_000, 25_000, 75_000, 5_000, ""),
    ("moonshotai/Kimi-K3.1-Pro", "chat", 1_048_576, 20_000, 100_000, 2_000, "vr"),
    ("moonshotai/Kimi-K3", "chat", 1_048_576, 30_000, 150_000, 3_000, "vr"),
    ("nvidia/NVIDIA-Nemotron-3.5-Super-VL", "chat", 262_144, 1_500, 5_000, 200, "vr"),
    ("meta-llama/Llama-Guard-4-12B", "moderation", 131_072, 2_000, 2_000, -1, ""),
    ("intfloat/multilingual-e5-large-instruct", "embedding", 514, 200, 0, -1, ""),
    ("mixedbread-ai/Mxbai-Rerank-Large-V2", "rerank", 32_768, 1_000, 0, -1, ""),
    ("black-forest-labs/FLUX.1-schnell", "image", 0, 0, 2_700, -1, ""),
    ("black-forest-labs/FLUX.1.1-pro", "image", 0, 0, 40_000, -1, ""),
    ("black-forest-labs/FLUX.2-pro", "image", 0, 0, 30_000, -1, ""),
    ("black-forest-labs/FLUX.2-max", "image", 0, 0, 70_000, -1, ""),
];

/// The built-in models.
pub(super) fn builtin() -> Vec<SimModel> {
    BUILTIN.iter().map(from_row).collect()
}

fn from_row(&(id, kind, context, input, output, cached, flags): &Row) -> SimModel {
    let cached = (cached >= 0).then_some(cached * 100);
    // A ten-thousandth of a dollar per million tokens is 100 pico-dollars per token.
    let price = match kind {
        "image" => Price { pixel: output, ..Price::default() },
        _ => Price { input: input * 100, output: output * 100, cached, pixel: 0 },
    };
    let (sees, thinks) = (flags.contains('v'), flags.contains('r'));
    SimModel { context, price, sees, thinks, ..SimModel::of_kind(id, kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_prices_in_dollars_per_million_tokens() {
        let models = builtin();
        let row = models.iter().find(|model| model.id() == "zai-org/GLM-5.3-Flash").unwrap().listing();
        assert_eq!(row["pricing"]["input"], json!(0.15));
        assert_eq!(row["pricing"]["output"], json!(0.5));
        assert_eq!(row["pricing"]["cached_input"], json!(0.03));
        assert_eq!(row["organization"], json!("zai-org"));
        let row = models.iter().find(|model| model.id() == "openai/gpt-oss-120b").unwrap().listing();
        assert!(row["pricing"].get("cached_input").is_none());
    }

    #[test]
    fn ids_are_unique() {
        let mut ids: Vec<_> = builtin().iter().map(|model| model.id().to_owned()).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), BUILTIN.len());
    }
}
