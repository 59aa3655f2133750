//! Budgets that processes share, in PostgreSQL.
//!
//! One function sets aside, one settles; each is a statement and so a transaction, which locks the accounts of all
//! that it was handed, in one order. No process sees the same dollar twice, and none waits for another's client. What
//! callers of one process ask for at the same time goes to the server together: a commit for each of them would be
//! waited for by all.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::try_join;

use super::{
    Account, Balance, BudgetError, BudgetStore, Charge, Expired, Hold, Period, Refusal, Told,
    share::OwnShare,
    store::{TELLING, balance_of, whole_millis},
};
use crate::{
    store::{Answers, Backend, Desk, Postgres, PostgresChore, Session, Store, StoreError},
    types::Usd,
};

/// How much of each kind is swept at a time.
const SWEPT: i32 = 1_000;
/// Every how many turns, of ten seconds each, accounts of no more use are looked for.
const TURNS: u32 = 60;

/// The money of budgets in a [`Store`] on a PostgreSQL server, for all processes that use the store. Clones share the
/// connection, which is one beside the store's own.
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use together_inference::{InferenceService, cost::{Budget, PostgresBudgets}, store::Store, testing::Together, usd};
///
/// let store = Store::connect("postgres://me@db.example/costs").await?;
/// let service = InferenceService::builder(Together::new().client())
///     .store(&store)
///     .budget(Budget::daily(usd!("25.00")).hard())
///     .budget_store(PostgresBudgets::new(&store)?)
///     .build()?;
/// # Ok(())
/// # }
/// ```
///
/// * **Out of reach.** Hard budgets refuse at once while the server cannot be asked, and five seconds after a question
///   that it does not answer; soft ones let every call through, uncounted. With [`fail_local`](PostgresBudgets::fail_local)
///   each process goes on with a share of its own.
/// * **Time.** Windows are cut by the service's clock, and reservations expire by the server's: processes whose clocks
///   differ charge different days around midnight, and never let each other's reservations expire too early.
/// * **Settling** is done by a task of the service, again and again until the server takes it; a process that dies
///   leaves its reservations to their expiry. What expired can be settled for a day.
/// * **Alerts** of a window are told by the process that is answered first, and ten seconds later by the next one that asks,
///   unless the first has said that it did: none is lost with an answer, and hardly one is told twice.
/// * **Durability.** What was set aside is on the server's disk when the call is made: a restart forgets nothing.
/// * **Speed.** A call waits for one round trip and one commit, which it shares with those that come meanwhile.
/// * **Reading.** The view `together_inference.budget` shows every account in dollars.
#[derive(Clone, Debug)]
pub struct PostgresBudgets {
    desk: Arc<Desk<Teller>>,
    /// What is kept here while the server is out of reach.
    own: Option<OwnShare>,
    /// Its runtime has the connection.
    _store: Arc<Postgres>,
}

impl PostgresBudgets {
    /// Budgets in this store.
    ///
    /// # Errors
    ///
    /// [`StoreError`] for a store that is a file, which machines do not share.
    pub fn new(store: &Store) -> Result<Self, StoreError> {
        match store.backend() {
            Backend::Postgres(store) => {
                store.every_ten_seconds(Box::new(Sweeper::default()));
                Ok(Self { desk: Arc::new(store.desk(Teller)), own: None, _store: Arc::clone(store) })
            }
            #[cfg(feature = "sqlite")]
            Backend::Sqlite(store) => {
                let detail = "budgets are shared over a server alone; MemoryBudgets is for one process";
                Err(StoreError::new(crate::store::StoreErrorKind::Unsupported, store.name(), detail))
            }
        }
    }

    /// While the server is out of reach, each process may spend this part of each hard limit by itself, once a window: with
    /// 4 a quarter. What it spends so is never counted at the server. Where the server did set aside, and only its answer
    /// came too late, that ends as its budgets [say](Expired): until then, or for good, it counts there as well, which
    /// refuses rather more than less. Unless asked for, nothing hard is admitted.
    ///
    /// # Errors
    ///
    /// [`BudgetError::Store`] for a part of 0.
    pub fn fail_local(self, part: u32) -> Result<Self, BudgetError> {
        Ok(Self { own: Some(OwnShare::new(part)?), ..self })
    }

    async fn ask(&self, question: Question) -> Result<Reply, BudgetError> {
        self.desk.ask(question).await.map_err(|error| BudgetError::Store(error.into()))
    }
}

