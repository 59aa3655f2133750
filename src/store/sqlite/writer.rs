//! The thread that writes: takes what waits, commits it at once, answers.
//!
//! A group that somebody waits for waits for as many jobs as the one before held, two milliseconds at most: writers that
//! come alone are not held up, and many together share a flush. One that nobody waits for stays open for five. A job that
//! fails is undone alone.
//!
//! # What is guaranteed
//!
//! [`Durable::Now`] answers after the disk has it. [`Durable::Soon`] answers after it was handed to the operating system,
//! which a crash of the process does not undo; the disk has it within a second.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{
    super::{Durable, StoreError, StoreErrorKind, reach},
    open::{error_of, is_current, open_to_write},
    process::Process,
};
use crate::types::{Clock, Rng, SystemClock, SystemRng};

/// Jobs that may wait.
const QUEUE: usize = 4_096;
/// Jobs that are committed together, at most.
const GROUP: usize = 1_024;
/// How long a group waits for more that somebody waits for.
const WINDOW: Duration = Duration::from_millis(2);
/// How long one waits that nobody waits for: each commit writes whole pages.
const LULL: Duration = Duration::from_millis(5);
/// When what was written is flushed, at the latest.
const SOON: Duration = Duration::from_millis(500);
/// How often a process says that it lives, and chores are done.
const TURN: Duration = Duration::from_secs(10);

/// What is done now and then, within a transaction: `true` if there is more to do at once, `None` when it has ended for
/// good. The names of processes that have ended are struck out before.
pub(crate) type Chore = Box<dyn FnMut(&Connection) -> Result<Option<bool>, rusqlite::Error> + Send>;

pub(super) enum Command {
    Job(Job),
    Chore(Chore),
    Sync(oneshot::Sender<Result<(), StoreError>>),
}

/// A job that waits, with its place in the queue.
pub(super) struct Job {
    durable: Durable,
    work: Box<dyn Work>,
    _place: OwnedSemaphorePermit,
}

/// A job whose result has a type of its own.
trait Work: Send {
    fn run(&mut self, connection: &Connection) -> Result<(), rusqlite::Error>;
    fn end(self: Box<Self>, failed: Option<StoreError>);
}

struct Typed<F, T, U> {
    job: Option<F>,
    result: Option<T>,
    /// Whoever waits for it.
    answer: Option<oneshot::Sender<Result<T, StoreError>>>,
    /// Told if it could not be written, before anything else is: what it has remembered meanwhile is not so.
    failed: U,
}

impl<F, T, U> Work for Typed<F, T, U>
where
    F: FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send,
    T: Send,
    U: FnOnce() + Send,
{
    fn run(&mut self, connection: &Connection) -> Result<(), rusqlite::Error> {
        if let Some(job) = self.job.take() {
            self.result = Some(job(connection)?);
        }
        Ok(())
    }

    fn end(self: Box<Self>, failed: Option<StoreError>) {
        if failed.is_some() {
            (self.failed)();
        }
        // Whoever asked may have given up waiting.
        match (self.answer, failed, self.result) {
            (Some(answer), Some(error), _) => drop(answer.send(Err(error))),
            (Some(answer), None, Some(result)) => drop(answer.send(Ok(result))),
            (None, Some(error), _) => tracing::warn!(%error, "a write that nobody waits for failed"),
            _ => {}
        }
    }
}

/// The way to the thread.
#[derive(Debug)]
pub(super) struct Writer {
    commands: Sender<Command>,
    places: Arc<Semaphore>,
    thread: thread::Thread,
    name: Box<str>,
    /// Closed when the thread has ended.
    ended: Mutex<Receiver<()>>,
}

impl Writer {
    /// Starts the thread, which opens the file and tells the process's id.
    pub(super) fn start(
        path: PathBuf,
        max_bytes: Option<u64>,
        name: &str,
    ) -> Result<(Self, oneshot::Receiver<Result<i64, StoreError>>), StoreError> {
        let (commands, inbox) = mpsc::channel();
        let (opened, opens) = oneshot::channel();
        let (ends, ended) = sync_channel::<()>(0);
        let named: Box<str> = name.into();
        let run = move || Thread::run(&path, max_bytes, named, &inbox, opened, ends);
        let thread = thread::Builder::new()
            .name("inference-store".into())
            .spawn(run)
            .map_err(|error| StoreError::caused(StoreErrorKind::Other, name, error))?;
        let (places, thread) = (Arc::new(Semaphore::new(QUEUE)), thread.thread().clone());
        Ok((Self { commands, places, thread, name: name.into(), ended: Mutex::new(ended) }, opens))
    }

