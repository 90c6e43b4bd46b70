//! The contract's messages as the domain's commands, with every constraint that needs no backend checked: the seed
//! page, and ec2-facts sections 1 and 2. All violations come back at once.

use super::proto::v1;
use crate::{
    backend::{
        AuthorizeRules, CreateGroup, DeleteGroup, DescribeGroups, DescribeRules, Filter, Selection,
    },
    operations::{Authorize, Command, Create, Delete, OnUnknown, Revoke},
    rule::{
        AccountId, Direction, GroupId, GroupRef, IpPermission, Region, RuleId, RuleSpec, Tag,
        Violation, VpcId,
        change::repeated_rule_id,
        expand, is_valid_description,
        permission::{MAX_RULES, excerpt, given, malformed_group_id},
    },
};

mod legacy;
pub mod operations;
mod permissions;

use legacy::Scalars;
pub use permissions::permissions;

/// What a request asks for, and where.
#[derive(Debug)]
pub struct Decoded {
    /// The account, if one is given.
    pub account: Option<AccountId>,
    /// The Region, if one is given.
    pub region: Option<Region>,
    /// The command.
    pub command: Command,
}

/// A command, or everything that is wrong with the request.
pub type Result = std::result::Result<Decoded, Vec<Violation>>;

const INVALID_VALUE: &str = "InvalidParameterValue";
const COMBINATION: &str = "InvalidParameterCombination";
const MISSING: &str = "MissingParameter";

/// The most characters of a group's name or description, a token, a tag key and a tag value.
const MAX_TOKEN: usize = 4096;
const MAX_TAG_KEY: usize = 128;
const MAX_TAG_VALUE: usize = 256;

/// The most tags of one resource, values of one filter, filters of one call, and names or ids in one describe.
const MAX_TAGS: usize = 50;
const MAX_FILTER_VALUES: usize = 200;
const MAX_FILTERS: usize = 50;
const MAX_IDS: usize = 1000;

/// The scalars of EC2's older form, which four requests have.
macro_rules! scalars {
    ($request:ident) => {
        Scalars {
            cidr_ip: $request.cidr_ip,
            from_port: $request.from_port,
            ip_protocol: $request.ip_protocol,
            to_port: $request.to_port,
            source_security_group_name: $request.source_security_group_name,
            source_security_group_owner_id: $request.source_security_group_owner_id,
        }
    };
}

/// RevokeEgress.
#[allow(deprecated, reason = "the scalars that EC2 does not support are read to be refused")]
pub fn revoke_egress(request: v1::RevokeEgressRequest) -> Result {
    let mut checks = Checks::default();
    let group = checks.group_id(request.group_id.as_deref());
    let scalars = scalars!(request);
    let other = others(&request.ip_permissions, &request.security_group_rule_ids);
    scalars.refuse(other.is_some(), &mut checks.violations);
    let scalars_set = !scalars.set_fields().is_empty();
    let selection =
        checks.selection(&request.ip_permissions, &request.security_group_rule_ids, scalars_set);
    checks.digest(&request.expected_rules_digest);
    let on_unknown = checks.on_unknown(request.on_unknown);
    let dry_run = request.dry_run.unwrap_or_default();
    checks.finish(request.target, move || {
        Some(Command::Revoke(Revoke {
            group: GroupRef::Id(group?),
            direction: Direction::Egress,
            selection: selection?,
            dry_run,
            on_unknown: on_unknown?,
            verify: request.verify,
        }))
    })
}

/// EC2's name of what says which rules, beside the scalars of the older form.
fn others(permissions: &[v1::IpPermission], ids: &[String]) -> Option<&'static str> {
    match (permissions.is_empty(), ids.is_empty()) {
        (true, true) => None,
        (true, false) => Some("securityGroupRuleIds"),
        (false, _) => Some("ipPermissions"),
    }
}

/// RevokeIngress.
pub fn revoke_ingress(request: v1::RevokeIngressRequest) -> Result {
    let mut checks = Checks::default();
    let group = checks.group_ref(request.group_id.as_deref(), request.group_name.as_deref());
    let scalars = scalars!(request);
    let other = others(&request.ip_permissions, &request.security_group_rule_ids);
    let selection = match scalars.rules(other, false, &mut checks.violations) {
        Some(specs) => Some(Selection::Specs(specs)),
        None => {
            let scalars_set = !scalars.set_fields().is_empty();
            checks.selection(&request.ip_permissions, &request.security_group_rule_ids, scalars_set)
        }
    };
    checks.digest(&request.expected_rules_digest);
    let on_unknown = checks.on_unknown(request.on_unknown);
    let dry_run = request.dry_run.unwrap_or_default();
    checks.finish(request.target, move || {
        Some(Command::Revoke(Revoke {
            group: group?,
            direction: Direction::Ingress,
            selection: selection?,
            dry_run,
            on_unknown: on_unknown?,
            verify: request.verify,
        }))
    })
}

