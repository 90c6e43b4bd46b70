//! What a program runs in: EC2 (the sandbox), the ledger, the time; and the book of everything that was seen, in which
//! the rules of `rules.rs` look things up.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use portcullis::{
    backend::{
        AuthorizeRules, Authorized, Backend, BackendError, CallContext, CreateGroup, Created,
        DeleteGroup, Deleted, GroupImage, RevokeRules, Revoked, sandbox::Sandbox,
    },
    clock::Clock,
    ledger::{Ledger, Plan, Record, Recorded, record::to_millis},
    operations::Timing,
    random::SeededRandom,
    rule::{GroupId, GroupRef, Rule, RuleId, Target},
};
use tokio::time::{Instant, sleep_until};

use crate::{
    bugs::{Bug, Engine},
    program::{Program, Terms},
};

/// Who changes things straight on EC2.
pub const OUTSIDE: &str = "outside";

/// The time of a program, from a day of long ago on.
#[derive(Debug)]
pub struct Time(Instant);

impl Time {
    pub fn since_start(&self) -> Duration {
        Instant::now().duration_since(self.0)
    }
}

impl Clock for Time {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_700_000_000) + self.since_start()
    }
}

pub async fn rest(by: Duration) {
    sleep_until(Instant::now() + by).await;
}

#[derive(Debug)]
pub struct World {
    pub seed: u64,
    pub terms: Terms,
    pub bug: Option<Bug>,
    pub sandbox: Arc<Sandbox>,
    /// Below everything that watches it.
    pub engine: Arc<dyn Ledger>,
    pub time: Arc<Time>,
    pub target: Target,
    calm: AtomicBool,
    verbose: bool,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
pub struct Book {
    /// Every record as it was last seen.
    pub records: BTreeMap<String, Record>,
    pub effects: Vec<Effect>,
    /// What each group was before each change.
    pub before: HashMap<GroupId, Vec<(Instant, Option<GroupImage>)>>,
    /// When rules came.
    pub births: HashMap<RuleId, Instant>,
    /// The group as each operation read it last.
    pub read: HashMap<String, Arc<Vec<Rule>>>,
    pub begun: HashMap<String, Begun>,
    /// When an intent was asked for, by operation.
    pub asked: HashMap<String, Instant>,
    pub calls: Vec<Called>,
    pub violations: Vec<String>,
    pub tally: Tally,
}

/// What an operation may send now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// A new attempt.
    Attempt,
    /// The same attempt goes on by other rule ids.
    Round,
    /// A settler sends the rest.
    Rest,
    /// Nothing more: that was sent.
    Spent,
}

#[derive(Clone, Debug)]
pub struct Effect {
    pub operation: String,
    /// The operation's attempt that it is of.
    pub attempt: u32,
    pub removed: Vec<Rule>,
    pub added: Vec<Rule>,
    pub created: Option<GroupId>,
    pub deleted: Option<GroupId>,
}

/// A call as its caller knows it.
#[derive(Debug)]
pub struct Called {
    pub caller: usize,
    pub key: Option<usize>,
    pub ask: usize,
    pub sent: u32,
    /// The caller has gone or has its answer.
    pub over: bool,
    pub answer: Option<Given>,
}

#[derive(Clone, Debug)]
pub struct Given {
    pub operation: String,
    pub recorded: Recorded,
    pub lags: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub calls: u64,
    pub crashes: u64,
    pub ledger_faults: u64,
    pub ec2_faults: u64,
    pub stale: u64,
    pub sent: u64,
    pub sent_again: u64,
    pub settled_by_read: u64,
    pub unresolved: u64,
    pub replays: u64,
}

/// A request that changes something.
#[derive(Clone, Debug)]
pub enum Mutation {
    Revoke(RevokeRules),
    Authorize(AuthorizeRules),
    Create(CreateGroup),
    Delete(DeleteGroup),
}

#[derive(Debug)]
pub enum Applied {
    Revoked(Revoked),
    Authorized(Authorized),
    Created(Created),
    Deleted(Deleted),
}

