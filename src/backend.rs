//! What holds the security groups: real EC2 (`backend/ec2.rs`) or the in-process sandbox (`backend/sandbox/`).
//!
//! A backend takes requests that are syntactically right and answers as EC2 does: with EC2's error codes, and EC2's
//! own idea of what exists. It never decides on its own to try a mutation twice: EC2 has no client token for these
//! calls, and a second try after a lost answer would turn a success into InvalidPermission.NotFound.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use self::standing::Standing;
use crate::{
    pacing::{Action, Lane},
    principal::Principal,
    rule::{
        AccountId, Direction, GroupId, GroupRef, IpPermission, Peer, Region, Rule, RuleChange,
        RuleId, RuleSpec, Tag, Target, VpcId,
    },
};

#[cfg(feature = "ec2")]
pub mod ec2;
pub mod paced;
pub mod sandbox;
pub mod standing;

/// What every method answers.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, BackendError>> + Send + 'a>>;

/// EC2's security-group actions, over one or more targets.
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// Where the effects live; part of the scope of an idempotency key. Changes when an in-process state is replaced.
    fn identity(&self) -> String;

    /// Fills the empty parts of a target from the configuration. An error if that account or Region is not served.
    fn resolve(
        &self,
        account: Option<AccountId>,
        region: Option<Region>,
    ) -> Result<Target, BackendError>;

    /// How long after a write a read may still show the state before it, in the common case. Zero: never.
    fn read_lag(&self) -> Duration;

    /// How it stands, as far as that is known without asking.
    fn standing(&self) -> Standing {
        Standing::InProcess
    }

    /// Whether calls wait for their turn here, so that it matters in which lane they do.
    fn is_paced(&self) -> bool {
        false
    }

    /// Waits for a slot for a mutation that is to come in this call; the call holds it from then on. None: there is
    /// nothing to wait for.
    fn reserve<'a>(
        &'a self,
        _: &'a CallContext,
        _: &'a Target,
        _: Action,
    ) -> Option<Answer<'a, ()>> {
        None
    }

    /// The group with its VPC and all its rules. It is the best knowledge, not the truth: others write, too.
    fn image<'a>(
        &'a self,
        call: &'a CallContext,
        target: &'a Target,
        group: &'a GroupRef,
    ) -> Answer<'a, GroupImage>;

    /// DescribeSecurityGroups. EC2 describes rules without their ids and tags there, so those may be empty.
    fn describe_groups<'a>(
        &'a self,
        call: &'a CallContext,
        target: &'a Target,
        request: &'a DescribeGroups,
    ) -> Answer<'a, Page<GroupImage>>;

    /// DescribeSecurityGroupRules.
    fn describe_rules<'a>(
        &'a self,
        call: &'a CallContext,
        target: &'a Target,
        request: &'a DescribeRules,
    ) -> Answer<'a, Page<OwnedRule>>;

    /// RevokeSecurityGroupEgress or RevokeSecurityGroupIngress. One attempt.
    fn revoke<'a>(
        &'a self,
        call: &'a CallContext,
        target: &'a Target,
        request: &'a RevokeRules,
    ) -> Answer<'a, Revoked>;

    /// AuthorizeSecurityGroupEgress or AuthorizeSecurityGroupIngress. One attempt.
    fn authorize<'a>(
        &'a self,
        call: &'a CallContext,
        target: &'a Target,
        request: &'a AuthorizeRules,
    ) -> Answer<'a, Authorized>;

    /// CreateSecurityGroup. One attempt.
    fn create_group<'a>(
        &'a self,
        call: &'a CallContext,
        target: &'a Target,
        request: &'a CreateGroup,
    ) -> Answer<'a, Created>;

    /// DeleteSecurityGroup. One attempt.
    fn delete_group<'a>(
        &'a self,
        call: &'a CallContext,
        target: &'a Target,
        request: &'a DeleteGroup,
    ) -> Answer<'a, Deleted>;
}

/// What a call carries to the backend besides its request.
#[derive(Clone, Debug)]
pub struct CallContext {
    /// No attempt may outlast this.
    pub deadline: Instant,
    /// Nor this, by the wall clock, which goes on while the machine is suspended. None: as seen when the call begins.
    pub deadline_wall: Option<SystemTime>,
    /// The operation that makes the call; visible in EC2's audit trail and the sandbox's effect log.
    pub operation_id: String,
    /// Who has its turn with this call. None: nobody in particular.
    pub caller: Option<Arc<Principal>>,
    /// Where the call's mutations wait for their turn.
    pub lane: Lane,
    /// Where its reads do.
    pub read_lane: Lane,
    /// The slot that [`Backend::reserve`] got.
    pub slot: HeldSlot,
    /// The AWS session that makes it, where the sandbox is EC2 for others; its effect log names it.
    pub session: Option<Arc<AwsSession>>,
}

