//! What the API says of the key: `/v1/whoami`.

use serde_json::{Value, json};

/// The key's project and organisation.
pub(super) fn whoami() -> Value {
    json!({
        "api_key_id": "key_simulated",
        "project_id": "proj_simulated",
        "project_name": "Simulated project",
        "project_slug": "simulated",
        "organization_id": "org_simulated",
        "organization_name": "Simulated organization",
        "user_id": "user_simulated",
    })
}
