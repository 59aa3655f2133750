//! The names of a batch and of its lines.

use std::{fmt, str::FromStr};

/// 80 bits, in base32 without letters that look alike.
const LETTERS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const LEN: usize = 16;

/// A batch of ours, whatever jobs it is made of: 16 letters and digits.
///
/// ```
/// use together_inference::batch::BatchId;
///
/// let id = BatchId::new(7);
/// assert_eq!(id.to_string(), "0000000000000007");
/// assert_eq!("0000000000000007".parse(), Ok(id));
/// assert!("7".parse::<BatchId>().is_err());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BatchId([u8; LEN]);

/// A text that is no [`BatchId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the id of a batch is 16 letters and digits, such as 0v5b3m8k2d9qw7xz")]
pub struct InvalidBatchId;

impl BatchId {
    /// The id of this number, of which the lower 80 bits count.
    #[must_use]
    pub fn new(number: u128) -> Self {
        let mut letters = [b'0'; LEN];
        let mut rest = number;
        for letter in letters.iter_mut().rev() {
            let at = usize::try_from(rest & 31).unwrap_or_default();
            *letter = LETTERS.get(at).copied().unwrap_or(b'0');
            rest >>= 5;
        }
        Self(letters)
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// What a line is called at the provider: no other line of any batch or round is.
    #[cfg(feature = "batch")]
    pub(crate) fn custom_id(&self, round: u16, index: u64) -> String {
        format!("{self}-{round}-{index}")
    }

    /// The round and the line that a provider's row belongs to; `None` where it is not of this batch.
    #[cfg(feature = "batch")]
    pub(crate) fn line_of(&self, custom_id: &str) -> Option<(u16, u64)> {
        let (round, index) = custom_id.strip_prefix(self.as_str())?.strip_prefix('-')?.split_once('-')?;
        let (round, index) = (round.parse().ok()?, index.parse().ok()?);
        // Another spelling of the same numbers was never sent.
        (self.custom_id(round, index) == custom_id).then_some((round, index))
    }
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for BatchId {
    type Err = InvalidBatchId;

    fn from_str(text: &str) -> Result<Self, InvalidBatchId> {
        let letters: [u8; LEN] = text.as_bytes().try_into().map_err(|_| InvalidBatchId)?;
        if letters.iter().all(|letter| LETTERS.contains(letter)) { Ok(Self(letters)) } else { Err(InvalidBatchId) }
    }
}

#[cfg(all(test, feature = "batch"))]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_from_those_of_others() {
        let (id, other) = (BatchId::new(u128::MAX), BatchId::new(1));
        let name = id.custom_id(2, 49_999);
        assert_eq!(id.line_of(&name), Some((2, 49_999)));
        assert_eq!(other.line_of(&name), None);
        assert!(id.custom_id(u16::MAX, u64::MAX).len() <= 64);
        let aliens = ["", "-", "-1", "-1-x", "-70000-1", "-2-049999", "-02-49999", "-2-+49999"];
        for alien in aliens.map(|end| format!("{id}{end}")) {
            assert_eq!(id.line_of(&alien), None, "{alien}");
        }
    }
}
