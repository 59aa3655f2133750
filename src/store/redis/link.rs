//! The way to the server: one connection, kept up by a task, left alone for a while when it does not answer.
//!
//! # Why not a connection manager
//!
//! One that reconnects when a caller comes lets the caller wait for it, and knows nothing of sentinels. Here callers only
//! ever take the connection that is there. While there is none they have their miss at once, and the task that looks for
//! the server pays for the waiting. The breaker is the same mechanism: a connection that fails too often is thrown away,
//! and the probe that ends the pause is the beginning of a new one, so that no caller pays for that either and no answer
//! to a question of before can arrive after it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use redis::{ErrorKind, RedisError, RedisResult, ServerErrorKind};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};

use super::{
    breaker::Failures,
    target::{Connection, Limits, Target, describe},
};
use crate::types::Rng;

/// How long a server that failed too often is left alone.
const PAUSE: Duration = Duration::from_secs(5);
/// The wait after the first failed attempt to connect; doubles up to the last one.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LAST_WAIT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Link {
    state: Mutex<State>,
    fell: Notify,
    up: watch::Sender<bool>,
    pub(crate) limits: Limits,
    /// Who goes on without it, in words.
    whose: &'static str,
    /// Times that the server was left alone for a while, and connections that came about.
    pub(crate) pauses: AtomicU64,
    pub(crate) connections: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    connection: Option<Connection>,
    /// Which connection it is: what an earlier one failed at is not held against it.
    number: u64,
    failures: Failures,
    why: Why,
}

/// Why there is no connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Why {
    #[default]
    Broken,
    TooManyFailures,
}

/// What a failure says of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    /// Nothing: one value is to blame.
    Nobody,
    /// It counts.
    Counts,
    /// It is of no use any more.
    Broken,
}

impl Blame {
    pub(crate) fn of(error: &RedisError) -> Self {
        match error.kind() {
            // The server was demoted: another one is the master.
            ErrorKind::Server(ServerErrorKind::ReadOnly) => Self::Broken,
            _ if error.code() == Some("WRONGTYPE") => Self::Nobody,
            _ if error.is_unrecoverable_error() || error.is_connection_dropped() => Self::Broken,
            _ => Self::Counts,
        }
    }
}

impl Link {
    pub(crate) fn new(limits: Limits, whose: &'static str) -> Self {
        Self {
            state: Mutex::default(),
            fell: Notify::new(),
            up: watch::Sender::new(false),
            limits,
            whose,
            pauses: AtomicU64::new(0),
            connections: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_up(&self) -> bool {
        *self.up.borrow()
    }

    /// Waits for the connection, for as long as it may take to connect.
    pub(crate) async fn wait(&self) {
        let mut up = self.up.subscribe();
        _ = timeout(self.limits.connect, up.wait_for(|up| *up)).await;
    }

    /// What the server answers; nothing while it is out of reach.
    ///
    /// # Errors
    ///
    /// What went wrong, in words.
    pub(crate) async fn ask<T, F>(
        &self,
        limit: Duration,
        ask: impl FnOnce(Connection) -> F + Send,
    ) -> Result<Option<T>, String>
    where
        T: Send,
        F: Future<Output = RedisResult<T>> + Send,
    {
        let Some((connection, number)) = self.connection() else { return Ok(None) };
        let error = match timeout(limit, ask(connection)).await {
            Ok(Ok(answer)) => return Ok(Some(answer)),
            Ok(Err(error)) => {
                self.blame(number, Blame::of(&error));
                describe(&error)
            }
            Err(_) => {
                self.blame(number, Blame::Counts);
                format!("no answer within {limit:?}")
            }
        };
        Err(format!("redis: {error}"))
    }

    fn connection(&self) -> Option<(Connection, u64)> {
        let state = self.lock();
        Some((state.connection.clone()?, state.number))
    }

    /// What is to be thought of the connection that is up now, by an answer to one of several commands.
    pub(crate) fn blame_current(&self, blame: Blame) {
        let number = self.lock().number;
        self.blame(number, blame);
    }

    fn blame(&self, number: u64, blame: Blame) {
        let mut state = self.lock();
        let Some(connection) = state.connection.as_ref().filter(|_| state.number == number) else { return };
        // A cluster's connection heals itself, node by node.
        let broken = blame == Blame::Broken && !connection.is_cluster();
        if blame == Blame::Nobody || !(broken || state.failures.add(Instant::now())) {
            return;
        }
        state.why = if broken { Why::Broken } else { Why::TooManyFailures };
        let gone = state.connection.take();
        let why = state.why;
        self.up.send_replace(false);
        drop(state);
        drop(gone);
        if why == Why::TooManyFailures {
            self.pauses.fetch_add(1, Relaxed);
            tracing::warn!("redis fails too often: {} without it for {PAUSE:?}", self.whose);
        }
        self.fell.notify_one();
    }

    fn raise(&self, connection: Connection) {
        let mut state = self.lock();
        state.number += 1;
        state.connection = Some(connection);
        state.failures = Failures::default();
        self.connections.fetch_add(1, Relaxed);
        self.up.send_replace(true);
    }

    /// Keeps a connection up, for ever.
    pub(crate) async fn keep(self: Arc<Self>, target: Arc<Target>, rng: Arc<dyn Rng>) {
        let jitter = |wait: Duration| wait.mul_f64(0.5 + rng.next_f64() / 2.0);
        let (mut wait, mut told) = (FIRST_WAIT, false);
        // What a former keeper, whose runtime is gone, left.
        drop(self.lock().connection.take());
        self.up.send_replace(false);
        loop {
            match target.connect(self.limits).await {
                Ok(connection) => {
                    if told {
                        tracing::info!("redis is back");
                    }
                    told = false;
                    self.raise(connection);
                    let since = Instant::now();
                    self.fell.notified().await;
                    let why = self.lock().why;
                    if why == Why::TooManyFailures {
                        told = true;
                        sleep(PAUSE).await;
                    } else if since.elapsed() < LAST_WAIT {
                        // It lets one in and throws one out again.
                        sleep(jitter(wait)).await;
                        wait = (wait * 2).min(LAST_WAIT);
                        continue;
                    }
                    wait = FIRST_WAIT;
                }
                Err(error) => {
                    if !told {
                        let error = describe(&error);
                        tracing::warn!(error, "redis is out of reach: {} without it until it is back", self.whose);
                    }
                    told = true;
                    sleep(jitter(wait)).await;
                    wait = (wait * 2).min(LAST_WAIT);
                }
            }
        }
    }
}
