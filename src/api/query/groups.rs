//! The security-group actions that the gRPC API has, too: the same decoding and the same checks, other envelopes.

use super::{Answered, Ask, Reply, Trouble, common, form::Fields, xml::Element};
use crate::{
    api::{decode, proto::v1},
    backend::{
        AuthorizeRules, Authorized, Backend as _, DescribeGroups, DescribeRules, Group, GroupImage,
        OwnedRule, Page, Refusal, RevokeRules, Revoked, RevokedRule,
    },
    operations::{Authorize, Command, Create, Delete, Revoke},
    rule::{
        Direction, GroupPeer, IpPermission, Peer, Rule, RuleSpec, Violation, group,
        permission::{PrefixListRef, Range, SAME_TWICE, UserIdGroupPair},
    },
};

/// The requests of all four actions on rules have the members of EC2's older form, too.
macro_rules! with_scalars {
    ($fields:ident, $request:expr) => {{
        let mut request = $request;
        request.cidr_ip = $fields.text("CidrIp");
        request.from_port = $fields.number("FromPort")?;
        request.ip_protocol = $fields.text("IpProtocol");
        request.to_port = $fields.number("ToPort")?;
        request.source_security_group_name = $fields.text("SourceSecurityGroupName");
        request.source_security_group_owner_id = $fields.text("SourceSecurityGroupOwnerId");
        request
    }};
}

/// RevokeSecurityGroupEgress.
#[allow(deprecated, reason = "the scalars that EC2 does not support are read to be refused")]
pub async fn revoke_egress(ask: &Ask<'_>, mut fields: Fields) -> Reply {
    let request = v1::RevokeEgressRequest {
        group_id: fields.text("GroupId"),
        ip_permissions: fields.list("IpPermissions", permission)?,
        security_group_rule_ids: fields.texts("SecurityGroupRuleId")?,
        dry_run: fields.flag("DryRun")?,
        ..v1::RevokeEgressRequest::default()
    };
    let request = with_scalars!(fields, request);
    fields.finish()?;
    revoke(ask, decode::revoke_egress(request)).await
}

/// RevokeSecurityGroupIngress.
pub async fn revoke_ingress(ask: &Ask<'_>, mut fields: Fields) -> Reply {
    let request = v1::RevokeIngressRequest {
        group_id: fields.text("GroupId"),
        group_name: fields.text("GroupName"),
        ip_permissions: fields.list("IpPermissions", permission)?,
        security_group_rule_ids: fields.texts("SecurityGroupRuleId")?,
        dry_run: fields.flag("DryRun")?,
        ..v1::RevokeIngressRequest::default()
    };
    let request = with_scalars!(fields, request);
    fields.finish()?;
    revoke(ask, decode::revoke_ingress(request)).await
}

async fn revoke(ask: &Ask<'_>, request: decode::Result) -> Reply {
    let Command::Revoke(asked) = command(request)? else { return Err(Trouble::mismatch()) };
    let Revoke { group, direction, selection, dry_run, .. } = asked;
    let request = RevokeRules { group, direction, selection, dry_run };
    let Revoked { return_value, unknown, revoked, request_id } =
        ask.sandbox.revoke(&ask.call, &ask.target, &request).await?;
    let mut body = vec![Element::text("return", return_value.unwrap_or_default())];
    // Absent, not empty, when there is nothing to list (ec2-facts section 3).
    if !unknown.is_empty() {
        let unknown = unknown.iter().map(ip_permission);
        body.push(Element::items("unknownIpPermissionSet", unknown));
    }
    if !revoked.is_empty() {
        let revoked = revoked.iter().map(revoked_rule);
        body.push(Element::items("revokedSecurityGroupRuleSet", revoked));
    }
    Ok(Answered { request_id, body })
}

/// AuthorizeSecurityGroupEgress.
#[allow(deprecated, reason = "the scalars that EC2 does not support are read to be refused")]
pub async fn authorize_egress(ask: &Ask<'_>, mut fields: Fields) -> Reply {
    let request = v1::AuthorizeEgressRequest {
        group_id: fields.text("GroupId"),
        ip_permissions: fields.list("IpPermissions", permission)?,
        tag_specifications: fields.list("TagSpecification", common::tag_specification)?,
        dry_run: fields.flag("DryRun")?,
        ..v1::AuthorizeEgressRequest::default()
    };
    let request = with_scalars!(fields, request);
    fields.finish()?;
    authorize(ask, decode::authorize_egress(request)).await
}

