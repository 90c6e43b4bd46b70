//! Identifiers. Parsing checks the syntax that ec2-facts section 5 gives; what EC2 itself answers is taken as it is.

use std::fmt;

use compact_str::CompactString;

/// An id type over an inline string: copying one allocates nothing, and a sandbox may hold millions.
macro_rules! string_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(CompactString);

        impl $name {
            /// Takes the text as it is: for ids that EC2 gave us.
            pub fn new(text: impl AsRef<str>) -> Self {
                Self(CompactString::new(text))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

string_id!(
    /// `sg-` and 8 or 17 lowercase hexadecimal digits.
    GroupId
);
string_id!(
    /// `sgr-` and 17 lowercase hexadecimal digits.
    RuleId
);
string_id!(
    /// `vpc-` and 8 or 17 lowercase hexadecimal digits.
    VpcId
);
string_id!(
    /// `pl-` and 8 or 17 lowercase hexadecimal digits.
    PrefixListId
);
string_id!(
    /// A 12-digit AWS account id.
    AccountId
);
string_id!(
    /// A Region code such as `us-east-1`.
    Region
);

impl GroupId {
    /// Checks the syntax.
    pub fn parse(text: &str) -> Option<Self> {
        is_prefixed_hex(text, "sg-").then(|| Self::new(text))
    }
}

impl VpcId {
    /// Checks the syntax.
    pub fn parse(text: &str) -> Option<Self> {
        is_prefixed_hex(text, "vpc-").then(|| Self::new(text))
    }
}

impl PrefixListId {
    /// Checks the syntax.
    pub fn parse(text: &str) -> Option<Self> {
        is_prefixed_hex(text, "pl-").then(|| Self::new(text))
    }
}

impl RuleId {
    /// Checks the syntax as EC2 does: the prefix and up to 17 characters, whichever they are. Anything of that form
    /// that does not exist is "not found", not "malformed" (ec2-facts section 1).
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("sgr-")?;
        (rest.chars().count() <= 17).then(|| Self::new(text))
    }

    /// Checks that a rule may have this id, not only be asked for by it.
    pub fn parse_own(text: &str) -> Option<Self> {
        let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
        Self::parse(text).filter(|_| printable && text != "sgr-")
    }
}

impl AccountId {
    /// Checks the syntax.
    pub fn parse(text: &str) -> Option<Self> {
        let well_formed = text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit());
        well_formed.then(|| Self::new(text))
    }
}

impl Region {
    /// Checks the syntax: lowercase letters, digits and hyphens, at least one hyphen inside, at most 32 characters.
    pub fn parse(text: &str) -> Option<Self> {
        let well_formed = text.len() <= 32
            && text.trim_matches('-').contains('-')
            && text.len() == text.trim_matches('-').len()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        well_formed.then(|| Self::new(text))
    }
}

fn is_prefixed_hex(text: &str, prefix: &str) -> bool {
    text.strip_prefix(prefix).is_some_and(|hex| {
        matches!(hex.len(), 8 | 17)
            && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// A security group by id or, in the default VPC, by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum GroupRef {
    /// By id.
    Id(GroupId),
    /// By name, in the default VPC.
    Name(String),
}

impl fmt::Display for GroupRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// The AWS account and Region that a call works in.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// The account.
    pub account: AccountId,
    /// The Region.
    pub region: Region,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.account, self.region)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_ids_have_8_or_17_lowercase_hex_digits() {
        assert!(GroupId::parse("sg-00000000").is_some());
        assert!(GroupId::parse("sg-0123456789abcdef0").is_some());
        for bad in
            ["", "sg-", "0", "eks-cluster-sg", "sg-0123", "sg-0123456789ABCDEF0", "sg-0123456z"]
        {
            assert!(GroupId::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn rule_ids_are_malformed_only_without_prefix_or_over_17_characters() {
        let long = format!("sgr-{}", "é".repeat(17));
        for good in [
            "sgr-",
            "sgr-00000000",
            "sgr-0123456789abcdef0",
            "sgr-not-hex",
            "sgr-a b",
            "sgr-\n",
            &long,
        ] {
            assert!(RuleId::parse(good).is_some(), "{good}");
        }
        let longer = format!("{long}é");
        assert!(RuleId::parse_own("sgr-").is_none(), "no rule has it");
        for bad in ["", "SGR-1", "10.0.0.0/8", "sgr-0123456789abcdef01", &longer] {
            assert!(RuleId::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn accounts_and_regions() {
        assert!(AccountId::parse("123456789012").is_some());
        assert!(AccountId::parse("12345678901").is_none());
        for good in ["us-east-1", "us-gov-west-1", "ap-southeast-4"] {
            assert!(Region::parse(good).is_some(), "{good}");
        }
        for bad in ["", "useast1", "-us-east-1", "us-east-1/", "US-EAST-1", "us-east-1-"] {
            assert!(Region::parse(bad).is_none(), "{bad}");
        }
    }
}