/// A session of an assumed role, as AWS names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsSession {
    /// `arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION`.
    pub arn: String,
    /// Who is behind it, if it says so.
    pub source_identity: Option<String>,
}

/// A slot for one EC2 call. Dropped, it is given back.
pub trait Slot: fmt::Debug + Send {
    /// The call is made now.
    fn spend(self: Box<Self>);

    /// Whether it is one for this.
    fn is_for(&self, target: &Target, action: Action) -> bool;
}

/// Where a call keeps its slot until it sends.
#[derive(Clone, Debug, Default)]
pub struct HeldSlot(Arc<Mutex<Option<Box<dyn Slot>>>>);

impl HeldSlot {
    /// Keeps a slot. The one that was kept is given back.
    pub fn put(&self, slot: Box<dyn Slot>) {
        let before = self.0.lock().unwrap_or_else(PoisonError::into_inner).replace(slot);
        drop(before);
    }

    /// The slot that is kept.
    pub fn take(&self) -> Option<Box<dyn Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl CallContext {
    /// A call of nobody in particular, in the common lane.
    pub fn new(deadline: Instant, operation_id: impl Into<String>) -> Self {
        Self {
            deadline,
            deadline_wall: None,
            operation_id: operation_id.into(),
            caller: None,
            lane: Lane::Common,
            read_lane: Lane::Common,
            slot: HeldSlot::default(),
            session: None,
        }
    }
}

/// A security group without its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The id.
    pub id: GroupId,
    /// The name.
    pub name: String,
    /// The description.
    pub description: String,
    /// The VPC.
    pub vpc_id: Option<VpcId>,
    /// The account.
    pub owner_id: AccountId,
    /// The tags.
    pub tags: Vec<Tag>,
    /// The ARN.
    pub arn: Option<String>,
}

/// A security group with its rules, shared so that reading one costs no copy.
#[derive(Clone, Debug)]
pub struct GroupImage {
    /// The group itself.
    pub group: Arc<Group>,
    /// Whether its VPC is the default one of the account in the Region (R36). None: not known, not asked for.
    pub in_default_vpc: Option<bool>,
    /// Its rules of both directions, in the backend's order.
    pub rules: Arc<Vec<Rule>>,
}

/// A rule with the group that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedRule {
    /// The group.
    pub group_id: GroupId,
    /// The group's owner.
    pub group_owner_id: AccountId,
    /// The rule.
    pub rule: Rule,
    /// The rule's ARN, if EC2 gave one.
    pub arn: Option<String>,
}

/// One page of a list.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// What to ask the next page with.
    pub next_token: Option<String>,
}

/// A describe filter. Values may have the wildcards `*` and `?`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The name.
    pub name: String,
    /// Any of these will do.
    pub values: Vec<String>,
}

/// The request of DescribeSecurityGroups.
#[derive(Clone, Debug, Default)]
pub struct DescribeGroups {
    /// All must pass.
    pub filters: Vec<Filter>,
    /// By id.
    pub group_ids: Vec<GroupId>,
    /// By name, in the default VPC.
    pub group_names: Vec<String>,
    /// The page.
    pub next_token: Option<String>,
    /// The page's size.
    pub max_results: Option<i32>,
    /// Only ask whether it is permitted.
    pub dry_run: bool,
}

impl DescribeGroups {
    /// Whether it asks for everything at once, which EC2 budgets apart.
    pub fn is_unfiltered(&self) -> bool {
        self.filters.is_empty()
            && self.group_ids.is_empty()
            && self.group_names.is_empty()
            && self.next_token.is_none()
            && self.max_results.is_none()
    }
}

/// The request of DescribeSecurityGroupRules.
#[derive(Clone, Debug, Default)]
pub struct DescribeRules {
    /// All must pass.
    pub filters: Vec<Filter>,
    /// By id.
    pub rule_ids: Vec<RuleId>,
    /// The page.
    pub next_token: Option<String>,
    /// The page's size.
    pub max_results: Option<i32>,
    /// Only ask whether it is permitted.
    pub dry_run: bool,
}

