//! Decodes a state. Every violation of syntax comes back with its path in the message; fitting the parts together is
//! `load.rs`'s.

use crate::{
    api::proto::{
        sandbox::v1::{self as sandbox, Account, ManagedPrefixList, SandboxState},
        v1,
    },
    backend::sandbox::{
        load::{Draft, GroupDraft, ListDraft, RuleDraft, VpcDraft},
        state::Ipv6Block,
    },
    rule::{
        AccountId, Direction, GroupId, IpPermission, PrefixListId, Protocol, Region, Rule, RuleId,
        RuleSpec, Tag, Traffic, Violation, VpcId,
        permission::{
            MAX_VIOLATIONS, PrefixListRef, Range, UserIdGroupPair, excerpt, expand_all, given,
        },
    },
};

const INVALID_VALUE: &str = "InvalidParameterValue";
const MISSING: &str = "MissingParameter";

/// What a malformed member gets: EC2's code, and what would be right.
type Malformed = (&'static str, &'static str);

const ACCOUNT: Malformed = (INVALID_VALUE, "12 digits");
const REGION: Malformed = (INVALID_VALUE, "a Region code such as us-east-1");
const GROUP: Malformed = ("InvalidGroupId.Malformed", "sg- and 8 or 17 hexadecimal digits");
const VPC: Malformed = ("InvalidVpcID.Malformed", "vpc- and 8 or 17 hexadecimal digits");

/// The longest text that is kept.
const MAX_TEXT: usize = 1024;

#[derive(Default)]
struct Decoder {
    violations: Vec<Violation>,
}

/// Decodes a state, or tells everything that is wrong with it.
pub fn decode(state: SandboxState) -> Result<Draft, Vec<Violation>> {
    let mut decoder = Decoder::default();
    let accounts = decoder.each("accounts", state.accounts, Decoder::account);
    let vpcs = decoder.each("vpcs", state.vpcs, Decoder::vpc);
    let mut lists = decoder.each("managed_prefix_lists", state.managed_prefix_lists, Decoder::list);
    lists.extend(decoder.each("prefix_lists", state.prefix_lists, Decoder::list));
    let groups = decoder.each("security_groups", state.security_groups, Decoder::group);
    let rules = decoder.each("security_group_rules", state.security_group_rules, Decoder::rule);
    if decoder.violations.is_empty() {
        Ok(Draft { accounts, vpcs, lists, groups, rules })
    } else {
        Err(decoder.violations)
    }
}

// === impl Decoder ===

impl Decoder {
    fn each<M, T>(
        &mut self,
        field: &str,
        messages: Vec<M>,
        decode: fn(&mut Self, &str, M) -> Option<T>,
    ) -> Vec<T> {
        let mut decoded = Vec::with_capacity(messages.len());
        for (index, message) in messages.into_iter().enumerate() {
            if self.violations.len() >= MAX_VIOLATIONS {
                break;
            }
            decoded.extend(decode(self, &format!("state.{field}[{index}]"), message));
        }
        decoded
    }

    fn refuse(&mut self, field: String, code: &'static str, message: impl Into<String>) {
        self.violations.push(Violation::new(field, code, message));
    }

    /// A member that may be absent.
    fn parsed<T>(
        &mut self,
        (path, field): (&str, &str),
        text: Option<&str>,
        parse: fn(&str) -> Option<T>,
        malformed: Malformed,
    ) -> Option<T> {
        let text = given(text)?;
        let parsed = parse(text);
        if parsed.is_none() {
            let message = format!("'{}' is not {}.", excerpt(text), malformed.1);
            self.refuse(format!("{path}.{field}"), malformed.0, message);
        }
        parsed
    }

    /// A member that must be there.
    fn required<T>(
        &mut self,
        at: (&str, &str),
        text: Option<&str>,
        parse: fn(&str) -> Option<T>,
        malformed: Malformed,
    ) -> Option<T> {
        if given(text).is_none() {
            let message = format!("It is needed: {}.", malformed.1);
            self.refuse(format!("{}.{}", at.0, at.1), MISSING, message);
        }
        self.parsed(at, text, parse, malformed)
    }

