//! The door on a real socket, byte by byte.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::{
    api::proto::sandbox::v1::{Fault, FaultKind},
    clock::SystemClock,
    random::SeededRandom,
};

async fn open() -> (Arc<Sandbox>, std::net::SocketAddr) {
    let (clock, random) = (Arc::new(SystemClock), Arc::new(SeededRandom::new(1)));
    let opened = Sandbox::open(None, None, clock.clone(), random.clone());
    let sandbox = Arc::new(opened.unwrap().0);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let door = Arc::new(Door::new(sandbox.clone(), clock, random));
    tokio::spawn(serve(listener, door, std::future::pending()));
    (sandbox, address)
}

/// Sends bytes, and reads until the other end closes.
async fn exchange(address: std::net::SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

fn post(form: &str) -> Vec<u8> {
    let length = form.len();
    format!(
        "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{form}"
    )
    .into_bytes()
}

const VPCS: &str = "Action=DescribeSecurityGroups&Version=2016-11-15";

#[tokio::test]
async fn a_form_is_answered_in_the_body_or_in_the_query() {
    let (_, address) = open().await;
    let get = format!("GET /?{VPCS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    for request in [post(VPCS), get.into_bytes()] {
        let answer = exchange(address, &request).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert!(answer.contains("text/xml") && answer.contains("x-amzn-requestid"), "{answer}");
        assert!(answer.ends_with("</DescribeSecurityGroupsResponse>"), "{answer}");
    }
}

#[tokio::test]
async fn what_is_no_request_of_the_protocol_gets_an_error() {
    let (_, address) = open().await;
    let large = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        MAX_BODY + 1
    );
    for (request, status, code) in [
        (post(""), 400, "MissingParameter"),
        (post("Action=DescribeVpcs"), 400, "MissingParameter"),
        (post("Action=DescribeVpcs&Version=2006-01-01"), 400, "NoSuchVersion"),
        (post("Action=RunInstances&Version=2016-11-15"), 400, "InvalidAction"),
        (post(&format!("{VPCS}&Nonsense=1")), 400, "UnknownParameter"),
        (
            b"PUT / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec(),
            405,
            "MethodNotAllowed",
        ),
        (
            b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec(),
            404,
            "InvalidRequest",
        ),
        (large.into_bytes(), 413, "RequestEntityTooLarge"),
    ] {
        let answer = exchange(address, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{code}: {answer}");
        assert!(answer.contains(&format!("<Code>{code}</Code>")), "{answer}");
    }
}

#[tokio::test]
async fn a_describe_has_50_filters_at_most() {
    let (_, address) = open().await;
    let filter = |n: usize| format!("&Filter.{n}.Name=group-id&Filter.{n}.Value.1=sg-00000000");
    for action in ["DescribeSecurityGroups", "DescribeSecurityGroupRules"] {
        let mut form = format!("Action={action}&Version=2016-11-15");
        form.extend((1..=50).map(filter));
        let answer = exchange(address, &post(&form)).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        form.push_str(&filter(51));
        let answer = exchange(address, &post(&form)).await;
        assert!(answer.contains("<Code>FilterLimitExceeded</Code>"), "{answer}");
    }
}

#[tokio::test]
async fn rule_ids_may_have_any_characters_and_be_described_twice() {
    let (_, address) = open().await;
    let describe = |id: &str| {
        let describe = "Action=DescribeSecurityGroupRules&Version=2016-11-15";
        post(&format!("{describe}&SecurityGroupRuleId.1={id}&SecurityGroupRuleId.2={id}"))
    };
    let revoke = |id: &str| {
        let revoke = "Action=RevokeSecurityGroupEgress&Version=2016-11-15";
        post(&format!("{revoke}&GroupId=sg-000000000000000a1&SecurityGroupRuleId.1={id}"))
    };
    let answer = exchange(address, &describe("sgr-0000000000000a1e9")).await;
    assert_eq!(answer.matches("<securityGroupRuleId>").count(), 1, "{answer}");
    for (id, shown) in [
        ("sgr-a%20b", "sgr-a b"),
        ("sgr-%C3%A9", "sgr-é"),
        ("sgr-%00%01%0D%0A%7F%3C", "sgr-\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}&lt;"),
    ] {
        for request in [describe(id), revoke(id)] {
            let answer = exchange(address, &request).await;
            let code = "<Code>InvalidSecurityGroupRuleId.NotFound</Code>";
            assert!(answer.contains(code), "{answer}");
            assert!(answer.contains(&format!("rule ID &apos;{shown}&apos; does not")), "{answer}");
        }
    }
}

#[tokio::test]
async fn a_lost_answer_breaks_off_in_its_midst() {
    let (sandbox, address) = open().await;
    let fault = Fault { kind: FaultKind::LoseAnswer.into(), ..Default::default() };
    sandbox.inject_fault(fault).unwrap();
    let answer = exchange(address, &post(VPCS)).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let (_, length) = head.split_once("content-length: ").unwrap();
    let promised: usize = length.split("\r\n").next().unwrap().parse().unwrap();
    assert!(!body.is_empty() && body.len() < promised, "{} of {promised}", body.len());
}

/// Asks STS, with the session that an earlier answer gave, if there is one.
async fn sts(address: std::net::SocketAddr, session: Option<&str>, form: &str) -> String {
    let form = format!("Version=2011-06-15&{form}");
    let Some(answer) = session else { return exchange(address, &post(&form)).await };
    let (key, token) = (member(answer, "AccessKeyId"), member(answer, "SessionToken"));
    let request = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\
         X-Amz-Security-Token: {token}\r\nAuthorization: AWS4-HMAC-SHA256 \
         Credential={key}/20260101/us-east-1/sts/aws4_request, SignedHeaders=host, Signature=0\
         \r\n\r\n{form}",
        form.len()
    );
    exchange(address, request.as_bytes()).await
}

