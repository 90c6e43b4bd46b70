//! The describes' filters and pages (ec2-facts section 9).

//!
//! Here is what they have in common; `filter/groups.rs` and `filter/around.rs` know the names of the filters.

use std::ops::RangeInclusive;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

use crate::{
    backend::{Filter, Refusal},
    rule::{GroupId, Tag, permission::excerpt},
};

mod around;
mod groups;

pub use around::{PrefixListFilters, TagFilters, VpcFilters};
pub use groups::{GroupFilters, RuleFilters};

/// The most filters of one call, and values of one filter.
const MAX_FILTERS: usize = 50;
const MAX_VALUES: usize = 200;

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

/// The filters of one describe, parsed. All must pass.
#[derive(Clone, Debug)]
pub struct Filters<F>(Vec<(F, Values)>);

/// What a describe's filters can look at.
pub trait Field: PartialEq + Sized {
    /// The field that a filter's name means, if there is one.
    fn parse(name: &str) -> Option<Self>;

    /// Whether its values must be well-formed group ids.
    fn holds_group_ids(&self) -> bool {
        false
    }
}

/// A describe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// DescribeSecurityGroups.
    Groups,
    /// DescribeSecurityGroupRules.
    Rules,
    /// DescribeVpcs.
    Vpcs,
    /// DescribeTags.
    Tags,
    /// DescribeManagedPrefixLists.
    PrefixLists,
}

/// Where a page begins and how long it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paging {
    /// What the last page ended with.
    pub after: Option<String>,
    /// How many items at most.
    pub size: usize,
    list: List,
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

// === impl Filters ===

impl<F: Field> Filters<F> {
    /// Parses them. EC2's error for a name that does not exist, or a malformed group id.
    pub fn parse(filters: &[Filter]) -> Result<Self, Refusal> {
        let most = filters.iter().map(|filter| filter.values.len()).max().unwrap_or_default();
        if filters.len() > MAX_FILTERS || most > MAX_VALUES {
            let message = format!(
                "At most {MAX_FILTERS} filters on a single call, with {MAX_VALUES} values each."
            );
            return Err(Refusal::new("FilterLimitExceeded", message));
        }
        let parsed = filters.iter().map(|filter| {
            let Some(field) = F::parse(&filter.name) else {
                let message = format!("The filter '{}' is invalid", excerpt(&filter.name));
                return Err(Refusal::new("InvalidParameterValue", message));
            };
            let values = Values(filter.values.iter().map(|text| Pattern::parse(text)).collect());
            if field.holds_group_ids() {
                let mut exact = values.0.iter().filter_map(Pattern::exact);
                if let Some(bad) = exact.find(|id| GroupId::parse(id).is_none()) {
                    let message = format!("The security group ID '{}' is malformed", excerpt(&bad));
                    return Err(Refusal::new("InvalidGroupId.Malformed", message));
                }
            }
            Ok((field, values))
        });
        parsed.collect::<Result<_, _>>().map(Self)
    }

    fn all(&self, passes: impl Fn(&F, &Values) -> bool) -> bool {
        self.0.iter().all(|(field, values)| passes(field, values))
    }

    /// The only values of that field that can pass, if a filter names them without wildcards.
    fn exact(&self, field: &F) -> Option<Vec<String>> {
        self.0.iter().find(|(named, _)| named == field)?.1.exact()
    }
}

// === impl List ===

impl List {
    /// Tells its tokens from another's.
    fn letter(self) -> char {
        match self {
            Self::Groups => 'g',
            Self::Rules => 'r',
            Self::Vpcs => 'v',
            Self::Tags => 't',
            Self::PrefixLists => 'p',
        }
    }

    /// How many items a page may have; the most where it is not said.
    fn sizes(self) -> RangeInclusive<usize> {
        match self {
            Self::Groups | Self::Rules | Self::Vpcs | Self::Tags => 5..=1000,
            Self::PrefixLists => 1..=100,
        }
    }
}

// === impl Paging ===

impl Paging {
    /// Checks the page's members. `ids` is the member that names what to show, if it was given.
    pub fn parse(
        list: List,
        max_results: Option<i32>,
        next_token: Option<&str>,
        ids: Option<&str>,
    ) -> Result<Self, Refusal> {
        if let (Some(_), Some(ids)) = (max_results, ids) {
            let message =
                format!("The parameter '{ids}' may not be used in combination with 'maxResults'");
            return Err(Refusal::new("InvalidParameterCombination", message));
        }
        let sizes = list.sizes();
        let size = match max_results.map(usize::try_from) {
            None => *sizes.end(),
            Some(Ok(size)) if sizes.contains(&size) => size,
            Some(_) => {
                let message = format!(
                    "Value ( {} ) for parameter maxResults is invalid. Expecting a value from {} \
                     to {}.",
                    max_results.unwrap_or_default(),
                    sizes.start(),
                    sizes.end()
                );
                return Err(Refusal::new("InvalidParameterValue", message));
            }
        };
        let after = next_token.map(|token| open_token(list, token)).transpose()?;
        Ok(Self { after, size, list })
    }

    /// EC2's error for a token that no page gave.
    pub fn invalid_token() -> Refusal {
        Refusal::new("InvalidPaginationToken", "The specified pagination token is not valid.")
    }

    /// The token of the page after the one that ended with `last`.
    pub fn token(&self, last: &str) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(format!("{}1 {last}", self.list.letter()))
    }
}

fn open_token(list: List, token: &str) -> Result<String, Refusal> {
    let decoded = BASE64_URL_SAFE_NO_PAD.decode(token).ok();
    decoded
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .and_then(|text| text.strip_prefix(&format!("{}1 ", list.letter())).map(str::to_owned))
        .ok_or_else(Paging::invalid_token)
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
        let groups = Paging::parse(List::Groups, None, None, None).unwrap();
        let token = groups.token("sg-00000001");
        let next = Paging::parse(List::Groups, Some(5), Some(&token), None).unwrap();
        assert_eq!((next.after.as_deref(), next.size), (Some("sg-00000001"), 5));
        for (list, token) in [
            (List::Rules, token.as_str()),
            (List::Groups, "x"),
            (List::Groups, ""),
            (List::Groups, "!!"),
        ] {
            let refusal = Paging::parse(list, None, Some(token), None).unwrap_err();
            assert_eq!(refusal.code, "InvalidPaginationToken");
        }
    }

    #[test]
    fn pages_have_5_to_1000_items_and_no_ids() {
        for size in [-1, 0, 4, 1001] {
            let refusal = Paging::parse(List::Groups, Some(size), None, None).unwrap_err();
            assert_eq!(refusal.code, "InvalidParameterValue");
        }
        let refusal = Paging::parse(List::Groups, Some(5), None, Some("groupIds")).unwrap_err();
        assert_eq!(refusal.code, "InvalidParameterCombination");
        assert_eq!(Paging::parse(List::PrefixLists, Some(1), None, None).unwrap().size, 1);
        assert_eq!(Paging::parse(List::PrefixLists, None, None, None).unwrap().size, 100);
        assert!(Paging::parse(List::PrefixLists, Some(101), None, None).is_err());
    }
}
