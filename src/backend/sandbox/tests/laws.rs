//! Laws that hold for any sequence of calls.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::rule::{self, Peer, RuleKey};

const GROUPS: [&str; 4] = [WEB, DB, LEGACY, "sg-0000000000000000d"];

/// One call out of few enough that they meet.
#[derive(Clone, Debug)]
enum Step {
    Authorize(usize, Direction, Vec<IpPermission>),
    Revoke(usize, Direction, Vec<IpPermission>),
    RevokeNth(usize, Direction, usize),
    Create(bool, u8),
    Delete(usize),
    Modify(usize, usize, IpPermission),
    Describe(usize, Direction, Vec<IpPermission>),
    Tag(usize, usize, u8),
    CreateVpc(bool),
    DeleteVpc(usize),
    Reload,
}

fn permission() -> impl Strategy<Value = IpPermission> {
    let traffic = prop_oneof![
        (0..4i32).prop_map(|port| ("tcp", port, port + 1)),
        Just(("udp", 53, 53)),
        Just(("-1", -1, -1)),
        Just(("icmp", 8, -1)),
        Just(("47", -1, -1)),
    ];
    let peer = prop_oneof![
        (0..8u8).prop_map(|number| format!("10.{number}.0.1/16")),
        (0..4u8).prop_map(|number| format!("2001:db8:{number}::/48")),
        Just(LIST.to_owned()),
        prop::sample::select(&GROUPS[..]).prop_map(str::to_owned),
        Just("name:legacy".to_owned()),
    ];
    let description = prop_oneof![3 => Just(""), 1 => Just("+one"), 1 => Just("+two")];
    (traffic, peer, description).prop_map(|((protocol, from, to), peer, description)| {
        perm(protocol, from, to, &format!("{peer}{description}"))
    })
}

fn permissions() -> impl Strategy<Value = Vec<IpPermission>> {
    prop::collection::vec(permission(), 1..6)
        .prop_filter("the same rule twice", |list| expand("", list).is_ok())
}

fn direction() -> impl Strategy<Value = Direction> {
    prop_oneof![Just(Direction::Egress), Just(Direction::Ingress)]
}

fn step() -> impl Strategy<Value = Step> {
    let group = 0..GROUPS.len();
    prop_oneof![
        4 => (group.clone(), direction(), permissions()).prop_map(|(g, d, p)| Step::Authorize(g, d, p)),
        3 => (group.clone(), direction(), permissions()).prop_map(|(g, d, p)| Step::Revoke(g, d, p)),
        2 => (group.clone(), direction(), 0..9usize).prop_map(|(g, d, n)| Step::RevokeNth(g, d, n)),
        1 => (any::<bool>(), 0..3u8).prop_map(|(v, n)| Step::Create(v, n)),
        1 => group.clone().prop_map(Step::Delete),
        3 => (group.clone(), 0..9usize, permission()).prop_map(|(g, n, p)| Step::Modify(g, n, p)),
        2 => (group.clone(), direction(), permissions()).prop_map(|(g, d, p)| Step::Describe(g, d, p)),
        1 => (group, 0..9usize, 0..3u8).prop_map(|(g, n, t)| Step::Tag(g, n, t)),
        1 => any::<bool>().prop_map(Step::CreateVpc),
        1 => (0..4usize).prop_map(Step::DeleteVpc),
        1 => Just(Step::Reload),
    ]
}

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(test)
}

async fn everything(bench: &Bench) -> Vec<GroupImage> {
    bench.groups(DescribeGroups::default()).await.unwrap().items
}

async fn rules_of(bench: &Bench, id: &str) -> Vec<Rule> {
    bench.image(id).await.unwrap().rules.to_vec()
}

