//! Who may do what: Cedar policies, decided on facts that are all there.
//!
//! Deny by default; a policy that fails to evaluate denies; what could not be asked is denied. `access/actions.rs` is
//! the table from RPC to action, `access/model.rs` makes Cedar's entities and contexts of our facts,
//! `access/policies.rs` reads and checks a directory of policies. docs/access.md is for those who write them.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use cedar_policy::{Authorizer, Decision, PolicySet, Request, Response};

use crate::{
    error::{Error, Reason},
    principal::{Peer, Principal},
    rule::Target,
};

pub mod actions;
mod model;
pub mod policies;

pub use actions::Action;
pub use model::{GroupFacts, RuleFacts};
pub use policies::{Fault, Policies};

use model::Scene;

/// The gate that every call passes.
#[derive(Debug)]
pub struct Access(Option<Gate>);

#[derive(Debug)]
struct Gate {
    mode: Mode,
    dir: Option<PathBuf>,
    policies: ArcSwap<Policies>,
}

/// What becomes of a decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// It holds.
    #[default]
    Enforce,
    /// It is logged, and everything is allowed.
    ReportOnly,
}

/// Who asks, and where.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The principal.
    pub principal: &'a Principal,
    /// The other end of its connection.
    pub peer: &'a Peer,
    /// For the log.
    pub request_id: &'a str,
}

/// What is asked about.
#[derive(Clone, Copy, Debug)]
pub enum Resource<'a> {
    /// An account and Region as a whole.
    Target(&'a Target),
    /// A security group of it.
    Group(&'a Target, GroupFacts<'a>),
    /// The sandbox.
    Sandbox,
}

/// What a call is, for all of its rules.
#[derive(Clone, Copy, Debug, Default)]
pub struct Circumstances {
    /// Only asks.
    pub dry_run: bool,
    /// Leaves the group without an egress rule.
    pub removes_last_egress_rule: bool,
}

/// What policies say to one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Whether it is allowed.
    pub allowed: bool,
    /// The ids of the policies that determined it; none: no policy allows it.
    pub policies: Vec<String>,
    /// The policies that failed to evaluate, each with how. Any denies.
    pub errors: Vec<String>,
    /// What it would be if policies that only report decided too, where that differs: allowed or not, and by which.
    pub would: Option<(bool, Vec<String>)>,
}

// === impl Resource ===

impl fmt::Display for Resource<'_> {
    /// As its id in policies, less the type.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&model::uid_text(*self))
    }
}

// === impl Access ===

impl Access {
    /// No policies: everything is allowed. For a server that only this machine reaches, without authentication.
    pub fn allow_all() -> Self {
        Self(None)
    }

    /// The policies of a directory.
    pub fn open(dir: &Path, mode: Mode) -> Result<Self, Vec<Fault>> {
        let policies = Policies::read(dir)?;
        let count = policies.count;
        for warning in &policies.warnings {
            tracing::warn!(%warning, "policies");
        }
        tracing::info!(policies = count, dir = %dir.display(), ?mode, "policies are in force");
        let gate =
            Gate { mode, dir: Some(dir.to_owned()), policies: ArcSwap::from_pointee(policies) };
        Ok(Self(Some(gate)))
    }

    /// These policies, which no directory holds.
    pub fn with(policies: Policies, mode: Mode) -> Self {
        Self(Some(Gate { mode, dir: None, policies: ArcSwap::from_pointee(policies) }))
    }

    /// Reads the directory again. A set that is empty or broken leaves the one in force.
    pub fn reload(&self) -> Result<(), String> {
        self.reload_if(&|| true)
    }

    /// The same, but takes what was read only if the directory is then `still` the same.
    pub fn reload_if(&self, still: &dyn Fn() -> bool) -> Result<(), String> {
        let Some(Gate { dir: Some(dir), policies, .. }) = &self.0 else { return Ok(()) };
        let read = Policies::read(dir).map_err(|faults| {
            let lines: Vec<String> = faults.iter().map(Fault::to_string).collect();
            format!("the policies in force stay: {}", lines.join("; "))
        })?;
        if !still() {
            return Ok(());
        }
        // As the first look after a start finds them they are the same: nobody has to be told.
        if policies.load().differs_from(&read) {
            for warning in &read.warnings {
                tracing::warn!(%warning, "policies");
            }
            tracing::info!(policies = read.count, dir = %dir.display(), "policies were read again");
        }
        policies.store(Arc::new(read));
        Ok(())
    }

