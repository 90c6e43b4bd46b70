//! A replica's way to EC2. A mutation is the network's once it was sent: it is applied, or not, whatever becomes of the
//! replica. Reads may be as old as the lag.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use portcullis::{
    backend::{
        Answer, AuthorizeRules, Authorized, Backend, BackendError, CallContext, CreateGroup,
        Created, DeleteGroup, Deleted, DescribeGroups, DescribeRules, Failure, GroupImage,
        OwnedRule, Page, Refusal, RevokeRules, Revoked, Selection,
    },
    rule::{AccountId, GroupRef, Region, Target},
};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use crate::{
    bugs::Bug,
    life::Life,
    program::Dice,
    world::{Applied, Mutation, World, rest},
};

#[derive(Clone, Debug)]
pub struct Wire {
    pub world: Arc<World>,
    pub life: Arc<Life>,
    pub dice: Arc<Mutex<Dice>>,
    /// None: it is the background's.
    pub call: Option<usize>,
    pub calm: bool,
}

/// What becomes of a mutation.
#[derive(Clone, Debug)]
struct Fate {
    /// Answered instead of EC2, which never sees it.
    instead: Option<BackendError>,
    applied: bool,
    /// From sending it to its effect, and from there to the answer.
    out: Duration,
    back: Duration,
    /// The answer is lost.
    lost: bool,
    /// The connection breaks after this long.
    breaks: Option<Duration>,
}

impl Wire {
    fn draw(&self) -> Fate {
        let mut dice = self.dice.lock().unwrap();
        let terms = self.world.terms;
        let ms = Duration::from_millis;
        let (out, back) = (dice.millis(0, 40), dice.millis(0, 40));
        let good = Fate { instead: None, applied: true, out, back, lost: false, breaks: None };
        if self.calm || self.world.is_calm() || !dice.chance(terms.ec2) {
            return good;
        }
        self.world.book().tally.ec2_faults += 1;
        // Whatever it is, its effect shows within an attempt and the grace: what remains is in docs/reliability.md.
        let horizon = terms.attempt + terms.grace - terms.lag - ms(5);
        let refused = |code: &str| Some(BackendError::Refused(Refusal::new(code, "by the model")));
        let soon = Some(dice.millis(1, 60));
        match dice.below(15) {
            0 => Fate { instead: refused("RequestLimitExceeded"), ..good },
            1 => Fate { instead: refused("UnauthorizedOperation"), ..good },
            2 => {
                Fate { instead: Some(BackendError::Unavailable(Failure::new("not sent"))), ..good }
            }
            3 => Fate { lost: true, ..good },
            4 => Fate { lost: true, breaks: soon, ..good },
            5 => Fate { applied: false, lost: true, ..good },
            6 => Fate { applied: false, lost: true, breaks: soon, ..good },
            7 => Fate { out: dice.up_to(horizon), ..good },
            8 => Fate { out: dice.up_to(horizon), breaks: soon, ..good },
            9 => Fate { out: dice.up_to(terms.attempt), back: ms(1), ..good },
            10 => Fate { out: ms(1), back: dice.up_to(terms.attempt * 2), ..good },
            11 | 12 => Fate { applied: false, lost: true, breaks: soon, ..good },
            _ => Fate {
                out: horizon.saturating_sub(dice.up_to(terms.attempt)),
                breaks: soon,
                ..good
            },
        }
    }