    pub(super) async fn send<T: Send + 'static>(
        &self,
        durable: Durable,
        job: impl FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
        failed: impl FnOnce() + Send + 'static,
        answer: oneshot::Sender<Result<T, StoreError>>,
    ) -> Result<(), StoreError> {
        let closed = |_| StoreError::new(StoreErrorKind::Closed, &self.name, "");
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(closed)?;
        let work = Box::new(Typed { job: Some(job), result: None, answer: Some(answer), failed });
        self.command(Command::Job(Job { durable, work, _place: place }));
        Ok(())
    }

    pub(super) fn try_send(
        &self,
        durable: Durable,
        job: impl FnOnce(&Connection) -> Result<(), rusqlite::Error> + Send + 'static,
        failed: impl FnOnce() + Send + 'static,
    ) {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { return failed() };
        let work = Box::new(Typed { job: Some(job), result: None, answer: None, failed });
        self.command(Command::Job(Job { durable, work, _place: place }));
    }

    pub(super) fn command(&self, command: Command) {
        let may_wait = matches!(&command, Command::Job(Job { durable: Durable::Soon, .. }));
        // If the thread is gone, so is the answer's sender: whoever waits for it learns it there.
        let _ = self.commands.send(command);
        if !may_wait {
            self.thread.unpark();
        }
    }
}

impl Drop for Writer {
    /// Waits until what was handed over is on the disk: a program that ends with `main` loses nothing.
    fn drop(&mut self) {
        let (unconnected, _) = mpsc::channel();
        drop(std::mem::replace(&mut self.commands, unconnected));
        self.thread.unpark();
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = ended.recv_timeout(Duration::from_secs(5));
    }
}

/// What is committed together.
#[derive(Default)]
struct Group {
    jobs: Vec<Job>,
    /// Whether somebody waits for the disk.
    is_urgent: bool,
}

/// What the thread knows.
struct Thread {
    connection: Connection,
    name: Box<str>,
    process: Process,
    chores: Vec<Chore>,
    /// The size of the group before that somebody waited for.
    before: usize,
    /// Whether commits wait for the disk.
    flushes: Option<bool>,
    /// When what was written must be flushed.
    flush_by: Option<Instant>,
    /// Whether the last flush failed.
    cannot_flush: bool,
    next_turn: Instant,
}

impl Thread {
    fn run(
        path: &std::path::Path,
        max_bytes: Option<u64>,
        name: Box<str>,
        inbox: &Receiver<Command>,
        opened: oneshot::Sender<Result<i64, StoreError>>,
        _ends: SyncSender<()>,
    ) {
        let process = Process::this(i64::try_from(SystemRng::default().next_u128() >> 66).unwrap_or(1));
        let connection = match open_to_write(path, max_bytes, &name) {
            Ok(connection) => connection,
            Err(error) => return drop(opened.send(Err(error))),
        };
        connection.set_prepared_statement_cache_capacity(64);
        let next_turn = now() + TURN;
        let mut thread = Self {
            connection,
            name,
            process,
            chores: Vec::new(),
            before: 1,
            flushes: None,
            flush_by: None,
            cannot_flush: false,
            next_turn,
        };
        if let Err(error) = thread.turn() {
            return drop(opened.send(Err(error)));
        }
        if opened.send(Ok(thread.process.id)).is_err() {
            return;
        }
        while thread.serve(inbox) {}
        thread.close();
    }

    /// One group, or what is due; `false` when nobody can send any more.
    fn serve(&mut self, inbox: &Receiver<Command>) -> bool {
        let until = self.flush_by.map_or(self.next_turn, |flush| flush.min(self.next_turn));
        let mut group = Group::default();
        let goes_on = match inbox.recv_timeout(until.saturating_duration_since(now())) {
            Ok(command) => self.take(command, &mut group),
            Err(RecvTimeoutError::Timeout) => true,
            Err(RecvTimeoutError::Disconnected) => return false,
        };
        if goes_on && !group.jobs.is_empty() {
            self.gather(inbox, &mut group);
        }
        self.commit(group);
        let now = now();
        if self.flush_by.is_some_and(|flush| flush <= now)
            && let Err(error) = self.flush()
        {
            tracing::warn!(%error, "the store could not be flushed");
            self.flush_by = Some(now + SOON);
        }
        if self.next_turn <= now
            && let Err(error) = self.turn()
        {
            tracing::warn!(%error, store = &*self.name, "the store's sign of life failed");
            self.next_turn = now + TURN;
        }
        true
    }

