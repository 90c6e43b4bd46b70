//! Policies on the running server: what is refused, what is left out of lists, and what reaches the backend.

use std::collections::BTreeMap;

use portcullis::{
    access::{Access, Mode, Policies},
    api::proto::v1::{self, security_group_service_client::SecurityGroupServiceClient},
};
use tonic::{Code, Status, transport::Channel};

use super::support::{
    self, DEFAULT_VPC_GROUP, NONDEFAULT_VPC, NONDEFAULT_VPC_GROUP, OTHER_GROUP, Server,
};

const SANDBOX: &str = "permit (principal, action in Action::\"sandbox\", resource);";
const ENTER: &str = "permit (principal, action == Action::\"access\", resource);";
const READ: &str = "permit (principal, action in Action::\"read\", resource);";
const MUTATE: &str = "permit (principal, action in Action::\"mutate\", resource);";

async fn served(policies: &[&str]) -> Server {
    served_as(policies, Mode::Enforce).await
}

async fn served_as(policies: &[&str], mode: Mode) -> Server {
    let text = format!("{SANDBOX}\n{}", policies.join("\n"));
    let policies = Policies::parse(&[("test.cedar".to_owned(), text)]);
    let policies = policies.unwrap_or_else(|faults| panic!("{faults:?}"));
    support::start_with_access(Access::with(policies, mode)).await
}

fn id(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn revoke_ingress(group: &str) -> v1::RevokeIngressRequest {
    v1::RevokeIngressRequest {
        group_id: id(group),
        ip_permissions: vec![support::tcp(8443, "10.0.0.0/8")],
        ..Default::default()
    }
}

fn create(tags: &[(&str, &str)]) -> v1::CreateSecurityGroupRequest {
    let tags = tags.iter().map(|(key, value)| v1::Tag { key: id(key), value: id(value) }).collect();
    v1::CreateSecurityGroupRequest {
        group_name: id("fresh"),
        description: id("for a test"),
        vpc_id: id(NONDEFAULT_VPC),
        tag_specifications: vec![v1::TagSpecification {
            resource_type: id("security-group"),
            tags,
        }],
        ..Default::default()
    }
}

/// Every mutation there is, against a group with rules. The answers, by RPC.
async fn mutate(
    groups: &mut SecurityGroupServiceClient<Channel>,
    group: &str,
    dry_run: bool,
) -> BTreeMap<&'static str, Result<(), Status>> {
    let dry_run = Some(dry_run);
    let revoke = v1::RevokeEgressRequest {
        dry_run,
        ..support::by_permissions(
            group,
            vec![support::tcp(443, "10.0.0.0/8"), support::tcp(1, "192.0.2.0/24")],
        )
    };
    let by_id = v1::RevokeEgressRequest {
        dry_run,
        on_unknown: v1::OnUnknown::RevokeMatched.into(),
        ..support::by_ids(group, &["sgr-00000000000000000"])
    };
    let authorize = v1::AuthorizeEgressRequest {
        group_id: id(group),
        ip_permissions: vec![support::tcp(9, "10.9.0.0/16")],
        dry_run,
        ..Default::default()
    };
    let ingress = v1::AuthorizeIngressRequest {
        group_id: id(group),
        ip_permissions: vec![support::tcp(9, "10.9.0.0/16")],
        dry_run,
        ..Default::default()
    };
    let delete =
        v1::DeleteSecurityGroupRequest { group_id: id(group), dry_run, ..Default::default() };
    BTreeMap::from([
        ("RevokeEgress", groups.revoke_egress(revoke).await.map(drop)),
        ("RevokeEgress by id", groups.revoke_egress(by_id).await.map(drop)),
        (
            "RevokeIngress",
            groups
                .revoke_ingress(v1::RevokeIngressRequest { dry_run, ..revoke_ingress(group) })
                .await
                .map(drop),
        ),
        ("AuthorizeEgress", groups.authorize_egress(authorize).await.map(drop)),
        ("AuthorizeIngress", groups.authorize_ingress(ingress).await.map(drop)),
        (
            "CreateSecurityGroup",
            groups
                .create_security_group(v1::CreateSecurityGroupRequest { dry_run, ..create(&[]) })
                .await
                .map(drop),
        ),
        ("DeleteSecurityGroup", groups.delete_security_group(delete).await.map(drop)),
    ])
}

/// How often each of EC2's mutating actions reached the sandbox.
async fn mutations(server: &mut Server) -> u32 {
    let calls = server.state().await.calls;
    calls.iter().filter(|(action, _)| !action.starts_with("Describe")).map(|(_, count)| count).sum()
}

