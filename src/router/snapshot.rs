//! Catalogues as text: the one that ships, and a user's own.

use std::time::{Duration, SystemTime};

use super::{Capabilities, Known, ModelRoute, RouteState, Word, Words};
use crate::types::{Price, Task, Tier, UpstreamId, Usd, parse_usd};

/// The catalogue that ships.
pub(super) const SHIPPED: &str = include_str!("catalog.tsv");
/// When it was gathered: the date in its first line, which must begin so for this to compile.
pub(super) const DATE: &str =
    SHIPPED.split_at("# Models and prices of Together AI as gathered on ".len()).1.split_at(10).0;

/// [`DATE`] as a time.
pub(super) fn date() -> Option<SystemTime> {
    let mut parts = DATE.split('-').map(|part| part.parse::<u64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    // Days of the months before, in a year that begins in March: leap days come last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day;
    // From the first of March of year 0 to 1970-01-01.
    let days = days.checked_sub(719_469)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(days * 86_400))
}

/// The columns that a catalogue may have.
const COLUMNS: [&str; 15] = [
    "tasks",
    "model",
    "upstream",
    "tier",
    "context",
    "max_output",
    "usd_in",
    "usd_out",
    "usd_cached",
    "tools",
    "json_schema",
    "vision",
    "reasoning",
    "state",
    "source_date",
];

/// A catalogue cannot be read: where, and what is wrong.
///
/// ```
/// use together_inference::router::CatalogRouter;
///
/// let error = CatalogRouter::from_tsv("tasks\tmodel\tcontext\nchat\tacme/big\t128k\n").unwrap_err();
/// assert_eq!(error.to_string(), r#"line 2, context: "128k" is no count of tokens: write digits only"#);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, {field}: {problem}")]
#[non_exhaustive]
pub struct CatalogError {
    /// The line, from 1.
    pub line: usize,
    /// The column, or `header` or `row` for the whole line.
    pub field: &'static str,
    /// What is wrong and what would be right.
    pub problem: Box<str>,
}

/// Reads the routes of a catalogue.
pub(super) fn parse(text: &str) -> Result<Vec<ModelRoute>, CatalogError> {
    let mut lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim_end_matches('\r')));
    let mut lines = lines.by_ref().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    let Some((at, header)) = lines.next() else {
        return Err(error(1, "header", "missing: the first line names the columns"));
    };
    let header = columns(at, header)?;
    let mut routes: Vec<ModelRoute> = Vec::new();
    for (at, line) in lines {
        let route = Row::new(at, &header, line)?.route()?;
        // A catalogue has some dozens of rows: looking through them costs less than an index.
        if routes.iter().any(|other| other.id() == route.id()) {
            return Err(error(at, "model", format!("{} stands above already", route.id())));
        }
        routes.push(route);
    }
    Ok(routes)
}

fn error(line: usize, field: &'static str, problem: impl Into<Box<str>>) -> CatalogError {
    CatalogError { line, field, problem: problem.into() }
}

fn columns(at: usize, header: &str) -> Result<Vec<&'static str>, CatalogError> {
    let mut found: Vec<&'static str> = Vec::new();
    for name in header.split('\t').map(str::trim) {
        let Some(column) = COLUMNS.into_iter().find(|column| *column == name) else {
            return Err(error(at, "header", format!("unknown column {name:?}: one of {}", COLUMNS.join(", "))));
        };
        if found.contains(&column) {
            return Err(error(at, column, "stands twice in the header"));
        }
        found.push(column);
    }
    for needed in ["tasks", "model"] {
        if !found.contains(&needed) {
            return Err(error(at, needed, "missing from the header"));
        }
    }
    Ok(found)
}

/// One line with its fields by name.
struct Row<'a> {
    line: usize,
    fields: Vec<(&'static str, &'a str)>,
}

