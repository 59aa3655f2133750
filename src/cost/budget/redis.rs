//! Budgets that processes share, in Redis.
//!
//! One script sets aside in all accounts of an attempt or in none, one settles. Redis runs one script at a time, so that
//! no two processes see the same dollar. All names of a store share one hash tag: in a cluster they lie on one node, where
//! a script may see them all.

use std::{
    fmt,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use redis::{Cmd, Script};
use tokio::{runtime::Handle, task::JoinHandle};

use super::{
    Account, Balance, BudgetError, BudgetStore, Charge, Expired, Hold, Line, Period, Refusal, Told,
    share::OwnShare,
    store::{TELLING, balance_of, whole_millis},
};
use crate::{
    store::redis::{Link, RedisServer, Target},
    types::{SystemRng, Usd},
};

/// How long a question may take: longer than a look-up, which is only a miss.
const PATIENCE: Duration = Duration::from_millis(250);
/// Lua counts in doubles, which are exact up to here: some nine million dollars.
const LARGEST: Usd = Usd::from_nanos((1 << 53) - 1);

static RESERVE: LazyLock<Script> = LazyLock::new(|| script(include_str!("redis/reserve.lua")));
static SETTLE: LazyLock<Script> = LazyLock::new(|| script(include_str!("redis/settle.lua")));
static READ: LazyLock<Script> = LazyLock::new(|| script(include_str!("redis/read.lua")));
static RENEW: LazyLock<Script> = LazyLock::new(|| script(include_str!("redis/renew.lua")));
static TOLD: LazyLock<Script> = LazyLock::new(|| script(include_str!("redis/told.lua")));

fn script(own: &str) -> Script {
    Script::new(&(include_str!("redis/common.lua").to_owned() + own))
}

/// The money of budgets in Redis 6.2 or later, or Valkey, for all processes that use the same name there. Clones share the
/// connection.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use together_inference::{InferenceService, cost::{Budget, RedisBudgets}, testing::Together, usd};
///
/// // Nothing listens there: what is hard is refused until something does.
/// let budgets = RedisBudgets::connect("redis://127.0.0.1:1").await?;
/// let service = InferenceService::builder(Together::new().client())
///     .budget(Budget::daily(usd!("25.00")).hard())
///     .budget_store(budgets.clone())
///     .build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
///
/// * **Out of reach.** Hard budgets refuse at once while Redis cannot be asked, and 250 ms after a question that it does
///   not answer ([`RedisServer::operation_timeout`]); soft ones let every call through, uncounted. With
///   [`fail_local`](RedisBudgetsBuilder::fail_local) each process goes on with a share of its own.
/// * **Time.** Windows are cut by the service's clock, and reservations expire by the server's: processes whose clocks
///   differ charge different days around midnight, and never let each other's reservations expire too early.
/// * **Settling** is done by a task of the service, again and again until Redis takes it; a process that dies leaves its
///   reservations to their expiry.
/// * **Alerts** of a window are told by the process that is answered first, and ten seconds later by the next one that asks,
///   unless the first has said that it did: none is lost with an answer, and hardly one is told twice.
/// * **Durability** is Redis's own. A server that forgets what was spent allows it again: use `appendonly yes`, and
///   `noeviction`.
/// * **Names** are `ti:budget:{name}:…`. An ACL user needs `+evalsha +script|load +ping` and the commands of hashes and
///   sorted sets on `~ti:budget:*`.
///
/// Limits are below 2⁵³ nano-dollars, some $9.0 million.
#[derive(Clone)]
pub struct RedisBudgets(Arc<Inner>);

struct Inner {
    target: Arc<Target>,
    link: Arc<Link>,
    keeper: Mutex<Option<JoinHandle<()>>>,
    names: Names,
    /// What is kept here while Redis is out of reach.
    own: Option<OwnShare>,
}

/// What the store's keys begin with.
#[derive(Clone, Debug)]
struct Names {
    prefix: String,
    holds: String,
    ends: String,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.get_mut().unwrap_or_else(PoisonError::into_inner) {
            keeper.abort();
        }
    }
}

impl fmt::Debug for RedisBudgets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("RedisBudgets");
        text.field("target", &self.0.target).field("names", &self.0.names.prefix).finish_non_exhaustive()
    }
}

