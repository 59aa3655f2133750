//! What can be deployed or called: `GET /v2/supported-models`.

use std::fmt::Write;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::{
    Error, Models, Pricing,
    lenient::{Count, at_most},
};
use crate::types::ModelId;

/// The most pages that one listing reads: ten thousand models.
const MAX_PAGES: usize = 100;
/// The most rows of one page.
const MAX_ROWS: usize = 4_096;
/// The most words of one list of a row.
const MAX_WORDS: usize = 256;

/// Which of the supported models to list.
///
/// ```
/// use together_inference::client::SupportedQuery;
///
/// let serverless = SupportedQuery::default().product("PRODUCT_SERVERLESS").search("glm");
/// # let _ = serverless;
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SupportedQuery {
    product: Option<String>,
    modality: Option<String>,
    search: Option<String>,
}

impl SupportedQuery {
    /// Only those offered as this: `PRODUCT_SERVERLESS`, `PRODUCT_DEDICATED`, `PRODUCT_FINE_TUNING`.
    #[must_use]
    pub fn product(mut self, product: impl Into<String>) -> Self {
        self.product = Some(product.into());
        self
    }

    /// Only those that read this: `MODALITY_TEXT`, `MODALITY_IMAGE`, …
    #[must_use]
    pub fn modality(mut self, modality: impl Into<String>) -> Self {
        self.modality = Some(modality.into());
        self
    }

    /// Only those with this text in id, name or description.
    #[must_use]
    pub fn search(mut self, text: impl Into<String>) -> Self {
        self.search = Some(text.into());
        self
    }

    fn path(&self, after: Option<&str>) -> String {
        let fields = [
            ("product", self.product.as_deref()),
            ("modality", self.modality.as_deref()),
            ("search", self.search.as_deref()),
            ("after", after),
        ];
        let mut path = "/v2/supported-models".to_owned();
        for (name, value) in fields {
            if let Some(value) = value {
                path.push(if path.contains('?') { '&' } else { '?' });
                path.push_str(name);
                path.push('=');
                percent_encode(value, &mut path);
            }
        }
        path
    }
}

fn percent_encode(value: &str, out: &mut String) {
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

/// A model of the curated catalogue. It lists what can be deployed: a model that is not in it may be callable all the
/// same.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SupportedModel {
    /// The id to call it by.
    pub name: ModelId,
    /// The name for people.
    pub display_name: Option<String>,
    /// What it reads: `MODALITY_TEXT`, `MODALITY_IMAGE`, … (open).
    pub input_modalities: Vec<String>,
    /// What it writes.
    pub output_modalities: Vec<String>,
    /// Where it is offered: `PRODUCT_SERVERLESS`, `PRODUCT_DEDICATED`, … (open).
    pub products: Vec<String>,
    /// `FEATURE_TOOL_CALLING`, `FEATURE_STRUCTURED_OUTPUT`, `FEATURE_REASONING`, … (open).
    pub features: Vec<String>,
    /// `CAPABILITY_CHAT`, `CAPABILITY_EMBEDDING`, … (open).
    pub capabilities: Vec<String>,
    /// Tokens of prompt and answer together.
    pub context_length: Option<u32>,
    /// `SUPPORTED_MODEL_STATUS_RECOMMENDED`, `…_SUPPORTED`, `…_DEPRECATED`, `…_HIDDEN` (open).
    pub status: Option<String>,
    /// Dollars per million tokens, where the list says them.
    pub pricing: Option<Pricing>,
    /// Every other field as it came.
    pub extra: Map<String, Value>,
}

impl SupportedModel {
    /// Whether it can be called without an endpoint of one's own.
    #[must_use]
    pub fn is_serverless(&self) -> bool {
        has(&self.products, "SERVERLESS")
    }

    /// Whether it is going to be removed.
    #[must_use]
    pub fn is_deprecated(&self) -> bool {
        self.status.as_deref().is_some_and(|status| status.ends_with("DEPRECATED"))
    }

    /// Whether it has this feature, such as `TOOL_CALLING`.
    #[must_use]
    pub fn has_feature(&self, name: &str) -> bool {
        has(&self.features, name)
    }

    /// Whether it reads pictures.
    #[must_use]
    pub fn reads_images(&self) -> bool {
        has(&self.input_modalities, "IMAGE")
    }
}

/// Words come with a prefix and, in older copies, without.
fn has(words: &[String], name: &str) -> bool {
    words.iter().any(|word| word.strip_suffix(name).is_some_and(|prefix| prefix.is_empty() || prefix.ends_with('_')))
}

