//! What clients need around security groups: VPCs, tags and prefix lists.

use std::sync::Arc;

use super::{Answered, Ask, Reply, common, form::Fields, xml::Element};
use crate::{
    backend::{
        Page, Refusal,
        sandbox::{
            CreatePrefixList, CreateTags, CreateVpc, DeleteTags, DeleteVpc, DescribePrefixLists,
            DescribeTags, DescribeVpcs, PrefixList, TagDescription, Vpc, dry_run,
        },
    },
    rule::{
        PrefixListId, VpcId,
        permission::{self, excerpt},
    },
};

/// DescribeVpcs.
pub async fn describe_vpcs(ask: &Ask<'_>, mut fields: Fields) -> Reply {
    let request = DescribeVpcs {
        vpc_ids: common::ids(&fields.texts("VpcId")?, vpc_id)?,
        filters: common::filters(&mut fields)?,
        next_token: common::token(&mut fields),
        max_results: fields.number("MaxResults")?,
        dry_run: fields.flag("DryRun")?.unwrap_or_default(),
    };
    fields.finish()?;
    let Page { items, next_token } =
        ask.sandbox.describe_vpcs(&ask.call, &ask.target, &request).await?;
    let items = items.iter().map(|found| {
        let element = vpc("item", found, found.state.as_deref().unwrap_or("available"));
        if found.ipv6_blocks.is_empty() { element } else { element.with(ipv6_blocks(found)) }
    });
    Ok(Answered::page("vpcSet", items, next_token))
}

/// CreateVpc. Of its ways to an address range: one IPv4 range, and an IPv6 one that Amazon picks.
pub async fn create_vpc(ask: &Ask<'_>, mut fields: Fields) -> Reply {
    let tenancy = fields.text("InstanceTenancy").unwrap_or_default();
    let request = CreateVpc {
        cidr_block: fields.text("CidrBlock").unwrap_or_default(),
        ipv6: fields.flag("AmazonProvidedIpv6CidrBlock")?.unwrap_or_default(),
        tags: common::specified_tags(&mut fields, "vpc")?,
        dry_run: fields.flag("DryRun")?.unwrap_or_default(),
    };
    fields.finish()?;
    if !matches!(tenancy.as_str(), "" | "default") {
        let message = format!("The sandbox has no tenancy '{}'", excerpt(&tenancy));
        return Err(Refusal::new("UnsupportedOperation", message).into());
    }
    let created = ask.sandbox.create_vpc(&ask.call, &ask.target, &request).await?;
    // It is there at once; EC2's answer to the call that makes it says this all the same, and lists no IPv6 as [].
    Ok(Answered::new([vpc("vpc", &created, "pending").with(ipv6_blocks(&created))]))
}

/// DeleteVpc.
pub async fn delete_vpc(ask: &Ask<'_>, mut fields: Fields) -> Reply {
    let request = DeleteVpc {
        vpc_id: vpc_id(&common::required(&mut fields, "VpcId")?)?,
        dry_run: fields.flag("DryRun")?.unwrap_or_default(),
    };
    fields.finish()?;
    ask.sandbox.delete_vpc(&ask.call, &ask.target, &request).await?;
    Ok(Answered::new([Element::text("return", true)]))
}

/// CreateTags.
pub async fn create_tags(ask: &Ask<'_>, mut fields: Fields) -> Reply {
    let request = CreateTags {
        resources: fields.texts("ResourceId")?,
        tags: fields.list("Tag", common::tag)?,
        dry_run: fields.flag("DryRun")?.unwrap_or_default(),
    };
    fields.finish()?;
    ask.sandbox.create_tags(&ask.call, &ask.target, &request).await?;
    Ok(Answered::new([Element::text("return", true)]))
}

/// DeleteTags.
pub async fn delete_tags(ask: &Ask<'_>, mut fields: Fields) -> Reply {
    let request = DeleteTags {
        resources: fields.texts("ResourceId")?,
        tags: fields
            .list("Tag", |tag| Ok((tag.text("Key").unwrap_or_default(), tag.text("Value"))))?,
        dry_run: fields.flag("DryRun")?.unwrap_or_default(),
    };
    fields.finish()?;
    ask.sandbox.delete_tags(&ask.call, &ask.target, &request).await?;
    Ok(Answered::new([Element::text("return", true)]))
}

/// DescribeTags.
pub async fn describe_tags(ask: &Ask<'_>, mut fields: Fields) -> Reply {
    let request = DescribeTags {
        filters: common::filters(&mut fields)?,
        next_token: common::token(&mut fields),
        max_results: fields.number("MaxResults")?,
        dry_run: fields.flag("DryRun")?.unwrap_or_default(),
    };
    fields.finish()?;
    let Page { items, next_token } =
        ask.sandbox.describe_tags(&ask.call, &ask.target, &request).await?;
    let item = |tag: &TagDescription| {
        Element::new("item")
            .member("resourceId", &tag.resource_id)
            .member("resourceType", &tag.resource_type)
            .member("key", &tag.key)
            .member("value", &tag.value)
    };
    Ok(Answered::page("tagSet", items.iter().map(item), next_token))
}

/// DescribeManagedPrefixLists.
pub async fn describe_prefix_lists(ask: &Ask<'_>, mut fields: Fields) -> Reply {
    let request = DescribePrefixLists {
        prefix_list_ids: common::ids(&fields.texts("PrefixListId")?, prefix_list_id)?,
        filters: common::filters(&mut fields)?,
        next_token: common::token(&mut fields),
        max_results: fields.number("MaxResults")?,
        dry_run: fields.flag("DryRun")?.unwrap_or_default(),
    };
    fields.finish()?;
    let Page { items, next_token } =
        ask.sandbox.describe_prefix_lists(&ask.call, &ask.target, &request).await?;
    let items = items.iter().map(|list| prefix_list("item", list, "create-complete"));
    Ok(Answered::page("prefixListSet", items, next_token))
}