fn is_denied(status: &Status) {
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    let details = support::details(status);
    assert_eq!(details.error_info().unwrap().reason, "ACCESS_DENIED");
    assert!(details.error_info().unwrap().metadata.is_empty(), "{details:?}");
    assert_eq!(status.message(), "policy does not allow this; nothing was changed");
}

#[tokio::test]
async fn nothing_that_is_denied_reaches_the_backend() {
    for policies in [
        // Without `access` nothing is even read.
        vec![MUTATE],
        vec![ENTER, READ],
        vec![ENTER, MUTATE, r#"forbid (principal, action in Action::"mutate", resource);"#],
        // Another account's and another group's permission is not this one's.
        vec![
            ENTER,
            r#"permit (principal, action in Action::"mutate", resource in Target::"999999999999/us-east-1");"#,
        ],
        vec![
            ENTER,
            r#"permit (principal, action in Action::"mutate", resource == SecurityGroup::"123456789012/us-east-1/sg-0e000000000000002");"#,
        ],
    ] {
        let mut server = served(&policies).await;
        // One that is not there is answered as one that is.
        for group in [NONDEFAULT_VPC_GROUP, DEFAULT_VPC_GROUP, "sg-00000000"] {
            for dry_run in [false, true] {
                let mut groups = server.groups.clone();
                for (rpc, answer) in mutate(&mut groups, group, dry_run).await {
                    let status = answer.expect_err(rpc);
                    is_denied(&status);
                }
            }
        }
        assert_eq!(mutations(&mut server).await, 0, "{policies:?}");
        assert_eq!(server.effects().await, 0);
    }
}

#[tokio::test]
async fn without_access_nothing_is_read_either() {
    let mut server = served(&[READ, MUTATE]).await;
    let mut groups = server.groups.clone();
    for (_, answer) in mutate(&mut groups, NONDEFAULT_VPC_GROUP, false).await {
        is_denied(&answer.unwrap_err());
    }
    is_denied(
        &groups
            .describe_security_groups(v1::DescribeSecurityGroupsRequest::default())
            .await
            .unwrap_err(),
    );
    assert!(server.state().await.calls.is_empty());
}

#[tokio::test]
async fn what_is_allowed_goes_through() {
    let mut server = served(&[ENTER, READ, MUTATE]).await;
    let mut groups = server.groups.clone();
    for (rpc, answer) in mutate(&mut groups, DEFAULT_VPC_GROUP, true).await {
        answer.unwrap_or_else(|status| panic!("{rpc}: {status:?}"));
    }
    assert_eq!(server.effects().await, 0);
    let revoked = server.revoke(NONDEFAULT_VPC_GROUP, vec![support::tcp(443, "10.0.0.0/8")]).await;
    assert_eq!(revoked.unwrap().revoked_security_group_rules.len(), 1);
    server.authorize(NONDEFAULT_VPC_GROUP, vec![support::tcp(443, "10.0.0.0/8")]).await.unwrap();
    let created = groups.create_security_group(create(&[])).await.unwrap().into_inner();
    let request =
        v1::DeleteSecurityGroupRequest { group_id: created.group_id, ..Default::default() };
    groups.delete_security_group(request).await.unwrap();
    assert_eq!(server.effects().await, 4);
}

#[tokio::test]
async fn one_forbidden_rule_denies_the_call() {
    let forbid = r#"forbid (principal, action, resource) when { context.destination_cidr.isInRange(ip("10.0.0.0/8")) && context.from_port == 443 };"#;
    let mut server = served(&[ENTER, READ, MUTATE, forbid]).await;
    let (allowed, forbidden) =
        (support::cidr("tcp", 80, 90, "10.0.0.0/8"), support::tcp(443, "10.0.0.0/8"));
    let both = vec![allowed.clone(), forbidden.clone()];
    is_denied(&server.revoke(NONDEFAULT_VPC_GROUP, both).await.unwrap_err());
    // A rule's id is decided on what it is; with host bits it is the same rule.
    let rule = server.rule_id(NONDEFAULT_VPC_GROUP, 443, "10.0.0.0/8").await;
    is_denied(&server.revoke_ids(NONDEFAULT_VPC_GROUP, &[&rule]).await.unwrap_err());
    for on_unknown in [v1::OnUnknown::Fail, v1::OnUnknown::RevokeMatched] {
        let request = v1::RevokeEgressRequest {
            on_unknown: on_unknown.into(),
            ..support::by_ids(NONDEFAULT_VPC_GROUP, &[&rule])
        };
        is_denied(&server.revoke_request(request).await.unwrap_err());
    }
    is_denied(
        &server
            .revoke(NONDEFAULT_VPC_GROUP, vec![support::tcp(443, "10.0.0.9/8")])
            .await
            .unwrap_err(),
    );
    // What the group has not is decided as it was asked for.
    let unknown = vec![support::tcp(443, "10.77.0.0/16")];
    is_denied(&server.revoke(NONDEFAULT_VPC_GROUP, unknown.clone()).await.unwrap_err());
    is_denied(&server.authorize(NONDEFAULT_VPC_GROUP, unknown).await.unwrap_err());
    assert_eq!(mutations(&mut server).await, 0);
    server.revoke(NONDEFAULT_VPC_GROUP, vec![allowed]).await.unwrap();
    assert_eq!(server.effects().await, 1);
}

/// A forbid that cannot be evaluated would not forbid: the permit beside it is not enough then.
#[tokio::test]
async fn a_forbid_that_fails_denies() {
    let overflows = r#"forbid (principal, action in Action::"mutate", resource) when { (context.to_port + 2) * 9223372036854775807 * 2 < 0 };"#;
    let mut server = served(&[ENTER, READ, MUTATE, overflows]).await;
    let mut groups = server.groups.clone();
    for dry_run in [false, true] {
        for (rpc, answer) in mutate(&mut groups, NONDEFAULT_VPC_GROUP, dry_run).await {
            is_denied(&answer.expect_err(rpc));
        }
    }
    assert_eq!(mutations(&mut server).await, 0);
    // One on an attribute that may be missing does not get so far.
    for condition in [
        "resource.vpc == \"vpc-1\"",
        "resource.getTag(\"team\") == \"web\"",
        "context.ticket == \"1\"",
        "principal.email == \"x\"",
    ] {
        let text = format!("forbid (principal, action, resource) when {{ {condition} }};");
        let faults = Policies::parse(&[("test.cedar".to_owned(), text)]);
        assert!(faults.is_err(), "{condition}");
    }
}

#[tokio::test]
async fn a_rule_id_that_the_group_lacks_is_never_sent() {
    let mut server = served(&[ENTER, READ, MUTATE]).await;
    let others = server.egress(OTHER_GROUP).await[0].security_group_rule_id.clone().unwrap();
    for rule in [others.as_str(), "sgr-00000000000000000"] {
        let status = server.revoke_ids(NONDEFAULT_VPC_GROUP, &[rule]).await.unwrap_err();
        let (code, reason) = support::refusal::<()>(Err(status));
        assert_eq!(
            (code, reason.as_str()),
            (Code::NotFound, "INVALID_SECURITY_GROUP_RULE_ID_NOT_FOUND")
        );
    }
    assert_eq!(mutations(&mut server).await, 0);
}

#[tokio::test]
async fn a_group_by_name_is_decided_by_its_id() {
    let forbid = r#"forbid (principal, action, resource) when { context.destination_group == "sg-0d000000000000002" };"#;
    let mut server = served(&[ENTER, READ, MUTATE, forbid]).await;
    let by_name = |name: &str| {
        let mut permission = support::permission("tcp", 22, 22);
        permission
            .user_id_group_pairs
            .push(v1::UserIdGroupPair { group_name: id(name), ..Default::default() });
        v1::RevokeIngressRequest {
            ip_permissions: vec![permission],
            group_id: id(DEFAULT_VPC_GROUP),
            ..Default::default()
        }
    };
    is_denied(&server.groups.revoke_ingress(by_name("db")).await.unwrap_err());
    // A name that names nothing could name something by the time EC2 looks.
    let status = server.groups.revoke_ingress(by_name("nobody")).await.unwrap_err();
    assert_eq!(support::refusal::<()>(Err(status)).1, "INVALID_GROUP_NOT_FOUND");
    let request = v1::AuthorizeIngressRequest {
        group_name: id("web"),
        ip_permissions: by_name("db").ip_permissions,
        ..Default::default()
    };
    is_denied(&server.groups.authorize_ingress(request).await.unwrap_err());
    assert_eq!(mutations(&mut server).await, 0);
}

#[tokio::test]
async fn the_last_egress_rule_is_told_by_the_whole_call() {
    let forbid = "forbid (principal, action, resource) when { context.removes_last_egress_rule };";
    let mut server = served(&[ENTER, READ, MUTATE, forbid]).await;
    let all = vec![support::cidr("-1", None, None, "0.0.0.0/0")];
    server.revoke(DEFAULT_VPC_GROUP, all.clone()).await.unwrap();
    is_denied(&server.revoke(OTHER_GROUP, all).await.unwrap_err());
    assert_eq!(server.egress(OTHER_GROUP).await.len(), 1);
}

#[tokio::test]
async fn vpc_and_tags_are_the_groups_own() {
    let by_tag = r#"permit (principal, action in Action::"mutate", resource) when { resource.hasTag("team") && resource.getTag("team") == "web" };"#;
    let vpc = r#"forbid (principal, action, resource is SecurityGroup) when { resource.vpc == "vpc-0f000000000000000" };"#;
    let mut server = served(&[ENTER, READ, by_tag, vpc]).await;
    let mut groups = server.groups.clone();
    is_denied(&groups.create_security_group(create(&[])).await.unwrap_err());
    is_denied(&groups.create_security_group(create(&[("team", "db")])).await.unwrap_err());
    let mut elsewhere = create(&[("team", "web")]);
    elsewhere.vpc_id = id("vpc-0f000000000000000");
    is_denied(&groups.create_security_group(elsewhere).await.unwrap_err());
    let created = groups.create_security_group(create(&[("team", "web")])).await.unwrap();
    let group = created.into_inner().group_id.unwrap();
    server.authorize(&group, vec![support::tcp(1, "10.0.0.0/8")]).await.unwrap();
    is_denied(
        &server
            .authorize(NONDEFAULT_VPC_GROUP, vec![support::tcp(1, "10.0.0.0/8")])
            .await
            .unwrap_err(),
    );
    let request = v1::DeleteSecurityGroupRequest { group_id: id(&group), ..Default::default() };
    groups.delete_security_group(request).await.unwrap();
}

/// Only groups called `web`, and no other, may be read.
const READ_WEB: &str = r#"
    permit (principal, action in Action::"read", resource is Target);
    permit (principal, action in Action::"read", resource is SecurityGroup) when { resource.name == "web" };
"#;

#[tokio::test]
async fn lists_leave_out_what_the_caller_may_not_read() {
    let mut server = served(&[ENTER, READ_WEB]).await;
    let mut groups = server.groups.clone();
    let all = groups.describe_security_groups(v1::DescribeSecurityGroupsRequest::default()).await;
    let names: Vec<_> = all
        .unwrap()
        .into_inner()
        .security_groups
        .into_iter()
        .filter_map(|group| group.group_name)
        .collect();
    assert_eq!(names, ["web", "web"]);
    let all = groups
        .describe_security_group_rules(v1::DescribeSecurityGroupRulesRequest::default())
        .await;
    let rules = all.unwrap().into_inner().security_group_rules;
    assert_eq!(rules.len(), 14);
    let own = [DEFAULT_VPC_GROUP, NONDEFAULT_VPC_GROUP];
    assert!(rules.iter().all(|rule| own.contains(&rule.group_id.as_deref().unwrap())));
    assert!(server.rules(OTHER_GROUP).await.is_empty());
}

#[tokio::test]
async fn what_is_hidden_and_what_is_not_there_are_answered_alike() {
    let server = served(&[ENTER, READ_WEB]).await;
    let hidden_rule = {
        let mut open = served(&[ENTER, READ]).await;
        open.egress(OTHER_GROUP).await[0].security_group_rule_id.clone().unwrap()
    };
    let mut groups = server.groups.clone();
    let filter = v1::Filter { name: id("group-name"), values: vec!["x".to_owned()] };
    for filters in [vec![], vec![filter]] {
        let mut refusals = Vec::new();
        for group in [OTHER_GROUP, "sg-00000000"] {
            let request = v1::DescribeSecurityGroupsRequest {
                group_ids: vec![group.to_owned()],
                filters: filters.clone(),
                ..Default::default()
            };
            let status = groups.describe_security_groups(request).await.unwrap_err();
            let details = support::details(&status);
            assert_eq!(details.resource_info().unwrap().resource_name, group);
            refusals.push((
                status.code(),
                status.message().to_owned(),
                format!("{:?}", details.error_info()),
            ));
        }
        assert_eq!(refusals[0], refusals[1]);
        let mut refusals = Vec::new();
        for rule in [hidden_rule.as_str(), "sgr-00000000000000000"] {
            let request = v1::DescribeSecurityGroupRulesRequest {
                security_group_rule_ids: vec![rule.to_owned()],
                ..Default::default()
            };
            let status = groups.describe_security_group_rules(request).await.unwrap_err();
            refusals.push((
                status.code(),
                status.message().to_owned(),
                format!("{:?}", support::details(&status).error_info()),
            ));
        }
        assert_eq!(refusals[0], refusals[1]);
    }
    let request = v1::DescribeSecurityGroupsRequest {
        group_ids: vec![NONDEFAULT_VPC_GROUP.to_owned()],
        ..Default::default()
    };
    assert_eq!(
        groups.describe_security_groups(request).await.unwrap().into_inner().security_groups.len(),
        1
    );
}

#[tokio::test]
async fn a_page_does_not_tell_what_is_hidden_behind_it() {
    let read_ga = r#"
        permit (principal, action in Action::"read", resource is Target);
        permit (principal, action in Action::"read", resource is SecurityGroup) when { resource.name like "ga*" };
    "#;
    let mut server = served(&[ENTER, MUTATE, read_ga]).await;
    let mut made = Vec::new();
    for n in 0..20 {
        let name = format!("{}{n}", if n % 2 == 0 { "ga" } else { "gb" });
        made.push((server.create(&name, "vpc-0d000000000000000").await.unwrap(), name));
    }
    // Pages are in the order of ids: the hidden one is behind the first five.
    made.sort();
    let hidden = made.iter().rfind(|(_, name)| name.starts_with("gb")).unwrap();
    let before = made.iter().take_while(|group| *group != hidden);
    let readable = before.filter(|(_, name)| name.starts_with("ga")).map(|(_, name)| name.clone());
    let readable: Vec<String> = readable.take(5).collect();
    let mut groups = server.groups.clone();
    let first_page = |more: &[&str]| v1::DescribeSecurityGroupsRequest {
        group_names: readable
            .iter()
            .cloned()
            .chain(more.iter().map(|name| (*name).to_owned()))
            .collect(),
        max_results: Some(5),
        ..Default::default()
    };
    let page = groups.describe_security_groups(first_page(&[])).await.unwrap().into_inner();
    assert_eq!(page.security_groups.len(), 5);
    let mut refusals = Vec::new();
    for last in [hidden.1.as_str(), "gone"] {
        let status = groups.describe_security_groups(first_page(&[last])).await.unwrap_err();
        refusals.push((status.code(), status.message().to_owned()));
    }
    assert_eq!(refusals[0], refusals[1]);
}

#[tokio::test]
async fn pages_stay_full_and_whole() {
    let read_odd = r#"
        permit (principal, action in Action::"read", resource is Target);
        permit (principal, action in Action::"read", resource is SecurityGroup) when { resource.name like "odd*" };
    "#;
    let mut server = served(&[ENTER, MUTATE, read_odd]).await;
    for index in 0..23 {
        let kind = if index % 2 == 1 { "odd" } else { "even" };
        server.create(&format!("{kind} {index}"), NONDEFAULT_VPC).await.unwrap();
    }
    let (mut seen, mut sizes, mut token) = (Vec::new(), Vec::new(), None);
    for _ in 0..10 {
        let request = v1::DescribeSecurityGroupsRequest {
            max_results: Some(5),
            next_token: token,
            ..Default::default()
        };
        let page = server.groups.describe_security_groups(request).await.unwrap().into_inner();
        sizes.push(page.security_groups.len());
        seen.extend(page.security_groups.into_iter().filter_map(|group| group.group_name));
        token = page.next_token;
        if token.is_none() {
            break;
        }
    }
    assert_eq!(sizes, [5, 5, 1]);
    seen.sort();
    let mut odd: Vec<String> =
        (0..23).filter(|index| index % 2 == 1).map(|index| format!("odd {index}")).collect();
    odd.sort();
    assert_eq!(seen, odd);
    // Rules, too: each of those groups has one.
    let (mut rules, mut token) = (Vec::new(), None);
    for _ in 0..10 {
        let request = v1::DescribeSecurityGroupRulesRequest {
            max_results: Some(5),
            next_token: token,
            ..Default::default()
        };
        let page = server.groups.describe_security_group_rules(request).await.unwrap().into_inner();
        assert!(page.security_group_rules.len() == 5 || page.next_token.is_none());
        rules.extend(
            page.security_group_rules.into_iter().filter_map(|rule| rule.security_group_rule_id),
        );
        token = page.next_token;
        if token.is_none() {
            break;
        }
    }
    rules.sort();
    rules.dedup();
    assert_eq!(rules.len(), 11);
    // A size that EC2 refuses is refused.
    let request = v1::DescribeSecurityGroupsRequest { max_results: Some(3), ..Default::default() };
    assert_eq!(
        server.groups.describe_security_groups(request).await.unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn explanations_show_only_what_the_caller_may_read() {
    // tcp 443 to 10.0.0.0/8 is there; 444 is asked for.
    let near = vec![support::tcp(444, "10.0.0.0/8")];
    let mut reader = served(&[ENTER, READ, MUTATE]).await;
    let status = reader.revoke(NONDEFAULT_VPC_GROUP, near.clone()).await.unwrap_err();
    let explained = support::unknown_detail(&status).unknown_explanations;
    assert!(!explained[0].nearest_rules.is_empty());
    let mut blind = served(&[ENTER, MUTATE]).await;
    let status = blind.revoke(NONDEFAULT_VPC_GROUP, near.clone()).await.unwrap_err();
    let explained = support::unknown_detail(&status).unknown_explanations;
    assert!(explained[0].nearest_rules.is_empty() && explained[0].reason == 0, "{explained:?}");
    assert!(
        !status.message().contains("443") && !explained[0].message.contains("443"),
        "{status:?}"
    );
    let revoked = blind.revoke(DEFAULT_VPC_GROUP, near).await.unwrap();
    assert!(
        revoked
            .unknown_explanations
            .iter()
            .all(|one| one.nearest_rules.is_empty() && one.reason == 0)
    );
    let revoked =
        blind.revoke(DEFAULT_VPC_GROUP, vec![support::tcp(443, "10.0.0.0/8")]).await.unwrap();
    let covered = v1::WarningKind::CoveredByWiderRule;
    assert!(revoked.warnings.iter().all(|warning| warning.kind() != covered), "{revoked:?}");

    // A rule of another group, which this caller may not read.
    let rules = reader.egress(OTHER_GROUP).await;
    let others = rules[0].security_group_rule_id.clone().unwrap();
    let status = reader.revoke_ids(NONDEFAULT_VPC_GROUP, &[&others]).await.unwrap_err();
    let reasons =
        |status: &Status| support::unknown_detail(status).unknown_explanations[0].reason();
    assert_eq!(reasons(&status), v1::UnknownReason::BelongsToAnotherGroup);
    let mut web = served(&[ENTER, MUTATE, READ_WEB]).await;
    let status = web.revoke_ids(NONDEFAULT_VPC_GROUP, &[&others]).await.unwrap_err();
    assert_ne!(reasons(&status), v1::UnknownReason::BelongsToAnotherGroup);
    assert!(!format!("{status:?}").contains(OTHER_GROUP));
}

#[tokio::test]
async fn report_only_decides_and_allows() {
    let mut server = served_as(&[], Mode::ReportOnly).await;
    let mut groups = server.groups.clone();
    for (rpc, answer) in mutate(&mut groups, DEFAULT_VPC_GROUP, true).await {
        answer.unwrap_or_else(|status| panic!("{rpc}: {status:?}"));
    }
    server.revoke(NONDEFAULT_VPC_GROUP, vec![support::tcp(443, "10.0.0.0/8")]).await.unwrap();
    assert_eq!(server.group(OTHER_GROUP).await.group_name.as_deref(), Some("db"));
    let all = groups.describe_security_groups(v1::DescribeSecurityGroupsRequest::default()).await;
    assert_eq!(all.unwrap().into_inner().security_groups.len(), 8);
}

#[tokio::test]
async fn the_sandboxs_own_service_is_decided_apart() {
    let text = [ENTER, READ, MUTATE].join("\n");
    let policies = Policies::parse(&[("test.cedar".to_owned(), text)]).unwrap();
    let mut server = support::start_with_access(Access::with(policies, Mode::Enforce)).await;
    use portcullis::api::proto::sandbox::v1::{
        ClearFaultsRequest, GetStateRequest, InjectFaultRequest, LoadStateRequest, ResetRequest,
    };
    let sandbox = &mut server.sandbox;
    is_denied(&sandbox.get_state(GetStateRequest::default()).await.unwrap_err());
    is_denied(&sandbox.load_state(LoadStateRequest::default()).await.unwrap_err());
    is_denied(&sandbox.reset(ResetRequest::default()).await.unwrap_err());
    is_denied(&sandbox.inject_fault(InjectFaultRequest::default()).await.unwrap_err());
    is_denied(&sandbox.clear_faults(ClearFaultsRequest::default()).await.unwrap_err());
}
