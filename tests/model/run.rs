//! Runs a program: replicas made as `server.rs` makes them, calls, misfortune; then calm, and what must be so in the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use portcullis::{
    access::Access,
    api::scribe::ProtoScribe,
    backend::{
        AuthorizeRules, Backend, DeleteGroup, DescriptionUpdates, ModifyRules, RevokeRules,
        Selection, UpdateDescriptions,
    },
    error::{Error, Reason},
    ledger::{Key, Record, State},
    middleware::{
        detach::DetachLayer,
        idempotency::{Books, IdempotencyLayer, settling},
    },
    operations::{Call, CallMeta, Command, Operations, Outcome, Progress, canonical},
    principal::{Method, Peer, Principal},
    rule::{GroupId, GroupRef, RuleChange, RuleId, RuleSpec, matching::match_specs},
};
use tokio::{
    runtime::Builder,
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceBuilder};

use crate::{
    bugs::{Bug, Engine},
    life::{Life, Mortal, MortalLayer},
    link::Link,
    program::{CallStep, Dice, Outside, Program, What, direction, group_ref, specs},
    watch::Watch,
    wire::Wire,
    world::{Called, Given, Mutation, OUTSIDE, Tally, World, planned_ids, rest},
};

/// What came of a program.
#[derive(Debug)]
pub struct Ran {
    pub violations: Vec<String>,
    pub tally: Tally,
    /// Every record as it ended, with its times.
    pub records: BTreeMap<String, Record>,
}

/// How long it is waited for the last operation to be settled, and how often a key is tried then.
const LONG: Duration = Duration::from_secs(6 * 3600);
const TRIES: usize = 12;

/// Runs a program under a paused clock, on one thread.
pub fn run(program: &Program, bug: Option<Bug>, engine: &Engine, verbose: bool) -> Ran {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let world = World::new(program, bug, engine, verbose);
        let mut play = Play::new(world.clone(), program);
        play.steps().await;
        play.calm().await;
        play.every_key_again().await;
        world.check_end().await;
        let book = world.book();
        let (violations, records) = (book.violations.clone(), book.records.clone());
        Ran { violations, tally: book.tally, records }
    })
}

struct Play<'a> {
    world: Arc<World>,
    program: &'a Program,
    lives: Vec<Arc<Life>>,
    calls: JoinSet<()>,
}

fn wire(
    world: &Arc<World>,
    life: &Arc<Life>,
    dice: &Arc<Mutex<Dice>>,
    call: Option<usize>,
    calm: bool,
) -> Wire {
    Wire { world: world.clone(), life: life.clone(), dice: dice.clone(), call, calm }
}

/// The parts of a replica, for one call or the background.
fn replica(
    world: &Arc<World>,
    life: &Arc<Life>,
    seed: u64,
    call: Option<usize>,
    calm: bool,
) -> (Operations, Books) {
    let dice = Arc::new(Mutex::new(Dice::new(seed)));
    let (world, life) = (world.clone(), life.clone());
    let wire = wire(&world, &life, &dice, call, calm);
    let ledger = Watch(world.clone());
    let link = Link { world: world.clone(), life, dice, call, calm, ledger };
    let books = Books {
        ledger: Arc::new(link),
        scribe: Arc::new(ProtoScribe),
        timing: world.timing(),
        key_required: false,
        settle_every: world.terms.settle_every,
    };
    let access = Arc::new(Access::allow_all());
    (Operations::new(Arc::new(wire), access, world.time.clone()), books)
}

impl<'a> Play<'a> {
    fn new(world: Arc<World>, program: &'a Program) -> Self {
        let mut play = Self { world, program, lives: Vec::new(), calls: JoinSet::new() };
        for number in 0..program.terms.replicas {
            let life = play.begin(number);
            play.lives.push(life);
        }
        play
    }

