//! The flags of the client commands: the AWS CLI's own, and ours. Each command's flags make one request body.

use std::num::NonZeroU64;

use clap::{ArgAction, Args, ValueEnum};
use http::uri::Authority;
use serde_json::{Map, Value, json};

use super::input::Input;
use crate::cli::connect::Security;

/// How to reach a server.
#[derive(Args, Debug)]
pub struct Connection {
    /// Where the server listens
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:50051", value_parser = address)]
    pub address: String,
    /// The deadline of each call, in milliseconds; the server knows it and stops before it
    #[arg(long, value_name = "NUMBER", default_value = "30000")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    pub timeout_ms: u64,
    /// Whom to trust, and how to prove who calls.
    #[command(flatten)]
    pub security: Security,
}

fn address(text: &str) -> Result<String, String> {
    match text.parse::<Authority>() {
        Ok(authority) if authority.port_u16().is_some() && !text.contains('@') => {
            Ok(text.to_owned())
        }
        _ => Err("not HOST:PORT".to_owned()),
    }
}

/// What all commands take.
#[derive(Args, Debug)]
#[command(next_help_heading = "Every command")]
pub struct Reach {
    /// How to reach the server.
    #[command(flatten)]
    pub connection: Connection,
    /// How to print the answer [default: table on a terminal, else json]
    #[arg(long, value_name = "FORMAT")]
    pub output: Option<Output>,
}

/// What all commands that call EC2 take.
#[derive(Args, Debug)]
#[command(next_help_heading = "Every command")]
pub struct Common {
    /// What all commands take.
    #[command(flatten)]
    pub reach: Reach,
    /// The AWS account to work in [default: the server's]
    #[arg(long, value_name = "ID")]
    account_id: Option<String>,
    /// The AWS Region to work in [default: the server's]
    #[arg(long, value_name = "REGION")]
    region: Option<String>,
    /// Only ask EC2 whether the call would be permitted
    #[arg(long, overrides_with = "no_dry_run")]
    dry_run: bool,
    /// Make the call, whatever --cli-input-json says
    #[arg(long, overrides_with = "dry_run")]
    no_dry_run: bool,
    /// The request as JSON or file://PATH; other flags override its members
    #[arg(long, value_name = "JSON")]
    cli_input_json: Option<String>,
}

/// How an answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Table,
    /// For programs
    Json,
}

/// Which rules, by properties. `--ip-permissions` says all; the others are the AWS CLI's way to say one permission.
#[derive(Args, Debug)]
struct Permissions {
    /// The rules by their properties: JSON, file://PATH, or shorthand, one word for each permission, such as
    /// IpProtocol=tcp,FromPort=443,ToPort=443,IpRanges=[{CidrIp=10.0.0.0/8}]
    #[arg(long, value_name = "PERMISSION", num_args = 1.., action = ArgAction::Set)]
    #[arg(conflicts_with_all = ["protocol", "port", "cidr", "source_group", "group_owner"])]
    ip_permissions: Option<Vec<String>>,
    /// One rule's protocol: tcp, udp, icmp, icmpv6, a number, or all
    #[arg(long, allow_hyphen_values = true)]
    protocol: Option<String>,
    /// One rule's port or range such as 8000-8100, or ICMP type-code; -1 or all: all types and codes
    #[arg(long, allow_hyphen_values = true, value_parser = port)]
    port: Option<(i32, i32)>,
    /// One rule's IPv4 range
    #[arg(long)]
    cidr: Option<String>,
    /// One rule's security group, by id or name
    #[arg(long, value_name = "GROUP", conflicts_with = "cidr")]
    source_group: Option<String>,
    /// The account that owns that group
    #[arg(long, value_name = "ID", conflicts_with = "cidr")]
    group_owner: Option<String>,
}

fn port(text: &str) -> Result<(i32, i32), String> {
    let (from, to) = match text {
        "-1" | "all" => ("-1", "-1"),
        text => text.split_once('-').unwrap_or((text, text)),
    };
    let number = |text: &str| {
        text.parse().map_err(|_| "not FROM or FROM-TO, such as 22 or 22-25".to_owned())
    };
    Ok((number(from)?, number(to)?))
}

