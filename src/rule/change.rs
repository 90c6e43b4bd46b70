//! Changing rules that exist: what ModifySecurityGroupRules and UpdateSecurityGroupRuleDescriptions name.
//!
//! Both differ from authorize and revoke in what they take for ports with protocol -1: a modification nothing or
//! -1 and -1, an update of descriptions nothing (ec2-facts R16).

use std::collections::HashSet;

use super::{
    IpPermission, Protocol, RuleId, RuleSpec, Violation, expand,
    permission::{MAX_RULES, MAX_VIOLATIONS, PrefixListRef, Range, UserIdGroupPair, given},
};

/// A rule's id and what the rule is to be: all of it is replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleChange {
    /// The rule.
    pub id: RuleId,
    /// Its new properties. Without a description it has none afterwards.
    pub spec: RuleSpec,
}

/// EC2's SecurityGroupRuleRequest as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleRequest {
    /// Protocol name or number.
    pub ip_protocol: Option<String>,
    /// First port or ICMP type.
    pub from_port: Option<i32>,
    /// Last port or ICMP code.
    pub to_port: Option<i32>,
    /// The peer, if it is an IPv4 range.
    pub cidr_ipv4: Option<String>,
    /// The peer, if it is an IPv6 range.
    pub cidr_ipv6: Option<String>,
    /// The peer, if it is a prefix list.
    pub prefix_list_id: Option<String>,
    /// The peer, if it is a security group.
    pub referenced_group_id: Option<String>,
    /// The description.
    pub description: Option<String>,
}

const INVALID_VALUE: &str = "InvalidParameterValue";
const MISSING: &str = "MissingParameter";

/// Reads the updates of ModifySecurityGroupRules, each a rule id and the rule that replaces it.
///
/// All violations come back at once, with paths under `field` such as `FIELD[0].security_group_rule.cidr_ipv4`.
pub fn changes(
    field: &str,
    updates: &[(Option<String>, Option<RuleRequest>)],
) -> Result<Vec<RuleChange>, Vec<Violation>> {
    if updates.is_empty() {
        let message = "The request must contain the parameter securityGroupRules";
        return Err(vec![Violation::new(field, MISSING, message)]);
    }
    if updates.len() > MAX_RULES {
        let message =
            format!("{} rules in one request; at most {MAX_RULES} are allowed.", updates.len());
        return Err(vec![Violation::new(field, "ResourceCountExceeded", message)]);
    }
    let mut seen = HashSet::with_capacity(updates.len());
    let mut changes = Vec::with_capacity(updates.len());
    let mut violations = Vec::new();
    for (index, (id, rule)) in updates.iter().enumerate() {
        if violations.len() >= MAX_VIOLATIONS {
            break;
        }
        let id = rule_id(id.as_deref(), &mut seen).map_err(|(code, message)| {
            let path = format!("{field}[{index}].security_group_rule_id");
            violations.push(Violation::new(path, code, message));
        });
        let spec = replacement(rule.as_ref()).map_err(|found| {
            let path = format!("{field}[{index}].security_group_rule");
            violations.extend(found.into_iter().map(|violation| within(&path, violation)));
        });
        if let (Ok(id), Ok(spec)) = (id, spec) {
            changes.push(RuleChange { id, spec });
        }
    }
    violations.truncate(MAX_VIOLATIONS);
    if violations.is_empty() { Ok(changes) } else { Err(violations) }
}

/// Reads the permissions of UpdateSecurityGroupRuleDescriptions: as [`expand`] does, but with protocol -1 a port is
/// refused.
pub fn described(
    field: &str,
    permissions: &[IpPermission],
) -> Result<Vec<RuleSpec>, Vec<Violation>> {
    let (specs, mut violations) = match expand(field, permissions) {
        Ok(specs) => (specs, Vec::new()),
        Err(violations) => (Vec::new(), violations),
    };
    for (index, permission) in permissions.iter().enumerate() {
        let all = permission.ip_protocol.as_deref().and_then(Protocol::parse);
        if all != Some(Protocol::ALL) {
            continue;
        }
        let ports = [
            ("from_port", "from-port", permission.from_port),
            ("to_port", "to-port", permission.to_port),
        ];
        for (member, name, _) in ports.into_iter().filter(|(.., port)| port.is_some()) {
            let message = format!("When protocol is ALL, you cannot specify {name}.");
            let path = format!("{field}[{index}].{member}");
            violations.push(Violation::new(path, INVALID_VALUE, message));
        }
        if violations.len() >= MAX_VIOLATIONS {
            break;
        }
    }
    violations.truncate(MAX_VIOLATIONS);
    if violations.is_empty() { Ok(specs) } else { Err(violations) }
}

