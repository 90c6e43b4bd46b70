//! Encodes the state, in the form that it is loaded in.

use std::time::SystemTime;

use crate::{
    api::proto::{
        sandbox::v1::{
            self as sandbox, Account, ManagedPrefixList, SandboxState, VpcCidrBlockState,
            VpcIpv6CidrBlockAssociation,
        },
        v1,
    },
    backend::{
        OwnedRule,
        sandbox::{
            actions::{owned_rule, rule_arn},
            effects::Effect,
            state::{PrefixList, Slot, State, Vpc},
        },
    },
    rule::{
        self, AccountId, Direction, GroupId, GroupPeer, IpPermission, Peer, Rule, RuleSpec, Tag,
        Target,
        permission::{PrefixListRef, Range, UserIdGroupPair},
    },
};

/// The state as a message. The default target comes first, so that it is the default again where the state is loaded.
pub fn encode(state: &State, default: &Target) -> SandboxState {
    let mut targets: Vec<&Target> = state.sites().keys().collect();
    targets.sort_by_key(|target| (target.account != default.account, *target != default));
    let mut accounts: Vec<Account> = Vec::new();
    for target in targets {
        let id = Some(target.account.to_string());
        let region = target.region.to_string();
        match accounts.iter_mut().find(|account| account.account_id == id) {
            Some(account) => account.regions.push(region),
            None => accounts.push(Account { account_id: id, regions: vec![region] }),
        }
    }
    let slots = || {
        state
            .sites()
            .iter()
            .flat_map(|(target, site)| site.groups().map(move |slot| (target, slot)))
    };
    let rules = slots().flat_map(|(target, slot)| {
        slot.rules.iter().map(move |rule| encode_rule(owned_rule(target, &slot.group, rule)))
    });
    SandboxState {
        security_groups: slots().map(|(_, slot)| encode_group(slot)).collect(),
        vpcs: state.vpcs().values().map(|vpc| encode_vpc(vpc)).collect(),
        security_group_rules: rules.collect(),
        managed_prefix_lists: state.lists().values().map(|list| encode_list(list)).collect(),
        accounts,
        prefix_lists: Vec::new(),
    }
}

fn encode_tags(tags: &[Tag]) -> Vec<v1::Tag> {
    let tag = |tag: &Tag| v1::Tag { key: Some(tag.key.clone()), value: Some(tag.value.clone()) };
    tags.iter().map(tag).collect()
}

fn encode_vpc(vpc: &Vpc) -> sandbox::Vpc {
    let blocks = vpc.ipv6_blocks.iter();
    sandbox::Vpc {
        vpc_id: Some(vpc.id.to_string()),
        is_default: Some(vpc.is_default),
        cidr_block: vpc.cidr_block.clone(),
        ipv6_cidr_block_association_set: blocks
            .map(|block| VpcIpv6CidrBlockAssociation {
                ipv6_cidr_block: Some(block.range.clone()),
                ipv6_cidr_block_state: block
                    .state
                    .clone()
                    .map(|state| VpcCidrBlockState { state: Some(state) }),
            })
            .collect(),
        owner_id: Some(vpc.home.account.to_string()),
        state: vpc.state.clone(),
        tags: encode_tags(&vpc.tags),
        region: Some(vpc.home.region.to_string()),
        peered_vpc_ids: vpc.peered.iter().map(ToString::to_string).collect(),
    }
}

fn encode_list(list: &PrefixList) -> ManagedPrefixList {
    ManagedPrefixList {
        prefix_list_id: Some(list.id.to_string()),
        prefix_list_name: list.name.clone(),
        address_family: list.address_family.clone(),
        max_entries: list.max_entries,
        owner_id: Some(list.owner_id().to_owned()),
        prefix_list_arn: Some(list.arn()),
        tags: encode_tags(&list.tags),
    }
}

fn encode_group(slot: &Slot) -> v1::SecurityGroup {
    let permissions = |direction| {
        let rules = slot.rules.iter().filter(|rule| rule.direction == direction);
        let specs: Vec<RuleSpec> = rules.map(Rule::spec).collect();
        rule::group(&specs).into_iter().map(encode_permission).collect()
    };
    let group = &slot.group;
    v1::SecurityGroup {
        group_id: Some(group.id.to_string()),
        group_name: Some(group.name.clone()),
        description: Some(group.description.clone()),
        vpc_id: group.vpc_id.as_ref().map(ToString::to_string),
        owner_id: Some(group.owner_id.to_string()),
        ip_permissions: permissions(Direction::Ingress),
        ip_permissions_egress: permissions(Direction::Egress),
        tags: encode_tags(&group.tags),
        security_group_arn: group.arn.clone(),
    }
}

