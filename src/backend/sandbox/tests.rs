//! The sandbox held against ec2-facts, rule by rule. Names begin with the rule's number.

use std::time::SystemTime;

use super::{fault::Script, *};
use crate::{
    backend::{
        DescriptionUpdates, Filter, Modified, ModifyRules, RevokedRule, Selection,
        UpdateDescriptions,
    },
    clock::ManualClock,
    random::SeededRandom,
    rule::{Direction, IpPermission, Rule, RuleChange, RuleId, RuleSpec, Tag, expand, permission},
};

mod around;
mod describing;
mod family;
mod faults;
mod groups;
mod laws;
mod loading;
mod rules;
mod tagging;

const WEB: &str = "sg-000000000000000a1";
const DB: &str = "sg-000000000000000a2";
const CACHE: &str = "sg-000000000000000a3";
const LEGACY: &str = "sg-000000000000000d1";
const WORKER: &str = "sg-000000000000000e1";
const APP_DEFAULT: &str = "sg-0000000000000000a";
const LIST: &str = "pl-00000000000000001";

/// A sandbox and how to call it.
struct Bench {
    sandbox: Sandbox,
    target: Target,
}

fn target(account: &str, region: &str) -> Target {
    Target { account: AccountId::new(account), region: Region::new(region) }
}

fn open(json: Option<&str>) -> Result<(Sandbox, Vec<String>), Vec<Violation>> {
    let state = json.map(|json| Sandbox::parse_state(json.as_bytes()).unwrap());
    let clock = ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    Sandbox::open(state, None, Arc::new(clock), Arc::new(SeededRandom::new(7)))
}

fn bench(json: Option<&str>) -> Bench {
    let (sandbox, _) = open(json).unwrap();
    let target = sandbox.resolve(None, None).unwrap();
    Bench { sandbox, target }
}

/// The sandbox with its own sample.
fn sample() -> Bench {
    bench(None)
}

fn call() -> CallContext {
    let deadline = Instant::now() + Duration::from_secs(30);
    CallContext::new(deadline, "op-1")
}

/// One permission: protocol, first and last port, and one peer of any kind. `+` after the peer begins a description.
fn perm(protocol: &str, from: i32, to: i32, peer: &str) -> IpPermission {
    let (peer, description) = match peer.split_once('+') {
        Some((peer, text)) => (peer, Some(text.to_owned())),
        None => (peer, None),
    };
    let mut permission = IpPermission {
        ip_protocol: Some(protocol.to_owned()),
        from_port: Some(from),
        to_port: Some(to),
        ..IpPermission::default()
    };
    let range = permission::Range { cidr: Some(peer.to_owned()), description: description.clone() };
    let text = Some(peer.to_owned());
    match peer {
        _ if peer.starts_with("sg-") => {
            let pair =
                permission::UserIdGroupPair { group_id: text, description, ..Default::default() };
            permission.user_id_group_pairs.push(pair);
        }
        _ if peer.starts_with("name:") => {
            let group_name = peer.strip_prefix("name:").map(str::to_owned);
            let pair =
                permission::UserIdGroupPair { group_name, description, ..Default::default() };
            permission.user_id_group_pairs.push(pair);
        }
        _ if peer.starts_with("pl-") => permission
            .prefix_list_ids
            .push(permission::PrefixListRef { prefix_list_id: text, description }),
        _ if peer.contains(':') => permission.ipv6_ranges.push(range),
        _ => permission.ip_ranges.push(range),
    }
    permission
}

fn specs(permissions: &[IpPermission]) -> Vec<RuleSpec> {
    expand("ip_permissions", permissions).unwrap()
}

fn by_specs(permissions: &[IpPermission]) -> Selection {
    Selection::Specs(specs(permissions))
}

fn by_ids(ids: &[&str]) -> Selection {
    Selection::Ids(ids.iter().map(RuleId::new).collect())
}

fn group(id: &str) -> GroupRef {
    GroupRef::Id(GroupId::new(id))
}

fn tag(key: &str, value: &str) -> Tag {
    Tag { key: key.to_owned(), value: value.to_owned() }
}