/// Ids are unique, identities are unique within a direction, no limit is passed, peers are canonical.
async fn check_invariants(bench: &Bench) {
    let mut ids = HashSet::new();
    for image in everything(bench).await {
        let mut keys: HashSet<(Direction, RuleKey)> = HashSet::new();
        for rule in image.rules.iter() {
            assert!(ids.insert(rule.id.clone()), "{} twice", rule.id);
            assert!(keys.insert((rule.direction, rule.key())), "{rule:?} twice");
            assert!(!rule.peer.has_host_bits());
        }
        for direction in [Direction::Egress, Direction::Ingress] {
            let of_direction = image.rules.iter().filter(|rule| rule.direction == direction);
            let ipv4 = of_direction.filter(|rule| !matches!(rule.peer, Peer::Ipv6(_)));
            assert!(ipv4.count() <= 60);
        }
        // The index knows exactly these rules.
        let rule_ids = image.rules.iter().map(|rule| rule.id.clone()).take(3).collect::<Vec<_>>();
        let count = rule_ids.len();
        let request = DescribeRules { rule_ids, ..DescribeRules::default() };
        if count > 0 {
            assert_eq!(bench.rules(request).await.unwrap().items.len(), count);
        }
    }
}

async fn take(bench: &Bench, step: Step) {
    match step {
        Step::Authorize(group, direction, permissions) => {
            let before = rules_of(bench, GROUPS[group]).await;
            let result = bench.authorize(GROUPS[group], direction, specs(&permissions)).await;
            let after = rules_of(bench, GROUPS[group]).await;
            match result {
                Ok(added) => {
                    assert_eq!(added.rules.len(), permissions.len());
                    assert_eq!(after.len(), before.len() + permissions.len());
                    assert_eq!(after[..before.len()], before);
                }
                Err(_) => assert_eq!(after, before),
            }
        }
        Step::Revoke(group, direction, permissions) => {
            let before = bench.image(GROUPS[group]).await.unwrap();
            let result = bench.revoke(GROUPS[group], direction, by_specs(&permissions)).await;
            let after = rules_of(bench, GROUPS[group]).await;
            match result {
                Ok(revoked) => {
                    let unknown = specs(&revoked.unknown).len();
                    assert_eq!(unknown + revoked.revoked.len(), permissions.len());
                    assert_eq!(after.len(), before.rules.len() - revoked.revoked.len());
                    assert!(unknown == 0 || before.in_default_vpc == Some(true));
                }
                Err(_) => assert_eq!(after, *before.rules),
            }
        }
        Step::RevokeNth(group, direction, nth) => {
            let ids = bench.ids(GROUPS[group], direction).await;
            if let Some(id) = ids.get(nth) {
                bench.revoke(GROUPS[group], direction, by_ids(&[id])).await.unwrap();
                let again = bench.revoke(GROUPS[group], direction, by_ids(&[id])).await;
                assert_eq!(code(again), "InvalidSecurityGroupRuleId.NotFound");
            }
        }
        Step::Create(default_vpc, number) => {
            let vpc = (!default_vpc).then_some("vpc-0000000000000000a");
            drop(bench.create(&format!("new-{number}"), vpc).await);
        }
        Step::Delete(nth) => {
            let groups = everything(bench).await;
            let created: Vec<&GroupImage> =
                groups.iter().filter(|image| image.group.name.starts_with("new-")).collect();
            if let Some(image) = created.get(nth) {
                bench.delete(GroupRef::Id(image.group.id.clone())).await.unwrap();
            }
        }
        Step::Modify(group, nth, permission) => {
            let before = rules_of(bench, GROUPS[group]).await;
            let Some(rule) = before.get(nth) else { return };
            let change = becomes(rule.id.as_str(), permission);
            let result = bench.modify(GROUPS[group], std::slice::from_ref(&change)).await;
            let mut after = rules_of(bench, GROUPS[group]).await;
            if result.is_ok() {
                let new = &after[nth];
                let known = RuleSpec { description: None, ..change.spec.clone() };
                let named = matches!(&known.peer, Peer::Group(peer) if peer.group_id.is_none());
                assert!(named || rule::matching::same_rule(&known, new), "{change:?} {new:?}");
                assert_eq!(new.description.as_deref(), change.spec.description.as_deref());
                assert_eq!(
                    (&new.id, new.direction, &new.tags),
                    (&rule.id, rule.direction, &rule.tags)
                );
                let kind = |rule: &Rule| std::mem::discriminant(&rule.peer);
                assert_eq!(kind(new), kind(rule));
                after[nth] = rule.clone();
            }
            assert_eq!(after, before);
        }
        Step::Describe(group, direction, permissions) => {
            let before = rules_of(bench, GROUPS[group]).await;
            let updates = DescriptionUpdates::Specs(specs(&permissions));
            let result = bench.update(GROUPS[group], direction, updates).await;
            let after = rules_of(bench, GROUPS[group]).await;
            let bare = |rules: &[Rule]| -> Vec<Rule> {
                rules.iter().map(|rule| Rule { description: None, ..rule.clone() }).collect()
            };
            assert_eq!(bare(&after), bare(&before));
            assert!(result.is_ok() || after == before);
        }
        Step::Tag(group, nth, number) => {
            let before = rules_of(bench, GROUPS[group]).await;
            let rule = before.get(nth).map(|rule| rule.id.to_string());
            let resources = [Some(GROUPS[group].to_owned()), rule].into_iter().flatten().collect();
            let tags = vec![tag(&format!("t{number}"), "x")];
            let request = CreateTags { resources, tags, dry_run: false };
            bench.sandbox.create_tags(&call(), &bench.target, &request).await.unwrap();
            let after = rules_of(bench, GROUPS[group]).await;
            let bare = |rules: &[Rule]| -> Vec<Rule> {
                rules.iter().map(|rule| Rule { tags: None, ..rule.clone() }).collect()
            };
            assert_eq!(bare(&after), bare(&before));
        }
        Step::CreateVpc(ipv6) => {
            let cidr_block = "10.0.0.0/16".to_owned();
            let request = CreateVpc { cidr_block, ipv6, ..CreateVpc::default() };
            let vpc = bench.sandbox.create_vpc(&call(), &bench.target, &request).await.unwrap();
            drop(bench.create("new-0", Some(vpc.id.as_str())).await);
        }
        Step::DeleteVpc(nth) => {
            let request = DescribeVpcs::default();
            let vpcs = bench.sandbox.describe_vpcs(&call(), &bench.target, &request).await.unwrap();
            if let Some(vpc) = vpcs.items.get(nth) {
                let vpc_id = vpc.id.clone();
                let before = everything(bench).await;
                let request = DeleteVpc { vpc_id: vpc_id.clone(), dry_run: false };
                let result = bench.sandbox.delete_vpc(&call(), &bench.target, &request).await;
                let inside =
                    before.iter().filter(|image| image.group.vpc_id.as_ref() == Some(&vpc_id));
                assert_eq!(result.is_ok(), inside.count() == 1);
                let gone = usize::from(result.is_ok());
                assert_eq!(everything(bench).await.len(), before.len() - gone);
            }
        }
        Step::Reload => {
            let state = bench.sandbox.get_state(false).state.unwrap();
            assert_eq!(bench.sandbox.load_state(state.clone(), true).unwrap(), [""; 0]);
            assert_eq!(bench.sandbox.get_state(false).state.unwrap(), state);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_calls_keep_the_invariants(steps in prop::collection::vec(step(), 1..25)) {
        run(async {
            let bench = sample();
            for step in steps {
                take(&bench, step).await;
            }
            check_invariants(&bench).await;
            let state = bench.sandbox.get_state(false).state.unwrap();
            let text = serde_json::to_vec(&state).unwrap();
            let parsed = Sandbox::parse_state(&text).unwrap();
            bench.sandbox.load_state(parsed, true).unwrap();
            assert_eq!(bench.sandbox.get_state(false).state.unwrap(), state);
        });
    }

    #[test]
    fn r33_a_revoke_in_a_nondefault_vpc_is_all_or_nothing(asked in permissions()) {
        run(async {
            let bench = sample();
            let added = bench.authorize_egress(CACHE, &asked[..1]).await;
            let before = rules_of(&bench, CACHE).await;
            match bench.revoke_egress(CACHE, by_specs(&asked)).await {
                Ok(revoked) => {
                    assert!(added.is_ok());
                    assert_eq!(revoked.revoked.len(), asked.len());
                }
                Err(_) => assert_eq!(rules_of(&bench, CACHE).await, before),
            }
        });
    }

    #[test]
    fn modifying_rules_to_what_they_are_changes_nothing(asked in permissions(), group in 0..GROUPS.len()) {
        run(async {
            let bench = sample();
            drop(bench.authorize_egress(GROUPS[group], &asked).await);
            let before = bench.sandbox.get_state(true);
            let rules = rules_of(&bench, GROUPS[group]).await;
            let same: Vec<RuleChange> =
                rules.iter().map(|rule| RuleChange { id: rule.id.clone(), spec: rule.spec() }).collect();
            bench.modify(GROUPS[group], &same).await.unwrap();
            let after = bench.sandbox.get_state(true);
            assert_eq!((after.state, after.effects), (before.state, before.effects));
        });
    }

    #[test]
    fn r15_what_is_described_is_still_the_same_rule(asked in permissions(), group in 0..GROUPS.len()) {
        run(async {
            let bench = sample();
            if bench.authorize_egress(GROUPS[group], &asked).await.is_err() {
                return;
            }
            let again = specs(&asked).into_iter().map(|spec| RuleSpec { description: Some("new".to_owned()), ..spec });
            let updates = DescriptionUpdates::Specs(again.clone().collect());
            bench.update(GROUPS[group], Direction::Egress, updates).await.unwrap();
            let refused = bench.authorize(GROUPS[group], Direction::Egress, specs(&asked)).await;
            assert_eq!(code(refused), "InvalidPermission.Duplicate");
            // R13: by the new description it is revoked.
            let revoked = bench.revoke_egress(GROUPS[group], Selection::Specs(again.collect())).await.unwrap();
            assert_eq!((revoked.unknown.len(), revoked.revoked.len()), (0, asked.len()));
        });
    }

    #[test]
    fn authorizing_and_revoking_by_id_changes_nothing(asked in permissions(), which in direction()) {
        run(async {
            let bench = sample();
            let before = bench.sandbox.get_state(false).state;
            if let Ok(added) = bench.authorize(LEGACY, which, specs(&asked)).await {
                let ids = added.rules.into_iter().map(|owned| owned.rule.id).collect();
                bench.revoke(LEGACY, which, Selection::Ids(ids)).await.unwrap();
            }
            assert_eq!(bench.sandbox.get_state(false).state, before);
        });
    }

    #[test]
    fn r25_revoking_what_is_described_empties_the_group(asked in permissions(), group in 0..GROUPS.len()) {
        run(async {
            let bench = sample();
            drop(bench.authorize_egress(GROUPS[group], &asked).await);
            let rules = rules_of(&bench, GROUPS[group]).await;
            let egress: Vec<RuleSpec> =
                rules.iter().filter(|rule| rule.direction == Direction::Egress).map(Rule::spec).collect();
            let described = crate::rule::group(&egress);
            let revoked = bench.revoke_egress(GROUPS[group], by_specs(&described)).await.unwrap();
            assert_eq!(revoked.unknown, []);
            assert!(bench.ids(GROUPS[group], Direction::Egress).await.is_empty());
            // Authorizing it again restores it but for the ids.
            bench.authorize_egress(GROUPS[group], &described).await.unwrap();
            let again = rules_of(&bench, GROUPS[group]).await;
            let keys = |rules: &[Rule]| rules.iter().map(|rule| (rule.direction, rule.key(), rule.description.clone())).collect::<HashSet<_>>();
            assert_eq!(keys(&again), keys(&rules));
        });
    }
}