/// A store of budgets in Redis, before it is connected.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use together_inference::{cost::RedisBudgets, store::RedisServer};
///
/// let server = RedisServer::cluster(["redis://127.0.0.1:1", "redis://127.0.0.1:2"]).password("secret");
/// let budgets = RedisBudgets::on(server).name("acme-production").fail_local(4).connect().await?;
/// # Ok::<(), together_inference::cost::BudgetError>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
#[must_use = "nothing is connected before connect()"]
pub struct RedisBudgetsBuilder {
    server: RedisServer,
    name: String,
    share: Option<u32>,
}

impl RedisBudgetsBuilder {
    /// Whose budgets they are: processes of one name share them. `default` unless set.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// While Redis is out of reach, each process may spend this part of each hard limit by itself, once a window: with 4 a
    /// quarter. What it spends so is never counted in Redis. Where Redis did set aside, and only its answer came too late, that
    /// ends as its budgets [say](Expired): until then, or for good, it counts there as well, which refuses rather more than
    /// less. Unless set, nothing hard is admitted.
    pub const fn fail_local(mut self, part: u32) -> Self {
        self.share = Some(part);
        self
    }

    /// The store. Waits for Redis as long as a connection may take, and no longer.
    ///
    /// # Errors
    ///
    /// [`BudgetError::Store`] if the settings cannot be: a URL that is none, a name with braces, TLS without the feature
    /// `rustls`, a part of 0. Never because Redis is down.
    pub async fn connect(self) -> Result<RedisBudgets, BudgetError> {
        let unusable = |error: String| BudgetError::Store(error.into());
        if self.name.is_empty() || self.name.contains(['{', '}']) {
            return Err(unusable(format!("the name {:?} of budgets is empty or has braces in it", self.name)));
        }
        let own = self.share.map(OwnShare::new).transpose()?;
        let (target, limits) = self.server.open(PATIENCE).map_err(unusable)?;
        let prefix = format!("ti:budget:{{{}}}:", self.name);
        let names = Names { holds: format!("{prefix}holds"), ends: format!("{prefix}ends"), prefix };
        let budgets = RedisBudgets(Arc::new(Inner {
            target: Arc::new(target),
            link: Arc::new(Link::new(limits, "budgets go on, or refuse,")),
            keeper: Mutex::default(),
            names,
            own,
        }));
        budgets.0.ensure_keeper();
        budgets.0.link.wait().await;
        Ok(budgets)
    }
}

impl RedisBudgets {
    /// The store at a URL, `redis://user:password@host:port/db` or `rediss://…`.
    ///
    /// # Errors
    ///
    /// [`BudgetError::Store`] if the URL cannot be used. Never because Redis is down.
    pub async fn connect(url: impl Into<String>) -> Result<Self, BudgetError> {
        Self::on(RedisServer::new(url)).connect().await
    }

    /// A store on this server, with more to set.
    pub fn on(server: impl Into<RedisServer>) -> RedisBudgetsBuilder {
        RedisBudgetsBuilder { server: server.into(), name: "default".into(), share: None }
    }

    /// Whether Redis is in reach, as far as the last command shows: of a server that is gone, the next one to ask learns.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.0.link.is_up()
    }
}

impl Inner {
    /// Keeps the connection up, again if the runtime that did is gone.
    fn ensure_keeper(&self) {
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        if keeper.as_ref().is_some_and(|keeper| !keeper.is_finished()) {
            return;
        }
        let Ok(runtime) = Handle::try_current() else { return };
        let keep = Arc::clone(&self.link).keep(Arc::clone(&self.target), Arc::new(SystemRng::default()));
        *keeper = Some(runtime.spawn(keep));
    }

    async fn run(&self, script: &Script, asked: &Cmd) -> Result<Vec<i64>, BudgetError> {
        let limit = self.link.limits.operation;
        let asked = self.link.ask(limit, async |mut it| it.run::<Vec<String>>(script, asked).await).await;
        let failed = |error: String| BudgetError::Store(error.into());
        let Some(answer) = asked.map_err(failed)? else {
            self.ensure_keeper();
            return Err(failed("redis is out of reach".into()));
        };
        let number = |text: &String| text.parse().map_err(|_| failed(format!("redis answers {text:?} for a number")));
        answer.iter().map(number).collect()
    }