fn filter(name: &str, values: &[&str]) -> Filter {
    Filter { name: name.to_owned(), values: values.iter().map(ToString::to_string).collect() }
}

/// A rule's id and what it is to be.
fn becomes(id: &str, permission: IpPermission) -> RuleChange {
    RuleChange { id: RuleId::new(id), spec: specs(&[permission]).remove(0) }
}

fn refusal<T: fmt::Debug>(result: Result<T, BackendError>) -> Refusal {
    match result {
        Err(BackendError::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

fn code<T: fmt::Debug>(result: Result<T, BackendError>) -> String {
    refusal(result).code
}

impl Bench {
    async fn revoke(
        &self,
        id: &str,
        direction: Direction,
        selection: Selection,
    ) -> Result<Revoked, BackendError> {
        let request = RevokeRules { group: group(id), direction, selection, dry_run: false };
        self.sandbox.revoke(&call(), &self.target, &request).await
    }

    async fn revoke_egress(&self, id: &str, selection: Selection) -> Result<Revoked, BackendError> {
        self.revoke(id, Direction::Egress, selection).await
    }

    async fn authorize(
        &self,
        id: &str,
        direction: Direction,
        specs: Vec<RuleSpec>,
    ) -> Result<Authorized, BackendError> {
        let group = group(id);
        let request = AuthorizeRules { group, direction, specs, tags: Vec::new(), dry_run: false };
        self.sandbox.authorize(&call(), &self.target, &request).await
    }

    async fn authorize_egress(
        &self,
        id: &str,
        permissions: &[IpPermission],
    ) -> Result<Authorized, BackendError> {
        self.authorize(id, Direction::Egress, specs(permissions)).await
    }

    async fn modify(&self, id: &str, changes: &[RuleChange]) -> Result<Modified, BackendError> {
        let (group, changes) = (GroupId::new(id), changes.to_vec());
        let request = ModifyRules { group, changes, dry_run: false };
        self.sandbox.modify_rules(&call(), &self.target, &request).await
    }

    async fn update(
        &self,
        id: &str,
        direction: Direction,
        updates: DescriptionUpdates,
    ) -> Result<Modified, BackendError> {
        let request = UpdateDescriptions { group: group(id), direction, updates, dry_run: false };
        self.sandbox.update_descriptions(&call(), &self.target, &request).await
    }

    /// A rule of a group as it is.
    async fn rule(&self, id: &str, rule: &str) -> Rule {
        let image = self.image(id).await.unwrap();
        image.rules.iter().find(|one| one.id.as_str() == rule).unwrap().clone()
    }

    async fn create(&self, name: &str, vpc: Option<&str>) -> Result<Created, BackendError> {
        let request = CreateGroup {
            name: name.to_owned(),
            description: "made by a test".to_owned(),
            vpc_id: vpc.map(crate::rule::VpcId::new),
            tags: Vec::new(),
            dry_run: false,
        };
        self.sandbox.create_group(&call(), &self.target, &request).await
    }

    async fn delete(&self, group: GroupRef) -> Result<Deleted, BackendError> {
        let request = DeleteGroup { group, dry_run: false };
        self.sandbox.delete_group(&call(), &self.target, &request).await
    }

    async fn image(&self, id: &str) -> Result<GroupImage, BackendError> {
        self.sandbox.image(&call(), &self.target, &group(id)).await
    }

    /// The ids of a group's rules of one direction.
    async fn ids(&self, id: &str, direction: Direction) -> Vec<String> {
        let image = self.image(id).await.unwrap();
        let rules = image.rules.iter().filter(|rule| rule.direction == direction);
        rules.map(|rule| rule.id.to_string()).collect()
    }

    async fn groups(&self, request: DescribeGroups) -> Result<Page<GroupImage>, BackendError> {
        self.sandbox.describe_groups(&call(), &self.target, &request).await
    }

    async fn rules(&self, request: DescribeRules) -> Result<Page<OwnedRule>, BackendError> {
        self.sandbox.describe_rules(&call(), &self.target, &request).await
    }
}
