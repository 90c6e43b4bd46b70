//! The describes' filters and pages (ec2-facts section 9).

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

use crate::{
    backend::{Filter, GroupImage, Refusal},
    rule::{Direction, GroupId, Peer, PrefixListId, Rule, RuleId, Tag, permission::excerpt},
};

/// The page's size where none is asked for, and the largest.
const MAX_RESULTS: usize = 1000;
const MIN_RESULTS: usize = 5;

/// A filter's value: `*` stands for any text, `?` for one character, `\` takes the next literally.
#[derive(Clone, Debug)]
struct Pattern(Vec<Piece>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Any,
    One,
    Literal(char),
}

/// Values, of which any will do.
#[derive(Clone, Debug)]
struct Values(Vec<Pattern>);

/// The filters of DescribeSecurityGroups, parsed.
#[derive(Clone, Debug)]
pub struct GroupFilters(Vec<(GroupField, Values)>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum GroupField {
    Description,
    GroupId,
    GroupName,
    OwnerId,
    Tag(String),
    TagKey,
    VpcId,
    Rule(Direction, RuleField),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RuleField {
    Cidr,
    FromPort,
    GroupId,
    GroupName,
    Ipv6Cidr,
    PrefixListId,
    Protocol,
    ToPort,
    UserId,
}

/// The filters of DescribeSecurityGroupRules, parsed.
#[derive(Clone, Debug)]
pub struct RuleFilters(Vec<(RuleListField, Values)>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum RuleListField {
    GroupId,
    RuleId,
    Tag(String),
    TagKey,
}

/// Where a page begins and how long it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paging {
    /// What the last page ended with.
    pub after: Option<String>,
    /// How many items at most.
    pub size: usize,
    kind: char,
}

// === impl Pattern ===

impl Pattern {
    fn parse(text: &str) -> Self {
        let mut pieces = Vec::new();
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            let piece = match character {
                '*' => Piece::Any,
                '?' => Piece::One,
                '\\' => Piece::Literal(characters.next().unwrap_or('\\')),
                other => Piece::Literal(other),
            };
            // Two stars in a row say no more than one, and cost more.
            if piece != Piece::Any || pieces.last() != Some(&Piece::Any) {
                pieces.push(piece);
            }
        }
        Self(pieces)
    }

    /// The text it stands for, if it has no wildcard.
    fn exact(&self) -> Option<String> {
        self.0
            .iter()
            .map(|piece| match piece {
                Piece::Literal(character) => Some(*character),
                Piece::Any | Piece::One => None,
            })
            .collect()
    }

    /// Goes back to the last star only, which is enough: what an earlier one took is never worth more.
    fn matches(&self, text: &str) -> bool {
        let mut pieces = self.0.as_slice();
        let mut rest = text.chars();
        let mut star = None;
        loop {
            let mut next = rest.clone();
            match (pieces.split_first(), next.next()) {
                (Some((Piece::Any, after)), _) => {
                    star = Some((after, rest.clone()));
                    pieces = after;
                    continue;
                }
                (Some((Piece::One, after)), Some(_)) => {
                    (pieces, rest) = (after, next);
                    continue;
                }
                (Some((Piece::Literal(wanted), after)), Some(character))
                    if *wanted == character =>
                {
                    (pieces, rest) = (after, next);
                    continue;
                }
                (None, None) => return true,
                _ => {}
            }
            let Some((after, taken)) = &mut star else { return false };
            if taken.next().is_none() {
                return false;
            }
            (pieces, rest) = (after, taken.clone());
        }
    }
}

// === impl Values ===

impl Values {
    fn any(&self, text: &str) -> bool {
        self.0.iter().any(|pattern| pattern.matches(text))
    }

    fn any_tag(&self, key: &str, tags: &[Tag]) -> bool {
        tags.iter().any(|tag| tag.key == key && self.any(&tag.value))
    }

    fn any_key(&self, tags: &[Tag]) -> bool {
        tags.iter().any(|tag| self.any(&tag.key))
    }

    /// All of them, if none has a wildcard.
    fn exact(&self) -> Option<Vec<String>> {
        self.0.iter().map(Pattern::exact).collect()
    }
}

/// Parses filters, naming the fields by `field`.
fn parse<F: PartialEq>(
    filters: &[Filter],
    group_id: &F,
    field: impl Fn(&str) -> Option<F>,
) -> Result<Vec<(F, Values)>, Refusal> {
    filters
        .iter()
        .map(|filter| {
            let Some(field) = field(&filter.name) else {
                let message = format!("The filter '{}' is invalid", excerpt(&filter.name));
                return Err(Refusal::new("InvalidParameterValue", message));
            };
            let values = Values(filter.values.iter().map(|text| Pattern::parse(text)).collect());
            if field == *group_id {
                let exact = values.0.iter().filter_map(Pattern::exact);
                if let Some(bad) = exact.into_iter().find(|id| GroupId::parse(id).is_none()) {
                    let message = format!("The security group ID '{}' is malformed", excerpt(&bad));
                    return Err(Refusal::new("InvalidGroupId.Malformed", message));
                }
            }
            Ok((field, values))
        })
        .collect()
}

// === impl GroupFilters ===

impl GroupFilters {
    /// Parses them. EC2's error for a name that does not exist, or a malformed group id.
    pub fn parse(filters: &[Filter]) -> Result<Self, Refusal> {
        parse(filters, &GroupField::GroupId, |name| {
            let field = match name {
                "description" => GroupField::Description,
                "group-id" => GroupField::GroupId,
                "group-name" => GroupField::GroupName,
                "owner-id" => GroupField::OwnerId,
                "tag-key" => GroupField::TagKey,
                "vpc-id" => GroupField::VpcId,
                _ => {
                    if let Some(key) = name.strip_prefix("tag:") {
                        return Some(GroupField::Tag(key.to_owned()));
                    }
                    if let Some(field) = name.strip_prefix("egress.ip-permission.") {
                        return Some(GroupField::Rule(Direction::Egress, RuleField::parse(field)?));
                    }
                    let field = name.strip_prefix("ip-permission.")?;
                    return Some(GroupField::Rule(Direction::Ingress, RuleField::parse(field)?));
                }
            };
            Some(field)
        })
        .map(Self)
    }

    /// Whether a group passes all of them. Each filter over rules may be met by another rule. `name_of` tells the
    /// name of a group that a rule refers to.
    pub fn pass(&self, image: &GroupImage, name_of: &dyn Fn(&GroupId) -> Option<String>) -> bool {
        let group = &image.group;
        self.0.iter().all(|(field, values)| match field {
            GroupField::Description => values.any(&group.description),
            GroupField::GroupId => values.any(group.id.as_str()),
            GroupField::GroupName => values.any(&group.name),
            GroupField::OwnerId => values.any(group.owner_id.as_str()),
            GroupField::Tag(key) => values.any_tag(key, &group.tags),
            GroupField::TagKey => values.any_key(&group.tags),
            GroupField::VpcId => group.vpc_id.as_ref().is_some_and(|vpc| values.any(vpc.as_str())),
            GroupField::Rule(direction, field) => image
                .rules
                .iter()
                .any(|rule| rule.direction == *direction && field.passes(rule, values, name_of)),
        })
    }

    /// The only groups that can pass, if the filters name them by id.
    pub fn group_ids(&self) -> Option<Vec<GroupId>> {
        let (_, values) = self.0.iter().find(|(field, _)| *field == GroupField::GroupId)?;
        Some(values.exact()?.iter().map(GroupId::new).collect())
    }
}

// === impl RuleField ===

impl RuleField {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "cidr" => Self::Cidr,
            "from-port" => Self::FromPort,
            "group-id" => Self::GroupId,
            "group-name" => Self::GroupName,
            "ipv6-cidr" => Self::Ipv6Cidr,
            "prefix-list-id" => Self::PrefixListId,
            "protocol" => Self::Protocol,
            "to-port" => Self::ToPort,
            "user-id" => Self::UserId,
            _ => return None,
        })
    }

    fn passes(
        self,
        rule: &Rule,
        values: &Values,
        name_of: &dyn Fn(&GroupId) -> Option<String>,
    ) -> bool {
        match (self, &rule.peer) {
            (Self::FromPort, _) => values.any(&rule.traffic.from_port().to_string()),
            (Self::ToPort, _) => values.any(&rule.traffic.to_port().to_string()),
            (Self::Protocol, _) => {
                let protocol = rule.traffic.protocol();
                let number = protocol.number().to_string();
                values.any(&protocol.to_string()) || values.any(&number)
            }
            (Self::Cidr, Peer::Ipv4(net)) => values.any(&net.to_string()),
            (Self::Ipv6Cidr, Peer::Ipv6(net)) => values.any(&net.to_string()),
            (Self::PrefixListId, Peer::PrefixList(id)) => values.any(PrefixListId::as_str(id)),
            (Self::GroupId, Peer::Group(peer)) => {
                peer.group_id.as_ref().is_some_and(|id| values.any(id.as_str()))
            }
            (Self::GroupName, Peer::Group(peer)) => {
                let name =
                    peer.group_id.as_ref().and_then(name_of).or_else(|| peer.group_name.clone());
                name.is_some_and(|name| values.any(&name))
            }
            (Self::UserId, Peer::Group(peer)) => {
                peer.user_id.as_ref().is_some_and(|id| values.any(id.as_str()))
            }
            _ => false,
        }
    }
}

