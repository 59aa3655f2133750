//! Whose the key is: `GET /v1/whoami`.

use std::fmt;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::{Error, TogetherClient};

/// What the API says of a key. A field that it does not send is empty.
#[derive(Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Whoami {
    /// The key's id: not the key.
    pub api_key_id: String,
    /// The project that the key is scoped to.
    pub project_id: String,
    /// Its name for people.
    pub project_name: String,
    /// The first half of the `model` of a dedicated endpoint: `<project_slug>/<endpoint_slug>`.
    pub project_slug: String,
    /// The organisation that owns the project.
    pub organization_id: String,
    /// Its name for people.
    pub organization_name: String,
    /// The user, where one is known.
    pub user_id: Option<String>,
    /// Fields that this version does not know.
    pub extra: Map<String, Value>,
}

/// Ids, not names of people.
impl fmt::Debug for Whoami {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Whoami")
            .field("api_key_id", &self.api_key_id)
            .field("project_id", &self.project_id)
            .field("organization_id", &self.organization_id)
            .finish_non_exhaustive()
    }
}

impl<'de> Deserialize<'de> for Whoami {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut fields: Map<String, Value> = Map::deserialize(deserializer)?;
        let mut text = |name: &str| match fields.remove(name) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        };
        let mut or_empty = |name: &str| text(name).unwrap_or_default();
        let known = Self {
            api_key_id: or_empty("api_key_id"),
            project_id: or_empty("project_id"),
            project_name: or_empty("project_name"),
            project_slug: or_empty("project_slug"),
            organization_id: or_empty("organization_id"),
            organization_name: or_empty("organization_name"),
            user_id: text("user_id"),
            extra: Map::new(),
        };
        Ok(Self { extra: fields, ..known })
    }
}

impl TogetherClient {
    /// Which project and organisation the key belongs to: the cheapest way to see whether a key is valid.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = together_inference::testing::Together::new().client();
    /// assert_eq!(client.whoami().await?.project_slug, "simulated");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Any [`ErrorKind`](super::ErrorKind); [`Authentication`](super::ErrorKind::Authentication) for a key that is not
    /// valid.
    pub async fn whoami(&self) -> Result<Whoami, Error> {
        self.get("/v1/whoami").await
    }
}
