//! The routes, ordered and prepared for ranking. A table never changes; another takes its place.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    ModelRoute, Ranking, RouteState,
    learn::Learned,
    score::{self, Terms},
    thrift::Thrift,
};
use tokio::time::Instant;

use crate::{
    inference::Needs,
    types::{Priority, RouteId, Task, Tier, Usd},
};

/// How often a retirement may lead to a route that is retired as well.
const LONGEST_CHAIN: usize = 4;
/// Finished rankings that are kept; past it they are forgotten all at once.
const MOST_FINISHED: usize = 256;

/// The version of the next table.
static VERSIONS: AtomicU64 = AtomicU64::new(1);

/// What was seen of a route, counted without a lock.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) answered: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) cancelled: AtomicU64,
}

impl Counts {
    pub(super) fn read(&self) -> [u64; 3] {
        [&self.answered, &self.failed, &self.cancelled].map(|count| count.load(Ordering::Relaxed))
    }
}

/// A route with its counts, which outlive a replacement of the route.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) route: Arc<ModelRoute>,
    pub(super) counts: Arc<Counts>,
    pub(super) learned: Arc<Learned>,
    /// The version from which on what bears on its place is what it is; 0 from the first.
    valued: u64,
}

impl Entry {
    fn new(route: ModelRoute) -> Self {
        Self { route: Arc::new(route), counts: Arc::default(), learned: Arc::default(), valued: 0 }
    }

    /// One that joins the others in a table that is about to be made.
    fn joining(route: ModelRoute) -> Self {
        Self { valued: VERSIONS.load(Ordering::Relaxed), ..Self::new(route) }
    }

    /// The same with what is now known of its route, of which a table is about to be made.
    fn with(&self, route: ModelRoute) -> Self {
        let valued = if is_worth_as_much(&self.route, &route) { self.valued } else { VERSIONS.load(Ordering::Relaxed) };
        Self { route: Arc::new(route), valued, ..self.clone() }
    }
}

/// Whether nothing changed that bears on the place of a route.
fn is_worth_as_much(before: &ModelRoute, after: &ModelRoute) -> bool {
    before.price == after.price
        && before.quality_score == after.quality_score
        && before.latency_p50 == after.latency_p50
        && before.capabilities == after.capabilities
        && before.state == after.state
}

/// A route within one task.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) route: Arc<ModelRoute>,
    pub(super) tier: Tier,
    pub(super) cost: Option<Usd>,
    pub(super) terms: Terms,
    /// Seconds to a nominal answer, if somebody said so.
    pub(super) said: Option<f64>,
    pub(super) learned: Arc<Learned>,
    /// The version from which on it is worth what it is.
    pub(super) valued: u64,
}

impl Row {
    fn new(entry: &Entry, tier: Tier, dearest: Usd) -> Self {
        let (route, learned) = (Arc::clone(&entry.route), Arc::clone(&entry.learned));
        let cost = score::expected_cost(&route);
        let terms = Terms::new(&route, dearest);
        let said = score::said_seconds(&route);
        Self { route, tier, cost, terms, said, learned, valued: entry.valued }
    }

    pub(super) fn id(&self) -> &RouteId {
        self.route.id()
    }
}

/// The routes of one task.
#[derive(Debug)]
struct Lane {
    task: Task,
    dearest: Usd,
    rows: Vec<Row>,
    /// How much slower than expected all of them are, as the bits of a logarithm.
    common: AtomicU64,
}

impl Lane {
    fn new(task: Task, entries: &[Entry]) -> Self {
        let routes = || entries.iter().map(|entry| &entry.route).filter(|route| route.tasks.contains(&task));
        let dearest = routes().filter_map(|route| score::expected_cost(route)).max().unwrap_or(Usd::ZERO);
        let mut prices: Vec<u64> = routes().filter_map(|route| output_price(route)).collect();
        prices.sort_unstable();
        let of_task = entries.iter().filter(|entry| entry.route.tasks.contains(&task));
        let rows = of_task.map(|entry| Row::new(entry, tier(&entry.route, &prices), dearest)).collect();
        Self { task, dearest, rows, common: AtomicU64::new(0) }
    }
}

fn fingerprint(entries: &[Entry]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for entry in entries {
        // A route is plain data; one that could not be written would only be missing from the number.
        serde_json::to_writer(&mut hasher, &*entry.route).ok();
    }
    score::first_bytes(&hasher.finalize())
}

fn output_price(route: &ModelRoute) -> Option<u64> {
    route.price.map(|price| price.output.picos())
}

/// The route's own tier, or the third of the sorted prices that its own is in. An unpriced one counts as the dearest
/// here too, so that it is never taken for a small one.
fn tier(route: &ModelRoute, prices: &[u64]) -> Tier {
    let by_price = || {
        let cheaper = prices.partition_point(|price| Some(*price) < output_price(route));
        match output_price(route) {
            Some(_) if cheaper * 3 < prices.len() => Tier::Small,
            Some(_) if cheaper * 3 < prices.len() * 2 => Tier::Mid,
            _ => Tier::Large,
        }
    };
    route.tier.unwrap_or_else(by_price)
}

