//! Programs: what callers, other writers and misfortune do, and when. A program says it all; its seed makes it.

use std::{fmt, time::Duration};

use portcullis::{
    api::scribe::method,
    backend::{AuthorizeRules, CreateGroup, DeleteGroup, Selection},
    operations::{Authorize, Command, Create, Delete, OnUnknown, Revoke},
    rule::{
        Direction, GroupId, GroupRef, IpPermission, RuleId, RuleSpec, Tag, VpcId, expand,
        permission::Range,
    },
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// The groups of `state.json`: in the default VPC, and in another.
pub const GROUPS: [&str; 2] = ["sg-000000000000000d0", "sg-000000000000000a0"];
const NAMES: [&str; 2] = ["legacy", "web"];
const VPCS: [&str; 2] = ["vpc-0000000000000000d", "vpc-0000000000000000a"];

/// Ports of rules to 10.0.0.0/8. The last is in no group at first.
const PORTS: [i32; 4] = [22, 443, 8080, 9000];

/// Draws.
#[derive(Debug)]
pub struct Dice(StdRng);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0.random_range(0..n)
    }

    pub fn index(&mut self, n: usize) -> usize {
        self.0.random_range(0..n)
    }

    /// So many in a thousand.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    pub fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.0.random_range(from..=to))
    }

    pub fn up_to(&mut self, most: Duration) -> Duration {
        self.millis(0, u64::try_from(most.as_millis()).unwrap())
    }

    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.index(all.len())]
    }
}

#[derive(Clone)]
pub struct Program {
    pub seed: u64,
    pub terms: Terms,
    pub asks: Vec<Ask>,
    pub steps: Vec<Step>,
}

/// How the world of a program is. Odds are in a thousand.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    pub replicas: usize,
    pub attempt: Duration,
    pub grace: Duration,
    /// How long reads may be stale; not longer than the grace.
    pub lag: Duration,
    /// Of a mutation that it meets a fault.
    pub ec2: u64,
    /// Of a call of the ledger.
    pub ledger: u64,
    /// Of a call of the ledger that its replica dies of it.
    pub crash: u64,
    pub settle_every: Duration,
}

#[derive(Clone)]
pub struct Step {
    /// Its draws depend on it, so that they stay when other steps are left out.
    pub number: u64,
    pub at: Duration,
    pub what: What,
}

#[derive(Clone, Debug)]
pub enum What {
    Call(CallStep),
    /// The replica dies when its tasks have been polled so many times more.
    Crash {
        replica: usize,
        polls: i64,
    },
    Outside(Outside),
}

#[derive(Clone, Debug)]
pub struct CallStep {
    pub replica: usize,
    pub caller: usize,
    pub key: Option<usize>,
    pub ask: usize,
    pub deadline: Duration,
    pub hang_up: Option<Duration>,
    /// Nothing fails for it.
    pub calm: bool,
}

/// What others do to a group, straight on EC2.
#[derive(Clone, Debug)]
pub enum Outside {
    Remove {
        group: usize,
        port: i32,
    },
    Add {
        group: usize,
        port: i32,
    },
    /// The same properties under a new id.
    Replace {
        group: usize,
        port: i32,
    },
    /// The same id with another port.
    Modify {
        group: usize,
        port: i32,
        to: i32,
    },
    Describe {
        group: usize,
        port: i32,
    },
    DeleteGroup {
        group: usize,
    },
}

/// A request.
#[derive(Clone, Debug)]
pub enum Ask {
    Revoke {
        group: usize,
        egress: bool,
        by_name: bool,
        ports: Vec<i32>,
        ids: bool,
        mode: OnUnknown,
    },
    Authorize {
        group: usize,
        egress: bool,
        ports: Vec<i32>,
        description: Option<&'static str>,
        tag: bool,
    },
    Create {
        vpc: usize,
    },
    Delete {
        group: usize,
    },
}