    /// Starts a replica, with its background.
    fn begin(&self, number: usize) -> Arc<Life> {
        let (world, life) = (self.world.clone(), Arc::<Life>::default());
        if world.has(Bug::NoBackground) {
            return life;
        }
        let seed = self.program.seed ^ 0xbac6 ^ (number as u64) << 32;
        let (operations, books) = replica(&world, &life, seed, None, false);
        let dice = Arc::new(Mutex::new(Dice::new(seed)));
        let own = wire(&world, &life, &dice, None, false);
        let background = async move {
            loop {
                rest(books.settle_every).await;
                let settled = settling::round(&operations, &books).await;
                for done in [settled, settling::sweep(books.ledger.as_ref()).await] {
                    if let Err(error) = done {
                        world.trace(|| format!("the background: {error}"));
                    }
                }
                if world.has(Bug::BackgroundSends) {
                    send_in_background(&world, &own).await;
                }
            }
        };
        tokio::spawn(Mortal::new(life.clone(), background));
        life
    }

    /// The replica; started again if it has died.
    fn alive(&mut self, number: usize) -> Arc<Life> {
        if self.lives[number].is_over() {
            self.world.book().tally.crashes += 1;
            self.world.trace(|| format!("replica {number} starts again"));
            self.lives[number] = self.begin(number);
        }
        self.lives[number].clone()
    }

    async fn steps(&mut self) {
        let start = Instant::now();
        for step in &self.program.steps {
            tokio::time::sleep_until(start + step.at).await;
            match &step.what {
                What::Call(call) => self.call(step.number, call),
                What::Crash { replica, polls } => {
                    let life = self.alive(*replica);
                    self.world.trace(|| format!("replica {replica} dies in {polls} polls"));
                    life.end_after(*polls);
                }
                What::Outside(outside) => interfere(&self.world, outside).await,
            }
        }
        while self.calls.join_next().await.is_some() {}
    }

    fn call(&mut self, number: u64, step: &CallStep) {
        let life = self.alive(step.replica);
        let ask = &self.program.asks[step.ask];
        let ask = (ask.command(), ask.method());
        let call = call(self.world.clone(), life.clone(), number, ask, step.clone());
        self.calls.spawn(async move {
            Mortal::new(life, call).await;
        });
    }

    /// Nothing fails any more. Everything is settled after a while.
    async fn calm(&mut self) {
        self.world.trace(|| "calm".to_owned());
        self.world.calm_down();
        for number in 0..self.lives.len() {
            self.lives[number].end_after(0);
            self.alive(number);
        }
        let until = Instant::now() + LONG;
        while self.unsettled() && Instant::now() < until {
            rest(self.program.terms.settle_every).await;
        }
    }

    fn unsettled(&self) -> bool {
        self.world.book().records.values().any(|record| record.state.is_unsettled())
    }

    /// Every key has an answer for a live call, or a reason why not.
    async fn every_key_again(&mut self) {
        let keys: BTreeSet<(usize, usize)> = {
            let book = self.world.book();
            book.calls.iter().filter_map(|call| Some((call.caller, call.key?))).collect()
        };
        for (caller, key) in keys {
            for attempt in 0.. {
                let Some(ask) = self.ask_of(caller, key) else { break };
                let step = CallStep {
                    replica: (caller + key + attempt) % self.program.terms.replicas,
                    caller,
                    key: Some(key),
                    ask,
                    deadline: Duration::from_secs(120),
                    hang_up: None,
                    calm: true,
                };
                let number = 1000 + self.world.book().calls.len() as u64;
                let life = self.alive(step.replica);
                let ask = &self.program.asks[step.ask];
                let ask = (ask.command(), ask.method());
                match call(self.world.clone(), life, number, ask, step).await {
                    Ok(()) => break,
                    Err(error) if self.may_say(&error) => break,
                    Err(error) if attempt + 1 == TRIES => {
                        self.world.broken(|| {
                            format!("key {key} of caller {caller}: {:?} for ever", error.reason)
                        });
                        break;
                    }
                    Err(_) => rest(Duration::from_secs(60)).await,
                }
            }
        }
    }

