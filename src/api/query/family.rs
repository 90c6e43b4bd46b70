//! The security-group actions that the gRPC API does not have yet: changing rules in place.

use super::{Answered, Ask, Reply, Trouble, form::Fields, groups, xml::Element};
use crate::{
    backend::{DescriptionUpdates, Modified, ModifyRules, Refusal, UpdateDescriptions},
    rule::{
        Direction, GroupId, GroupRef, RuleId,
        change::{self, RuleRequest},
        is_valid_description,
        permission::{excerpt, given, invalid_description, malformed_group_id},
    },
};

/// The most rules of one request.
const MAX_RULES: usize = crate::rule::permission::MAX_RULES;

/// ModifySecurityGroupRules.
pub async fn modify_rules(ask: &Ask<'_>, mut fields: Fields) -> Reply {
    let group = fields.text("GroupId");
    let updates = fields.list("SecurityGroupRule", |update| {
        let id = update.text("SecurityGroupRuleId");
        Ok((id, update.structure("SecurityGroupRule", rule_request)?))
    })?;
    let dry_run = fields.flag("DryRun")?.unwrap_or_default();
    fields.finish()?;
    let group = group_id(group.as_deref())?;
    let changes = change::changes("security_group_rules", &updates)
        .map_err(|violations| groups::first(&violations))?;
    let request = ModifyRules { group, changes, dry_run };
    done(ask.sandbox.modify_rules(&ask.call, &ask.target, &request).await?)
}

/// UpdateSecurityGroupRuleDescriptionsEgress and UpdateSecurityGroupRuleDescriptionsIngress.
pub async fn update_descriptions(ask: &Ask<'_>, mut fields: Fields, direction: Direction) -> Reply {
    let (id, name) = (fields.text("GroupId"), fields.text("GroupName"));
    let permissions = groups::permissions(&mut fields)?;
    let described = fields.list("SecurityGroupRuleDescription", |rule| {
        Ok((rule.text("SecurityGroupRuleId"), rule.text("Description")))
    })?;
    let dry_run = fields.flag("DryRun")?.unwrap_or_default();
    fields.finish()?;
    let group = match (given(id.as_deref()), given(name.as_deref())) {
        (None, None) => return Err(missing("groupName or groupId")),
        (Some(_), Some(_)) => {
            let message = "The parameter 'groupName' may not be used in combination with 'groupId'";
            return Err(Refusal::new("InvalidParameterCombination", message).into());
        }
        (id @ Some(_), None) => GroupRef::Id(group_id(id)?),
        (None, Some(name)) => GroupRef::Name(name.to_owned()),
    };
    let updates = match (permissions.is_empty(), described.is_empty()) {
        (true, true) => {
            let message =
                "Either 'ipPermissions' or 'securityGroupRuleDescriptions' should be provided.";
            return Err(Refusal::new("MissingParameter", message).into());
        }
        (false, false) => {
            let message = "The parameter 'securityGroupRuleDescriptions' may not be used in \
                           combination with 'ipPermissions'";
            return Err(Refusal::new("InvalidParameterCombination", message).into());
        }
        (false, true) => {
            let specs = change::described("ip_permissions", &permissions)
                .map_err(|violations| groups::first(&violations))?;
            DescriptionUpdates::Specs(specs)
        }
        (true, false) => DescriptionUpdates::Ids(by_id(described)?),
    };
    let request = UpdateDescriptions { group, direction, updates, dry_run };
    done(ask.sandbox.update_descriptions(&ask.call, &ask.target, &request).await?)
}

fn done(modified: Modified) -> Reply {
    let body = vec![Element::text("return", modified.return_value.unwrap_or_default())];
    Ok(Answered { request_id: modified.request_id, body })
}

fn rule_request(fields: &mut Fields) -> Result<RuleRequest, Refusal> {
    Ok(RuleRequest {
        ip_protocol: fields.text("IpProtocol"),
        from_port: fields.number("FromPort")?,
        to_port: fields.number("ToPort")?,
        cidr_ipv4: fields.text("CidrIpv4"),
        cidr_ipv6: fields.text("CidrIpv6"),
        prefix_list_id: fields.text("PrefixListId"),
        referenced_group_id: fields.text("ReferencedGroupId"),
        description: fields.text("Description"),
    })
}

fn group_id(text: Option<&str>) -> Result<GroupId, Trouble> {
    let text = given(text).ok_or_else(|| missing("groupId"))?;
    GroupId::parse(text)
        .ok_or_else(|| Refusal::new("InvalidGroupId.Malformed", malformed_group_id(text)).into())
}

fn by_id(
    described: Vec<(Option<String>, Option<String>)>,
) -> Result<Vec<(RuleId, Option<String>)>, Refusal> {
    if described.len() > MAX_RULES {
        let message = format!("{} rules; at most {MAX_RULES} are allowed.", described.len());
        return Err(Refusal::new("ResourceCountExceeded", message));
    }
    let check = |(id, text): (Option<String>, Option<String>)| {
        let id = id.unwrap_or_default();
        let Some(id) = RuleId::parse(&id) else {
            let message = format!("Invalid id: \"{}\"", excerpt(&id));
            return Err(Refusal::new("InvalidSecurityGroupRuleId.Malformed", message));
        };
        let text = text.filter(|text| !text.is_empty());
        if text.as_ref().is_some_and(|text| !is_valid_description(text, true)) {
            return Err(Refusal::new("InvalidParameterValue", invalid_description(true)));
        }
        Ok((id, text))
    };
    described.into_iter().map(check).collect()
}

fn missing(parameter: &str) -> Trouble {
    let message = format!("The request must contain the parameter {parameter}");
    Refusal::new("MissingParameter", message).into()
}
