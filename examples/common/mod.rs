//! What the examples share: the real API when there is a key or a base URL, the simulator otherwise.

use std::env;

use together_inference::{TogetherClient, client::Error, testing::Together};

/// A client from the environment; without a key and a base URL, of the simulator, which is then given back too.
///
/// Says on stderr which one it is.
#[allow(dead_code, reason = "not every example that takes this module calls it")]
pub(crate) fn client() -> Result<(TogetherClient, Option<Together>), Error> {
    client_at(None)
}

/// The same for the server at this URL, if there is one.
pub(crate) fn client_at(base_url: Option<String>) -> Result<(TogetherClient, Option<Together>), Error> {
    let set = |name| env::var(name).ok().filter(|value| !value.trim().is_empty());
    let client = match (set("TOGETHER_API_KEY"), base_url.or_else(|| set("TOGETHER_BASE_URL"))) {
        (None, None) => {
            eprintln!("(no TOGETHER_API_KEY: running on the simulator, nothing is spent)");
            let together = Together::new();
            return Ok((together.client(), Some(together)));
        }
        (Some(_), None) => TogetherClient::from_env()?,
        (Some(key), Some(url)) => TogetherClient::builder().base_url(url).api_key(key.trim()).build()?,
        // A server of one's own may ask for no key.
        (None, Some(url)) => TogetherClient::builder().base_url(url).no_api_key().build()?,
    };
    eprintln!("(calling {})", client.host());
    Ok((client, None))
}