    /// Whether there are policies, so that facts must be read for them.
    pub fn decides(&self) -> bool {
        self.0.is_some()
    }

    /// Whether a denial denies.
    pub fn enforces(&self) -> bool {
        self.0.as_ref().is_some_and(|gate| gate.mode == Mode::Enforce)
    }

    /// Whether the caller may do this, which is about no rule. Logged.
    pub fn check(
        &self,
        caller: Caller<'_>,
        action: Action,
        resource: Resource<'_>,
        circumstances: Circumstances,
    ) -> Result<(), Error> {
        self.check_rules(caller, action, resource, circumstances, &[RuleFacts::none()])
    }

    /// Whether the caller may do this to each of these rules: if not to one, then to none. Logged.
    pub fn check_rules(
        &self,
        caller: Caller<'_>,
        action: Action,
        resource: Resource<'_>,
        circumstances: Circumstances,
        rules: &[RuleFacts],
    ) -> Result<(), Error> {
        let Some(gate) = &self.0 else { return Ok(()) };
        let judgements = gate.judge(caller, action, resource, circumstances, rules);
        gate.log(caller, action, resource, circumstances, rules, &judgements);
        // No rules at all is not "all rules": callers refuse it before, and here it is not allowed.
        let allowed =
            !judgements.is_empty() && judgements.iter().all(|judgement| judgement.allowed);
        if allowed || gate.mode == Mode::ReportOnly { Ok(()) } else { Err(denied()) }
    }

    /// Whether policies give the caller a privilege there: something that calls do without. Without policies nobody has
    /// it; policies that only report give what they permit, and take nothing from those whom they deny. Logged.
    pub fn grants(&self, caller: Caller<'_>, privilege: Action, resource: Resource<'_>) -> bool {
        let Some(gate) = &self.0 else { return false };
        let (circumstances, none) = (Circumstances::default(), [RuleFacts::none()]);
        let judgements = gate.judge(caller, privilege, resource, circumstances, &none);
        gate.log(caller, privilege, resource, circumstances, &none, &judgements);
        !judgements.is_empty() && judgements.iter().all(|judgement| judgement.allowed)
    }

    /// Which of these groups the caller may read by that action. The log says how many.
    pub fn readable(
        &self,
        caller: Caller<'_>,
        action: Action,
        target: &Target,
        groups: &[GroupFacts<'_>],
    ) -> Vec<bool> {
        let Some(gate) = &self.0 else { return vec![true; groups.len()] };
        let policies = gate.policies.load();
        let mut by = BTreeMap::<(bool, Vec<String>), usize>::new();
        let mut readable = Vec::with_capacity(groups.len());
        for group in groups {
            let scene = Scene::new(caller, Resource::Group(target, *group));
            let facts = (Circumstances::default(), &RuleFacts::none());
            let Judgement { allowed, policies, errors, .. } =
                judge(&policies, &scene, action, caller, facts);
            readable.push(allowed || gate.mode == Mode::ReportOnly);
            *by.entry((allowed, [policies, errors].concat())).or_default() += 1;
        }
        for ((allowed, policies), groups) in by {
            tracing::info!(
                request_id = caller.request_id,
                principal = caller.principal.id(),
                action = action.as_str(),
                resource = %target,
                groups,
                allowed,
                policies = policies.join(", "),
                "groups decided"
            );
        }
        readable
    }

    /// What policies say, for people who ask before it matters. Not logged. Without policies: nothing.
    pub fn explain(
        &self,
        caller: Caller<'_>,
        action: Action,
        resource: Resource<'_>,
        circumstances: Circumstances,
        rules: &[RuleFacts],
    ) -> Vec<Judgement> {
        let gate = self.0.as_ref();
        gate.map(|gate| gate.judge(caller, action, resource, circumstances, rules))
            .unwrap_or_default()
    }
}

/// The refusal. It is the same for everything that is denied, so that it tells nothing of what exists.
fn denied() -> Error {
    Error::new(Reason::AccessDenied, "policy does not allow this; nothing was changed")
}

// === impl Gate ===

impl Gate {
    fn judge(
        &self,
        caller: Caller<'_>,
        action: Action,
        resource: Resource<'_>,
        circumstances: Circumstances,
        rules: &[RuleFacts],
    ) -> Vec<Judgement> {
        let policies = self.policies.load();
        let scene = Scene::new(caller, resource);
        rules
            .iter()
            .map(|rule| judge(&policies, &scene, action, caller, (circumstances, rule)))
            .collect()
    }