impl Permissions {
    fn body(&self, input: &Input) -> Result<Option<Value>, String> {
        if let Some(words) = &self.ip_permissions {
            return input.items("--ip-permissions", "IpPermission", words).map(Some);
        }
        let mut permission = Map::new();
        if let Some(protocol) = &self.protocol {
            let protocol = if protocol == "all" { "-1" } else { protocol };
            permission.insert("IpProtocol".to_owned(), json!(protocol));
        }
        if let Some((from, to)) = self.port {
            permission.insert("FromPort".to_owned(), json!(from));
            permission.insert("ToPort".to_owned(), json!(to));
        }
        if let Some(cidr) = &self.cidr {
            permission.insert("IpRanges".to_owned(), json!([{"CidrIp": cidr}]));
        }
        let mut pair = Map::new();
        if let Some(group) = &self.source_group {
            let key = if group.starts_with("sg-") { "GroupId" } else { "GroupName" };
            pair.insert(key.to_owned(), json!(group));
        }
        if let Some(owner) = &self.group_owner {
            pair.insert("UserId".to_owned(), json!(owner));
        }
        if !pair.is_empty() {
            permission.insert("UserIdGroupPairs".to_owned(), json!([pair]));
        }
        Ok((!permission.is_empty()).then(|| json!([permission])))
    }
}

/// What to do about permissions and rule ids that match nothing.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum OnUnknown {
    /// Remove nothing, in either kind of VPC
    Fail,
    /// Remove what matches, in either kind of VPC
    RevokeMatched,
}

/// `portcullis revoke-egress`.
#[derive(Args, Debug)]
pub struct RevokeEgress {
    /// The security group
    #[arg(long, value_name = "ID")]
    group_id: Option<String>,
    #[command(flatten)]
    permissions: Permissions,
    /// The rules by id
    #[arg(long, value_name = "ID", num_args = 1.., action = ArgAction::Set)]
    security_group_rule_ids: Option<Vec<String>>,
    /// What to do if something matches no rule [default: as EC2 does in that kind of VPC]
    #[arg(long, value_name = "WHAT")]
    on_unknown: Option<OnUnknown>,
    /// Read the group back until the change is visible
    #[arg(long)]
    verify: bool,
    /// What all commands take.
    #[command(flatten)]
    pub common: Common,
}

/// `portcullis authorize-egress`.
#[derive(Args, Debug)]
pub struct AuthorizeEgress {
    /// The security group
    #[arg(long, value_name = "ID")]
    group_id: Option<String>,
    #[command(flatten)]
    permissions: Permissions,
    /// Tags for the new rules: JSON, file://PATH, or shorthand such as
    /// ResourceType=security-group-rule,Tags=[{Key=a,Value=b}]
    #[arg(long, value_name = "SPECIFICATION", num_args = 1.., action = ArgAction::Set)]
    tag_specifications: Option<Vec<String>>,
    /// What all commands take.
    #[command(flatten)]
    pub common: Common,
}

/// What both describe commands take.
#[derive(Args, Debug)]
pub struct List {
    /// Filters: JSON, file://PATH, or shorthand such as Name=group-id,Values=sg-1,sg-2
    #[arg(long, value_name = "FILTER", num_args = 1.., action = ArgAction::Set)]
    filters: Option<Vec<String>>,
    /// Which part of the list.
    #[command(flatten)]
    pub paging: Paging,
}

/// Which part of a list.
#[derive(Args, Debug)]
pub struct Paging {
    /// Print at most so many; the answer then says how to go on
    #[arg(long, value_name = "NUMBER")]
    pub max_items: Option<NonZeroU64>,
    /// Ask the server for so many at a time
    #[arg(long, value_name = "NUMBER")]
    pub page_size: Option<u32>,
    /// Go on where an earlier answer's NextToken says
    #[arg(long, value_name = "TOKEN")]
    pub starting_token: Option<String>,
}

/// `portcullis describe-rules`.
#[derive(Args, Debug)]
pub struct DescribeRules {
    /// Rules by id
    #[arg(long, value_name = "ID", num_args = 1.., action = ArgAction::Set)]
    security_group_rule_ids: Option<Vec<String>>,
    /// What both describe commands take.
    #[command(flatten)]
    pub list: List,
    /// What all commands take.
    #[command(flatten)]
    pub common: Common,
}

/// `portcullis describe-groups`.
#[derive(Args, Debug)]
pub struct DescribeGroups {
    /// Groups by id
    #[arg(long, value_name = "ID", num_args = 1.., action = ArgAction::Set)]
    group_ids: Option<Vec<String>>,
    /// Groups of the default VPC by name
    #[arg(long, value_name = "NAME", num_args = 1.., action = ArgAction::Set)]
    group_names: Option<Vec<String>>,
    /// What both describe commands take.
    #[command(flatten)]
    pub list: List,
    /// What all commands take.
    #[command(flatten)]
    pub common: Common,
}

