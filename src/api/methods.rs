//! The RPCs that the descriptors hold, against the table of how each is decided.

use prost::Message as _;
use prost_types::FileDescriptorSet;

use super::proto::FILE_DESCRIPTOR_SET;
use crate::access::actions;

/// The calls that change something. Whatever else there is only reads.
pub const MUTATIONS: &[&str] = &[
    "/portcullis.v1.SecurityGroupService/AuthorizeEgress",
    "/portcullis.v1.SecurityGroupService/AuthorizeIngress",
    "/portcullis.v1.SecurityGroupService/CreateSecurityGroup",
    "/portcullis.v1.SecurityGroupService/DeleteSecurityGroup",
    "/portcullis.v1.SecurityGroupService/RevokeEgress",
    "/portcullis.v1.SecurityGroupService/RevokeIngress",
    "/portcullis.v1.OperationService/SettleOperation",
    "/portcullis.sandbox.v1.SandboxService/ClearFaults",
    "/portcullis.sandbox.v1.SandboxService/InjectFault",
    "/portcullis.sandbox.v1.SandboxService/LoadState",
    "/portcullis.sandbox.v1.SandboxService/Reset",
];

/// Whether a call to this path may change something.
pub fn is_change(path: &str) -> bool {
    MUTATIONS.contains(&path)
}

/// Every RPC that a server of this build can serve, as service and method.
pub fn all() -> Result<Vec<(String, String)>, String> {
    let sets = [
        FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let mut methods = Vec::new();
    for set in sets {
        let set = FileDescriptorSet::decode(set).map_err(|error| error.to_string())?;
        for file in set.file {
            for service in file.service {
                let name =
                    format!("{}.{}", file.package.as_deref().unwrap_or_default(), service.name());
                let of_service = service.method.iter();
                methods.extend(of_service.map(|method| (name.clone(), method.name().to_owned())));
            }
        }
    }
    Ok(methods)
}

/// An error if there is an RPC that nobody said how to decide: then nothing starts.
pub fn check() -> Result<(), String> {
    let missing: Vec<String> = all()?
        .into_iter()
        .filter(|(service, method)| actions::entry(service, method).is_none())
        .map(|(service, method)| format!("{service}/{method}"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!("the table of actions lacks {}", missing.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rpc_is_in_the_table_and_nothing_else_is() {
        assert_eq!(check(), Ok(()));
        let all = all().unwrap();
        assert!(all.len() >= 17, "{all:?}");
        for (service, method, _) in actions::TABLE {
            let known = all.iter().any(|(of, name)| of == service && name == method);
            assert!(known, "{service}/{method} is no RPC");
        }
    }
}
