//! Envelopes that nobody but the holders of a key can write.

use std::fmt;

use zeroize::Zeroizing;

use crate::cache::CacheError;

/// Less is no secret.
const LEAST: usize = 16;
/// Bytes of a tag.
pub(super) const TAG: usize = 32;

/// A key of HMAC-SHA256.
#[derive(Clone)]
pub(super) struct MacKey(Zeroizing<Vec<u8>>);

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl MacKey {
    pub(super) fn new(key: Vec<u8>) -> Result<Self, CacheError> {
        let key = Zeroizing::new(key);
        if key.len() < LEAST {
            return Err(CacheError::new(format!("a MAC key has at least {LEAST} bytes; take 32 random ones")));
        }
        Ok(Self(key))
    }

    fn mac(&self, name: &str, envelope: &[u8]) -> hmac_sha256::HMAC {
        let mut mac = hmac_sha256::HMAC::new(&*self.0);
        // The name under which it lies, so that one tenant's or kind's value is none of another's. Names have no zero byte:
        // the one after it tells where it ends.
        mac.update(name);
        mac.update([0]);
        mac.update(envelope);
        mac
    }

    /// Appends the tag.
    pub(super) fn seal(&self, name: &str, envelope: &mut Vec<u8>) {
        let tag = self.mac(name, envelope).finalize();
        envelope.extend(tag);
    }

    /// The envelope without its tag, if that is right.
    pub(super) fn open<'a>(&self, name: &str, sealed: &'a [u8]) -> Option<&'a [u8]> {
        let (envelope, tag) = sealed.split_last_chunk::<TAG>()?;
        self.mac(name, envelope).finalize_verify(tag).then_some(envelope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_key_sealed_under_this_name_opens() {
        let (key, other) = (MacKey::new(vec![1; 32]).unwrap(), MacKey::new(vec![2; 32]).unwrap());
        let mut sealed = b"envelope".to_vec();
        key.seal("ti:infer:a", &mut sealed);
        assert_eq!(key.open("ti:infer:a", &sealed), Some(&b"envelope"[..]));
        assert_eq!(key.open("ti:infer:b", &sealed), None, "another name");
        assert_eq!(other.open("ti:infer:a", &sealed), None, "another key");
        assert_eq!(key.open("ti:infer:a", b"envelope"), None, "no tag");
        for at in 0..sealed.len() {
            let mut forged = sealed.clone();
            forged[at] ^= 1;
            assert_eq!(key.open("ti:infer:a", &forged), None, "byte {at}");
        }
        assert!(MacKey::new(vec![1; 15]).is_err());
        assert!(!format!("{key:?}").contains('1'));
    }
}
