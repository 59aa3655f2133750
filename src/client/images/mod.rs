//! Pictures from text: `POST /v1/images/generations`.

mod request;

use std::{borrow::Cow, fmt, sync::Arc};

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
    prelude::BASE64_STANDARD,
};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, de::Visitor};

pub use self::request::{ImageInput, ImageRequest, Lora};
use super::{
    CallOptions, Error, RateLimits, TogetherClient,
    ask::{Arrived, NoAnswer},
    chat::served,
    fields::Wire,
    lenient::{Count, Truthy, at_most},
    loose::{id, text},
};
use crate::types::{ModelId, Text};

const PATH: &str = "/v1/images/generations";
/// The most pictures of one response.
const MAX_IMAGES: usize = 128;
/// The most bytes of a `data:` URL before its base64.
const MAX_MIME: usize = 128;
/// Some servers leave the padding out.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Pictures by a client: [`TogetherClient::images`].
#[derive(Clone, Copy, Debug)]
pub struct Images<'a> {
    client: &'a TogetherClient,
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
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::{ImageInput, ImageRequest}, testing::Together};
    ///
    /// let client = Together::new().client();
    /// let input = ImageInput::new("a lighthouse at dusk").size(64, 64).png();
    /// let request = ImageRequest::new("black-forest-labs/FLUX.1-schnell", input);
    /// let made = client.images().generate(&request).await?;
    /// assert!(made.images[0].bytes().is_some());
    /// # Ok(())
    /// # }
    /// ```
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
        self.generate_with(request.model(), request.input(), &CallOptions::default()).await
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
    #[serde(default, borrow, deserialize_with = "id")]
    id: Option<Text<'a>>,
    #[serde(default, borrow, deserialize_with = "text")]
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
        let base64 = self.b64_json.filter(|base64| !base64.0.is_empty());
        let link = || Some(Image::Url(self.url.filter(|url| !url.0.is_empty())?.0.into_owned()));
        base64.and_then(|base64| decode(&base64.0)).map(|bytes| Image::Bytes(bytes.into())).or_else(link)
    }
}

/// Some servers write a `data:` URL, end it with a line break, or break it into lines.
fn decode(base64: &[u8]) -> Option<Vec<u8>> {
    let base64 = base64.trim_ascii();
    let comma = || base64.iter().take(MAX_MIME).position(|byte| *byte == b',');
    let start = if base64.starts_with(b"data:") { comma()? + 1 } else { 0 };
    let base64 = base64.get(start..)?;
    // Most have no break: those are not copied.
    LENIENT.decode(base64).ok().or_else(|| {
        let unbroken: Vec<u8> = base64.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
        (unbroken.len() < base64.len()).then(|| LENIENT.decode(unbroken).ok())?
    })
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
        let unpadded = r#"{"data":[{"b64_json":"aGk","url":null},{"b64_json":"","url":"https://x"}]}"#;
        assert_eq!(read(unpadded).unwrap(), [Image::Bytes("hi".into()), Image::Url("https://x".into())]);
    }

    #[test]
    fn what_is_no_picture_is_no_answer() {
        for json in [
            "null",
            "{}",
            r#"{"data":[]}"#,
            r#"{"data":[{"index":0}]}"#,
            r#"{"data":[{"b64_json":"not base64"}]}"#,
            r#"{"data":[{"b64_json":""}]}"#,
            r#"{"data":[{"url":""}]}"#,
            r#"{"data":[{"b64_json":"aGk="}],"error":"x"}"#,
        ] {
            assert_eq!(read(json), None, "{json}");
        }
    }
}
