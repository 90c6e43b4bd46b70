//! The domain as the contract's messages.

use super::proto::v1;
use crate::{
    backend::{Authorized, Created, Deleted, Group, GroupImage, OwnedRule, Page, RevokedRule},
    error::{Error, UnknownExplanation, UnknownSubject},
    operations::{
        Outcome, RevokeOutcome, Warning, WarningKind,
        revoke::{Extent, Verification},
    },
    rule::{
        Direction, GroupPeer, IpPermission, Peer, Rule, RuleSpec, Tag, Target,
        explain::UnknownReason, group, permission,
    },
};

pub mod operations;

/// The parts that both directions' answers have; each RPC has a message of its own.
macro_rules! revoke_response {
    ($name:ident, $response:ident) => {
        /// The answer of a revoke.
        pub fn $name(outcome: Outcome, operation_id: &str) -> Result<v1::$response, Error> {
            match outcome {
                Outcome::Revoked(outcome) => {
                    let RevokeOutcome {
                        return_value,
                        revoked,
                        unknown,
                        extent,
                        to_verify: _,
                        warnings,
                    } = *outcome;
                    Ok(v1::$response {
                        return_value,
                        unknown_ip_permissions: permissions(&unknown.permissions),
                        revoked_security_group_rules: revoked
                            .into_iter()
                            .map(revoked_rule)
                            .collect(),
                        unknown_explanations: unknown
                            .explanations
                            .iter()
                            .map(explanation)
                            .collect(),
                        dry_run: false,
                        operation_id: operation_id.to_owned(),
                        // Not part of the recorded answer.
                        verification: None,
                        warnings: warnings.into_iter().map(warning).collect(),
                        outcome: extent_of(extent).into(),
                        unknown_security_group_rule_ids: unknown
                            .rule_ids
                            .iter()
                            .map(ToString::to_string)
                            .collect(),
                    })
                }
                Outcome::DryRun => Ok(v1::$response { dry_run: true, ..Default::default() }),
                other => Err(mismatch(&other)),
            }
        }
    };
}

macro_rules! authorize_response {
    ($name:ident, $response:ident) => {
        /// The answer of an authorize.
        pub fn $name(outcome: Outcome, operation_id: &str) -> Result<v1::$response, Error> {
            match outcome {
                Outcome::Authorized(Authorized { return_value, rules, .. }, warnings) => {
                    Ok(v1::$response {
                        return_value,
                        security_group_rules: rules.iter().map(owned_rule).collect(),
                        dry_run: false,
                        operation_id: operation_id.to_owned(),
                        warnings: warnings.into_iter().map(warning).collect(),
                    })
                }
                Outcome::DryRun => Ok(v1::$response { dry_run: true, ..Default::default() }),
                other => Err(mismatch(&other)),
            }
        }
    };
}

revoke_response!(revoke_egress, RevokeEgressResponse);
revoke_response!(revoke_ingress, RevokeIngressResponse);
authorize_response!(authorize_egress, AuthorizeEgressResponse);
authorize_response!(authorize_ingress, AuthorizeIngressResponse);

/// The answer of DescribeSecurityGroupRules.
pub fn describe_rules(
    outcome: Outcome,
    _: &str,
) -> Result<v1::DescribeSecurityGroupRulesResponse, Error> {
    match outcome {
        Outcome::Rules(target, Page { items, next_token }) => {
            let with_arn = |rule: &OwnedRule| {
                let mut encoded = owned_rule(rule);
                let id = encoded.security_group_rule_id.clone().unwrap_or_default();
                encoded
                    .security_group_rule_arn
                    .get_or_insert_with(|| arn(&target, "security-group-rule", &id));
                encoded
            };
            Ok(v1::DescribeSecurityGroupRulesResponse {
                security_group_rules: items.iter().map(with_arn).collect(),
                next_token,
                dry_run: false,
            })
        }
        Outcome::DryRun => {
            Ok(v1::DescribeSecurityGroupRulesResponse { dry_run: true, ..Default::default() })
        }
        other => Err(mismatch(&other)),
    }
}

