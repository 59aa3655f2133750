//! What the users of a store share as long as one of them lives.

use std::{
    any::Any,
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
};

/// A place for one thing, which goes with the last of those who hold it.
#[derive(Default)]
pub(crate) struct Slot(Mutex<Option<Weak<dyn Any + Send + Sync>>>);

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").finish_non_exhaustive()
    }
}

impl Slot {
    /// The thing that is there, or a new one: `true`, then.
    pub(crate) fn get<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> (Arc<T>, bool) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let there = slot.as_ref().and_then(Weak::upgrade).and_then(|thing| thing.downcast().ok());
        if let Some(thing) = there {
            return (thing, false);
        }
        let thing = Arc::new(make());
        let shared: Arc<dyn Any + Send + Sync> = Arc::<T>::clone(&thing);
        *slot = Some(Arc::downgrade(&shared));
        (thing, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thing_is_shared_until_nobody_holds_it() {
        let slot = Slot::default();
        let (first, is_new) = slot.get(|| 1_u32);
        assert!(is_new);
        assert_eq!(slot.get(|| 2_u32), (Arc::new(1), false));
        drop(first);
        assert_eq!(slot.get(|| 3_u32), (Arc::new(3), true));
    }
}
