//! The few actions around security groups that EC2's clients need: VPCs and managed prefix lists.
//!
//! Where EC2 is silent:
//! - The IPv6 range of a new VPC is drawn from 2001:db8::/32, which is for documentation: nothing real has it.
//! - A VPC is there at once: it is never `pending`.
//! - Deleting a VPC ends its peerings. What refers to its `default` group from there becomes stale (R27).
//! - There is no entry in a prefix list: only its weight matters to a group.

use std::{
    collections::BTreeSet,
    net::Ipv6Addr,
    ops::Bound::{Excluded, Unbounded},
    sync::Arc,
};

use ipnet::{Ipv4Net, Ipv6Net};

use super::{
    Sandbox, actions,
    effects::Change,
    filter::{List, Paging, PrefixListFilters, VpcFilters},
    list::{CHUNK, fill, page},
    state::{Ipv6Block, PrefixList, Site, State, Vpc, no_such_list, no_such_vpc},
    tagging::check_tags,
};
use crate::{
    backend::{BackendError, CallContext, Filter, Page, Refusal},
    random::Random,
    rule::{
        PrefixListId, Tag, Target, VpcId,
        permission::{excerpt, given, parse_cidr},
    },
};

/// The most VPCs, and prefix lists, of an account in a Region.
const MAX_VPCS: usize = 1000;
const MAX_LISTS: usize = 1000;

/// EC2's sentence for who is not permitted.
pub const NOT_AUTHORIZED: &str = "You are not authorized to perform this operation.";

/// The longest name of a prefix list, in bytes.
const MAX_NAME: usize = 255;

/// The request of DescribeVpcs.
#[derive(Clone, Debug, Default)]
pub struct DescribeVpcs {
    /// By id.
    pub vpc_ids: Vec<VpcId>,
    /// All must pass.
    pub filters: Vec<Filter>,
    /// The page.
    pub next_token: Option<String>,
    /// The page's size.
    pub max_results: Option<i32>,
    /// Only ask whether it is permitted.
    pub dry_run: bool,
}

/// The request of CreateVpc.
#[derive(Clone, Debug, Default)]
pub struct CreateVpc {
    /// The IPv4 range, of /16 to /28. Host bits are dropped.
    pub cidr_block: String,
    /// Whether it gets an IPv6 range, too.
    pub ipv6: bool,
    /// Tags for the VPC.
    pub tags: Vec<Tag>,
    /// Only ask whether it is permitted.
    pub dry_run: bool,
}

/// The request of DeleteVpc.
#[derive(Clone, Debug)]
pub struct DeleteVpc {
    /// The VPC.
    pub vpc_id: VpcId,
    /// Only ask whether it is permitted.
    pub dry_run: bool,
}

/// The request of DescribeManagedPrefixLists.
#[derive(Clone, Debug, Default)]
pub struct DescribePrefixLists {
    /// By id.
    pub prefix_list_ids: Vec<PrefixListId>,
    /// All must pass.
    pub filters: Vec<Filter>,
    /// The page.
    pub next_token: Option<String>,
    /// The page's size.
    pub max_results: Option<i32>,
    /// Only ask whether it is permitted.
    pub dry_run: bool,
}

/// The request of CreateManagedPrefixList.
#[derive(Clone, Debug, Default)]
pub struct CreatePrefixList {
    /// The name, which may not be as AWS's own are.
    pub name: String,
    /// `IPv4` or `IPv6`.
    pub address_family: String,
    /// 1 to 1000: its weight against a group's limit of rules.
    pub max_entries: i32,
    /// Tags for the list.
    pub tags: Vec<Tag>,
    /// Only ask whether it is permitted.
    pub dry_run: bool,
}

// === impl Sandbox ===

impl Sandbox {
    /// DescribeVpcs.
    pub async fn describe_vpcs(
        &self,
        call: &CallContext,
        target: &Target,
        request: &DescribeVpcs,
    ) -> Result<Page<Arc<Vpc>>, BackendError> {
        self.read(call, target, "DescribeVpcs", || self.list_vpcs(target, request)).await
    }

    /// CreateVpc. The VPC's `default` group comes with it.
    pub async fn create_vpc(
        &self,
        call: &CallContext,
        target: &Target,
        request: &CreateVpc,
    ) -> Result<Arc<Vpc>, BackendError> {
        let action = ("CreateVpc", request.dry_run);
        self.change(call, target, action, None, |state, random, _| {
            let (vpc, change) = create_vpc(state, target, request, random)?;
            Ok((vpc, Some(change)))
        })
        .await
    }

    /// DeleteVpc. The VPC's `default` group goes with it; any other keeps it.
    pub async fn delete_vpc(
        &self,
        call: &CallContext,
        target: &Target,
        request: &DeleteVpc,
    ) -> Result<(), BackendError> {
        let action = ("DeleteVpc", request.dry_run);
        let work = |state: &mut State, _: &dyn Random, _: &str| {
            Ok(((), delete_vpc(state, target, request)?))
        };
        self.change(call, target, action, None, work).await
    }

