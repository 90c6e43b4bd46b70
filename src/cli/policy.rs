//! `portcullis policy`: what is wrong with policies, and who may do what by them, before a server has them.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use clap::{Args, Subcommand};

use crate::{
    access::{
        Access, Action, Caller, Circumstances, Fault, GroupFacts, Judgement, Mode, Policies,
        Resource, RuleFacts,
    },
    api::{
        decode::{self, Decoded},
        proto::v1,
    },
    backend::Selection,
    operations::Command,
    principal::{Certificate, Peer, Principal},
    rule::{
        AccountId, Direction, GroupId, GroupRef, Region, RuleSpec, Tag, Target, Violation, VpcId,
    },
};

/// The arguments of `policy`.
#[derive(Args, Debug)]
pub struct Policy {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, Subcommand)]
enum Sub {
    /// Check a folder of policies against the schema: everything that is wrong, with file and line
    Check(Check),
    /// Say who may do what by a folder of policies, and which policies determine it
    Explain(Box<Explain>),
}

#[derive(Args, Debug)]
struct Check {
    /// The folder
    #[arg(value_name = "FOLDER")]
    dir: PathBuf,
}

#[derive(Args, Debug)]
struct Explain {
    /// The folder of policies
    #[arg(long, value_name = "FOLDER")]
    policy_dir: PathBuf,
    /// The caller: METHOD:ISSUER:SUBJECT; METHOD is mtls, jwt, token or local, and colons and percent signs within a
    /// part are %3A and %25
    #[arg(long, value_name = "ID")]
    principal: String,
    /// A group that the caller is in; any number of times
    #[arg(long, value_name = "NAME")]
    group_of: Vec<String>,
    /// The SPIFFE id of the caller's certificate
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    spiffe_id: String,
    /// The subject of the caller's certificate
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    certificate_subject: String,
    /// The issuer of the caller's certificate
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    certificate_issuer: String,
    /// Where the caller's connection comes from
    #[arg(long, value_name = "IP")]
    peer_address: Option<IpAddr>,
    /// The RPC, such as RevokeEgress; or UseIncidentLane
    #[arg(long, value_name = "RPC")]
    action: String,
    /// The account; else the request's
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<String>,
    /// The Region; else the request's
    #[arg(long, value_name = "REGION")]
    region: Option<String>,
    /// The security group's id; else the request's
    #[arg(long, value_name = "ID")]
    group: Option<String>,
    /// Its name; else the request's
    #[arg(long, value_name = "NAME")]
    group_name: Option<String>,
    /// Its VPC; else the request's
    #[arg(long, value_name = "ID")]
    vpc: Option<String>,
    /// Its tags; any number of times
    #[arg(long, value_name = "KEY=VALUE")]
    tag: Vec<String>,
    /// The request, as JSON or the name of a file with it; each of its rules is decided
    #[arg(long, value_name = "FILE|JSON")]
    request: Option<String>,
    /// The call removes the group's last egress rule
    #[arg(long)]
    removes_last_egress_rule: bool,
}

/// What a command has to say.
#[derive(Debug)]
pub struct Said {
    /// For stdout.
    pub text: String,
    /// Whether all is well, or all is allowed.
    pub good: bool,
}

impl Policy {
    /// Does it. The error is about the command line.
    pub fn run(&self) -> Result<Said, String> {
        match &self.command {
            Sub::Check(check) => Ok(check.run()),
            Sub::Explain(explain) => explain.run(),
        }
    }
}

impl Check {
    fn run(&self) -> Said {
        match Policies::read(&self.dir) {
            Ok(policies) => {
                let warnings: Vec<String> = policies
                    .warnings
                    .iter()
                    .map(|warning| format!("warning: {warning}\n"))
                    .collect();
                let text = format!("{}OK: {} policies\n", warnings.concat(), policies.count);
                Said { text, good: true }
            }
            Err(faults) => Said { text: lines(&faults), good: false },
        }
    }
}

fn lines(faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("{fault}\n")).collect()
}

/// What is asked about, of a request or of the flags.
#[derive(Default)]
struct Asked {
    account: Option<AccountId>,
    region: Option<Region>,
    group: String,
    name: String,
    vpc: String,
    tags: Vec<Tag>,
    dry_run: bool,
    rules: Vec<RuleFacts>,
    notes: Vec<String>,
}

