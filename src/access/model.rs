//! Our facts as Cedar's entities and contexts. Every attribute of the schema is here, always; where there is no fact,
//! the sentinel that the schema's comment names.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request,
    RestrictedExpression as Value,
};

use super::{Action, Caller, Circumstances, Resource, checked, policies::schema};
use crate::rule::{Direction, Peer, Rule, RuleId, RuleSpec, Tag, Target, Traffic, traffic::Ports};

/// No address, and no range: nothing on a network has it.
const NO_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::BROADCAST);

const ALL_PORTS: (i32, i32) = (0, 65_535);

/// A security group, as policies see it.
#[derive(Clone, Copy, Debug)]
pub struct GroupFacts<'a> {
    /// The id; empty for one that is about to be created.
    pub id: &'a str,
    /// The name; empty if there is no such group.
    pub name: &'a str,
    /// The VPC; empty if there is no such group, or for the default one of a group that is about to be created.
    pub vpc: &'a str,
    /// The account that owns it.
    pub owner: &'a str,
    /// Its tags.
    pub tags: &'a [Tag],
}

/// A rule, as policies see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleFacts {
    what: What,
    rule_id: Option<RuleId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    None,
    Unknown(Direction),
    Rule(Direction, Traffic, Peer),
}

/// What a decision is about, in Cedar's terms; the same for all rules of a call.
pub struct Scene {
    entities: Entities,
    principal: EntityUid,
    resource: EntityUid,
}

// === impl RuleFacts ===

impl RuleFacts {
    /// No rule: the decision is about the resource as a whole.
    pub fn none() -> Self {
        Self { what: What::None, rule_id: None }
    }

    /// A rule that the group has.
    pub fn of_rule(rule: &Rule) -> Self {
        let what = What::Rule(rule.direction, rule.traffic, rule.peer.clone());
        Self { what, rule_id: Some(rule.id.clone()) }
    }

    /// A rule that the group has not (yet).
    pub fn of_spec(direction: Direction, spec: &RuleSpec) -> Self {
        Self { what: What::Rule(direction, spec.traffic, spec.peer.clone()), rule_id: None }
    }

    /// A rule id that the group has not.
    pub fn unknown_id(direction: Direction, id: &RuleId) -> Self {
        Self { what: What::Unknown(direction), rule_id: Some(id.clone()) }
    }
}

impl fmt::Display for RuleFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let What::Rule(direction, traffic, peer) = &self.what {
            write!(f, "{} {traffic} {peer}", direction.as_str())?;
        }
        match (&self.what, &self.rule_id) {
            (What::None, _) | (_, None) => Ok(()),
            (What::Unknown(_), Some(id)) => write!(f, "unknown {:?}", id.as_str()),
            (What::Rule(..), Some(id)) => write!(f, " ({id})"),
        }
    }
}

// === impl Scene ===

impl Scene {
    /// Gathers the entities and holds them against the schema.
    pub fn new(caller: Caller<'_>, resource: Resource<'_>) -> Result<Self, String> {
        let principal = principal(caller)?;
        let (uid, of_resource) = entities(resource)?;
        let principal_uid = principal.uid();
        let schema = schema().map_err(|fault| fault.to_string())?;
        let all = of_resource.into_iter().chain([principal]);
        let entities = Entities::from_entities(all, Some(schema))
            .map_err(|error| format!("the entities do not fit the schema: {error}"))?;
        Ok(Self { entities, principal: principal_uid, resource: uid })
    }

    pub fn entities(&self) -> &Entities {
        &self.entities
    }

    /// The question about one rule.
    pub fn request(
        &self,
        action: Action,
        caller: Caller<'_>,
        circumstances: Circumstances,
        rule: &RuleFacts,
    ) -> Result<Request, String> {
        let schema = schema().map_err(|fault| fault.to_string())?;
        let action = uid("Action", action.as_str())?;
        let pairs = context(caller, circumstances, rule);
        let context = Context::from_pairs(pairs.map(|(name, value)| (name.to_owned(), value)))
            .map_err(|error| error.to_string())?;
        let (principal, resource) = (self.principal.clone(), self.resource.clone());
        checked(Request::new(principal, action, resource, context, Some(schema)))
    }
}

/// The id of a resource in policies.
pub fn uid_text(resource: Resource<'_>) -> String {
    match resource {
        Resource::Target(target) => target.to_string(),
        Resource::Group(target, group) => format!("{target}/{}", group.id),
        Resource::Sandbox => "sandbox".to_owned(),
    }
}

fn uid(kind: &str, id: &str) -> Result<EntityUid, String> {
    let kind = EntityTypeName::from_str(kind).map_err(|error| error.to_string())?;
    Ok(EntityUid::from_type_name_and_id(kind, EntityId::new(id)))
}

fn text(text: &str) -> Value {
    Value::new_string(text.to_owned())
}