    async fn change(
        &self,
        call: &CallContext,
        mutation: Mutation,
    ) -> Result<Applied, BackendError> {
        self.life.go_on().await;
        if call.deadline <= Instant::now() {
            return Err(BackendError::DeadlineTooNear);
        }
        let world = self.world.clone();
        let ends = world.now() + call.deadline.duration_since(Instant::now());
        if call.deadline_wall.is_none_or(|wall| wall > ends) {
            world.broken(|| {
                format!("{} is sent without an end by the wall clock", call.operation_id)
            });
        }
        let mutation = match mutation {
            Mutation::Revoke(request) if world.has(Bug::PropertiesAgain) => {
                Mutation::Revoke(world.by_properties(request).await)
            }
            mutation => mutation,
        };
        let operation = call.operation_id.clone();
        let fate = self.draw();
        world.trace(|| format!("{} sends {operation}: {}, {fate:?}", self.who(), mutation.brief()));
        world.check_send(self.call, &operation, &mutation);
        if let Some(error) = fate.instead {
            rest(fate.back).await;
            if world.has(Bug::LyingRefusal) {
                let _ = world.apply(&operation, &mutation).await;
            }
            return Err(error);
        }
        let until = call.deadline.min(Instant::now() + world.terms.attempt);
        let (tell, told) = oneshot::channel();
        tokio::spawn(async move {
            rest(fate.out).await;
            let answer = match fate.applied {
                true => Some(world.apply(&operation, &mutation).await),
                false => None,
            };
            if fate.lost {
                // The channel closes only when nobody waits any more.
                rest(world.terms.attempt * 2).await;
            }
            rest(fate.back).await;
            if let (Some(answer), false) = (answer, fate.lost) {
                let _ = tell.send(answer);
            }
            if world.has(Bug::SentTwice) {
                rest(Duration::from_secs(100)).await;
                let _ = world.apply(&operation, &mutation).await;
            }
        });
        let until = fate.breaks.map_or(until, |soon| until.min(Instant::now() + soon));
        let answer = timeout_at(until, told).await;
        self.life.go_on().await;
        match answer {
            Ok(Ok(answer)) => Ok(self.world.forge(answer?)),
            _ => Err(BackendError::OutcomeUnknown(Failure::new("no answer"))),
        }
    }

    /// Waits as long as a read takes. None: it is as of now.
    async fn read(&self) -> Result<Option<Instant>, BackendError> {
        self.life.go_on().await;
        let terms = self.world.terms;
        let calm = self.calm || self.world.is_calm();
        let (wait, fails, age) = {
            let mut dice = self.dice.lock().unwrap();
            let stale = !terms.lag.is_zero() && dice.chance(400);
            let fails = !calm && dice.chance(terms.ec2 / 6);
            (dice.millis(0, 30), fails, stale.then(|| dice.up_to(terms.lag)))
        };
        rest(wait).await;
        self.life.go_on().await;
        if fails {
            self.world.book().tally.ec2_faults += 1;
            return Err(BackendError::Unavailable(Failure::new("a read fails")));
        }
        Ok(age.map(|age| Instant::now() - age))
    }

    fn who(&self) -> String {
        self.call.map_or_else(|| "the background".to_owned(), |call| format!("call {call}"))
    }
}

impl Backend for Wire {
    fn identity(&self) -> String {
        self.world.sandbox.identity()
    }

    fn resolve(
        &self,
        account: Option<AccountId>,
        region: Option<Region>,
    ) -> Result<Target, BackendError> {
        self.world.sandbox.resolve(account, region)
    }

    fn read_lag(&self) -> Duration {
        self.world.terms.lag
    }