impl Explain {
    fn run(&self) -> Result<Said, String> {
        let action = Action::parse(&self.action)
            .ok_or_else(|| format!("--action: there is no action {:?}", self.action))?;
        let policies = match Policies::read(&self.policy_dir) {
            Ok(policies) => policies,
            Err(faults) => return Ok(Said { text: lines(&faults), good: false }),
        };
        let access = Access::with(policies, Mode::Enforce);
        let groups = self.group_of.clone();
        let principal = Principal::parse_id(&self.principal)
            .map(|principal| Principal { groups, ..principal })
            .ok_or("--principal: takes METHOD:ISSUER:SUBJECT, with %3A for colons within a part")?;
        let peer = self.peer();
        let caller = Caller { principal: &principal, peer: &peer, request_id: "" };
        let asked = self.asked(action)?;
        let circumstances = Circumstances {
            dry_run: asked.dry_run,
            removes_last_egress_rule: self.removes_last_egress_rule,
        };
        let mut answer = Answer { access: &access, caller, text: String::new(), good: true };
        if is_of_sandbox(action) {
            answer.decide(action, Resource::Sandbox, circumstances, &[RuleFacts::none()]);
            return Ok(Said { text: answer.text, good: answer.good });
        }
        let target = Target {
            account: asked.account.ok_or("--account: is needed; the request names none")?,
            region: asked.region.ok_or("--region: is needed; the request names none")?,
        };
        let none = [RuleFacts::none()];
        let on_target = Resource::Target(&target);
        answer.decide(Action::Access, on_target, Circumstances::default(), &none);
        let describes =
            matches!(action, Action::DescribeSecurityGroups | Action::DescribeSecurityGroupRules);
        let is_of_target = action == Action::UseIncidentLane || is_of_operations(action);
        if describes || is_of_target {
            answer.decide(action, on_target, circumstances, &none);
        }
        if !is_of_target && (!describes || !asked.group.is_empty()) {
            if asked.group.is_empty() && action != Action::CreateSecurityGroup {
                return Err("--group: is needed; the request names none".to_owned());
            }
            let group = GroupFacts {
                id: &asked.group,
                name: &asked.name,
                vpc: &asked.vpc,
                owner: target.account.as_str(),
                tags: &asked.tags,
            };
            let rules = if asked.rules.is_empty() { &none[..] } else { &asked.rules };
            answer.decide(action, Resource::Group(&target, group), circumstances, rules);
        }
        for note in &asked.notes {
            answer.text.push_str(&format!("note: {note}\n"));
        }
        Ok(Said { text: answer.text, good: answer.good })
    }

    fn peer(&self) -> Peer {
        let said = [&self.spiffe_id, &self.certificate_subject, &self.certificate_issuer];
        let has_certificate = said.iter().any(|text| !text.is_empty());
        let certificate = has_certificate.then(|| {
            Arc::new(Certificate {
                subject: self.certificate_subject.clone(),
                issuer: self.certificate_issuer.clone(),
                spiffe_id: (!self.spiffe_id.is_empty()).then(|| self.spiffe_id.clone()),
                not_before: SystemTime::UNIX_EPOCH,
                not_after: SystemTime::UNIX_EPOCH,
            })
        });
        let address = self.peer_address.map(|ip| SocketAddr::new(ip, 0));
        Peer { address, certificate, ..Peer::default() }
    }

    fn asked(&self, action: Action) -> Result<Asked, String> {
        let mut asked = match &self.request {
            Some(request) => of_request(action, &text_of(request)?)?,
            None => Asked::default(),
        };
        if let Some(account) = &self.account {
            let parsed = AccountId::parse(account);
            asked.account = Some(parsed.ok_or("--account: takes 12 digits")?);
        }
        if let Some(region) = &self.region {
            let parsed = Region::parse(region);
            asked.region = Some(parsed.ok_or("--region: takes a Region code such as us-east-1")?);
        }
        if let Some(group) = &self.group {
            asked.group =
                GroupId::parse(group).ok_or("--group: takes a security group's id")?.to_string();
        }
        if let Some(name) = &self.group_name {
            asked.name.clone_from(name);
        }
        if let Some(vpc) = &self.vpc {
            asked.vpc = VpcId::parse(vpc).ok_or("--vpc: takes a VPC's id")?.to_string();
        }
        for tag in &self.tag {
            let (key, value) = tag.split_once('=').ok_or("--tag: takes KEY=VALUE")?;
            asked.tags.push(Tag { key: key.to_owned(), value: value.to_owned() });
        }
        Ok(asked)
    }
}

fn is_of_sandbox(action: Action) -> bool {
    matches!(
        action,
        Action::LoadState
            | Action::GetState
            | Action::Reset
            | Action::InjectFault
            | Action::ClearFaults
    )
}

/// Decided on the Target alone.
fn is_of_operations(action: Action) -> bool {
    matches!(action, Action::GetOperation | Action::ListOperations | Action::SettleOperation)
}

/// The JSON, or what the file of that name holds.
fn text_of(request: &str) -> Result<String, String> {
    if request.trim_start().starts_with('{') {
        return Ok(request.to_owned());
    }
    std::fs::read_to_string(Path::new(request))
        .map_err(|error| format!("--request: {request}: {error}"))
}

