//! Pictures from text: `POST /v1/images/generations`.

use std::{borrow::Cow, fmt, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, de::Visitor};
use serde_json::{Map, Value};

use super::{
    CallOptions, Error, RateLimits, TogetherClient,
    ask::{Arrived, NoAnswer},
    chat::served,
    fields::{self, Wire},
    lenient::{Count, Truthy, at_most, or_default},
};
use crate::types::{ModelId, Text};

const PATH: &str = "/v1/images/generations";
/// The most pictures of one response.
const MAX_IMAGES: usize = 128;

/// Pictures by a client: [`TogetherClient::images`].
#[derive(Clone, Copy, Debug)]
pub struct Images<'a> {
    client: &'a TogetherClient,
}

/// What picture to make: everything of an image request but the model.
///
/// It serialises as the API's JSON, leaving out what is not set, and reads it back. `Debug` shows sizes, not texts.
///
/// ```
/// use together_inference::client::ImageInput;
///
/// let input = ImageInput::new("a lighthouse at dusk").size(512, 384).png().seed(7);
/// assert_eq!(input.pixels(), 512 * 384);
/// ```
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", default)]
#[non_exhaustive]
pub struct ImageInput {
    /// What to show.
    pub prompt: String,
    /// What not to show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_prompt: Option<String>,
    /// Pixels across; the API's default is 1,024.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// Pixels down; the API's default is 1,024.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// Steps of generation; the API's default is 20, and fast models take 4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u32>,
    /// How many pictures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n: Option<u32>,
    /// Makes the picture repeatable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// How closely to follow the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance_scale: Option<f64>,
    /// A picture to start from, for models that take one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_url: Option<String>,
    /// Pictures that guide style and look.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub reference_images: Vec<String>,
    /// Adapters that change the style.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub image_loras: Vec<Lora>,
    /// Switches the provider's safety check off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disable_safety_checker: Option<bool>,
    /// `jpeg` (the API's default) or `png`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_format: Option<String>,
    /// `base64` (sent unless set) or `url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_format: Option<String>,
    /// Fields that this version does not know, such as `aspect_ratio`, sent as they are.
    #[serde(flatten, skip_deserializing)]
    pub extra: Map<String, Value>,
}

/// An adapter of an image model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Lora {
    /// Its URL.
    pub path: String,
    /// How strongly it counts; usually 1.
    pub scale: f64,
}

impl Lora {
    /// This adapter at this strength.
    pub fn new(path: impl Into<String>, scale: f64) -> Self {
        Self { path: path.into(), scale }
    }
}

impl ImageInput {
    /// The fields that have a type here.
    pub(crate) const FIELDS: &'static [&'static str] = &[
        "prompt",
        "negative_prompt",
        "width",
        "height",
        "steps",
        "n",
        "seed",
        "guidance_scale",
        "image_url",
        "reference_images",
        "image_loras",
        "disable_safety_checker",
        "output_format",
        "response_format",
    ];

    /// One picture of this.
    pub fn new(prompt: impl Into<String>) -> Self {
        Self { prompt: prompt.into(), ..Self::default() }
    }

    /// Sets the size in pixels.
    #[must_use]
    pub const fn size(mut self, width: u32, height: u32) -> Self {
        self.width = Some(width);
        self.height = Some(height);
        self
    }

    /// Sets how many steps generation takes.
    #[must_use]
    pub const fn steps(mut self, steps: u32) -> Self {
        self.steps = Some(steps);
        self
    }

    /// Sets how many pictures.
    #[must_use]
    pub const fn n(mut self, pictures: u32) -> Self {
        self.n = Some(pictures);
        self
    }

    /// Sets the seed: the same one gives the same picture.
    #[must_use]
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Asks for PNG instead of JPEG.
    #[must_use]
    pub fn png(mut self) -> Self {
        self.output_format = Some("png".to_owned());
        self
    }

    /// Asks for a link instead of the picture itself. Links expire.
    #[must_use]
    pub fn url(mut self) -> Self {
        self.response_format = Some("url".to_owned());
        self
    }

    /// How many pictures are asked for.
    #[must_use]
    pub fn images(&self) -> u64 {
        u64::from(self.n.unwrap_or(1).max(1))
    }

    /// Pixels of all pictures together, 1,024 each way where no size is set.
    #[must_use]
    pub fn pixels(&self) -> u64 {
        let side = |pixels: Option<u32>| u64::from(pixels.unwrap_or(1_024));
        side(self.width).saturating_mul(side(self.height)).saturating_mul(self.images())
    }
}