    /// The request that a key has in the ledger; else the first that came with it.
    fn ask_of(&self, caller: usize, key: usize) -> Option<usize> {
        let book = self.world.book();
        let (caller_id, text) = (principal(caller).id(), key_text(key));
        let record = book.records.values().find(|record| {
            record.caller == caller_id
                && record.key.as_ref().is_some_and(|key| key.as_str() == text)
        });
        let mut asks = book
            .calls
            .iter()
            .filter(|call| (call.caller, call.key) == (caller, Some(key)))
            .map(|call| call.ask);
        match record {
            None => asks.next(),
            Some(record) => asks.find(|&ask| {
                let ask = &self.program.asks[ask];
                record.method == ask.method()
                    && record.request == canonical::request(&self.world.target, &ask.command())
            }),
        }
    }

    /// Whether this is how a key may end without an answer.
    fn may_say(&self, error: &Error) -> bool {
        match error.reason {
            // As with every call: nothing is recorded.
            Reason::InvalidGroupNotFound => true,
            Reason::OutcomeUnknown => {
                let book = self.world.book();
                let record = error.operation_id.as_ref().and_then(|id| book.records.get(&**id));
                record.is_some_and(|record| record.state == State::Unresolved)
            }
            _ => false,
        }
    }
}

/// Bug::BackgroundSends.
async fn send_in_background(world: &World, wire: &Wire) {
    let unsettled: Vec<Record> = {
        let book = world.book();
        book.records.values().filter(|record| record.state.is_unsettled()).cloned().collect()
    };
    for record in unsettled {
        let ids: Vec<RuleId> = planned_ids(&record.plan).iter().map(RuleId::new).collect();
        let group = &record.plan.group().group_id;
        let (Some(direction), false) = (record.plan.direction(), ids.is_empty()) else { continue };
        let request = RevokeRules {
            group: GroupRef::Id(GroupId::new(group)),
            direction,
            selection: Selection::Ids(ids),
            dry_run: false,
        };
        let _ = wire.revoke(&world.context(&record.id), &world.target, &request).await;
    }
}

fn principal(caller: usize) -> Principal {
    Principal {
        method: Method::Local,
        issuer: String::new(),
        subject: format!("caller-{caller}"),
        groups: Vec::new(),
    }
}

fn key_text(key: usize) -> String {
    format!("key-{key}")
}