    fn owner(&mut self, path: &str, field: &str, text: Option<&str>) -> Option<AccountId> {
        self.parsed((path, field), text, AccountId::parse, ACCOUNT)
    }

    fn text(&mut self, path: &str, field: &str, text: Option<String>) -> Option<String> {
        let text = text.filter(|text| !text.is_empty())?;
        if text.len() > MAX_TEXT {
            let message = format!("Longer than {MAX_TEXT} bytes.");
            self.refuse(format!("{path}.{field}"), INVALID_VALUE, message);
        }
        Some(text)
    }

    /// The Region and account that an ARN names. AWS's own resources have `aws` for an account.
    fn arn(
        &mut self,
        path: &str,
        field: &str,
        text: Option<&str>,
    ) -> (Option<Region>, Option<AccountId>) {
        let Some(text) = given(text) else { return (None, None) };
        let parts: Vec<&str> = text.splitn(6, ':').collect();
        if let [prefix, _, _, region, account, _] = parts.as_slice()
            && *prefix == "arn"
            && let Some(region) = Region::parse(region)
        {
            return (Some(region), AccountId::parse(account));
        }
        let message = format!("'{}' is not an ARN with a Region.", excerpt(text));
        self.refuse(format!("{path}.{field}"), INVALID_VALUE, message);
        (None, None)
    }

    fn tags(&mut self, path: &str, tags: Vec<v1::Tag>) -> Vec<Tag> {
        let mut decoded: Vec<Tag> = Vec::with_capacity(tags.len());
        for (index, tag) in tags.into_iter().enumerate() {
            let field = format!("{path}.tags[{index}].key");
            let key = tag.key.unwrap_or_default();
            if key.is_empty() {
                self.refuse(field, MISSING, "It is needed: the tag's key.");
            } else if decoded.iter().any(|other| other.key == key) {
                self.refuse(field, INVALID_VALUE, "A resource has each tag key once.");
            } else {
                decoded.push(Tag { key, value: tag.value.unwrap_or_default() });
            }
        }
        decoded
    }

    #[allow(clippy::needless_pass_by_value, reason = "of one form with the others")]
    fn account(&mut self, path: &str, account: Account) -> Option<(AccountId, Vec<Region>)> {
        let id = account.account_id.as_deref();
        let id = self.required((path, "account_id"), id, AccountId::parse, ACCOUNT);
        let mut regions = Vec::with_capacity(account.regions.len());
        for (index, region) in account.regions.iter().enumerate() {
            let field = format!("regions[{index}]");
            regions.extend(self.required(
                (path, &field),
                Some(region.as_str()),
                Region::parse,
                REGION,
            ));
        }
        Some((id?, regions))
    }

    fn vpc(&mut self, path: &str, vpc: sandbox::Vpc) -> Option<VpcDraft> {
        let id = self.required((path, "vpc_id"), vpc.vpc_id.as_deref(), VpcId::parse, VPC);
        let mut peered = Vec::with_capacity(vpc.peered_vpc_ids.len());
        for (index, other) in vpc.peered_vpc_ids.iter().enumerate() {
            let field = format!("peered_vpc_ids[{index}]");
            peered.extend(self.required((path, &field), Some(other.as_str()), VpcId::parse, VPC));
        }
        let blocks = vpc.ipv6_cidr_block_association_set.into_iter();
        let field = "ipv6_cidr_block_association_set";
        let ipv6_blocks = blocks.filter_map(|block| {
            let state = block.ipv6_cidr_block_state.and_then(|state| state.state);
            let state = self.text(path, field, state);
            Some(Ipv6Block { range: self.text(path, field, block.ipv6_cidr_block)?, state })
        });
        Some(VpcDraft {
            ipv6_blocks: ipv6_blocks.collect(),
            id: id?,
            is_default: vpc.is_default.unwrap_or_default(),
            cidr_block: self.text(path, "cidr_block", vpc.cidr_block),
            owner: self.owner(path, "owner_id", vpc.owner_id.as_deref()),
            region: self.parsed((path, "region"), vpc.region.as_deref(), Region::parse, REGION),
            state: self.text(path, "state", vpc.state),
            tags: self.tags(path, vpc.tags),
            peered,
        })
    }