/// AuthorizeSecurityGroupIngress.
pub async fn authorize_ingress(ask: &Ask<'_>, mut fields: Fields) -> Reply {
    let request = v1::AuthorizeIngressRequest {
        group_id: fields.text("GroupId"),
        group_name: fields.text("GroupName"),
        ip_permissions: fields.list("IpPermissions", permission)?,
        tag_specifications: fields.list("TagSpecification", common::tag_specification)?,
        dry_run: fields.flag("DryRun")?,
        ..v1::AuthorizeIngressRequest::default()
    };
    let request = with_scalars!(fields, request);
    fields.finish()?;
    authorize(ask, decode::authorize_ingress(request)).await
}

async fn authorize(ask: &Ask<'_>, request: decode::Result) -> Reply {
    let Command::Authorize(Authorize { rules }) = command(request)? else {
        return Err(Trouble::mismatch());
    };
    let request: AuthorizeRules = rules;
    let Authorized { return_value, rules, request_id } =
        ask.sandbox.authorize(&ask.call, &ask.target, &request).await?;
    let body = vec![
        Element::text("return", return_value.unwrap_or_default()),
        Element::items("securityGroupRuleSet", rules.iter().map(new_rule)),
    ];
    Ok(Answered { request_id, body })
}

/// CreateSecurityGroup.
pub async fn create(ask: &Ask<'_>, mut fields: Fields) -> Reply {
    let request = v1::CreateSecurityGroupRequest {
        description: fields.text("GroupDescription"),
        group_name: fields.text("GroupName"),
        vpc_id: fields.text("VpcId"),
        tag_specifications: fields.list("TagSpecification", common::tag_specification)?,
        dry_run: fields.flag("DryRun")?,
        ..v1::CreateSecurityGroupRequest::default()
    };
    fields.finish()?;
    let Command::Create(Create(request)) = command(decode::create(request))? else {
        return Err(Trouble::mismatch());
    };
    let created = ask.sandbox.create_group(&ask.call, &ask.target, &request).await?;
    let mut body = vec![Element::text("return", true)];
    body.extend(created.group_id.map(|id| Element::text("groupId", id)));
    if !created.tags.is_empty() {
        body.push(common::tag_set(&created.tags));
    }
    body.extend(created.arn.map(|arn| Element::text("securityGroupArn", arn)));
    Ok(Answered { request_id: created.request_id, body })
}

/// DeleteSecurityGroup.
pub async fn delete(ask: &Ask<'_>, mut fields: Fields) -> Reply {
    let request = v1::DeleteSecurityGroupRequest {
        group_id: fields.text("GroupId"),
        group_name: fields.text("GroupName"),
        dry_run: fields.flag("DryRun")?,
        ..v1::DeleteSecurityGroupRequest::default()
    };
    fields.finish()?;
    let Command::Delete(Delete(request)) = command(decode::delete(request))? else {
        return Err(Trouble::mismatch());
    };
    let deleted = ask.sandbox.delete_group(&ask.call, &ask.target, &request).await?;
    let mut body = vec![Element::text("return", deleted.return_value.unwrap_or_default())];
    body.extend(deleted.group_id.map(|id| Element::text("groupId", id)));
    Ok(Answered { request_id: deleted.request_id, body })
}

/// DescribeSecurityGroups.
pub async fn describe_groups(ask: &Ask<'_>, mut fields: Fields) -> Reply {
    let request = v1::DescribeSecurityGroupsRequest {
        filters: fields.list("Filter", common::filter)?,
        group_ids: fields.texts("GroupId")?,
        group_names: fields.texts("GroupName")?,
        next_token: fields.text("NextToken"),
        max_results: fields.number("MaxResults")?,
        dry_run: fields.flag("DryRun")?,
        ..v1::DescribeSecurityGroupsRequest::default()
    };
    fields.finish()?;
    let Command::DescribeGroups(request) = command(decode::describe_groups(request))? else {
        return Err(Trouble::mismatch());
    };
    let request: DescribeGroups = request;
    let Page { items, next_token } =
        ask.sandbox.describe_groups(&ask.call, &ask.target, &request).await?;
    Ok(Answered::page("securityGroupInfo", items.iter().map(security_group), next_token))
}