    /// DescribeManagedPrefixLists.
    pub async fn describe_prefix_lists(
        &self,
        call: &CallContext,
        target: &Target,
        request: &DescribePrefixLists,
    ) -> Result<Page<Arc<PrefixList>>, BackendError> {
        self.read(call, target, "DescribeManagedPrefixLists", || self.list_lists(target, request))
            .await
    }

    /// CreateManagedPrefixList.
    pub async fn create_prefix_list(
        &self,
        call: &CallContext,
        target: &Target,
        request: &CreatePrefixList,
    ) -> Result<Arc<PrefixList>, BackendError> {
        let action = ("CreateManagedPrefixList", request.dry_run);
        self.change(call, target, action, None, |state, random, _| {
            Ok((create_list(state, target, request, random)?, None))
        })
        .await
    }

    fn list_vpcs(
        &self,
        target: &Target,
        request: &DescribeVpcs,
    ) -> Result<Page<Arc<Vpc>>, BackendError> {
        let filters = VpcFilters::parse(&request.filters)?;
        let ids = (!request.vpc_ids.is_empty()).then_some("vpcIds");
        let token = request.next_token.as_deref();
        let paging = Paging::parse(List::Vpcs, request.max_results, token, ids)?;
        if request.dry_run {
            return Err(actions::dry_run().into());
        }
        let key = |vpc: &Arc<Vpc>| vpc.id.to_string();
        if ids.is_some() {
            let world = self.lock();
            world.state.site(target)?;
            let ids: BTreeSet<&VpcId> = request.vpc_ids.iter().collect();
            let named = ids.into_iter().map(|id| {
                world.state.visible_vpc(target, id).cloned().ok_or_else(|| no_such_vpc(id))
            });
            let vpcs: Vec<Arc<Vpc>> = named.collect::<Result<_, _>>()?;
            return Ok(page(
                vpcs.into_iter().filter(|vpc| filters.pass(vpc)).collect(),
                &paging,
                key,
            ));
        }
        let chunk = |after: Option<&str>| {
            let world = self.lock();
            world.state.site(target)?;
            let after = after.map(VpcId::new);
            let from = after.as_ref().map_or(Unbounded, Excluded);
            let vpcs = world.state.vpcs().range((from, Unbounded));
            let seen = vpcs.filter_map(|(id, _)| world.state.visible_vpc(target, id));
            Ok(seen.take(CHUNK).cloned().collect())
        };
        fill(&paging, chunk, key, |vpc| filters.pass(vpc))
    }

    fn list_lists(
        &self,
        target: &Target,
        request: &DescribePrefixLists,
    ) -> Result<Page<Arc<PrefixList>>, BackendError> {
        let filters = PrefixListFilters::parse(&request.filters)?;
        let ids = (!request.prefix_list_ids.is_empty()).then_some("prefixListIds");
        let token = request.next_token.as_deref();
        let paging = Paging::parse(List::PrefixLists, request.max_results, token, ids)?;
        if request.dry_run {
            return Err(actions::dry_run().into());
        }
        let key = |list: &Arc<PrefixList>| list.id.to_string();
        if ids.is_some() {
            let world = self.lock();
            world.state.site(target)?;
            let ids: BTreeSet<&PrefixListId> = request.prefix_list_ids.iter().collect();
            let named = ids.into_iter().map(|id| {
                world.state.prefix_list(target, id).cloned().ok_or_else(|| no_such_list(id))
            });
            let lists: Vec<Arc<PrefixList>> = named.collect::<Result<_, _>>()?;
            let passing = lists.into_iter().filter(|list| filters.pass(list)).collect();
            return Ok(page(passing, &paging, key));
        }
        let chunk = |after: Option<&str>| {
            let world = self.lock();
            world.state.site(target)?;
            let after = after.map(PrefixListId::new);
            let from = after.as_ref().map_or(Unbounded, Excluded);
            let lists = world.state.lists().range((from, Unbounded));
            let seen = lists.filter_map(|(id, _)| world.state.prefix_list(target, id));
            Ok(seen.take(CHUNK).cloned().collect())
        };
        fill(&paging, chunk, key, |list| filters.pass(list))
    }
}

fn create_vpc(
    state: &mut State,
    target: &Target,
    request: &CreateVpc,
    random: &dyn Random,
) -> Result<(Arc<Vpc>, Change), BackendError> {
    let block = cidr_block(&request.cidr_block)?;
    check_tags(&request.tags)?;
    if request.dry_run {
        return Err(actions::dry_run().into());
    }
    state.site(target)?;
    if state.vpcs().values().filter(|vpc| vpc.home == *target).count() >= MAX_VPCS {
        let message = "The maximum number of VPCs has been reached.";
        return Err(Refusal::new("VpcLimitExceeded", message).into());
    }
    let vpc = Vpc {
        id: state.new_vpc_id(random),
        is_default: false,
        cidr_block: Some(block.to_string()),
        ipv6_blocks: request.ipv6.then(|| ipv6_block(random)).into_iter().collect(),
        home: target.clone(),
        state: Some("available".to_owned()),
        tags: request.tags.clone(),
        peered: Vec::new(),
    };
    let (group, rules) = actions::default_group(state, &vpc, random);
    let change = actions::change("CreateVpc", &group, rules.clone());
    state.put_vpc(vpc.clone());
    state.insert_group(target, group, rules, true);
    Ok((Arc::new(vpc), change))
}

