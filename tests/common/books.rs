//! A service's records held against the bill that the simulator keeps of its own.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
};

use together_inference::{
    Cost, Usd,
    cost::{CostRecord, MemoryCosts},
    inference::CountTokens,
    testing::{BillLine, Together},
    types::{ModelId, UsageSource},
};

/// The records of all that is bought of a simulator. A test that spends compares them with its bill when all is done: one
/// that does not fails.
#[derive(Debug)]
pub struct Books {
    sim: Together,
    costs: MemoryCosts,
    /// How many calls had been billed when they were compared.
    compared: AtomicU64,
}

/// Counts tokens as the simulator does: a quarter of the bytes of each text.
#[derive(Debug)]
pub struct Quarters;

impl CountTokens for Quarters {
    fn count(&self, _: &ModelId, text: &str) -> Option<u64> {
        Some(text.len().div_ceil(4) as u64)
    }
}

/// Whose prices the records are at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prices {
    TheProviders,
    /// The service's own: only tokens can be compared.
    Own,
}

impl Books {
    /// The books of a service on this simulator that has these records for a sink.
    pub fn new(sim: &Together, costs: &MemoryCosts) -> Self {
        Self { sim: sim.clone(), costs: costs.clone(), compared: AtomicU64::new(0) }
    }

    /// Fails unless the records are the bill, as far as anybody can know it; the records.
    ///
    /// What the provider told the usage of is its line of the bill, to the nano-dollar. What was counted is near one. What
    /// nobody knows is bounded from above. And nothing is billed beyond that.
    pub fn add_up(&self) -> Vec<CostRecord> {
        self.compare(Prices::TheProviders)
    }

    /// The same in tokens alone, for a service whose prices are not those of the provider, as the test needs them.
    pub fn add_up_at_own_prices(&self) -> Vec<CostRecord> {
        self.compare(Prices::Own)
    }

    fn compare(&self, prices: Prices) -> Vec<CostRecord> {
        let (records, bill) = (self.costs.records(), self.sim.bill());
        self.compared.store(bill.calls, Ordering::Relaxed);
        let attempts = records.iter().filter(|record| record.ending.is_attempt()).count() as u64;
        assert!(bill.calls <= attempts, "{} calls are billed, and {attempts} recorded", bill.calls);
        let paid: Usd = records.iter().filter(|record| !record.ending.is_attempt()).map(charge).sum();
        assert_eq!(paid, Usd::ZERO, "what was not sent is not free");
        if bill.calls > bill.lines.len() as u64 {
            // The simulator has forgotten the first lines.
            return sums_agree(records, bill.nano_usd, prices);
        }
        let lines = without_those_told(&records, bill.lines, prices);
        let mut lines = without_those_counted(&records, lines);
        let unknown = records.iter().filter(|record| record.usage_source == UsageSource::UpperBound);
        assert!(lines.len() <= unknown.clone().count(), "nothing is recorded of {lines:?}: {records:?}");
        if prices == Prices::TheProviders {
            // Where there is no price, there is no bound.
            for record in unknown.clone().filter(|record| record.cost == Cost::Unpriced) {
                lines.retain(|line| record.model().as_str() != line.model);
            }
            let (billed, bound) =
                (lines.iter().map(|line| line.nano_usd).sum::<i64>(), unknown.map(charge).sum::<Usd>());
            assert!(billed <= bound.nanos(), "{billed} nano-dollars are billed beyond {bound}: {lines:?}");
        }
        records
    }
}

impl Drop for Books {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let (billed, compared) = (self.sim.bill().calls, self.compared.load(Ordering::Relaxed));
        assert_eq!(billed, compared, "a test spends and does not compare its records with the bill");
    }
}

const fn charge(record: &CostRecord) -> Usd {
    record.cost.charge()
}

fn sums_agree(records: Vec<CostRecord>, billed: i64, prices: Prices) -> Vec<CostRecord> {
    let told: Usd = records.iter().filter(|record| record.usage_source == UsageSource::Reported).map(charge).sum();
    let is_estimated = |record: &CostRecord| {
        matches!(record.usage_source, UsageSource::Counted | UsageSource::UpperBound) || record.cost == Cost::Unpriced
    };
    if prices == Prices::TheProviders {
        assert!(told.nanos() <= billed, "{told} are recorded, and {billed} nano-dollars billed");
        let is_exact = !records.iter().any(is_estimated);
        assert!(!is_exact || told.nanos() == billed, "{told} are recorded, and {billed} nano-dollars billed");
    }
    records
}

/// The lines without those of records that have the provider's own counts: each must have a line of the same counts and the
/// same money.
fn without_those_told(records: &[CostRecord], lines: Vec<BillLine>, prices: Prices) -> Vec<BillLine> {
    let mut left: HashMap<_, Vec<BillLine>> = HashMap::new();
    for line in lines {
        let tokens = (line.prompt_tokens, line.cached_tokens, line.completion_tokens);
        left.entry((line.model.clone(), tokens)).or_default().push(line);
    }
    for record in records.iter().filter(|record| record.usage_source == UsageSource::Reported) {
        let tokens = (record.usage.prompt, record.usage.cached, record.usage.completion);
        let same = left.entry((record.model().to_string(), tokens)).or_default();
        let is_its = |line: &BillLine| match record.cost {
            Cost::Known(usd) if prices == Prices::TheProviders => usd.nanos() == line.nano_usd,
            _ => true,
        };
        let Some(at) = same.iter().position(is_its) else { panic!("not on the bill: {record:?}, but {same:?}") };
        same.swap_remove(at);
    }
    left.into_values().flatten().collect()
}

/// The lines without those of records that were counted here: each must have one of about as many tokens.
fn without_those_counted(records: &[CostRecord], mut lines: Vec<BillLine>) -> Vec<BillLine> {
    // What counting may be wrong by: a seventh, and a few tokens of a short text.
    let is_near = |counted: u64, billed: u64| counted.abs_diff(billed) <= billed / 7 + 8;
    for record in records.iter().filter(|record| record.usage_source == UsageSource::Counted) {
        let distance = |line: &BillLine| {
            record.usage.prompt.abs_diff(line.prompt_tokens) + record.usage.completion.abs_diff(line.completion_tokens)
        };
        let is_its = |line: &BillLine| {
            record.model().as_str() == line.model
                && is_near(record.usage.prompt, line.prompt_tokens)
                && is_near(record.usage.completion, line.completion_tokens)
        };
        let nearest = lines.iter().enumerate().filter(|(_, line)| is_its(line)).min_by_key(|(_, line)| distance(line));
        let Some((at, _)) = nearest else { panic!("not near anything on the bill: {record:?}, but {lines:?}") };
        lines.swap_remove(at);
    }
    lines
}
