//! Opening: credentials, accounts, Regions, and settings that cannot be right.

use std::time::Duration;

use portcullis::{
    backend::{
        Backend, BackendError, DescribeRules, RevokeRules, Selection,
        ec2::{Ec2, Ec2Settings, TargetSettings},
    },
    rule::{AccountId, Direction, RuleId, Target},
};

use super::{
    call, id, open, refused, region,
    script::{Endpoint, Reply, assumed_role, caller_identity, error},
    sdk, settings, target, target_settings, within,
};

const REVOKE: &str = "RevokeSecurityGroupEgress";

fn revoke_request() -> RevokeRules {
    RevokeRules {
        group: id("sg-1"),
        direction: Direction::Egress,
        selection: Selection::Ids(vec![RuleId::new("sgr-1")]),
        dry_run: false,
    }
}

fn role() -> TargetSettings {
    TargetSettings {
        account: None,
        regions: vec![region("us-east-1"), region("eu-west-1")],
        role_arn: Some("arn:aws:iam::210987654321:role/portcullis".to_owned()),
        external_id: Some("external-1".to_owned()),
        session_per_principal: false,
    }
}

#[tokio::test]
async fn a_role_is_assumed_once_for_its_regions_and_its_refusal_is_ours() {
    let assumed = assumed_role("arn:aws:sts::210987654321:assumed-role/portcullis/portcullis");
    let answered = || error(400, "InvalidFilter", "");
    let endpoint = Endpoint::serve(&[
        ("AssumeRole", &[assumed]),
        ("GetCallerIdentity", &[caller_identity("210987654321")]),
        ("DescribeSecurityGroupRules", &[answered(), answered()]),
    ])
    .await;
    let ec2 = open_role(&endpoint).await;
    for name in ["us-east-1", "eu-west-1"] {
        let target = ec2.resolve(None, Some(region(name))).unwrap();
        assert_eq!(target.account, AccountId::new("210987654321"));
        let read = ec2.describe_rules(&call(), &target, &DescribeRules::default()).await;
        assert_eq!(refused(read), "InvalidFilter");
    }
    for request in endpoint.received("AssumeRole") {
        assert_eq!(request.form["ExternalId"], "external-1");
        assert_eq!(request.form["RoleSessionName"], "portcullis");
    }
    let reads = endpoint.received("DescribeSecurityGroupRules");
    assert!(reads.iter().all(|read| read.head.contains("Credential=ASIAASSUMED/")));
    assert!(reads[1].head.contains("/eu-west-1/ec2/"));
    assert_eq!(endpoint.received("AssumeRole").len(), 1);

    // Not allowed to assume it: the service starts, and this account's calls say why not.
    let denied = error(403, "AccessDenied", "no");
    let endpoint = Endpoint::serve(&[("AssumeRole", &vec![denied; 20])]).await;
    let ec2 = open_role(&endpoint).await;
    let target = ec2.resolve(None, Some(region("us-east-1"))).unwrap();
    let revoked = ec2.revoke(&call(), &target, &revoke_request()).await;
    assert!(matches!(revoked, Err(BackendError::CredentialsUnavailable(_))), "{revoked:?}");
    assert_eq!(endpoint.received(REVOKE).len(), 0);

    // STS says nothing: in time, that is the same.
    let replies = [error(403, "AccessDenied", ""), Reply::Hang];
    let endpoint = Endpoint::serve(&[("AssumeRole", &replies)]).await;
    let ec2 = open_role(&endpoint).await;
    let revoked = ec2.revoke(&within(Duration::from_millis(300)), &target, &revoke_request()).await;
    assert!(matches!(revoked, Err(BackendError::CredentialsUnavailable(_))), "{revoked:?}");
}

async fn open_role(endpoint: &Endpoint) -> Ec2 {
    let mut settings = settings(&endpoint.url);
    settings.targets = vec![role()];
    open(settings).await
}

#[tokio::test]
async fn settings_that_cannot_be_right_are_refused_at_once() {
    let endpoint = Endpoint::serve(&[]).await;
    let opened = |change: fn(&mut Ec2Settings)| {
        let mut settings = settings(&endpoint.url);
        change(&mut settings);
        async move {
            match Ec2::open_with(settings, sdk().await).await {
                Ok(ec2) => format!("{ec2:?}"),
                Err(wrong) => wrong,
            }
        }
    };
    assert!(opened(|_| {}).await.contains("123456789012/us-east-1"));
    // Without any target the credentials' own account is served, in one Region.
    assert!(opened(|s| s.targets.clear()).await.contains("123456789012/us-east-1"));
    let elsewhere = |s: &mut Ec2Settings| {
        s.targets.clear();
        s.default_region = Some(region("eu-west-1"));
    };
    assert!(opened(elsewhere).await.contains("123456789012/eu-west-1"));
    assert!(opened(|s| s.targets[0].regions.clear()).await.contains("no Region"));
    assert!(opened(|s| s.targets.push(target_settings())).await.contains("twice"));
    assert!(
        opened(|s| s.endpoint_url = Some("http://a:b@c".to_owned())).await.contains("endpoint")
    );
    let other = |s: &mut Ec2Settings| {
        s.targets[0].account = Some(AccountId::new("999999999999"));
    };
    assert!(opened(other).await.contains("are of account 123456789012, not 999999999999"));
    assert!(opened(|s| s.default_region = Some(region("eu-west-1"))).await.contains("eu-west-1"));
    assert!(
        opened(|s| s.targets[0].external_id = Some("x".to_owned())).await.contains("external id")
    );
    let wrong_role = |s: &mut Ec2Settings| {
        s.targets[0].role_arn = role().role_arn;
    };
    assert!(opened(wrong_role).await.contains("its role is of account 210987654321"));
    let shown = format!("{:?}", role());
    assert!(!shown.contains("external-1"), "{shown}");
}

#[tokio::test]
async fn targets_are_resolved_by_defaults_and_by_what_is_the_only_one() {
    let endpoint = Endpoint::serve(&[]).await;
    let mut settings = settings(&endpoint.url);
    settings.targets[0].account = None;
    let ec2 = open(settings.clone()).await;
    assert_eq!(ec2.resolve(None, None).unwrap(), target());
    assert_eq!(ec2.identity(), format!("ec2/{}", endpoint.url));
    assert_eq!(ec2.read_lag(), Duration::ZERO);
    settings.targets[0].regions.push(region("eu-west-1"));
    let ec2 = open(settings.clone()).await;
    match ec2.resolve(None, None) {
        Err(BackendError::TargetNotConfigured { .. }) => {}
        other => panic!("{other:?}"),
    }
    settings.default_region = Some(region("eu-west-1"));
    let ec2 = open(settings).await;
    assert_eq!(ec2.resolve(None, None).unwrap().region, region("eu-west-1"));
    let elsewhere = Target { account: target().account, region: region("us-west-2") };
    for asked in [
        ec2.resolve(None, Some(region("us-west-2"))),
        ec2.resolve(Some(AccountId::new("999999999999")), None),
        ec2.image(&call(), &elsewhere, &id("sg-1")).await.map(|_| elsewhere.clone()),
    ] {
        assert!(matches!(asked, Err(BackendError::TargetNotConfigured { .. })), "{asked:?}");
    }
}