    /// One line for each way in which rules were decided.
    fn log(
        &self,
        caller: Caller<'_>,
        action: Action,
        resource: Resource<'_>,
        circumstances: Circumstances,
        rules: &[RuleFacts],
        judgements: &[Judgement],
    ) {
        let mut ways: Vec<(&Judgement, &RuleFacts, usize)> = Vec::new();
        for (judgement, rule) in judgements.iter().zip(rules) {
            match ways.iter_mut().find(|(known, ..)| *known == judgement) {
                Some((.., count)) => *count += 1,
                None => ways.push((judgement, rule, 1)),
            }
        }
        for (judgement, rule, count) in ways {
            let line = Line { caller, action, resource, circumstances, judgement, rule, count };
            line.write(self.mode);
        }
    }
}

/// One line of the log.
struct Line<'a> {
    caller: Caller<'a>,
    action: Action,
    resource: Resource<'a>,
    circumstances: Circumstances,
    judgement: &'a Judgement,
    rule: &'a RuleFacts,
    count: usize,
}

impl Line<'_> {
    fn write(&self, mode: Mode) {
        let Judgement { allowed, policies, errors, would } = self.judgement;
        macro_rules! line {
            ($level:ident, $message:literal $(, $name:ident = $value:expr)*) => {
                tracing::$level!(
                    request_id = self.caller.request_id,
                    principal = self.caller.principal.id(),
                    action = self.action.as_str(),
                    resource = %self.resource,
                    rules = self.count,
                    rule = %self.rule,
                    dry_run = self.circumstances.dry_run,
                    $($name = $value,)*
                    $message
                )
            };
        }
        let policies = policies.join(", ");
        match (allowed, mode) {
            // The final decision follows, and says all of it.
            (true, _) if self.action == Action::Access => {
                line!(debug, "allowed", policies = policies)
            }
            (true, _) => line!(info, "allowed", policies = policies),
            // What most callers have not: nothing is refused for it.
            (false, _) if self.action == Action::UseIncidentLane => {
                line!(debug, "not given", policies = policies)
            }
            (false, Mode::Enforce) => line!(info, "denied", policies = policies),
            (false, Mode::ReportOnly) => line!(warn, "would deny", policies = policies),
        }
        if !errors.is_empty() {
            line!(error, "a policy failed to evaluate", errors = errors.join(", "));
        }
        match would {
            Some((true, by)) => line!(warn, "would allow", policies = by.join(", ")),
            Some((false, by)) => line!(warn, "would deny", policies = by.join(", ")),
            None => {}
        }
    }
}

// === deciding ===

fn judge(
    policies: &Policies,
    scene: &Result<Scene, String>,
    action: Action,
    caller: Caller<'_>,
    (circumstances, rule): (Circumstances, &RuleFacts),
) -> Judgement {
    let asked = scene.as_ref().map_err(Clone::clone).and_then(|scene| {
        let request = scene.request(action, caller, circumstances, rule)?;
        Ok((scene, request))
    });
    let (scene, request) = match asked {
        Ok(asked) => asked,
        Err(error) => {
            return Judgement {
                allowed: false,
                policies: Vec::new(),
                errors: vec![error],
                would: None,
            };
        }
    };
    let ask =
        |set: &PolicySet| answer(&Authorizer::new().is_authorized(&request, set, scene.entities()));
    let (allowed, determining, errors) = ask(&policies.enforced);
    let would = policies.with_report_only.as_ref().and_then(|all| {
        let (would, by, _) = ask(all);
        (would != allowed).then_some((would, by))
    });
    Judgement { allowed, policies: determining, errors, would }
}

/// Cedar skips a policy that fails and may allow; here it denies.
fn answer(response: &Response) -> (bool, Vec<String>, Vec<String>) {
    let diagnostics = response.diagnostics();
    let mut policies: Vec<String> = diagnostics.reason().map(ToString::to_string).collect();
    policies.sort();
    let mut errors: Vec<String> = diagnostics.errors().map(ToString::to_string).collect();
    errors.sort();
    (response.decision() == Decision::Allow && errors.is_empty(), policies, errors)
}

/// A request with everything in it, checked against the schema.
fn checked(request: Result<Request, impl std::fmt::Display>) -> Result<Request, String> {
    request.map_err(|error| format!("the request does not fit the schema: {error}"))
}
