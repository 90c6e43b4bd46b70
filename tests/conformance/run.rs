//! Runs the cases in one place, each with groups of its own.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};
use tokio::time::interval;

use super::{
    case::{Case, Chapter, Kind, Step, Table},
    client::{Answer, Client},
    compare::{Answered, EC2_MEMBERS, Expected},
    names::Names,
};

/// How often a place with patience is asked again, and how long that takes in all at most.
const AGAIN: Duration = Duration::from_secs(1);

/// The tag of everything that a run makes.
pub const TAG: &str = "portcullis-conformance";

/// Somewhere to run the cases.
pub struct Place {
    pub name: &'static str,
    pub client: Client,
    /// What cases name: `vpc:nondefault`, `vpc:ipv6`, `prefix-list`, `account`.
    pub names: Names,
    /// Tells this run's groups from those of others.
    pub run: String,
    /// How often a read that is not yet as expected is repeated: real EC2's reads may be stale (R47).
    pub patience: u32,
    /// Whether to delete each case's groups.
    pub tidy: bool,
}

/// What a case gave in one kind of VPC.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// As AWS documents it. `by_service`: an error that the service found before EC2 could.
    AsDocumented { by_service: bool },
    /// As the data says for this place: what it answers and why, step by step.
    Differs(Vec<(String, String)>),
    /// Neither.
    Wrong(String),
}

/// The verdict of every case by its name; a case is one row, so its kinds of VPC must agree.
pub type Verdicts = BTreeMap<String, Verdict>;

impl Place {
    /// Every case. `explained`: differences must be as the data says; if not, what is answered is the explanation.
    pub async fn run_all(&self, table: &Table, explained: bool) -> Verdicts {
        let mut verdicts = Verdicts::new();
        let total = table.cases().count();
        for (number, (chapter, case)) in table.cases().enumerate() {
            if self.tidy {
                eprintln!("{} of {total}: {}", number + 1, case.name);
            }
            for &kind in &case.vpc {
                let mut names = self.names.clone();
                let verdict = match self.prepare(chapter, case, kind, number, &mut names).await {
                    Ok(()) => self.run(table, case, names.clone(), explained).await,
                    Err(refused) => Verdict::Wrong(format!("cannot be prepared: {refused}")),
                };
                if self.tidy {
                    self.clear(&names).await;
                }
                let before = verdicts.remove(&case.name);
                let verdict = if explained {
                    alike(verdict, before, &format!("{} ({})", case.name, kind.word()))
                } else {
                    together(verdict, before, kind)
                };
                verdicts.insert(case.name.clone(), verdict);
            }
        }
        verdicts
    }

    async fn run(&self, table: &Table, case: &Case, mut names: Names, explained: bool) -> Verdict {
        let mut differences = Vec::new();
        let mut by_service = false;
        for (number, step) in case.steps.iter().enumerate() {
            if let Some(pointer) = names.lacks(&step.body) {
                if differences.is_empty() {
                    let text = format!("step {}: no {pointer} in {}", number + 1, names.last);
                    return Verdict::Wrong(text);
                }
                break;
            }
            let (documented, expected, whys) = self.expected(table, step);
            let mut answered = self.ask(step, &names).await;
            let fill = |text: &str| names.fill(text);
            if self.patience > 0 {
                let mut ticks = interval(AGAIN);
                ticks.tick().await;
                for _ in 0..self.patience {
                    let left_differs = answered.left != step.left;
                    let read = step.call.starts_with("Describe") || left_differs;
                    if !read || expected.complaint(&answered, &fill).is_none() {
                        break;
                    }
                    ticks.tick().await;
                    if step.call.starts_with("Describe") {
                        answered = self.ask(step, &names).await;
                    } else {
                        answered.left = self.left(step, &names).await;
                    }
                }
            }
            let show =
                |text: String| format!("step {}, {}: {}", number + 1, step.call, names.show(&text));
            let saw = what(&answered, step.left.is_some());
            match expected.complaint(&answered, &fill) {
                Some(text) if explained => {
                    return Verdict::Wrong(show(format!("{text}\n  answered {saw}")));
                }
                Some(text) => {
                    differences.push((show(format!("{text}; answered {saw}")), String::new()))
                }
                None if expected == documented => {}
                None if explained && documented.complaint(&answered, &fill).is_none() => {
                    return Verdict::Wrong(show(format!(
                        "is as documented; the data says {whys:?}"
                    )));
                }
                None => {
                    let answer = expected.error.unwrap_or_else(|| "OK".to_owned());
                    differences.extend(whys.into_iter().map(|why| (answer.clone(), why)));
                }
            }
            if let Err(refused) = &answered.answer {
                by_service |= refused.by_service;
            }
            names.last = answered.answer.unwrap_or_default();
        }
        differences.dedup();
        if differences.is_empty() {
            Verdict::AsDocumented { by_service }
        } else {
            Verdict::Differs(differences)
        }
    }

