//! Real EC2, by the AWS SDK. Read in this order: `open`, `client` (one call), `session` (in whose name), `errors` (what a
//! failure means), `denied` (what is not permitted), `translate` (the domain and the SDK's types), `read` (what an image
//! is made of).
//!
//! EC2 decides. Nothing is checked here that EC2 checks itself, and what it answers comes back as it is.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use aws_sdk_ec2::types::ResourceType;
use tokio::time::Instant;

use self::{
    client::{Kind, Served},
    errors::lost,
    read::VpcKinds,
    translate::{Asked, Unreadable},
};
use crate::{
    backend::{
        Answer, AuthorizeRules, Authorized, Backend, BackendError, CallContext, CreateGroup,
        Created, DeleteGroup, Deleted, DescribeGroups, DescribeRules, Failure, GroupImage,
        OwnedRule, Page, Refusal, RevokeRules, Revoked, Selection,
        standing::{Standing, TargetStanding},
    },
    rule::{AccountId, Direction, GroupId, GroupRef, Region, RuleId, Target, VpcId},
    telemetry::metrics::Metrics,
};

mod client;
mod denied;
mod errors;
mod held;
mod open;
mod read;
mod session;
mod traced;
mod translate;

/// What the EC2 backend is opened with.
#[derive(Clone, Debug)]
pub struct Ec2Settings {
    /// Where EC2 and STS are, if not at AWS.
    pub endpoint_url: Option<String>,
    /// The accounts and Regions that are served.
    pub targets: Vec<TargetSettings>,
    /// The account that a request without one means.
    pub default_account: Option<AccountId>,
    /// The Region that a request without one means.
    pub default_region: Option<Region>,
    /// How long one attempt may take. 10 s is a good value.
    pub attempt_timeout: Duration,
    /// How long a connection may take to be made, TLS included. 3 s is a good value.
    pub connect_timeout: Duration,
    /// Whether STS is asked what EC2 says in code when it does not permit a call, for the log.
    pub decode_authorization_messages: bool,
}

/// One account.
#[derive(Clone)]
pub struct TargetSettings {
    /// The account. None: that of the role, or of the credentials that are found.
    pub account: Option<AccountId>,
    /// Its Regions.
    pub regions: Vec<Region>,
    /// The role to assume there. None: the credentials that are found are used as they are.
    pub role_arn: Option<String>,
    /// The external id that the role asks for.
    pub external_id: Option<String>,
    /// Whether each caller's calls go out under a session of the role that names the caller. Needs a role.
    pub session_per_principal: bool,
}

/// EC2 in one or more accounts and Regions.
pub struct Ec2 {
    endpoint: Option<String>,
    read_lag: Duration,
    served: HashMap<Target, Served>,
    default_account: Option<AccountId>,
    default_region: Option<Region>,
    vpcs: VpcKinds,
}

// === impl TargetSettings ===

impl fmt::Debug for TargetSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An external id is not quite a secret, and nobody else's business all the same.
        f.debug_struct("TargetSettings")
            .field("account", &self.account)
            .field("regions", &self.regions)
            .field("role_arn", &self.role_arn)
            .field("external_id", &self.external_id.as_ref().map(|_| ".."))
            .field("session_per_principal", &self.session_per_principal)
            .finish()
    }
}

// === impl Ec2 ===

impl fmt::Debug for Ec2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut targets: Vec<String> = self.served.keys().map(Target::to_string).collect();
        targets.sort();
        f.debug_struct("Ec2")
            .field("endpoint", &self.endpoint)
            .field("targets", &targets)
            .finish_non_exhaustive()
    }
}

impl Ec2 {
    /// Counts what is called.
    #[must_use]
    pub fn counted(mut self, metrics: &Metrics) -> Self {
        for served in self.served.values_mut() {
            served.metrics = metrics.clone();
        }
        self
    }

    fn served(&self, target: &Target) -> Result<&Served, BackendError> {
        self.served.get(target).ok_or_else(|| not_configured(target.to_string()))
    }
}

impl Backend for Ec2 {
    fn identity(&self) -> String {
        format!("ec2/{}", self.endpoint.as_deref().unwrap_or("aws"))
    }

