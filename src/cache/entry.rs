//! A cached value, and its envelope outside the process.

use std::{
    borrow::Cow,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

use super::CacheError;
use crate::inference::{Answer, CacheKey, Origin};

/// A value with its age.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CacheEntry {
    /// The value, shared.
    pub value: CacheValue,
    /// When it was made.
    pub stored: Instant,
    /// How long it may be served.
    pub ttl: Duration,
    /// How long past its time to live a layer keeps it, for [`get_kept`](super::CacheLayer::get_kept) alone.
    pub keep: Duration,
    /// How long it took to make: what an early refresh weighs.
    pub delta: Duration,
    /// Where it was found; the layer that answers says so.
    pub origin: Origin,
}

/// What can be kept.
///
/// `Debug` shows how much, not what.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub enum CacheValue {
    /// A model's answer.
    Inference(Arc<Answer>),
    /// A text's vector, without loss.
    Embedding(Arc<[f32]>),
    /// A model list, a fine-tune job's or a batch's state: JSON as it came.
    Json(bytes::Bytes),
}

impl fmt::Debug for CacheValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inference(answer) => f.debug_tuple("Inference").field(answer).finish(),
            Self::Embedding(vector) => write!(f, "Embedding({} numbers)", vector.len()),
            Self::Json(json) => write!(f, "Json({} bytes)", json.len()),
        }
    }
}

/// What a key and moka's own books take, about.
const OVERHEAD: usize = 256;
/// The most bytes of a value outside the process.
const MAX_ENCODED: usize = 4 << 20;
/// How far the clocks of two machines may be apart. An envelope from later than that would look younger than it is for as
/// long as the clocks differ.
const SKEW: Duration = Duration::from_secs(2);
/// Changes when the envelope does.
const VERSION: u8 = 2;
/// version, value kind; created, ttl, keep and delta in milliseconds; length; the key's hash.
const HEADER: usize = 1 + 1 + 4 * 8 + 4 + 32;

impl CacheEntry {
    /// A value made just now.
    #[must_use]
    pub fn new(value: CacheValue, ttl: Duration) -> Self {
        let (keep, delta) = (Duration::ZERO, Duration::ZERO);
        Self { value, stored: Instant::now(), ttl, keep, delta, origin: Origin::Memory }
    }

    /// Sets how long past its time to live a layer keeps it: what may be served, marked as old, while nothing newer can
    /// be had.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
    /// use std::time::Duration;
    /// use together_inference::cache::{CacheEntry, CacheValue};
    /// use tokio::time::{Instant, advance};
    ///
    /// let (hour, minute) = (Duration::from_secs(3_600), Duration::from_secs(60));
    /// let entry = CacheEntry::new(CacheValue::Json("{}".into()), minute).kept_for(hour);
    /// advance(minute).await;
    /// assert!(!entry.is_fresh(Instant::now()) && entry.is_kept(Instant::now()));
    /// advance(hour).await;
    /// assert!(!entry.is_kept(Instant::now()));
    /// # });
    /// ```
    #[must_use]
    pub const fn kept_for(mut self, keep: Duration) -> Self {
        self.keep = keep;
        self
    }

    /// Sets how long it took to make.
    #[must_use]
    pub const fn delta(mut self, delta: Duration) -> Self {
        self.delta = delta;
        self
    }