    /// What is documented for a step, what it must be answered here, and why that is something else.
    fn expected(&self, table: &Table, step: &Step) -> (Expected, Expected, Vec<String>) {
        let mut documented = Expected::documented(step);
        // A message is no contract: moto has words of its own.
        if self.name == "moto" {
            documented.says = None;
        }
        let mut expected = documented.clone();
        let mut whys = Vec::new();
        let own = step.moto.as_ref().filter(|_| self.name == "moto");
        for difference in step.service.iter().chain(own) {
            expected = expected.but(difference);
            whys.push(difference.why.clone());
        }
        if own.is_none_or(|own| own.ok.is_none()) {
            for general in table.general.iter().filter(|general| general.place == self.name) {
                if general.calls.contains(&step.call) {
                    let without = expected.clone().generally(general);
                    if without != expected {
                        whys.push(general.why.clone());
                    }
                    expected = without;
                }
            }
        }
        (documented, expected, whys)
    }

    async fn ask(&self, step: &Step, names: &Names) -> Answered {
        let answer = self.call(&step.call, &names.fill(&step.body)).await;
        Answered { answer, left: self.left(step, names).await }
    }

    /// A call; what EC2 throttles is asked again where there is patience.
    async fn call(&self, rpc: &str, body: &str) -> Answer {
        let mut ticks = interval(AGAIN);
        for _ in 0..self.patience {
            ticks.tick().await;
            match self.client.call(rpc, body).await {
                Err(refused) if refused.throttled => {}
                answer => return answer,
            }
        }
        self.client.call(rpc, body).await
    }

    /// A call that the cases do not ask about. A group that was made a moment ago may not be known yet (R47).
    async fn must(&self, rpc: &str, body: &str) -> Result<Value, String> {
        let mut ticks = interval(AGAIN);
        let mut patience = self.patience;
        loop {
            ticks.tick().await;
            match self.call(rpc, body).await {
                Err(refused) if patience > 0 && refused.codes == ["INVALID_GROUP_NOT_FOUND"] => {
                    patience -= 1;
                }
                answer => return answer.map_err(|refused| format!("{rpc} {body}: {refused:?}")),
            }
        }
    }

    /// The group's rules, if the step asks: those of the case by name, others as text.
    async fn left(&self, step: &Step, names: &Names) -> Option<Vec<String>> {
        step.left.as_ref()?;
        let rules = match self.rules(names.get("group")?).await {
            Ok(rules) => rules,
            Err(refused) => return Some(vec![refused]),
        };
        let text = |rule: &Value| {
            let id = rule["SecurityGroupRuleId"].as_str().unwrap_or_default();
            names.name_of("rule:", id).map_or_else(|| in_words(rule), str::to_owned)
        };
        Some(rules.iter().map(text).collect())
    }

    async fn rules(&self, group: &str) -> Result<Vec<Value>, String> {
        let filters = json!({"Filters": [{"Name": "group-id", "Values": [group]}]});
        let answer = self.must("DescribeSecurityGroupRules", &filters.to_string()).await?;
        Ok(answer["SecurityGroupRules"].as_array().cloned().unwrap_or_default())
    }