    fn resolve(
        &self,
        account: Option<AccountId>,
        region: Option<Region>,
    ) -> Result<Target, BackendError> {
        let asked = || {
            let account = account.as_ref().map_or("(no account)", AccountId::as_str);
            let region = region.as_ref().map_or("(no Region)", Region::as_str);
            not_configured(format!("{account}/{region}"))
        };
        let account = account
            .clone()
            .or_else(|| self.default_account.clone())
            .or_else(|| only(self.served.keys().map(|target| &target.account)))
            .ok_or_else(asked)?;
        let regions = self.served.keys().filter(|target| target.account == account);
        let region = region
            .clone()
            .or_else(|| self.default_region.clone())
            .or_else(|| only(regions.map(|target| &target.region)))
            .ok_or_else(asked)?;
        let target = Target { account, region };
        self.served(&target)?;
        Ok(target)
    }

    fn read_lag(&self) -> Duration {
        self.read_lag
    }

    fn standing(&self) -> Standing {
        let now = Instant::now();
        let one = |(target, served): (&Target, &Served)| served.seen.standing(target.clone(), now);
        let mut targets: Vec<TargetStanding> = self.served.iter().map(one).collect();
        targets.sort_by_cached_key(|one| one.target.to_string());
        Standing::Targets(targets)
    }

