//! What picture is asked for.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::super::{fields, lenient::or_default};
use crate::types::ModelId;

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

/// An adapter of an image model. `Debug` does not show its URL, which may be signed.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
#[non_exhaustive]
pub struct Lora {
    /// Its URL.
    pub path: String,
    /// How strongly it counts; usually 1.
    pub scale: f64,
    /// Fields that this version does not know, sent as they are.
    #[serde(flatten, skip_deserializing)]
    pub extra: Map<String, Value>,
}

impl Lora {
    /// This adapter at this strength.
    pub fn new(path: impl Into<String>, scale: f64) -> Self {
        Self { path: path.into(), scale, extra: Map::new() }
    }
}

impl fmt::Debug for Lora {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lora").field("path_bytes", &self.path.len()).field("scale", &self.scale).finish_non_exhaustive()
    }
}

impl Serialize for Lora {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Lora {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (lora, extra) = fields::read(deserializer, &["path", "scale"], Self::deserialize)?;
        Ok(Self { extra, ..lora })
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

    /// Every field of the input, to set what has no setter here.
    pub const fn input_mut(&mut self) -> &mut ImageInput {
        &mut self.input
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