fn record(pairs: impl IntoIterator<Item = (&'static str, Value)>) -> HashMap<String, Value> {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn principal(caller: Caller<'_>) -> Result<Entity, String> {
    let principal = caller.principal;
    let certificate = caller.peer.certificate.as_deref();
    let spiffe_id = certificate.and_then(|certificate| certificate.spiffe_id.as_deref());
    let attributes = record([
        ("method", text(principal.method.as_str())),
        ("issuer", text(&principal.issuer)),
        ("subject", text(&principal.subject)),
        ("groups", Value::new_set(principal.groups.iter().map(|group| text(group)))),
        ("spiffe_id", text(spiffe_id.unwrap_or_default())),
        ("certificate_subject", text(certificate.map_or("", |certificate| &certificate.subject))),
        ("certificate_issuer", text(certificate.map_or("", |certificate| &certificate.issuer))),
    ]);
    let groups = principal.groups.iter().map(|group| uid("Group", group));
    let groups = groups.collect::<Result<HashSet<_>, _>>()?;
    Entity::new(uid("Principal", &principal.id())?, attributes, groups)
        .map_err(|error| error.to_string())
}

fn entities(resource: Resource<'_>) -> Result<(EntityUid, Vec<Entity>), String> {
    let place =
        |account: &str, region: &str| [("account", text(account)), ("region", text(region))];
    let of_target = |target: &Target| {
        let uid = uid("Target", &target.to_string())?;
        let attributes = record(place(target.account.as_str(), target.region.as_str()));
        let entity = Entity::new(uid.clone(), attributes, HashSet::new());
        Ok::<_, String>((uid, entity.map_err(|error| error.to_string())?))
    };
    let own = uid_text(resource);
    match resource {
        Resource::Target(target) => {
            let (uid, entity) = of_target(target)?;
            Ok((uid, vec![entity]))
        }
        Resource::Group(target, group) => {
            let (target_uid, target_entity) = of_target(target)?;
            let uid = uid("SecurityGroup", &own)?;
            let attributes =
                record(place(target.account.as_str(), target.region.as_str()).into_iter().chain([
                    ("id", text(group.id)),
                    ("name", text(group.name)),
                    ("vpc", text(group.vpc)),
                    ("owner", text(group.owner)),
                ]));
            let tags = group.tags.iter().map(|tag| (tag.key.clone(), text(&tag.value)));
            let entity = Entity::new_with_tags(uid.clone(), attributes, [target_uid], tags);
            Ok((uid, vec![target_entity, entity.map_err(|error| error.to_string())?]))
        }
        Resource::Sandbox => {
            let uid = uid("Sandbox", &own)?;
            let entity = Entity::new(uid.clone(), record(place("", "")), HashSet::new());
            Ok((uid, vec![entity.map_err(|error| error.to_string())?]))
        }
    }
}

/// All of the schema's `Facts`.
fn context(
    caller: Caller<'_>,
    circumstances: Circumstances,
    rule: &RuleFacts,
) -> impl Iterator<Item = (&'static str, Value)> {
    let (direction, protocol, (from, to), peer) = match &rule.what {
        What::None => ("none", "none".to_owned(), (-1, -1), None),
        What::Unknown(direction) => (direction.as_str(), "unknown".to_owned(), (-1, -1), None),
        What::Rule(direction, traffic, peer) => {
            (direction.as_str(), traffic.protocol().to_string(), ports(*traffic), Some(peer))
        }
    };
    let mut kind = if matches!(rule.what, What::Unknown(_)) { "unknown" } else { "none" };
    let (mut cidr, mut prefix_list) = (NO_ADDRESS.to_string(), "");
    let (mut group, mut group_owner) = ("", "");
    match peer {
        None => {}
        Some(Peer::Ipv4(net)) => (kind, cidr) = ("cidr", net.trunc().to_string()),
        Some(Peer::Ipv6(net)) => (kind, cidr) = ("cidr", net.trunc().to_string()),
        Some(Peer::PrefixList(id)) => (kind, prefix_list) = ("prefix_list", id.as_str()),
        Some(Peer::Group(peer)) => {
            kind = if peer.group_id.is_some() { "group" } else { "group_name" };
            group = peer.group_id.as_ref().map_or("", |id| id.as_str());
            group_owner = peer.user_id.as_ref().map_or("", |id| id.as_str());
        }
    }
    let address = caller.peer.address.map_or(NO_ADDRESS, |address| address.ip().to_canonical());
    [
        ("direction", text(direction)),
        ("protocol", text(&protocol)),
        ("from_port", Value::new_long(from.into())),
        ("to_port", Value::new_long(to.into())),
        ("destination_kind", text(kind)),
        ("destination_cidr", Value::new_ip(cidr)),
        ("destination_prefix_list", text(prefix_list)),
        ("destination_group", text(group)),
        ("destination_group_owner", text(group_owner)),
        ("rule_id", text(rule.rule_id.as_ref().map_or("", |id| id.as_str()))),
        ("dry_run", Value::new_bool(circumstances.dry_run)),
        ("peer_address", Value::new_ip(address.to_string())),
        ("removes_last_egress_rule", Value::new_bool(circumstances.removes_last_egress_rule)),
    ]
    .into_iter()
}

/// A protocol without ports carries all of them, as far as policies compare ports.
fn ports(traffic: Traffic) -> (i32, i32) {
    match traffic.protocol().ports() {
        Ports::None => ALL_PORTS,
        // EC2 may leave a range out.
        Ports::Range if traffic.from_port() < 0 || traffic.to_port() < 0 => ALL_PORTS,
        Ports::Range | Ports::TypeAndCode => (traffic.from_port(), traffic.to_port()),
    }
}
