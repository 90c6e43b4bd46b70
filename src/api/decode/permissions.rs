//! Permissions, member by member, unchecked: [`crate::rule::expand`] checks them.

use super::v1;
use crate::rule::{
    IpPermission,
    permission::{PrefixListRef, Range, UserIdGroupPair},
};

/// The contract's permissions in the domain's text form.
pub fn permissions(permissions: &[v1::IpPermission]) -> Vec<IpPermission> {
    permissions.iter().map(permission).collect()
}

fn permission(permission: &v1::IpPermission) -> IpPermission {
    IpPermission {
        ip_protocol: permission.ip_protocol.clone(),
        from_port: permission.from_port,
        to_port: permission.to_port,
        ip_ranges: permission
            .ip_ranges
            .iter()
            .map(|range| Range {
                cidr: range.cidr_ip.clone(),
                description: range.description.clone(),
            })
            .collect(),
        ipv6_ranges: permission
            .ipv6_ranges
            .iter()
            .map(|range| Range {
                cidr: range.cidr_ipv6.clone(),
                description: range.description.clone(),
            })
            .collect(),
        prefix_list_ids: permission
            .prefix_list_ids
            .iter()
            .map(|list| PrefixListRef {
                prefix_list_id: list.prefix_list_id.clone(),
                description: list.description.clone(),
            })
            .collect(),
        user_id_group_pairs: permission.user_id_group_pairs.iter().map(pair).collect(),
    }
}

fn pair(pair: &v1::UserIdGroupPair) -> UserIdGroupPair {
    UserIdGroupPair {
        group_id: pair.group_id.clone(),
        group_name: pair.group_name.clone(),
        user_id: pair.user_id.clone(),
        vpc_id: pair.vpc_id.clone(),
        vpc_peering_connection_id: pair.vpc_peering_connection_id.clone(),
        peering_status: pair.peering_status.clone(),
        description: pair.description.clone(),
    }
}
