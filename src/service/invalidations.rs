//! What was invalidated while an answer was on its way into the cache.
//!
//! To take a value out of the cache is not enough: an answer that was asked for before may be put there after. Each call
//! therefore notes how many invalidations there had been when it was planned. Before its answer is kept it looks whether
//! its key was among those since, and once more after, for the invalidation may have found nothing there to take out yet.
//!
//! # Why stripes and not the keys
//!
//! What is remembered must not grow with what is invalidated. Keys and tenants share a fixed number of stripes, each with
//! the number of its last invalidation. Two that share one cost a miss at most: an answer that is not kept although it
//! might have been.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crate::{inference::CacheKey, types::Tenant};

/// So many, that of a thousand answers under way an invalidation costs one needlessly.
const STRIPES: usize = 1_024;

/// How many invalidations there had been.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moment(u64);

/// The invalidations of one service.
#[derive(Debug)]
pub(super) struct Invalidations {
    count: AtomicU64,
    keys: Box<[AtomicU64]>,
    tenants: Box<[AtomicU64]>,
}

impl Default for Invalidations {
    fn default() -> Self {
        let stripes = || (0..STRIPES).map(|_| AtomicU64::new(0)).collect();
        Self { count: AtomicU64::new(0), keys: stripes(), tenants: stripes() }
    }
}

impl Invalidations {
    /// The present moment.
    pub(super) fn now(&self) -> Moment {
        Moment(self.count.load(SeqCst))
    }

    /// Notes that the answer under a key is not to be served any more.
    pub(super) fn note_key(&self, key: &CacheKey) {
        self.note(stripe(&self.keys, key.hash()));
    }

    /// Notes that none of a tenant's is.
    pub(super) fn note_tenant(&self, tenant: &Tenant) {
        self.note(stripe(&self.tenants, &CacheKey::tenant_part(tenant)));
    }

    /// Whether what was asked for at that moment may have been invalidated since.
    pub(super) fn hit(&self, key: &CacheKey, since: Moment) -> bool {
        let after = |stripe: Option<&AtomicU64>| stripe.is_some_and(|last| last.load(SeqCst) > since.0);
        after(stripe(&self.keys, key.hash())) || after(stripe(&self.tenants, key.tenant()))
    }

    fn note(&self, stripe: Option<&AtomicU64>) {
        let number = self.count.fetch_add(1, SeqCst) + 1;
        if let Some(last) = stripe {
            last.fetch_max(number, SeqCst);
        }
    }
}

/// The stripe of a hash, whose bytes are as good as random.
fn stripe<'a>(stripes: &'a [AtomicU64], hash: &[u8]) -> Option<&'a AtomicU64> {
    let [low, high, ..] = *hash else { return None };
    stripes.get(usize::from(u16::from_le_bytes([low, high])) % STRIPES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::Kind;

    fn key(tenant: Option<&str>, text: &str) -> CacheKey {
        CacheKey::of_bytes(Kind::Inference, tenant.map(Tenant::from).as_ref(), text.as_bytes())
    }

    #[test]
    fn what_was_asked_for_before_is_hit_and_what_is_asked_for_after_is_not() {
        let invalidations = Invalidations::default();
        let before = invalidations.now();
        invalidations.note_key(&key(None, "a"));
        let after = invalidations.now();
        assert!(invalidations.hit(&key(None, "a"), before) && !invalidations.hit(&key(None, "a"), after));
        assert!(!invalidations.hit(&key(None, "b"), before));

        invalidations.note_tenant(&"acme".into());
        assert!(invalidations.hit(&key(Some("acme"), "b"), after));
        assert!(!invalidations.hit(&key(Some("umbrella"), "b"), after));
        assert!(!invalidations.hit(&key(None, "b"), after), "what is nobody's is not the tenant's");
        assert!(!invalidations.hit(&key(Some("acme"), "b"), invalidations.now()));
    }

    #[test]
    fn an_invalidation_costs_few_others() {
        let invalidations = Invalidations::default();
        let before = invalidations.now();
        invalidations.note_key(&key(None, "a"));
        let hit = (0..10_000).filter(|n| invalidations.hit(&key(None, &n.to_string()), before)).count();
        assert!(hit < 40, "{hit}");
    }
}