/// DescribeSecurityGroupRules.
pub async fn describe_rules(ask: &Ask<'_>, mut fields: Fields) -> Reply {
    let request = v1::DescribeSecurityGroupRulesRequest {
        filters: fields.list("Filter", common::filter)?,
        security_group_rule_ids: fields.texts("SecurityGroupRuleId")?,
        next_token: fields.text("NextToken"),
        max_results: fields.number("MaxResults")?,
        dry_run: fields.flag("DryRun")?,
        ..v1::DescribeSecurityGroupRulesRequest::default()
    };
    fields.finish()?;
    let Command::DescribeRules(request) = command(decode::describe_rules(request))? else {
        return Err(Trouble::mismatch());
    };
    let request: DescribeRules = request;
    let Page { items, next_token } =
        ask.sandbox.describe_rules(&ask.call, &ask.target, &request).await?;
    let items =
        items.iter().map(|owned| owned_rule(owned, Some(common::tag_set(owned.rule.tags()))));
    Ok(Answered::page("securityGroupRuleSet", items, next_token))
}

/// The command, or the first thing that is wrong: EC2 names one.
fn command(decoded: decode::Result) -> Result<Command, Refusal> {
    decoded.map(|decoded| decoded.command).map_err(|violations| first(&violations))
}

/// EC2's error for a request of which all that is known. Where our sentence goes on after EC2's, EC2's is given.
pub fn first(violations: &[Violation]) -> Refusal {
    match violations.first() {
        Some(violation) if violation.message.starts_with(SAME_TWICE) => {
            Refusal::new(violation.code, SAME_TWICE)
        }
        Some(violation) => Refusal::new(violation.code, violation.message.as_str()),
        None => Refusal::new("InternalError", "An internal error has occurred"),
    }
}

// === reading ===

fn permission(fields: &mut Fields) -> Result<v1::IpPermission, Refusal> {
    Ok(v1::IpPermission {
        ip_protocol: fields.text("IpProtocol"),
        from_port: fields.number("FromPort")?,
        to_port: fields.number("ToPort")?,
        ip_ranges: fields.list("IpRanges", |range| {
            Ok(v1::IpRange {
                cidr_ip: range.text("CidrIp"),
                description: range.text("Description"),
            })
        })?,
        ipv6_ranges: fields.list("Ipv6Ranges", |range| {
            Ok(v1::Ipv6Range {
                cidr_ipv6: range.text("CidrIpv6"),
                description: range.text("Description"),
            })
        })?,
        prefix_list_ids: fields.list("PrefixListIds", |list| {
            Ok(v1::PrefixListId {
                description: list.text("Description"),
                prefix_list_id: list.text("PrefixListId"),
            })
        })?,
        user_id_group_pairs: fields.list("Groups", |pair| {
            Ok(v1::UserIdGroupPair {
                description: pair.text("Description"),
                group_id: pair.text("GroupId"),
                group_name: pair.text("GroupName"),
                peering_status: pair.text("PeeringStatus"),
                user_id: pair.text("UserId"),
                vpc_id: pair.text("VpcId"),
                vpc_peering_connection_id: pair.text("VpcPeeringConnectionId"),
            })
        })?,
    })
}

/// Permissions in the domain's form.
pub fn permissions(fields: &mut Fields) -> Result<Vec<IpPermission>, Refusal> {
    Ok(decode::permissions(&fields.list("IpPermissions", permission)?))
}

// === writing ===

/// All lists are there, empty or not, as EC2 prints them.
fn ip_permission(permission: &IpPermission) -> Element {
    let range = |cidr: &'static str| {
        move |range: &Range| {
            Element::new("item")
                .maybe(cidr, range.cidr.as_ref())
                .maybe("description", range.description.as_ref())
        }
    };
    let list = |list: &PrefixListRef| {
        Element::new("item")
            .maybe("description", list.description.as_ref())
            .maybe("prefixListId", list.prefix_list_id.as_ref())
    };
    Element::new("item")
        .maybe("ipProtocol", permission.ip_protocol.as_ref())
        .maybe("fromPort", permission.from_port)
        .maybe("toPort", permission.to_port)
        .list("groups", permission.user_id_group_pairs.iter().map(pair))
        .list("ipRanges", permission.ip_ranges.iter().map(range("cidrIp")))
        .list("ipv6Ranges", permission.ipv6_ranges.iter().map(range("cidrIpv6")))
        .list("prefixListIds", permission.prefix_list_ids.iter().map(list))
}

