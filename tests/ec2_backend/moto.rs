//! Against moto's server: a whole client, a whole server, real XML. Where moto differs from EC2, the assertion says what
//! moto does and a comment what EC2 does (ec2-facts section 10).

use std::{env, path::PathBuf, process::Stdio};

use aws_sdk_ec2::Client;
use portcullis::{
    backend::{
        AuthorizeRules, Backend, CallContext, CreateGroup, DeleteGroup, DescribeGroups,
        DescribeRules, Filter, GroupImage, RevokeRules, Revoked, Selection,
        ec2::{Ec2, TargetSettings},
    },
    rule::{
        AccountId, Direction, GroupId, GroupRef, Peer, RuleId, RuleSpec, Tag, Target, Traffic,
        VpcId,
    },
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
};

use super::{
    ACCOUNT, call, id, identity::caller, list, open, refused, region, sdk, settings, spec, target,
    traffic, v4, v6,
};

struct Moto {
    url: String,
    _process: Child,
}

impl Moto {
    /// Starts it on a port of the system's choice. None: it is not installed, and need not be.
    async fn start() -> Option<Self> {
        let program = match env::var_os("PORTCULLIS_TEST_TOOLS") {
            Some(tools) => PathBuf::from(tools).join("venv/bin/moto_server"),
            None => PathBuf::new(),
        };
        let program = if program.is_file() { program } else { "moto_server".into() };
        let started = Command::new(&program)
            .args(["-H", "127.0.0.1", "-p", "0"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let mut process = match started {
            Ok(process) => process,
            Err(error) => {
                let required = env::var_os("PORTCULLIS_TEST_REQUIRE_TOOLS");
                assert!(required.is_none_or(|value| value != "1"), "no moto_server: {error}");
                eprintln!("SKIPPED: the tests against moto; {} {error}", program.display());
                return None;
            }
        };
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut said = String::new();
        let url = loop {
            let Some(line) = lines.next_line().await.unwrap() else {
                panic!("moto_server ended: {said}")
            };
            if let Some((_, url)) = line.split_once("Running on ") {
                break url.trim().to_owned();
            }
            said.push_str(&line);
        };
        // It logs every request; nobody reading would stop it.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let address = url.strip_prefix("http://").unwrap().to_owned();
        while TcpStream::connect(&address).await.is_err() {
            tokio::task::yield_now().await;
        }
        Some(Self { url, _process: process })
    }
}

/// One account as the backend serves it, and the SDK beside it for what the backend does not do.
struct Account {
    ec2: Ec2,
    client: Client,
    target: Target,
}

impl Account {
    async fn image(&self, group: &GroupRef) -> GroupImage {
        self.ec2.image(&call(), &self.target, group).await.unwrap()
    }

    async fn create(&self, name: &str, vpc: Option<&str>) -> GroupRef {
        let request = CreateGroup {
            name: name.to_owned(),
            description: "for a test".to_owned(),
            vpc_id: vpc.map(VpcId::new),
            tags: vec![Tag { key: "team".to_owned(), value: "net".to_owned() }],
            dry_run: false,
        };
        let created = self.ec2.create_group(&call(), &self.target, &request).await.unwrap();
        assert!(created.arn.unwrap().contains(":security-group/sg-"));
        // EC2 answers with the tags, too.
        assert!(created.tags.is_empty());
        id(&created.group_id.unwrap())
    }

    async fn authorize(
        &self,
        group: &GroupRef,
        direction: Direction,
        specs: Vec<RuleSpec>,
    ) -> usize {
        let request = AuthorizeRules {
            group: group.clone(),
            direction,
            specs,
            tags: vec![Tag { key: "operation".to_owned(), value: "op-1".to_owned() }],
            dry_run: false,
        };
        let added = self.ec2.authorize(&call(), &self.target, &request).await.unwrap();
        assert_eq!(added.return_value, Some(true));
        // moto names no owner; it is the account that was asked.
        assert!(added.rules.iter().all(|rule| rule.group_owner_id == self.target.account));
        added.rules.len()
    }

    async fn revoke(
        &self,
        group: &GroupRef,
        direction: Direction,
        selection: Selection,
        dry_run: bool,
    ) -> Result<Revoked, portcullis::backend::BackendError> {
        let request = RevokeRules { group: group.clone(), direction, selection, dry_run };
        self.ec2.revoke(&call(), &self.target, &request).await
    }

    /// A VPC that is not the default one, with IPv6.
    async fn other_vpc(&self) -> String {
        let vpc = self.client.create_vpc().cidr_block("10.9.0.0/16");
        let vpc = vpc.amazon_provided_ipv6_cidr_block(true).send().await.unwrap();
        vpc.vpc().unwrap().vpc_id().unwrap().to_owned()
    }
}

fn own_account() -> AccountId {
    AccountId::new(ACCOUNT)
}

fn group_id(group: &GroupRef) -> GroupId {
    match group {
        GroupRef::Id(id) => id.clone(),
        GroupRef::Name(name) => panic!("{name}"),
    }
}

fn egress(image: &GroupImage) -> Vec<(Traffic, Peer)> {
    let egress = image.rules.iter().filter(|rule| rule.direction == Direction::Egress);
    egress.map(|rule| (rule.traffic, rule.peer.clone())).collect()
}

#[tokio::test]
async fn moto_is_served_as_ec2_is() {
    let Some(moto) = Moto::start().await else { return };
    let mut settings = settings(&moto.url);
    settings.targets[0].regions.push(region("eu-west-1"));
    settings.default_region = Some(region("us-east-1"));
    settings.targets.push(TargetSettings {
        account: None,
        regions: vec![region("us-east-1")],
        role_arn: Some("arn:aws:iam::210987654321:role/portcullis".to_owned()),
        external_id: Some("external-1".to_owned()),
        session_per_principal: true,
    });
    let ec2 = open(settings).await;
    let config = sdk().await.into_builder().endpoint_url(&moto.url).build();
    let account = Account { ec2, client: Client::new(&config), target: target() };
    assert_eq!(account.ec2.resolve(Some(own_account()), None).unwrap(), account.target);

    groups_and_their_vpcs(&account).await;
    every_kind_of_peer_comes_and_goes(&account).await;
    revoking_by_ids(&account).await;
    what_moto_does_not_know(&account).await;
    names_and_lists(&account).await;
    other_accounts_and_regions(&account).await;
}

async fn groups_and_their_vpcs(account: &Account) {
    let vpc = account.other_vpc().await;
    for (name, vpc, default) in [("a", None, true), ("b", Some(vpc.as_str()), false)] {
        let group = account.create(name, vpc).await;
        let image = account.image(&group).await;
        assert_eq!(image.in_default_vpc, Some(default));
        assert_eq!((image.group.name.as_str(), &image.group.owner_id), (name, &own_account()));
        assert_eq!(image.group.tags[0].value, "net");
        let mut all = vec![(Traffic::ALL, v4("0.0.0.0/0"))];
        if !default {
            all.push((Traffic::ALL, v6("::/0")));
        }
        assert_eq!(egress(&image), all, "R43");

        let delete = DeleteGroup { group: group.clone(), dry_run: true };
        let dry = account.ec2.delete_group(&call(), &account.target, &delete).await;
        assert_eq!(refused(dry), "DryRunOperation");
        let delete = DeleteGroup { group: group.clone(), dry_run: false };
        let deleted = account.ec2.delete_group(&call(), &account.target, &delete).await.unwrap();
        // EC2 says Return=true and the id.
        assert_eq!((deleted.return_value, deleted.group_id), (None, None));
        let gone = account.ec2.image(&call(), &account.target, &group).await;
        assert_eq!(refused(gone), "InvalidGroup.NotFound");
    }
}

async fn every_kind_of_peer_comes_and_goes(account: &Account) {
    let vpc = account.other_vpc().await;
    for vpc in [None, Some(vpc.as_str())] {
        let group = account.create("peers", vpc).await;
        let before = egress(&account.image(&group).await);
        let mut peers = vec![
            v4("192.0.2.0/24"),
            Peer::group(group_id(&group), Some(own_account())),
            list("pl-0123456789abcdef0"),
        ];
        // In a VPC without IPv6 moto drops such a range in silence; EC2 refuses it or takes it.
        if vpc.is_some() {
            peers.push(v6("2001:db8::/32"));
        }
        let https = traffic("tcp", Some((443, 443)));
        let specs: Vec<RuleSpec> = peers.iter().map(|peer| spec(https, peer.clone())).collect();
        // They travel as two permissions, of which moto answers only the last. EC2 answers all.
        let answered = account.authorize(&group, Direction::Egress, specs.clone()).await;
        assert_eq!(answered, specs.len() - 1);

        let image = account.image(&group).await;
        let added: Vec<_> =
            image.rules.iter().filter(|rule| rule.traffic == https).cloned().collect();
        assert_eq!(added.len(), specs.len());
        for peer in &peers {
            let rule = added.iter().find(|rule| rule.peer.same(peer)).expect("the rule");
            assert_eq!(
                (rule.direction, rule.tags()[0].value.as_str()),
                (Direction::Egress, "op-1")
            );
            assert!(rule.id.as_str().starts_with("sgr-"));
        }

        let selection = Selection::Specs(specs.clone());
        let dry = account.revoke(&group, Direction::Egress, selection.clone(), true).await;
        assert_eq!(refused(dry), "DryRunOperation");
        let revoked =
            account.revoke(&group, Direction::Egress, selection.clone(), false).await.unwrap();
        assert_eq!(revoked.return_value, Some(true));
        // EC2 lists what it removed.
        assert!(revoked.revoked.is_empty() && revoked.unknown.is_empty());
        assert_eq!(egress(&account.image(&group).await), before);

        // In the default VPC, EC2 answers with success and UnknownIpPermissions (R34). moto refuses in both.
        let again = account.revoke(&group, Direction::Egress, selection, false).await;
        assert_eq!(refused(again), "InvalidPermission.NotFound");
    }
}

async fn revoking_by_ids(account: &Account) {
    let group = account.create("ids", None).await;
    let ports = [traffic("tcp", Some((1, 2))), traffic("udp", Some((3, 4)))];
    let specs: Vec<RuleSpec> = ports.map(|ports| spec(ports, v4("192.0.2.0/24"))).to_vec();
    account.authorize(&group, Direction::Ingress, specs.clone()).await;
    account.authorize(&group, Direction::Egress, specs).await;
    let image = account.image(&group).await;
    for direction in [Direction::Egress, Direction::Ingress] {
        let rules = image.rules.iter().filter(|rule| rule.direction == direction);
        let ids: Vec<RuleId> = rules.map(|rule| rule.id.clone()).collect();
        let wrong =
            account.revoke(&group, direction.other(), Selection::Ids(ids.clone()), false).await;
        // EC2: InvalidSecurityGroupRuleId.NotFound (R11, R38).
        assert_eq!(refused(wrong), "InvalidPermission.NotFound");
        account.revoke(&group, direction, Selection::Ids(ids), false).await.unwrap();
    }
    assert_eq!(account.image(&group).await.rules.len(), 0);
}

async fn what_moto_does_not_know(account: &Account) {
    let group = account.create("unknown", None).await;
    let good = spec(traffic("tcp", Some((5, 6))), v4("192.0.2.0/24"));
    let bad = spec(traffic("udp", Some((5, 6))), v4("192.0.2.0/24"));
    account.authorize(&group, Direction::Egress, vec![good.clone()]).await;
    let both = Selection::Specs(vec![good.clone(), bad]);
    let part = account.revoke(&group, Direction::Egress, both, false).await;
    assert_eq!(refused(part), "InvalidPermission.NotFound");
    // The refusal came after a part of the effect: moto works permission by permission. EC2 in a nondefault VPC
    // removes nothing then (R33), and in a default VPC removes what matches without refusing (R35).
    let left = egress(&account.image(&group).await);
    assert!(!left.iter().any(|(traffic, _)| *traffic == good.traffic), "{left:?}");

    // A protocol without ports goes to EC2 without ports; moto falls over it. That is a 500, so in doubt.
    let gre = Selection::Specs(vec![spec(traffic("47", None), v4("192.0.2.0/24"))]);
    let fallen = account.revoke(&group, Direction::Egress, gre, false).await;
    assert!(
        matches!(fallen, Err(portcullis::backend::BackendError::OutcomeUnknown(_))),
        "{fallen:?}"
    );
}

async fn names_and_lists(account: &Account) {
    let group = account.create("named", None).await;
    let name = GroupRef::Name("named".to_owned());
    let image = account.image(&name).await;
    assert_eq!((GroupRef::Id(image.group.id.clone()), image.in_default_vpc), (group, Some(true)));
    let https = spec(traffic("tcp", Some((443, 443))), v4("192.0.2.0/24"));
    account.authorize(&name, Direction::Ingress, vec![https.clone()]).await;
    let selection = Selection::Specs(vec![https]);
    account.revoke(&name, Direction::Ingress, selection, false).await.unwrap();

    let filter = Filter { name: "group-name".to_owned(), values: vec!["nam*".to_owned()] };
    let request = DescribeGroups { filters: vec![filter], ..DescribeGroups::default() };
    let page = account.ec2.describe_groups(&call(), &account.target, &request).await.unwrap();
    assert_eq!(page.items.len(), 1);
    assert_eq!(egress(&page.items[0]), egress(&image));

    let ports = (0..12).map(|port| spec(traffic("tcp", Some((port, port))), v4("10.0.0.0/8")));
    account.authorize(&id(image.group.id.as_str()), Direction::Egress, ports.collect()).await;
    let filter = Filter { name: "group-id".to_owned(), values: vec![image.group.id.to_string()] };
    let request =
        DescribeRules { filters: vec![filter], max_results: Some(5), ..DescribeRules::default() };
    let page = account.ec2.describe_rules(&call(), &account.target, &request).await.unwrap();
    // moto knows no pages here and gives all. Pages are tested in hostile.rs.
    assert_eq!((page.items.len(), page.next_token), (13, None));
    let unknown =
        DescribeRules { rule_ids: vec![RuleId::new("sgr-00000000")], ..DescribeRules::default() };
    let unknown = account.ec2.describe_rules(&call(), &account.target, &unknown).await;
    assert_eq!(refused(unknown), "InvalidSecurityGroupRuleId.NotFound");
}

async fn other_accounts_and_regions(account: &Account) {
    let group = account.create("here", None).await;
    let elsewhere = Target { account: own_account(), region: region("eu-west-1") };
    let there = account.ec2.image(&call(), &elsewhere, &group).await;
    assert_eq!(refused(there), "InvalidGroup.NotFound");

    // moto checks no external id. That it is sent is tested in hostile.rs.
    let other = AccountId::new("210987654321");
    let target = account.ec2.resolve(Some(other.clone()), None).unwrap();
    // Here each caller has a session of its own.
    let alice = CallContext { caller: Some(caller("alice")), ..call() };
    let there = account.ec2.image(&alice, &target, &group).await;
    assert_eq!(refused(there), "InvalidGroup.NotFound");
    let request = DescribeGroups::default();
    let page = account.ec2.describe_groups(&alice, &target, &request).await.unwrap();
    assert!(!page.items.is_empty());
    assert!(page.items.iter().all(|image| image.group.owner_id == other));
}