/// One call, from its coming to its answer or its caller's going. An error: what the caller was told, if it was not the
/// answer.
async fn call(
    world: Arc<World>,
    life: Arc<Life>,
    number: u64,
    (command, method): (Command, &'static str),
    step: CallStep,
) -> Result<(), Error> {
    let index = {
        let mut book = world.book();
        book.tally.calls += 1;
        let CallStep { caller, key, ask, .. } = step;
        book.calls.push(Called { caller, key, ask, sent: 0, over: false, answer: None });
        book.calls.len() - 1
    };
    world.trace(|| format!("call {index}: {step:?}"));
    let seed = world.seed ^ (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let (operations, books) = replica(&world, &life, seed, Some(index), step.calm);
    let mut service = ServiceBuilder::new()
        .layer(DetachLayer::new(TaskTracker::new()))
        .layer(MortalLayer(life))
        .layer(IdempotencyLayer::new(books, TaskTracker::new()))
        .service(operations);
    let deadline = Instant::now() + step.deadline;
    let meta = CallMeta {
        request_id: "".into(),
        deadline,
        account: None,
        region: None,
        operation_id: world.new_operation().into(),
        principal: Arc::new(principal(step.caller)),
        by_record: false,
        peer: Peer::default(),
        method,
        key: step.key.and_then(|key| Key::parse(&key_text(key))),
        change_reason: None,
        trace_id: None,
        journal: None,
        progress: Arc::<Progress>::default(),
    };
    let mut reply = service.call(Call { meta, command });
    let leaves = step.hang_up.map_or(deadline, |after| deadline.min(Instant::now() + after));
    let told = timeout_at(leaves, &mut reply).await;
    world.book().calls[index].over = true;
    if world.has(Bug::NobodyLeaves) && told.is_err() {
        tokio::spawn(reply);
    } else {
        drop(reply);
    }
    match told {
        Err(_) => {
            world.trace(|| format!("call {index}: its caller leaves"));
            Err(Error::deadline_passed(None))
        }
        Ok(Ok(Outcome::Recorded(answered))) => {
            let mut recorded = answered.recorded;
            if answered.replayed && world.has(Bug::ForgedReplay) {
                recorded.body.push(0);
            }
            world.trace(|| {
                let (id, code) = (&answered.operation_id, recorded.code);
                format!("call {index}: {id} answers {code}, lags: {}", answered.lags)
            });
            let operation = answered.operation_id.to_string();
            let mut book = world.book();
            book.tally.replays += u64::from(answered.replayed);
            let given = Given { operation, recorded, lags: answered.lags };
            book.calls[index].answer = Some(given);
            Ok(())
        }
        Ok(Ok(other)) => {
            world.broken(|| format!("a change was answered with {other:?}"));
            Ok(())
        }
        Ok(Err(error)) => {
            world.trace(|| format!("call {index}: {:?} {}", error.reason, error.message));
            world.check_error(index, &error);
            Err(error)
        }
    }
}

/// What others do.
async fn interfere(world: &Arc<World>, outside: &Outside) {
    world.trace(|| format!("outside: {outside:?}"));
    let remove = |group: usize, port: i32| {
        Mutation::Revoke(RevokeRules {
            group: group_ref(group),
            direction: direction(true),
            selection: Selection::Specs(specs(&[port], None)),
            dry_run: false,
        })
    };
    let add = |group: usize, port: i32| {
        Mutation::Authorize(AuthorizeRules {
            group: group_ref(group),
            direction: direction(true),
            specs: specs(&[port], Some("theirs")),
            tags: Vec::new(),
            dry_run: false,
        })
    };
    // What EC2 refuses is no change.
    match *outside {
        Outside::Remove { group, port } => drop(world.apply(OUTSIDE, &remove(group, port)).await),
        Outside::Add { group, port } => drop(world.apply(OUTSIDE, &add(group, port)).await),
        Outside::Replace { group, port } => {
            drop(world.apply(OUTSIDE, &remove(group, port)).await);
            drop(world.apply(OUTSIDE, &add(group, port)).await);
        }
        Outside::DeleteGroup { group } => {
            let delete = DeleteGroup { group: group_ref(group), dry_run: false };
            drop(world.apply(OUTSIDE, &Mutation::Delete(delete)).await);
        }
        Outside::Modify { group, port, to } => {
            let Some(before) = world.image(&group_ref(group)).await else { return };
            let from = specs(&[port], None);
            let matched = match_specs(&from, direction(true), &before.rules).matched;
            let Some(rule) = matched.first() else { return };
            let spec = RuleSpec { description: None, ..specs(&[to], None).remove(0) };
            let changes = vec![RuleChange { id: rule.id.clone(), spec }];
            let request = ModifyRules { group: before.group.id.clone(), changes, dry_run: false };
            let context = world.context(OUTSIDE);
            if world.sandbox.modify_rules(&context, &world.target, &request).await.is_ok() {
                // To whoever names it by its properties it is new.
                world.book().births.insert(rule.id.clone(), Instant::now());
                world.changed_outside(before);
            }
        }
        Outside::Describe { group, port } => {
            let Some(before) = world.image(&group_ref(group)).await else { return };
            let request = UpdateDescriptions {
                group: group_ref(group),
                direction: direction(true),
                updates: DescriptionUpdates::Specs(specs(&[port], Some("described by others"))),
                dry_run: false,
            };
            let context = world.context(OUTSIDE);
            if world.sandbox.update_descriptions(&context, &world.target, &request).await.is_ok() {
                world.changed_outside(before);
            }
        }
    }
}
