//! In whose name calls go out: a session for each caller, seen on the wire and in the sandbox that stands for EC2.

use std::{collections::HashSet, sync::Arc, time::Duration};

use portcullis::{
    backend::{
        AuthorizeRules, Backend, BackendError, CallContext, DescribeRules,
        ec2::{Ec2, TargetSettings},
    },
    principal::{Method, Principal},
    rule::{AccountId, Direction, Target},
};
use sha2::{Digest, Sha256};
use tokio::time;

use super::{
    call,
    door::{self, ELSEWHERE, NETWORK},
    id, open, refused, region,
    script::{self, Endpoint, Received, Reply, caller_identity, error, sts_error},
    sdk, settings, spec, traffic, v4, within,
};

const READ: &str = "DescribeSecurityGroupRules";
const ASSUME: &str = "AssumeRole";
const ROLE: &str = "arn:aws:iam::210987654321:role/portcullis";

pub fn caller(subject: &str) -> Arc<Principal> {
    Arc::new(Principal {
        method: Method::Jwt,
        issuer: "https://issuer.example".to_owned(),
        subject: subject.to_owned(),
        groups: Vec::new(),
    })
}

fn call_of(caller: &Arc<Principal>) -> CallContext {
    CallContext { caller: Some(caller.clone()), ..call() }
}

/// What `printf %s ID | sha256sum | cut -c1-32` prints.
pub fn session_name(caller: &Principal) -> String {
    let digest = Sha256::digest(caller.id());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("portcullis-{}", hex.get(..32).unwrap())
}

fn target() -> Target {
    Target { account: AccountId::new("210987654321"), region: region("eu-west-1") }
}

fn role() -> TargetSettings {
    TargetSettings {
        account: None,
        regions: vec![region("eu-west-1")],
        role_arn: Some(ROLE.to_owned()),
        external_id: Some("external-1".to_owned()),
        session_per_principal: true,
    }
}

async fn open_role(url: &str) -> Ec2 {
    let mut settings = settings(url);
    settings.targets = vec![role()];
    open(settings).await
}

/// An endpoint that gives these sessions, the first of them to the service itself.
async fn endpoint(sessions: &[Reply]) -> Endpoint {
    let reads = vec![script::answer(READ, ""); 100];
    let identity = [caller_identity("210987654321")];
    Endpoint::serve(&[(ASSUME, sessions), ("GetCallerIdentity", &identity), (READ, &reads)]).await
}

fn session(key: &str) -> Reply {
    let Reply::Answer(status, body) = script::assumed_role("arn:aws:sts::210987654321:x/y/z")
    else {
        panic!("it answers")
    };
    Reply::Answer(status, body.replace("ASIAASSUMED", key))
}

async fn read(ec2: &Ec2, call: &CallContext) -> Result<(), BackendError> {
    ec2.describe_rules(call, &target(), &DescribeRules::default()).await.map(drop)
}

fn key_of(request: &Received) -> String {
    let (_, rest) = request.head.split_once("Credential=").unwrap();
    rest.split('/').next().unwrap().to_owned()
}

fn keys(endpoint: &Endpoint) -> Vec<String> {
    endpoint.received(READ).iter().map(key_of).collect()
}

/// Lets time pass, and no more than that.
async fn pass(seconds: u64) {
    time::pause();
    time::advance(Duration::from_secs(seconds)).await;
    time::resume();
}

async fn until(condition: impl Fn() -> bool) {
    let all = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    time::timeout(Duration::from_secs(20), all).await.expect("it never came to be");
}