    fn list(&mut self, path: &str, list: ManagedPrefixList) -> Option<ListDraft> {
        let id = self.required(
            (path, "prefix_list_id"),
            list.prefix_list_id.as_deref(),
            PrefixListId::parse,
            ("InvalidPrefixListId.Malformed", "pl- and 8 or 17 hexadecimal digits"),
        );
        if list.max_entries.is_some_and(|entries| entries < 1) {
            self.refuse(format!("{path}.max_entries"), INVALID_VALUE, "At least 1.");
        }
        let (region, account) = self.arn(path, "prefix_list_arn", list.prefix_list_arn.as_deref());
        let owner = match given(list.owner_id.as_deref()) {
            Some("AWS") => Some(None),
            text => self.owner(path, "owner_id", text).or(account).map(Some),
        };
        Some(ListDraft {
            path: path.to_owned(),
            id: id?,
            name: self.text(path, "prefix_list_name", list.prefix_list_name),
            address_family: self.text(path, "address_family", list.address_family),
            max_entries: list.max_entries,
            owner,
            region,
            tags: self.tags(path, list.tags),
        })
    }

    fn group(&mut self, path: &str, group: v1::SecurityGroup) -> Option<GroupDraft> {
        let id =
            self.required((path, "group_id"), group.group_id.as_deref(), GroupId::parse, GROUP);
        let (region, account) =
            self.arn(path, "security_group_arn", group.security_group_arn.as_deref());
        let vpc_id = self.parsed((path, "vpc_id"), group.vpc_id.as_deref(), VpcId::parse, VPC);
        let owner = self.owner(path, "owner_id", group.owner_id.as_deref()).or(account);
        let egress = self.permissions(path, "ip_permissions_egress", group.ip_permissions_egress);
        let ingress = self.permissions(path, "ip_permissions", group.ip_permissions);
        let directed = |direction| move |spec| rule(RuleId::new(""), direction, spec);
        let rules = egress.into_iter().map(directed(Direction::Egress));
        let rules = rules.chain(ingress.into_iter().map(directed(Direction::Ingress))).collect();
        Some(GroupDraft {
            id: id?,
            name: self.text(path, "group_name", group.group_name),
            description: self.text(path, "description", group.description).unwrap_or_default(),
            vpc_id,
            owner,
            region,
            tags: self.tags(path, group.tags),
            rules,
        })
    }

    fn permissions(
        &mut self,
        path: &str,
        field: &str,
        permissions: Vec<v1::IpPermission>,
    ) -> Vec<RuleSpec> {
        let permissions: Vec<IpPermission> = permissions.into_iter().map(permission).collect();
        expand_all(&format!("{path}.{field}"), &permissions).unwrap_or_else(|violations| {
            self.violations.extend(violations);
            Vec::new()
        })
    }

