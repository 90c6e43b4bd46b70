//! The reads that an image is made of.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Ec2,
    client::Kind,
    given, id_or_name,
    translate::{self, Asked},
    unreadable,
};
use crate::{
    backend::{BackendError, CallContext, Failure, Filter, Group, Refusal},
    rule::{GroupId, GroupRef, Rule, Target, VpcId},
};

/// The largest page that EC2 gives.
const PAGE: i32 = 1000;

/// The most pages that one group's rules are read from: many times what EC2's quotas let a group have.
const MAX_PAGES: usize = 100;

/// EC2's code for a group that is not there.
const NO_GROUP: &str = "InvalidGroup.NotFound";

// === impl Ec2 ===

impl Ec2 {
    pub(super) async fn group(
        &self,
        call: &CallContext,
        target: &Target,
        group: &GroupRef,
    ) -> Result<Group, BackendError> {
        let (id, name) = id_or_name(group);
        let output = self
            .served(target)?
            .call(call, Kind::Read, |client, config| {
                client
                    .describe_security_groups()
                    .set_group_ids(id.map(|id| vec![id]))
                    .set_group_names(name.map(|name| vec![name]))
                    .customize()
                    .config_override(config)
                    .send()
            })
            .await?;
        match output.security_groups() {
            [found] => translate::group_of(found, &target.account).map_err(unreadable),
            // EC2 itself refuses; some that speak its protocol answer with an empty list.
            [] => {
                let message = format!("The security group '{group}' does not exist");
                Err(Refusal::new(NO_GROUP, message).into())
            }
            several => {
                let detail = format!("{} groups answer to {group}", several.len());
                Err(BackendError::Unavailable(Failure::new(detail)))
            }
        }
    }

    pub(super) async fn rules(
        &self,
        call: &CallContext,
        target: &Target,
        group: &GroupId,
    ) -> Result<Vec<Rule>, BackendError> {
        let served = self.served(target)?;
        let asked = Asked { account: &target.account, group: Some(group), direction: None };
        let filter = Filter { name: "group-id".to_owned(), values: vec![group.to_string()] };
        let mut rules = Vec::new();
        let mut token = None;
        for _ in 0..MAX_PAGES {
            let output = served
                .call(call, Kind::Read, |client, config| {
                    client
                        .describe_security_group_rules()
                        .set_filters(translate::filters(std::slice::from_ref(&filter)))
                        .max_results(PAGE)
                        .set_next_token(token.clone())
                        .customize()
                        .config_override(config)
                        .send()
                })
                .await?;
            for rule in output.security_group_rules() {
                rules.push(translate::owned_rule(rule, &asked).map_err(unreadable)?.rule);
            }
            let next = given(output.next_token);
            if next.is_none() {
                return Ok(rules);
            }
            if next == token {
                break;
            }
            token = next;
        }
        let detail = format!("the pages of the rules of {group} do not end");
        Err(BackendError::Unavailable(Failure::new(detail)))
    }

    /// Whether the VPC is the default one. None: it is not there to be asked for.
    async fn is_default(
        &self,
        call: &CallContext,
        target: &Target,
        vpc: &VpcId,
    ) -> Result<Option<bool>, BackendError> {
        if let Some(kind) = self.vpcs.get(target, vpc) {
            return Ok(Some(kind));
        }
        // The answer is for all callers: it is asked for in nobody's name.
        let call = CallContext { caller: None, ..call.clone() };
        let answer = self
            .served(target)?
            .call(&call, Kind::Read, |client, config| {
                client
                    .describe_vpcs()
                    .vpc_ids(vpc.as_str())
                    .customize()
                    .config_override(config)
                    .send()
            })
            .await;
        let kind = match answer {
            Ok(output) => output.vpcs().first().and_then(|vpc| vpc.is_default()),
            Err(BackendError::Refused(refusal)) if refusal.code == "InvalidVpcID.NotFound" => None,
            Err(error) => return Err(error),
        };
        if let Some(kind) = kind {
            self.vpcs.put(target, vpc, kind);
        }
        Ok(kind)
    }

    pub(super) async fn kind_of(
        &self,
        call: &CallContext,
        target: &Target,
        group: &Group,
    ) -> Result<Option<bool>, BackendError> {
        match &group.vpc_id {
            Some(vpc) => self.is_default(call, target, vpc).await,
            None => Ok(None),
        }
    }
}

// === impl VpcKinds ===

/// Whether VPCs are default ones. That practically never changes, and every image asks.
#[derive(Debug, Default)]
pub(super) struct VpcKinds(Mutex<HashMap<(Target, VpcId), (bool, Instant)>>);

impl VpcKinds {
    const LIFETIME: Duration = Duration::from_secs(5 * 60);
    const MOST: usize = 4096;

    fn get(&self, target: &Target, vpc: &VpcId) -> Option<bool> {
        let kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (kind, at) = kinds.get(&(target.clone(), vpc.clone()))?;
        (at.elapsed() < Self::LIFETIME).then_some(*kind)
    }

    fn put(&self, target: &Target, vpc: &VpcId, kind: bool) {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kinds.len() >= Self::MOST {
            kinds.retain(|_, (_, at)| at.elapsed() < Self::LIFETIME);
        }
        if kinds.len() >= Self::MOST {
            kinds.clear();
        }
        kinds.insert((target.clone(), vpc.clone()), (kind, Instant::now()));
    }
}