/// CreateManagedPrefixList. Its entries are counted and not kept: no action here shows them. A client token means
/// nothing: the same request twice makes two lists.
pub async fn create_prefix_list(ask: &Ask<'_>, mut fields: Fields) -> Reply {
    fields.ignore("ClientToken");
    let entries = fields.list("Entry", |entry| {
        entry.ignore("Description");
        Ok(entry.text("Cidr").unwrap_or_default())
    })?;
    let max_entries = fields.number("MaxEntries")?;
    let request = CreatePrefixList {
        name: fields.text("PrefixListName").unwrap_or_default(),
        address_family: fields.text("AddressFamily").unwrap_or_default(),
        max_entries: max_entries.unwrap_or_default(),
        tags: common::specified_tags(&mut fields, "prefix-list")?,
        dry_run: fields.flag("DryRun")?.unwrap_or_default(),
    };
    fields.finish()?;
    let family = request.address_family.as_str();
    let fits = |cidr: &String| match family {
        "IPv6" => permission::parse_cidr::<ipnet::Ipv6Net>(cidr).is_some(),
        _ => permission::parse_cidr::<ipnet::Ipv4Net>(cidr).is_some(),
    };
    if let Some(bad) = entries.iter().find(|cidr| !fits(cidr)) {
        let message = format!("CIDR block {} is malformed", excerpt(bad));
        return Err(Refusal::new("InvalidParameterValue", message).into());
    }
    if usize::try_from(request.max_entries).is_ok_and(|max| entries.len() > max) {
        let message =
            format!("{} entries; the list may have {}.", entries.len(), request.max_entries);
        return Err(Refusal::new("PrefixListMaxEntriesExceeded", message).into());
    }
    let created = ask.sandbox.create_prefix_list(&ask.call, &ask.target, &request).await?;
    Ok(Answered::new([prefix_list("prefixList", &created, "create-in-progress")]))
}

/// DescribeNetworkInterfaces: the sandbox has none. Terraform asks before it deletes a group.
pub fn describe_network_interfaces(mut fields: Fields) -> Reply {
    for name in
        ["Filter", "NetworkInterfaceId", "NextToken", "MaxResults", "IncludeManagedResources"]
    {
        fields.ignore(name);
    }
    let asked_only = fields.flag("DryRun")?.unwrap_or_default();
    fields.finish()?;
    if asked_only {
        return Err(dry_run().into());
    }
    Ok(Answered::page("networkInterfaceSet", [], None))
}

fn vpc_id(text: &str) -> Result<VpcId, Refusal> {
    VpcId::parse(text).ok_or_else(|| {
        let message = format!("Invalid id: \"{}\" (expecting \"vpc-...\")", excerpt(text));
        Refusal::new("InvalidVpcID.Malformed", message)
    })
}

fn prefix_list_id(text: &str) -> Result<PrefixListId, Refusal> {
    PrefixListId::parse(text).ok_or_else(|| {
        let message = format!("Invalid id: \"{}\" (expecting \"pl-...\")", excerpt(text));
        Refusal::new("InvalidPrefixListId.Malformed", message)
    })
}

/// A VPC without its IPv6 ranges. What has no tags has no list of them.
fn vpc(name: &'static str, vpc: &Arc<Vpc>, state: &str) -> Element {
    let ipv4 = vpc.cidr_block.iter().map(|block| {
        Element::new("item")
            .member("associationId", association(vpc, 0))
            .member("cidrBlock", block)
            .with(Element::new("cidrBlockState").member("state", "associated"))
    });
    let element = Element::new(name)
        .member("vpcId", &vpc.id)
        .member("ownerId", &vpc.home.account)
        .member("state", state)
        .maybe("cidrBlock", vpc.cidr_block.as_ref())
        .list("cidrBlockAssociationSet", ipv4)
        .member("instanceTenancy", "default")
        .member("isDefault", vpc.is_default);
    if vpc.tags.is_empty() { element } else { element.with(common::tag_set(&vpc.tags)) }
}

fn ipv6_blocks(vpc: &Arc<Vpc>) -> Element {
    let blocks = vpc.ipv6_blocks.iter().enumerate().map(|(place, block)| {
        Element::new("item")
            .member("associationId", association(vpc, place + 1))
            .member("ipv6CidrBlock", &block.range)
            .with(Element::new("ipv6CidrBlockState").member("state", block.state()))
            .member("networkBorderGroup", &vpc.home.region)
            .member("ipv6Pool", "Amazon")
    });
    Element::items("ipv6CidrBlockAssociationSet", blocks)
}

/// The id that ties a range to its VPC: made of the VPC's own.
fn association(vpc: &Arc<Vpc>, place: usize) -> String {
    let digits = vpc.id.as_str().trim_start_matches("vpc-");
    format!("vpc-cidr-assoc-{place:x}{}", digits.get(1..).unwrap_or(digits))
}

/// Of lists that AWS owns it shows no version.
fn prefix_list(name: &'static str, list: &Arc<PrefixList>, state: &str) -> Element {
    Element::new(name)
        .member("prefixListId", &list.id)
        .maybe("addressFamily", list.address_family.as_ref())
        .member("state", state)
        .member("prefixListArn", list.arn())
        .maybe("prefixListName", list.name.as_ref())
        .maybe("maxEntries", list.max_entries)
        .maybe("version", list.owner.as_ref().map(|_| 1))
        .with(common::tag_set(&list.tags))
        .member("ownerId", list.owner.as_ref().map_or("AWS", |owner| owner.as_str()))
}