    fn rule(&mut self, path: &str, message: v1::SecurityGroupRule) -> Option<RuleDraft> {
        let group_id =
            self.required((path, "group_id"), message.group_id.as_deref(), GroupId::parse, GROUP);
        let id = self.parsed(
            (path, "security_group_rule_id"),
            message.security_group_rule_id.as_deref(),
            RuleId::parse_own,
            ("InvalidSecurityGroupRuleId.Malformed", "sgr- and 17 hexadecimal digits"),
        );
        let owner = self.owner(path, "group_owner_id", message.group_owner_id.as_deref());
        if message.is_egress.is_none() {
            self.refuse(format!("{path}.is_egress"), MISSING, "It is needed: true or false.");
        }
        let protocol = self.required(
            (path, "ip_protocol"),
            message.ip_protocol.as_deref(),
            Protocol::parse,
            (INVALID_VALUE, "tcp, udp, icmp, icmpv6, a protocol number or -1"),
        );
        let traffic = Traffic::new(protocol?, message.from_port, message.to_port);
        let traffic = traffic.map_err(|violations| {
            for violation in violations {
                let field = format!("{path}.{}", violation.field);
                self.refuse(field, violation.code, violation.message);
            }
        });
        let description = self.text(path, "description", message.description);
        let tags = self.tags(path, message.tags);

        // One peer, decoded as a permission's is.
        let range = |cidr: Option<String>| {
            let cidr = cidr.filter(|cidr| !cidr.is_empty())?;
            Some(Range { cidr: Some(cidr), description: None })
        };
        let list = message.prefix_list_id.filter(|id| !id.is_empty());
        let list = list.map(|id| PrefixListRef { prefix_list_id: Some(id), description: None });
        let pair = message.referenced_group_info.map(|group| UserIdGroupPair {
            group_id: group.group_id,
            user_id: group.user_id,
            vpc_id: group.vpc_id,
            vpc_peering_connection_id: group.vpc_peering_connection_id,
            peering_status: group.peering_status,
            ..UserIdGroupPair::default()
        });
        let alone = IpPermission {
            ip_protocol: Some("-1".to_owned()),
            ip_ranges: range(message.cidr_ipv4).into_iter().collect(),
            ipv6_ranges: range(message.cidr_ipv6).into_iter().collect(),
            prefix_list_ids: list.into_iter().collect(),
            user_id_group_pairs: pair.into_iter().collect(),
            ..IpPermission::default()
        };
        let mut peers = match expand_all(path, &[alone]) {
            Ok(specs) => specs.into_iter().map(|spec| spec.peer),
            Err(violations) => {
                let of_rule = violations
                    .into_iter()
                    .map(|violation| Violation { field: path.to_owned(), ..violation });
                self.violations.extend(of_rule);
                return None;
            }
        };
        let (Some(peer), None) = (peers.next(), peers.next()) else {
            let message = "A rule has one peer: cidr_ipv4, cidr_ipv6, prefix_list_id or \
                           referenced_group_info.";
            self.refuse(path.to_owned(), "InvalidParameterCombination", message);
            return None;
        };
        let spec = RuleSpec { traffic: traffic.ok()?, peer, description };
        let direction = if message.is_egress? { Direction::Egress } else { Direction::Ingress };
        let mut rule = rule(id.unwrap_or_else(|| RuleId::new("")), direction, spec);
        rule.tags = (!tags.is_empty()).then(|| Box::new(tags));
        Some(RuleDraft { group_id: group_id?, owner, rule })
    }
}

/// A rule in the form in which it is stored.
fn rule(id: RuleId, direction: Direction, spec: RuleSpec) -> Rule {
    Rule {
        id,
        direction,
        traffic: spec.traffic,
        peer: spec.peer.canonical(),
        description: spec.description.map(String::into_boxed_str),
        tags: None,
    }
}

fn permission(message: v1::IpPermission) -> IpPermission {
    let ipv4 = |range: v1::IpRange| Range { cidr: range.cidr_ip, description: range.description };
    let ipv6 =
        |range: v1::Ipv6Range| Range { cidr: range.cidr_ipv6, description: range.description };
    let list = |list: v1::PrefixListId| PrefixListRef {
        prefix_list_id: list.prefix_list_id,
        description: list.description,
    };
    let pair = |pair: v1::UserIdGroupPair| UserIdGroupPair {
        group_id: pair.group_id,
        group_name: pair.group_name,
        user_id: pair.user_id,
        vpc_id: pair.vpc_id,
        vpc_peering_connection_id: pair.vpc_peering_connection_id,
        peering_status: pair.peering_status,
        description: pair.description,
    };
    IpPermission {
        ip_protocol: message.ip_protocol,
        from_port: message.from_port,
        to_port: message.to_port,
        ip_ranges: message.ip_ranges.into_iter().map(ipv4).collect(),
        ipv6_ranges: message.ipv6_ranges.into_iter().map(ipv6).collect(),
        prefix_list_ids: message.prefix_list_ids.into_iter().map(list).collect(),
        user_id_group_pairs: message.user_id_group_pairs.into_iter().map(pair).collect(),
    }
}