/// A request body: what `--cli-input-json` gives, and the flags that override it.
struct Body<'a> {
    input: &'a Input,
    members: Map<String, Value>,
}

impl<'a> Body<'a> {
    fn new(common: &Common, message: &str, input: &'a Input) -> Result<Self, String> {
        let mut members = match &common.cli_input_json {
            Some(text) => input.object("--cli-input-json", message, text)?,
            None => Map::new(),
        };
        let parts = [("AccountId", &common.account_id), ("Region", &common.region)];
        for (key, value) in
            parts.into_iter().filter_map(|(key, value)| Some((key, value.as_ref()?)))
        {
            let target = members.entry("Target").or_insert_with(|| json!({}));
            if let Value::Object(target) = target {
                target.insert(key.to_owned(), json!(value));
            }
        }
        let mut body = Self { input, members };
        if common.dry_run || common.no_dry_run {
            body.set("DryRun", Some(common.dry_run));
        }
        Ok(body)
    }

    fn set(&mut self, key: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.members.insert(key.to_owned(), value.into());
        }
    }

    fn texts(&mut self, key: &str, flag: &str, words: Option<&Vec<String>>) -> Result<(), String> {
        let texts = words.map(|words| self.input.texts(flag, words)).transpose()?;
        self.set(key, texts);
        Ok(())
    }

    fn list(&mut self, list: &List) -> Result<(), String> {
        let filters = list.filters.as_ref();
        let filters =
            filters.map(|words| self.input.items("--filters", "Filter", words)).transpose()?;
        self.set("Filters", filters);
        // A size that the contract's type cannot hold is out of the server's bounds as well.
        let size = list.paging.page_size;
        self.set("MaxResults", size.map(|size| i32::try_from(size).unwrap_or(i32::MAX)));
        Ok(())
    }
}

impl RevokeEgress {
    /// The request's name and body.
    pub fn body(&self, input: &Input) -> Result<Map<String, Value>, String> {
        let mut body = Body::new(&self.common, "RevokeEgressRequest", input)?;
        body.set("GroupId", self.group_id.clone());
        body.set("IpPermissions", self.permissions.body(input)?);
        let ids = self.security_group_rule_ids.as_ref();
        body.texts("SecurityGroupRuleIds", "--security-group-rule-ids", ids)?;
        body.set(
            "OnUnknown",
            self.on_unknown.map(|what| match what {
                OnUnknown::Fail => "ON_UNKNOWN_FAIL",
                OnUnknown::RevokeMatched => "ON_UNKNOWN_REVOKE_MATCHED",
            }),
        );
        body.set("Verify", self.verify.then_some(true));
        Ok(body.members)
    }
}

impl AuthorizeEgress {
    /// The request's body.
    pub fn body(&self, input: &Input) -> Result<Map<String, Value>, String> {
        let mut body = Body::new(&self.common, "AuthorizeEgressRequest", input)?;
        body.set("GroupId", self.group_id.clone());
        body.set("IpPermissions", self.permissions.body(input)?);
        let tags = self.tag_specifications.as_ref();
        let tags = tags.map(|words| input.items("--tag-specifications", "TagSpecification", words));
        body.set("TagSpecifications", tags.transpose()?);
        Ok(body.members)
    }
}

impl DescribeRules {
    /// The request's body.
    pub fn body(&self, input: &Input) -> Result<Map<String, Value>, String> {
        let mut body = Body::new(&self.common, "DescribeSecurityGroupRulesRequest", input)?;
        body.list(&self.list)?;
        let ids = self.security_group_rule_ids.as_ref();
        body.texts("SecurityGroupRuleIds", "--security-group-rule-ids", ids)?;
        Ok(body.members)
    }
}

impl DescribeGroups {
    /// The request's body.
    pub fn body(&self, input: &Input) -> Result<Map<String, Value>, String> {
        let mut body = Body::new(&self.common, "DescribeSecurityGroupsRequest", input)?;
        body.list(&self.list)?;
        body.texts("GroupIds", "--group-ids", self.group_ids.as_ref())?;
        body.texts("GroupNames", "--group-names", self.group_names.as_ref())?;
        Ok(body.members)
    }
}
