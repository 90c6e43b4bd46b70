//! A message, as bytes or spoiled bytes, through decoding and the sandbox.

use std::collections::HashSet;

use portcullis::{
    api::{decode, status},
    backend::{Backend, BackendError, GroupImage, RevokeRules, Selection},
    error::Error,
    operations::Command,
    rule::{GroupRef, RuleId, RuleKey, RuleSpec, Violation, expand, group},
};
use rand::rngs::StdRng;

use super::{
    Tally, World,
    make::{Message, message, once_in, spoil},
    world::{check, same},
};

/// The most violations that a request can have: those of its permissions, and a few for each other part.
const MAX_VIOLATIONS: usize = 5000;

pub(super) fn one(world: &World, random: &mut StdRng, tally: &mut Tally) {
    let before = world.images();
    let made = message(random, &World::known(&before), &World::existing(&before));
    let spoiled = once_in(random, 5);
    let end = match decode(random, made, spoiled) {
        None => "not protobuf",
        Some(Err(violations)) => {
            refused(violations);
            "refused"
        }
        Some(Ok(decoded)) => run(world, &before, decoded.command),
    };
    let after = world.images();
    check(&after, &before);
    if !matches!(end, "revoked" | "authorized" | "created" | "deleted") {
        assert!(same(&before, &after), "{end}, but something changed");
    }
    *tally.entry(end).or_default() += 1;
}

/// As the server decodes it. None: these bytes are no such message.
fn decode(random: &mut StdRng, made: Message, spoiled: bool) -> Option<decode::Result> {
    fn through<M: prost::Message + Default>(
        random: &mut StdRng,
        made: &M,
        spoiled: bool,
    ) -> Option<M> {
        let mut bytes = made.encode_to_vec();
        if spoiled {
            spoil(random, &mut bytes);
        }
        let decoded = M::decode(bytes.as_slice());
        assert!(spoiled || decoded.is_ok());
        decoded.ok()
    }
    Some(match made {
        Message::RevokeEgress(made) => decode::revoke_egress(through(random, &made, spoiled)?),
        Message::RevokeIngress(made) => decode::revoke_ingress(through(random, &made, spoiled)?),
        Message::AuthorizeEgress(made) => {
            decode::authorize_egress(through(random, &made, spoiled)?)
        }
        Message::AuthorizeIngress(made) => {
            decode::authorize_ingress(through(random, &made, spoiled)?)
        }
        Message::DescribeRules(made) => decode::describe_rules(through(random, &made, spoiled)?),
        Message::DescribeGroups(made) => decode::describe_groups(through(random, &made, spoiled)?),
        Message::Create(made) => decode::create(through(random, &made, spoiled)?),
        Message::Delete(made) => decode::delete(through(random, &made, spoiled)?),
    })
}

/// A refusal names fields, repeats little of what it was given, and fits into an answer.
fn refused(violations: Vec<Violation>) {
    assert!((1..=MAX_VIOLATIONS).contains(&violations.len()), "{}", violations.len());
    for Violation { field, code, message } in &violations {
        assert!(!field.is_empty() && !code.is_empty(), "{message}");
        assert!(!message.is_empty() && message.len() < 2048, "{field}: {message}");
        assert!(!message.contains(|character: char| character.is_control()), "{message:?}");
    }
    let status = status::encode(Error::invalid(violations), "request");
    assert!(status.details().len() + status.message().len() <= 6 << 10);
}

fn run(world: &World, before: &[GroupImage], command: Command) -> &'static str {
    let (sandbox, runtime) = (&world.sandbox, &world.runtime);
    let (call, target) = (world.call(), world.target());
    let error = |error: BackendError| match error {
        BackendError::Refused(refusal) => {
            assert!(!refusal.code.is_empty() && !refusal.message.is_empty());
            assert!(refusal.message.len() < 2048, "{}", refusal.message);
            if refusal.code == "DryRunOperation" { "dry run" } else { "EC2's error" }
        }
        other => panic!("{other:?}"),
    };
    match command {
        Command::Revoke(request) => {
            let request = RevokeRules {
                group: request.group,
                direction: request.direction,
                selection: request.selection,
                dry_run: request.dry_run,
            };
            normal(&request.selection);
            match runtime.block_on(sandbox.revoke(&call, &target, &request)) {
                Err(refused) => error(refused),
                Ok(revoked) => {
                    let gone: HashSet<RuleId> = revoked
                        .revoked
                        .iter()
                        .map(|rule| RuleId::new(rule.security_group_rule_id.as_ref().unwrap()))
                        .collect();
                    let unknown = revoked.unknown.iter().map(|permission| permission.peers());
                    let unknown: usize = unknown.sum();
                    let asked = match &request.selection {
                        Selection::Specs(specs) => specs.len(),
                        Selection::Ids(ids) => ids.len(),
                    };
                    assert_eq!(gone.len() + unknown, asked, "each rule went or is unknown");
                    let (was, is) = (image(before, &request.group), world.images());
                    let is = image(&is, &request.group);
                    assert!(unknown == 0 || was.in_default_vpc == Some(true));
                    let left = was.rules.iter().filter(|rule| !gone.contains(&rule.id));
                    assert!(left.eq(is.rules.iter()), "what was not revoked stays");
                    assert!(was.rules.len() - is.rules.len() == gone.len());
                    if gone.is_empty() { "nothing revoked" } else { "revoked" }
                }
            }
        }
        Command::Authorize(request) => {
            let request = request.rules;
            match runtime.block_on(sandbox.authorize(&call, &target, &request)) {
                Err(refused) => error(refused),
                Ok(authorized) => {
                    let (was, is) = (image(before, &request.group), world.images());
                    let is = image(&is, &request.group);
                    assert_eq!(authorized.rules.len(), request.specs.len());
                    let added = authorized.rules.iter().map(|owned| &owned.rule);
                    assert!(was.rules.iter().chain(added).eq(is.rules.iter()));
                    "authorized"
                }
            }
        }
        Command::DescribeGroups(request) => {
            let page = runtime.block_on(sandbox.describe_groups(&call, &target, &request));
            page.map_or_else(error, |_| "described")
        }
        Command::DescribeRules(request) => {
            let page = runtime.block_on(sandbox.describe_rules(&call, &target, &request));
            page.map_or_else(error, |_| "described")
        }
        Command::Create(request) => {
            let created = runtime.block_on(sandbox.create_group(&call, &target, &request.0));
            created.map_or_else(error, |_| "created")
        }
        Command::Delete(request) => {
            let deleted = runtime.block_on(sandbox.delete_group(&call, &target, &request.0));
            deleted.map_or_else(error, |_| "deleted")
        }
    }
}

/// What passed the checks is in normal form: grouping and expanding it again gives the same rules.
fn normal(selection: &Selection) {
    let Selection::Specs(specs) = selection else { return };
    let again = expand("again", &group(specs)).unwrap();
    let keys = |specs: &[RuleSpec]| specs.iter().map(RuleSpec::key).collect::<HashSet<RuleKey>>();
    assert_eq!(keys(specs), keys(&again));
    assert_eq!(specs.len(), again.len());
}

fn image<'a>(images: &'a [GroupImage], asked: &GroupRef) -> &'a GroupImage {
    let found = images.iter().find(|image| match asked {
        GroupRef::Id(id) => image.group.id == *id,
        GroupRef::Name(name) => {
            image.in_default_vpc == Some(true) && image.group.name.eq_ignore_ascii_case(name)
        }
    });
    found.unwrap()
}
