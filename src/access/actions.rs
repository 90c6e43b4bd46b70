//! Every RPC that can be called, and the action that policies decide it by. The start refuses if one is missing
//! (`api/methods.rs` compares this table with the descriptors).

/// What a policy's `action` can be, less the groups of actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the RPC of that name, but for the first two")]
pub enum Action {
    /// Working in a Target at all.
    Access,
    /// Having incident response's lane to EC2 in a Target. A privilege: without it a call is served, too.
    UseIncidentLane,
    RevokeEgress,
    AuthorizeEgress,
    RevokeIngress,
    AuthorizeIngress,
    DescribeSecurityGroupRules,
    DescribeSecurityGroups,
    CreateSecurityGroup,
    DeleteSecurityGroup,
    LoadState,
    GetState,
    Reset,
    InjectFault,
    ClearFaults,
    GetOperation,
    ListOperations,
    SettleOperation,
}

/// How an RPC is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// By policies, as this action.
    Decided(Action),
    /// Not by policies. Authentication alone says who may call it.
    Open,
}

use Action as A;
use Entry::{Decided, Open};

/// A line of the table: service, method, how it is decided.
pub type Row = (&'static str, &'static str, Entry);

/// The table.
pub const TABLE: &[Row] = &[
    (GROUPS, "RevokeEgress", Decided(A::RevokeEgress)),
    (GROUPS, "AuthorizeEgress", Decided(A::AuthorizeEgress)),
    (GROUPS, "RevokeIngress", Decided(A::RevokeIngress)),
    (GROUPS, "AuthorizeIngress", Decided(A::AuthorizeIngress)),
    (GROUPS, "DescribeSecurityGroupRules", Decided(A::DescribeSecurityGroupRules)),
    (GROUPS, "DescribeSecurityGroups", Decided(A::DescribeSecurityGroups)),
    (GROUPS, "CreateSecurityGroup", Decided(A::CreateSecurityGroup)),
    (GROUPS, "DeleteSecurityGroup", Decided(A::DeleteSecurityGroup)),
    (SANDBOX, "LoadState", Decided(A::LoadState)),
    (SANDBOX, "GetState", Decided(A::GetState)),
    (SANDBOX, "Reset", Decided(A::Reset)),
    (SANDBOX, "InjectFault", Decided(A::InjectFault)),
    (SANDBOX, "ClearFaults", Decided(A::ClearFaults)),
    (OPERATIONS, "GetOperation", Decided(A::GetOperation)),
    (OPERATIONS, "ListOperations", Decided(A::ListOperations)),
    (OPERATIONS, "SettleOperation", Decided(A::SettleOperation)),
    // They tell whether the server works and what its interface is: nothing of any account.
    ("grpc.health.v1.Health", "Check", Open),
    ("grpc.health.v1.Health", "Watch", Open),
    ("grpc.reflection.v1.ServerReflection", "ServerReflectionInfo", Open),
    ("grpc.reflection.v1alpha.ServerReflection", "ServerReflectionInfo", Open),
];

const GROUPS: &str = "portcullis.v1.SecurityGroupService";
const OPERATIONS: &str = "portcullis.v1.OperationService";
const SANDBOX: &str = "portcullis.sandbox.v1.SandboxService";

/// How an RPC is decided. None: it is not in the table, so that it must not be served.
pub fn entry(service: &str, method: &str) -> Option<Entry> {
    let found = TABLE.iter().find(|(of, name, _)| *of == service && *name == method);
    found.map(|(_, _, entry)| *entry)
}

impl Action {
    /// Its name in policies.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::UseIncidentLane => "UseIncidentLane",
            Self::RevokeEgress => "RevokeEgress",
            Self::AuthorizeEgress => "AuthorizeEgress",
            Self::RevokeIngress => "RevokeIngress",
            Self::AuthorizeIngress => "AuthorizeIngress",
            Self::DescribeSecurityGroupRules => "DescribeSecurityGroupRules",
            Self::DescribeSecurityGroups => "DescribeSecurityGroups",
            Self::CreateSecurityGroup => "CreateSecurityGroup",
            Self::DeleteSecurityGroup => "DeleteSecurityGroup",
            Self::LoadState => "LoadState",
            Self::GetState => "GetState",
            Self::Reset => "Reset",
            Self::InjectFault => "InjectFault",
            Self::ClearFaults => "ClearFaults",
            Self::GetOperation => "GetOperation",
            Self::ListOperations => "ListOperations",
            Self::SettleOperation => "SettleOperation",
        }
    }

    /// The action of that name, if an RPC has it or it is one that callers are given beside their RPCs.
    pub fn parse(name: &str) -> Option<Self> {
        if name == Self::UseIncidentLane.as_str() {
            return Some(Self::UseIncidentLane);
        }
        TABLE.iter().find_map(|(_, _, entry)| match entry {
            Decided(action) if action.as_str() == name => Some(*action),
            Decided(_) | Open => None,
        })
    }
}