// === impl RuleFilters ===

impl RuleFilters {
    /// Parses them. EC2's error for a name that does not exist, or a malformed group id.
    pub fn parse(filters: &[Filter]) -> Result<Self, Refusal> {
        parse(filters, &RuleListField::GroupId, |name| {
            Some(match name {
                "group-id" => RuleListField::GroupId,
                "security-group-rule-id" => RuleListField::RuleId,
                "tag-key" => RuleListField::TagKey,
                _ => RuleListField::Tag(name.strip_prefix("tag:")?.to_owned()),
            })
        })
        .map(Self)
    }

    /// Whether a rule passes all of them.
    pub fn pass(&self, group: &GroupId, rule: &Rule) -> bool {
        self.0.iter().all(|(field, values)| match field {
            RuleListField::GroupId => values.any(group.as_str()),
            RuleListField::RuleId => values.any(rule.id.as_str()),
            RuleListField::Tag(key) => values.any_tag(key, rule.tags()),
            RuleListField::TagKey => values.any_key(rule.tags()),
        })
    }

    /// The only groups whose rules can pass, if the filters name them by id.
    pub fn group_ids(&self) -> Option<Vec<GroupId>> {
        let (_, values) = self.0.iter().find(|(field, _)| *field == RuleListField::GroupId)?;
        Some(values.exact()?.iter().map(GroupId::new).collect())
    }

