//! Why a store did not do what it should.

use std::{fmt, sync::Arc};

use crate::types::BoxError;

/// A store that failed: what, on which store, and what to do. Clones share it.
///
/// ```
/// # #[cfg(feature = "sqlite")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use together_inference::store::{Store, StoreErrorKind};
///
/// let error = Store::open("/proc/none/inference.db").await.unwrap_err();
/// assert_eq!(error.kind(), StoreErrorKind::Unreachable);
/// assert!(error.to_string().starts_with("the store /proc/none/inference.db cannot be reached"), "{error}");
/// # }
/// # #[cfg(not(feature = "sqlite"))] fn main() {}
/// ```
#[derive(Clone, Debug)]
pub struct StoreError(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kind: StoreErrorKind,
    store: Box<str>,
    detail: Box<str>,
    source: Option<BoxError>,
}

/// What kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// It is not there, or may not be opened.
    Unreachable,
    /// It can be read and not written.
    ReadOnly,
    /// There is no room for more.
    Full,
    /// A newer version of this crate has written it; this one does not know how to read it.
    Newer,
    /// It belongs to another program.
    Foreign,
    /// Others kept it locked for too long.
    Busy,
    /// It is damaged.
    Corrupt,
    /// It was closed.
    Closed,
    /// A store of this kind cannot do what is asked of it.
    Unsupported,
    /// Something else went wrong; the source says what.
    Other,
}

impl StoreErrorKind {
    /// Whether the same may succeed a little later.
    ///
    /// ```
    /// use together_inference::store::StoreErrorKind;
    ///
    /// assert!(StoreErrorKind::Busy.is_retryable() && !StoreErrorKind::Newer.is_retryable());
    /// ```
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::Unreachable | Self::Full | Self::Busy | Self::Other)
    }

    const fn says(self) -> &'static str {
        match self {
            Self::Unreachable => "cannot be reached",
            Self::ReadOnly => "cannot be written; check its permissions and how it is mounted",
            Self::Full => "is full; free space, or raise its bound",
            Self::Newer => "was written by a newer version of this crate; update the crate",
            Self::Foreign => "belongs to another program; name another one",
            Self::Busy => "was locked by others for too long",
            Self::Corrupt => "is damaged; restore it from a backup",
            Self::Closed => "was closed",
            Self::Unsupported => "cannot do this",
            Self::Other => "failed",
        }
    }
}

impl StoreError {
    pub(crate) fn new(kind: StoreErrorKind, store: &str, detail: impl Into<Box<str>>) -> Self {
        Self(Arc::new(Inner { kind, store: store.into(), detail: detail.into(), source: None }))
    }

    pub(crate) fn caused(kind: StoreErrorKind, store: &str, cause: impl Into<BoxError>) -> Self {
        let cause = cause.into();
        Self(Arc::new(Inner { kind, store: store.into(), detail: cause.to_string().into(), source: Some(cause) }))
    }

    /// As [`caused`](Self::caused), with more words than the cause's own.
    #[cfg(feature = "postgres")]
    pub(crate) fn explained(
        kind: StoreErrorKind,
        store: &str,
        detail: impl Into<Box<str>>,
        cause: impl Into<BoxError>,
    ) -> Self {
        Self(Arc::new(Inner { kind, store: store.into(), detail: detail.into(), source: Some(cause.into()) }))
    }

    /// What kind of failure.
    #[must_use]
    pub fn kind(&self) -> StoreErrorKind {
        self.0.kind
    }

    /// Which store: a path or an address, without its password.
    #[must_use]
    pub fn store(&self) -> &str {
        &self.0.store
    }

    /// Whether the same may succeed a little later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.0.kind.is_retryable()
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the store {} {}", self.0.store, self.0.kind.says())?;
        if self.0.detail.is_empty() { Ok(()) } else { write!(f, " ({})", self.0.detail) }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}