/// Reads a request exactly as the server does.
fn of_request(action: Action, json: &str) -> Result<Asked, String> {
    fn read<Q: serde::de::DeserializeOwned>(
        json: &str,
        decode: fn(Q) -> decode::Result,
    ) -> Result<Decoded, String> {
        let request = serde_json::from_str(json).map_err(|error| format!("--request: {error}"))?;
        decode(request).map_err(|violations| {
            let line = |wrong: &Violation| format!("--request: {}: {}", wrong.field, wrong.message);
            violations.iter().map(line).collect::<Vec<_>>().join("\n")
        })
    }
    let decoded = match action {
        Action::RevokeEgress => read::<v1::RevokeEgressRequest>(json, decode::revoke_egress),
        Action::RevokeIngress => read(json, decode::revoke_ingress),
        Action::AuthorizeEgress => read(json, decode::authorize_egress),
        Action::AuthorizeIngress => read(json, decode::authorize_ingress),
        Action::DescribeSecurityGroupRules => read(json, decode::describe_rules),
        Action::DescribeSecurityGroups => read(json, decode::describe_groups),
        Action::CreateSecurityGroup => read(json, decode::create),
        Action::DeleteSecurityGroup => read(json, decode::delete),
        Action::Access
        | Action::UseIncidentLane
        | Action::LoadState
        | Action::GetState
        | Action::Reset
        | Action::InjectFault
        | Action::ClearFaults
        | Action::GetOperation
        | Action::ListOperations
        | Action::SettleOperation => {
            return Err(
                "--request: nothing of this action's request takes part in its decision".to_owned()
            );
        }
    }?;
    let Decoded { account, region, command } = decoded;
    let mut asked = Asked { account, region, ..Asked::default() };
    match command {
        Command::Revoke(request) => {
            asked.of_group(&request.group);
            asked.dry_run = request.dry_run;
            match &request.selection {
                Selection::Specs(specs) => asked.of_specs(request.direction, specs),
                Selection::Ids(ids) => {
                    let unknown = |id| RuleFacts::unknown_id(request.direction, id);
                    asked.rules = ids.iter().map(unknown).collect();
                    let note = "a server decides a rule id on the rule that it names, which only the group \
                                tells: ask with the rule's IpPermissions";
                    asked.notes.push(note.to_owned());
                }
            }
        }
        Command::Authorize(request) => {
            asked.of_group(&request.rules.group);
            asked.dry_run = request.rules.dry_run;
            asked.of_specs(request.rules.direction, &request.rules.specs);
        }
        Command::DescribeGroups(request) => asked.dry_run = request.dry_run,
        Command::DescribeRules(request) => asked.dry_run = request.dry_run,
        Command::Create(request) => {
            asked.name = request.0.name;
            asked.vpc = request.0.vpc_id.map(|vpc| vpc.to_string()).unwrap_or_default();
            asked.tags = request.0.tags;
            asked.dry_run = request.0.dry_run;
        }
        Command::Delete(request) => {
            asked.of_group(&request.0.group);
            asked.dry_run = request.0.dry_run;
        }
    }
    Ok(asked)
}

impl Asked {
    fn of_group(&mut self, group: &GroupRef) {
        match group {
            GroupRef::Id(id) => self.group = id.to_string(),
            GroupRef::Name(name) => self.name.clone_from(name),
        }
    }

    fn of_specs(&mut self, direction: Direction, specs: &[RuleSpec]) {
        self.rules = specs.iter().map(|spec| RuleFacts::of_spec(direction, spec)).collect();
    }
}

/// The answer as it grows.
struct Answer<'a> {
    access: &'a Access,
    caller: Caller<'a>,
    text: String,
    good: bool,
}

impl Answer<'_> {
    fn decide(
        &mut self,
        action: Action,
        resource: Resource<'_>,
        circumstances: Circumstances,
        rules: &[RuleFacts],
    ) {
        let judgements = self.access.explain(self.caller, action, resource, circumstances, rules);
        for (Judgement { allowed, policies, errors, would }, rule) in judgements.iter().zip(rules) {
            self.good &= allowed;
            let by = |policies: &[String]| match policies {
                [] => "no policy permits it".to_owned(),
                policies => policies.join(", "),
            };
            let word = |allowed: bool| if allowed { "allow" } else { "deny" };
            let rule = rule.to_string();
            let space = if rule.is_empty() { "" } else { " " };
            let line = format!(
                "{:5}  {} on {resource}{space}{rule}: {}\n",
                word(*allowed),
                action.as_str(),
                by(policies)
            );
            self.text.push_str(&line);
            for error in errors {
                self.text.push_str(&format!("       failed to evaluate: {error}\n"));
            }
            if let Some((would, policies)) = would {
                let line = format!("       would {}: {}\n", word(*would), by(policies));
                self.text.push_str(&line);
            }
        }
    }
}
