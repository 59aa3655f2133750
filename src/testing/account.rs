//! What the API says of the key: `/v1/whoami` and `/v3/whoami`.

use serde_json::{Value, json};

/// The third version: the same in parts.
pub(super) fn whoami_v3() -> Value {
    json!({
        "type": "project_api_key",
        "api_key": {"id": "key_simulated"},
        "project": {"id": "proj_simulated", "name": "Simulated project", "slug": "simulated"},
        "organization": {"id": "org_simulated", "name": "Simulated organization"},
    })
}

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