/// AuthorizeEgress.
#[allow(deprecated, reason = "the scalars that EC2 does not support are read to be refused")]
pub fn authorize_egress(request: v1::AuthorizeEgressRequest) -> Result {
    let mut checks = Checks::default();
    let group = checks.group_id(request.group_id.as_deref());
    let scalars = scalars!(request);
    scalars.refuse(!request.ip_permissions.is_empty(), &mut checks.violations);
    let scalars_set = !scalars.set_fields().is_empty();
    let specs = checks.new_rules(&request.ip_permissions, scalars_set);
    let tags = checks.tags(request.tag_specifications, "security-group-rule");
    let dry_run = request.dry_run.unwrap_or_default();
    checks.finish(request.target, move || {
        let rules = AuthorizeRules {
            group: GroupRef::Id(group?),
            direction: Direction::Egress,
            specs: specs?,
            tags,
            dry_run,
        };
        Some(Command::Authorize(Authorize { rules }))
    })
}

/// AuthorizeIngress.
pub fn authorize_ingress(request: v1::AuthorizeIngressRequest) -> Result {
    let mut checks = Checks::default();
    let group = checks.group_ref(request.group_id.as_deref(), request.group_name.as_deref());
    let scalars = scalars!(request);
    let other = others(&request.ip_permissions, &[]);
    let specs = match scalars.rules(other, true, &mut checks.violations) {
        Some(specs) => Some(specs),
        None => checks.new_rules(&request.ip_permissions, !scalars.set_fields().is_empty()),
    };
    let tags = checks.tags(request.tag_specifications, "security-group-rule");
    let dry_run = request.dry_run.unwrap_or_default();
    checks.finish(request.target, move || {
        let rules = AuthorizeRules {
            group: group?,
            direction: Direction::Ingress,
            specs: specs?,
            tags,
            dry_run,
        };
        Some(Command::Authorize(Authorize { rules }))
    })
}

/// DescribeSecurityGroupRules.
pub fn describe_rules(request: v1::DescribeSecurityGroupRulesRequest) -> Result {
    let mut checks = Checks::default();
    let filters = checks.filters(request.filters);
    let rule_ids = checks.rule_ids(&request.security_group_rule_ids, Repeated::Once);
    let ids = (!rule_ids.is_empty()).then_some("securityGroupRuleIds");
    let max_results = checks.max_results(request.max_results, ids);
    let next_token = checks.next_token(request.next_token);
    let dry_run = request.dry_run.unwrap_or_default();
    checks.finish(request.target, move || {
        let request = DescribeRules { filters, rule_ids, next_token, max_results, dry_run };
        Some(Command::DescribeRules(request))
    })
}

/// DescribeSecurityGroups.
pub fn describe_groups(request: v1::DescribeSecurityGroupsRequest) -> Result {
    let mut checks = Checks::default();
    let filters = checks.filters(request.filters);
    checks.at_most("group_ids", request.group_ids.len(), MAX_IDS);
    checks.at_most("group_names", request.group_names.len(), MAX_IDS);
    let mut group_ids = Vec::new();
    for (index, text) in request.group_ids.iter().take(MAX_IDS).enumerate() {
        match GroupId::parse(text) {
            Some(id) => group_ids.push(id),
            None => {
                let field = format!("group_ids[{index}]");
                checks.refuse::<()>(field, "InvalidGroupId.Malformed", malformed_group_id(text));
            }
        }
    }
    let group_names = request.group_names;
    for (index, name) in group_names.iter().take(MAX_IDS).enumerate() {
        checks.group_name_text(&format!("group_names[{index}]"), name);
    }
    let ids = (!group_ids.is_empty()).then_some("groupIds");
    let max_results = checks.max_results(request.max_results, ids);
    let next_token = checks.next_token(request.next_token);
    let dry_run = request.dry_run.unwrap_or_default();
    checks.finish(request.target, move || {
        Some(Command::DescribeGroups(DescribeGroups {
            filters,
            group_ids,
            group_names,
            next_token,
            max_results,
            dry_run,
        }))
    })
}