#[async_trait]
impl BudgetStore for PostgresBudgets {
    async fn reserve(&self, hold: &Arc<Hold>) -> Result<(), BudgetError> {
        match (self.ask(Question::Reserve(Arc::clone(hold))).await, &self.own) {
            (Ok(Reply::Reserved(Some(refusal))), _) => Err(BudgetError::Refused(refusal)),
            (Ok(_), _) => Ok(()),
            (Err(error @ BudgetError::Store(_)), Some(own)) => own.reserve(hold, error),
            (Err(error), _) => Err(error),
        }
    }

    async fn settle(&self, hold: &Arc<Hold>, charge: Charge) -> Result<Vec<Balance>, BudgetError> {
        match &self.own {
            Some(own) if own.settle(hold, charge) => Ok(Vec::new()),
            _ => self.ask(Question::Settle(Arc::clone(hold), charge)).await.map(Reply::balances),
        }
    }

    async fn renew(&self, holds: &[Arc<Hold>]) -> Result<(), BudgetError> {
        if let Some(own) = &self.own {
            own.renew(holds).await?;
        }
        self.ask(Question::Renew(holds.to_vec())).await.map(drop)
    }

    async fn told(&self, told: &[Told]) -> Result<(), BudgetError> {
        self.ask(Question::Told(told.to_vec())).await.map(drop)
    }

    async fn read(&self, accounts: &[(Account, Period)]) -> Result<Vec<Balance>, BudgetError> {
        self.ask(Question::Read(accounts.to_vec())).await.map(Reply::balances)
    }

    fn keeps_holds(&self) -> bool {
        true
    }
}

/// What is asked of the server.
#[derive(Debug)]
enum Question {
    Reserve(Arc<Hold>),
    Settle(Arc<Hold>, Charge),
    Renew(Vec<Arc<Hold>>),
    Told(Vec<Told>),
    Read(Vec<(Account, Period)>),
}

/// What it answers.
#[derive(Debug)]
enum Reply {
    Reserved(Option<Refusal>),
    Balances(Vec<Balance>),
}

impl Reply {
    fn balances(self) -> Vec<Balance> {
        match self {
            Self::Balances(balances) => balances,
            Self::Reserved(_) => Vec::new(),
        }
    }
}

/// Who asks it.
#[derive(Debug)]
struct Teller;

type Result<T, E = StoreError> = std::result::Result<T, E>;

#[async_trait]
impl Answers for Teller {
    type Question = Question;
    type Answer = Reply;

    async fn answer(&self, session: &Session, questions: &[Arc<Question>]) -> Result<Vec<Reply>> {
        let (mut asked, mut ended, mut alive) = (Vec::new(), Vec::new(), Vec::new());
        let (mut told, mut read) = (Vec::new(), Vec::new());
        for question in questions {
            match &**question {
                Question::Reserve(hold) => asked.push(&**hold),
                Question::Settle(hold, charge) => ended.push((&**hold, *charge)),
                Question::Renew(holds) => alive.extend(holds.iter().map(|hold| &**hold)),
                Question::Told(some) => told.extend(some),
                Question::Read(accounts) => read.push(accounts.as_slice()),
            }
        }
        // First what is asked for: whoever gives up may say so in the same group.
        let ((), (), refused) = try_join!(session.is_current(), renew(session, &alive), reserve(session, &asked))?;
        let (settled, (), balances) =
            try_join!(settle(session, &ended), forget(session, &told), balances_of(session, &read))?;
        let (mut refused, mut settled, mut balances) = (refused.into_iter(), settled.into_iter(), balances.into_iter());
        let reply = |question: &Arc<Question>| match &**question {
            Question::Reserve(_) => Reply::Reserved(refused.next().flatten()),
            Question::Settle(..) => Reply::Balances(settled.next().unwrap_or_default()),
            Question::Renew(_) | Question::Told(_) => Reply::Balances(Vec::new()),
            Question::Read(accounts) => Reply::Balances(balances.by_ref().take(accounts.len()).collect()),
        };
        Ok(questions.iter().map(reply).collect())
    }
}

/// The lines of many holds, by columns.
#[derive(Debug, Default)]
struct Lines<'a> {
    /// How many lines there are up to the end of each hold.
    lasts: Vec<i32>,
    names: Vec<&'a [u8]>,
    slots: Vec<i64>,
    sinces: Vec<i64>,
    untils: Vec<i64>,
}

impl<'a> Lines<'a> {
    fn of(holds: impl Iterator<Item = &'a Hold>) -> Self {
        let mut lines = Self::default();
        for hold in holds {
            for line in &hold.lines {
                lines.names.push(line.account.as_str().as_bytes());
                lines.slots.push(line.period.slot);
                lines.sinces.push(line.period.since);
                lines.untils.push(line.period.until);
            }
            lines.lasts.push(i32::try_from(lines.names.len()).unwrap_or(i32::MAX));
        }
        lines
    }
}

