//! A form, right or spoiled, through the EC2 door.

use http::{HeaderMap, HeaderValue};
use http_body_util::BodyExt;
use quick_xml::{Reader, events::Event};
use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
use serde_json::Value;

use super::{
    Tally, World,
    make::{
        CIDRS6, GROUPS, LISTS, Maker, Message, NAMES, PROTOCOLS, VPCS, message, once_in, pick,
        spoil,
    },
    world::{check, same},
};

/// The actions that are not the gRPC API's, and members that they and others have.
const ACTIONS: &[&str] = &[
    "ModifySecurityGroupRules",
    "UpdateSecurityGroupRuleDescriptionsEgress",
    "UpdateSecurityGroupRuleDescriptionsIngress",
    "DescribeVpcs",
    "CreateVpc",
    "DeleteVpc",
    "CreateTags",
    "DeleteTags",
    "DescribeTags",
    "DescribeManagedPrefixLists",
    "CreateManagedPrefixList",
    "DescribeNetworkInterfaces",
    "GetCallerIdentity",
    "AssumeRole",
    "DescribeInstances",
    "",
];

const CREDENTIALS: &[&str] = &[
    "test/20260101/us-east-1/ec2/aws4_request",
    "test/20260101/eu-west-9/ec2/aws4_request",
    "ASIAQNZGKIQY56JQ7WML/20260101/us-east-1/ec2/aws4_request",
    "AKIAIOSFODNN7EXAMPLE/x/us-east-1",
    "a/b/c",
    "",
];

type Pairs = Vec<(String, String)>;

pub(super) fn one(world: &World, random: &mut StdRng, tally: &mut Tally) {
    let before = world.images();
    let known = World::known(&before);
    let mut pairs = if once_in(random, 3) {
        other(random, &known)
    } else {
        of_message(&message(random, &known, &World::existing(&before)))
    };
    if !once_in(random, 30) {
        let sts =
            pairs.iter().any(|(_, value)| value == "GetCallerIdentity" || value == "AssumeRole");
        let version = if sts { "2011-06-15" } else { "2016-11-15" };
        pairs.push(("Version".to_owned(), version.to_owned()));
    }
    if once_in(random, 8) {
        spoil_pairs(random, &mut pairs);
    }
    let mut form =
        form_urlencoded::Serializer::new(String::new()).extend_pairs(&pairs).finish().into_bytes();
    if once_in(random, 10) {
        spoil(random, &mut form);
    }
    let (status, body) = world.runtime.block_on(async {
        let response = world.door.answer(&headers(random), &form).await;
        let (head, body) = response.into_parts();
        (head.status.as_u16(), body.collect().await.expect("a whole answer").to_bytes())
    });
    well_formed(&body);
    let after = world.images();
    check(&after, &before);
    if status != 200 {
        assert!(same(&before, &after), "{status}, but something changed");
    }
    let end = match status {
        200 => "200",
        400 => "400",
        401 => "401",
        403 => "403",
        412 => "412",
        _ => panic!("{status}: {}", String::from_utf8_lossy(&body)),
    };
    *tally.entry(end).or_default() += 1;
}

fn headers(random: &mut StdRng) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let credential = if once_in(random, 15) { pick(random, CREDENTIALS) } else { CREDENTIALS[0] };
    if !credential.is_empty() {
        let text =
            format!("AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders=host, Signature=0");
        headers.insert("authorization", HeaderValue::from_str(&text).unwrap());
    }
    if once_in(random, 20) {
        let mut bytes = b"AWS4-HMAC-SHA256 Credential=test/1/us-east-1/ec2/aws4_request".to_vec();
        spoil(random, &mut bytes);
        headers.extend(
            HeaderValue::from_bytes(&bytes).ok().map(|value| (http::header::AUTHORIZATION, value)),
        );
    }
    headers
}

/// The message as EC2's clients would send it.
fn of_message(message: &Message) -> Pairs {
    let (action, value) = match message {
        Message::RevokeEgress(request) => {
            ("RevokeSecurityGroupEgress", serde_json::to_value(request))
        }
        Message::RevokeIngress(request) => {
            ("RevokeSecurityGroupIngress", serde_json::to_value(request))
        }
        Message::AuthorizeEgress(request) => {
            ("AuthorizeSecurityGroupEgress", serde_json::to_value(request))
        }
        Message::AuthorizeIngress(request) => {
            ("AuthorizeSecurityGroupIngress", serde_json::to_value(request))
        }
        Message::DescribeRules(request) => {
            ("DescribeSecurityGroupRules", serde_json::to_value(request))
        }
        Message::DescribeGroups(request) => {
            ("DescribeSecurityGroups", serde_json::to_value(request))
        }
        Message::Create(request) => ("CreateSecurityGroup", serde_json::to_value(request)),
        Message::Delete(request) => ("DeleteSecurityGroup", serde_json::to_value(request)),
    };
    let mut pairs = vec![("Action".to_owned(), action.to_owned())];
    let value = value.unwrap_or_default();
    for (name, value) in value.as_object().into_iter().flatten() {
        let name = match name.as_str() {
            "SecurityGroupRuleIds" => "SecurityGroupRuleId",
            "TagSpecifications" => "TagSpecification",
            "Filters" => "Filter",
            "GroupIds" => "GroupId",
            "GroupNames" => "GroupName",
            "Description" => "GroupDescription",
            "OnUnknown" => continue,
            name => name,
        };
        flatten(name.to_owned(), value, &mut pairs);
    }
    pairs
}