/// CreateSecurityGroup.
pub fn create(request: v1::CreateSecurityGroupRequest) -> Result {
    let mut checks = Checks::default();
    // Trailing spaces are trimmed (ec2-facts section 5). Other white space is none of a name's characters.
    let name = request.group_name.as_deref().map(|name| name.trim_end_matches(' '));
    let name = match given(name) {
        None => checks.missing("group_name", "GroupName"),
        Some(name) if name.eq_ignore_ascii_case("default") => {
            let message = format!("The security group '{name}' is reserved");
            checks.refuse("group_name", "InvalidGroup.Reserved", message)
        }
        Some(name) if name.starts_with("sg-") => {
            let message = "Invalid group name. Group names may not be in the format sg-*.";
            checks.refuse("group_name", INVALID_VALUE, message)
        }
        Some(name) => {
            checks.group_name_text("group_name", name);
            Some(name.to_owned())
        }
    };
    let description = match given(request.description.as_deref()) {
        None => checks.missing("description", "GroupDescription"),
        Some(text) if !is_valid_description(text, true) => {
            let message = "Invalid security group description. Valid descriptions are strings less \
                           than 256 characters from the following set: \
                           a-zA-Z0-9. _-:/()#,@[]+=&;{}!$*";
            checks.refuse("description", INVALID_VALUE, message)
        }
        Some(text) => Some(text.to_owned()),
    };
    let vpc_id = given(request.vpc_id.as_deref()).and_then(|text| {
        let parsed = VpcId::parse(text);
        if parsed.is_none() {
            let message = format!("Invalid id: \"{}\" (expecting \"vpc-...\")", excerpt(text));
            checks.refuse::<()>("vpc_id", "InvalidVpcID.Malformed", message);
        }
        parsed
    });
    let tags = checks.tags(request.tag_specifications, "security-group");
    let dry_run = request.dry_run.unwrap_or_default();
    checks.finish(request.target, move || {
        let request = CreateGroup { name: name?, description: description?, vpc_id, tags, dry_run };
        Some(Command::Create(Create(request)))
    })
}

/// DeleteSecurityGroup.
pub fn delete(request: v1::DeleteSecurityGroupRequest) -> Result {
    let mut checks = Checks::default();
    let group = checks.group_ref(request.group_id.as_deref(), request.group_name.as_deref());
    let dry_run = request.dry_run.unwrap_or_default();
    checks.finish(request.target, move || {
        Some(Command::Delete(Delete(DeleteGroup { group: group?, dry_run })))
    })
}

/// What a rule id that a request has twice means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeated {
    /// What one means.
    Once,
    /// That the request is wrong (R32).
    Refused,
}

/// Collects violations while the parts of a request are read.
#[derive(Default)]
struct Checks {
    violations: Vec<Violation>,
}

impl Checks {
    /// Notes a violation; gives the `None` that the part is then.
    fn refuse<T>(
        &mut self,
        field: impl Into<String>,
        code: &'static str,
        message: impl Into<String>,
    ) -> Option<T> {
        self.violations.push(Violation::new(field, code, message));
        None
    }

    fn missing<T>(&mut self, field: &str, parameter: &str) -> Option<T> {
        self.refuse(field, MISSING, format!("The request must contain the parameter {parameter}"))
    }

    fn at_most(&mut self, field: &str, count: usize, limit: usize) {
        if count > limit {
            let message = format!("{count} entries; at most {limit} are allowed.");
            self.refuse::<()>(field, "ResourceCountExceeded", message);
        }
    }

    /// The account and Region, where they are given.
    fn target(&mut self, target: Option<v1::Target>) -> (Option<AccountId>, Option<Region>) {
        let target = target.unwrap_or_default();
        let account = given(Some(&target.account_id)).and_then(|text| {
            AccountId::parse(text).or_else(|| {
                let message = format!("'{}' is not a 12-digit account id.", excerpt(text));
                self.refuse("target.account_id", INVALID_VALUE, message)
            })
        });
        let region = given(Some(&target.region)).and_then(|text| {
            Region::parse(text).or_else(|| {
                let message = format!("'{}' is not a Region code.", excerpt(text));
                self.refuse("target.region", INVALID_VALUE, message)
            })
        });
        (account, region)
    }

    /// The command, if nothing was wrong.
    fn finish(
        mut self,
        target: Option<v1::Target>,
        command: impl FnOnce() -> Option<Command>,
    ) -> Result {
        let (account, region) = self.target(target);
        if !self.violations.is_empty() {
            return Err(self.violations);
        }
        match command() {
            Some(command) => Ok(Decoded { account, region, command }),
            // Every part that is missing has noted why.
            None => {
                Err(vec![Violation::new("request", INVALID_VALUE, "The request is incomplete.")])
            }
        }
    }