impl Program {
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let attempt = Duration::from_millis(dice.one_of(&[200, 1000, 10_000]));
        let lag = Duration::from_millis(dice.one_of(&[0, 0, 300, 1000]));
        let terms = Terms {
            replicas: 1 + dice.index(3),
            attempt,
            grace: lag + Duration::from_millis(dice.one_of(&[0, 1000, 5000])),
            lag,
            ec2: dice.one_of(&[50, 300, 500, 800]),
            ledger: dice.one_of(&[0, 0, 30, 120]),
            crash: dice.one_of(&[0, 0, 10, 40]),
            settle_every: Duration::from_millis(dice.one_of(&[500, 5000, 60_000, 600_000])),
        };
        // Few, so that they meet; in some programs one revoke is tried again and again, and only calls settle it.
        let stubborn = dice.chance(350);
        let terms = match stubborn {
            true => {
                let settle_every = Duration::from_millis(dice.one_of(&[700, 600_000, 600_000]));
                Terms { ec2: 700, settle_every, ..terms }
            }
            false => terms,
        };
        let groups = if stubborn { 1 } else { 1 + dice.index(2) };
        let first = dice.index(2);
        let group = |dice: &mut Dice| (first + dice.index(groups)) % 2;
        let mut asks: Vec<Ask> = (0..1 + dice.index(3))
            .map(|_| {
                let group = group(&mut dice);
                Ask::new(&mut dice, group)
            })
            .collect();
        let (mut callers, mut keys) = (1 + dice.index(3), 1 + dice.index(3));
        if stubborn {
            (callers, keys) = (1, 1 + dice.index(2));
            asks.truncate(1);
            if dice.chance(800) {
                let ports = PORTS[..1 + dice.index(3)].to_vec();
                let mode = dice.one_of(&[OnUnknown::AsEc2, OnUnknown::Fail]);
                let ids = dice.chance(200);
                asks = vec![Ask::Revoke {
                    group: first,
                    egress: true,
                    by_name: false,
                    ports,
                    ids,
                    mode,
                }];
            }
        }
        let mut at = Duration::ZERO;
        let hold = attempt * 5 + terms.grace;
        let count = 2 + dice.below(13);
        let steps = (0..count)
            .map(|number| {
                at += match dice.below(10) {
                    0..3 => Duration::ZERO,
                    3..5 => dice.millis(1, 400),
                    5..7 => dice.up_to(attempt * 2),
                    _ => dice.up_to(hold),
                };
                let group = group(&mut dice);
                let port = dice.one_of(&PORTS);
                let what = match dice.below(if stubborn { 500 } else { 100 }) {
                    0..10 => What::Crash {
                        replica: dice.index(terms.replicas),
                        polls: 1 + dice.below(25) as i64,
                    },
                    10..16 => What::Outside(Outside::Remove { group, port }),
                    16..20 => What::Outside(Outside::Add { group, port }),
                    20..23 => What::Outside(Outside::Replace { group, port }),
                    23..26 => {
                        let to = dice.one_of(&PORTS);
                        What::Outside(Outside::Modify { group, port, to })
                    }
                    26..29 => What::Outside(Outside::Describe { group, port }),
                    29 if dice.chance(300) => What::Outside(Outside::DeleteGroup { group }),
                    _ => {
                        let key = (!dice.chance(200)).then(|| dice.index(keys));
                        // Mostly a key has its own request.
                        let ask = match key {
                            Some(key) if !dice.chance(100) => key % asks.len(),
                            _ => dice.index(asks.len()),
                        };
                        What::Call(CallStep {
                            replica: dice.index(terms.replicas),
                            caller: dice.index(callers),
                            key,
                            ask,
                            deadline: match dice.below(5) {
                                0 => dice.millis(1, 300),
                                1 => dice.up_to(attempt * 3),
                                2 => dice.up_to(hold * 2),
                                _ => Duration::from_secs(120),
                            },
                            hang_up: (!stubborn && dice.chance(100))
                                .then(|| dice.up_to(attempt * 2)),
                            calm: false,
                        })
                    }
                };
                Step { number, at, what }
            })
            .collect();
        Self { seed, terms, asks, steps }
    }

    /// Smaller programs, the smallest first: with a part of the steps, then with one step calmer.
    pub fn smaller(&self) -> Vec<Self> {
        let with = |steps: Vec<Step>| Self { steps, ..self.clone() };
        let mut all = Vec::new();
        for half in [self.steps.len() / 2, self.steps.len() / 4] {
            if half > 1 {
                all.push(with(self.steps[half..].to_vec()));
                all.push(with(self.steps[..self.steps.len() - half].to_vec()));
            }
        }
        for leave in 0..self.steps.len() {
            let mut steps = self.steps.clone();
            steps.remove(leave);
            all.push(with(steps));
        }
        for at in 0..self.steps.len() {
            let mut steps = self.steps.clone();
            if let What::Call(call) = &mut steps[at].what
                && (!call.calm || call.hang_up.is_some())
            {
                (call.calm, call.hang_up) = (true, None);
                all.push(with(steps));
            }
        }
        let Terms { ledger, crash, .. } = self.terms;
        if (ledger, crash) != (0, 0) {
            all.push(Self { terms: Terms { ledger: 0, crash: 0, ..self.terms }, ..self.clone() });
        }
        all
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?}", self.terms)?;
        for (number, ask) in self.asks.iter().enumerate() {
            writeln!(f, "  ask {number}: {ask:?}")?;
        }
        for Step { number, at, what } in &self.steps {
            writeln!(f, "  step {number:2} at {:>7.3} s: {what:?}", at.as_secs_f64())?;
        }
        Ok(())
    }
}