/// A VPC's IPv4 range, canonical.
fn cidr_block(text: &str) -> Result<Ipv4Net, Refusal> {
    let Some(text) = given(Some(text)) else {
        return Err(missing("cidrBlock"));
    };
    let Some(block) = parse_cidr::<Ipv4Net>(text) else {
        let message = format!(
            "Value ({}) for parameter cidrBlock is invalid. This is not a valid CIDR block.",
            excerpt(text)
        );
        return Err(Refusal::new("InvalidParameterValue", message));
    };
    if !(16..=28).contains(&block.prefix_len()) {
        let message = format!("The CIDR '{block}' is invalid. Expecting a range of /16 to /28.");
        return Err(Refusal::new("InvalidVpc.Range", message));
    }
    Ok(block.trunc())
}

/// A /56 of the range for documentation.
fn ipv6_block(random: &dyn Random) -> Ipv6Block {
    let documentation = 0x2001_0db8_u128 << 96;
    let drawn = random.bits() & (0x00ff_ffff << 72);
    // 56 is no more than 128, so there is such a range.
    let block = Ipv6Net::new(Ipv6Addr::from(documentation | drawn), 56);
    Ipv6Block { range: block.unwrap_or_default().to_string(), state: None }
}

fn delete_vpc(
    state: &mut State,
    target: &Target,
    request: &DeleteVpc,
) -> Result<Option<Change>, BackendError> {
    if request.dry_run {
        return Err(actions::dry_run().into());
    }
    let site = state.site(target)?;
    let id = &request.vpc_id;
    let vpc = state.visible_vpc(target, id).ok_or_else(|| no_such_vpc(id))?;
    if vpc.home != *target {
        return Err(not_owned().into());
    }
    let default = site.by_name_in(id, "default").cloned();
    let others = state.sites().values().flat_map(Site::groups).any(|slot| {
        slot.group.vpc_id.as_ref() == Some(id) && Some(&slot.group.id) != default.as_ref()
    });
    if others {
        let message = format!("The vpc '{id}' has dependencies and cannot be deleted.");
        return Err(Refusal::new("DependencyViolation", message).into());
    }
    let removed = default.and_then(|group| state.remove_group(target, &group, true));
    state.remove_vpc(id);
    let Some(slot) = removed else { return Ok(None) };
    actions::forget_references(state, &slot.group.id);
    Ok(Some(actions::change("DeleteVpc", &slot.group, slot.rules.to_vec())))
}

fn create_list(
    state: &mut State,
    target: &Target,
    request: &CreatePrefixList,
    random: &dyn Random,
) -> Result<Arc<PrefixList>, BackendError> {
    let invalid = |message: String| Refusal::new("InvalidParameterValue", message);
    let name = given(Some(&request.name)).ok_or_else(|| missing("prefixListName"))?;
    if name.len() > MAX_NAME
        || name.chars().any(char::is_control)
        || name.starts_with("com.amazonaws")
    {
        let message = format!(
            "'{}' is not a prefix list name: at most {MAX_NAME} printable characters, not starting \
             with com.amazonaws.",
            excerpt(name)
        );
        return Err(invalid(message).into());
    }
    let family = given(Some(&request.address_family)).ok_or_else(|| missing("addressFamily"))?;
    if !["IPv4", "IPv6"].contains(&family) {
        let message = format!("'{}' is not an address family: IPv4 or IPv6.", excerpt(family));
        return Err(invalid(message).into());
    }
    if !(1..=1000).contains(&request.max_entries) {
        let message =
            format!("A prefix list has 1 to 1000 entries at most, not {}.", request.max_entries);
        return Err(invalid(message).into());
    }
    check_tags(&request.tags)?;
    if request.dry_run {
        return Err(actions::dry_run().into());
    }
    state.site(target)?;
    let owned = state.lists().values().filter(|list| {
        list.region == target.region && list.owner.as_ref() == Some(&target.account)
    });
    if owned.count() >= MAX_LISTS {
        let message = "The maximum number of prefix lists has been reached.";
        return Err(Refusal::new("ResourceLimitExceeded", message).into());
    }
    let list = PrefixList {
        id: state.new_list_id(random),
        name: Some(name.to_owned()),
        address_family: Some(family.to_owned()),
        max_entries: Some(request.max_entries),
        owner: Some(target.account.clone()),
        region: target.region.clone(),
        tags: request.tags.clone(),
    };
    state.put_list(list.clone());
    Ok(Arc::new(list))
}

/// EC2's error for what is another account's or AWS's own, but can be seen.
pub fn not_owned() -> Refusal {
    Refusal::new("UnauthorizedOperation", NOT_AUTHORIZED)
}

/// EC2's error for a parameter that is needed.
pub fn missing(parameter: &str) -> Refusal {
    let message = format!("The request must contain the parameter {parameter}");
    Refusal::new("MissingParameter", message)
}