impl<'a> Row<'a> {
    fn new(line: usize, header: &[&'static str], text: &'a str) -> Result<Self, CatalogError> {
        let values: Vec<&str> = text.split('\t').map(str::trim).collect();
        if values.len() != header.len() {
            let problem =
                format!("{} fields where the header has {}; separate them by tabs", values.len(), header.len());
            return Err(error(line, "row", problem));
        }
        Ok(Self { line, fields: header.iter().copied().zip(values).collect() })
    }

    fn route(&self) -> Result<ModelRoute, CatalogError> {
        let model = self.get("model").ok_or_else(|| error(self.line, "model", "missing"))?;
        let upstream = self.get("upstream").map_or_else(UpstreamId::together, UpstreamId::from);
        let mut route = ModelRoute::new(upstream, model).tasks(self.tasks()?).capabilities(self.capabilities()?);
        route.tier = self.choice("tier", &[("small", Tier::Small), ("mid", Tier::Mid), ("large", Tier::Large)])?;
        route.price = self.price()?;
        route.context = self.tokens("context")?;
        route.max_output = self.tokens("max_output")?;
        let states = [("live", RouteState::Live), ("preview", RouteState::Preview)];
        route.state = self.choice("state", &states)?.unwrap_or_default();
        route.words = Words::all(Word::Snapshot);
        route.by_user = false;
        Ok(route)
    }

    /// The field's text; `None` if it is absent, empty, `?` or `-`.
    fn get(&self, field: &str) -> Option<&'a str> {
        let (_, value) = self.fields.iter().find(|(name, _)| *name == field)?;
        Some(*value).filter(|value| !matches!(*value, "" | "?" | "-"))
    }

    fn tasks(&self) -> Result<Vec<Task>, CatalogError> {
        let text = self.get("tasks").ok_or_else(|| error(self.line, "tasks", "missing"))?;
        let parsed = text.split(',').map(|task| task.trim().parse::<Task>());
        parsed.map(|task| task.map_err(|why| error(self.line, "tasks", why.to_string()))).collect()
    }

    fn capabilities(&self) -> Result<Capabilities, CatalogError> {
        let known = |field| {
            self.choice(field, &[("yes", Known::Yes), ("no", Known::No)]).map(|known| known.unwrap_or(Known::Unknown))
        };
        Ok(Capabilities {
            tools: known("tools")?,
            json_schema: known("json_schema")?,
            vision: known("vision")?,
            reasoning: known("reasoning")?,
        })
    }

    fn price(&self) -> Result<Option<Price>, CatalogError> {
        let cached = self.dollars("usd_cached")?;
        let price = match (self.dollars("usd_in")?, self.dollars("usd_out")?) {
            (Some(input), Some(output)) => Price::per_million(input, output),
            (None, None) if cached.is_none() => return Ok(None),
            (Some(_), None) => return Err(error(self.line, "usd_out", "missing: name both prices or neither")),
            (None, _) => return Err(error(self.line, "usd_in", "missing: name both prices or neither")),
        };
        Ok(Some(cached.map_or(price, |cached| price.cached(cached))))
    }

    fn dollars(&self, field: &'static str) -> Result<Option<Usd>, CatalogError> {
        self.get(field).map(|text| parse_usd(text).map_err(|why| error(self.line, field, why.to_string()))).transpose()
    }

    fn tokens(&self, field: &'static str) -> Result<Option<u32>, CatalogError> {
        let Some(text) = self.get(field) else { return Ok(None) };
        match text.parse() {
            Ok(tokens) if tokens > 0 => Ok(Some(tokens)),
            _ => Err(error(self.line, field, format!("{text:?} is no count of tokens: write digits only"))),
        }
    }