impl World {
    pub fn new(program: &Program, bug: Option<Bug>, engine: &Engine, verbose: bool) -> Arc<Self> {
        let time = Arc::new(Time(Instant::now()));
        let state = Sandbox::parse_state(include_bytes!("state.json")).unwrap();
        let random = Arc::new(SeededRandom::new(program.seed));
        let (sandbox, _) = Sandbox::open(Some(state), None, time.clone(), random).unwrap();
        let target = sandbox.resolve(None, None).unwrap();
        let engine = engine(&sandbox.identity(), time.clone());
        Arc::new(Self {
            seed: program.seed,
            terms: program.terms,
            bug,
            sandbox: Arc::new(sandbox),
            engine: crate::bugs::spoil(engine, bug, time.clone()),
            time,
            target,
            calm: AtomicBool::new(false),
            verbose,
            book: Mutex::default(),
        })
    }

    pub fn now(&self) -> SystemTime {
        self.time.now()
    }

    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    /// An id as the service makes them, in the order of their making.
    pub fn new_operation(&self) -> String {
        let count = self.book().calls.len() as u64;
        let millis = to_millis(self.now());
        let mut bytes = [0; 10];
        bytes[2..].copy_from_slice(&count.to_be_bytes());
        let id = uuid::Builder::from_unix_timestamp_millis(millis, &bytes).into_uuid();
        format!("op-{id}")
    }

    pub fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    pub fn timing(&self) -> Timing {
        let timing = Timing::new(self.terms.attempt, self.terms.grace);
        if self.has(Bug::HoldsTooShort) {
            let short = self.terms.attempt / 4;
            return Timing { lease: timing.lease, attempt: short, grace: Duration::ZERO };
        }
        timing
    }

    /// From here on nothing fails.
    pub fn calm_down(&self) {
        self.calm.store(true, Ordering::Relaxed);
    }

    pub fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    pub fn trace(&self, line: impl FnOnce() -> String) {
        if self.verbose {
            println!("    {:>9.3} {}", self.time.since_start().as_secs_f64(), line());
        }
    }

    /// A promise was broken.
    pub fn broken(&self, what: impl FnOnce() -> String) {
        let what = what();
        self.trace(|| format!("BROKEN: {what}"));
        self.book().violations.push(what);
    }

    pub fn context(&self, operation: &str) -> CallContext {
        CallContext::new(Instant::now() + Duration::from_secs(3600), operation)
    }

    /// The group as it is; none: there is none.
    pub async fn image(&self, group: &GroupRef) -> Option<GroupImage> {
        self.sandbox.image(&self.context(OUTSIDE), &self.target, group).await.ok()
    }

    /// Changes EC2. The sandbox answers at once, so nothing comes in between.
    pub async fn apply(
        &self,
        operation: &str,
        mutation: &Mutation,
    ) -> Result<Applied, BackendError> {
        let context = self.context(operation);
        let (sandbox, target) = (&self.sandbox, &self.target);
        let group = match mutation {
            Mutation::Revoke(request) => Some(&request.group),
            Mutation::Authorize(request) => Some(&request.group),
            Mutation::Delete(request) => Some(&request.group),
            Mutation::Create(_) => None,
        };
        let before = match group {
            Some(group) => self.image(group).await,
            None => None,
        };
        let applied = match mutation {
            Mutation::Revoke(request) => {
                sandbox.revoke(&context, target, request).await.map(Applied::Revoked)
            }
            Mutation::Authorize(request) => {
                sandbox.authorize(&context, target, request).await.map(Applied::Authorized)
            }
            Mutation::Create(request) => {
                sandbox.create_group(&context, target, request).await.map(Applied::Created)
            }
            Mutation::Delete(request) => {
                sandbox.delete_group(&context, target, request).await.map(Applied::Deleted)
            }
        };
        let now = Instant::now();
        let mut effect = Effect {
            operation: operation.to_owned(),
            attempt: self.book().records.get(operation).map_or(0, |record| record.attempts),
            removed: Vec::new(),
            added: Vec::new(),
            created: None,
            deleted: None,
        };
        match (&applied, mutation) {
            (Ok(Applied::Created(created)), _) => {
                let id = GroupId::new(created.group_id.as_deref().unwrap());
                self.book().before.entry(id.clone()).or_default().push((now, None));
                effect.created = Some(id);
            }
            (Ok(Applied::Deleted(_)), _) => {
                let before = before.unwrap();
                let id = before.group.id.clone();
                self.book().before.entry(id.clone()).or_default().push((now, Some(before)));
                effect.deleted = Some(id);
            }
            _ => {
                // By what is there, not by what is said.
                let Some(before) = before else { return applied };
                let id = before.group.id.clone();
                let after = self.image(&GroupRef::Id(id.clone())).await.unwrap();
                let lacks = |image: &GroupImage, rule: &Rule| {
                    !image.rules.iter().any(|other| other.id == rule.id)
                };
                let removed = before.rules.iter().filter(|rule| lacks(&after, rule));
                effect.removed = removed.cloned().collect();
                let added = after.rules.iter().filter(|rule| lacks(&before, rule));
                effect.added = added.cloned().collect();
                if effect.removed.is_empty() && effect.added.is_empty() {
                    return applied;
                }
                let mut book = self.book();
                for rule in &effect.added {
                    book.births.insert(rule.id.clone(), now);
                }
                book.before.entry(id).or_default().push((now, Some(before)));
            }
        }
        self.trace(|| format!("EC2: {operation} {}", effect.brief()));
        if operation != OUTSIDE {
            self.check_effect(&effect).await;
        }
        self.book().effects.push(effect);
        applied
    }