impl Models<'_> {
    /// Every model of the curated catalogue that fits the query, page by page.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::SupportedQuery, testing::Together};
    ///
    /// let client = Together::new().client();
    /// let found = client.models().supported(&SupportedQuery::default().search("GLM-5.3")).await?;
    /// assert!(found.iter().all(|model| model.is_serverless() && model.has_feature("TOOL_CALLING")));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Any [`ErrorKind`](super::ErrorKind); what earlier pages held is lost. A row that cannot be read is left out.
    pub async fn supported(self, query: &SupportedQuery) -> Result<Vec<SupportedModel>, Error> {
        let (mut found, mut after) = (Vec::new(), None::<String>);
        for _ in 0..MAX_PAGES {
            let page: WirePage = self.client().get(&query.path(after.as_deref())).await?;
            found.extend(page.data.unwrap_or_default().into_iter().filter_map(|row| row.0));
            match page.next_cursor {
                // A cursor that stands still would never end.
                Some(next) if !next.is_empty() && after.as_ref() != Some(&next) => after = Some(next),
                _ => break,
            }
        }
        Ok(found)
    }
}

// ---- the wire

#[derive(Deserialize)]
struct WirePage {
    #[serde(default, deserialize_with = "at_most::<MAX_ROWS, _, _>")]
    data: Option<Vec<WireRow>>,
    next_cursor: Option<String>,
}

/// A row, if it has a name.
struct WireRow(Option<SupportedModel>);

impl<'de> Deserialize<'de> for WireRow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = super::bounded::Bounded::deserialize(deserializer)?.0;
        Ok(Self(if let Value::Object(fields) = value { read(fields) } else { None }))
    }
}

fn read(mut fields: Map<String, Value>) -> Option<SupportedModel> {
    let name = fields.remove("name")?;
    let name = name.as_str().filter(|name| !name.is_empty())?;
    let text = |fields: &mut Map<String, Value>, name: &str| match fields.remove(name) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    };
    let words = |fields: &mut Map<String, Value>, name: &str| match fields.remove(name) {
        Some(Value::Array(words)) => {
            words.into_iter().take(MAX_WORDS).filter_map(|word| word.as_str().map(str::to_owned)).collect()
        }
        _ => Vec::new(),
    };
    let context = fields.remove("contextLength").and_then(|length| Count::deserialize(length).ok());
    let pricing = fields.remove("pricing").and_then(|mut pricing| {
        let map = pricing.as_object_mut()?;
        if let Some(cached) = map.remove("cachedInput") {
            map.insert("cached_input".to_owned(), cached);
        }
        Pricing::deserialize(pricing).ok()
    });
    Some(SupportedModel {
        name: name.into(),
        display_name: text(&mut fields, "displayName"),
        input_modalities: words(&mut fields, "inputModalities"),
        output_modalities: words(&mut fields, "outputModalities"),
        products: words(&mut fields, "products"),
        features: words(&mut fields, "features"),
        capabilities: words(&mut fields, "capabilities"),
        context_length: context.and_then(Count::small),
        status: text(&mut fields, "status"),
        pricing,
        extra: fields,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read_as_the_list_writes_it() {
        let row = r#"{"id":"m1","name":"a/b","displayName":"B","inputModalities":["MODALITY_TEXT","MODALITY_IMAGE"],
            "products":["PRODUCT_SERVERLESS"],"features":["FEATURE_TOOL_CALLING",7],"contextLength":"131072",
            "status":"SUPPORTED_MODEL_STATUS_DEPRECATED","pricing":{"input":0.5,"cachedInput":0.1,"output":"1.5"},"new":1}"#;
        let page: WirePage = serde_json::from_str(&format!("{{\"data\":[{row},{{}},null,7]}}")).unwrap();
        let rows: Vec<_> = page.data.unwrap().into_iter().filter_map(|row| row.0).collect();
        let [model] = &rows[..] else { panic!("{rows:?}") };
        assert!(model.is_serverless() && model.is_deprecated() && model.reads_images());
        assert!(model.has_feature("TOOL_CALLING") && !model.has_feature("REASONING") && !model.has_feature("CALLING_"));
        assert_eq!((model.context_length, model.extra["new"].clone()), (Some(131_072), 1.into()));
        let pricing = model.pricing.unwrap();
        assert_eq!((pricing.input, pricing.cached_input, pricing.output), (Some(0.5), Some(0.1), Some(1.5)));
    }

    #[test]
    fn a_query_is_written_so_that_nothing_escapes_its_field() {
        let query = SupportedQuery::default().search("a b&c=é/../").product("P");
        assert_eq!(query.path(Some("1")), "/v2/supported-models?product=P&search=a%20b%26c%3D%C3%A9%2F..%2F&after=1");
        assert_eq!(SupportedQuery::default().path(None), "/v2/supported-models");
    }
}
