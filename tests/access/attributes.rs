//! Every attribute is always there: a forbid on any of them forbids, and on nothing does one fail to evaluate.

use std::{
    io,
    sync::{Arc, Mutex},
    time::SystemTime,
};

use portcullis::{
    access::{
        Access, Action, Caller, Circumstances, GroupFacts, Judgement, Mode, Policies, Resource,
        RuleFacts, actions, policies::SCHEMA,
    },
    principal::{Certificate, Method, Peer, Principal},
    rule::{
        AccountId, Direction, GroupId, PrefixListId, Protocol, Region, Rule, RuleId, RuleSpec, Tag,
        Target, Traffic,
    },
};

const PERMIT: &str = "@id(\"all\") permit (principal, action, resource);\n";

/// Decides with one more policy beside one that permits everything.
fn judge(more: &str, ask: &Ask<'_>) -> Judgement {
    let text = format!("{PERMIT}{more}");
    let policies = Policies::parse(&[("test.cedar".to_owned(), text)])
        .unwrap_or_else(|faults| panic!("{more}: {faults:?}"));
    let access = Access::with(policies, Mode::Enforce);
    let target = target();
    let tags = [Tag { key: "team".to_owned(), value: "web".to_owned() }];
    let group = GroupFacts {
        id: "sg-00000001",
        name: "front",
        vpc: "vpc-00000001",
        owner: "999999999999",
        tags: &tags,
    };
    let resource = match ask.on {
        On::Group => Resource::Group(&target, group),
        On::Target => Resource::Target(&target),
        On::Sandbox => Resource::Sandbox,
    };
    let principal = principal();
    let certificate = Certificate {
        subject: "CN=alice".to_owned(),
        issuer: "CN=ca".to_owned(),
        spiffe_id: Some("spiffe://example.org/alice".to_owned()),
        not_before: SystemTime::UNIX_EPOCH,
        not_after: SystemTime::UNIX_EPOCH,
    };
    let peer = Peer {
        address: ask.address.map(|address| address.parse().unwrap()),
        certificate: ask.address.map(|_| Arc::new(certificate)),
        ..Peer::default()
    };
    let caller = Caller { principal: &principal, peer: &peer, request_id: "r" };
    let rules = std::slice::from_ref(&ask.rule);
    access.explain(caller, ask.action, resource, ask.circumstances, rules).remove(0)
}

fn target() -> Target {
    Target { account: AccountId::new("123456789012"), region: Region::new("us-east-1") }
}

fn principal() -> Principal {
    Principal {
        method: Method::Jwt,
        issuer: "https://issuer.example".to_owned(),
        subject: "alice".to_owned(),
        groups: vec!["web".to_owned()],
    }
}

struct Ask<'a> {
    action: Action,
    on: On,
    rule: RuleFacts,
    circumstances: Circumstances,
    address: Option<&'a str>,
}

#[derive(Clone, Copy)]
enum On {
    Group,
    Target,
    Sandbox,
}

fn revoke(peer: portcullis::rule::Peer) -> Ask<'static> {
    let rule = Rule {
        id: RuleId::new("sgr-00000000000000001"),
        direction: Direction::Egress,
        traffic: Traffic::new(Protocol::TCP, Some(443), Some(444)).unwrap(),
        peer,
        description: None,
        tags: None,
    };
    Ask {
        action: Action::RevokeEgress,
        on: On::Group,
        rule: RuleFacts::of_rule(&rule),
        circumstances: Circumstances { dry_run: true, removes_last_egress_rule: true },
        address: Some("[::ffff:10.9.8.7]:1"),
    }
}

fn cidr() -> portcullis::rule::Peer {
    portcullis::rule::Peer::Ipv4("10.1.2.3/16".parse().unwrap())
}