fn pair(pair: &UserIdGroupPair) -> Element {
    Element::new("item")
        .maybe("description", pair.description.as_ref())
        .maybe("userId", pair.user_id.as_ref())
        .maybe("groupName", pair.group_name.as_ref())
        .maybe("groupId", pair.group_id.as_ref())
        .maybe("vpcId", pair.vpc_id.as_ref())
        .maybe("vpcPeeringConnectionId", pair.vpc_peering_connection_id.as_ref())
        .maybe("peeringStatus", pair.peering_status.as_ref())
}

fn revoked_rule(rule: &RevokedRule) -> Element {
    Element::new("item")
        .maybe("securityGroupRuleId", rule.security_group_rule_id.as_ref())
        .maybe("groupId", rule.group_id.as_ref())
        .maybe("isEgress", rule.is_egress)
        .maybe("ipProtocol", rule.ip_protocol.as_ref())
        .maybe("fromPort", rule.from_port)
        .maybe("toPort", rule.to_port)
        .maybe("cidrIpv4", rule.cidr_ipv4.as_ref())
        .maybe("cidrIpv6", rule.cidr_ipv6.as_ref())
        .maybe("prefixListId", rule.prefix_list_id.as_ref())
        .maybe("referencedGroupId", rule.referenced_group_id.as_ref())
        .maybe("description", rule.description.as_ref())
}

/// A rule that was just authorized. Where a describe has an empty list of tags, this has none.
fn new_rule(owned: &OwnedRule) -> Element {
    let tags = owned.rule.tags();
    owned_rule(owned, (!tags.is_empty()).then(|| common::tag_set(tags)))
}

fn owned_rule(owned: &OwnedRule, tags: Option<Element>) -> Element {
    let rule = &owned.rule;
    let element = Element::new("item")
        .member("securityGroupRuleId", &rule.id)
        .member("groupId", &owned.group_id)
        .member("groupOwnerId", &owned.group_owner_id)
        .member("isEgress", rule.direction == Direction::Egress)
        .member("ipProtocol", rule.traffic.protocol())
        .member("fromPort", rule.traffic.from_port())
        .member("toPort", rule.traffic.to_port());
    let element = match &rule.peer {
        Peer::Ipv4(net) => element.member("cidrIpv4", net),
        Peer::Ipv6(net) => element.member("cidrIpv6", net),
        Peer::PrefixList(id) => element.member("prefixListId", id),
        Peer::Group(peer) => element.with(referenced_group(peer)),
    };
    let element = element.maybe("description", rule.description.as_ref());
    let element = match tags {
        Some(tags) => element.with(tags),
        None => element,
    };
    element.maybe("securityGroupRuleArn", owned.arn.as_ref())
}

fn referenced_group(peer: &GroupPeer) -> Element {
    Element::new("referencedGroupInfo")
        .maybe("groupId", peer.group_id.as_ref())
        .maybe("peeringStatus", peer.peering_status.as_ref())
        .maybe("userId", peer.user_id.as_ref())
        .maybe("vpcId", peer.vpc_id.as_ref())
        .maybe("vpcPeeringConnectionId", peer.vpc_peering_connection_id.as_ref())
}

fn security_group(image: &GroupImage) -> Element {
    let Group { id, name, description, vpc_id, owner_id, tags, arn } = image.group.as_ref();
    let element = Element::new("item")
        .member("ownerId", owner_id)
        .member("groupId", id)
        .member("groupName", name)
        .member("groupDescription", description)
        .maybe("vpcId", vpc_id.as_ref())
        .with(merged("ipPermissions", image, Direction::Ingress))
        .with(merged("ipPermissionsEgress", image, Direction::Egress));
    let element = if tags.is_empty() { element } else { element.with(common::tag_set(tags)) };
    element.maybe("securityGroupArn", arn.as_ref())
}

fn merged(name: &'static str, image: &GroupImage, direction: Direction) -> Element {
    let of_direction = image.rules.iter().filter(|rule| rule.direction == direction);
    let specs: Vec<RuleSpec> = of_direction.map(Rule::spec).collect();
    Element::items(name, group(&specs).iter().map(ip_permission))
}