    /// Others changed rules that stayed.
    pub fn changed_outside(&self, before: GroupImage) {
        let mut book = self.book();
        let id = before.group.id.clone();
        book.before.entry(id).or_default().push((Instant::now(), Some(before)));
        book.effects.push(Effect {
            operation: OUTSIDE.to_owned(),
            attempt: 0,
            removed: Vec::new(),
            added: Vec::new(),
            created: None,
            deleted: None,
        });
    }

    /// The group as it was at a time.
    pub fn image_at(&self, group: &GroupId, at: Instant) -> Option<Option<GroupImage>> {
        let book = self.book();
        let changes = book.before.get(group)?;
        changes.iter().find(|(when, _)| *when > at).map(|(_, image)| image.clone())
    }

    /// What an operation did that is still so: what it removed of its plan, and what it added and is there.
    pub async fn standing(&self, operation: &str, plan: &Plan) -> Vec<String> {
        let effects: Vec<Effect> = {
            let book = self.book();
            let own = book.effects.iter().filter(|effect| effect.operation == operation);
            own.cloned().collect()
        };
        let planned = planned_ids(plan);
        let mut standing = Vec::new();
        for effect in effects {
            let gone = effect.removed.iter().filter(|rule| planned.contains(&rule.id.to_string()));
            standing.extend(gone.map(|rule| format!("removed {}", rule.id)));
            standing.extend(effect.deleted.iter().map(|id| format!("deleted {id}")));
            if let Some(id) = &effect.created
                && self.image(&GroupRef::Id(id.clone())).await.is_some()
            {
                standing.push(format!("created {id}"));
            }
            if !effect.added.is_empty() {
                let group = GroupRef::Id(GroupId::new(&plan.group().group_id));
                let now = self.image(&group).await;
                // What others have made another rule of is not the one that was added: what remains is in
                // docs/reliability.md.
                let is_it = |one: &Rule, other: &Rule| {
                    (&one.id, one.traffic, &one.peer) == (&other.id, other.traffic, &other.peer)
                };
                let there = |rule: &&Rule| {
                    now.iter().any(|image| image.rules.iter().any(|other| is_it(rule, other)))
                };
                let there = effect.added.iter().filter(there);
                standing.extend(there.map(|rule| format!("added {}", rule.id)));
            }
        }
        standing
    }
}

/// The rules of the pre-image that a revoke was about.
pub fn planned_ids(plan: &Plan) -> Vec<String> {
    match plan {
        Plan::Revoke { rules, .. } => {
            rules.iter().filter_map(|rule| rule.security_group_rule_id.clone()).collect()
        }
        _ => Vec::new(),
    }
}

impl Effect {
    fn brief(&self) -> String {
        let ids = |rules: &[Rule]| rules.iter().map(|rule| rule.id.to_string()).collect::<Vec<_>>();
        let Self { created, deleted, .. } = self;
        format!(
            "removes {:?} adds {:?} creates {created:?} deletes {deleted:?}",
            ids(&self.removed),
            ids(&self.added)
        )
    }
}

impl Tally {
    pub fn add(&mut self, other: Self) {
        self.calls += other.calls;
        self.crashes += other.crashes;
        self.ledger_faults += other.ledger_faults;
        self.ec2_faults += other.ec2_faults;
        self.stale += other.stale;
        self.sent += other.sent;
        self.sent_again += other.sent_again;
        self.settled_by_read += other.settled_by_read;
        self.unresolved += other.unresolved;
        self.replays += other.replays;
    }
}
