//! Chance, injected: jitter and ids come from here and can be seeded.

use std::{
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
};

/// A source of random bits. Not for secrets.
///
/// ```
/// use together_inference::types::Rng;
///
/// /// Draws the highest number, always: the longest jitter there can be.
/// #[derive(Debug)]
/// struct Highest;
///
/// impl Rng for Highest {
///     fn next_u64(&self) -> u64 {
///         u64::MAX
///     }
/// }
///
/// assert!(Highest.next_f64() < 1.0);
/// ```
pub trait Rng: Send + Sync + fmt::Debug {
    /// The next 64 random bits.
    fn next_u64(&self) -> u64;

    /// A number in `0.0..1.0`.
    fn next_f64(&self) -> f64 {
        // The upper 53 bits are what an f64 holds exactly.
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
        let unit = (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        unit
    }

    /// 128 random bits, for ids.
    fn next_u128(&self) -> u128 {
        u128::from(self.next_u64()) << 64 | u128::from(self.next_u64())
    }
}

/// `SplitMix64` from a fixed seed: the same sequence every time.
///
/// For tests: ids that it gives repeat from one run to the next. Callers on several threads share one sequence.
///
/// ```
/// use together_inference::types::{Rng, SeededRng};
///
/// let (one, other) = (SeededRng::new(7), SeededRng::new(7));
/// assert_eq!(one.next_u64(), other.next_u64());
/// assert_ne!(one.next_u64(), SeededRng::new(8).next_u64());
/// ```
#[derive(Debug)]
pub struct SeededRng(AtomicU64);

impl SeededRng {
    /// The sequence of this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }
}

/// Steele, Lea and Flood's increment: 2⁶⁴ divided by the golden ratio.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

impl Rng for SeededRng {
    fn next_u64(&self) -> u64 {
        // Each caller takes its own place in the sequence; nothing else depends on the order.
        let mut z = self.0.fetch_add(GOLDEN, Ordering::Relaxed).wrapping_add(GOLDEN);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// `SplitMix64` seeded by the operating system.
///
/// ```
/// use together_inference::types::{Rng, SystemRng};
///
/// assert_ne!(SystemRng::default().next_u128(), SystemRng::default().next_u128());
/// ```
#[derive(Debug)]
pub struct SystemRng(SeededRng);

impl Default for SystemRng {
    /// A sequence of its own: the standard library draws the keys of a `RandomState` from the operating system.
    fn default() -> Self {
        Self(SeededRng::new(RandomState::new().build_hasher().finish()))
    }
}

impl Rng for SystemRng {
    fn next_u64(&self) -> u64 {
        self.0.next_u64()
    }
}