    fn image<'a>(
        &'a self,
        call: &'a CallContext,
        target: &'a Target,
        group: &'a GroupRef,
    ) -> Answer<'a, GroupImage> {
        Box::pin(async move {
            let at = self.read().await?;
            let now = self.world.sandbox.image(call, target, group).await;
            let id = match (group, &now) {
                (GroupRef::Id(id), _) => id.clone(),
                (_, Ok(image)) => image.group.id.clone(),
                _ => return now,
            };
            let then = at.and_then(|at| self.world.image_at(&id, at));
            let seen = then.as_ref().map_or(now.as_ref().ok(), Option::as_ref);
            if let Some(image) = seen {
                let operation = call.operation_id.clone();
                self.world.book().read.insert(operation, image.rules.clone());
            }
            if let Some(then) = &then {
                self.world.book().tally.stale += 1;
                self.world.trace(|| {
                    format!("{} reads {id} as it was: {}", self.who(), brief(then.as_ref()))
                });
                let none = || Refusal::new("InvalidGroup.NotFound", "not yet").into();
                return then.clone().ok_or_else(none);
            }
            self.world.trace(|| format!("{} reads {id}: {}", self.who(), brief(now.as_ref().ok())));
            if self.call.is_some() && self.world.has(Bug::AsPlanned) {
                return now.map(|image| self.world.as_planned(&call.operation_id, image));
            }
            if self.call.is_none() && self.world.has(Bug::BlindReads) {
                return now.map(|image| GroupImage { rules: Arc::default(), ..image });
            }
            now
        })
    }

    fn describe_groups<'a>(
        &'a self,
        call: &'a CallContext,
        target: &'a Target,
        request: &'a DescribeGroups,
    ) -> Answer<'a, Page<GroupImage>> {
        Box::pin(async move {
            let at = self.read().await?;
            let mut page = self.world.sandbox.describe_groups(call, target, request).await?;
            if let Some(at) = at {
                // What came after that time does not show yet.
                page.items.retain(|image| {
                    !matches!(self.world.image_at(&image.group.id, at), Some(None))
                });
            }
            Ok(page)
        })
    }

    fn describe_rules<'a>(
        &'a self,
        call: &'a CallContext,
        target: &'a Target,
        request: &'a DescribeRules,
    ) -> Answer<'a, Page<OwnedRule>> {
        Box::pin(async move {
            self.read().await?;
            self.world.sandbox.describe_rules(call, target, request).await
        })
    }

    fn revoke<'a>(
        &'a self,
        call: &'a CallContext,
        _: &'a Target,
        request: &'a RevokeRules,
    ) -> Answer<'a, Revoked> {
        Box::pin(async move {
            match self.change(call, Mutation::Revoke(request.clone())).await? {
                Applied::Revoked(revoked) => Ok(revoked),
                other => panic!("{other:?}"),
            }
        })
    }

    fn authorize<'a>(
        &'a self,
        call: &'a CallContext,
        _: &'a Target,
        request: &'a AuthorizeRules,
    ) -> Answer<'a, Authorized> {
        Box::pin(async move {
            match self.change(call, Mutation::Authorize(request.clone())).await? {
                Applied::Authorized(authorized) => Ok(authorized),
                other => panic!("{other:?}"),
            }
        })
    }

    fn create_group<'a>(
        &'a self,
        call: &'a CallContext,
        _: &'a Target,
        request: &'a CreateGroup,
    ) -> Answer<'a, Created> {
        Box::pin(async move {
            match self.change(call, Mutation::Create(request.clone())).await? {
                Applied::Created(created) => Ok(created),
                other => panic!("{other:?}"),
            }
        })
    }

    fn delete_group<'a>(
        &'a self,
        call: &'a CallContext,
        _: &'a Target,
        request: &'a DeleteGroup,
    ) -> Answer<'a, Deleted> {
        Box::pin(async move {
            match self.change(call, Mutation::Delete(request.clone())).await? {
                Applied::Deleted(deleted) => Ok(deleted),
                other => panic!("{other:?}"),
            }
        })
    }
}

fn brief(image: Option<&GroupImage>) -> String {
    let rules = |image: &GroupImage| {
        image.rules.iter().map(|rule| rule.id.to_string()).collect::<Vec<_>>().join(" ")
    };
    image.map_or_else(|| "nothing".to_owned(), rules)
}

impl Mutation {
    fn brief(&self) -> String {
        match self {
            Self::Revoke(RevokeRules { selection: Selection::Ids(ids), .. }) => {
                format!("revoke {ids:?}")
            }
            Self::Revoke(RevokeRules { selection: Selection::Specs(specs), .. }) => {
                let ports: Vec<i32> = specs.iter().map(|s| s.traffic.from_port()).collect();
                format!("revoke ports {ports:?}")
            }
            Self::Authorize(request) => {
                let ports: Vec<i32> = request.specs.iter().map(|s| s.traffic.from_port()).collect();
                format!("authorize ports {ports:?}")
            }
            Self::Create(_) => "create".to_owned(),
            Self::Delete(_) => "delete".to_owned(),
        }
    }
}
