//! What the examples share: the real API when there is a key or a base URL, the simulator otherwise.

use together_inference::{TogetherClient, client::Error, testing::Together};

/// A client from the environment; without a key and a base URL, of the simulator, which is then given back too.
///
/// Says on stderr which one it is.
pub fn client() -> Result<(TogetherClient, Option<Together>), Error> {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    match (set("TOGETHER_API_KEY"), set("TOGETHER_BASE_URL")) {
        (true, _) => {
            let client = TogetherClient::from_env()?;
            eprintln!("(calling {})", client.host());
            Ok((client, None))
        }
        // A server of one's own may ask for no key.
        (false, true) => {
            let url = std::env::var("TOGETHER_BASE_URL").unwrap_or_default();
            let client = TogetherClient::builder().base_url(url).no_api_key().build()?;
            eprintln!("(calling {} without a key)", client.host());
            Ok((client, None))
        }
        (false, false) => {
            eprintln!("(no TOGETHER_API_KEY: running on the simulator, nothing is spent)");
            let together = Together::new();
            Ok((together.client(), Some(together)))
        }
    }
}
