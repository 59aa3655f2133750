//! `GET /v2/supported-models`: a page of what can be deployed or called.

use serde_json::{Value, json};

use super::models::SimModel;

/// Rows of a page unless the query says so.
const PAGE: usize = 100;

/// The page that the query asks for.
pub(super) fn page(models: &[SimModel], query: &str) -> Value {
    let field = |name: &str| {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(key, value)| *key == name && !value.is_empty()).map(|(_, value)| value.to_owned()).next()
    };
    let has = |row: &Value, list: &str, wanted: Option<String>| {
        wanted.is_none_or(|wanted| {
            row.get(list).and_then(Value::as_array).is_some_and(|all| all.contains(&json!(wanted)))
        })
    };
    let search = field("search").map(|text| text.to_lowercase());
    let rows = models.iter().map(SimModel::supported).filter(|row| {
        let name = row.get("name").and_then(Value::as_str).unwrap_or_default().to_lowercase();
        has(row, "inputModalities", field("modality"))
            && has(row, "products", field("product"))
            && search.as_ref().is_none_or(|search| name.contains(search.as_str()))
    });
    let start = field("after").and_then(|at| at.parse().ok()).unwrap_or(0_usize);
    let limit = field("limit").and_then(|limit| limit.parse().ok()).unwrap_or(PAGE).clamp(1, PAGE);
    let mut data: Vec<_> = rows.skip(start).take(limit + 1).collect();
    let more = data.len() > limit;
    data.truncate(limit);
    json!({"object": "list", "data": data, "next_cursor": more.then(|| (start + limit).to_string())})
}
