//! The one who writes, for all of the process: takes what waits, commits it at once, answers.
//!
//! # Why a thread of its own
//!
//! Tasks of the application's runtime end with it, and wait where it is not driven. What was handed over must be
//! written whatever becomes of the callers, and a program that ends must wait for it. So the store has a runtime on a
//! thread: it owns every task that carries a connection, and ends them all when it ends.
//!
//! # What is guaranteed
//!
//! A write answers after the server has it on its disk. While the server is away everything waits in order, and
//! nothing is dropped; what must be written before it happens alone gives up after five
//! seconds. A commit of which
//! nobody knows whether it was done is repeated: what is written twice counts once.

use std::{
    fmt,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use async_trait::async_trait;
use futures_util::FutureExt;
use tokio::{
    runtime::{Builder, Handle},
    sync::{Notify, mpsc, oneshot},
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    super::{StoreError, StoreErrorKind, reach},
    batch::{Answer, Batch},
    connect::Server,
    process::Process,
    session::Session,
};
use crate::types::{Rng, SystemRng};

/// Things that may wait.
const QUEUE: usize = 4_096;
/// Things that are committed together, at most.
const GROUP: usize = 1_024;
/// How long a group waits for more.
const WINDOW: Duration = Duration::from_millis(2);
/// How often a process says that it lives, and chores are done.
const TURN: Duration = Duration::from_secs(10);
/// How long what must be durable before it counts waits for a server that is away.
const PATIENCE: Duration = Duration::from_secs(5);
/// The shortest and the longest pause before a server is tried again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How long a server that is away holds up the end of a program.
const PARTING: Duration = Duration::from_secs(4);
/// How often a group is tried that others get in the way of.
const TRIES: u32 = 5;

/// What is done now and then, each time in a transaction of its own.
#[async_trait]
pub(crate) trait Chore: Send {
    /// `true` if there is more to do at once, `None` when it has ended for good. The names of processes that have ended
    /// are struck out before.
    async fn turn(&mut self, session: &Session) -> Result<Option<bool>, StoreError>;
}

pub(super) enum Command {
    Batch(Box<dyn Batch>),
    Sync(Answer),
}

/// Chores that nobody has begun yet.
#[derive(Default)]
struct Door {
    chores: Mutex<Vec<Box<dyn Chore>>>,
    came: Notify,
}

/// The way to the thread.
pub(super) struct Writer {
    commands: mpsc::Sender<Command>,
    door: Arc<Door>,
    runtime: Handle,
    /// Closed when the thread has ended.
    ended: Mutex<Receiver<()>>,
    /// Whether there may be something to wait for at the end.
    is_open: bool,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("waiting", &(QUEUE - self.commands.capacity())).finish_non_exhaustive()
    }
}

impl Writer {
    /// Starts the thread, which opens the store and tells the process's id.
    pub(super) fn start(
        server: &Arc<Server>,
    ) -> Result<(Self, oneshot::Receiver<Result<i64, StoreError>>), StoreError> {
        let failed = |error| StoreError::caused(StoreErrorKind::Other, server.name(), error);
        let runtime = Builder::new_current_thread().enable_io().enable_time().build().map_err(failed)?;
        let (commands, inbox) = mpsc::channel(QUEUE);
        let (opened, opens) = oneshot::channel();
        let (ends, ended) = sync_channel::<()>(0);
        let (door, handle) = (Arc::<Door>::default(), runtime.handle().clone());
        let thread = Thread {
            server: Arc::clone(server),
            runtime: handle.clone(),
            inbox,
            door: Arc::clone(&door),
            session: None,
            process: Process::this(i64::try_from(SystemRng::default().next_u128() >> 66).unwrap_or(1)),
            chores: Vec::new(),
            syncs: Vec::new(),
            before: 1,
            next_turn: None,
            part_by: None,
        };
        let run = move || {
            runtime.block_on(thread.run(opened, ends));
        };
        thread::Builder::new().name("together-store".into()).spawn(run).map_err(failed)?;
        Ok((Self { commands, door, runtime: handle, ended: Mutex::new(ended), is_open: false }, opens))
    }

    /// The store is open: from now on the end waits for what was handed over.
    pub(super) const fn opened(&mut self) {
        self.is_open = true;
    }

    pub(super) const fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Waits for a place; `false` if the thread is gone.
    pub(super) async fn send(&self, command: Command) -> bool {
        self.commands.send(command).await.is_ok()
    }

    /// A place, if there is one.
    pub(super) fn place(&self) -> Option<mpsc::Permit<'_, Command>> {
        self.commands.try_reserve().ok()
    }

    pub(super) fn chore(&self, chore: Box<dyn Chore>) {
        self.door.chores.lock().unwrap_or_else(PoisonError::into_inner).push(chore);
        self.door.came.notify_one();
    }
}