    /// A script with the keys of these accounts: one piece of memory for all that is sent.
    fn ask(&self, script: &Script, keys: &[String]) -> Cmd {
        let bytes: usize = keys.iter().map(|key| key.len() * 2 + 128).sum();
        let mut asked = Cmd::with_capacity(16 + keys.len() * 8, bytes + 256);
        asked.arg("EVALSHA").arg(script.get_hash()).arg(keys.len() + 2);
        asked.arg(&self.names.holds).arg(&self.names.ends).arg(keys);
        asked
    }

    async fn reserve(&self, hold: &Hold) -> Result<(), BudgetError> {
        let keys: Vec<String> = hold.lines.iter().map(|line| self.names.key(&line.account, line.period)).collect();
        let mut asked = self.ask(&RESERVE, &keys);
        let expires = whole_millis(hold.expires);
        asked.arg(hold.id.to_string()).arg(hold.amount.nanos()).arg(expires).arg(record(hold, &keys));
        asked.arg(whole_millis(TELLING));
        for line in &hold.lines {
            let (since, until) = bounds(line.period);
            asked.arg(prefix(line.period)).arg(since).arg(until);
            let limit = if line.hard { line.limit.nanos().to_string() } else { String::new() };
            let calls = line.max_calls.filter(|_| line.hard).map_or_else(String::new, |calls| calls.to_string());
            let keep = line.keep.map_or_else(String::new, |keep| whole_millis(keep).to_string());
            // Twice the window back: what a clock that is set back may still ask for.
            let old = line.period.since.saturating_sub(line.period.slot.saturating_sub(line.period.since));
            asked.arg(limit).arg(calls).arg(keep).arg(old);
        }
        match *self.run(&RESERVE, &asked).await? {
            [] => Ok(()),
            [line, spent, reserved, calls, used_up, untold] => {
                let line = usize::try_from(line).unwrap_or(usize::MAX);
                let balance =
                    Balance { used_up: used_up == 1, untold: amount(untold), ..balance_of(spent, reserved, calls) };
                Err(BudgetError::Refused(Refusal::new(line, balance)))
            }
            _ => Err(malformed()),
        }
    }

    async fn settle(&self, hold: &Hold, charge: Charge) -> Result<Vec<Balance>, BudgetError> {
        let keys: Vec<String> = hold.lines.iter().map(|line| self.names.key(&line.account, line.period)).collect();
        let mut asked = self.ask(&SETTLE, &keys);
        asked.arg(hold.id.to_string()).arg(charge.spent().nanos()).arg(i32::from(charge != Charge::NotSent));
        asked.arg(whole_millis(TELLING));
        for line in &hold.lines {
            let (since, until) = bounds(line.period);
            asked.arg(prefix(line.period)).arg(since).arg(until).arg(line.limit.nanos());
            asked.arg(line.marks().map(|mark| mark.nanos().to_string()).collect::<Vec<_>>().join(","));
        }
        let answer = self.run(&SETTLE, &asked).await?;
        let balances = answer.chunks_exact(6).map(|answer| match *answer {
            [spent, reserved, calls, shown, used_up, untold] => {
                let (shown, untold) = (Usd::from_nanos(shown), amount(untold));
                Balance { shown, used_up: used_up == 1, untold, ..balance_of(spent, reserved, calls) }
            }
            _ => Balance::default(),
        });
        Ok(balances.collect())
    }
}

#[async_trait]
impl BudgetStore for RedisBudgets {
    async fn reserve(&self, hold: &Arc<Hold>) -> Result<(), BudgetError> {
        match (self.0.reserve(hold).await, &self.0.own) {
            (Err(error @ BudgetError::Store(_)), Some(own)) => own.reserve(hold, error),
            (reserved, _) => reserved,
        }
    }

    async fn settle(&self, hold: &Arc<Hold>, charge: Charge) -> Result<Vec<Balance>, BudgetError> {
        match &self.0.own {
            Some(own) if own.settle(hold, charge) => Ok(Vec::new()),
            _ => self.0.settle(hold, charge).await,
        }
    }

    async fn renew(&self, holds: &[Arc<Hold>]) -> Result<(), BudgetError> {
        if let Some(own) = &self.0.own {
            own.renew(holds).await?;
        }
        let mut asked = self.0.ask(&RENEW, &[]);
        for hold in holds {
            asked.arg(hold.id.to_string()).arg(whole_millis(hold.expires));
        }
        self.0.run(&RENEW, &asked).await.map(drop)
    }

