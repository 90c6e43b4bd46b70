//! The RPCs that the descriptors hold, against the table of how each is decided.

use std::{collections::HashMap, sync::Arc};

use prost::Message as _;
use prost_types::FileDescriptorSet;

use super::proto::FILE_DESCRIPTOR_SET;
use crate::access::actions::{self, Row};

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

/// The name of each RPC that there is, by its path.
pub fn names() -> HashMap<String, Arc<str>> {
    let rows = actions::TABLE.iter();
    rows.map(|(service, method, _)| {
        let name = format!("{service}/{method}");
        (format!("/{name}"), name.into())
    })
    .collect()
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
    check_table(actions::TABLE)
}

/// The same of any table: each RPC is in it once, and nothing else is.
pub fn check_table(table: &[Row]) -> Result<(), String> {
    let path = |service: &str, method: &str| format!("{service}/{method}");
    let rpcs: Vec<String> = all()?.iter().map(|(service, method)| path(service, method)).collect();
    let rows: Vec<String> =
        table.iter().map(|(service, method, _)| path(service, method)).collect();
    let times = |rpc: &String| rows.iter().filter(|row| *row == rpc).count();
    let lacking = rpcs.iter().filter(|rpc| times(rpc) == 0).map(|rpc| format!("lacks {rpc}"));
    let double =
        rpcs.iter().filter(|rpc| times(rpc) > 1).map(|rpc| format!("has {rpc} more than once"));
    let strange = rows
        .iter()
        .filter(|row| !rpcs.contains(row))
        .map(|row| format!("has {row}, which is no RPC"));
    let faults: Vec<String> = lacking.chain(double).chain(strange).collect();
    if faults.is_empty() {
        return Ok(());
    }
    Err(format!("the table of actions {}", faults.join("; it ")))
}
