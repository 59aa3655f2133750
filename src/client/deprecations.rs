//! Which models leave the API, and what to use instead: the page for people, which machines can read too.

use super::{Error, Models};
use crate::types::ModelId;

/// Where Together lists what leaves the API.
pub const DEPRECATIONS_URL: &str = "https://docs.together.ai/docs/deprecations.md";

/// A model that leaves the API, or is answered by another one already.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deprecation {
    /// The model.
    pub model: ModelId,
    /// What to use instead.
    pub replacement: Option<ModelId>,
    /// When it leaves, as `YYYY-MM-DD`; `None` for a model that is redirected already, or where no date can be read.
    pub removal: Option<Box<str>>,
}

impl Models<'_> {
    /// Reads [`DEPRECATIONS_URL`]. The key is not sent along; the client's time-outs and caps hold.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::testing::Together;
    ///
    /// let together = Together::new();
    /// together.announce("acme/Old-8B", "acme/New-9B", "2026-12-01");
    /// let leaving = together.client().models().deprecations().await?;
    /// assert_eq!(leaving[0].removal.as_deref(), Some("2026-12-01"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Any [`ErrorKind`](super::ErrorKind); it is asked once.
    pub async fn deprecations(self) -> Result<Vec<Deprecation>, Error> {
        let success = self.client().fetch(DEPRECATIONS_URL).await?;
        let page = self.client().read_json(success).await?;
        Ok(parse_deprecations(&String::from_utf8_lossy(&page)))
    }
}

/// Reads the tables of the page: removals (`Removal date | Model | Recommended replacement`) and redirects (`Original model
/// | Redirects to`). Whatever else is on it is passed over.
///
/// ```
/// use together_inference::client::parse_deprecations;
///
/// let page = "| Removal date | Model | Recommended replacement |\n|---|---|---|\n| 2026-09-14 | `acme/Old` | `acme/New` |\n";
/// let leaving = parse_deprecations(page);
/// assert_eq!(leaving[0].replacement, Some("acme/New".into()));
/// ```
#[must_use]
pub fn parse_deprecations(page: &str) -> Vec<Deprecation> {
    let mut found = Vec::new();
    let mut columns = None;
    for line in page.lines().map(str::trim) {
        if !line.starts_with('|') {
            columns = None;
            continue;
        }
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        match &columns {
            None => columns = Some(Columns::of(&cells)),
            Some(columns) => found.extend(columns.read(&cells)),
        }
    }
    found
}

/// Where a table has what.
struct Columns {
    model: Option<usize>,
    replacement: Option<usize>,
    removal: Option<usize>,
}

impl Columns {
    fn of(cells: &[&str]) -> Self {
        let find =
            |names: &[&str]| cells.iter().position(|cell| names.iter().any(|name| cell.eq_ignore_ascii_case(name)));
        Self {
            model: find(&["Model", "Original model"]),
            replacement: find(&["Recommended replacement", "Redirects to"]),
            removal: find(&["Removal date"]),
        }
    }

    fn read(&self, cells: &[&str]) -> Option<Deprecation> {
        let cell = |at: Option<usize>| at.and_then(|at| cells.get(at)).copied();
        let model = model(cell(self.model)?)?;
        // A table of something else has models too.
        self.replacement?;
        let removal = cell(self.removal).filter(|text| is_date(text)).map(Into::into);
        Some(Deprecation { model, replacement: cell(self.replacement).and_then(self::model), removal })
    }
}

/// The id in a cell: between backticks or brackets, or the cell itself. What has no slash is no id.
fn model(cell: &str) -> Option<ModelId> {
    let inner = cell.split('`').nth(1).or_else(|| cell.strip_prefix('[')?.split(']').next()).unwrap_or(cell).trim();
    let is_id = inner.contains('/') && !inner.contains(char::is_whitespace);
    is_id.then(|| ModelId::from(inner))
}

fn is_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == 10
        && bytes
            .iter()
            .enumerate()
            .all(|(at, byte)| if at == 4 || at == 7 { *byte == b'-' } else { byte.is_ascii_digit() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_tables_are_read_and_everything_else_is_passed_over() {
        let page = "# Deprecations\n\nWe remove models.\n\n\
            | Removal date | Model | Recommended replacement | Supported by on-demand dedicated endpoints |\n\
            | :--- | :--- | --- | --- |\n\
            | 2026-09-14 | `openai/gpt-oss-20b` | `Qwen/Qwen3.5-9B` | Yes |\n\
            | soon | [acme/Linked](https://x) | None | No |\n\
            | 2026-09-15 | no id | `a/b` | |\n\n\
            | Original model | Redirects to | Notes |\n|---|---|---|\n| `a/old` | `a/new` | upgrade |\n\n\
            | Model | Price |\n|---|---|\n| `a/priced` | 1 |\n|";
        let found = parse_deprecations(page);
        let row = |model: &str, replacement: Option<&str>, removal: Option<&str>| Deprecation {
            model: model.into(),
            replacement: replacement.map(ModelId::from),
            removal: removal.map(Into::into),
        };
        assert_eq!(
            found,
            [
                row("openai/gpt-oss-20b", Some("Qwen/Qwen3.5-9B"), Some("2026-09-14")),
                row("acme/Linked", None, None),
                row("a/old", Some("a/new"), None),
            ]
        );
    }

    proptest::proptest! {
        #[test]
        fn any_page_is_read(page in "[|`\\[\\]a-z/\n -]{0,200}") {
            let _ = parse_deprecations(&page);
        }
    }
}