    fn image<'a>(
        &'a self,
        call: &'a CallContext,
        target: &'a Target,
        group: &'a GroupRef,
    ) -> Answer<'a, GroupImage> {
        Box::pin(async move {
            let (group, kind, rules) = match group {
                GroupRef::Id(id) => {
                    let group_and_kind = async {
                        let group = self.group(call, target, group).await?;
                        let kind = self.kind_of(call, target, &group).await?;
                        Ok::<_, BackendError>((group, kind))
                    };
                    let (group_and_kind, rules) =
                        tokio::join!(group_and_kind, self.rules(call, target, id));
                    // What EC2 says of the group comes first: without it there are just no rules.
                    let (group, kind) = group_and_kind?;
                    (group, kind, rules?)
                }
                GroupRef::Name(_) => {
                    let group = self.group(call, target, group).await?;
                    let (kind, rules) = tokio::join!(
                        self.kind_of(call, target, &group),
                        self.rules(call, target, &group.id)
                    );
                    (group, kind?, rules?)
                }
            };
            let (group, rules) = (Arc::new(group), Arc::new(rules));
            Ok(GroupImage { group, in_default_vpc: kind, rules })
        })
    }

    fn describe_groups<'a>(
        &'a self,
        call: &'a CallContext,
        target: &'a Target,
        request: &'a DescribeGroups,
    ) -> Answer<'a, Page<GroupImage>> {
        Box::pin(async move {
            let ids = request.group_ids.iter().map(GroupId::to_string);
            let output = self
                .served(target)?
                .call(call, Kind::Read, |client, config| {
                    client
                        .describe_security_groups()
                        .set_filters(translate::filters(&request.filters))
                        .set_group_ids(translate::some(ids))
                        .set_group_names(translate::some(request.group_names.iter().cloned()))
                        .set_next_token(request.next_token.clone())
                        .set_max_results(request.max_results)
                        .set_dry_run(request.dry_run.then_some(true))
                        .customize()
                        .config_override(config)
                        .send()
                })
                .await?;
            let groups = output.security_groups().iter();
            let items = groups
                .map(|group| translate::listed_group(group, &target.account))
                .collect::<Result<Vec<GroupImage>, Unreadable>>()
                .map_err(unreadable)?;
            Ok(Page { items, next_token: given(output.next_token) })
        })
    }

    fn describe_rules<'a>(
        &'a self,
        call: &'a CallContext,
        target: &'a Target,
        request: &'a DescribeRules,
    ) -> Answer<'a, Page<OwnedRule>> {
        Box::pin(async move {
            let ids = request.rule_ids.iter().map(RuleId::to_string);
            let output = self
                .served(target)?
                .call(call, Kind::Read, |client, config| {
                    client
                        .describe_security_group_rules()
                        .set_filters(translate::filters(&request.filters))
                        .set_security_group_rule_ids(translate::some(ids))
                        .set_next_token(request.next_token.clone())
                        .set_max_results(request.max_results)
                        .set_dry_run(request.dry_run.then_some(true))
                        .customize()
                        .config_override(config)
                        .send()
                })
                .await?;
            let asked = Asked { account: &target.account, group: None, direction: None };
            let items = output
                .security_group_rules()
                .iter()
                .map(|rule| translate::owned_rule(rule, &asked))
                .collect::<Result<Vec<OwnedRule>, Unreadable>>()
                .map_err(unreadable)?;
            Ok(Page { items, next_token: given(output.next_token) })
        })
    }

    fn revoke<'a>(
        &'a self,
        call: &'a CallContext,
        target: &'a Target,
        request: &'a RevokeRules,
    ) -> Answer<'a, Revoked> {
        Box::pin(async move {
            let served = self.served(target)?;
            let (id, name) = id_or_name(&request.group);
            let (permissions, ids) = match &request.selection {
                Selection::Specs(specs) => (translate::some(translate::permissions(specs)), None),
                Selection::Ids(ids) => (None, translate::some(ids.iter().map(RuleId::to_string))),
            };
            let dry_run = request.dry_run.then_some(true);
            let kind = Kind::Mutation { dry_run: request.dry_run };
            // The two outputs are alike, and not one type.
            macro_rules! revoked {
                ($output:expr) => {{
                    let output = $output;
                    let request_id = request_id(&output);
                    Ok(Revoked {
                        return_value: output.r#return,
                        unknown: output
                            .unknown_ip_permissions()
                            .iter()
                            .map(translate::ip_permission)
                            .collect(),
                        revoked: output
                            .revoked_security_group_rules
                            .unwrap_or_default()
                            .into_iter()
                            .map(translate::revoked_rule)
                            .collect(),
                        request_id,
                    })
                }};
            }
            match request.direction {
                Direction::Egress => {
                    let id = Some(egress_group(&request.group)?);
                    let sent = served.call(call, kind, |client, config| {
                        client
                            .revoke_security_group_egress()
                            .set_group_id(id)
                            .set_ip_permissions(permissions)
                            .set_security_group_rule_ids(ids)
                            .set_dry_run(dry_run)
                            .customize()
                            .config_override(config)
                            .send()
                    });
                    revoked!(sent.await?)
                }
                Direction::Ingress => {
                    let sent = served.call(call, kind, |client, config| {
                        client
                            .revoke_security_group_ingress()
                            .set_group_id(id)
                            .set_group_name(name)
                            .set_ip_permissions(permissions)
                            .set_security_group_rule_ids(ids)
                            .set_dry_run(dry_run)
                            .customize()
                            .config_override(config)
                            .send()
                    });
                    revoked!(sent.await?)
                }
            }
        })
    }

    fn authorize<'a>(
        &'a self,
        call: &'a CallContext,
        target: &'a Target,
        request: &'a AuthorizeRules,
    ) -> Answer<'a, Authorized> {
        Box::pin(async move {
            let served = self.served(target)?;
            let (id, name) = id_or_name(&request.group);
            let permissions = translate::some(translate::permissions(&request.specs));
            let tags =
                translate::tag_specifications(ResourceType::SecurityGroupRule, &request.tags);
            let dry_run = request.dry_run.then_some(true);
            let kind = Kind::Mutation { dry_run: request.dry_run };
            let (return_value, rules, request_id) = match request.direction {
                Direction::Egress => {
                    let id = Some(egress_group(&request.group)?);
                    let sent = served.call(call, kind, |client, config| {
                        client
                            .authorize_security_group_egress()
                            .set_group_id(id)
                            .set_ip_permissions(permissions)
                            .set_tag_specifications(tags)
                            .set_dry_run(dry_run)
                            .customize()
                            .config_override(config)
                            .send()
                    });
                    let output = sent.await?;
                    let request_id = request_id(&output);
                    (output.r#return, output.security_group_rules, request_id)
                }
                Direction::Ingress => {
                    let sent = served.call(call, kind, |client, config| {
                        client
                            .authorize_security_group_ingress()
                            .set_group_id(id)
                            .set_group_name(name)
                            .set_ip_permissions(permissions)
                            .set_tag_specifications(tags)
                            .set_dry_run(dry_run)
                            .customize()
                            .config_override(config)
                            .send()
                    });
                    let output = sent.await?;
                    let request_id = request_id(&output);
                    (output.r#return, output.security_group_rules, request_id)
                }
            };
            let group = match &request.group {
                GroupRef::Id(id) => Some(id),
                GroupRef::Name(_) => None,
            };
            let direction = Some(request.direction);
            let asked = Asked { account: &target.account, group, direction };
            let rules = rules
                .unwrap_or_default()
                .iter()
                .map(|rule| translate::owned_rule(rule, &asked))
                .collect::<Result<Vec<OwnedRule>, Unreadable>>()
                // The rules are there: EC2 said so. Which, a read must tell.
                .map_err(|Unreadable(what)| lost(Failure::new(what), true))?;
            Ok(Authorized { return_value, rules, request_id })
        })
    }

    fn create_group<'a>(
        &'a self,
        call: &'a CallContext,
        target: &'a Target,
        request: &'a CreateGroup,
    ) -> Answer<'a, Created> {
        Box::pin(async move {
            let kind = Kind::Mutation { dry_run: request.dry_run };
            let tags = translate::tag_specifications(ResourceType::SecurityGroup, &request.tags);
            let output = self
                .served(target)?
                .call(call, kind, |client, config| {
                    client
                        .create_security_group()
                        .group_name(&request.name)
                        .description(&request.description)
                        .set_vpc_id(request.vpc_id.as_ref().map(VpcId::to_string))
                        .set_tag_specifications(tags)
                        .set_dry_run(request.dry_run.then_some(true))
                        .customize()
                        .config_override(config)
                        .send()
                })
                .await?;
            let request_id = request_id(&output);
            let tags = translate::tags(output.tags());
            let (group_id, arn) = (output.group_id, output.security_group_arn);
            Ok(Created { group_id, tags, arn, request_id })
        })
    }

    fn delete_group<'a>(
        &'a self,
        call: &'a CallContext,
        target: &'a Target,
        request: &'a DeleteGroup,
    ) -> Answer<'a, Deleted> {
        Box::pin(async move {
            let kind = Kind::Mutation { dry_run: request.dry_run };
            let (id, name) = id_or_name(&request.group);
            let output = self
                .served(target)?
                .call(call, kind, |client, config| {
                    client
                        .delete_security_group()
                        .set_group_id(id)
                        .set_group_name(name)
                        .set_dry_run(request.dry_run.then_some(true))
                        .customize()
                        .config_override(config)
                        .send()
                })
                .await?;
            let request_id = request_id(&output);
            let (return_value, group_id) = (output.r#return, output.group_id);
            Ok(Deleted { return_value, group_id, request_id })
        })
    }
}

