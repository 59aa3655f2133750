//! What a [`CostSink`] promises.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use futures_util::future::join_all;

use super::{Failure, Promise, begin_and_drop};
use crate::{
    client::ErrorKind,
    cost::{CostRecord, CostSink, Ending, Intent},
    inference::{Bypass, Source},
    types::{AttemptId, Cost, Price, Priority, Rate, RequestId, RouteId, Task, TraceId, Usage, UsageSource, Usd},
};

/// Checks what [`CostSink`] promises, on a sink that has taken nothing yet.
///
/// `recorded` tells what the sink has taken so far, in that order; about 1,500 records are handed to it. Times are
/// whole milliseconds.
///
/// ```
/// use together_inference::{
///     cost::MemoryCosts,
///     testing::conformance::{self, Failure},
/// };
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Failure> {
/// let costs = MemoryCosts::default();
/// conformance::cost_sink(&costs, &|| costs.records()).await
/// # }
/// ```
///
/// # Errors
///
/// The first promise that is not kept.
pub async fn cost_sink(
    sink: &dyn CostSink,
    recorded: &(dyn Fn() -> Vec<CostRecord> + Send + Sync),
) -> Result<(), Failure> {
    let mut on = On { sink, recorded, promise: Promise(""), wanted: Vec::new(), requests: 0 };
    on.has("a sink that has taken nothing yet")?;
    records_are_kept_whole(on.about("a page is taken whole, in order and unchanged")).await?;
    nothing_is_nothing(on.about("an empty page changes nothing")).await?;
    again_counts_once(on.about("a record that comes again counts once")).await?;
    attempts_are_apart(on.about("each attempt is a record of its own")).await?;
    intents_are_no_records(on.about("an intent is taken and is no record")).await?;
    pages_of_any_size(on.about("a page of any size is taken")).await?;
    given_up_and_again(on.about("a page that was given up half-way and comes again counts once")).await?;
    many_at_once(on.about("pages at the same time are all taken")).await
}

struct On<'a> {
    sink: &'a dyn CostSink,
    recorded: &'a (dyn Fn() -> Vec<CostRecord> + Send + Sync),
    promise: Promise,
    /// What the sink must have taken by now.
    wanted: Vec<CostRecord>,
    requests: u128,
}

impl On<'_> {
    fn about(&mut self, promise: &'static str) -> &mut Self {
        self.promise = Promise(promise);
        self
    }

    /// A record of a request of its own.
    fn fresh(&mut self) -> CostRecord {
        self.requests += 1;
        let request = RequestId::new(self.requests);
        CostRecord::new(request.attempt(0), request, RouteId::new("together", "org/model"), SystemTime::UNIX_EPOCH)
    }

    fn page(&mut self, records: usize) -> Vec<CostRecord> {
        (0..records).map(|_| self.fresh()).collect()
    }

    async fn offer(&self, page: &[CostRecord]) -> Result<(), Failure> {
        self.promise.done("record", self.sink.record(page)).await
    }

    /// Hands over a page of new records.
    async fn take(&mut self, page: Vec<CostRecord>) -> Result<(), Failure> {
        self.offer(&page).await?;
        self.wanted.extend(page);
        Ok(())
    }

    /// That the sink has taken what it should, and nothing else.
    fn has(&self, when: &str) -> Result<(), Failure> {
        let seen = (self.recorded)();
        if let Some((seen, wanted)) = seen.iter().zip(&self.wanted).find(|(seen, wanted)| seen != wanted) {
            return Err(self.promise.broken(format!("{when}: {seen:?} instead of {wanted:?}")));
        }
        self.promise.same(&format!("{when}: records"), seen.len(), self.wanted.len())
    }
}

/// Records in which every field differs from its default, some where.
fn varied(on: &mut On<'_>) -> Vec<CostRecord> {
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_564_800_123);
    let costs = [
        Cost::Known(Usd::from_nanos(1)),
        Cost::Known(Usd::from_nanos(i64::MAX)),
        Cost::Unknown { at_most: Usd::from_nanos(5_000_000_001) },
        Cost::Unpriced,
        Cost::Known(Usd::ZERO),
        Cost::Known(Usd::ZERO),
    ];
    let endings = [
        Ending::Answered,
        Ending::Failed(ErrorKind::RateLimited),
        Ending::Failed(ErrorKind::Timeout),
        Ending::Cancelled,
        Ending::Hit,
        Ending::Stale,
        Ending::Follower,
    ];
    let whole = |mut record: CostRecord, (cost, ending): (Cost, Ending)| {
        record.at = at;
        record.tenant = Some("a tenant: é \" '; --".into());
        record.session = Some("session".into());
        record.tags = vec![("team".into(), "search".into()), ("team".into(), "".into()), ("é".into(), "\0".into())];
        record.task = Task::Code;
        record.priority = Priority::Batch;
        record.route = RouteId::new("local", "org/model@v1:free");
        record.served = Some("org/another".into());
        record.usage = Usage {
            prompt: u64::from(u32::MAX) + 1,
            cached: 2,
            completion: 3,
            reasoning: 1,
            images: 4,
            pixels: 5,
            seconds: 6,
        };
        record.usage_source = UsageSource::Counted;
        record.saved = Cost::Known(Usd::from_nanos(7));
        record.price = Some(Price::from_rates(Rate::from_picos(1), Some(Rate::FREE), Rate::from_picos(2)));
        record.price_version = Some(3);
        record.source = Source::Upstream(Bypass::Stochastic);
        record.batch = Some("batch-1".into());
        record.arm = Some("b".into());
        record.trace_id = Some(TraceId::new(u128::MAX - 1));
        record.latency = Duration::from_millis(86_400_001);
        record.first_token = Some(Duration::from_millis(1));
        record.cost = cost;
        record.ending = ending;
        record
    };
    costs.into_iter().zip(endings).map(|how| whole(on.fresh(), how)).collect()
}