    fn group_id(&mut self, text: Option<&str>) -> Option<GroupId> {
        let Some(text) = given(text) else { return self.missing("group_id", "groupId") };
        let parsed = GroupId::parse(text);
        if parsed.is_none() {
            let message = malformed_group_id(text);
            self.refuse::<()>("group_id", "InvalidGroupId.Malformed", message);
        }
        parsed
    }

    fn group_ref(&mut self, id: Option<&str>, name: Option<&str>) -> Option<GroupRef> {
        match (given(id), given(name)) {
            (None, None) => self.missing("group_id", "groupName or groupId"),
            (Some(_), Some(_)) => self.refuse(
                "group_name",
                COMBINATION,
                "The parameter 'groupName' may not be used in combination with 'groupId'",
            ),
            (id @ Some(_), None) => self.group_id(id).map(GroupRef::Id),
            (None, Some(name)) => {
                self.group_name_text("group_name", name);
                Some(GroupRef::Name(name.to_owned()))
            }
        }
    }

    fn group_name_text(&mut self, field: &str, name: &str) {
        if !is_valid_description(name, true) {
            let message = "Invalid group name. Valid names are strings less than 256 characters from \
                           the following set: a-zA-Z0-9. _-:/()#,@[]+=&;{}!$*";
            self.refuse::<()>(field, INVALID_VALUE, message);
        }
    }

    fn expanded(&mut self, permissions: &[IpPermission]) -> Option<Vec<RuleSpec>> {
        match expand("ip_permissions", permissions) {
            Ok(specs) => Some(specs),
            Err(violations) => {
                self.violations.extend(violations);
                None
            }
        }
    }

    /// Either permissions or rule ids; both are read, so that all violations show.
    fn selection(
        &mut self,
        asked: &[v1::IpPermission],
        ids: &[String],
        scalars_set: bool,
    ) -> Option<Selection> {
        match (asked.is_empty(), ids.is_empty()) {
            // The refusal of the scalars says what to give instead.
            (true, true) if scalars_set => None,
            (true, true) => self.refuse(
                "ip_permissions",
                MISSING,
                "Either 'ipPermissions' or 'securityGroupRuleIds' should be provided.",
            ),
            (false, true) => {
                let specs = self.expanded(&permissions(asked))?;
                Some(Selection::Specs(specs))
            }
            (true, false) => Some(Selection::Ids(self.rule_ids(ids, Repeated::Refused))),
            (false, false) => {
                self.expanded(&permissions(asked));
                self.rule_ids(ids, Repeated::Refused);
                self.refuse(
                    "security_group_rule_ids",
                    COMBINATION,
                    "The parameter 'securityGroupRuleIds' may not be used in combination with \
                     'ipPermissions'",
                )
            }
        }
    }

    fn new_rules(
        &mut self,
        asked: &[v1::IpPermission],
        scalars_set: bool,
    ) -> Option<Vec<RuleSpec>> {
        if asked.is_empty() {
            if !scalars_set {
                self.missing::<()>("ip_permissions", "ipPermissions");
            }
            return None;
        }
        self.expanded(&permissions(asked))
    }

    fn rule_ids(&mut self, texts: &[String], repeated: Repeated) -> Vec<RuleId> {
        self.at_most("security_group_rule_ids", texts.len(), MAX_RULES);
        let mut ids: Vec<RuleId> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for (index, text) in texts.iter().take(MAX_RULES).enumerate() {
            let field = format!("security_group_rule_ids[{index}]");
            match RuleId::parse(text) {
                None => {
                    let message = format!("Invalid id: \"{}\"", excerpt(text));
                    self.refuse::<()>(field, "InvalidSecurityGroupRuleId.Malformed", message);
                }
                Some(id) if seen.insert(id.clone()) => ids.push(id),
                Some(id) if repeated == Repeated::Refused => {
                    self.refuse::<()>(field, INVALID_VALUE, repeated_rule_id(&id));
                }
                Some(_) => {}
            }
        }
        ids
    }

    fn on_unknown(&mut self, number: i32) -> Option<OnUnknown> {
        match v1::OnUnknown::try_from(number) {
            Ok(v1::OnUnknown::Unspecified) => Some(OnUnknown::AsEc2),
            Ok(v1::OnUnknown::Fail) => Some(OnUnknown::Fail),
            Ok(v1::OnUnknown::RevokeMatched) => Some(OnUnknown::RevokeMatched),
            Err(_) => {
                let message = format!("{number} is not a value of OnUnknown.");
                self.refuse("on_unknown", INVALID_VALUE, message)
            }
        }
    }