fn rule_id(
    text: Option<&str>,
    seen: &mut HashSet<RuleId>,
) -> Result<RuleId, (&'static str, String)> {
    let Some(text) = given(text) else {
        let message = "The request must contain the parameter securityGroupRuleId";
        return Err((MISSING, message.to_owned()));
    };
    let Some(id) = RuleId::parse(text) else {
        return Err(("InvalidSecurityGroupRuleId.Malformed", malformed_rule_id(text)));
    };
    if !seen.insert(id.clone()) {
        return Err((INVALID_VALUE, repeated_rule_id(&id)));
    }
    Ok(id)
}

/// EC2's sentence for a malformed rule id.
fn malformed_rule_id(text: &str) -> String {
    format!("Invalid id: \"{}\"", super::permission::excerpt(text))
}

/// EC2's sentence for a rule id that a call has twice (R32).
pub fn repeated_rule_id(id: &RuleId) -> String {
    format!(
        "Duplicated security group rule ID '{}'. The same security group rule ID must not appear \
         multiple times.",
        super::permission::excerpt(id.as_str())
    )
}

/// A rule out of its text. The violations name its members; an empty name means the rule as a whole.
fn replacement(request: Option<&RuleRequest>) -> Result<RuleSpec, Vec<Violation>> {
    let none = RuleRequest::default();
    let request = request.unwrap_or(&none);
    let mut violations = Vec::new();
    let peers = [
        &request.cidr_ipv4,
        &request.cidr_ipv6,
        &request.prefix_list_id,
        &request.referenced_group_id,
    ];
    match peers.into_iter().filter(|peer| given(peer.as_deref()).is_some()).count() {
        0 => {
            let message = "The request must contain exactly one of: cidrIp, cidrIpv6, prefixListId, \
                           or referencedGroupId";
            violations.push(Violation::new("", MISSING, message));
        }
        1 => {}
        _ => {
            let message = "Only one of cidrIp, cidrIpv6, prefixListId, or referencedGroupId can be \
                           specified";
            violations.push(Violation::new("", "InvalidParameterCombination", message));
        }
    }
    let protocol = request.ip_protocol.as_deref().and_then(Protocol::parse);
    let no_ports = [(None, None), (Some(-1), Some(-1))];
    if protocol == Some(Protocol::ALL) && !no_ports.contains(&(request.from_port, request.to_port))
    {
        let message = "You may not specify all protocols and specific ports. Please specify each \
                       protocol and port range combination individually, or all protocols and no \
                       port range.";
        violations.push(Violation::new("from_port", INVALID_VALUE, message));
    }
    // A rule is a permission with one peer, so what is wrong with one is found as for the other.
    match expand("", &[permission(request)]) {
        Ok(mut specs) if violations.is_empty() => match (specs.pop(), specs.pop()) {
            (Some(spec), None) => return Ok(spec),
            _ => violations.push(Violation::new("", MISSING, "The rule has no peer.")),
        },
        Ok(_) => {}
        Err(found) => violations.extend(found.into_iter().filter_map(|violation| {
            let field = member(&violation.field)?.to_owned();
            Some(Violation { field, ..violation })
        })),
    }
    Err(violations)
}

/// The request as a permission, with the description at each peer.
fn permission(request: &RuleRequest) -> IpPermission {
    let text = |text: &Option<String>| given(text.as_deref()).map(str::to_owned);
    let description = text(&request.description);
    let range = |cidr: &Option<String>| {
        text(cidr).map(|cidr| Range { cidr: Some(cidr), description: description.clone() })
    };
    let list = text(&request.prefix_list_id)
        .map(|id| PrefixListRef { prefix_list_id: Some(id), description: description.clone() });
    let pair = text(&request.referenced_group_id).map(|id| UserIdGroupPair {
        group_id: Some(id),
        description: description.clone(),
        ..UserIdGroupPair::default()
    });
    IpPermission {
        ip_protocol: request.ip_protocol.clone(),
        from_port: request.from_port,
        to_port: request.to_port,
        ip_ranges: range(&request.cidr_ipv4).into_iter().collect(),
        ipv6_ranges: range(&request.cidr_ipv6).into_iter().collect(),
        prefix_list_ids: list.into_iter().collect(),
        user_id_group_pairs: pair.into_iter().collect(),
    }
}

