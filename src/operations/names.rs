//! Peers that are groups by name become groups by id, so that matching and policies see what they are.

use std::collections::{HashMap, HashSet};

use super::Work;
use crate::{
    backend::{GroupImage, Refusal},
    error::{Error, Reason},
    rule::{GroupId, GroupRef, Peer, RuleSpec, permission::SAME_TWICE},
};

/// In a default VPC a peer may be a group by name. A name that is not found stays, for EC2 to refuse.
///
/// Where policies decide, nothing that they could not see must reach EC2: then what comes back is the refusal of the
/// first name that is not found, to be given once the rest was decided.
pub(super) async fn resolve(
    work: &Work<'_>,
    image: &GroupImage,
    specs: &mut [RuleSpec],
) -> Result<Option<Error>, Error> {
    // Where it is not known what VPC it is, EC2 may take a name.
    let takes_names = match image.in_default_vpc {
        Some(known) => known,
        None => work.access.decides(),
    };
    if !takes_names {
        return Ok(None);
    }
    let mut known = HashMap::<String, Option<GroupId>>::new();
    let mut refusal = None;
    for spec in specs {
        let Peer::Group(peer) = &mut spec.peer else { continue };
        let (None, Some(name)) = (&peer.group_id, &peer.group_name) else { continue };
        if !known.contains_key(name) {
            let group = GroupRef::Name(name.clone());
            let id = match work.backend.image(&work.context, &work.target, &group).await {
                Ok(found) => Some(found.group.id.clone()),
                Err(error) => match Error::from_backend(error, name) {
                    Error { reason: Reason::InvalidGroupNotFound, .. } => None,
                    error => return Err(error),
                },
            };
            known.insert(name.clone(), id);
        }
        match known.get(name).cloned().flatten() {
            Some(id) => peer.group_id = Some(id),
            None if work.access.enforces() && refusal.is_none() => {
                let code = "InvalidGroup.NotFound";
                let message = format!("The security group '{name}' does not exist");
                let mut error = Error::from_backend(Refusal::new(code, message).into(), name);
                // Nothing was sent, and EC2 said nothing of it.
                error.ec2 = None;
                refusal = Some(error);
            }
            None => {}
        }
    }
    Ok(refusal)
}

/// Refuses the same rule twice, which shows only once names are ids (R30). Where EC2 gets what was asked it does so itself.
pub(super) fn refuse_repeated(specs: &[RuleSpec]) -> Result<(), Error> {
    let mut seen = HashSet::with_capacity(specs.len());
    if specs.iter().all(|spec| seen.insert(spec.key())) {
        return Ok(());
    }
    let refusal = Refusal::new("InvalidParameterValue", SAME_TWICE);
    // Nothing was sent, and EC2 said nothing of it.
    Err(Error { ec2: None, ..Error::from_backend(refusal.into(), "") })
}