    /// Whether it may still be served.
    #[must_use]
    pub fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.stored) < self.ttl
    }

    /// Whether a layer may still have it: fresh, or past its time to live by less than it is kept for.
    #[must_use]
    pub fn is_kept(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.stored) < self.lifetime()
    }

    /// How long a layer keeps it, counted from when it was made.
    pub(super) const fn lifetime(&self) -> Duration {
        self.ttl.saturating_add(self.keep)
    }

    /// Bytes in memory, about.
    #[must_use]
    pub fn weight(&self) -> u32 {
        let value = match &self.value {
            CacheValue::Inference(answer) => answer.weight(),
            CacheValue::Embedding(vector) => size_of_val::<[f32]>(vector),
            CacheValue::Json(json) => json.len(),
        };
        u32::try_from(value + OVERHEAD).unwrap_or(u32::MAX)
    }

    /// The same in this process, without the provider's raw JSON, which would double what an answer weighs.
    pub(super) fn for_memory(mut self) -> Self {
        self.origin = Origin::Memory;
        if let CacheValue::Inference(answer) = &self.value
            && !answer.raw.is_empty()
        {
            self.value = CacheValue::Inference(Arc::new(answer.without_raw()));
        }
        self
    }

    /// The value in an envelope for a store outside the process: version, full key, creation, times, length.
    ///
    /// # Errors
    ///
    /// [`CacheError`] when it is over 4 MiB.
    pub fn encode(&self, key: &CacheKey, now: SystemTime) -> Result<Vec<u8>, CacheError> {
        let (kind, body): (_, Cow<'_, [u8]>) = match &self.value {
            CacheValue::Inference(answer) => (0, answer.to_json().map_err(CacheError::new)?.into()),
            CacheValue::Embedding(vector) => (1, vector.iter().flat_map(|value| value.to_le_bytes()).collect()),
            CacheValue::Json(json) => (2, Cow::Borrowed(json)),
        };
        let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= MAX_ENCODED);
        let length = length.ok_or_else(|| CacheError::new(format!("the value is over {MAX_ENCODED} bytes")))?;
        let created = now.checked_sub(self.stored.elapsed()).unwrap_or(UNIX_EPOCH);
        let created = created.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut bytes = Vec::with_capacity(HEADER + body.len());
        bytes.extend([VERSION, kind]);
        for time in [created, self.ttl, self.keep, self.delta] {
            bytes.extend(u64::try_from(time.as_millis()).unwrap_or(u64::MAX).to_le_bytes());
        }
        bytes.extend(length.to_le_bytes());
        bytes.extend(key.hash());
        bytes.extend_from_slice(&body);
        Ok(bytes)
    }

    /// Reads an envelope, and refuses what is not this key's: another version, another key, cut or grown bytes; and what a
    /// clock wrote that is over 2 s ahead of this one. It may be past its time:
    /// [`is_fresh`](Self::is_fresh) and [`is_kept`](Self::is_kept) tell. Its origin is
    /// [`Other`](Origin::Other).
    ///
    /// # Errors
    ///
    /// [`CacheError`], which is a miss.
    pub fn decode(key: &CacheKey, bytes: &[u8], now: SystemTime) -> Result<Self, CacheError> {
        let mut rest = bytes;
        let [version, kind] = take(&mut rest)?;
        if version != VERSION {
            return Err(CacheError::new(format!("envelope of version {version}, {VERSION} expected")));
        }
        let created = take_time(&mut rest)?;
        let ttl = take_time(&mut rest)?;
        let keep = take_time(&mut rest)?;
        let delta = take_time(&mut rest)?;
        let length = u32::from_le_bytes(take(&mut rest)?);
        let hash: [u8; 32] = take(&mut rest)?;
        if hash != *key.hash() {
            return Err(CacheError::new("the stored value belongs to another key"));
        }
        if rest.len() != length as usize || rest.len() > MAX_ENCODED {
            return Err(CacheError::new("the stored value was cut or grew"));
        }
        let value = match kind {
            0 => CacheValue::Inference(Arc::new(Answer::from_json(rest).map_err(CacheError::new)?)),
            1 => CacheValue::Embedding(floats(rest)?),
            2 => CacheValue::Json(bytes::Bytes::copy_from_slice(rest)),
            _ => return Err(CacheError::new("a kind of value that this version does not know")),
        };
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        if created.saturating_sub(now) > SKEW {
            return Err(CacheError::new("the stored value is from the future: the clock that wrote it is ahead"));
        }
        let age = now.saturating_sub(created);
        let stored = Instant::now().checked_sub(age);
        let stored = stored.ok_or_else(|| CacheError::new("the stored value is older than this machine's clock"))?;
        Ok(Self { value, stored, ttl, keep, delta, origin: Origin::Other })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], CacheError> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or_else(|| CacheError::new("the stored value was cut"))?;
    *rest = tail;
    Ok(*head)
}

