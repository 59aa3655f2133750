//! What a [`CacheLayer`] promises.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::Instant;

use super::{Failure, Pace, Promise, begin_and_drop};
use crate::{
    cache::{CacheEntry, CacheLayer, CacheValue},
    client::{Image, Message, ToolCall},
    inference::{Answer, CacheKey, Kind, Output},
    types::{FinishReason, Tenant, Usage},
};

/// The grain of time: long enough for a store on a busy machine.
const TICK: Duration = Duration::from_millis(250);
/// A time to live that no check outlives unless it means to.
const LONG: Duration = Duration::from_secs(600);

/// How much a layer keeps of what it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CacheProfile {
    /// A few small values are all found until they expire.
    Keeps,
    /// The same, and [`get_kept`](CacheLayer::get_kept) finds them as long past their time as they are kept for.
    KeepsOld,
    /// Any value may be forgotten at any time: a layer that keeps nothing, or one before a store that comes and goes.
    /// What it does answer must still be right.
    MayForget,
}

/// Checks what [`CacheLayer`] promises.
///
/// The profile says whether a miss is ever a broken promise. `pace` lets time pass, about five seconds of it in steps
/// of a quarter of a second; a layer that reads the wall clock needs that one moved with tokio's.
///
/// ```
/// use together_inference::{
///     cache::{MemoryCache, NoCache},
///     testing::conformance::{self, CacheProfile, Failure},
/// };
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Failure> {
/// let pace: conformance::Pace<'_> = &|time| Box::pin(tokio::time::advance(time));
/// conformance::cache_layer(&MemoryCache::default(), CacheProfile::KeepsOld, pace).await?;
/// conformance::cache_layer(&NoCache, CacheProfile::MayForget, pace).await
/// # }
/// ```
///
/// # Errors
///
/// The first promise that is not kept.
pub async fn cache_layer(layer: &dyn CacheLayer, profile: CacheProfile, pace: Pace<'_>) -> Result<(), Failure> {
    let on = |promise| On { layer, profile, pace, promise: Promise(promise) };
    unknown_is_a_miss(&on("a key that nothing was kept under is a miss")).await?;
    values_come_back(&on("a value comes back as it was kept")).await?;
    keys_are_apart(&on("a key never gets another one's value")).await?;
    the_last_wins(&on("the value that was kept last is the one that is found")).await?;
    removed_is_gone(&on("what was removed is not found")).await?;
    many_are_as_one(&on("several values are kept and found as one by one, in order")).await?;
    old_is_not_served(&on("a value is not served past its time")).await?;
    old_is_only_for_who_asks(&on("a value past its time is found by get_kept alone, and not for ever")).await?;
    a_tenant_is_forgotten(&on("forget_tenant forgets one tenant's values, all of them, or says that it cannot"))
        .await?;
    many_at_once(&on("calls at the same time see whole values of their own keys")).await?;
    giving_up_harms_none(&on("dropping a call harms none after it")).await
}

/// A layer under one check. The promise is also part of the keys, so that no check sees another's.
struct On<'a> {
    layer: &'a dyn CacheLayer,
    profile: CacheProfile,
    pace: Pace<'a>,
    promise: Promise,
}