fn member<'a>(answer: &'a str, name: &str) -> &'a str {
    let (_, rest) = answer.split_once(&format!("<{name}>")).expect(answer);
    rest.split('<').next().unwrap()
}

const ASSUME: &str =
    "Action=AssumeRole&RoleArn=arn:aws:iam::123456789012:role/path/portcullis&RoleSessionName=me";

fn tag(number: usize, key: &str, value: &str) -> String {
    format!("&Tags.member.{number}.Key={key}&Tags.member.{number}.Value={value}")
}

#[tokio::test]
async fn sessions_are_checked_as_aws_checks_them() {
    let (_, address) = open().await;
    let fifty: String = (1..=50).map(|number| tag(number, &format!("k{number}"), "v")).collect();
    let long = |length| "x".repeat(length);
    for good in [
        String::new(),
        format!("&SourceIdentity={}", long(64)),
        "&SourceIdentity=a%2B_=,.@-".to_owned(),
        "&Tags=&TransitiveTagKeys=".to_owned(),
        tag(1, &long(128), &long(256)),
        tag(1, "k%20_.:/=%2B-@%C3%A9", ""),
        fifty.clone(),
        format!("{}&TransitiveTagKeys.member.1=K", tag(1, "k", "v")),
        "&DurationSeconds=43200".to_owned(),
    ] {
        let answer = sts(address, None, &format!("{ASSUME}{good}")).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{good}: {answer}");
    }
    let invalid = "ValidationError";
    for (bad, code, says) in [
        ("&SourceIdentity=x".to_owned(), invalid, "source identity"),
        (format!("&SourceIdentity={}", long(65)), invalid, "source identity"),
        ("&SourceIdentity=a:b".to_owned(), invalid, "source identity"),
        ("&SourceIdentity=".to_owned(), invalid, "source identity"),
        (tag(1, "", "v"), invalid, "tag key"),
        (tag(1, &long(129), "v"), invalid, "tag key"),
        (tag(1, "a*", "v"), invalid, "tag key"),
        (tag(1, "AWS:x", "v"), invalid, "begins with aws:"),
        (tag(1, "k", &long(257)), invalid, "value for the tag k"),
        (tag(1, "k", "a%0Ab"), invalid, "value for the tag k"),
        (tag(1, "k", "v") + &tag(2, "K", "w"), invalid, "case insensitive"),
        (fifty + &tag(51, "k51", "v"), invalid, "At most 50"),
        ("&TransitiveTagKeys.member.1=k".to_owned(), invalid, "must be one of"),
        ("&Tags.member.1.Other=k".to_owned(), "UnknownParameter", "Tags.member.1.Other"),
        ("&Tags=x".to_owned(), "MalformedInput", "Tags"),
        ("&DurationSeconds=43201".to_owned(), invalid, "900 to 43200"),
    ] {
        let answer = sts(address, None, &format!("{ASSUME}{bad}")).await;
        assert_eq!(member(&answer, "Code"), code, "{bad}");
        assert!(member(&answer, "Message").contains(says), "{bad}: {answer}");
    }
    let many: String = (1..=40).map(|n| tag(n, &format!("k{n}"), &long(250))).collect();
    let answer = sts(address, None, &format!("{ASSUME}{many}")).await;
    assert_eq!(member(&answer, "Code"), "PackedPolicyTooLarge");
    let named = ASSUME.replace("portcullis&", &format!("{}&", long(65)));
    assert_eq!(member(&sts(address, None, &named).await, "Code"), invalid);
}