impl Drop for Writer {
    /// Waits until what was handed over is on the disk: a program that ends with `main` loses nothing.
    fn drop(&mut self) {
        let (unconnected, _) = mpsc::channel(1);
        drop(std::mem::replace(&mut self.commands, unconnected));
        if self.is_open {
            let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
            let _ = ended.recv_timeout(PARTING + Duration::from_secs(1));
        }
    }
}

type Group = Vec<Box<dyn Batch>>;

/// What the thread knows.
struct Thread {
    server: Arc<Server>,
    runtime: Handle,
    inbox: mpsc::Receiver<Command>,
    door: Arc<Door>,
    session: Option<Session>,
    process: Process,
    chores: Vec<Box<dyn Chore>>,
    /// Those who wait until everything before is written.
    syncs: Vec<Answer>,
    /// The size of the group before.
    before: usize,
    /// At once, if there is none.
    next_turn: Option<Instant>,
    /// Set when nobody can send any more.
    part_by: Option<Instant>,
}

impl Thread {
    async fn run(mut self, opened: oneshot::Sender<Result<i64, StoreError>>, _ends: SyncSender<()>) {
        let ready = match self.connected().await {
            Ok(_) => self.turn().await,
            Err(error) => Err(error),
        };
        let ready = ready.map(|()| self.process.id);
        let is_ready = ready.is_ok();
        if opened.send(ready).is_err() || !is_ready {
            return self.part().await;
        }
        while self.part_by.is_none() {
            self.serve().await;
        }
        self.part().await;
    }

    /// The connection, a new one if need be.
    async fn connected(&mut self) -> Result<&Session, StoreError> {
        let session = match self.session.take() {
            Some(session) if !session.is_closed() => session,
            _ => {
                self.process.disconnected();
                let session = Session::open(&self.server, &self.runtime).await?;
                session.prepare_store().await?;
                self.process.renew(&session).await?;
                session
            }
        };
        Ok(self.session.insert(session))
    }

    /// One group, or what is due.
    async fn serve(&mut self) {
        let due = self.next_turn.unwrap_or_else(Instant::now);
        let mut group = Group::new();
        tokio::select! {
            biased;
            () = self.door.came.notified() => self.next_turn = None,
            command = self.inbox.recv() => self.take(command, &mut group),
            () = sleep_until(due) => {}
        }
        let closes = Instant::now() + WINDOW;
        while !group.is_empty() && self.syncs.is_empty() && self.part_by.is_none() && len(&group) < GROUP {
            let next = if self.before > 1 {
                timeout_at(closes, self.inbox.recv()).await.ok()
            } else {
                self.inbox.try_recv().ok().map(Some)
            };
            let Some(command) = next else { break };
            self.take(command, &mut group);
        }
        if !group.is_empty() {
            self.before = len(&group);
            self.commit(group).await;
        }
        self.syncs.drain(..).for_each(|sync| drop(sync.send(Ok(()))));
        if self.next_turn.is_none_or(|turn| turn <= Instant::now())
            && let Err(error) = self.turn().await
        {
            tracing::warn!(%error, "the store's chores failed");
        }
    }

    fn take(&mut self, command: Option<Command>, group: &mut Group) {
        match command {
            Some(Command::Batch(batch)) => {
                let left = group.iter_mut().try_fold(batch, |batch, other| other.absorb(batch));
                group.extend(left);
            }
            Some(Command::Sync(answer)) => self.syncs.push(answer),
            None => self.part_by = Some(Instant::now() + PARTING),
        }
    }

    /// Commits a group and answers, however long the server is away.
    async fn commit(&mut self, mut group: Group) {
        reach("store: a group is taken");
        let (mut pause, mut tries) = (Duration::ZERO, 0);
        loop {
            let error = match self.transact(&group).await {
                Ok(()) => break reach("store: a group is committed"),
                Err(error) => error,
            };
            tries += 1;
            match error.kind() {
                StoreErrorKind::Unreachable => {}
                StoreErrorKind::Busy if tries < TRIES => continue,
                // Only what is wrong with one of them is not wrong with all of them.
                StoreErrorKind::Other if len(&group) > 1 => return self.commit_apart(group).await,
                _ => return group.into_iter().for_each(|batch| batch.end(Some(&error))),
            }
            if self.part_by.is_some_and(|part| part <= Instant::now()) {
                return group.into_iter().for_each(|batch| batch.end(Some(&error)));
            }
            if pause == PAUSES.1 {
                tracing::warn!(%error, waiting = len(&group), "the store is away; what is to be written waits");
            }
            self.wait(pause, &mut group).await;
            group.iter_mut().for_each(|batch| batch.expire(PATIENCE, &error));
            if len(&group) == 0 {
                return;
            }
            pause = (pause * 2).clamp(PAUSES.0, PAUSES.1);
        }
        group.into_iter().for_each(|batch| batch.end(None));
    }