impl On<'_> {
    fn key(&self, name: &str) -> CacheKey {
        self.key_of(Kind::Inference, None, name)
    }

    fn key_of(&self, kind: Kind, tenant: Option<&Tenant>, name: &str) -> CacheKey {
        CacheKey::of_bytes(kind, tenant, format!("{}\0{name}", self.promise.0).as_bytes())
    }

    async fn wait(&self, ticks: u32) {
        (self.pace)(TICK * ticks).await;
    }

    async fn get(&self, key: &CacheKey) -> Result<Option<CacheEntry>, Failure> {
        self.promise.done("get", self.layer.get(key)).await
    }

    async fn get_kept(&self, key: &CacheKey) -> Result<Option<CacheEntry>, Failure> {
        self.promise.done("get_kept", self.layer.get_kept(key)).await
    }

    async fn set(&self, key: &CacheKey, entry: CacheEntry) -> Result<(), Failure> {
        self.promise.done("set", self.layer.set(key, entry)).await
    }

    async fn remove(&self, key: &CacheKey) -> Result<(), Failure> {
        self.promise.done("remove", self.layer.remove(key)).await
    }

    async fn get_many(&self, keys: &[CacheKey]) -> Result<Vec<Option<CacheEntry>>, Failure> {
        let found = self.promise.done("get_many", self.layer.get_many(keys)).await?;
        self.promise.same("places in the answer of get_many", found.len(), keys.len())?;
        Ok(found)
    }

    /// That what was found is this text, or nothing where the layer may forget.
    fn is(&self, what: &str, found: Option<&CacheEntry>, wanted: &str) -> Result<(), Failure> {
        self.is_entry(what, found, &note(wanted))
    }

    fn is_entry(&self, what: &str, found: Option<&CacheEntry>, wanted: &CacheEntry) -> Result<(), Failure> {
        match found {
            None if self.profile == CacheProfile::MayForget => Ok(()),
            None => Err(self.promise.broken(format!("{what}: a miss"))),
            Some(found) if same_value(&found.value, &wanted.value) => Ok(()),
            Some(found) => Err(self.promise.broken(format!("{what}: {:?} instead of {:?}", found.value, wanted.value))),
        }
    }

    async fn miss(&self, what: &str, key: &CacheKey) -> Result<(), Failure> {
        self.nothing(what, self.get(key).await?.as_ref())
    }

    /// A miss in every way to ask.
    async fn gone(&self, what: &str, key: &CacheKey) -> Result<(), Failure> {
        self.miss(what, key).await?;
        self.nothing(&format!("{what}, by get_kept"), self.get_kept(key).await?.as_ref())?;
        let many = self.get_many(&[*key]).await?;
        self.nothing(&format!("{what}, by get_many"), many.iter().flatten().next())
    }

    fn nothing(&self, what: &str, found: Option<&CacheEntry>) -> Result<(), Failure> {
        found.map_or(Ok(()), |found| Err(self.promise.broken(format!("{what}: {:?}", found.value))))
    }
}

/// A small value.
fn note(text: &str) -> CacheEntry {
    CacheEntry::new(CacheValue::Json(Bytes::from(format!("{{\"note\":\"{text}\"}}"))), LONG)
}

/// Floats by their bits: −0 is not 0, and a NaN is the same NaN.
fn same_value(a: &CacheValue, b: &CacheValue) -> bool {
    match (a, b) {
        (CacheValue::Embedding(a), CacheValue::Embedding(b)) => {
            a.iter().map(|value| value.to_bits()).eq(b.iter().map(|value| value.to_bits()))
        }
        (a, b) => a == b,
    }
}

async fn unknown_is_a_miss(on: &On<'_>) -> Result<(), Failure> {
    on.miss("a key never kept", &on.key("never")).await?;
    on.set(&on.key("kept"), note("kept")).await?;
    on.miss("a key never kept, beside one that is", &on.key("never")).await
}

fn picture() -> Answer {
    let images =
        vec![Image::Bytes(Bytes::from_static(&[0, 0xff, 0x89, b'P'])), Image::Url("https://é.example/1".into())];
    let mut answer = Answer::chat("", "black-forest-labs/FLUX.1-schnell");
    answer.output = Arc::new(Output::Image(images));
    answer
}