#[tokio::test]
async fn a_role_s_role_keeps_who_is_behind_it() {
    let (_, address) = open().await;
    let tags = tag(1, "kept", "a") + &tag(2, "left", "b");
    let form = format!("{ASSUME}{tags}&TransitiveTagKeys.member.1=kept&SourceIdentity=alice");
    let first = sts(address, None, &form).await;
    assert_eq!(member(&first, "SourceIdentity"), "alice");
    let identity = sts(address, Some(&first), "Action=GetCallerIdentity").await;
    let arn = "arn:aws:sts::123456789012:assumed-role/portcullis/me";
    assert_eq!(member(&identity, "Arn"), arn);

    let second = sts(address, Some(&first), ASSUME).await;
    assert_eq!(member(&second, "SourceIdentity"), "alice");
    let third = sts(address, Some(&second), &format!("{ASSUME}&SourceIdentity=alice")).await;
    assert_eq!(member(&third, "SourceIdentity"), "alice");
    for (from, more, code) in [
        (&first, "&SourceIdentity=mallory".to_owned(), "AccessDenied"),
        (&second, "&SourceIdentity=mallory".to_owned(), "AccessDenied"),
        (&third, "&SourceIdentity=mallory".to_owned(), "AccessDenied"),
        (&first, tag(1, "Kept", "x"), "ValidationError"),
        (&third, tag(1, "kept", "x"), "ValidationError"),
        (&first, "&DurationSeconds=3601".to_owned(), "ValidationError"),
    ] {
        let answer = sts(address, Some(from), &format!("{ASSUME}{more}")).await;
        assert_eq!(member(&answer, "Code"), code, "{more}");
    }
    // A tag that is not transitive is gone, and may be set.
    let answer = sts(address, Some(&third), &format!("{ASSUME}{}", tag(1, "left", "x"))).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn only_what_the_door_encoded_is_decoded() {
    let (sandbox, address) = open().await;
    let fault = Fault {
        kind: FaultKind::Refuse.into(),
        error_code: "UnauthorizedOperation".to_owned(),
        ..Default::default()
    };
    sandbox.inject_fault(fault).unwrap();
    let answer = exchange(address, &post(VPCS)).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let (said, encoded) = member(&answer, "Message").rsplit_once(": ").unwrap();
    assert_eq!(
        said,
        "You are not authorized to perform this operation. Encoded authorization failure message"
    );
    let decode =
        |encoded: &str| format!("Action=DecodeAuthorizationMessage&EncodedMessage={encoded}");
    let decoded = sts(address, None, &decode(encoded)).await;
    let text = member(&decoded, "DecodedMessage");
    assert!(text.contains("ec2:DescribeSecurityGroups"), "{text}");
    let invalid = "InvalidAuthorizationMessageException";
    for (bad, code) in [
        (decode("x"), invalid),
        (decode("AAAA"), invalid),
        (decode(&format!("x{encoded}")), invalid),
        (decode(&"A".repeat(10_241)), "ValidationError"),
        (decode(""), "MissingParameter"),
        (format!("{}&More=1", decode(encoded)), "UnknownParameter"),
    ] {
        let answer = sts(address, None, &bad).await;
        assert_eq!(member(&answer, "Code"), code, "{bad}");
    }
}

#[tokio::test]
async fn a_range_that_a_vpc_has_lost_is_shown_as_such() {
    let (sandbox, address) = open().await;
    let json = r#"{"Vpcs": [{"VpcId": "vpc-0000000b", "OwnerId": "123456789012", "Region": "us-east-1",
      "Ipv6CidrBlockAssociationSet": [{"Ipv6CidrBlock": "2001:db8::/56", "Ipv6CidrBlockState": {"State": "disassociated"}}]}]}"#;
    sandbox.load_state(Sandbox::parse_state(json.as_bytes()).unwrap(), false).unwrap();
    for (id, state) in [("vpc-0000000b", "disassociated"), ("vpc-0000000000000000a", "associated")]
    {
        let form = format!("Action=DescribeVpcs&Version=2016-11-15&VpcId.1={id}");
        let answer = exchange(address, &post(&form)).await;
        let shown = format!("<ipv6CidrBlockState><state>{state}</state></ipv6CidrBlockState>");
        assert!(answer.contains(&shown), "{answer}");
    }
}

