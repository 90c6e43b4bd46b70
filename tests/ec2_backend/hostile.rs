//! What an endpoint may do that moto never does, and what must come of it.

use std::time::Duration;

use portcullis::{
    backend::{
        AuthorizeRules, Backend, BackendError, CreateGroup, DeleteGroup, DescribeGroups,
        DescribeRules, RevokeRules, Revoked, RevokedRule, Selection,
    },
    rule::{
        Direction, GroupId, GroupPeer, GroupRef, Peer, RuleId, Tag,
        permission::{PrefixListRef, Range, UserIdGroupPair},
    },
};
use tokio::time::Instant;

use super::{
    ACCOUNT, call, id, open, refused,
    script::{Endpoint, Reply, answer, error},
    settings, spec, target, traffic, v4, within,
};

const REVOKE: &str = "RevokeSecurityGroupEgress";

fn revoke_request(dry_run: bool) -> RevokeRules {
    RevokeRules {
        group: id("sg-0123456789abcdef0"),
        direction: Direction::Egress,
        selection: Selection::Specs(vec![spec(traffic("tcp", Some((443, 443))), v4("10.0.0.7/8"))]),
        dry_run,
    }
}

/// Sends a revoke to an endpoint that makes one reply, and returns what came of it. Exactly one request must arrive.
async fn revoke_with(reply: Reply) -> Result<Revoked, BackendError> {
    let endpoint = Endpoint::serve(&[(REVOKE, &[reply])]).await;
    let mut settings = settings(&endpoint.url);
    settings.attempt_timeout = Duration::from_millis(300);
    let ec2 = open(settings).await;
    let result = ec2.revoke(&call(), &target(), &revoke_request(false)).await;
    assert_eq!(endpoint.received(REVOKE).len(), 1, "one attempt");
    result
}

/// Sends a read to an endpoint that makes these replies, and returns what came of it.
async fn read_with(replies: &[Reply]) -> (Result<usize, BackendError>, usize) {
    const ACTION: &str = "DescribeSecurityGroupRules";
    let endpoint = Endpoint::serve(&[(ACTION, replies)]).await;
    let mut settings = settings(&endpoint.url);
    settings.attempt_timeout = Duration::from_millis(300);
    let ec2 = open(settings).await;
    let result = ec2.describe_rules(&call(), &target(), &DescribeRules::default()).await;
    (result.map(|page| page.items.len()), endpoint.received(ACTION).len())
}