fn values() -> Vec<CacheValue> {
    let mut answer = Answer::chat("é \u{1f980}\u{200d} \" \\ \u{1} \r\n", "org/model@v1");
    answer.usage = Usage { prompt: u64::MAX, cached: 1, completion: 2, reasoning: 3, images: 4, pixels: 5, seconds: 6 };
    answer.usage_reported = true;
    if let Output::Chat(choices) = Arc::make_mut(&mut answer.output)
        && let Some(first) = choices.first_mut()
    {
        let mut second = first.clone();
        second.index = 1;
        second.seed = Some(u64::MAX);
        second.finish_reason = Some(FinishReason::from("a reason of tomorrow"));
        second.message = Message::assistant("");
        second.message.reasoning = Some("because".into());
        second.message.tool_calls.push(ToolCall::new("call_1", "f", r#"{"a": 1.0}"#));
        choices.push(second);
    }
    let odd = [0.1, -0.0, 0.0, f32::MIN_POSITIVE / 2.0, f32::INFINITY, f32::from_bits(0x7fc0_1234), f32::NAN];
    let json = br#"{ "b":1.0e400, "a" : [12345678901234567890123, -0, null] }"#;
    vec![
        CacheValue::Inference(Arc::new(answer)),
        CacheValue::Inference(Arc::new(Answer::chat("", "m"))),
        CacheValue::Inference(Arc::new(picture())),
        CacheValue::Embedding(odd.into()),
        CacheValue::Embedding(Arc::new([])),
        CacheValue::Embedding((0..4_096_u16).map(f32::from).collect()),
        CacheValue::Json(Bytes::from_static(json)),
        CacheValue::Json(Bytes::from("x".repeat(100_000))),
    ]
}

async fn values_come_back(on: &On<'_>) -> Result<(), Failure> {
    for (n, value) in values().into_iter().enumerate() {
        let key = on.key(&n.to_string());
        let kept = CacheEntry::new(value, LONG).kept_for(LONG * 2).delta(Duration::from_millis(1_234));
        on.set(&key, kept.clone()).await?;
        // Twice: reading must not change it.
        for _ in 0..2 {
            let found = on.get(&key).await?;
            on.is_entry("what was kept", found.as_ref(), &kept)?;
            let Some(found) = found else { continue };
            let times = |entry: &CacheEntry| (entry.ttl, entry.keep, entry.delta);
            on.promise.same("its times to live, to be kept and to make", times(&found), times(&kept))?;
            let age = Instant::now().saturating_duration_since(found.stored);
            if found.stored > Instant::now() || age > LONG / 2 {
                return Err(on.promise.broken(format!("it was made just now and is said to be {age:?} old")));
            }
        }
    }
    Ok(())
}

async fn keys_are_apart(on: &On<'_>) -> Result<(), Failure> {
    let (acme, other) = (Tenant::from("acme"), Tenant::from("acme2"));
    let mut keys = Vec::new();
    for kind in [Kind::Inference, Kind::Embedding, Kind::ModelList, Kind::FineTune, Kind::BatchStatus] {
        for tenant in [None, Some(&acme), Some(&other)] {
            for name in ["a", "A", "a ", "", "é", "a:b", "a*"] {
                keys.push((on.key_of(kind, tenant, name), format!("{kind:?} {tenant:?} {name}").replace('"', "")));
            }
        }
    }
    for (key, text) in &keys {
        on.set(key, note(text)).await?;
    }
    for (key, text) in &keys {
        on.is("a key's own value", on.get(key).await?.as_ref(), text)?;
    }
    on.miss("a key never kept", &on.key("b")).await
}

async fn the_last_wins(on: &On<'_>) -> Result<(), Failure> {
    let (key, beside) = (on.key("a"), on.key("b"));
    on.set(&beside, note("beside")).await?;
    on.set(&key, note("a first value that is longer than the one after it")).await?;
    on.set(&key, note("second")).await?;
    on.is("the second value", on.get(&key).await?.as_ref(), "second")?;
    let vector = CacheEntry::new(CacheValue::Embedding([1.0].into()), LONG);
    on.set(&key, vector.clone()).await?;
    on.is_entry("a value of another kind", on.get(&key).await?.as_ref(), &vector)?;
    on.is("the value beside it", on.get(&beside).await?.as_ref(), "beside")
}

async fn removed_is_gone(on: &On<'_>) -> Result<(), Failure> {
    let (key, beside) = (on.key("a"), on.key("b"));
    on.remove(&key).await?;
    on.set(&key, note("a")).await?;
    on.set(&beside, note("b")).await?;
    on.remove(&key).await?;
    on.miss("a removed key", &key).await?;
    on.nothing("a removed key, by get_kept", on.get_kept(&key).await?.as_ref())?;
    on.remove(&key).await?;
    on.is("the value beside it", on.get(&beside).await?.as_ref(), "b")?;
    on.set(&key, note("again")).await?;
    on.is("a key that is kept again", on.get(&key).await?.as_ref(), "again")
}

async fn many_are_as_one(on: &On<'_>) -> Result<(), Failure> {
    let keys: Vec<CacheKey> = (0..40).map(|n| on.key(&n.to_string())).collect();
    let text = |n: usize| format!("value {n}");
    on.promise.same("values of no keys", on.get_many(&[]).await?.len(), 0)?;
    on.promise.done("set_many of none", on.layer.set_many(Vec::new())).await?;
    let (together, alone): (Vec<_>, Vec<_>) = keys.iter().copied().enumerate().partition(|(n, _)| n % 2 == 0);
    let mut page: Vec<_> = together.iter().map(|(n, key)| (*key, note(&text(*n)))).collect();
    // The same key twice: as one after the other.
    page.insert(0, (on.key("0"), note("an earlier one")));
    on.promise.done("set_many", on.layer.set_many(page)).await?;
    for (n, key) in &alone {
        on.set(key, note(&text(*n))).await?;
    }
    on.remove(&on.key("7")).await?;
    for (n, key) in keys.iter().enumerate().filter(|(n, _)| *n != 7) {
        on.is(&format!("key {n} by itself"), on.get(key).await?.as_ref(), &text(n))?;
    }
    // What is waited for is there, and changes nothing.
    on.promise.done("flush", on.layer.flush()).await?;
    // Not in the order of keeping, one twice, one never kept, one removed.
    let order = [31, 4, 4, 99, 0, 7, 38, 1];
    let asked: Vec<CacheKey> = order.iter().map(|n| on.key(&n.to_string())).collect();
    for (n, found) in order.into_iter().zip(on.get_many(&asked).await?) {
        match found {
            Some(found) if [7, 99].contains(&n) => {
                return Err(on.promise.broken(format!("key {n} is not kept and gets {:?}", found.value)));
            }
            _ if [7, 99].contains(&n) => {}
            found => on.is(&format!("key {n} among several"), found.as_ref(), &text(n))?,
        }
    }
    Ok(())
}

async fn old_is_not_served(on: &On<'_>) -> Result<(), Failure> {
    let (key, beside, late) = (on.key("a"), on.key("b"), on.key("late"));
    let short = |text: &str| CacheEntry { ttl: TICK * 2, ..note(text) };
    on.set(&key, short("a")).await?;
    on.set(&beside, note("b")).await?;
    let made_before = short("late");
    on.set(&on.key("no time"), CacheEntry { ttl: Duration::ZERO, ..note("no time") }).await?;
    on.miss("a value without time to live", &on.key("no time")).await?;
    on.wait(1).await;
    on.is("a value within its time", on.get(&key).await?.as_ref(), "a")?;
    on.wait(2).await;
    on.miss("a value past its time", &key).await?;
    if on.get_many(&[key]).await?.iter().any(Option::is_some) {
        return Err(on.promise.broken("get_many serves a value past its time"));
    }
    // Its age counts from when it was made.
    on.set(&late, made_before).await?;
    on.miss("a value that was kept past its time", &late).await?;
    on.is("a value with more time", on.get(&beside).await?.as_ref(), "b")?;
    on.set(&key, short("again")).await?;
    on.is("a value after one that expired", on.get(&key).await?.as_ref(), "again")?;
    on.set(&key, note("longer")).await?;
    on.wait(3).await;
    on.is("a value after the time of the one that it replaced", on.get(&key).await?.as_ref(), "longer")
}

async fn old_is_only_for_who_asks(on: &On<'_>) -> Result<(), Failure> {
    let (key, plain) = (on.key("a"), on.key("plain"));
    let short = |text: &str| CacheEntry { ttl: TICK * 2, ..note(text) };
    on.set(&key, short("a").kept_for(TICK * 4)).await?;
    on.set(&plain, short("plain")).await?;
    on.is("a fresh value by get_kept", on.get_kept(&key).await?.as_ref(), "a")?;
    on.nothing("a key never kept, by get_kept", on.get_kept(&on.key("never")).await?.as_ref())?;
    on.wait(3).await;
    on.gone("a value past its time that is not kept longer", &plain).await?;
    on.miss("a value past its time", &key).await?;
    on.nothing("a value past its time by get_many", on.get_many(&[key]).await?.iter().flatten().next())?;
    // After the misses: who asked for a fresh one must not have thrown it away.
    match on.get_kept(&key).await? {
        None if on.profile == CacheProfile::KeepsOld => {
            return Err(on.promise.broken("a value past its time by get_kept: a miss"));
        }
        None => {}
        Some(found) if found.is_fresh(Instant::now()) => {
            return Err(on.promise.broken("a value past its time looks fresh"));
        }
        found => on.is("a value past its time by get_kept", found.as_ref(), "a")?,
    }
    on.wait(4).await;
    on.gone("a value that was kept long enough", &key).await
}

async fn a_tenant_is_forgotten(on: &On<'_>) -> Result<(), Failure> {
    let (acme, other) = (Tenant::from("acme"), Tenant::from("acme2"));
    let (mut own, mut rest) = (Vec::new(), Vec::new());
    for kind in [Kind::Inference, Kind::Embedding, Kind::ModelList, Kind::FineTune, Kind::BatchStatus] {
        for name in ["a", "*"] {
            own.push((on.key_of(kind, Some(&acme), name), format!("acme's {kind:?} {name}")));
            rest.push((on.key_of(kind, Some(&other), name), format!("another's {kind:?} {name}")));
            rest.push((on.key_of(kind, None, name), format!("nobody's {kind:?} {name}")));
        }
    }
    for (key, text) in own.iter().chain(&rest) {
        on.set(key, note(text).kept_for(LONG)).await?;
    }
    let forgot = match on.promise.answer("forget_tenant", on.layer.forget_tenant(&acme)).await? {
        Err(error) if error.is_unsupported() => false,
        result => on.promise.ok("forget_tenant", result).map(|()| true)?,
    };
    for (key, text) in &own {
        if forgot {
            on.gone("a value of the tenant that was forgotten", key).await?;
        } else {
            on.is("a value of the tenant that cannot be forgotten", on.get(key).await?.as_ref(), text)?;
        }
    }
    for (key, text) in &rest {
        on.is("a value of others", on.get(key).await?.as_ref(), text)?;
    }
    for (key, text) in &own {
        on.set(key, note(text)).await?;
        on.is("a value that was kept after its tenant was forgotten", on.get(key).await?.as_ref(), text)?;
    }
    Ok(())
}

async fn many_at_once(on: &On<'_>) -> Result<(), Failure> {
    let round = async |n: usize| {
        let (key, own) = (on.key(&(n % 8).to_string()), on.key(&format!("own {n}")));
        on.set(&key, note(&format!("{} by {n}", n % 8))).await?;
        on.set(&own, note(&n.to_string())).await?;
        on.is("a key of one's own", on.get(&own).await?.as_ref(), &n.to_string())?;
        let Some(found) = on.get(&key).await? else { return Ok(()) };
        let of_key = |by: usize| same_value(&found.value, &note(&format!("{} by {by}", n % 8)).value);
        if (0..64).any(of_key) { Ok(()) } else { Err(on.promise.broken(format!("key {}: {:?}", n % 8, found.value))) }
    };
    join_all((0..64).map(round)).await.into_iter().collect()
}

async fn giving_up_harms_none(on: &On<'_>) -> Result<(), Failure> {
    let key = on.key("a");
    on.set(&key, note("before")).await?;
    begin_and_drop(on.layer.get(&key));
    begin_and_drop(on.layer.get_many(&[key]));
    on.is("a value after reads that were dropped", on.get(&key).await?.as_ref(), "before")?;
    begin_and_drop(on.layer.set(&key, note("half")));
    begin_and_drop(on.layer.remove(&key));
    on.set(&key, note("after")).await?;
    on.is("a value after writes that were dropped", on.get(&key).await?.as_ref(), "after")
}

#[cfg(test)]
mod tests;