    /// One after another: what cannot be written fails alone.
    async fn commit_apart(&mut self, group: Group) {
        for batch in group.into_iter().flat_map(Batch::split) {
            Box::pin(self.commit(vec![batch])).await;
        }
    }

    /// Lets a moment pass, and more come.
    async fn wait(&mut self, pause: Duration, group: &mut Group) {
        let until = Instant::now() + pause;
        while self.part_by.is_none() && len(group) < QUEUE {
            match timeout_at(until, self.inbox.recv()).await {
                Ok(command) => self.take(command, group),
                Err(_) => return,
            }
        }
        sleep_until(until).await;
    }

    async fn transact(&mut self, group: &Group) -> Result<(), StoreError> {
        let session = self.connected().await?;
        let written = caught("a write", session.name(), write_in(session, group)).await;
        if let Err(error) = &written {
            group.iter().for_each(|batch| batch.forget());
            self.undo(error).await;
        }
        written
    }

    /// Undoes a transaction. Where that fails, or another server may be the one to write to, the connection goes.
    async fn undo(&mut self, error: &StoreError) {
        let is_lost = matches!(error.kind(), StoreErrorKind::Unreachable | StoreErrorKind::ReadOnly);
        let Some(session) = self.session.take() else { return };
        if !is_lost && session.run("ROLLBACK").await.is_ok() {
            self.session = Some(session);
        }
    }

    /// Says that the process lives, strikes out those that do not, and does the chores.
    async fn turn(&mut self) -> Result<(), StoreError> {
        self.next_turn = Some(Instant::now() + TURN);
        self.chores.append(&mut self.door.chores.lock().unwrap_or_else(PoisonError::into_inner));
        self.connected().await?;
        let Some(session) = &self.session else { return Ok(()) };
        if let Err(error) = live(session, &mut self.process).await {
            self.next_turn = Some(Instant::now() + PAUSES.1);
            self.undo(&error).await;
            return Err(error);
        }
        let mut chores = std::mem::take(&mut self.chores);
        let done = self.do_each(&mut chores).await;
        self.chores = chores;
        match &done {
            // What is left to do lets others pass in between.
            Ok(true) => self.next_turn = None,
            Ok(false) => {}
            Err(_) => self.next_turn = Some(Instant::now() + PAUSES.1),
        }
        done.map(drop)
    }

    /// Does each chore whatever becomes of the others, and leaves out from then on those that have ended: whether there
    /// is more to do at once, or the first failure.
    async fn do_each(&mut self, chores: &mut Vec<Box<dyn Chore>>) -> Result<bool, StoreError> {
        let (mut more, mut at, mut failed) = (false, 0, None);
        while let Some(chore) = chores.get_mut(at) {
            let done = match self.connected().await {
                Ok(session) => caught("a chore", session.name(), do_chore(session, &mut **chore)).await,
                Err(error) => Err(error),
            };
            match done {
                Ok(Some(again)) => (more, at) = (more || again, at + 1),
                Ok(None) => drop(chores.remove(at)),
                Err(error) => {
                    self.undo(&error).await;
                    let is_away = error.kind() == StoreErrorKind::Unreachable;
                    match &failed {
                        None => failed = Some(error),
                        Some(_) => tracing::warn!(%error, "another of the store's chores failed"),
                    }
                    // A server that is away is away for all of them.
                    if is_away {
                        break;
                    }
                    at += 1;
                }
            }
        }
        failed.map_or(Ok(more), Err)
    }

    /// The last thing: nobody waits for this process.
    async fn part(mut self) {
        if let Some(session) = self.session.take()
            && let Err(error) = self.process.leave(&session).await
        {
            tracing::warn!(%error, "the store was left without a word");
        }
    }
}

fn len(group: &Group) -> usize {
    group.iter().map(|batch| batch.len()).sum()
}

async fn write_in(session: &Session, group: &Group) -> Result<(), StoreError> {
    session.begin().await?;
    for batch in group {
        batch.write(session).await?;
    }
    reach("store: a group is written");
    session.run("COMMIT").await
}

/// Says that the process lives, and strikes out those that do not.
async fn live(session: &Session, process: &mut Process) -> Result<(), StoreError> {
    session.begin().await?;
    process.renew(session).await?;
    process.bury_others(session).await?;
    session.run("COMMIT").await
}

async fn do_chore(session: &Session, chore: &mut dyn Chore) -> Result<Option<bool>, StoreError> {
    session.begin().await?;
    let done = chore.turn(session).await?;
    reach("store: a turn is written");
    session.run("COMMIT").await?;
    Ok(done)
}

/// A panic is a failure like any other: the thread goes on with what waits for it.
async fn caught<T>(
    what: &str,
    store: &str,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let panicked = |_| StoreError::new(StoreErrorKind::Other, store, format!("{what} panicked"));
    AssertUnwindSafe(work).catch_unwind().await.map_err(panicked).and_then(|done| done)
}