/// The answer of DescribeSecurityGroups.
pub fn describe_groups(
    outcome: Outcome,
    _: &str,
) -> Result<v1::DescribeSecurityGroupsResponse, Error> {
    match outcome {
        Outcome::Groups(target, Page { items, next_token }) => {
            Ok(v1::DescribeSecurityGroupsResponse {
                security_groups: items.iter().map(|image| security_group(&target, image)).collect(),
                next_token,
                dry_run: false,
            })
        }
        Outcome::DryRun => {
            Ok(v1::DescribeSecurityGroupsResponse { dry_run: true, ..Default::default() })
        }
        other => Err(mismatch(&other)),
    }
}

/// The answer of CreateSecurityGroup.
pub fn created(
    outcome: Outcome,
    operation_id: &str,
) -> Result<v1::CreateSecurityGroupResponse, Error> {
    match outcome {
        Outcome::Created(Created { group_id, tags: new_tags, arn, .. }, warnings) => {
            Ok(v1::CreateSecurityGroupResponse {
                group_id,
                tags: tags(&new_tags),
                security_group_arn: arn,
                dry_run: false,
                operation_id: operation_id.to_owned(),
                warnings: warnings.into_iter().map(warning).collect(),
            })
        }
        Outcome::DryRun => {
            Ok(v1::CreateSecurityGroupResponse { dry_run: true, ..Default::default() })
        }
        other => Err(mismatch(&other)),
    }
}

/// The answer of DeleteSecurityGroup.
pub fn deleted(
    outcome: Outcome,
    operation_id: &str,
) -> Result<v1::DeleteSecurityGroupResponse, Error> {
    match outcome {
        Outcome::Deleted(Deleted { return_value, group_id, .. }, warnings) => {
            Ok(v1::DeleteSecurityGroupResponse {
                return_value,
                group_id,
                dry_run: false,
                operation_id: operation_id.to_owned(),
                warnings: warnings.into_iter().map(warning).collect(),
            })
        }
        Outcome::DryRun => {
            Ok(v1::DeleteSecurityGroupResponse { dry_run: true, ..Default::default() })
        }
        other => Err(mismatch(&other)),
    }
}

fn mismatch(outcome: &Outcome) -> Error {
    Error::internal(format!("the outcome does not fit the call: {outcome:?}"))
}

// === permissions and rules ===

/// Permissions, member by member.
pub fn permissions(permissions: &[IpPermission]) -> Vec<v1::IpPermission> {
    permissions.iter().map(permission).collect()
}

/// A permission, member by member.
pub fn permission(permission: &IpPermission) -> v1::IpPermission {
    v1::IpPermission {
        from_port: permission.from_port,
        ip_protocol: permission.ip_protocol.clone(),
        ip_ranges: permission.ip_ranges.iter().map(ip_range).collect(),
        ipv6_ranges: permission.ipv6_ranges.iter().map(ipv6_range).collect(),
        prefix_list_ids: permission.prefix_list_ids.iter().map(prefix_list).collect(),
        to_port: permission.to_port,
        user_id_group_pairs: permission.user_id_group_pairs.iter().map(group_pair).collect(),
    }
}

fn ip_range(range: &permission::Range) -> v1::IpRange {
    v1::IpRange { cidr_ip: range.cidr.clone(), description: range.description.clone() }
}

fn ipv6_range(range: &permission::Range) -> v1::Ipv6Range {
    v1::Ipv6Range { cidr_ipv6: range.cidr.clone(), description: range.description.clone() }
}

fn prefix_list(list: &permission::PrefixListRef) -> v1::PrefixListId {
    v1::PrefixListId {
        description: list.description.clone(),
        prefix_list_id: list.prefix_list_id.clone(),
    }
}

fn group_pair(pair: &permission::UserIdGroupPair) -> v1::UserIdGroupPair {
    v1::UserIdGroupPair {
        description: pair.description.clone(),
        group_id: pair.group_id.clone(),
        group_name: pair.group_name.clone(),
        peering_status: pair.peering_status.clone(),
        user_id: pair.user_id.clone(),
        vpc_id: pair.vpc_id.clone(),
        vpc_peering_connection_id: pair.vpc_peering_connection_id.clone(),
    }
}

