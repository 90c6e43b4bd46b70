//! The six scalars of EC2's older request form. EC2 supports them on the ingress calls and not on the egress calls
//! (ec2-facts section 9), where they are refused with the IpPermissions that say the same.

use super::{COMBINATION, INVALID_VALUE};
use crate::{
    api::encode,
    rule::{
        IpPermission, RuleSpec, Violation, expand,
        permission::{Range, UserIdGroupPair, excerpt, given, part_groups_from_ranges},
    },
};

/// The six, as they came.
#[derive(Clone, Debug, Default)]
pub struct Scalars {
    pub cidr_ip: Option<String>,
    pub from_port: Option<i32>,
    pub ip_protocol: Option<String>,
    pub to_port: Option<i32>,
    pub source_security_group_name: Option<String>,
    pub source_security_group_owner_id: Option<String>,
}

impl Scalars {
    /// Those that are set, by field name and EC2's parameter name. Empty strings and zeros count as unset: CLI
    /// skeletons hold them.
    pub fn set_fields(&self) -> Vec<(&'static str, &'static str)> {
        let text = |value: &Option<String>| given(value.as_deref()).is_some();
        let number = |value: Option<i32>| value.is_some_and(|value| value != 0);
        [
            (("cidr_ip", "cidrIp"), text(&self.cidr_ip)),
            (("from_port", "fromPort"), number(self.from_port)),
            (("ip_protocol", "ipProtocol"), text(&self.ip_protocol)),
            (("to_port", "toPort"), number(self.to_port)),
            (
                ("source_security_group_name", "sourceSecurityGroupName"),
                text(&self.source_security_group_name),
            ),
            (
                ("source_security_group_owner_id", "sourceSecurityGroupOwnerId"),
                text(&self.source_security_group_owner_id),
            ),
        ]
        .into_iter()
        .filter_map(|(names, set)| set.then_some(names))
        .collect()
    }

    /// Egress: each one that is set is a violation that spells the equivalent.
    pub fn refuse(&self, with_others: bool, violations: &mut Vec<Violation>) {
        let set = self.set_fields();
        if set.is_empty() {
            return;
        }
        let code = if with_others { COMBINATION } else { INVALID_VALUE };
        let equivalent = self.equivalent();
        for (field, _) in set {
            let message = format!("Not supported on this call. Use IpPermissions={equivalent}");
            violations.push(Violation::new(field, code, message));
        }
    }

    /// Ingress: the rules that the scalars stand for. None if no scalar is set, or with what is wrong noted. `other`: EC2's name of
    /// what says other rules.
    pub fn rules(
        &self,
        other: Option<&str>,
        owner_supported: bool,
        violations: &mut Vec<Violation>,
    ) -> Option<Vec<RuleSpec>> {
        let set = self.set_fields();
        let (first_field, first_parameter) = *set.first()?;
        let before = violations.len();
        if let Some(other) = other {
            let message = format!(
                "The parameter '{other}' may not be used in combination with '{first_parameter}'"
            );
            violations.push(Violation::new(first_field, COMBINATION, message));
        }
        let source = given(self.source_security_group_name.as_deref()).is_some();
        let owner = given(self.source_security_group_owner_id.as_deref()).is_some();
        if owner && !owner_supported {
            let message = "Not supported on this call. Use a set of IP permissions to specify the \
                           security group.";
            let field = "source_security_group_owner_id";
            violations.push(Violation::new(field, INVALID_VALUE, message));
        }
        if source {
            for (field, parameter) in &set {
                if !field.starts_with("source_") {
                    let message = format!(
                        "The parameter '{parameter}' may not be used in combination with \
                         'sourceSecurityGroupName'"
                    );
                    violations.push(Violation::new(*field, COMBINATION, message));
                }
            }
        }
        if violations.len() > before {
            return None;
        }
        match expand("", &self.permissions(source)) {
            Ok(specs) => Some(specs),
            Err(found) => {
                for mut violation in found {
                    violation.field = field_of(&violation.field).to_owned();
                    if !violations.contains(&violation) {
                        violations.push(violation);
                    }
                }
                None
            }
        }
    }

    /// A source group alone stands for all TCP, UDP and ICMP from it.
    fn permissions(&self, source: bool) -> Vec<IpPermission> {
        if !source {
            return vec![IpPermission {
                ip_protocol: self.ip_protocol.clone(),
                from_port: self.from_port,
                to_port: self.to_port,
                ip_ranges: vec![Range { cidr: self.cidr_ip.clone(), description: None }],
                ..IpPermission::default()
            }];
        }
        [("icmp", -1, -1), ("tcp", 0, 65535), ("udp", 0, 65535)]
            .into_iter()
            .map(|(protocol, from, to)| IpPermission {
                ip_protocol: Some(protocol.to_owned()),
                from_port: Some(from),
                to_port: Some(to),
                user_id_group_pairs: vec![self.pair()],
                ..IpPermission::default()
            })
            .collect()
    }

    fn pair(&self) -> UserIdGroupPair {
        UserIdGroupPair {
            group_name: self.short(&self.source_security_group_name),
            user_id: self.short(&self.source_security_group_owner_id),
            ..UserIdGroupPair::default()
        }
    }

    /// The same in IpPermissions, as JSON to paste. What is not set is left for the caller to fill in.
    fn equivalent(&self) -> String {
        let cidr = self.short(&self.cidr_ip);
        let range = cidr.map(|cidr| Range { cidr: Some(cidr), description: None });
        let is_v6 = self.cidr_ip.as_deref().is_some_and(|cidr| cidr.contains(':'));
        let (v6, v4) = range.into_iter().partition(|_| is_v6);
        let pair = self.pair();
        let has_pair = pair != UserIdGroupPair::default();
        let permission = IpPermission {
            ip_protocol: self.short(&self.ip_protocol),
            from_port: self.from_port,
            to_port: self.to_port,
            ip_ranges: v4,
            ipv6_ranges: v6,
            user_id_group_pairs: if has_pair { vec![pair] } else { Vec::new() },
            ..IpPermission::default()
        };
        let permissions = if permission.peers() > 0 {
            part_groups_from_ranges(vec![permission])
        } else {
            vec![permission]
        };
        serde_json::to_string(&encode::permissions(&permissions)).unwrap_or_default()
    }

    fn short(&self, text: &Option<String>) -> Option<String> {
        given(text.as_deref()).map(excerpt)
    }
}

/// The scalar that a path of the equivalent permission stands for.
fn field_of(path: &str) -> &'static str {
    match path.rsplit('.').next().unwrap_or_default() {
        "from_port" => "from_port",
        "to_port" => "to_port",
        "ip_protocol" => "ip_protocol",
        "group_name" | "group_id" => "source_security_group_name",
        "user_id" => "source_security_group_owner_id",
        _ => "cidr_ip",
    }
}
