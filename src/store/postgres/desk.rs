//! A connection that answers: what many ask at the same time goes to the server together.
//!
//! # Why not a connection a question
//!
//! Those who ask for the same rows wait for each other, each for the commit before its own. One connection that takes
//! whatever waits pays for one commit, and holds one place of the server's. It is apart from the one that writes, so
//! that a question waits for no page of records.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};

use super::{
    super::{StoreError, StoreErrorKind},
    connect::Server,
    session::Session,
};

/// Questions that may wait.
const QUEUE: usize = 4_096;
/// Questions that go together, at most.
const GROUP: usize = 512;
/// How long a group may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same, as the server is told: it ends before, so that nothing is done for nobody.
const STATEMENT: &str = "4s";
/// How long a group is tried again that others get in the way of.
const BRIEF: Duration = Duration::from_secs(1);

/// Answers questions, many at once.
#[async_trait]
pub(crate) trait Answers: Send + Sync + 'static {
    /// What is asked.
    type Question: Send + Sync + 'static;
    /// What comes of it.
    type Answer: Send + 'static;

    /// One answer a question, in their order. May be repeated after a failure, even one that came after the commit:
    /// what is done already must change nothing.
    async fn answer(
        &self,
        session: &Session,
        questions: &[Arc<Self::Question>],
    ) -> Result<Vec<Self::Answer>, StoreError>;
}

struct Asked<A: Answers> {
    question: Arc<A::Question>,
    answer: oneshot::Sender<Result<A::Answer, StoreError>>,
}

/// Where questions are asked.
pub(crate) struct Desk<A: Answers> {
    asked: mpsc::Sender<Asked<A>>,
    server: Arc<Server>,
}

impl<A: Answers> fmt::Debug for Desk<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("server", &self.server.name()).finish_non_exhaustive()
    }
}

impl<A: Answers> Desk<A> {
    /// Opens it on this runtime. It connects when it is asked first, and again whenever that is needed.
    pub(super) fn open(server: &Arc<Server>, runtime: &Handle, answers: A) -> Self {
        let (asked, inbox) = mpsc::channel(QUEUE);
        let clerk = Clerk { server: Arc::clone(server), runtime: runtime.clone(), answers, inbox, session: None };
        runtime.spawn(clerk.run());
        Self { asked, server: Arc::clone(server) }
    }

    /// Asks. Dropping the future does not take the question back.
    pub(crate) async fn ask(&self, question: A::Question) -> Result<A::Answer, StoreError> {
        let closed = || StoreError::new(StoreErrorKind::Closed, self.server.name(), "");
        let (answer, answered) = oneshot::channel();
        let asked = Asked { question: Arc::new(question), answer };
        self.asked.send(asked).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }
}

/// Who answers, until nobody can ask any more.
struct Clerk<A: Answers> {
    server: Arc<Server>,
    runtime: Handle,
    answers: A,
    inbox: mpsc::Receiver<Asked<A>>,
    session: Option<Session>,
}

impl<A: Answers> Clerk<A> {
    async fn run(mut self) {
        while let Some(first) = self.inbox.recv().await {
            let mut group = vec![first];
            while group.len() < GROUP
                && let Ok(next) = self.inbox.try_recv()
            {
                group.push(next);
            }
            let questions: Vec<_> = group.iter().map(|asked| Arc::clone(&asked.question)).collect();
            let answers = match timeout(PATIENCE, self.answer(&questions)).await {
                Ok(answers) => answers,
                Err(_) => Err(self.silent()),
            };
            match answers {
                // Whoever asked may have given up waiting.
                Ok(answers) => {
                    group.into_iter().zip(answers).for_each(|(asked, answer)| drop(asked.answer.send(Ok(answer))));
                }
                Err(error) => self.fail(group, &error),
            }
        }
    }

    async fn answer(&mut self, questions: &[Arc<A::Question>]) -> Result<Vec<A::Answer>, StoreError> {
        let begun = Instant::now();
        loop {
            let is_new = self.session.as_ref().is_none_or(Session::is_closed);
            let session = match self.session.take() {
                Some(session) if !is_new => session,
                _ => self.connect().await?,
            };
            let answered = self.answers.answer(&session, questions).await;
            match answered.as_ref().err().map(StoreError::kind) {
                // Only a connection that was good before may have been the reason.
                Some(StoreErrorKind::Unreachable | StoreErrorKind::ReadOnly) if is_new => return answered,
                Some(StoreErrorKind::Unreachable | StoreErrorKind::ReadOnly) => {}
                Some(StoreErrorKind::Busy) if begun.elapsed() < BRIEF => self.session = Some(session),
                _ => {
                    self.session = Some(session);
                    return answered;
                }
            }
        }
    }

    async fn connect(&self) -> Result<Session, StoreError> {
        let session = Session::open(&self.server, &self.runtime).await?;
        session.prepare_store().await?;
        session.run(&format!("SET statement_timeout = '{STATEMENT}'")).await?;
        Ok(session)
    }

    fn silent(&self) -> StoreError {
        let detail = format!("no answer within {} seconds", PATIENCE.as_secs());
        StoreError::new(StoreErrorKind::Unreachable, self.server.name(), detail)
    }

    /// Those who came meanwhile have waited as long as a server that is away is waited for.
    fn fail(&mut self, group: Vec<Asked<A>>, error: &StoreError) {
        let is_away = error.kind() == StoreErrorKind::Unreachable;
        let waiting = std::iter::from_fn(|| self.inbox.try_recv().ok());
        let waiting: Vec<_> = if is_away { waiting.take(QUEUE).collect() } else { Vec::new() };
        group.into_iter().chain(waiting).for_each(|asked| drop(asked.answer.send(Err(error.clone()))));
    }
}