fn take_time(rest: &mut &[u8]) -> Result<Duration, CacheError> {
    Ok(Duration::from_millis(u64::from_le_bytes(take(rest)?)))
}

fn floats(bytes: &[u8]) -> Result<Arc<[f32]>, CacheError> {
    let (values, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(CacheError::new("the stored vector was cut"));
    }
    Ok(values.iter().map(|value| f32::from_le_bytes(*value)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::Kind;

    fn key(text: &str) -> CacheKey {
        CacheKey::of_bytes(Kind::Embedding, None, text.as_bytes())
    }

    #[tokio::test(start_paused = true)]
    async fn an_envelope_keeps_value_and_age() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let vector: Arc<[f32]> = [0.1, -0.0, f32::MIN_POSITIVE].into();
        let entry = CacheEntry::new(CacheValue::Embedding(vector), Duration::from_secs(10));
        let entry = entry.kept_for(Duration::from_secs(2)).delta(Duration::from_millis(3));
        tokio::time::advance(Duration::from_secs(4)).await;
        let bytes = entry.encode(&key("a"), now).unwrap();
        let read = CacheEntry::decode(&key("a"), &bytes, now + Duration::from_secs(5)).unwrap();
        assert_eq!((&read.value, read.ttl, read.keep, read.delta), (&entry.value, entry.ttl, entry.keep, entry.delta));
        assert_eq!(read.origin, Origin::Other);
        assert!(read.is_fresh(Instant::now()));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!read.is_fresh(Instant::now()) && read.is_kept(Instant::now()));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(!read.is_kept(Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_envelope_of_a_clock_that_is_ahead_is_a_miss() {
        let (now, hour) = (SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000), Duration::from_secs(3_600));
        let entry = CacheEntry::new(CacheValue::Json("{}".into()), hour);
        let ahead = entry.encode(&key("a"), now + hour).unwrap();
        assert!(CacheEntry::decode(&key("a"), &ahead, now).unwrap_err().to_string().contains("from the future"));
        assert!(CacheEntry::decode(&key("a"), &ahead, now + Duration::from_secs(59 * 60)).is_err());
        // Two machines never quite agree.
        let a_little = entry.encode(&key("a"), now + SKEW).unwrap();
        let read = CacheEntry::decode(&key("a"), &a_little, now).unwrap();
        assert_eq!(read.stored, Instant::now(), "and no age is below zero");
        let far = entry.encode(&key("a"), now + Duration::from_secs(1 << 40)).unwrap();
        assert!(CacheEntry::decode(&key("a"), &far, now).is_err());
    }

    #[test]
    fn what_is_shown_of_a_value_is_its_size() {
        let json = CacheValue::Json("{\"secret\":1}".into());
        let vector = CacheValue::Embedding([0.125_f32, 2.5].into());
        assert_eq!(format!("{json:?} {vector:?}"), "Json(12 bytes) Embedding(2 numbers)");
    }

    #[tokio::test(start_paused = true)]
    async fn anything_else_than_this_keys_value_is_refused() {
        let now = SystemTime::UNIX_EPOCH;
        let entry = CacheEntry::new(CacheValue::Json("{}".into()), Duration::from_secs(10));
        let bytes = entry.encode(&key("a"), now).unwrap();
        assert!(CacheEntry::decode(&key("b"), &bytes, now).is_err(), "another key");
        for length in 0..bytes.len() {
            assert!(CacheEntry::decode(&key("a"), &bytes[..length], now).is_err(), "cut at {length}");
        }
        let grown = [bytes.clone(), vec![0]].concat();
        assert!(CacheEntry::decode(&key("a"), &grown, now).is_err(), "grown");
        let mut other = bytes;
        other[0] = 9;
        assert!(CacheEntry::decode(&key("a"), &other, now).is_err(), "another version");
    }
}