impl Ask {
    fn new(dice: &mut Dice, group: usize) -> Self {
        let egress = !dice.chance(200);
        let mut ports: Vec<i32> = PORTS.into_iter().filter(|_| dice.chance(450)).collect();
        if dice.chance(500) {
            // Of what is there at first.
            ports.retain(|&port| port != PORTS[3]);
        }
        if ports.is_empty() {
            ports.push(dice.one_of(&PORTS));
        }
        match dice.below(20) {
            0..13 => Self::Revoke {
                group,
                egress,
                by_name: !egress && group == 0 && dice.chance(500),
                ports,
                ids: dice.chance(300),
                mode: dice.one_of(&[OnUnknown::AsEc2, OnUnknown::Fail, OnUnknown::RevokeMatched]),
            },
            13..18 => {
                if dice.chance(600) {
                    ports = vec![9000];
                }
                let description = dice.one_of(&[None, Some("ours")]);
                Self::Authorize { group, egress, ports, description, tag: dice.chance(300) }
            }
            18 => Self::Create { vpc: group },
            _ => Self::Delete { group },
        }
    }

    pub fn method(&self) -> &'static str {
        match self {
            Self::Revoke { egress: true, .. } => method::REVOKE_EGRESS,
            Self::Revoke { .. } => method::REVOKE_INGRESS,
            Self::Authorize { egress: true, .. } => method::AUTHORIZE_EGRESS,
            Self::Authorize { .. } => method::AUTHORIZE_INGRESS,
            Self::Create { .. } => method::CREATE,
            Self::Delete { .. } => method::DELETE,
        }
    }

    pub fn command(&self) -> Command {
        match self {
            Self::Revoke { group, egress, by_name, ports, ids, mode } => Command::Revoke(Revoke {
                group: match by_name {
                    true => GroupRef::Name(NAMES[*group].to_owned()),
                    false => group_ref(*group),
                },
                direction: direction(*egress),
                selection: match ids {
                    true => Selection::Ids(
                        ports.iter().map(|&port| rule_id(*group, *egress, port)).collect(),
                    ),
                    false => Selection::Specs(specs(ports, None)),
                },
                dry_run: false,
                on_unknown: *mode,
                verify: false,
            }),
            Self::Authorize { group, egress, ports, description, tag } => {
                Command::Authorize(Authorize {
                    rules: AuthorizeRules {
                        group: group_ref(*group),
                        direction: direction(*egress),
                        specs: specs(ports, *description),
                        tags: tag
                            .then(|| Tag { key: "by".to_owned(), value: "model".to_owned() })
                            .into_iter()
                            .collect(),
                        dry_run: false,
                    },
                })
            }
            Self::Create { vpc } => Command::Create(Create(CreateGroup {
                name: "made".to_owned(),
                description: "by the model".to_owned(),
                vpc_id: Some(VpcId::new(VPCS[*vpc])),
                tags: Vec::new(),
                dry_run: false,
            })),
            Self::Delete { group } => {
                Command::Delete(Delete(DeleteGroup { group: group_ref(*group), dry_run: false }))
            }
        }
    }
}

pub fn group_ref(group: usize) -> GroupRef {
    GroupRef::Id(GroupId::new(GROUPS[group]))
}

pub fn direction(egress: bool) -> Direction {
    if egress { Direction::Egress } else { Direction::Ingress }
}

/// The id in `state.json`; of a port that is not there at first, one that nobody ever has.
fn rule_id(group: usize, egress: bool, port: i32) -> RuleId {
    let (vpc, way) = (["d", "a"][group], i32::from(!egress));
    RuleId::new(format!("sgr-000000000{vpc}{way}{port:06}"))
}

pub fn specs(ports: &[i32], description: Option<&str>) -> Vec<RuleSpec> {
    let permissions: Vec<IpPermission> = ports
        .iter()
        .map(|&port| IpPermission {
            ip_protocol: Some("tcp".to_owned()),
            from_port: Some(port),
            to_port: Some(port),
            ip_ranges: vec![Range {
                cidr: Some("10.0.0.0/8".to_owned()),
                description: description.map(str::to_owned),
            }],
            ..IpPermission::default()
        })
        .collect();
    expand("", &permissions).unwrap()
}