    fn digest(&mut self, digest: &str) {
        if !digest.is_empty() {
            self.refuse::<()>(
                "expected_rules_digest",
                "UnsupportedOperation",
                "This server does not check digests yet. Leave it out; nothing was changed.",
            );
        }
    }

    fn tags(&mut self, specifications: Vec<v1::TagSpecification>, kind: &str) -> Vec<Tag> {
        let mut tags: Vec<Tag> = Vec::new();
        self.at_most("tag_specifications", specifications.len(), MAX_TAGS);
        for (index, specification) in specifications.into_iter().take(MAX_TAGS).enumerate() {
            let path = format!("tag_specifications[{index}]");
            if specification.resource_type.as_deref() != Some(kind) {
                let given = excerpt(specification.resource_type.as_deref().unwrap_or_default());
                let message = format!(
                    "'{given}' is not a valid taggable resource type here; it is '{kind}'."
                );
                self.refuse::<()>(format!("{path}.resource_type"), INVALID_VALUE, message);
            }
            for (index, tag) in specification.tags.into_iter().enumerate() {
                let path = format!("{path}.tags[{index}]");
                if tags.len() == MAX_TAGS {
                    let message = format!("More than {MAX_TAGS} tags.");
                    self.refuse::<()>(path, "TagLimitExceeded", message);
                    return tags;
                }
                let key = tag.key.unwrap_or_default();
                let value = tag.value.unwrap_or_default();
                let reserved = key.to_ascii_lowercase().starts_with("aws:");
                if !(1..=MAX_TAG_KEY).contains(&key.chars().count()) || reserved {
                    let message = format!(
                        "'{}' is not a tag key: 1 to {MAX_TAG_KEY} characters, not starting with 'aws:'.",
                        excerpt(&key)
                    );
                    self.refuse::<()>(format!("{path}.key"), INVALID_VALUE, message);
                }
                if value.chars().count() > MAX_TAG_VALUE {
                    let message = format!("Longer than {MAX_TAG_VALUE} characters.");
                    self.refuse::<()>(format!("{path}.value"), INVALID_VALUE, message);
                }
                if tags.iter().any(|tag| tag.key == key) {
                    let message = format!("The tag key '{}' appears twice.", excerpt(&key));
                    self.refuse::<()>(format!("{path}.key"), INVALID_VALUE, message);
                }
                tags.push(Tag { key, value });
            }
        }
        tags
    }

    fn filters(&mut self, filters: Vec<v1::Filter>) -> Vec<Filter> {
        if filters.len() > MAX_FILTERS {
            let message = format!("More than {MAX_FILTERS} filters.");
            self.refuse::<()>("filters", "FilterLimitExceeded", message);
        }
        let mut decoded = Vec::new();
        for (index, filter) in filters.into_iter().take(MAX_FILTERS).enumerate() {
            let path = format!("filters[{index}]");
            let Some(name) = filter.name.filter(|name| !name.is_empty()) else {
                self.missing::<()>(&format!("{path}.name"), "Filter.Name");
                continue;
            };
            if name.len() > MAX_TAG_KEY * 4 + 4 {
                let message = format!("The filter '{}' is invalid", excerpt(&name));
                self.refuse::<()>(format!("{path}.name"), INVALID_VALUE, message);
            }
            if filter.values.is_empty() {
                let message = format!("The filter '{}' has no value.", excerpt(&name));
                self.refuse::<()>(format!("{path}.values"), MISSING, message);
            }
            if filter.values.len() > MAX_FILTER_VALUES {
                let message = format!("More than {MAX_FILTER_VALUES} values.");
                self.refuse::<()>(format!("{path}.values"), "FilterLimitExceeded", message);
            }
            decoded.push(Filter { name, values: filter.values });
        }
        decoded
    }

    fn max_results(&mut self, given: Option<i32>, with_ids: Option<&str>) -> Option<i32> {
        let value = given?;
        if let Some(ids) = with_ids {
            let message =
                format!("The parameter 'maxResults' may not be used in combination with '{ids}'");
            return self.refuse("max_results", COMBINATION, message);
        }
        if !(5..=1000).contains(&value) {
            let message = format!(
                "Value ( {value} ) for parameter maxResults is invalid. Expecting a value from 5 to 1000."
            );
            return self.refuse("max_results", INVALID_VALUE, message);
        }
        Some(value)
    }

    fn next_token(&mut self, token: Option<String>) -> Option<String> {
        let token = token.filter(|token| !token.is_empty())?;
        if token.len() > MAX_TOKEN {
            let message = "The specified token is not valid: it is too long.";
            return self.refuse("next_token", "InvalidPaginationToken", message);
        }
        Some(token)
    }
}