// === helpers ===

fn not_configured(asked: String) -> BackendError {
    BackendError::TargetNotConfigured { asked }
}

/// A read with something in it that the domain has no place for: no image is better than one with a rule less.
fn unreadable(Unreadable(what): Unreadable) -> BackendError {
    BackendError::Unavailable(Failure::new(format!("cannot read what EC2 describes: {what}")))
}

fn id_or_name(group: &GroupRef) -> (Option<String>, Option<String>) {
    match group {
        GroupRef::Id(id) => (Some(id.to_string()), None),
        GroupRef::Name(name) => (None, Some(name.clone())),
    }
}

/// The egress actions know no group names. EC2 would miss the id, and says so in these words.
fn egress_group(group: &GroupRef) -> Result<String, BackendError> {
    match group {
        GroupRef::Id(id) => Ok(id.to_string()),
        GroupRef::Name(_) => {
            let message = "The request must contain the parameter groupId";
            Err(Refusal::new("MissingParameter", message).into())
        }
    }
}

fn request_id(output: &impl aws_sdk_ec2::operation::RequestId) -> Option<String> {
    output.request_id().map(str::to_owned)
}

fn given(token: Option<String>) -> Option<String> {
    token.filter(|token| !token.is_empty())
}

/// The one value that all are, if they are one.
fn only<'a, T: Clone + PartialEq + 'a>(mut values: impl Iterator<Item = &'a T>) -> Option<T> {
    let first = values.next()?;
    values.all(|value| value == first).then(|| first.clone())
}