async fn records_are_kept_whole(on: &mut On<'_>) -> Result<(), Failure> {
    let page = varied(on);
    on.take(page).await?;
    on.has("after a page")?;
    let page = on.page(5);
    on.take(page).await?;
    on.has("after a second page")
}

async fn nothing_is_nothing(on: &mut On<'_>) -> Result<(), Failure> {
    on.offer(&[]).await?;
    on.has("after an empty page")
}

async fn again_counts_once(on: &mut On<'_>) -> Result<(), Failure> {
    let (first, second) = (on.page(5), on.page(3));
    on.take(first.clone()).await?;
    on.offer(&first).await?;
    on.has("after a page that came twice")?;
    on.take(second.clone()).await?;
    on.offer(&first).await?;
    on.has("after a page that came again after another")?;
    // The first offer had a record less: the page grew while it waited.
    let mut grown = second;
    grown.extend(on.page(1));
    on.offer(&grown).await?;
    on.wanted.extend(grown.pop());
    on.has("after a page that came again with a record more")?;
    let twice = on.fresh();
    on.offer(&[twice.clone(), twice.clone()]).await?;
    on.wanted.push(twice);
    on.has("after a page with a record twice")
}

async fn attempts_are_apart(on: &mut On<'_>) -> Result<(), Failure> {
    let one = on.fresh();
    let ids = (1..4).map(|n| one.request.attempt(n)).chain([AttemptId::new(u128::MAX), AttemptId::new(0)]);
    let mut page: Vec<CostRecord> = ids.map(|attempt| CostRecord { attempt, ..one.clone() }).collect();
    page.insert(0, one);
    on.take(page).await?;
    on.has("after attempts of one request")
}

async fn intents_are_no_records(on: &mut On<'_>) -> Result<(), Failure> {
    let (made, never) = (on.fresh(), on.fresh());
    for record in [&made, &never] {
        let at_most = Cost::Unknown { at_most: Usd::from_nanos(9) };
        let intent = Intent::new(record.clone(), at_most);
        on.promise.done("intend", on.sink.intend(&intent)).await?;
        on.promise.done("intend again", on.sink.intend(&intent)).await?;
    }
    on.has("after two intents")?;
    on.take(vec![made]).await?;
    on.has("after the record of an intent")?;
    for _ in 0..2 {
        on.promise.done("withdraw", on.sink.withdraw(&[never.attempt])).await?;
    }
    on.has("after an attempt was withdrawn")
}

async fn pages_of_any_size(on: &mut On<'_>) -> Result<(), Failure> {
    for records in [1, 256, 1_000] {
        let page = on.page(records);
        on.take(page).await?;
        on.has(&format!("after a page of {records}"))?;
    }
    Ok(())
}

async fn given_up_and_again(on: &mut On<'_>) -> Result<(), Failure> {
    let page = on.page(20);
    begin_and_drop(on.sink.record(&page));
    on.take(page).await?;
    on.has("after the second offer")
}

async fn many_at_once(on: &mut On<'_>) -> Result<(), Failure> {
    let pages: Vec<_> = (0..16).map(|_| on.page(8)).collect();
    let taken: Result<Vec<()>, Failure> = join_all(pages.iter().map(|page| on.offer(page))).await.into_iter().collect();
    taken?;
    let seen = (on.recorded)();
    let new = seen.get(on.wanted.len()..).unwrap_or_default();
    on.promise.same("records of sixteen pages at the same time", new.len(), 16 * 8)?;
    let places: HashMap<AttemptId, usize> = new.iter().enumerate().map(|(at, record)| (record.attempt, at)).collect();
    on.promise.same("attempts among them", places.len(), 16 * 8)?;
    for page in &pages {
        let at: Vec<Option<&usize>> = page.iter().map(|record| places.get(&record.attempt)).collect();
        if at.contains(&None) || !at.is_sorted() {
            return Err(on.promise.broken(format!("a page's records stand at {at:?}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