fn attempts<'a>(holds: impl Iterator<Item = &'a Hold>) -> Vec<Vec<u8>> {
    holds.map(|hold| hold.id.value().to_be_bytes().to_vec()).collect()
}

/// The place of a hold that is counted from 1.
fn place(hold: i32) -> usize {
    usize::try_from(hold - 1).unwrap_or(usize::MAX)
}

/// What refuses each, if anything does.
async fn reserve(session: &Session, holds: &[&Hold]) -> Result<Vec<Option<Refusal>>> {
    let mut refused = vec![None; holds.len()];
    if holds.is_empty() {
        return Ok(refused);
    }
    let lines = Lines::of(holds.iter().copied());
    let attempts = attempts(holds.iter().copied());
    let amounts: Vec<i64> = holds.iter().map(|hold| hold.amount.nanos()).collect();
    let times: Vec<i64> = holds.iter().map(|hold| whole_millis(hold.expires)).collect();
    let all = || holds.iter().flat_map(|hold| &hold.lines);
    let limits: Vec<Option<i64>> = all().map(|line| line.hard.then(|| line.limit.nanos())).collect();
    let whole = |calls: u64| i64::try_from(calls).unwrap_or(i64::MAX);
    let caps: Vec<Option<i64>> = all().map(|line| line.max_calls.filter(|_| line.hard).map(whole)).collect();
    let keeps: Vec<Option<i64>> = all().map(|line| line.keep.map(whole_millis)).collect();
    let returns: Vec<bool> = all().map(|line| line.expired == Expired::Return).collect();
    let sql = "SELECT hold, line, spent, reserved, calls, used_up, untold
         FROM budget_reserve($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";
    let rows = session
        .query(
            sql,
            &[
                &attempts,
                &amounts,
                &times,
                &lines.lasts,
                &lines.names,
                &lines.slots,
                &lines.sinces,
                &lines.untils,
                &limits,
                &caps,
                &keeps,
                &returns,
                &whole_millis(TELLING),
            ],
        )
        .await?;
    for row in rows {
        if let Some(refused) = refused.get_mut(place(row.get(0))) {
            let line = usize::try_from(row.get::<_, i32>(1)).unwrap_or(usize::MAX);
            let (used_up, untold) = (row.get(5), untold(row.get(6)));
            let balance = Balance { used_up, untold, ..balance_of(row.get(2), row.get(3), row.get(4)) };
            *refused = Some(Refusal::new(line, balance));
        }
    }
    Ok(refused)
}

/// The balances of each; none of those that were not set aside.
async fn settle(session: &Session, ended: &[(&Hold, Charge)]) -> Result<Vec<Vec<Balance>>> {
    let mut settled = vec![Vec::new(); ended.len()];
    if ended.is_empty() {
        return Ok(settled);
    }
    let holds = || ended.iter().map(|(hold, _)| *hold);
    let lines = Lines::of(holds());
    let charges: Vec<Option<i64>> = ended
        .iter()
        .map(|(_, charge)| match charge {
            Charge::NotSent => None,
            Charge::Spent(usd) => Some(usd.nanos()),
        })
        .collect();
    let limits: Vec<i64> = holds().flat_map(|hold| &hold.lines).map(|line| line.limit.nanos()).collect();
    let (mut marks, mut ends) = (Vec::<i64>::new(), Vec::<i32>::new());
    for line in holds().flat_map(|hold| &hold.lines) {
        marks.extend(line.marks().map(Usd::nanos));
        ends.push(i32::try_from(marks.len()).unwrap_or(i32::MAX));
    }
    let sql = "SELECT hold, spent, reserved, calls, shown, used_up, untold
         FROM budget_settle($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
    let rows = session
        .query(
            sql,
            &[
                &attempts(holds()),
                &charges,
                &lines.lasts,
                &lines.names,
                &lines.slots,
                &lines.sinces,
                &lines.untils,
                &limits,
                &marks,
                &ends,
                &whole_millis(TELLING),
            ],
        )
        .await?;
    for row in rows {
        if let Some(balances) = settled.get_mut(place(row.get(0))) {
            let balance = balance_of(row.get(1), row.get(2), row.get(3));
            let (shown, used_up, untold) = (Usd::from_nanos(row.get(4)), row.get(5), untold(row.get(6)));
            balances.push(Balance { shown, used_up, untold, ..balance });
        }
    }
    Ok(settled)
}

/// Whoever changes an account, what is held there included, has its lock, taken in the order of all.
const RENEW: &str = "
    WITH locked AS MATERIALIZED (
        SELECT key FROM budget_account WHERE key IN (SELECT sha256(name) FROM UNNEST($2::BYTEA[]) AS n (name))
        ORDER BY key FOR UPDATE
    )
    UPDATE budget_hold AS h SET ends = clock_timestamp() + t.millis * interval '1 millisecond'
    FROM locked, UNNEST($1::BYTEA[], $3::INT8[]) AS t (attempt, millis)
    WHERE h.account = locked.key AND h.attempt = t.attempt AND NOT h.expired AND h.ends > clock_timestamp()";

/// They expire later.
async fn renew(session: &Session, holds: &[&Hold]) -> Result<()> {
    if holds.is_empty() {
        return Ok(());
    }
    let lines = Lines::of(holds.iter().copied());
    let times: Vec<i64> = holds.iter().map(|hold| whole_millis(hold.expires)).collect();
    session.execute(RENEW, &[&attempts(holds.iter().copied()), &lines.names, &times]).await.map(drop)
}

/// An amount that may be none.
fn untold(nanos: Option<i64>) -> Option<Usd> {
    nanos.map(Usd::from_nanos)
}

/// What was told needs not be told again.
async fn forget(session: &Session, told: &[&Told]) -> Result<()> {
    if told.is_empty() {
        return Ok(());
    }
    let names: Vec<&[u8]> = told.iter().map(|told| told.account.as_str().as_bytes()).collect();
    let sinces: Vec<i64> = told.iter().map(|told| told.period.since).collect();
    let untils: Vec<i64> = told.iter().map(|told| told.period.until).collect();
    let marks: Vec<i64> = told.iter().map(|told| told.mark.map_or(-1, Usd::nanos)).collect();
    let sql = "DELETE FROM budget_untold AS o
         USING UNNEST($1::BYTEA[], $2::INT8[], $3::INT8[], $4::INT8[]) AS t (name, since, till, mark)
         WHERE o.account = sha256(t.name) AND o.slot BETWEEN t.since AND t.till AND o.mark = t.mark";
    session.execute(sql, &[&names, &sinces, &untils, &marks]).await.map(drop)
}

/// What is due counts as expired, whether or not anybody has let it go.
const READ: &str = "
    SELECT least(s.spent + due.spent, 9223372036854775807)::INT8,
           least(s.reserved - due.amount, 9223372036854775807)::INT8, (s.calls - due.calls)::INT8
    FROM UNNEST($1::BYTEA[], $2::INT8[], $3::INT8[]) WITH ORDINALITY AS q (name, since, until, at),
    LATERAL (
        SELECT coalesce(sum(spent), 0) AS spent, coalesce(sum(reserved), 0) AS reserved,
               coalesce(sum(calls), 0) AS calls
        FROM budget_slot WHERE account = sha256(q.name) AND slot BETWEEN q.since AND q.until
    ) AS s,
    LATERAL (
        SELECT coalesce(sum(amount), 0) AS amount, coalesce(sum(amount) FILTER (WHERE NOT returns), 0) AS spent,
               count(*) FILTER (WHERE returns) AS calls
        FROM budget_hold
        WHERE account = sha256(q.name) AND slot BETWEEN q.since AND q.until
          AND NOT expired AND ends <= clock_timestamp()
    ) AS due
    ORDER BY q.at";

/// What is used of these, one after another.
async fn balances_of(session: &Session, asked: &[&[(Account, Period)]]) -> Result<Vec<Balance>> {
    let asked = || asked.iter().copied().flatten();
    let names: Vec<&[u8]> = asked().map(|(account, _)| account.as_str().as_bytes()).collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let sinces: Vec<i64> = asked().map(|(_, period)| period.since).collect();
    let untils: Vec<i64> = asked().map(|(_, period)| period.until).collect();
    let rows = session.query(READ, &[&names, &sinces, &untils]).await?;
    Ok(rows.iter().map(|row| balance_of(row.get(0), row.get(1), row.get(2))).collect())
}

/// Forgets what is of no more use.
#[derive(Debug, Default)]
struct Sweeper {
    turns: u32,
}

#[async_trait]
impl PostgresChore for Sweeper {
    async fn turn(&mut self, session: &Session) -> Result<Option<bool>> {
        let all_accounts = self.turns.is_multiple_of(TURNS);
        let swept = session.query("SELECT budget_sweep($1, $2)", &[&SWEPT, &all_accounts]).await?;
        let more = swept.first().is_some_and(|row| row.get(0));
        // What is left is done by the next turn, of the same kind.
        self.turns = self.turns.wrapping_add(u32::from(!more));
        Ok(Some(more))
    }
}