fn encode_permission(permission: IpPermission) -> v1::IpPermission {
    let ipv4 = |range: Range| v1::IpRange { cidr_ip: range.cidr, description: range.description };
    let ipv6 =
        |range: Range| v1::Ipv6Range { cidr_ipv6: range.cidr, description: range.description };
    let list = |list: PrefixListRef| v1::PrefixListId {
        description: list.description,
        prefix_list_id: list.prefix_list_id,
    };
    let pair = |pair: UserIdGroupPair| v1::UserIdGroupPair {
        description: pair.description,
        group_id: pair.group_id,
        group_name: pair.group_name,
        peering_status: pair.peering_status,
        user_id: pair.user_id,
        vpc_id: pair.vpc_id,
        vpc_peering_connection_id: pair.vpc_peering_connection_id,
    };
    v1::IpPermission {
        from_port: permission.from_port,
        ip_protocol: permission.ip_protocol,
        ip_ranges: permission.ip_ranges.into_iter().map(ipv4).collect(),
        ipv6_ranges: permission.ipv6_ranges.into_iter().map(ipv6).collect(),
        prefix_list_ids: permission.prefix_list_ids.into_iter().map(list).collect(),
        to_port: permission.to_port,
        user_id_group_pairs: permission.user_id_group_pairs.into_iter().map(pair).collect(),
    }
}

fn encode_rule(owned: OwnedRule) -> v1::SecurityGroupRule {
    let rule = owned.rule;
    let tags = encode_tags(rule.tags());
    let mut message = v1::SecurityGroupRule {
        security_group_rule_id: Some(rule.id.to_string()),
        group_id: Some(owned.group_id.to_string()),
        group_owner_id: Some(owned.group_owner_id.to_string()),
        is_egress: Some(rule.direction == Direction::Egress),
        ip_protocol: Some(rule.traffic.protocol().to_string()),
        from_port: Some(rule.traffic.from_port()),
        to_port: Some(rule.traffic.to_port()),
        description: rule.description.map(String::from),
        tags,
        security_group_rule_arn: owned.arn,
        ..v1::SecurityGroupRule::default()
    };
    match rule.peer {
        Peer::Ipv4(net) => message.cidr_ipv4 = Some(net.to_string()),
        Peer::Ipv6(net) => message.cidr_ipv6 = Some(net.to_string()),
        Peer::PrefixList(id) => message.prefix_list_id = Some(id.to_string()),
        Peer::Group(peer) => message.referenced_group_info = Some(encode_reference(*peer)),
    }
    message
}

fn encode_reference(peer: GroupPeer) -> v1::ReferencedSecurityGroup {
    v1::ReferencedSecurityGroup {
        group_id: peer.group_id.as_ref().map(GroupId::to_string),
        peering_status: peer.peering_status,
        user_id: peer.user_id.as_ref().map(AccountId::to_string),
        vpc_id: peer.vpc_id,
        vpc_peering_connection_id: peer.vpc_peering_connection_id,
    }
}

/// An effect as a message.
pub fn effect(effect: &Effect) -> sandbox::Effect {
    let since = effect.applied_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let owned = |rule: &Rule| OwnedRule {
        group_id: effect.change.group_id.clone(),
        group_owner_id: effect.change.owner_id.clone(),
        arn: Some(rule_arn(&effect.target, &effect.change.owner_id, rule)),
        rule: rule.clone(),
    };
    sandbox::Effect {
        sequence: effect.sequence,
        applied_at: Some(pbjson_types::Timestamp {
            seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
        }),
        action: effect.change.action.to_owned(),
        target: Some(v1::Target {
            account_id: effect.target.account.to_string(),
            region: effect.target.region.to_string(),
        }),
        group_id: effect.change.group_id.to_string(),
        security_group_rules: effect
            .change
            .rules
            .iter()
            .map(|rule| encode_rule(owned(rule)))
            .collect(),
        request_id: effect.request_id.clone(),
        operation_id: effect.operation_id.clone(),
        session: effect.session.as_ref().map(|session| sandbox::AwsSession {
            arn: session.arn.clone(),
            source_identity: session.source_identity.clone(),
        }),
    }
}