/// The rule's member that a path into its permission ends with. None: the permission as a whole, which lacks a peer;
/// that has been said.
fn member(path: &str) -> Option<&str> {
    match path.rsplit('.').next()? {
        "cidr_ip" => Some("cidr_ipv4"),
        "group_id" => Some("referenced_group_id"),
        name if name.contains('[') => None,
        name => Some(name),
    }
}

fn within(path: &str, violation: Violation) -> Violation {
    let field = match violation.field.as_str() {
        "" => path.to_owned(),
        member => format!("{path}.{member}"),
    };
    Violation { field, ..violation }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::{Peer, Traffic};

    const ID: &str = "sgr-0000000000000a1e1";

    fn tcp(cidr: &str) -> RuleRequest {
        RuleRequest {
            ip_protocol: Some("tcp".to_owned()),
            from_port: Some(1),
            to_port: Some(2),
            cidr_ipv4: Some(cidr.to_owned()),
            ..RuleRequest::default()
        }
    }

    fn all(from: Option<i32>, to: Option<i32>) -> RuleRequest {
        let protocol = Some("-1".to_owned());
        RuleRequest { ip_protocol: protocol, from_port: from, to_port: to, ..tcp("10.0.0.0/8") }
    }

    fn update(id: &str, request: RuleRequest) -> (Option<String>, Option<RuleRequest>) {
        (Some(id.to_owned()), Some(request))
    }

    fn one(request: RuleRequest) -> Result<RuleSpec, Vec<Violation>> {
        changes("u", &[update(ID, request)]).map(|mut changes| changes.pop().unwrap().spec)
    }

    fn found(result: Result<RuleSpec, Vec<Violation>>) -> Vec<(String, &'static str)> {
        let violations = result.unwrap_err();
        violations.into_iter().map(|violation| (violation.field, violation.code)).collect()
    }

    #[test]
    fn a_change_replaces_the_whole_rule() {
        let described = RuleRequest { description: Some("why".to_owned()), ..tcp("10.0.0.1/8") };
        let spec = one(described).unwrap();
        assert_eq!(spec.peer.to_string(), "10.0.0.1/8");
        assert_eq!((spec.traffic.from_port(), spec.traffic.to_port()), (1, 2));
        assert_eq!(spec.description.as_deref(), Some("why"));
        let bare = RuleRequest { description: Some(String::new()), ..tcp("10.0.0.0/8") };
        assert_eq!(one(bare).unwrap().description, None);
        for (request, peer) in [
            (
                RuleRequest { cidr_ipv4: None, cidr_ipv6: Some("::/0".to_owned()), ..tcp("") },
                "::/0",
            ),
            (
                RuleRequest { prefix_list_id: Some("pl-00000001".to_owned()), ..tcp("") },
                "pl-00000001",
            ),
            (
                RuleRequest { referenced_group_id: Some("sg-00000001".to_owned()), ..tcp("") },
                "sg-00000001",
            ),
        ] {
            assert_eq!(one(request).unwrap().peer.to_string(), peer);
        }
    }

    #[test]
    fn a_change_has_exactly_one_peer() {
        let whole = "u[0].security_group_rule".to_owned();
        let missing = [(whole.clone(), "MissingParameter")];
        assert_eq!(found(one(tcp(""))), missing);
        let two = RuleRequest { cidr_ipv6: Some("::/0".to_owned()), ..tcp("10.0.0.0/8") };
        let violations = one(two).unwrap_err();
        let text =
            "Only one of cidrIp, cidrIpv6, prefixListId, or referencedGroupId can be specified";
        assert_eq!(
            violations,
            [Violation::new(whole.clone(), "InvalidParameterCombination", text)]
        );
        // Without a rule, everything that a rule needs is missing.
        let violations = changes("u", &[(Some(ID.to_owned()), None)]).unwrap_err();
        let fields: Vec<&str> =
            violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, [whole.as_str(), "u[0].security_group_rule.ip_protocol"]);
    }

    #[test]
    fn r16_all_protocols_take_no_ports_or_minus_one() {
        for ports in [(None, None), (Some(-1), Some(-1))] {
            assert_eq!(one(all(ports.0, ports.1)).unwrap().traffic, Traffic::ALL);
        }
        for ports in [(Some(0), Some(0)), (Some(-1), None), (None, Some(-1)), (Some(-1), Some(0))] {
            let violations = one(all(ports.0, ports.1)).unwrap_err();
            let [violation] = violations.as_slice() else { panic!("{violations:?}") };
            assert_eq!(violation.field, "u[0].security_group_rule.from_port");
            assert_eq!(violation.code, "InvalidParameterValue");
            assert!(
                violation.message.starts_with("You may not specify all protocols and specific")
            );
        }
    }

    #[test]
    fn every_violation_has_its_member_s_path() {
        let bad = [
            (None, Some(tcp("10.0.0.0/8"))),
            update("10.0.0.0/8", tcp("10.0.0.0/40")),
            update(ID, tcp("10.0.0.0/8")),
            update(ID, RuleRequest { ip_protocol: None, ..tcp("10.0.0.0/8") }),
            update("sgr-1", RuleRequest { to_port: None, ..tcp("10.0.0.0/8") }),
            update("sgr-2", RuleRequest { description: Some("é".to_owned()), ..tcp("10.0.0.0/8") }),
            update("sgr-3", RuleRequest { referenced_group_id: Some("web".to_owned()), ..tcp("") }),
            update("sgr-4", RuleRequest { prefix_list_id: Some("web".to_owned()), ..tcp("") }),
            update("sgr-5", RuleRequest { cidr_ipv6: Some("::".to_owned()), ..tcp("") }),
        ];
        let violations = changes("u", &bad).unwrap_err();
        let found: Vec<(&str, &str)> =
            violations.iter().map(|violation| (violation.field.as_str(), violation.code)).collect();
        let value = "InvalidParameterValue";
        assert_eq!(
            found,
            [
                ("u[0].security_group_rule_id", "MissingParameter"),
                ("u[1].security_group_rule_id", "InvalidSecurityGroupRuleId.Malformed"),
                ("u[1].security_group_rule.cidr_ipv4", value),
                ("u[3].security_group_rule_id", value),
                ("u[3].security_group_rule.ip_protocol", value),
                ("u[4].security_group_rule.to_port", value),
                ("u[5].security_group_rule.description", value),
                ("u[6].security_group_rule.referenced_group_id", "InvalidGroupId.Malformed"),
                ("u[7].security_group_rule.prefix_list_id", "InvalidPrefixListId.Malformed"),
                ("u[8].security_group_rule.cidr_ipv6", value),
            ]
        );
        let text = format!("Duplicated security group rule ID '{ID}'.");
        assert!(violations[3].message.starts_with(&text), "{violations:?}");
    }

    #[test]
    fn there_is_something_to_change_and_not_too_much() {
        assert_eq!(changes("u", &[]).unwrap_err()[0].code, "MissingParameter");
        let many: Vec<_> =
            (0..=1000).map(|number| update(&format!("sgr-{number}"), tcp("10.0.0.0/8"))).collect();
        assert_eq!(changes("u", &many).unwrap_err()[0].code, "ResourceCountExceeded");
        assert_eq!(changes("u", &many[..1000]).unwrap().len(), 1000);
        let bad: Vec<_> = (0..1000).map(|_| update("", tcp(""))).collect();
        assert_eq!(changes("u", &bad).unwrap_err().len(), MAX_VIOLATIONS);
    }

    #[test]
    fn descriptions_of_all_protocols_are_named_without_ports() {
        let permission = |from_port, to_port| IpPermission {
            ip_protocol: Some("-1".to_owned()),
            from_port,
            to_port,
            ip_ranges: vec![Range { cidr: Some("10.0.0.0/8".to_owned()), description: None }],
            ..IpPermission::default()
        };
        let specs = described("p", &[permission(None, None)]).unwrap();
        assert_eq!((specs[0].traffic, specs.len()), (Traffic::ALL, 1));
        assert!(matches!(specs[0].peer, Peer::Ipv4(_)));
        let bad = IpPermission { ip_protocol: Some("x".to_owned()), ..permission(Some(1), None) };
        let both = [bad, permission(Some(-1), Some(-1))];
        let violations = described("p", &both).unwrap_err();
        let found: Vec<(&str, &str)> = violations
            .iter()
            .map(|violation| (violation.field.as_str(), violation.message.as_str()))
            .collect();
        assert_eq!(
            found[1..],
            [
                ("p[1].from_port", "When protocol is ALL, you cannot specify from-port."),
                ("p[1].to_port", "When protocol is ALL, you cannot specify to-port."),
            ]
        );
        assert_eq!(found[0].0, "p[0].ip_protocol");
        let udp =
            IpPermission { ip_protocol: Some("udp".to_owned()), ..permission(Some(1), Some(2)) };
        assert!(described("p", &[udp]).is_ok());
    }
}