impl From<&str> for ImageInput {
    fn from(prompt: &str) -> Self {
        Self::new(prompt)
    }
}

impl From<String> for ImageInput {
    fn from(prompt: String) -> Self {
        Self::new(prompt)
    }
}

impl fmt::Debug for ImageInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageInput")
            .field("prompt_bytes", &self.prompt.len())
            .field("width", &self.width)
            .field("height", &self.height)
            .field("n", &self.n)
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}

impl Serialize for ImageInput {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for ImageInput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (input, extra) = fields::read(deserializer, Self::FIELDS, Self::deserialize)?;
        Ok(Self { extra, ..input })
    }
}

/// An image request: a model and an [`ImageInput`].
#[derive(Clone, Debug, PartialEq)]
pub struct ImageRequest {
    model: ModelId,
    input: ImageInput,
}

impl ImageRequest {
    /// This picture by this model.
    pub fn new(model: impl Into<ModelId>, input: ImageInput) -> Self {
        Self { model: model.into(), input }
    }

    /// The model.
    #[must_use]
    pub const fn model(&self) -> &ModelId {
        &self.model
    }

    /// What picture.
    #[must_use]
    pub const fn input(&self) -> &ImageInput {
        &self.input
    }
}

/// A picture that was made. It serialises as the API writes it.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Image {
    /// The file itself: JPEG or PNG.
    Bytes(Bytes),
    /// Where it is, for a while.
    Url(String),
}

impl Image {
    /// The file, if it came with the answer.
    #[must_use]
    pub const fn bytes(&self) -> Option<&Bytes> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Url(_) => None,
        }
    }

    /// The link, if one was asked for.
    #[must_use]
    pub fn url(&self) -> Option<&str> {
        match self {
            Self::Bytes(_) => None,
            Self::Url(url) => Some(url),
        }
    }
}

impl Serialize for Image {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (name, text) = match self {
            Self::Bytes(bytes) => ("b64_json", Cow::Owned(BASE64_STANDARD.encode(bytes))),
            Self::Url(url) => ("url", Cow::Borrowed(&**url)),
        };
        serializer.collect_map([(name, text)])
    }
}

impl<'de> Deserialize<'de> for Image {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = WireImage::deserialize(deserializer)?;
        wire.into_image().ok_or_else(|| serde::de::Error::custom("a picture needs b64_json or url"))
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            // A signed link is a secret for as long as it lives.
            Self::Url(url) => write!(f, "Url({} bytes)", url.len()),
        }
    }
}

/// The pictures of a response.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct GeneratedImages {
    /// The provider's id.
    pub id: String,
    /// The model that made them.
    pub model: ModelId,
    /// The pictures in order, never empty.
    pub images: Vec<Image>,
    /// The `x-request-id` of the response.
    pub request_id: Option<Arc<str>>,
    /// What the provider says of its limits, where it does.
    pub rate_limits: Option<RateLimits>,
}

impl<'a> Images<'a> {
    pub(super) const fn new(client: &'a TogetherClient) -> Self {
        Self { client }
    }

    /// Makes pictures. They come with the answer unless the input asks for links.
    ///
    /// # Errors
    ///
    /// Any [`ErrorKind`](super::ErrorKind). An answer without a picture, or with one that is not base64, is
    /// [`Malformed`](super::ErrorKind::Malformed); one over [`Caps::json_bytes`](super::Caps::json_bytes) is
    /// [`TooLarge`](super::ErrorKind::TooLarge).
    ///
    /// # Cancellation
    ///
    /// Dropping the future abandons the call; the provider may bill the pictures.
    pub async fn generate(self, request: &ImageRequest) -> Result<GeneratedImages, Error> {
        self.generate_with(&request.model, &request.input, &CallOptions::default()).await
    }

    /// [`generate`](Self::generate) of an input by a model, with options for this call.
    ///
    /// # Errors
    ///
    /// As [`generate`](Self::generate).
    pub async fn generate_with(
        self,
        model: &ModelId,
        input: &ImageInput,
        options: &CallOptions,
    ) -> Result<GeneratedImages, Error> {
        let input = &Here { input, response_format: input.response_format.is_none().then_some("base64") };
        let call = self.client.call_of(PATH, model, &Wire { model, input, stream: false }, false)?;
        let (made, arrived) = self.client.ask(&call, options, |raw| parse(raw, model)).await?;
        // The pictures are decoded already: their JSON is not kept as well.
        let Arrived { request_id, rate_limits, raw: _ } = arrived;
        Ok(GeneratedImages { request_id, rate_limits, ..made })
    }
}

// ---- the wire

