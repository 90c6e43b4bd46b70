//! The worked sets in deploy/policies decide as their reference models do, whatever is asked.

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::SystemTime};

use portcullis::{
    access::{
        Access, Action, Caller, Circumstances, GroupFacts, Mode, Policies, Resource, RuleFacts,
    },
    principal::{Certificate, Method, Peer, Principal},
    rule::{
        self, AccountId, Direction, GroupId, PrefixListId, Protocol, Region, RuleSpec, Tag, Target,
        Traffic,
    },
};
use proptest::{prelude::*, sample::select};

/// One question, in the terms of the models.
#[derive(Clone, Debug)]
struct Asked {
    method: Method,
    groups: Vec<&'static str>,
    spiffe_id: Option<&'static str>,
    address: IpAddr,
    action: Action,
    /// Decided on the Target rather than on a group.
    on_target: bool,
    tags: Vec<(&'static str, &'static str)>,
    rule: Option<(Direction, Traffic, rule::Peer)>,
    last: bool,
}

const READ: [Action; 2] = [Action::DescribeSecurityGroups, Action::DescribeSecurityGroupRules];
const RULES: [Action; 4] = [
    Action::RevokeEgress,
    Action::RevokeIngress,
    Action::AuthorizeEgress,
    Action::AuthorizeIngress,
];
const MUTATE: [Action; 6] = [
    Action::RevokeEgress,
    Action::RevokeIngress,
    Action::AuthorizeEgress,
    Action::AuthorizeIngress,
    Action::CreateSecurityGroup,
    Action::DeleteSecurityGroup,
];
/// Decided on the Target alone.
const OPERATIONS: [Action; 3] =
    [Action::GetOperation, Action::ListOperations, Action::SettleOperation];
const SANDBOX: [Action; 2] = [Action::GetState, Action::Reset];

fn any_asked() -> impl Strategy<Value = Asked> {
    let action = prop_oneof![
        select(vec![Action::Access, Action::UseIncidentLane]),
        select(READ.to_vec()),
        select(MUTATE.to_vec()),
        select(MUTATE.to_vec()),
        select(RULES.to_vec()),
        select(OPERATIONS.to_vec()),
        select(SANDBOX.to_vec()),
    ];
    let groups = proptest::sample::subsequence(
        vec![
            "network-readers",
            "network-engineers",
            "network-admins",
            "incident-responders",
            "payments",
            "web",
        ],
        0..=6,
    );
    let spiffe_id = select(vec![
        None,
        Some("spiffe://example.org/break-glass"),
        Some("spiffe://example.org/web"),
    ]);
    let method = select(vec![Method::Mtls, Method::Jwt, Method::Token]);
    let address = select(vec![
        "10.1.2.3",
        "127.0.0.1",
        "198.51.100.7",
        "::1",
        "fd00::1",
        "2001:db8::1",
        "::ffff:10.0.0.1",
    ]);
    let tags = select(vec![
        vec![],
        vec![("team", "payments")],
        vec![("team", "web"), ("protected", "false")],
        vec![("protected", "true")],
        vec![("team", "payments"), ("protected", "")],
    ]);
    let caller = (method, groups, spiffe_id, address);
    (caller, action, any::<bool>(), tags, any_rule(), any::<bool>()).prop_map(
        |((method, groups, spiffe_id, address), action, on_target, tags, (traffic, peer), last)| {
            let direction = match action {
                Action::RevokeEgress | Action::AuthorizeEgress => Direction::Egress,
                _ => Direction::Ingress,
            };
            let of_target = [Action::Access, Action::UseIncidentLane].contains(&action)
                || OPERATIONS.contains(&action);
            let on_target = of_target || on_target && READ.contains(&action);
            let last = last && action == Action::RevokeEgress;
            let rule = RULES.contains(&action).then_some((direction, traffic, peer));
            let address = address.parse().unwrap();
            Asked { method, groups, spiffe_id, address, action, on_target, tags, rule, last }
        },
    )
}