/// What each attribute is for [`revoke`], with that peer.
fn expected() -> Vec<(&'static str, &'static str, portcullis::rule::Peer)> {
    let list = portcullis::rule::Peer::PrefixList(PrefixListId::new("pl-00000001"));
    let owner = Some(AccountId::new("111111111111"));
    let group = portcullis::rule::Peer::group(GroupId::new("sg-00000009"), owner);
    vec![
        ("direction", r#""egress""#, cidr()),
        ("protocol", r#""tcp""#, cidr()),
        ("from_port", "443", cidr()),
        ("to_port", "444", cidr()),
        ("destination_kind", r#""cidr""#, cidr()),
        ("destination_kind", r#""prefix_list""#, list.clone()),
        ("destination_kind", r#""group""#, group.clone()),
        ("destination_cidr", r#"ip("10.1.0.0/16")"#, cidr()),
        ("destination_cidr", r#"ip("255.255.255.255")"#, list.clone()),
        ("destination_prefix_list", r#""pl-00000001""#, list),
        ("destination_group", r#""sg-00000009""#, group.clone()),
        ("destination_group_owner", r#""111111111111""#, group),
        ("rule_id", r#""sgr-00000000000000001""#, cidr()),
        ("dry_run", "true", cidr()),
        ("peer_address", r#"ip("10.9.8.7")"#, cidr()),
        ("removes_last_egress_rule", "true", cidr()),
    ]
}

/// The attributes of `Facts`, as the shipped schema has them.
fn attributes() -> Vec<&'static str> {
    let facts = SCHEMA.split_once("type Facts = {").unwrap().1.split_once("};").unwrap().0;
    let members = facts.lines().filter_map(|line| line.trim().split_once(": "));
    members.map(|(name, _)| name).filter(|name| !name.starts_with("//")).collect()
}

#[test]
fn a_forbid_on_each_attribute_forbids() {
    let expected = expected();
    for attribute in attributes() {
        assert!(expected.iter().any(|(name, ..)| *name == attribute), "{attribute} is not tested");
    }
    assert!(attributes().len() >= 13, "{:?}", attributes());
    for (attribute, value, peer) in expected {
        let ask = revoke(peer);
        let on = format!(
            "forbid (principal, action, resource) when {{ context.{attribute} == {value} }};"
        );
        let judged = judge(&on, &ask);
        assert!(!judged.allowed, "{attribute} == {value} does not forbid");
        assert_eq!(judged.policies, ["test.cedar#2"]);
        let off = on.replace("==", "!=");
        assert!(judge(&off, &ask).allowed, "{attribute} != {value} forbids");
    }
}

#[test]
fn a_forbid_on_each_fact_of_group_and_caller_forbids() {
    for condition in [
        r#"resource is SecurityGroup && resource.id == "sg-00000001""#,
        r#"resource is SecurityGroup && resource.name == "front""#,
        r#"resource is SecurityGroup && resource.vpc == "vpc-00000001""#,
        r#"resource is SecurityGroup && resource.owner == "999999999999""#,
        r#"resource.account == "123456789012""#,
        r#"resource.region == "us-east-1""#,
        r#"resource is SecurityGroup && resource.hasTag("team") && resource.getTag("team") == "web""#,
        r#"resource is SecurityGroup && resource in Target::"123456789012/us-east-1""#,
        r#"resource == SecurityGroup::"123456789012/us-east-1/sg-00000001""#,
        r#"principal == Principal::"jwt:https%3A//issuer.example:alice""#,
        r#"principal in Group::"web""#,
        r#"principal.groups.contains("web")"#,
        r#"principal.method == "jwt""#,
        r#"principal.issuer == "https://issuer.example""#,
        r#"principal.subject == "alice""#,
        r#"principal.spiffe_id == "spiffe://example.org/alice""#,
        r#"principal.certificate_subject == "CN=alice""#,
        r#"principal.certificate_issuer == "CN=ca""#,
    ] {
        let policy = format!("forbid (principal, action, resource) when {{ {condition} }};");
        assert!(!judge(&policy, &revoke(cidr())).allowed, "{condition}");
        let negated = format!("forbid (principal, action, resource) unless {{ {condition} }};");
        assert!(judge(&negated, &revoke(cidr())).allowed, "not: {condition}");
    }
}

#[test]
fn every_action_has_every_attribute() {
    let of = |kind: &str| match kind {
        "destination_cidr" | "peer_address" => r#"ip("192.0.2.1")"#,
        "from_port" | "to_port" => "7",
        "dry_run" | "removes_last_egress_rule" => "true",
        _ => r#""nothing""#,
    };
    let conditions: Vec<String> =
        attributes().iter().map(|name| format!("context.{name} == {}", of(name))).collect();
    let policy =
        format!("forbid (principal, action, resource) when {{ {} }};", conditions.join(" || "));
    let mut asked = 0;
    let beside = [Action::Access, Action::UseIncidentLane];
    let beside = beside.map(|action| ("", action.as_str(), actions::Entry::Decided(action)));
    for (service, method, entry) in actions::TABLE.iter().chain(&beside) {
        let actions::Entry::Decided(action) = *entry else { continue };
        let on = match action {
            _ if service.is_empty() => On::Target,
            _ if service.contains("Sandbox") => On::Sandbox,
            _ if service.contains("OperationService") => On::Target,
            Action::DescribeSecurityGroups | Action::DescribeSecurityGroupRules => On::Target,
            _ => On::Group,
        };
        let ask = Ask {
            action,
            on,
            rule: RuleFacts::none(),
            circumstances: Circumstances::default(),
            address: None,
        };
        let judged = judge(&policy, &ask);
        assert_eq!(judged.errors, Vec::<String>::new(), "{method}");
        assert!(judged.allowed, "{method}");
        asked += 1;
    }
    assert!(asked >= 18);
}

#[test]
fn all_protocols_are_all_ports() {
    let policy = r#"forbid (principal, action, resource) when { context.from_port <= 22 && context.to_port >= 22 };"#;
    let spec = RuleSpec { traffic: Traffic::ALL, peer: cidr(), description: None };
    let rule = RuleFacts::of_spec(Direction::Egress, &spec);
    assert!(!judge(policy, &Ask { rule, ..revoke(cidr()) }).allowed);
    assert!(judge(policy, &revoke(cidr())).allowed);
}

#[test]
fn an_evaluation_error_denies() {
    let policy =
        "permit (principal, action, resource) when { context.to_port * 9223372036854775807 > 0 };";
    let judged = judge(policy, &revoke(cidr()));
    assert!(!judged.allowed);
    assert!(judged.errors[0].contains("overflow"), "{:?}", judged.errors);
}

#[test]
fn what_cannot_be_asked_is_denied() {
    let judged = judge("", &Ask { on: On::Sandbox, ..revoke(cidr()) });
    assert!(!judged.allowed && !judged.errors.is_empty(), "{judged:?}");
}

#[test]
fn another_issuers_alice_is_not_this_one() {
    let text = r#"permit (principal == Principal::"jwt:https%3A//other.example:alice", action, resource);"#;
    let policies = Policies::parse(&[("a.cedar".to_owned(), text.to_owned())]).unwrap();
    let access = Access::with(policies, Mode::Enforce);
    let (principal, peer, target) = (principal(), Peer::default(), target());
    let caller = Caller { principal: &principal, peer: &peer, request_id: "r" };
    let circumstances = Circumstances::default();
    assert!(
        access.check(caller, Action::Access, Resource::Target(&target), circumstances).is_err()
    );
    let other = Principal { issuer: "https://other.example".to_owned(), ..principal.clone() };
    let caller = Caller { principal: &other, ..caller };
    assert!(access.check(caller, Action::Access, Resource::Target(&target), circumstances).is_ok());
}

#[test]
fn a_policy_on_trial_neither_permits_nor_forbids() {
    let judged = |text: &str| {
        let policies = Policies::parse(&[("a.cedar".to_owned(), text.to_owned())]).unwrap();
        let access = Access::with(policies, Mode::Enforce);
        let (principal, peer, target) = (principal(), Peer::default(), target());
        let caller = Caller { principal: &principal, peer: &peer, request_id: "r" };
        let (on, none) = (Resource::Target(&target), [RuleFacts::none()]);
        access.explain(caller, Action::Access, on, Circumstances::default(), &none).remove(0)
    };
    let permit = judged("@report_only(\"true\") permit (principal, action, resource);");
    assert!(!permit.allowed);
    assert_eq!(permit.would, Some((true, vec!["a.cedar#1".to_owned()])));
    let forbid =
        judged(&format!("{PERMIT}@report_only(\"true\") forbid (principal, action, resource);"));
    assert!(forbid.allowed);
    assert_eq!(forbid.would, Some((false, vec!["a.cedar#2".to_owned()])));
    let failing = judged(&format!(
        "{PERMIT}@report_only(\"true\") forbid (principal, action, resource) when {{ (context.to_port + 2) * 9223372036854775807 * 2 > 0 }};"
    ));
    assert!(failing.allowed, "{failing:?}");
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn decisions_are_logged_with_what_determined_them_and_callers_learn_nothing_of_it() {
    let text = r#"@id("all") permit (principal, action, resource);
        @id("secret-name") forbid (principal, action, resource) when { context.from_port == 22 };"#;
    let policies = Policies::parse(&[("a.cedar".to_owned(), text.to_owned())]).unwrap();
    let access = Access::with(policies, Mode::Enforce);
    let (principal, peer, target) = (principal(), Peer::default(), target());
    let caller = Caller { principal: &principal, peer: &peer, request_id: "req-1" };
    let group = GroupFacts { id: "sg-00000001", name: "n", vpc: "v", owner: "o", tags: &[] };
    let rule = |port| {
        let traffic = Traffic::new(Protocol::TCP, Some(port), Some(port)).unwrap();
        let spec = RuleSpec { traffic, peer: cidr(), description: None };
        RuleFacts::of_spec(Direction::Egress, &spec)
    };
    let log = Log::default();
    let writer = log.clone();
    // While there is only one subscriber, another test's thread that comes to a line first decides that nobody wants it.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let subscriber =
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let denied = tracing::subscriber::with_default(subscriber, || {
        let rules = [rule(80), rule(443), rule(22)];
        let on = Resource::Group(&target, group);
        access.check_rules(caller, Action::AuthorizeEgress, on, Circumstances::default(), &rules)
    });
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    for part in ["allowed", "policies=\"a.cedar#all\"", "rules=2", "AuthorizeEgress", "req-1"] {
        assert!(lines[0].contains(part), "{part} in {}", lines[0]);
    }
    for part in [
        "denied",
        "policies=\"a.cedar#secret-name\"",
        "rules=1",
        "tcp 22-22",
        "jwt:https%3A//issuer.example:alice",
        "123456789012/us-east-1/sg-00000001",
    ] {
        assert!(lines[1].contains(part), "{part} in {}", lines[1]);
    }
    let error = denied.unwrap_err();
    assert!(!format!("{error:?}").contains("secret-name"), "{error:?}");
}

#[test]
fn no_rules_are_not_allowed_rules() {
    let policies = Policies::parse(&[("a.cedar".to_owned(), PERMIT.to_owned())]).unwrap();
    let access = Access::with(policies, Mode::Enforce);
    let (principal, peer, target) = (principal(), Peer::default(), target());
    let caller = Caller { principal: &principal, peer: &peer, request_id: "r" };
    let (on, circumstances) = (Resource::Target(&target), Circumstances::default());
    assert!(access.check_rules(caller, Action::Access, on, circumstances, &[]).is_err());
    assert!(access.check(caller, Action::Access, on, circumstances).is_ok());
}

/// Access is open where nothing decides; a privilege is not.
#[test]
fn a_privilege_is_what_a_policy_permits_and_nothing_else() {
    let permit = r#"permit (principal, action == Action::"UseIncidentLane", resource in Target::"123456789012/us-east-1");"#;
    let elsewhere = permit.replace("us-east-1", "eu-west-1");
    let on_trial = format!("{READERS}\n@report_only(\"true\") {permit}");
    let forbidden = format!("{permit} forbid (principal, action, resource);");
    let parsed = |text: &str| Policies::parse(&[("a.cedar".to_owned(), text.to_owned())]).unwrap();
    let (principal, peer, target) = (principal(), Peer::default(), target());
    let caller = Caller { principal: &principal, peer: &peer, request_id: "r" };
    let has =
        |access: &Access| access.grants(caller, Action::UseIncidentLane, Resource::Target(&target));
    for (text, expected) in [
        (permit, true),
        // A policy that names no action is about all of them.
        (PERMIT, true),
        (READERS, false),
        (&elsewhere, false),
        (&on_trial, false),
        (&forbidden, false),
    ] {
        for mode in [Mode::Enforce, Mode::ReportOnly] {
            assert_eq!(has(&Access::with(parsed(text), mode)), expected, "{mode:?}: {text}");
        }
    }
    assert!(!has(&Access::allow_all()));
}

const READERS: &str =
    r#"permit (principal, action in [Action::"access", Action::"read"], resource);"#;