/// The pictures are wanted here, unless the input says otherwise.
#[derive(Serialize)]
struct Here<'a> {
    #[serde(flatten)]
    input: &'a ImageInput,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_format: Option<&'static str>,
}

#[derive(Deserialize)]
struct WireImages<'a> {
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    model: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "at_most::<MAX_IMAGES, _, _>")]
    data: Option<Vec<WireImage<'a>>>,
    #[serde(default)]
    error: Truthy,
}

#[derive(Deserialize)]
struct WireImage<'a> {
    #[serde(default)]
    index: Count,
    #[serde(borrow)]
    b64_json: Option<Base64<'a>>,
    #[serde(borrow)]
    url: Option<Text<'a>>,
}

/// Base64 as it stands in the body. Not checked to be text, which would read megabytes once more: decoding does.
struct Base64<'a>(Cow<'a, [u8]>);

impl<'de: 'a, 'a> Deserialize<'de> for Base64<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(Base64Visitor).map(Self)
    }
}

struct Base64Visitor;

impl<'de> Visitor<'de> for Base64Visitor {
    type Value = Cow<'de, [u8]>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("base64")
    }

    fn visit_borrowed_bytes<E>(self, base64: &'de [u8]) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(base64))
    }

    fn visit_bytes<E>(self, base64: &[u8]) -> Result<Self::Value, E> {
        Ok(Cow::Owned(base64.to_owned()))
    }

    fn visit_borrowed_str<E>(self, base64: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(base64.as_bytes()))
    }

    fn visit_str<E>(self, base64: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(base64.as_bytes().to_owned()))
    }
}

impl WireImage<'_> {
    fn into_image(self) -> Option<Image> {
        match (self.b64_json, self.url) {
            (Some(base64), _) => BASE64_STANDARD.decode(&base64.0).ok().map(|bytes| Image::Bytes(bytes.into())),
            (None, Some(url)) => Some(Image::Url(url.0.into_owned())),
            (None, None) => None,
        }
    }
}

const NO_IMAGE: NoAnswer = NoAnswer::Missing("no picture");

fn parse(raw: &Bytes, asked: &ModelId) -> Result<GeneratedImages, NoAnswer> {
    let wire: Option<WireImages<'_>> = serde_json::from_slice(raw)?;
    let WireImages { id, model, data, error } = wire.ok_or(NO_IMAGE)?;
    let mut data = data.filter(|data| !error.0 && !data.is_empty()).ok_or(NO_IMAGE)?;
    data.sort_by_key(|image| image.index.0);
    let images = data.into_iter().map(WireImage::into_image).collect::<Option<_>>();
    Ok(GeneratedImages {
        id: id.map(|id| id.0.into_owned()).unwrap_or_default(),
        model: served(model, asked),
        images: images.ok_or(NoAnswer::Missing("a picture is no base64"))?,
        request_id: None,
        rate_limits: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Option<Vec<Image>> {
        parse(&Bytes::copy_from_slice(json.as_bytes()), &"m".into()).ok().map(|made| made.images)
    }

    #[test]
    fn pictures_come_as_bytes_or_links_in_order() {
        let json =
            r#"{"data":[{"index":1,"type":"url","url":"https://x"},{"index":0,"type":"b64_json","b64_json":"aGk="}]}"#;
        assert_eq!(read(json).unwrap(), [Image::Bytes("hi".into()), Image::Url("https://x".into())]);
    }

    #[test]
    fn what_is_no_picture_is_no_answer() {
        for json in [
            "null",
            "{}",
            r#"{"data":[]}"#,
            r#"{"data":[{"index":0}]}"#,
            r#"{"data":[{"b64_json":"not base64"}]}"#,
            r#"{"data":[{"b64_json":"aGk="}],"error":"x"}"#,
        ] {
            assert_eq!(read(json), None, "{json}");
        }
    }

    #[test]
    fn every_typed_field_is_named() {
        let input = ImageInput {
            negative_prompt: Some(String::new()),
            guidance_scale: Some(3.5),
            image_url: Some(String::new()),
            reference_images: vec![String::new()],
            image_loras: vec![Lora::new("x", 1.0)],
            disable_safety_checker: Some(true),
            ..ImageInput::new("a").size(1, 2).steps(3).n(4).seed(u64::MAX).png().url()
        };
        let written = serde_json::to_string(&input).unwrap();
        assert!(ImageInput::FIELDS.iter().all(|name| written.contains(&format!("\"{name}\":"))), "{written}");
        assert_eq!(serde_json::from_str::<ImageInput>(&written).unwrap(), input);
    }
}