    /// The only rules that can pass, if the filters name them by id.
    pub fn rule_ids(&self) -> Option<Vec<RuleId>> {
        let (_, values) = self.0.iter().find(|(field, _)| *field == RuleListField::RuleId)?;
        Some(values.exact()?.iter().map(RuleId::new).collect())
    }
}

// === impl Paging ===

impl Paging {
    /// Checks the page's members. `kind` tells one describe's tokens from another's; `ids` is the member that names
    /// what to show, if it was given.
    pub fn parse(
        kind: char,
        max_results: Option<i32>,
        next_token: Option<&str>,
        ids: Option<&str>,
    ) -> Result<Self, Refusal> {
        if let (Some(_), Some(ids)) = (max_results, ids) {
            let message =
                format!("The parameter '{ids}' may not be used in combination with 'maxResults'");
            return Err(Refusal::new("InvalidParameterCombination", message));
        }
        let size = match max_results.map(usize::try_from) {
            None => MAX_RESULTS,
            Some(Ok(size)) if (MIN_RESULTS..=MAX_RESULTS).contains(&size) => size,
            Some(_) => {
                let message = format!(
                    "Value ( {} ) for parameter maxResults is invalid. Expecting a value from \
                     {MIN_RESULTS} to {MAX_RESULTS}.",
                    max_results.unwrap_or_default()
                );
                return Err(Refusal::new("InvalidParameterValue", message));
            }
        };
        let after = next_token.map(|token| open_token(kind, token)).transpose()?;
        Ok(Self { after, size, kind })
    }

    /// The token of the page after the one that ended with `last`.
    pub fn token(&self, last: &str) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(format!("{}1 {last}", self.kind))
    }
}

fn open_token(kind: char, token: &str) -> Result<String, Refusal> {
    let decoded = BASE64_URL_SAFE_NO_PAD.decode(token).ok();
    decoded
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .and_then(|text| text.strip_prefix(&format!("{kind}1 ")).map(str::to_owned))
        .ok_or_else(|| {
            Refusal::new("InvalidPaginationToken", "The specified pagination token is not valid.")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        Pattern::parse(pattern).matches(text)
    }

    #[test]
    fn wildcards_match_whole_values() {
        for (pattern, text) in [
            ("", ""),
            ("*", ""),
            ("*", "any thing"),
            ("web-*", "web-1"),
            ("*-prod-*", "a-prod-prod-b"),
            ("w?b", "web"),
            ("a*b*c", "aXbXbXc"),
            (r"a\*b", "a*b"),
            (r"a\?", "a?"),
            (r"\\", r"\"),
            ("é?", "éé"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("", "a"),
            ("web", "Web"),
            ("web", "web-1"),
            ("w?b", "wb"),
            (r"a\*b", "aXb"),
            ("a*b", "abc"),
            ("?", ""),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_cost_little() {
        assert!(!matches(&"a*".repeat(100), &"a".repeat(90)));
        assert!(!matches(&format!("{}b", "*a".repeat(120)), &"a".repeat(250)));
    }

    #[test]
    fn only_one_s_own_tokens_are_taken() {
        let groups = Paging::parse('g', None, None, None).unwrap();
        let token = groups.token("sg-00000001");
        let next = Paging::parse('g', Some(5), Some(&token), None).unwrap();
        assert_eq!((next.after.as_deref(), next.size), (Some("sg-00000001"), 5));
        for (kind, token) in [('r', token.as_str()), ('g', "x"), ('g', ""), ('g', "!!")] {
            let refusal = Paging::parse(kind, None, Some(token), None).unwrap_err();
            assert_eq!(refusal.code, "InvalidPaginationToken");
        }
    }

    #[test]
    fn pages_have_5_to_1000_items_and_no_ids() {
        for size in [-1, 0, 4, 1001] {
            let refusal = Paging::parse('g', Some(size), None, None).unwrap_err();
            assert_eq!(refusal.code, "InvalidParameterValue");
        }
        let refusal = Paging::parse('g', Some(5), None, Some("groupIds")).unwrap_err();
        assert_eq!(refusal.code, "InvalidParameterCombination");
    }
}
