//! How batches of a service are carried out.

use std::time::Duration;

/// How batches are cut, repeated and rescued. The defaults are for Together's API.
///
/// ```
/// use together_inference::service::BatchOptions;
///
/// let options = BatchOptions::default().rounds(5).chunk_lines(1_000);
/// assert_eq!((options.rounds, options.chunk_lines), (5, 1_000));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchOptions {
    /// Lines of a chunk, at most: 10,000. The API takes 50,000 and recommends 1,000 to 10,000.
    pub chunk_lines: u64,
    /// Bytes of a chunk, at most: 90 MB. The API takes 100 MB.
    pub chunk_bytes: u64,
    /// Rounds that a line is part of, at most: 3.
    pub rounds: u16,
    /// With at most so many lines left after a round they are answered one by one: 200.
    pub singly_below: u64,
    /// Jobs that are out at a time, at most: 50.
    pub jobs: usize,
    /// Calls at a time where lines are answered one by one: 8.
    pub calls: usize,
    /// How often jobs are asked after: 30 s.
    pub poll: Duration,
    /// How long deferred requests gather before they go out together: 60 s, or until there are 1,000 of them.
    pub gather: Duration,
    /// How long a batch is kept that is over: 30 days. Then its rows, files and name are gone; its costs stay in the
    /// ledger.
    pub retention: Duration,
    /// For how long a chunk is one worker's unless it says again that it has it, which it does three times as often:
    /// 30 s. So long does a chunk lie still whose worker hangs.
    pub lease: Duration,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self {
            chunk_lines: 10_000,
            chunk_bytes: 90_000_000,
            rounds: 3,
            singly_below: 200,
            jobs: 50,
            calls: 8,
            poll: Duration::from_secs(30),
            gather: Duration::from_secs(60),
            retention: Duration::from_secs(30 * 24 * 3_600),
            lease: Duration::from_secs(30),
        }
    }
}

impl BatchOptions {
    /// Sets how many lines a chunk has at most; 0 counts as 1.
    #[must_use]
    pub const fn chunk_lines(mut self, lines: u64) -> Self {
        self.chunk_lines = if lines == 0 { 1 } else { lines };
        self
    }

    /// Sets how many rounds a line is part of at most; 0 counts as 1.
    #[must_use]
    pub const fn rounds(mut self, rounds: u16) -> Self {
        self.rounds = if rounds == 0 { 1 } else { rounds };
        self
    }

    /// Sets with how many lines left they are answered one by one; 0: never.
    #[must_use]
    pub const fn singly_below(mut self, lines: u64) -> Self {
        self.singly_below = lines;
        self
    }

    /// Sets how many jobs are out at a time at most; 0 counts as 1.
    #[must_use]
    pub const fn jobs(mut self, jobs: usize) -> Self {
        self.jobs = if jobs == 0 { 1 } else { jobs };
        self
    }

    /// Sets how long deferred requests gather before they go out together.
    #[must_use]
    pub const fn gather(mut self, time: Duration) -> Self {
        self.gather = time;
        self
    }

    /// Sets how long a batch is kept that is over; [`Duration::MAX`]: for good.
    #[must_use]
    pub const fn retention(mut self, time: Duration) -> Self {
        self.retention = time;
        self
    }

    /// Sets for how long a chunk is one worker's unless it says again that it has it; less than a second counts as one.
    #[must_use]
    pub const fn lease(mut self, time: Duration) -> Self {
        let least = Duration::from_secs(1);
        self.lease = if time.as_millis() < least.as_millis() { least } else { time };
        self
    }

    /// Sets how often jobs are asked after.
    #[must_use]
    pub const fn poll(mut self, every: Duration) -> Self {
        self.poll = every;
        self
    }
}