fn flatten(path: String, value: &Value, pairs: &mut Pairs) {
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                flatten(format!("{path}.{}", index + 1), item, pairs);
            }
        }
        Value::Object(members) => {
            for (name, value) in members {
                let name = match name.as_str() {
                    "UserIdGroupPairs" => "Groups",
                    "Tags" => "Tag",
                    "Values" => "Value",
                    name => name,
                };
                flatten(format!("{path}.{name}"), value, pairs);
            }
        }
        Value::String(text) => pairs.push((path, text.clone())),
        other => pairs.push((path, other.to_string())),
    }
}

/// A request of an action that has no message, with members that fit more or less.
fn other(random: &mut StdRng, known: &[String]) -> Pairs {
    let action = pick(random, ACTIONS);
    let mut pairs = vec![("Action".to_owned(), action.to_owned())];
    let make = &mut Maker::new(random);
    let mut put = |name: &str, value: String| pairs.push((name.to_owned(), value));
    match action {
        "ModifySecurityGroupRules" => {
            put("GroupId", make.of(GROUPS));
            for number in 1..=make.random.random_range(1..3) {
                let path = format!("SecurityGroupRule.{number}");
                put(&format!("{path}.SecurityGroupRuleId"), make.rule_id(known));
                let path = format!("{path}.SecurityGroupRule");
                let (from, to) = make.ports();
                put(&format!("{path}.IpProtocol"), make.of(PROTOCOLS));
                put(&format!("{path}.FromPort"), from.to_string());
                put(&format!("{path}.ToPort"), to.to_string());
                match make.random.random_range(0..8_u32) {
                    0 => put(&format!("{path}.CidrIpv6"), make.of(CIDRS6)),
                    1 => put(&format!("{path}.ReferencedGroupId"), make.of(GROUPS)),
                    2 => put(&format!("{path}.PrefixListId"), make.of(LISTS)),
                    _ => put(&format!("{path}.CidrIpv4"), make.cidr()),
                }
            }
        }
        "CreateTags" | "DeleteTags" => {
            let resource = match make.random.random_range(0..4_u32) {
                0 => make.of(VPCS),
                1 => make.rule_id(known),
                2 => make.of(LISTS),
                _ => make.of(GROUPS),
            };
            put("ResourceId.1", resource);
            put("Tag.1.Key", make.text());
            if make.once_in(2) {
                put("Tag.1.Value", make.text());
            }
        }
        "CreateVpc" => {
            put("CidrBlock", make.cidr());
            put("AmazonProvidedIpv6CidrBlock", pick(make.random, &["true", "false"]).to_owned());
        }
        "DeleteVpc" => put("VpcId", make.of(VPCS)),
        "CreateManagedPrefixList" => {
            put("PrefixListName", make.text());
            put("AddressFamily", pick(make.random, &["IPv4", "IPv6", "IPv5"]).to_owned());
            put("MaxEntries", make.port().to_string());
            put("Entry.1.Cidr", make.cidr());
        }
        "AssumeRole" => {
            let role = pick(make.random, &["arn:aws:iam::123456789012:role/a", "arn:x"]);
            put("RoleArn", role.to_owned());
            put("RoleSessionName", make.of(NAMES));
        }
        "GetCallerIdentity" => {}
        _ if action.starts_with("Update") => {
            put("GroupId", make.of(GROUPS));
            if make.once_in(2) {
                let path = "SecurityGroupRuleDescription.1";
                put(&format!("{path}.SecurityGroupRuleId"), make.rule_id(known));
                put(&format!("{path}.Description"), make.text());
            } else {
                let permission = serde_json::to_value(make.permission()).unwrap();
                flatten("IpPermissions.1".to_owned(), &permission, &mut pairs);
            }
        }
        _ => {
            const NAMES: &[&str] = &["vpc-id", "key", "tag:x", "is-default", "state", "owner-id"];
            put("Filter.1.Name", pick(make.random, NAMES).to_owned());
            put("Filter.1.Value.1", make.text());
        }
    }
    pairs
}

fn spoil_pairs(random: &mut StdRng, pairs: &mut Pairs) {
    let place = random.random_range(0..pairs.len());
    match random.random_range(0..5_u32) {
        0 => drop(pairs.remove(place)),
        1 => pairs.push(pairs.choose(random).unwrap().clone()),
        2 => pairs[place].1 = Maker::new(random).text(),
        3 => {
            let ends = [".1", ".x", ".0", ".4294967296", ".", "..", ".1.1.1.1.1.1.1.1.1.1"];
            pairs[place].0.push_str(pick(random, &ends));
        }
        _ => pairs[place].0 = Maker::new(random).text(),
    }
}

/// XML that ends, with every element closed.
fn well_formed(document: &[u8]) {
    let mut reader = Reader::from_reader(document);
    let mut depth = 0_usize;
    loop {
        match reader.read_event() {
            Ok(Event::Start(_)) => depth += 1,
            Ok(Event::End(_)) => depth -= 1,
            Ok(Event::Eof) => break,
            Ok(_) => {}
            Err(error) => panic!("{error}: {}", String::from_utf8_lossy(document)),
        }
    }
    assert_eq!(depth, 0, "{}", String::from_utf8_lossy(document));
}