fn any_rule() -> impl Strategy<Value = (Traffic, rule::Peer)> {
    let port = || select(vec![0, 21, 22, 23, 80, 443, 444, 3389, 65_535]);
    let traffic = (select(vec!["tcp", "udp", "-1", "icmp", "50"]), port(), port()).prop_map(
        |(protocol, a, b)| {
            let ports = if protocol == "icmp" { (8, -1) } else { (a.min(b), a.max(b)) };
            Traffic::new(Protocol::parse(protocol).unwrap(), Some(ports.0), Some(ports.1)).unwrap()
        },
    );
    let peer = select(vec![
        rule::Peer::Ipv4("0.0.0.0/0".parse().unwrap()),
        rule::Peer::Ipv4("128.0.0.0/1".parse().unwrap()),
        rule::Peer::Ipv4("172.16.0.0/11".parse().unwrap()),
        rule::Peer::Ipv4("10.1.0.0/16".parse().unwrap()),
        rule::Peer::Ipv6("::/0".parse().unwrap()),
        rule::Peer::Ipv6("2001:db8::/32".parse().unwrap()),
        rule::Peer::PrefixList(PrefixListId::new("pl-00000001")),
        rule::Peer::group(GroupId::new("sg-00000002"), None),
    ]);
    (traffic, peer)
}

fn decided(access: &Access, asked: &Asked) -> bool {
    let target =
        Target { account: AccountId::new("123456789012"), region: Region::new("us-east-1") };
    let principal = Principal {
        method: asked.method,
        issuer: "https://issuer.example".to_owned(),
        subject: "alice".to_owned(),
        groups: asked.groups.iter().map(|&group| group.to_owned()).collect(),
    };
    let certificate = asked.spiffe_id.map(|id| {
        Arc::new(Certificate {
            subject: "CN=alice".to_owned(),
            issuer: "CN=ca".to_owned(),
            spiffe_id: Some(id.to_owned()),
            not_before: SystemTime::UNIX_EPOCH,
            not_after: SystemTime::UNIX_EPOCH,
        })
    });
    let address = Some((asked.address, 1).into());
    let peer = Peer { address, certificate, ..Peer::default() };
    let tags: Vec<Tag> = asked
        .tags
        .iter()
        .map(|(key, value)| Tag { key: (*key).to_owned(), value: (*value).to_owned() })
        .collect();
    let group = GroupFacts {
        id: "sg-00000001",
        name: "n",
        vpc: "vpc-00000001",
        owner: "123456789012",
        tags: &tags,
    };
    let resource = match asked.action {
        action if SANDBOX.contains(&action) => Resource::Sandbox,
        _ if asked.on_target => Resource::Target(&target),
        _ => Resource::Group(&target, group),
    };
    let facts = match &asked.rule {
        Some((direction, traffic, peer)) => {
            let spec = RuleSpec { traffic: *traffic, peer: peer.clone(), description: None };
            RuleFacts::of_spec(*direction, &spec)
        }
        None => RuleFacts::none(),
    };
    let caller = Caller { principal: &principal, peer: &peer, request_id: "r" };
    let circumstances = Circumstances { dry_run: false, removes_last_egress_rule: asked.last };
    let judged = access.explain(caller, asked.action, resource, circumstances, &[facts]);
    assert_eq!(judged[0].errors, Vec::<String>::new(), "{asked:?}");
    judged[0].allowed
}

fn open(set: &str) -> Access {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("deploy/policies").join(set);
    let policies = Policies::read(&dir).unwrap_or_else(|faults| panic!("{set}: {faults:?}"));
    assert_eq!(policies.warnings, [], "{set}");
    Access::with(policies, Mode::Enforce)
}

// === the models ===

/// What is in the group of actions `read`.
fn reads(asked: &Asked) -> bool {
    READ.contains(&asked.action)
        || OPERATIONS.contains(&asked.action) && asked.action != Action::SettleOperation
}

fn read_only(asked: &Asked) -> bool {
    asked.groups.contains(&"network-readers") && (asked.action == Action::Access || reads(asked))
}

fn team_by_tag(asked: &Asked) -> bool {
    let known = READ.contains(&asked.action) || MUTATE.contains(&asked.action);
    match asked.tags.iter().find(|(key, _)| *key == "team") {
        _ if asked.action == Action::UseIncidentLane => false,
        _ if OPERATIONS.contains(&asked.action) => false,
        _ if asked.action == Action::Access || asked.on_target => !asked.groups.is_empty(),
        Some((_, team)) => known && asked.groups.contains(team),
        None => false,
    }
}