#[tokio::test]
async fn a_default_vpc_tells_what_it_did_not_know_member_by_member() {
    let content = "<return>true</return><unknownIpPermissionSet><item>\
        <ipProtocol>tcp</ipProtocol><fromPort>443</fromPort><toPort>444</toPort>\
        <groups><item><description>d1</description><groupId>sg-1</groupId><groupName>web</groupName>\
        <peeringStatus>active</peeringStatus><userId>210987654321</userId><vpcId>vpc-1</vpcId>\
        <vpcPeeringConnectionId>pcx-1</vpcPeeringConnectionId></item></groups>\
        <ipRanges><item><cidrIp>10.0.0.0/8</cidrIp><description>d2</description></item>\
        <item><cidrIp>not a range</cidrIp></item></ipRanges>\
        <ipv6Ranges><item><cidrIpv6>2001:db8::/32</cidrIpv6><description>d3</description></item></ipv6Ranges>\
        <prefixListIds><item><prefixListId>pl-1</prefixListId><description>d &amp; 4</description></item>\
        </prefixListIds></item><item><ipProtocol>-1</ipProtocol></item></unknownIpPermissionSet>\
        <revokedSecurityGroupRuleSet><item><securityGroupRuleId>sgr-1</securityGroupRuleId>\
        <groupId>sg-2</groupId><isEgress>true</isEgress><ipProtocol>icmp</ipProtocol>\
        <fromPort>8</fromPort><toPort>-1</toPort><cidrIpv4>10.0.0.0/8</cidrIpv4>\
        <cidrIpv6>::/0</cidrIpv6><prefixListId>pl-2</prefixListId>\
        <referencedGroupId>sg-3</referencedGroupId><description>d5</description></item><item/>\
        </revokedSecurityGroupRuleSet>";
    let revoked = revoke_with(answer(REVOKE, content)).await.unwrap();
    assert_eq!(revoked.return_value, Some(true));
    assert_eq!(revoked.request_id.as_deref(), Some("request-1"));
    let some = |text: &str| Some(text.to_owned());
    let [unknown, bare] = &revoked.unknown[..] else { panic!("{:?}", revoked.unknown) };
    assert_eq!(unknown.ip_protocol, some("tcp"));
    assert_eq!((unknown.from_port, unknown.to_port), (Some(443), Some(444)));
    let pair = UserIdGroupPair {
        group_id: some("sg-1"),
        group_name: some("web"),
        user_id: some("210987654321"),
        vpc_id: some("vpc-1"),
        vpc_peering_connection_id: some("pcx-1"),
        peering_status: some("active"),
        description: some("d1"),
    };
    assert_eq!(unknown.user_id_group_pairs, [pair]);
    let ranges = [
        Range { cidr: some("10.0.0.0/8"), description: some("d2") },
        Range { cidr: some("not a range"), description: None },
    ];
    assert_eq!(unknown.ip_ranges, ranges);
    let range6 = Range { cidr: some("2001:db8::/32"), description: some("d3") };
    assert_eq!(unknown.ipv6_ranges, [range6]);
    let list = PrefixListRef { prefix_list_id: some("pl-1"), description: some("d & 4") };
    assert_eq!(unknown.prefix_list_ids, [list]);
    assert_eq!((bare.ip_protocol.as_deref(), bare.from_port, bare.peers()), (Some("-1"), None, 0));
    let full = RevokedRule {
        security_group_rule_id: some("sgr-1"),
        group_id: some("sg-2"),
        is_egress: Some(true),
        ip_protocol: some("icmp"),
        from_port: Some(8),
        to_port: Some(-1),
        cidr_ipv4: some("10.0.0.0/8"),
        cidr_ipv6: some("::/0"),
        prefix_list_id: some("pl-2"),
        referenced_group_id: some("sg-3"),
        description: some("d5"),
    };
    assert_eq!(revoked.revoked, [full, RevokedRule::default()]);
}