fn credentials_unavailable(result: Result<(), BackendError>) -> String {
    match result {
        Err(BackendError::CredentialsUnavailable(failure)) => failure.detail,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_session_names_its_caller_and_signs_its_calls() {
    let sessions = ["SERVICE", "ALICE", "BOB"].map(session);
    let endpoint = endpoint(&sessions).await;
    let ec2 = open_role(&endpoint.url).await;
    let alice =
        Arc::new(Principal { subject: "alice b*".to_owned(), ..caller("").as_ref().clone() });
    let bob = Arc::new(Principal {
        method: Method::Token,
        issuer: String::new(),
        subject: "b".repeat(300),
        groups: vec!["admins".to_owned()],
    });
    for call in [call_of(&alice), call_of(&bob), call(), call_of(&alice)] {
        read(&ec2, &call).await.unwrap();
    }
    assert_eq!(keys(&endpoint), ["ALICE", "BOB", "SERVICE", "ALICE"]);

    let [service, of_alice, of_bob] = &endpoint.received(ASSUME)[..] else { panic!("not three") };
    assert_eq!(service.form["RoleSessionName"], "portcullis");
    assert!(!service.form.keys().any(|key| key.starts_with("Tags") || key == "SourceIdentity"));
    let name = session_name(&alice);
    assert_eq!(of_alice.form["RoleSessionName"], name);
    assert_eq!(of_alice.form["SourceIdentity"], name);
    assert_eq!(of_alice.form["RoleArn"], ROLE);
    assert_eq!(of_alice.form["ExternalId"], "external-1");
    // The process's own credentials ask: the role's own session would be a role further away.
    assert_eq!(key_of(of_alice), "AKIAEXAMPLE");
    assert_eq!(
        tags(of_alice),
        [
            ("portcullis:method", "jwt"),
            ("portcullis:issuer", "https://issuer.example"),
            ("portcullis:subject", "alice=20b=2A"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
    );
    let digest = Sha256::digest("b".repeat(300));
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let subject = ("portcullis:subject".to_owned(), format!("=sha256/{hex}"));
    assert_eq!(tags(of_bob), [("portcullis:method".to_owned(), "token".to_owned()), subject]);
    for request in [of_alice, of_bob] {
        assert!(!request.form.keys().any(|key| key.starts_with("TransitiveTagKeys")));
        assert!(!request.form.contains_key("DurationSeconds"));
    }
    for request in endpoint.received(READ) {
        assert!(request.head.contains("lib/operation/operation-1"), "{}", request.head);
    }
    let shown = format!("{ec2:?}");
    assert!(!shown.contains("ALICE") && !shown.contains("not-a-secret"), "{shown}");
}

fn tags(request: &Received) -> Vec<(String, String)> {
    let tag = |number| {
        let key = request.form.get(&format!("Tags.member.{number}.Key"))?.clone();
        Some((key, request.form[&format!("Tags.member.{number}.Value")].clone()))
    };
    (1..).map_while(tag).collect()
}

#[tokio::test]
async fn what_a_caller_that_went_away_asked_for_is_not_lost() {
    let endpoint = endpoint(&["SERVICE", "ALICE", "WRONG", "WRONG"].map(session)).await;
    let ec2 = open_role(&endpoint.url).await;
    let alice = call_of(&caller("alice"));
    tokio::select! {
        biased;
        () = until(|| endpoint.received(ASSUME).len() == 2) => {}
        _ = read(&ec2, &alice) => panic!("it was asked for in time"),
    }
    read(&ec2, &alice).await.unwrap();
    assert_eq!((keys(&endpoint), endpoint.received(ASSUME).len()), (vec!["ALICE".to_owned()], 2));
}

#[tokio::test]
async fn calls_at_the_same_time_ask_once() {
    let endpoint = endpoint(&["SERVICE", "ALICE", "WRONG", "WRONG"].map(session)).await;
    let ec2 = Arc::new(open_role(&endpoint.url).await);
    let alice = call_of(&caller("alice"));
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..30 {
        let (ec2, alice) = (ec2.clone(), alice.clone());
        calls.spawn(async move { read(&ec2, &alice).await });
    }
    calls.join_all().await.into_iter().for_each(|read| read.unwrap());
    assert_eq!(keys(&endpoint), vec!["ALICE"; 30]);
    assert_eq!(endpoint.received(ASSUME).len(), 2);
}

#[tokio::test]
async fn without_a_session_nothing_is_sent_and_others_are_not_concerned() {
    let no = sts_error(403, "AccessDenied", "is not authorized to perform: sts:TagSession");
    let script = [session("SERVICE"), no, session("BOB"), session("ALICE")];
    let endpoint = endpoint(&script).await;
    let ec2 = open_role(&endpoint.url).await;
    let (alice, bob) = (call_of(&caller("alice")), call_of(&caller("bob")));
    for _ in 0..3 {
        let detail = credentials_unavailable(read(&ec2, &alice).await);
        let name = session_name(alice.caller.as_ref().unwrap());
        for part in ["AccessDenied", "sts:TagSession", &name] {
            assert!(detail.contains(part), "{detail}");
        }
    }
    // Her failure is kept for a moment, and is nobody else's.
    assert_eq!((keys(&endpoint).len(), endpoint.received(ASSUME).len()), (0, 2));
    read(&ec2, &bob).await.unwrap();
    read(&ec2, &call()).await.unwrap();
    assert_eq!(keys(&endpoint), ["BOB", "SERVICE"]);
    pass(1).await;
    read(&ec2, &alice).await.unwrap();
    assert_eq!(keys(&endpoint), ["BOB", "SERVICE", "ALICE"]);
}

#[tokio::test]
async fn sts_that_says_nothing_costs_no_more_than_the_deadline() {
    let endpoint = endpoint(&[session("SERVICE"), Reply::Hang]).await;
    let ec2 = open_role(&endpoint.url).await;
    let hasty = within(Duration::from_millis(300));
    let hasty = CallContext { caller: Some(caller("alice")), ..hasty };
    credentials_unavailable(read(&ec2, &hasty).await);
    assert_eq!(endpoint.received(READ).len(), 0);
    read(&ec2, &call()).await.unwrap();
}

#[tokio::test]
async fn a_session_is_renewed_before_it_ends() {
    let no = sts_error(403, "AccessDenied", "not now");
    let script = [session("SERVICE"), session("FIRST"), no.clone(), session("SECOND"), no];
    let endpoint = endpoint(&script).await;
    let ec2 = open_role(&endpoint.url).await;
    let alice = call_of(&caller("alice"));
    let alice_at = || CallContext { caller: alice.caller.clone(), ..call() };
    let asked = || endpoint.received(ASSUME).len();
    read(&ec2, &alice_at()).await.unwrap();
    pass(54 * 60).await;
    read(&ec2, &alice_at()).await.unwrap();
    assert_eq!(asked(), 2, "it is good for a while");
    pass(2 * 60).await;
    // STS does not give another: the one that there is will do, and STS is left alone for a while.
    read(&ec2, &alice_at()).await.unwrap();
    until(|| asked() == 3).await;
    for _ in 0..5 {
        read(&ec2, &alice_at()).await.unwrap();
    }
    assert_eq!(asked(), 3);
    pass(20).await;
    read(&ec2, &alice_at()).await.unwrap();
    until(|| asked() == 4).await;
    let renewed = async {
        while keys(&endpoint).last().unwrap() != "SECOND" {
            read(&ec2, &alice_at()).await.unwrap();
        }
    };
    time::timeout(Duration::from_secs(20), renewed).await.unwrap();
    // Nobody called for long. The one that ended is not used, come what may.
    pass(2 * 3600).await;
    let before = keys(&endpoint).len();
    credentials_unavailable(read(&ec2, &alice_at()).await);
    assert_eq!(keys(&endpoint).len(), before);
}

#[tokio::test]
async fn a_session_that_ec2_does_not_take_is_asked_for_anew() {
    let expired = || error(400, "ExpiredToken", "The provided token has expired.");
    let read_replies =
        [script::answer(READ, ""), expired(), script::answer(READ, ""), expired(), expired()];
    let sessions = ["SERVICE", "FIRST", "SECOND"].map(session);
    let identity = [caller_identity("210987654321")];
    let endpoint = Endpoint::serve(&[
        (ASSUME, &sessions),
        ("GetCallerIdentity", &identity),
        (READ, &read_replies),
    ])
    .await;
    let ec2 = open_role(&endpoint.url).await;
    let alice = caller("alice");
    read(&ec2, &call_of(&alice)).await.unwrap();
    pass(60).await;
    assert_eq!(refused(read(&ec2, &call_of(&alice)).await), "ExpiredToken");
    read(&ec2, &call_of(&alice)).await.unwrap();
    // One that is new and not taken either would be no better for asking again.
    for _ in 0..2 {
        assert_eq!(refused(read(&ec2, &call_of(&alice)).await), "ExpiredToken");
    }
    assert_eq!(keys(&endpoint), ["FIRST", "FIRST", "SECOND", "SECOND", "SECOND"]);
}

#[tokio::test]
async fn what_is_shared_is_asked_for_in_nobody_s_name() {
    let (world, ec2) = door::open(vec![role()]).await;
    let alice = call_of(&caller("alice"));
    let image = ec2.image(&alice, &target(), &id(ELSEWHERE)).await.unwrap();
    assert!(image.in_default_vpc.is_some());
    drop(world);

    // On the wire: the VPC is asked for with the service's session, all else with hers.
    let group = "<securityGroupInfo><item><ownerId>210987654321</ownerId><groupId>sg-1</groupId>\
                 <groupName>web</groupName><groupDescription>w</groupDescription>\
                 <vpcId>vpc-1</vpcId></item></securityGroupInfo>";
    let vpc = "<vpcSet><item><vpcId>vpc-1</vpcId><isDefault>true</isDefault></item></vpcSet>";
    let sessions = ["SERVICE", "ALICE"].map(session);
    let endpoint = Endpoint::serve(&[
        (ASSUME, &sessions),
        ("GetCallerIdentity", &[caller_identity("210987654321")]),
        ("DescribeSecurityGroups", &[script::answer("DescribeSecurityGroups", group)]),
        (READ, &[script::answer(READ, "")]),
        ("DescribeVpcs", &[script::answer("DescribeVpcs", vpc)]),
    ])
    .await;
    let ec2 = open_role(&endpoint.url).await;
    ec2.image(&alice, &target(), &id("sg-1")).await.unwrap();
    let key = |action| key_of(&endpoint.received(action)[0]);
    assert_eq!(
        [key("DescribeSecurityGroups"), key(READ), key("DescribeVpcs")],
        ["ALICE", "ALICE", "SERVICE"]
    );
}

/// Many callers at once, over several threads, with the sandbox for EC2: its log says which session had each effect.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_caller_s_call_goes_out_with_another_s_session() {
    const CALLERS: u16 = 25;
    const CALLS: u16 = 2;
    let (world, ec2) = door::open(vec![role()]).await;
    let ec2 = Arc::new(ec2);
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..CALLERS * CALLS {
        let ec2 = ec2.clone();
        calls.spawn(async move {
            let who = number % CALLERS;
            // One of them is nobody.
            let caller = (who > 0).then(|| caller(&format!("caller-{who}")));
            let port = i32::from(number) + 1000;
            let request = AuthorizeRules {
                group: id(ELSEWHERE),
                direction: Direction::Ingress,
                specs: vec![spec(traffic("tcp", Some((port, port))), v4(NETWORK))],
                tags: Vec::new(),
                dry_run: false,
            };
            let call = CallContext { caller, operation_id: format!("op-{who}"), ..call() };
            ec2.authorize(&call, &target(), &request).await.unwrap();
        });
    }
    calls.join_all().await;
    let effects = world.effects();
    assert_eq!(effects.len(), usize::from(CALLERS * CALLS));
    let mut seen = HashSet::new();
    for effect in effects {
        let session = effect.session.unwrap();
        let (name, source) = match effect.operation_id.strip_prefix("op-").unwrap() {
            "0" => ("portcullis".to_owned(), None),
            who => {
                let name = session_name(&caller(&format!("caller-{who}")));
                (name.clone(), Some(name))
            }
        };
        assert_eq!(
            session.arn,
            format!("arn:aws:sts::210987654321:assumed-role/portcullis/{name}")
        );
        assert_eq!(session.source_identity, source);
        seen.insert(session.arn);
    }
    assert_eq!(seen.len(), usize::from(CALLERS));
}

#[tokio::test]
async fn sessions_need_a_role_and_the_role_s_account_is_checked() {
    let endpoint = endpoint(&[session("SERVICE")]).await;
    let mut wrong = settings(&endpoint.url);
    wrong.targets[0].session_per_principal = true;
    let opened = Ec2::open_with(wrong, sdk().await).await.map(drop);
    assert!(opened.unwrap_err().contains("without a role"));

    // A role whose session turns out to be of another account than its name says.
    let identity = [caller_identity("999999999999")];
    let sessions = [session("SERVICE")];
    let endpoint = Endpoint::serve(&[(ASSUME, &sessions), ("GetCallerIdentity", &identity)]).await;
    let mut other = settings(&endpoint.url);
    other.targets = vec![role()];
    let opened = Ec2::open_with(other, sdk().await).await.map(drop);
    let said = "the AWS credentials are of account 999999999999, not 210987654321";
    assert!(opened.as_ref().is_err_and(|wrong| wrong.contains(said)), "{opened:?}");
}

/// What docs/aws-identity.md tells operators to write is JSON, and fits what is sent.
#[tokio::test]
async fn the_documented_policies_fit_what_is_sent() {
    let document = include_str!("../../docs/aws-identity.md");
    let policies: Vec<serde_json::Value> = document
        .split("```json\n")
        .skip(1)
        .map(|block| serde_json::from_str(block.split("```").next().unwrap()).unwrap())
        .collect();
    let [trust, process, decode] = &policies[..] else { panic!("{} policies", policies.len()) };
    let actions = |policy: &serde_json::Value| -> Vec<String> {
        let statements = policy["Statement"].as_array().unwrap();
        statements
            .iter()
            .flat_map(|statement| match &statement["Action"] {
                serde_json::Value::String(one) => vec![one.clone()],
                several => serde_json::from_value(several.clone()).unwrap(),
            })
            .collect()
    };
    let needed = ["sts:AssumeRole", "sts:SetSourceIdentity", "sts:TagSession"];
    assert_eq!(actions(trust), needed);
    assert_eq!(actions(process), needed);
    assert_eq!(actions(decode), ["sts:DecodeAuthorizationMessage"]);

    let endpoint = endpoint(&["SERVICE", "ALICE"].map(session)).await;
    let ec2 = open_role(&endpoint.url).await;
    read(&ec2, &call_of(&caller("alice"))).await.unwrap();
    let sent = &endpoint.received(ASSUME)[1];
    let statement = |number: usize| &trust["Statement"][number]["Condition"];
    let name = &statement(1)["StringLike"]["sts:SourceIdentity"];
    let start = name.as_str().unwrap().strip_suffix('*').unwrap();
    assert!(sent.form["SourceIdentity"].starts_with(start));
    let keys: Vec<String> = tags(sent).into_iter().map(|(key, _)| key).collect();
    let allowed = &statement(2)["ForAllValues:StringEquals"]["aws:TagKeys"];
    assert_eq!(serde_json::to_value(keys).unwrap(), *allowed);
}