/// What holds for all routes of a task.
#[derive(Clone, Copy, Debug)]
pub(super) struct Climate {
    /// Seconds that a nominal answer takes where nothing is known of a route.
    pub(super) unknown: f64,
    /// The logarithm of how much slower than expected all of them are.
    pub(super) common: f64,
}

/// What a finished ranking is found by: all that it depends on but the length of the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) task: Task,
    pub(super) priority: Priority,
    pub(super) tier: Tier,
    pub(super) named: bool,
    pub(super) needs: Needs,
    pub(super) thrift: Thrift,
    /// A hash of the bounds beside them, the most that it may cost included; 0 without any.
    pub(super) within: u64,
}

/// A ranking that holds for every request of its key with at most this many tokens, for a while.
#[derive(Clone, Debug)]
pub(super) struct Finished {
    pub(super) ranking: Ranking,
    pub(super) tokens: u64,
    /// When it was made, and what had been learned by then.
    pub(super) made: Instant,
    pub(super) turns: u64,
    pub(super) results: u64,
    /// Places in the ranking of those that are to show what they can do.
    pub(super) trials: Arc<[Trial]>,
}

/// A route on trial.
#[derive(Clone, Debug)]
pub(super) struct Trial {
    pub(super) at: usize,
    /// Every second call, or a probe now and then.
    pub(super) canary: bool,
    /// Of the calls, about.
    pub(super) share: f64,
    pub(super) learned: Arc<Learned>,
}

/// All routes, sorted by id, with the rankings finished since they last changed.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: Vec<Entry>,
    lanes: Vec<Lane>,
    /// Differs from that of every other table of the process.
    version: u64,
    /// The same for the same routes, in every process.
    fingerprint: u64,
    finished: RwLock<HashMap<Key, Finished>>,
}

impl Table {
    /// A table of these entries, which must be sorted by id.
    fn new(entries: Vec<Entry>) -> Self {
        let mut tasks: Vec<Task> = entries.iter().flat_map(|entry| entry.route.tasks.iter().copied()).collect();
        tasks.sort_unstable();
        tasks.dedup();
        let lanes = tasks.into_iter().map(|task| Lane::new(task, &entries)).collect();
        let version = VERSIONS.fetch_add(1, Ordering::Relaxed);
        let fingerprint = fingerprint(&entries);
        Self { entries, lanes, version, fingerprint, finished: RwLock::default() }
    }

    pub(super) const fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    pub(super) const fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(super) fn entry(&self, id: &RouteId) -> Option<&Entry> {
        self.find(id).ok().and_then(|at| self.entries.get(at))
    }

    fn find(&self, id: &RouteId) -> Result<usize, usize> {
        self.entries.binary_search_by(|entry| entry.route.id().cmp(id))
    }

    /// The same table with this route, in the place of the one of the same id.
    pub(super) fn with(&self, route: ModelRoute) -> Self {
        let mut entries = self.entries.clone();
        match self.find(route.id()) {
            Ok(at) => {
                if let Some(entry) = entries.get_mut(at) {
                    *entry = entry.with(route);
                }
            }
            Err(at) => entries.insert(at, Entry::joining(route)),
        }
        Self::new(entries)
    }

    /// The same table with these routes instead; the counts of those that stay go on.
    pub(super) fn with_all(&self, mut routes: Vec<ModelRoute>) -> Self {
        routes.sort_by(|a, b| a.id().cmp(b.id()));
        let entry = |route: ModelRoute| match self.entry(route.id()) {
            Some(known) => known.with(route),
            None => Entry::joining(route),
        };
        Self::new(routes.into_iter().map(entry).collect())
    }

    fn lane(&self, task: Task) -> Option<&Lane> {
        self.lanes.iter().find(|lane| lane.task == task)
    }

    /// What holds for all routes of a task.
    pub(super) fn climate(&self, task: Task) -> Climate {
        let lane = self.lane(task);
        let common = lane.map_or(0.0, |lane| f64::from_bits(lane.common.load(Ordering::Relaxed)));
        let (mut sum, mut known) = (0.0, 0_u32);
        for usual in lane.into_iter().flat_map(|lane| &lane.rows).filter_map(|row| row.learned.usual()) {
            sum += usual;
            known += 1;
        }
        let unknown = if known == 0 { score::UNKNOWN_SECONDS } else { (sum / f64::from(known)).exp() };
        Climate { unknown, common }
    }

    /// How much slower than expected the routes of this one's first task are, as a logarithm.
    pub(super) fn climate_of(&self, route: &ModelRoute) -> f64 {
        let lane = route.tasks.first().and_then(|task| self.lane(*task));
        lane.map_or(0.0, |lane| f64::from_bits(lane.common.load(Ordering::Relaxed)))
    }

    /// Notes how much slower than expected all routes of a task are.
    pub(super) fn set_common(&self, task: Task, slower: f64) {
        if let Some(lane) = self.lane(task) {
            lane.common.store(slower.to_bits(), Ordering::Relaxed);
        }
    }