#[tokio::test]
async fn what_is_sent_is_what_was_asked() {
    let yes = |action| answer(action, "<return>true</return>");
    let ingress = "RevokeSecurityGroupIngress";
    let authorize = "AuthorizeSecurityGroupEgress";
    let endpoint = Endpoint::serve(&[
        (REVOKE, &[yes(REVOKE), answer(REVOKE, "<return>false</return>"), answer(REVOKE, "")]),
        (ingress, &[yes(ingress)]),
        (authorize, &[yes(authorize)]),
        ("DeleteSecurityGroup", &[yes("DeleteSecurityGroup")]),
    ])
    .await;
    let ec2 = open(settings(&endpoint.url)).await;
    let group = Peer::Group(Box::new(GroupPeer {
        group_id: Some(GroupId::new("sg-9")),
        group_name: Some("web".to_owned()),
        ..GroupPeer::default()
    }));
    let request = RevokeRules {
        selection: Selection::Specs(vec![
            spec(traffic("-1", None), v4("10.0.0.7/8")),
            spec(traffic("-1", None), group),
            spec(traffic("47", None), v4("10.0.0.0/8")),
        ]),
        ..revoke_request(false)
    };
    ec2.revoke(&call(), &target(), &request).await.unwrap();
    let by_ids = RevokeRules {
        selection: Selection::Ids(vec![RuleId::new("sgr-1"), RuleId::new("sgr-2")]),
        ..revoke_request(false)
    };
    // Return=false, and no Return at all, are passed on as they are.
    let revoked = ec2.revoke(&call(), &target(), &by_ids).await.unwrap();
    assert_eq!(revoked.return_value, Some(false));
    let revoked = ec2.revoke(&call(), &target(), &by_ids).await.unwrap();
    assert_eq!(revoked.return_value, None);
    let named = RevokeRules {
        group: GroupRef::Name("web".to_owned()),
        direction: Direction::Ingress,
        ..revoke_request(false)
    };
    ec2.revoke(&call(), &target(), &named).await.unwrap();
    let egress_by_name = RevokeRules { direction: Direction::Egress, ..named };
    assert_eq!(refused(ec2.revoke(&call(), &target(), &egress_by_name).await), "MissingParameter");
    let add = AuthorizeRules {
        group: id("sg-1"),
        direction: Direction::Egress,
        specs: vec![spec(traffic("icmp", Some((8, -1))), v4("10.0.0.0/8"))],
        tags: vec![Tag { key: "k".to_owned(), value: "v".to_owned() }],
        dry_run: false,
    };
    ec2.authorize(&call(), &target(), &add).await.unwrap();
    let delete = DeleteGroup { group: GroupRef::Name("web".to_owned()), dry_run: false };
    ec2.delete_group(&call(), &target(), &delete).await.unwrap();

    let [specs, ids, _] = &endpoint.received(REVOKE)[..] else { panic!() };
    assert_eq!(specs.form["GroupId"], "sg-0123456789abcdef0");
    assert_eq!(specs.form["IpPermissions.1.IpProtocol"], "-1");
    assert_eq!(specs.form["IpPermissions.1.Groups.1.GroupId"], "sg-9");
    assert_eq!(specs.form["IpPermissions.2.IpProtocol"], "-1");
    assert_eq!(specs.form["IpPermissions.2.IpRanges.1.CidrIp"], "10.0.0.7/8");
    assert_eq!(specs.form["IpPermissions.3.IpProtocol"], "47");
    let absent = ["FromPort", "ToPort", "GroupName", "DryRun", "SecurityGroupRuleId"];
    assert!(!specs.form.keys().any(|key| absent.iter().any(|name| key.contains(name))));
    assert_eq!(ids.form["SecurityGroupRuleId.2"], "sgr-2");
    assert!(!ids.form.keys().any(|key| key.contains("IpPermissions")));
    assert_eq!(endpoint.received(ingress)[0].form["GroupName"], "web");
    let [add] = &endpoint.received(authorize)[..] else { panic!() };
    assert_eq!(add.form["IpPermissions.1.ToPort"], "-1");
    assert_eq!(add.form["TagSpecification.1.ResourceType"], "security-group-rule");
    assert_eq!(add.form["TagSpecification.1.Tag.1.Key"], "k");
    assert_eq!(endpoint.received("DeleteSecurityGroup")[0].form["GroupName"], "web");
    // The audit trail shows who asked, and for which operation.
    let agent = specs.head.lines().find(|line| line.starts_with("user-agent:")).unwrap();
    assert!(agent.contains("app/portcullis"), "{agent}");
    assert!(agent.contains("lib/operation/operation-1"), "{agent}");
}