    /// Waits for what is to be committed with the jobs that are there.
    fn gather(&mut self, inbox: &Receiver<Command>, group: &mut Group) {
        let begun = now();
        loop {
            while group.jobs.len() < GROUP {
                let Ok(command) = inbox.try_recv() else { break };
                if !self.take(command, group) {
                    return;
                }
            }
            // Whoever came together comes together again.
            let is_enough = group.is_urgent && group.jobs.len() >= self.before;
            let patience = if group.is_urgent { WINDOW } else { LULL }.saturating_sub(begun.elapsed());
            if is_enough || patience.is_zero() || group.jobs.len() >= GROUP {
                return;
            }
            if group.is_urgent {
                let Ok(command) = inbox.recv_timeout(patience) else { return };
                if !self.take(command, group) {
                    return;
                }
            } else {
                // Whoever hands something over does not pay for waking this thread; what is urgent wakes it.
                thread::park_timeout(patience);
            }
        }
    }

    /// A command: a job joins the group; anything else is done after it, so that it sees what came before.
    fn take(&mut self, command: Command, group: &mut Group) -> bool {
        match command {
            Command::Job(job) => {
                group.is_urgent |= job.durable == Durable::Now;
                group.jobs.push(job);
                return true;
            }
            Command::Chore(chore) => {
                self.chores.push(chore);
                self.next_turn = now();
            }
            Command::Sync(answer) => {
                self.commit(std::mem::take(group));
                let _ = answer.send(self.flush());
            }
        }
        false
    }

    /// Commits a group and answers: what a job did that fails is undone alone.
    fn commit(&mut self, group: Group) {
        if group.jobs.is_empty() {
            return;
        }
        reach("store: a group is taken");
        // What the disk did not take it may never take: whoever writes more is to know.
        let durable = if group.is_urgent || self.cannot_flush { Durable::Now } else { Durable::Soon };
        if group.is_urgent {
            self.before = group.jobs.len();
        }
        let mut jobs: Vec<(Job, Option<StoreError>)> = group.jobs.into_iter().map(|job| (job, None)).collect();
        let committed = self.transact(durable, &mut jobs);
        match (&committed, durable) {
            (Ok(()), Durable::Now) => self.is_flushed(),
            (Ok(()), Durable::Soon) => self.flush_by = self.flush_by.or_else(|| Some(now() + SOON)),
            (Err(_), _) => self.roll_back(),
        }
        reach("store: a group is committed");
        let failed = committed.err();
        for (job, alone) in jobs {
            job.work.end(alone.or_else(|| failed.clone()));
        }
    }

    fn transact(&mut self, durable: Durable, jobs: &mut [(Job, Option<StoreError>)]) -> Result<(), StoreError> {
        self.begin(durable)?;
        let is_alone = jobs.len() == 1;
        for (job, failed) in jobs {
            let Err(error) = self.run_job(&mut *job.work, is_alone)? else { continue };
            *failed = Some(error.clone());
            // Alone there is nothing else to keep; and where the disk is full, SQLite may have undone everything.
            if is_alone || self.connection.is_autocommit() {
                return Err(error);
            }
        }
        reach("store: a group is written");
        self.execute("COMMIT")
    }

    fn begin(&mut self, durable: Durable) -> Result<(), StoreError> {
        let flushes = durable == Durable::Now;
        if self.flushes != Some(flushes) {
            self.execute(if flushes { "PRAGMA synchronous = FULL" } else { "PRAGMA synchronous = NORMAL" })?;
            self.flushes = Some(flushes);
        }
        self.execute("BEGIN IMMEDIATE")?;
        let refused = match is_current(&self.connection) {
            Ok(true) => return Ok(()),
            Ok(false) => StoreError::new(StoreErrorKind::Newer, &self.name, "since this process opened it"),
            Err(error) => error_of(&self.name, error),
        };
        self.roll_back();
        Err(refused)
    }