fn guardrails(asked: &Asked) -> bool {
    let mutates = MUTATE.contains(&asked.action);
    let ours = match asked.address.to_canonical() {
        IpAddr::V4(address) => [10, 127].contains(&address.octets()[0]),
        IpAddr::V6(address) => address.is_loopback() || address.octets()[0] == 0xfd,
    };
    let protected = asked.tags.iter().any(|(key, value)| *key == "protected" && *value != "false");
    let admin = asked.groups.contains(&"network-admins");
    let opens_badly = asked.rule.as_ref().is_some_and(|(_, traffic, peer)| {
        let (protocol, from, to) = (traffic.protocol(), traffic.from_port(), traffic.to_port());
        let all = protocol == Protocol::ALL;
        let has = |port| all || protocol == Protocol::TCP && (from..=to).contains(&port);
        let https = protocol == Protocol::TCP && (from, to) == (443, 443);
        to_the_internet(peer)
            && match asked.action {
                Action::AuthorizeIngress => has(22) || has(3389),
                Action::AuthorizeEgress => !https,
                _ => false,
            }
    });
    asked.groups.contains(&"network-engineers")
        && !SANDBOX.contains(&asked.action)
        && asked.action != Action::UseIncidentLane
        && asked.action != Action::SettleOperation
        && !(mutates && (!ours || protected))
        && (!asked.last || admin)
        && !opens_badly
}

fn sandbox(asked: &Asked) -> bool {
    asked.action != Action::UseIncidentLane
}

fn break_glass(asked: &Asked) -> bool {
    let looks = asked.action == Action::Access || reads(asked);
    let revokes = matches!(asked.action, Action::RevokeEgress | Action::RevokeIngress);
    let settles = asked.action == Action::SettleOperation;
    let emergency =
        asked.method == Method::Mtls && asked.spiffe_id == Some("spiffe://example.org/break-glass");
    let first = asked.action == Action::UseIncidentLane;
    asked.groups.contains(&"incident-responders") && (looks || revokes || settles || first)
        || emergency && !SANDBOX.contains(&asked.action)
}

/// Whatever is not private, so that two halves of the internet are no way around.
fn to_the_internet(peer: &rule::Peer) -> bool {
    let is_in =
        |ours: &str, net: ipnet::IpNet| ours.parse::<ipnet::IpNet>().unwrap().contains(&net);
    let net = match peer {
        rule::Peer::Ipv4(net) => ipnet::IpNet::V4(*net),
        rule::Peer::Ipv6(net) => ipnet::IpNet::V6(*net),
        rule::Peer::PrefixList(_) | rule::Peer::Group(_) => return false,
    };
    let ours = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"];
    !ours.into_iter().any(|ours| is_in(ours, net))
}

/// Holds a set against its model, and makes sure that both answers came up.
fn hold(set: &str, model: fn(&Asked) -> bool) {
    hold_in(2000, set, model);
}

fn hold_in(cases: u32, set: &str, model: fn(&Asked) -> bool) {
    let access = open(set);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(cases));
    let answers = std::cell::RefCell::new([0, 0]);
    let held = runner.run(&any_asked(), |asked| {
        let expected = model(&asked);
        answers.borrow_mut()[usize::from(expected)] += 1;
        prop_assert_eq!(decided(&access, &asked), expected);
        Ok(())
    });
    held.unwrap_or_else(|error| panic!("{set}: {error}"));
    let [denied, allowed] = *answers.borrow();
    assert!(denied >= 100 && allowed >= 100, "{set}: {denied} denied, {allowed} allowed");
}

#[test]
fn read_only_is_its_model() {
    hold("read-only", read_only);
}

#[test]
fn team_by_tag_is_its_model() {
    hold("team-by-tag", team_by_tag);
}

#[test]
fn guardrails_are_their_model() {
    hold("guardrails", guardrails);
}

#[test]
fn break_glass_is_its_model() {
    hold("break-glass", break_glass);
}

#[test]
fn the_sandbox_is_its_model() {
    // It denies one action alone.
    hold_in(6000, "sandbox", sandbox);
}

/// The sets are all there are, so that none goes untested.
#[test]
fn every_set_has_a_model() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/policies");
    let mut sets: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    sets.sort();
    assert_eq!(sets, ["break-glass", "guardrails", "read-only", "sandbox", "team-by-tag"]);
}