#[tokio::test]
async fn refusals_are_told_from_accidents() {
    for (status, code) in [
        (412, "DryRunOperation"),
        (400, "InvalidPermission.NotFound"),
        (400, "ExpiredToken"),
        (400, "RequestExpired"),
        (401, "AuthFailure"),
        (403, "UnauthorizedOperation"),
        (503, "RequestLimitExceeded"),
        (400, "Throttling"),
        (500, "ThrottlingException"),
    ] {
        match revoke_with(error(status, code, "why")).await {
            Err(BackendError::Refused(refusal)) => {
                assert_eq!((refusal.code.as_str(), refusal.message.as_str()), (code, "why"));
                assert_eq!(refusal.request_id.as_deref(), Some("request-1"));
            }
            other => panic!("{status} {code}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn an_answer_that_proves_nothing_leaves_a_mutation_in_doubt() {
    let full = "<RevokeSecurityGroupEgressResponse><return>true</return>\
                <revokedSecurityGroupRuleSet><item><groupId>sg-1</groupId>";
    let ok = |body: &str| Reply::Answer(200, body.to_owned());
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n".to_owned() + full;
    let cut_chunk =
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n<Revo\r\n".to_owned();
    for reply in [
        error(500, "InternalError", "An internal error has occurred"),
        error(503, "Unavailable", "The server is overloaded"),
        Reply::Answer(502, "<html>Bad Gateway</html>".to_owned()),
        Reply::Answer(500, String::new()),
        Reply::Answer(408, String::new()),
        Reply::Answer(302, String::new()),
        ok(""),
        ok("   "),
        ok("<html><body>Welcome</body></html>"),
        ok("<html><body>Welcome"),
        ok("\u{0}\u{1}rubbish"),
        // The SDK alone takes these for answers.
        ok(full),
        ok(&format!("{full}</item></revokedSecurityGroupRuleSet>")),
        ok(&format!("{full}</wrong></RevokeSecurityGroupEgressResponse>")),
        ok(
            "<RevokeSecurityGroupEgressResponse><return>maybe</return></RevokeSecurityGroupEgressResponse>",
        ),
        ok("<DescribeVpcsResponse/>"),
        Reply::Raw(cut),
        Reply::Raw(cut_chunk),
        Reply::Raw("HTTP/1.1 200 OK\r\ncontent-le".to_owned()),
        Reply::Raw("SSH-2.0-OpenSSH\r\n".to_owned()),
        Reply::Raw(String::new()),
        Reply::Reset,
        Reply::Hang,
    ] {
        let shown = format!("{reply:?}");
        match revoke_with(reply).await {
            Err(BackendError::OutcomeUnknown(failure)) => {
                if shown.contains("InternalError") {
                    assert_eq!(failure.code.as_deref(), Some("InternalError"));
                    assert_eq!(failure.request_id.as_deref(), Some("request-1"));
                }
            }
            other => panic!("{shown}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_refusal_in_nobodys_form_had_no_effect_and_names_no_code() {
    for status in [400, 403, 404, 407, 413] {
        match revoke_with(Reply::Answer(status, "<html>no</html>".to_owned())).await {
            Err(BackendError::Unavailable(failure)) => assert_eq!(failure.code, None),
            other => panic!("{status}: {other:?}"),
        }
    }
    let throttled = revoke_with(Reply::Answer(429, String::new())).await;
    assert_eq!(refused(throttled), "RequestLimitExceeded");
}

#[tokio::test]
async fn a_dry_run_leaves_no_doubt() {
    for reply in [error(500, "InternalError", ""), Reply::Hang, Reply::Reset] {
        let endpoint = Endpoint::serve(&[(REVOKE, &[reply])]).await;
        let mut settings = settings(&endpoint.url);
        settings.attempt_timeout = Duration::from_millis(300);
        let ec2 = open(settings).await;
        let result = ec2.revoke(&call(), &target(), &revoke_request(true)).await;
        assert!(matches!(result, Err(BackendError::Unavailable(_))), "{result:?}");
        let [request] = &endpoint.received(REVOKE)[..] else { panic!("not one attempt") };
        assert_eq!(request.form["DryRun"], "true");
    }
}

#[tokio::test]
async fn the_deadline_cuts_an_attempt_and_forbids_one_that_comes_too_late() {
    let endpoint = Endpoint::serve(&[(REVOKE, &[Reply::Hang])]).await;
    let ec2 = open(settings(&endpoint.url)).await;
    let started = Instant::now();
    let cut =
        ec2.revoke(&within(Duration::from_millis(300)), &target(), &revoke_request(false)).await;
    assert!(matches!(cut, Err(BackendError::OutcomeUnknown(_))), "{cut:?}");
    assert!(started.elapsed() < Duration::from_secs(5));
    let late =
        ec2.revoke(&within(Duration::from_millis(40)), &target(), &revoke_request(false)).await;
    assert!(matches!(late, Err(BackendError::DeadlineTooNear)), "{late:?}");
    assert_eq!(endpoint.received(REVOKE).len(), 1);
}

#[tokio::test]
async fn what_met_no_connection_was_not_sent() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    for url in [format!("http://{address}"), "http://host.invalid".to_owned()] {
        let ec2 = open(settings(&url)).await;
        let revoked = ec2.revoke(&call(), &target(), &revoke_request(false)).await;
        assert!(matches!(revoked, Err(BackendError::Unavailable(_))), "{url}: {revoked:?}");
        let read = ec2.describe_rules(&call(), &target(), &DescribeRules::default()).await;
        assert!(matches!(read, Err(BackendError::Unavailable(_))), "{url}: {read:?}");
    }
    // TLS to somebody who speaks none.
    let plain = Endpoint::serve(&[]).await;
    let ec2 = open(settings(&plain.url.replace("http:", "https:"))).await;
    let revoked = ec2.revoke(&call(), &target(), &revoke_request(false)).await;
    assert!(matches!(revoked, Err(BackendError::Unavailable(_))), "{revoked:?}");
}

#[tokio::test]
async fn a_tls_handshake_that_takes_too_long_sent_nothing() {
    // The kernel makes the connection, and nobody ever says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut settings = settings(&format!("https://{}", silent.local_addr().unwrap()));
    settings.connect_timeout = Duration::from_millis(200);
    let ec2 = open(settings).await;
    let revoked = ec2.revoke(&call(), &target(), &revoke_request(false)).await;
    assert!(matches!(revoked, Err(BackendError::Unavailable(_))), "{revoked:?}");
}

#[tokio::test]
async fn reads_are_tried_again_and_mutations_never() {
    let action = "DescribeSecurityGroupRules";
    let busy = || error(503, "RequestLimitExceeded", "Request limit exceeded.");
    let broken = || error(500, "InternalError", "");
    let (result, requests) = read_with(&[busy(), broken(), answer(action, "")]).await;
    assert_eq!((result.unwrap(), requests), (0, 3));
    let (result, requests) = read_with(&[busy(), busy(), busy(), busy()]).await;
    assert_eq!((refused(result), requests), ("RequestLimitExceeded".to_owned(), 3));
    let (result, requests) = read_with(&[broken(), broken(), broken(), broken()]).await;
    assert!(matches!(result, Err(BackendError::Unavailable(_))), "{result:?}");
    assert_eq!(requests, 3);
    let (result, requests) = read_with(&[Reply::Reset, answer(action, "")]).await;
    assert_eq!((result.unwrap(), requests), (0, 2));
    let (result, requests) = read_with(&[Reply::Hang, answer(action, "")]).await;
    assert_eq!((result.unwrap(), requests), (0, 2));
    let (result, requests) = read_with(&[error(400, "InvalidFilter", "")]).await;
    assert_eq!((refused(result), requests), ("InvalidFilter".to_owned(), 1));
}

#[tokio::test]
async fn a_read_that_cannot_be_read_gives_no_rules() {
    let action = "DescribeSecurityGroupRules";
    let rule = "<item><securityGroupRuleId>sgr-1</securityGroupRuleId><groupId>sg-1</groupId>\
                <isEgress>true</isEgress><ipProtocol>-1</ipProtocol><fromPort>-1</fromPort>\
                <toPort>-1</toPort>";
    let set = |items: &str| {
        answer(action, &format!("<securityGroupRuleSet>{items}</securityGroupRuleSet>"))
    };
    let good = format!("{rule}<cidrIpv4>0.0.0.0/0</cidrIpv4></item>");
    assert_eq!(read_with(&[set(&good)]).await.0.unwrap(), 1);
    for bad in [
        set(&format!("{good}{rule}</item>")),
        set(&format!("{good}{rule}<newPeerKind>x</newPeerKind></item>")),
        set(&format!("{good}{rule}<cidrIpv4>10.0.0.0/99</cidrIpv4></item>")),
        Reply::Answer(200, "<html/>".to_owned()),
        Reply::Answer(200, format!("<{action}Response><securityGroupRuleSet>{good}")),
    ] {
        let shown = format!("{bad:?}");
        let (result, _) = read_with(&[bad.clone(), bad.clone(), bad]).await;
        match result {
            Err(BackendError::Unavailable(failure)) => assert!(!failure.detail.is_empty()),
            other => panic!("{shown}: {other:?}"),
        }
    }
}

fn group_answer(extra: &str) -> Reply {
    answer(
        "DescribeSecurityGroups",
        &format!(
            "<securityGroupInfo><item><ownerId>{ACCOUNT}</ownerId><groupId>sg-1</groupId>\
             <groupName>web</groupName><groupDescription>Web</groupDescription>\
             <vpcId>vpc-1</vpcId><tagSet><item><key>team</key><value>net</value></item></tagSet>\
             {extra}</item></securityGroupInfo>"
        ),
    )
}

fn rules_answer(numbers: std::ops::Range<u32>, token: Option<&str>) -> Reply {
    let rules: String = numbers
        .map(|number| {
            format!(
                "<item><securityGroupRuleId>sgr-{number}</securityGroupRuleId><groupId>sg-1</groupId>\
                 <groupOwnerId>{ACCOUNT}</groupOwnerId><isEgress>true</isEgress>\
                 <ipProtocol>tcp</ipProtocol><fromPort>{number}</fromPort><toPort>{number}</toPort>\
                 <cidrIpv4>10.0.0.0/8</cidrIpv4></item>"
            )
        })
        .collect();
    let token = token.map_or(String::new(), |token| format!("<nextToken>{token}</nextToken>"));
    let content = format!("<securityGroupRuleSet>{rules}</securityGroupRuleSet>{token}");
    answer("DescribeSecurityGroupRules", &content)
}

fn vpc_answer(default: bool) -> Reply {
    let content = format!(
        "<vpcSet><item><vpcId>vpc-1</vpcId><isDefault>{default}</isDefault></item></vpcSet>"
    );
    answer("DescribeVpcs", &content)
}

#[tokio::test]
async fn an_image_holds_all_pages_and_asks_for_the_vpc_once() {
    let endpoint = Endpoint::serve(&[
        ("DescribeSecurityGroups", &[group_answer(""), group_answer("")]),
        (
            "DescribeSecurityGroupRules",
            &[
                rules_answer(0..2, Some("page 2")),
                rules_answer(2..3, Some("page 3")),
                rules_answer(3..5, Some("")),
                rules_answer(0..1, None),
            ],
        ),
        ("DescribeVpcs", &[vpc_answer(true)]),
    ])
    .await;
    let ec2 = open(settings(&endpoint.url)).await;
    let image = ec2.image(&call(), &target(), &id("sg-1")).await.unwrap();
    let ports: Vec<i32> = image.rules.iter().map(|rule| rule.traffic.from_port()).collect();
    assert_eq!(ports, [0, 1, 2, 3, 4]);
    assert_eq!(image.in_default_vpc, Some(true));
    assert_eq!(image.group.name, "web");
    assert_eq!(image.group.tags[0].value, "net");
    let pages = endpoint.received("DescribeSecurityGroupRules");
    assert_eq!(pages[0].form["Filter.1.Name"], "group-id");
    assert_eq!(pages[0].form["Filter.1.Value.1"], "sg-1");
    assert_eq!(pages[1].form["NextToken"], "page 2");
    assert_eq!(pages[2].form["NextToken"], "page 3");
    let named = GroupRef::Name("web".to_owned());
    let image = ec2.image(&call(), &target(), &named).await.unwrap();
    assert_eq!((image.rules.len(), image.in_default_vpc), (1, Some(true)));
    let groups = endpoint.received("DescribeSecurityGroups");
    assert_eq!(groups[1].form["GroupName.1"], "web");
    assert_eq!(endpoint.received("DescribeVpcs").len(), 1);
}

#[tokio::test]
async fn pages_that_do_not_end_and_vpcs_that_are_not_there() {
    let same = || rules_answer(0..1, Some("again"));
    let endpoint = Endpoint::serve(&[
        ("DescribeSecurityGroups", &[group_answer(""), group_answer("")]),
        ("DescribeSecurityGroupRules", &[same(), same(), rules_answer(0..1, None)]),
        ("DescribeVpcs", &[vpc_answer(false), error(400, "InvalidVpcID.NotFound", "")]),
    ])
    .await;
    let ec2 = open(settings(&endpoint.url)).await;
    let image = ec2.image(&call(), &target(), &id("sg-1")).await;
    assert!(matches!(image, Err(BackendError::Unavailable(_))), "{image:?}");
    let other = open(settings(&endpoint.url)).await;
    let image = other.image(&call(), &target(), &id("sg-1")).await.unwrap();
    assert_eq!(image.in_default_vpc, None, "a shared VPC may be nobody's that we can ask");
}

#[tokio::test]
async fn a_group_that_is_not_there_is_said_so_whatever_the_rules_say() {
    let missing = "The security group 'sg-1' does not exist";
    let endpoint = Endpoint::serve(&[
        ("DescribeSecurityGroups", &[error(400, "InvalidGroup.NotFound", missing)]),
        ("DescribeSecurityGroupRules", &[error(400, "InvalidFilter", "")]),
    ])
    .await;
    let ec2 = open(settings(&endpoint.url)).await;
    assert_eq!(refused(ec2.image(&call(), &target(), &id("sg-1")).await), "InvalidGroup.NotFound");
}

#[tokio::test]
async fn listed_groups_have_rules_without_ids() {
    let sides = "<ipPermissionsEgress><item><ipProtocol>-1</ipProtocol><groups><item>\
        <userId>210987654321</userId><groupId>sg-2</groupId><description>peer</description></item>\
        </groups><ipRanges><item><cidrIp>0.0.0.0/0</cidrIp></item></ipRanges><ipv6Ranges><item>\
        <cidrIpv6>::/0</cidrIpv6></item></ipv6Ranges><prefixListIds><item>\
        <prefixListId>pl-1</prefixListId></item></prefixListIds></item></ipPermissionsEgress>\
        <ipPermissions><item><ipProtocol>tcp</ipProtocol><fromPort>22</fromPort>\
        <toPort>22</toPort><ipRanges><item><cidrIp>10.0.0.0/8</cidrIp></item></ipRanges></item>\
        </ipPermissions>";
    let endpoint = Endpoint::serve(&[("DescribeSecurityGroups", &[group_answer(sides)])]).await;
    let ec2 = open(settings(&endpoint.url)).await;
    let page = ec2.describe_groups(&call(), &target(), &DescribeGroups::default()).await.unwrap();
    let rules = &page.items[0].rules;
    let egress = rules.iter().filter(|rule| rule.direction == Direction::Egress).count();
    assert_eq!((rules.len(), egress), (5, 4));
    assert!(rules.iter().all(|rule| rule.id.as_str().is_empty()));
}

#[tokio::test]
async fn a_creation_tells_what_ec2_tells() {
    let action = "CreateSecurityGroup";
    let content = "<return>true</return><groupId>sg-7</groupId><tagSet><item><key>k</key>\
                   <value>v</value></item></tagSet><securityGroupArn>arn:x</securityGroupArn>";
    let endpoint = Endpoint::serve(&[(action, &[answer(action, content)])]).await;
    let ec2 = open(settings(&endpoint.url)).await;
    let request = CreateGroup {
        name: "web".to_owned(),
        description: "Web".to_owned(),
        vpc_id: None,
        tags: vec![Tag { key: "k".to_owned(), value: "v".to_owned() }],
        dry_run: false,
    };
    let created = ec2.create_group(&call(), &target(), &request).await.unwrap();
    assert_eq!(created.group_id.as_deref(), Some("sg-7"));
    assert_eq!(created.arn.as_deref(), Some("arn:x"));
    assert_eq!(created.tags, request.tags);
    let [sent] = &endpoint.received(action)[..] else { panic!() };
    assert_eq!(sent.form["GroupDescription"], "Web");
    assert_eq!(sent.form["TagSpecification.1.ResourceType"], "security-group");
}