    /// What a job comes to. Where it cannot be undone alone it is an error of the group, of which nothing may stay.
    fn run_job(&self, work: &mut dyn Work, is_alone: bool) -> Result<Result<(), StoreError>, StoreError> {
        let run = |work: &mut dyn Work| match catch_unwind(AssertUnwindSafe(|| work.run(&self.connection))) {
            Ok(done) => done.map_err(|error| error_of(&self.name, error)),
            Err(_) => Err(StoreError::new(StoreErrorKind::Other, &self.name, "a write panicked")),
        };
        if is_alone {
            return Ok(run(work));
        }
        self.execute("SAVEPOINT job")?;
        let done = run(work);
        if done.is_err() && !self.connection.is_autocommit() {
            self.execute("ROLLBACK TO job")?;
        }
        if !self.connection.is_autocommit() {
            self.execute("RELEASE job")?;
        }
        Ok(done)
    }

    fn roll_back(&self) {
        if !self.connection.is_autocommit()
            && let Err(error) = self.execute("ROLLBACK")
        {
            tracing::warn!(%error, "a transaction could not be undone");
        }
    }

    /// Has the disk take what was committed: a flushed commit flushes those before it.
    fn flush(&mut self) -> Result<(), StoreError> {
        if self.flush_by.is_none() {
            return Ok(());
        }
        let flushed = self.begin(Durable::Now).and_then(|()| {
            self.execute(
                "INSERT INTO setting (name, value) VALUES ('flushed', '1')
                 ON CONFLICT (name) DO UPDATE SET value = value + 1",
            )?;
            self.execute("COMMIT")
        });
        match flushed {
            Ok(()) => self.is_flushed(),
            Err(_) => {
                self.roll_back();
                self.cannot_flush = true;
            }
        }
        flushed
    }

    fn is_flushed(&mut self) {
        (self.flush_by, self.cannot_flush) = (None, false);
    }

    /// Says that the process lives, strikes out those that do not, and does the chores.
    fn turn(&mut self) -> Result<(), StoreError> {
        let (process, at) = (self.process.clone(), SystemClock.now());
        self.transacted(|connection| {
            process.renew(connection, at)?;
            process.bury_others(connection, at)
        })?;
        // Each apart: one that fails takes back neither the sign of life nor what the others did.
        let (mut chores, mut more) = (std::mem::take(&mut self.chores), false);
        chores.retain_mut(|chore| match self.transacted(chore) {
            Ok(Some(again)) => {
                more |= again;
                true
            }
            Ok(None) => false,
            Err(error) => {
                tracing::warn!(%error, store = &*self.name, "a chore of the store failed; it is done again");
                true
            }
        });
        self.chores = chores;
        // What is left to do lets the jobs pass in between.
        self.next_turn = if more { now() } else { now() + TURN };
        Ok(())
    }

    /// Something of the thread's own, all of it or nothing.
    fn transacted<T>(&mut self, work: impl FnOnce(&Connection) -> Result<T, rusqlite::Error>) -> Result<T, StoreError> {
        self.begin(Durable::Soon)?;
        let done = match catch_unwind(AssertUnwindSafe(|| work(&self.connection))) {
            Ok(done) => done.map_err(|error| error_of(&self.name, error)),
            Err(_) => Err(StoreError::new(StoreErrorKind::Other, &self.name, "a chore panicked")),
        };
        reach("store: a turn is written");
        let done = done.and_then(|done| self.execute("COMMIT").map(|()| done));
        if done.is_err() {
            self.roll_back();
        }
        self.flush_by = self.flush_by.or_else(|| Some(now() + SOON));
        done
    }

    /// The last thing: everything is on the disk, and nobody waits for this process.
    fn close(mut self) {
        let left = self.begin(Durable::Now).and_then(|()| {
            self.process.leave(&self.connection).map_err(|error| error_of(&self.name, error))?;
            self.execute("COMMIT")
        });
        if let Err(error) = left {
            self.roll_back();
            tracing::warn!(%error, "the store was closed without a last flush");
        }
    }

    fn execute(&self, sql: &str) -> Result<(), StoreError> {
        let done = self.connection.prepare_cached(sql).and_then(|mut statement| statement.raw_execute());
        done.map(drop).map_err(|error| error_of(&self.name, error))
    }
}

#[expect(clippy::disallowed_methods, reason = "a thread has no tokio clock, and the disk no virtual time")]
fn now() -> Instant {
    Instant::now()
}