#[tokio::test]
async fn names_are_repeated_in_part_and_without_line_breaks() {
    let (_, address) = open().await;
    let update = "Action=UpdateSecurityGroupRuleDescriptionsEgress&Version=2016-11-15\
                  &SecurityGroupRuleDescription.1.SecurityGroupRuleId=sgr-1&GroupName=";
    let answer = exchange(address, &post(&format!("{update}{}", "n".repeat(1 << 20)))).await;
    assert_eq!(member(&answer, "Code"), "InvalidGroup.NotFound");
    assert!(answer.len() < 1000, "{} bytes", answer.len());
    for (group, name, code) in [
        ("sg-000000000000000d1", "a%0D%0Ab", "InvalidGroup.NotFound"),
        ("sg-000000000000000a1", "a%0D%0Ab", "InvalidGroup.NotFound"),
    ] {
        let form = format!(
            "Action=AuthorizeSecurityGroupEgress&Version=2016-11-15&GroupId={group}\
             &IpPermissions.1.IpProtocol=-1&IpPermissions.1.Groups.1.GroupName={name}"
        );
        let answer = exchange(address, &post(&form)).await;
        assert_eq!(member(&answer, "Code"), code, "{answer}");
        assert!(member(&answer, "Message").contains("a\u{fffd}\u{fffd}b"), "{answer}");
    }
}

#[tokio::test]
async fn r2_who_may_not_ask_is_told_so_whatever_was_asked() {
    let (sandbox, address) = open().await;
    let revoke = "Action=RevokeSecurityGroupEgress&Version=2016-11-15";
    let bad = [
        format!("{revoke}&GroupId=web"),
        format!("{revoke}&Nonsense=1"),
        format!("{revoke}&DryRun=perhaps"),
        format!("{VPCS}&MaxResults=x"),
        "Action=CreateVpc&Version=2016-11-15&InstanceTenancy=host".to_owned(),
    ];
    let fault = |kind: FaultKind, error_code: &str, count| Fault {
        kind: kind.into(),
        error_code: error_code.to_owned(),
        count,
        ..Default::default()
    };
    for (kind, error_code, said) in [
        (FaultKind::Refuse, "UnauthorizedOperation", "UnauthorizedOperation"),
        (FaultKind::RefuseCredentials, "", "AuthFailure"),
        (FaultKind::Throttle, "", "RequestLimitExceeded"),
        (FaultKind::ServerError, "InternalError", "InternalError"),
    ] {
        sandbox.inject_fault(fault(kind, error_code, u32::try_from(bad.len()).unwrap())).unwrap();
        for form in &bad {
            let answer = exchange(address, &post(form)).await;
            assert_eq!(member(&answer, "Code"), said, "{form}");
        }
        // They used it up, and are what they were.
        for form in &bad {
            let answer = exchange(address, &post(form)).await;
            assert!(answer.starts_with("HTTP/1.1 400"), "{form}: {answer}");
            assert!(answer.contains("x-amzn-requestid"), "{answer}");
        }
    }
    // One that is about a group or an action meets the requests about it.
    let about = Fault {
        action: "RevokeSecurityGroupEgress".to_owned(),
        group_id: "sg-000000000000000a1".to_owned(),
        ..fault(FaultKind::Throttle, "", 1)
    };
    sandbox.inject_fault(about).unwrap();
    for (group, said) in [
        ("sg-000000000000000a2", "MissingParameter"),
        ("sg-000000000000000a1", "RequestLimitExceeded"),
        ("sg-000000000000000a1", "MissingParameter"),
    ] {
        let answer = exchange(address, &post(&format!("{revoke}&GroupId={group}"))).await;
        assert_eq!(member(&answer, "Code"), said, "{group}");
    }
}

#[tokio::test]
async fn a_request_costs_a_token_however_malformed_and_no_more() {
    let (sandbox, address) = open().await;
    sandbox.throttle();
    let bad = post("Action=RevokeSecurityGroupEgress&Version=2016-11-15&GroupId=web");
    let good = post(
        "Action=RevokeSecurityGroupEgress&Version=2016-11-15&GroupId=sg-000000000000000a1\
         &SecurityGroupRuleId.1=sgr-00000000",
    );
    for request in [&bad, &good] {
        for _ in 0..25 {
            let answer = exchange(address, request).await;
            assert_ne!(member(&answer, "Code"), "RequestLimitExceeded");
        }
    }
    // The bucket gets five tokens a second meanwhile: it is empty within so many.
    let mut refused = false;
    for _ in 0..50 {
        let answer = exchange(address, &bad).await;
        refused |= member(&answer, "Code") == "RequestLimitExceeded";
    }
    assert!(refused);
    let calls = sandbox.get_state(false).calls;
    assert_eq!(calls.get("RevokeSecurityGroupEgress"), Some(&100));
}