/// A rule with its group. Its ARN only if the backend gave one.
pub fn owned_rule(owned: &OwnedRule) -> v1::SecurityGroupRule {
    let rule = &owned.rule;
    let mut encoded = v1::SecurityGroupRule {
        security_group_rule_id: Some(rule.id.to_string()),
        group_id: Some(owned.group_id.to_string()),
        group_owner_id: Some(owned.group_owner_id.to_string()),
        is_egress: Some(rule.direction == Direction::Egress),
        ip_protocol: Some(rule.traffic.protocol().to_string()),
        from_port: Some(rule.traffic.from_port()),
        to_port: Some(rule.traffic.to_port()),
        description: rule.description.as_deref().map(str::to_owned),
        tags: tags(rule.tags()),
        security_group_rule_arn: owned.arn.clone(),
        ..v1::SecurityGroupRule::default()
    };
    match &rule.peer {
        Peer::Ipv4(net) => encoded.cidr_ipv4 = Some(net.to_string()),
        Peer::Ipv6(net) => encoded.cidr_ipv6 = Some(net.to_string()),
        Peer::PrefixList(id) => encoded.prefix_list_id = Some(id.to_string()),
        Peer::Group(peer) => encoded.referenced_group_info = Some(referenced_group(peer)),
    }
    encoded
}

fn referenced_group(peer: &GroupPeer) -> v1::ReferencedSecurityGroup {
    v1::ReferencedSecurityGroup {
        group_id: peer.group_id.as_ref().map(ToString::to_string),
        peering_status: peer.peering_status.clone(),
        user_id: peer.user_id.as_ref().map(ToString::to_string),
        vpc_id: peer.vpc_id.clone(),
        vpc_peering_connection_id: peer.vpc_peering_connection_id.clone(),
    }
}

fn revoked_rule(rule: RevokedRule) -> v1::RevokedSecurityGroupRule {
    v1::RevokedSecurityGroupRule {
        security_group_rule_id: rule.security_group_rule_id,
        group_id: rule.group_id,
        is_egress: rule.is_egress,
        ip_protocol: rule.ip_protocol,
        from_port: rule.from_port,
        to_port: rule.to_port,
        cidr_ipv4: rule.cidr_ipv4,
        cidr_ipv6: rule.cidr_ipv6,
        prefix_list_id: rule.prefix_list_id,
        referenced_group_id: rule.referenced_group_id,
        description: rule.description,
    }
}

fn security_group(target: &Target, image: &GroupImage) -> v1::SecurityGroup {
    let Group { id, name, description, vpc_id, owner_id, tags: group_tags, arn: group_arn } =
        image.group.as_ref();
    v1::SecurityGroup {
        group_id: Some(id.to_string()),
        group_name: Some(name.clone()),
        description: Some(description.clone()),
        vpc_id: vpc_id.as_ref().map(ToString::to_string),
        owner_id: Some(owner_id.to_string()),
        ip_permissions: merged(image, Direction::Ingress),
        ip_permissions_egress: merged(image, Direction::Egress),
        tags: tags(group_tags),
        security_group_arn: Some(
            group_arn.clone().unwrap_or_else(|| arn(target, "security-group", id.as_str())),
        ),
    }
}

fn merged(image: &GroupImage, direction: Direction) -> Vec<v1::IpPermission> {
    let specs: Vec<RuleSpec> =
        image.rules.iter().filter(|rule| rule.direction == direction).map(Rule::spec).collect();
    permissions(&group(&specs))
}

fn tags(tags: &[Tag]) -> Vec<v1::Tag> {
    tags.iter()
        .map(|tag| v1::Tag { key: Some(tag.key.clone()), value: Some(tag.value.clone()) })
        .collect()
}