    /// The case's groups and rules, and their names.
    async fn prepare(
        &self,
        chapter: &Chapter,
        case: &Case,
        kind: Kind,
        number: usize,
        names: &mut Names,
    ) -> Result<(), String> {
        for (name, permission) in &chapter.permissions {
            names.set(name, permission.as_str());
        }
        let text = text_of(chapter, case);
        let mentions = |name: &str| text.contains(&format!("{{{name}}}"));
        let label = format!("conformance {} {number} {}", self.run, kind.word());
        names.set("name", label.as_str());
        names.set("run", self.run.as_str());
        let id = self.create(&label, kind).await?;
        names.set("group", id.as_str());
        let other = if kind == Kind::Default { Kind::Nondefault } else { Kind::Default };
        let peered = if kind == Kind::Ipv6 { Kind::Nondefault } else { Kind::Ipv6 };
        for (name, kind) in [("peer", kind), ("foreign", other), ("peered", peered)] {
            if mentions(name) {
                names.set(name, self.create(&format!("{label} {name}"), kind).await?);
            }
        }
        if mentions("vpc") {
            let body = json!({"GroupIds": [id]}).to_string();
            let answer = self.must("DescribeSecurityGroups", &body).await?;
            names.set("vpc", text_at(&answer, "/SecurityGroups/0/VpcId")?);
        }
        let first = if kind == Kind::Ipv6 { 2 } else { 1 };
        for rule in self.at_least(first, &id).await? {
            let name = if rule["CidrIpv6"].is_null() { "first" } else { "first6" };
            names.set(&format!("rule:{name}"), text_at(&rule, "/SecurityGroupRuleId")?);
        }
        let rules = [("AuthorizeEgress", &case.egress), ("AuthorizeIngress", &case.ingress)];
        for (rpc, wanted) in rules {
            for name in wanted {
                let body = format!(r#"{{"GroupId": "{{group}}", "IpPermissions": [{{{name}}}]}}"#);
                let answer = self.must(rpc, &names.fill(&body)).await?;
                let id = text_at(&answer, "/SecurityGroupRules/0/SecurityGroupRuleId")?;
                let name =
                    if rpc == "AuthorizeEgress" { name.clone() } else { format!("in-{name}") };
                names.set(&format!("rule:{name}"), id);
            }
        }
        let all = first + case.egress.len() + case.ingress.len();
        self.at_least(all, &id).await.map(drop)
    }

    /// The group's rules, once so many are visible. Where there is no patience, they are at once.
    async fn at_least(&self, count: usize, group: &str) -> Result<Vec<Value>, String> {
        let mut ticks = interval(AGAIN);
        for _ in 0..self.patience {
            ticks.tick().await;
            if let Some(rules) = self.rules(group).await.ok().filter(|rules| rules.len() >= count) {
                return Ok(rules);
            }
        }
        let rules = self.rules(group).await?;
        if rules.len() < count {
            return Err(format!("{group} has {} rules, and not {count}", rules.len()));
        }
        Ok(rules)
    }

    async fn create(&self, name: &str, kind: Kind) -> Result<String, String> {
        let mut body = json!({
            "GroupName": name,
            "Description": "A conformance case of Portcullis",
            "TagSpecifications": [
                {"ResourceType": "security-group", "Tags": [{"Key": TAG, "Value": self.run}]}
            ],
        });
        let vpc = match kind {
            Kind::Default => None,
            Kind::Nondefault => self.names.get("vpc:nondefault"),
            Kind::Ipv6 => self.names.get("vpc:ipv6"),
        };
        if let Some(vpc) = vpc {
            body["VpcId"] = vpc.into();
        }
        let answer = self.must("CreateSecurityGroup", &body.to_string()).await?;
        text_at(&answer, "/GroupId")
    }

    /// The rules first, since groups may refer to one another. What is left is the script's to remove.
    async fn clear(&self, names: &Names) {
        let groups: Vec<&str> = ["group", "peer", "foreign", "peered"]
            .iter()
            .filter_map(|name| names.get(name))
            .collect();
        for group in &groups {
            for egress in [true, false] {
                let rules = self.rules(group).await.unwrap_or_default();
                let ids: Vec<&Value> = rules
                    .iter()
                    .filter(|rule| rule["IsEgress"] == egress)
                    .map(|rule| &rule["SecurityGroupRuleId"])
                    .collect();
                if !ids.is_empty() {
                    let body = json!({"GroupId": group, "SecurityGroupRuleIds": ids}).to_string();
                    let rpc = if egress { "RevokeEgress" } else { "RevokeIngress" };
                    let _ = self.call(rpc, &body).await;
                }
            }
        }
        for group in groups {
            let _ = self.call("DeleteSecurityGroup", &json!({"GroupId": group}).to_string()).await;
        }
    }
}

/// A row's verdict when its next kind of VPC has run: it must be the same in each.
fn alike(verdict: Verdict, before: Option<Verdict>, case: &str) -> Verdict {
    match (verdict, before) {
        (_, Some(wrong @ Verdict::Wrong(_))) => wrong,
        (Verdict::Wrong(text), _) => Verdict::Wrong(format!("{case}: {text}")),
        (verdict, Some(before)) if verdict != before => {
            Verdict::Wrong(format!("{case}: {verdict:?}, and in another kind of VPC {before:?}"))
        }
        (verdict, _) => verdict,
    }
}

/// The same where nobody has explained the differences yet: all of them, each with its kind of VPC.
fn together(verdict: Verdict, before: Option<Verdict>, kind: Kind) -> Verdict {
    let answers = match verdict {
        Verdict::AsDocumented { .. } => return before.unwrap_or(verdict),
        Verdict::Differs(answers) => answers,
        Verdict::Wrong(text) => vec![(text, String::new())],
    };
    let named = answers.into_iter().map(|(answer, why)| match why.as_str() {
        "" => (format!("{} VPC, {answer}", kind.word()), why),
        _ => (answer, why),
    });
    match before {
        Some(Verdict::Differs(mut all)) => {
            all.extend(named);
            all.dedup();
            Verdict::Differs(all)
        }
        _ => Verdict::Differs(named.collect()),
    }
}

/// Everything that a case says, with the permissions that it uses: what names it needs.
fn text_of(chapter: &Chapter, case: &Case) -> String {
    let mut text = String::new();
    for step in &case.steps {
        let said = [&step.body].into_iter().chain(&step.ok).chain(&step.says);
        text.extend(said.map(String::as_str));
        text.extend(step.left.iter().flatten().map(String::as_str));
        for difference in [&step.moto, &step.service].into_iter().flatten() {
            text.extend(
                difference.ok.iter().chain(difference.left.iter().flatten()).map(String::as_str),
            );
        }
    }
    for (name, permission) in &chapter.permissions {
        let prepared = case.egress.contains(name) || case.ingress.contains(name);
        if prepared || text.contains(&format!("{{{name}}}")) {
            text.push_str(permission);
        }
    }
    text
}

fn text_at(answer: &Value, pointer: &str) -> Result<String, String> {
    let text = answer.pointer(pointer).and_then(Value::as_str);
    text.map(str::to_owned).ok_or_else(|| format!("no {pointer} in {answer}"))
}

/// A rule that no case named.
fn in_words(rule: &Value) -> String {
    let direction = if rule["IsEgress"] == true { "egress" } else { "ingress" };
    let peer = ["CidrIpv4", "CidrIpv6", "PrefixListId"].iter().find_map(|kind| rule[kind].as_str());
    let peer = peer.or_else(|| rule["ReferencedGroupInfo"]["GroupId"].as_str());
    let protocol = rule["IpProtocol"].as_str().unwrap_or_default();
    let ports = format!("{}..{}", rule["FromPort"], rule["ToPort"]);
    format!("{direction} {protocol} {ports} {}", peer.unwrap_or_default())
}

/// What EC2 has part in of an answer, to be shown where it is wrong.
fn what(answered: &Answered, left: bool) -> String {
    let answer = match &answered.answer {
        Ok(answer) => {
            let mut answer = answer.clone();
            if let Some(members) = answer.as_object_mut() {
                members.retain(|name, _| EC2_MEMBERS.contains(&name.as_str()) || name == "Outcome");
            }
            answer.to_string()
        }
        Err(refused) => format!("{} {:?}", refused.codes.join(", "), refused.message),
    };
    match &answered.left {
        Some(rules) if left => format!("{answer}; left: {}", rules.join(", ")),
        _ => answer,
    }
}

#[test]
fn a_row_has_one_verdict() {
    let good = || Verdict::AsDocumented { by_service: false };
    let differs = |answer: &str| Verdict::Differs(vec![(answer.to_owned(), String::new())]);
    let wrong = || Verdict::Wrong("x".to_owned());
    assert_eq!(alike(good(), Some(good()), "c"), good());
    for (verdict, before) in [
        (good(), wrong()),
        (wrong(), good()),
        (differs("a"), good()),
        (good(), differs("a")),
        (good(), Verdict::AsDocumented { by_service: true }),
    ] {
        assert!(matches!(alike(verdict, Some(before), "c"), Verdict::Wrong(_)));
    }
    assert_eq!(together(good(), None, Kind::Default), good());
    assert_eq!(together(good(), Some(differs("a")), Kind::Default), differs("a"));
    let first = together(differs("a"), Some(good()), Kind::Default);
    assert_eq!(first, differs("default VPC, a"));
    let Verdict::Differs(both) = together(wrong(), Some(first), Kind::Nondefault) else { panic!() };
    assert_eq!(both.len(), 2);
}