    /// The routes of a task, sorted by id.
    pub(super) fn rows(&self, task: Task) -> &[Row] {
        self.lane(task).map_or(&[], |lane| &lane.rows)
    }

    /// A route as a row of a task that need not be its own; one that is not in the table has nothing known.
    pub(super) fn row(&self, id: &RouteId, task: Task) -> Row {
        let lane = self.lane(task);
        if let Some(row) = lane.and_then(|lane| lane.rows.iter().find(|row| row.id() == id)) {
            return row.clone();
        }
        let unknown = || Entry::new(ModelRoute::new(id.upstream(), id.model()));
        let entry = self.entry(id).cloned().unwrap_or_else(unknown);
        Row::new(&entry, tier(&entry.route, &[]), lane.map_or(Usd::ZERO, |lane| lane.dearest))
    }

    /// The route that a retired one leads to; `None` if it leads nowhere, back or too far.
    pub(super) fn replacement<'a>(&'a self, retired: &'a RouteId) -> Option<&'a RouteId> {
        self.chain(retired).ok().flatten()
    }

    /// Whether every retirement leads to its end in time.
    pub(super) fn chains_end(&self) -> bool {
        self.entries.iter().all(|entry| self.chain(entry.route.id()).is_ok())
    }

    /// Whether the retirement of this one leads to its end in time.
    pub(super) fn chain_ends(&self, route: &RouteId) -> bool {
        self.chain(route).is_ok()
    }

    fn chain<'a>(&'a self, from: &'a RouteId) -> Result<Option<&'a RouteId>, TooLong> {
        let mut at = from;
        for _ in 0..=LONGEST_CHAIN {
            match self.entry(at).map(|entry| &entry.route.state) {
                Some(RouteState::Retired { to: Some(to) }) => at = to,
                Some(RouteState::Retired { to: None }) => return Ok(None),
                _ => return Ok(Some(at)),
            }
        }
        Err(TooLong)
    }

    pub(super) fn finished(&self, key: &Key) -> Option<Finished> {
        self.finished.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    pub(super) fn finish(&self, key: Key, finished: Finished) {
        let mut kept = self.finished.write().unwrap_or_else(PoisonError::into_inner);
        // All at once: to know the oldest would cost every lookup a write.
        if kept.len() >= MOST_FINISHED {
            kept.clear();
        }
        kept.insert(key, finished);
    }
}

impl FromIterator<ModelRoute> for Table {
    /// A later route of the same id replaces.
    fn from_iter<I: IntoIterator<Item = ModelRoute>>(routes: I) -> Self {
        let mut entries: Vec<Entry> = Vec::new();
        for route in routes {
            let found = entries.binary_search_by(|entry| entry.route.id().cmp(route.id()));
            let entry = Entry::new(route);
            match found {
                Ok(at) => entries.splice(at..=at, [entry]).for_each(drop),
                Err(at) => entries.insert(at, entry),
            }
        }
        Self::new(entries)
    }
}

/// A retirement leads back to itself or further than [`LONGEST_CHAIN`].
#[derive(Clone, Copy, Debug)]
struct TooLong;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Price;

    fn priced(model: &str, dollars: i64) -> ModelRoute {
        let price = Usd::from_nanos(dollars * 1_000_000_000);
        ModelRoute::new("together", model).price(Price::per_million(price, price))
    }

    #[test]
    fn routes_without_a_tier_get_it_by_thirds_of_their_output_price() {
        let table: Table = (1..=6).map(|dollars| priced(&format!("m{dollars}"), dollars)).collect();
        let tiers: Vec<Tier> = table.rows(Task::Chat).iter().map(|row| row.tier).collect();
        assert_eq!(tiers, [Tier::Small, Tier::Small, Tier::Mid, Tier::Mid, Tier::Large, Tier::Large]);
    }

    #[test]
    fn equal_prices_are_of_one_tier_and_no_price_is_the_dearest() {
        let table: Table =
            [priced("a", 1), priced("b", 1), priced("c", 1), ModelRoute::new("local", "d")].into_iter().collect();
        let tier = |upstream, model| table.row(&RouteId::new(upstream, model), Task::Chat).tier;
        assert_eq!(
            [tier("together", "a"), tier("together", "c"), tier("local", "d")],
            [Tier::Small, Tier::Small, Tier::Large]
        );
    }

    #[test]
    fn finished_rankings_are_bounded() {
        let table = Table::default();
        let decision = crate::inference::Decision::new("p", Task::Chat, Priority::Batch, Tier::Small, "r");
        let ranking = Ranking::new([], decision);
        for context in 0..1_000 {
            let needs = Needs::none().context(context);
            let key = Key {
                task: Task::Chat,
                priority: Priority::Batch,
                tier: Tier::Small,
                named: false,
                needs,
                thrift: Thrift::None,
                within: 0,
            };
            let finished = Finished {
                ranking: ranking.clone(),
                tokens: 0,
                made: Instant::now(),
                turns: 0,
                results: 0,
                trials: Arc::new([]),
            };
            table.finish(key, finished);
            assert!(table.finished(&key).is_some());
        }
        assert!(table.finished.read().unwrap().len() <= MOST_FINISHED);
    }
}