fn arn(target: &Target, kind: &str, id: &str) -> String {
    let region = target.region.as_str();
    let partition = match region {
        _ if region.starts_with("cn-") => "aws-cn",
        _ if region.starts_with("us-gov-") => "aws-us-gov",
        _ => "aws",
    };
    format!("arn:{partition}:ec2:{region}:{}:{kind}/{id}", target.account)
}

// === what a revoke says ===

/// Why one permission or rule id was unknown.
pub fn explanation(explanation: &UnknownExplanation) -> v1::UnknownExplanation {
    use v1::unknown_explanation::Subject;
    let subject = match &explanation.subject {
        UnknownSubject::Permission(asked) => Subject::IpPermission(permission(asked)),
        UnknownSubject::RuleId(id) => Subject::SecurityGroupRuleId(id.to_string()),
    };
    v1::UnknownExplanation {
        subject: Some(subject),
        reason: explanation.reason.map_or(v1::UnknownReason::Unspecified, unknown_reason).into(),
        nearest_rules: explanation.nearest.iter().map(owned_rule).collect(),
        message: explanation.message.clone(),
        operation_id: String::new(),
    }
}

fn unknown_reason(reason: UnknownReason) -> v1::UnknownReason {
    match reason {
        UnknownReason::ChangedConcurrently => v1::UnknownReason::ChangedConcurrently,
        UnknownReason::AlreadyRevoked => v1::UnknownReason::AlreadyRevoked,
        UnknownReason::DescriptionDiffers => v1::UnknownReason::DescriptionDiffers,
        UnknownReason::PeerOwnerDiffers => v1::UnknownReason::PeerOwnerDiffers,
        UnknownReason::ExistsInOtherDirection => v1::UnknownReason::ExistsInOtherDirection,
        UnknownReason::PortRangeDiffers => v1::UnknownReason::PortRangeDiffers,
        UnknownReason::IcmpTypeOrCodeDiffers => v1::UnknownReason::IcmpTypeOrCodeDiffers,
        UnknownReason::ProtocolDiffers => v1::UnknownReason::ProtocolDiffers,
        UnknownReason::CoveredByWiderRule => v1::UnknownReason::CoveredByWiderRule,
        UnknownReason::BelongsToAnotherGroup => v1::UnknownReason::BelongsToAnotherGroup,
        UnknownReason::NoSuchDestination => v1::UnknownReason::NoSuchDestination,
    }
}

fn extent_of(extent: Extent) -> v1::Outcome {
    match extent {
        Extent::All => v1::Outcome::RevokedAll,
        Extent::Part => v1::Outcome::RevokedPart,
        Extent::Nothing => v1::Outcome::RevokedNothing,
    }
}

/// The result of reading a change back.
pub fn verification(verification: &Verification) -> v1::Verification {
    v1::Verification {
        visible: verification.visible,
        attempts: verification.attempts,
        checked_at: Some(timestamp(verification.checked_at)),
    }
}

/// A point in time; one before 1970 becomes 1970.
pub fn timestamp(time: std::time::SystemTime) -> pbjson_types::Timestamp {
    let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    pbjson_types::Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
    }
}

/// A warning.
pub fn warning(warning: Warning) -> v1::Warning {
    let kind = match warning.kind {
        WarningKind::LastEgressRuleRemoved => v1::WarningKind::LastEgressRuleRemoved,
        WarningKind::CoveredByWiderRule => v1::WarningKind::CoveredByWiderRule,
        WarningKind::OwnedElsewhere => v1::WarningKind::OwnedElsewhere,
        WarningKind::ConnectionsStayTracked => v1::WarningKind::ConnectionsStayTracked,
        WarningKind::HostBitsSet => v1::WarningKind::HostBitsSet,
        WarningKind::SettledByReadBack => v1::WarningKind::SettledByReadBack,
        WarningKind::LedgerLags => v1::WarningKind::LedgerLags,
        WarningKind::SettledByOperator => v1::WarningKind::SettledByOperator,
    };
    v1::Warning {
        kind: kind.into(),
        message: warning.message,
        security_group_rule_id: warning.rule_id.map(|id| id.to_string()).unwrap_or_default(),
    }
}