    fn choice<T: Clone>(&self, field: &'static str, choices: &[(&str, T)]) -> Result<Option<T>, CatalogError> {
        let Some(text) = self.get(field) else { return Ok(None) };
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
            return Ok(Some(value.clone()));
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        Err(error(self.line, field, format!("unknown {text:?}: one of {}, or ? if not known", names.join(", "))))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{RouteId, usd};

    #[test]
    fn the_shipped_catalogue_parses() {
        let routes = parse(SHIPPED).unwrap();
        assert_eq!(routes.len(), 24);
        let glm = routes.iter().find(|route| route.id() == &RouteId::new("together", "zai-org/GLM-5.3")).unwrap();
        assert_eq!(glm.tasks, [Task::Chat, Task::Code]);
        assert_eq!(glm.tier, Some(Tier::Large));
        assert_eq!(glm.price, Some(Price::per_million(usd!("1.40"), usd!("4.40")).cached(usd!("0.26"))));
        assert_eq!(glm.capabilities, Capabilities::all().vision(Known::No));
        assert!(
            SHIPPED
                .lines()
                .filter(|line| line.contains('\t'))
                .skip(1)
                .all(|line| { line.rsplit('\t').next().is_some_and(|date| date <= DATE && date.len() == DATE.len()) })
        );
    }

    #[test]
    fn the_date_is_a_time() {
        let seconds = date().unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        assert_eq!((DATE, seconds), ("2026-11-24", 1_795_478_400));
    }

    #[test]
    fn every_chat_and_code_route_that_ships_has_a_tier_and_a_price() {
        for route in parse(SHIPPED).unwrap() {
            if route.tasks.iter().any(|task| matches!(task, Task::Chat | Task::Code)) {
                assert!(route.tier.is_some() && route.price.is_some() && route.context.is_some(), "{}", route.id());
            }
        }
    }

    #[test]
    fn a_mistake_is_named_by_line_and_field() {
        for (text, line, field) in [
            ("", 1, "header"),
            ("# nothing\n", 1, "header"),
            ("tasks\tcolour", 1, "header"),
            ("tasks\ttasks\tmodel", 1, "tasks"),
            ("tasks\ttier", 1, "model"),
            ("tasks\tmodel\n\nchat", 3, "row"),
            ("tasks\tmodel\nchat\ta\tb", 2, "row"),
            ("tasks\tmodel\nsing\ta", 2, "tasks"),
            ("tasks\tmodel\n?\ta", 2, "tasks"),
            ("tasks\tmodel\nchat\t-", 2, "model"),
            ("tasks\tmodel\nchat\ta\n# twice\nchat\ta", 4, "model"),
            ("tasks\tmodel\ttier\nchat\ta\thuge", 2, "tier"),
            ("tasks\tmodel\tcontext\nchat\ta\t128k", 2, "context"),
            ("tasks\tmodel\tcontext\nchat\ta\t0", 2, "context"),
            ("tasks\tmodel\ttools\nchat\ta\tmaybe", 2, "tools"),
            ("tasks\tmodel\tstate\nchat\ta\tdead", 2, "state"),
            ("tasks\tmodel\tusd_in\tusd_out\nchat\ta\t1\t-1", 2, "usd_out"),
            ("tasks\tmodel\tusd_in\tusd_out\nchat\ta\t1\t?", 2, "usd_out"),
            ("tasks\tmodel\tusd_in\tusd_out\nchat\ta\t?\t1", 2, "usd_in"),
            ("tasks\tmodel\tusd_cached\nchat\ta\t1", 2, "usd_in"),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!((error.line, error.field), (line, field), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_short_file_will_do() {
        let routes = parse("tasks\tmodel\tupstream\r\nchat, code\tqwen\tlocal\r\n").unwrap();
        let written = ModelRoute { by_user: false, ..ModelRoute::new("local", "qwen").tasks([Task::Chat, Task::Code]) };
        assert_eq!(routes, [written]);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(header in any::<bool>(), rows in "([a-z?0-9#.,]{0,6}[\t\n]){0,30}") {
            let header = if header { "tasks\tmodel\ttier\tusd_in\tusd_out\n" } else { "" };
            let _ = parse(&format!("{header}{rows}"));
        }
    }
}