/// The rules that a revoke is about.
#[derive(Clone, Debug)]
pub enum Selection {
    /// By properties.
    Specs(Vec<RuleSpec>),
    /// By id: all or nothing in either kind of VPC (R38, R39).
    Ids(Vec<RuleId>),
}

/// The request of a revoke.
#[derive(Clone, Debug)]
pub struct RevokeRules {
    /// The group; by name only for ingress.
    pub group: GroupRef,
    /// Which way.
    pub direction: Direction,
    /// Which rules.
    pub selection: Selection,
    /// Only ask whether it is permitted.
    pub dry_run: bool,
}

/// What EC2 says of a revoke.
#[derive(Clone, Debug)]
pub struct Revoked {
    /// `Return`, as EC2 says it.
    pub return_value: Option<bool>,
    /// What EC2 did not know, in EC2's form.
    pub unknown: Vec<IpPermission>,
    /// What EC2 removed.
    pub revoked: Vec<RevokedRule>,
    /// EC2's request id.
    pub request_id: Option<String>,
}

/// One removed rule, member by member as EC2 lists it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RevokedRule {
    /// SecurityGroupRuleId.
    pub security_group_rule_id: Option<String>,
    /// GroupId.
    pub group_id: Option<String>,
    /// IsEgress.
    pub is_egress: Option<bool>,
    /// IpProtocol.
    pub ip_protocol: Option<String>,
    /// FromPort.
    pub from_port: Option<i32>,
    /// ToPort.
    pub to_port: Option<i32>,
    /// CidrIpv4.
    pub cidr_ipv4: Option<String>,
    /// CidrIpv6.
    pub cidr_ipv6: Option<String>,
    /// PrefixListId.
    pub prefix_list_id: Option<String>,
    /// ReferencedGroupId.
    pub referenced_group_id: Option<String>,
    /// Description.
    pub description: Option<String>,
}

impl RevokedRule {
    /// A rule of a group, as EC2 lists it when it is removed.
    pub fn new(group: &GroupId, rule: &Rule) -> Self {
        let mut revoked = Self {
            security_group_rule_id: Some(rule.id.to_string()),
            group_id: Some(group.to_string()),
            is_egress: Some(rule.direction == Direction::Egress),
            ip_protocol: Some(rule.traffic.protocol().to_string()),
            from_port: Some(rule.traffic.from_port()),
            to_port: Some(rule.traffic.to_port()),
            description: rule.description.as_deref().map(str::to_owned),
            ..Self::default()
        };
        match &rule.peer {
            Peer::Ipv4(net) => revoked.cidr_ipv4 = Some(net.to_string()),
            Peer::Ipv6(net) => revoked.cidr_ipv6 = Some(net.to_string()),
            Peer::PrefixList(id) => revoked.prefix_list_id = Some(id.to_string()),
            Peer::Group(peer) => {
                revoked.referenced_group_id = peer.group_id.as_ref().map(GroupId::to_string);
            }
        }
        revoked
    }
}

/// The request of an authorize.
#[derive(Clone, Debug)]
pub struct AuthorizeRules {
    /// The group; by name only for ingress.
    pub group: GroupRef,
    /// Which way.
    pub direction: Direction,
    /// The rules to add.
    pub specs: Vec<RuleSpec>,
    /// Tags for each of them.
    pub tags: Vec<Tag>,
    /// Only ask whether it is permitted.
    pub dry_run: bool,
}

/// What EC2 says of an authorize.
#[derive(Clone, Debug)]
pub struct Authorized {
    /// `Return`, as EC2 says it.
    pub return_value: Option<bool>,
    /// The new rules.
    pub rules: Vec<OwnedRule>,
    /// EC2's request id.
    pub request_id: Option<String>,
}

/// The request of ModifySecurityGroupRules: rules of both directions of one group.
#[derive(Clone, Debug)]
pub struct ModifyRules {
    /// The group.
    pub group: GroupId,
    /// The rules, and what each is to be.
    pub changes: Vec<RuleChange>,
    /// Only ask whether it is permitted.
    pub dry_run: bool,
}

/// What EC2 says of a modification, or of an update of descriptions.
#[derive(Clone, Debug)]
pub struct Modified {
    /// `Return`, as EC2 says it.
    pub return_value: Option<bool>,
    /// EC2's request id.
    pub request_id: Option<String>,
}