    async fn told(&self, told: &[Told]) -> Result<(), BudgetError> {
        let keys: Vec<_> = told.iter().map(|told| self.0.names.key(&told.account, told.period)).collect();
        let mut asked = self.0.ask(&TOLD, &keys);
        for told in told {
            asked.arg(told.mark.map_or_else(|| "u".to_owned(), |mark| mark.nanos().to_string()));
        }
        self.0.run(&TOLD, &asked).await.map(drop)
    }

    async fn read(&self, accounts: &[(Account, Period)]) -> Result<Vec<Balance>, BudgetError> {
        let keys: Vec<_> = accounts.iter().map(|(account, period)| self.0.names.key(account, *period)).collect();
        let mut asked = self.0.ask(&READ, &keys);
        for (_, period) in accounts {
            let (since, until) = bounds(*period);
            asked.arg(since).arg(until);
        }
        let answer = self.0.run(&READ, &asked).await?;
        let balances: Vec<_> = answer
            .chunks_exact(3)
            .filter_map(|answer| match *answer {
                [spent, reserved, calls] => Some(balance_of(spent, reserved, calls)),
                _ => None,
            })
            .collect();
        if balances.len() == accounts.len() { Ok(balances) } else { Err(malformed()) }
    }

    fn largest_limit(&self) -> Usd {
        LARGEST
    }

    fn keeps_holds(&self) -> bool {
        true
    }
}

impl Names {
    /// One slot has a key of its own, which goes when it is over; a rolling window needs all its slots in one.
    fn key(&self, account: &Account, period: Period) -> String {
        let (prefix, name) = (&self.prefix, account.as_str());
        if is_single(period) { format!("{prefix}a:{}:{name}", period.slot) } else { format!("{prefix}a:{name}") }
    }
}

/// An amount that may be none.
const fn amount(nanos: i64) -> Option<Usd> {
    if nanos < 0 { None } else { Some(Usd::from_nanos(nanos)) }
}

fn malformed() -> BudgetError {
    BudgetError::Store("redis answers something else than balances".into())
}

const fn is_single(period: Period) -> bool {
    period.since == period.until
}

fn prefix(period: Period) -> String {
    if is_single(period) { String::new() } else { period.slot.to_string() }
}

fn bounds(period: Period) -> (String, String) {
    if is_single(period) {
        return (String::new(), String::new());
    }
    (period.since.to_string(), period.until.to_string())
}

const fn way(line: &Line) -> &'static str {
    match line.expired {
        Expired::Spent => "s",
        Expired::Return => "r",
    }
}

/// What the scripts need to let it expire.
fn record(hold: &Hold, keys: &[String]) -> String {
    let mut record = format!("o{};", hold.amount.nanos());
    for (line, key) in hold.lines.iter().zip(keys) {
        record.extend([way(line), &prefix(line.period), ":", &key.len().to_string(), ":", key]);
    }
    record
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::AttemptId;

    #[test]
    fn what_is_kept_of_a_hold_names_each_account_whatever_is_in_its_name() {
        let names = Names { prefix: "p:".into(), holds: String::new(), ends: String::new() };
        let odd = Account::new("s1:1:;é");
        let lines = vec![
            Line::new(odd.clone(), Period::new(-5), Usd::ZERO),
            Line::new(odd, Period::rolling(60, 0), Usd::ZERO).expired(Expired::Return),
        ];
        let keys: Vec<_> = lines.iter().map(|line| names.key(&line.account, line.period)).collect();
        let hold = Hold::new(AttemptId::new(1), Usd::from_nanos(7), lines, Duration::ZERO);
        assert_eq!(record(&hold, &keys), "o7;s:15:p:a:-5:s1:1:;ér60:12:p:a:s1:1:;é");
    }

    #[tokio::test]
    async fn settings_that_cannot_be_are_refused_at_once() {
        for wrong in [
            RedisBudgets::on("nowhere").connect().await,
            RedisBudgets::on("redis://127.0.0.1:1").name("a{b}").connect().await,
            RedisBudgets::on("redis://127.0.0.1:1").name("").connect().await,
            RedisBudgets::on("redis://127.0.0.1:1").fail_local(0).connect().await,
        ] {
            assert!(matches!(wrong, Err(BudgetError::Store(_))));
        }
    }
}