/// The request of UpdateSecurityGroupRuleDescriptionsEgress or UpdateSecurityGroupRuleDescriptionsIngress.
#[derive(Clone, Debug)]
pub struct UpdateDescriptions {
    /// The group; by name in the default VPC.
    pub group: GroupRef,
    /// Which way.
    pub direction: Direction,
    /// The rules, and their new descriptions.
    pub updates: DescriptionUpdates,
    /// Only ask whether it is permitted.
    pub dry_run: bool,
}

/// Rules and their new descriptions. One that is missing removes what the rule has.
#[derive(Clone, Debug)]
pub enum DescriptionUpdates {
    /// By properties.
    Specs(Vec<RuleSpec>),
    /// By id.
    Ids(Vec<(RuleId, Option<String>)>),
}

/// The request of CreateSecurityGroup.
#[derive(Clone, Debug)]
pub struct CreateGroup {
    /// The name.
    pub name: String,
    /// The description.
    pub description: String,
    /// The VPC; none: the default one.
    pub vpc_id: Option<VpcId>,
    /// Tags for the group.
    pub tags: Vec<Tag>,
    /// Only ask whether it is permitted.
    pub dry_run: bool,
}

/// What EC2 says of a creation.
#[derive(Clone, Debug)]
pub struct Created {
    /// The new group's id.
    pub group_id: Option<String>,
    /// Its tags.
    pub tags: Vec<Tag>,
    /// Its ARN.
    pub arn: Option<String>,
    /// EC2's request id.
    pub request_id: Option<String>,
}

/// The request of DeleteSecurityGroup.
#[derive(Clone, Debug)]
pub struct DeleteGroup {
    /// The group.
    pub group: GroupRef,
    /// Only ask whether it is permitted.
    pub dry_run: bool,
}

/// What EC2 says of a deletion.
#[derive(Clone, Debug)]
pub struct Deleted {
    /// `Return`, as EC2 says it.
    pub return_value: Option<bool>,
    /// The group.
    pub group_id: Option<String>,
    /// EC2's request id.
    pub request_id: Option<String>,
}

/// Why there is no answer, or a refusal. The variants part what a caller must do next.
#[derive(Clone, Debug)]
pub enum BackendError {
    /// EC2 answered with an error code; a mutation had no effect. `DryRunOperation` is one of them.
    Refused(Refusal),
    /// Certainly not sent, or a read that failed: trying again can help.
    Unavailable(Failure),
    /// Our own AWS credentials are missing or expired. Nothing was sent.
    CredentialsUnavailable(Failure),
    /// A mutation was sent and no readable answer came: it may have had its effect.
    OutcomeUnknown(Failure),
    /// The deadline leaves no time for an attempt. Nothing was sent.
    DeadlineTooNear,
    /// EC2's budget has no slot in time for the deadline. Nothing was sent.
    BudgetExhausted {
        /// EC2's action.
        action: &'static str,
        /// Where.
        target: Target,
        /// After how long there would be one, as things are.
        wait: Duration,
    },
    /// No such account or Region here.
    TargetNotConfigured {
        /// What was asked for, for the message.
        asked: String,
    },
}

/// EC2's error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// EC2's code, such as `InvalidGroup.NotFound`. The contract; the message is not.
    pub code: String,
    /// EC2's message.
    pub message: String,
    /// EC2's request id.
    pub request_id: Option<String>,
}

/// A failure that is EC2's, the network's or ours.
#[derive(Clone, Debug)]
pub struct Failure {
    /// For the log; callers do not see it.
    pub detail: String,
    /// EC2's code, if it gave one.
    pub code: Option<String>,
    /// EC2's request id, if it gave one.
    pub request_id: Option<String>,
}

impl BackendError {
    /// EC2's request id, if it gave one.
    pub fn request_id(&self) -> Option<&String> {
        match self {
            Self::Refused(refusal) => refusal.request_id.as_ref(),
            Self::Unavailable(failure)
            | Self::CredentialsUnavailable(failure)
            | Self::OutcomeUnknown(failure) => failure.request_id.as_ref(),
            Self::DeadlineTooNear
            | Self::BudgetExhausted { .. }
            | Self::TargetNotConfigured { .. } => None,
        }
    }
}

impl Refusal {
    /// A refusal with EC2's code and message.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), request_id: None }
    }
}

impl From<Refusal> for BackendError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Failure {
    /// A failure of which only a detail for the log is known.
    pub fn new(detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), code: None, request_id: None }
    }
}
