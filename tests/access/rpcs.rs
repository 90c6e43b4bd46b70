//! Every RPC of the descriptors is in the table of actions, and the start fails if one is not.

use portcullis::{
    access::{
        Access, Mode, Policies,
        actions::{self, Entry, Row},
    },
    api::{
        methods,
        proto::{
            sandbox::v1 as sandbox,
            v1::{self, operation_service_client::OperationServiceClient},
        },
    },
};
use prost::Message as _;
use prost_types::FileDescriptorProto;
use tonic::{Code, Request};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use super::support::{self, Server};

/// The table without the rows that this is true of.
fn without(is_out: impl Fn(usize, &Row) -> bool) -> Vec<Row> {
    let rows = actions::TABLE.iter().enumerate();
    rows.filter(|(at, row)| !is_out(*at, row)).map(|(_, row)| *row).collect()
}

#[test]
fn the_start_fails_for_each_rpc_that_has_no_action() {
    assert_eq!(methods::check_table(actions::TABLE), Ok(()));
    for (at, (service, method, _)) in actions::TABLE.iter().enumerate() {
        let fault = methods::check_table(&without(|other, _| other == at)).unwrap_err();
        assert_eq!(fault, format!("the table of actions lacks {service}/{method}"));
    }
    let of_sandbox = |service: &str| service == "portcullis.sandbox.v1.SandboxService";
    let fault = methods::check_table(&without(|_, row| of_sandbox(row.0))).unwrap_err();
    for rpc in ["LoadState", "GetState", "Reset", "InjectFault", "ClearFaults"] {
        assert!(fault.contains(&format!("lacks portcullis.sandbox.v1.SandboxService/{rpc}")));
    }
    assert_eq!(fault.matches("lacks").count(), 5, "{fault}");
}

#[test]
fn a_row_too_many_and_one_that_is_there_twice_are_named() {
    let with = |row: Row| methods::check_table(&[actions::TABLE, &[row]].concat()).unwrap_err();
    let groups = "portcullis.v1.SecurityGroupService";
    assert_eq!(
        with((groups, "RestoreEgress", Entry::Open)),
        format!("the table of actions has {groups}/RestoreEgress, which is no RPC")
    );
    // Which of the two would hold?
    assert_eq!(
        with((groups, "RevokeEgress", Entry::Open)),
        format!("the table of actions has {groups}/RevokeEgress more than once")
    );
    let misspelt: Vec<Row> = without(|_, row| row.1 == "Reset")
        .into_iter()
        .chain([("portcullis.sandbox.v1.SandboxService", "reset", Entry::Open)])
        .collect();
    assert_eq!(
        methods::check_table(&misspelt).unwrap_err(),
        "the table of actions lacks portcullis.sandbox.v1.SandboxService/Reset; it has \
         portcullis.sandbox.v1.SandboxService/reset, which is no RPC"
    );
}

async fn reflected(server: &Server, asked: MessageRequest) -> MessageResponse {
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(asked) };
    let mut client = ServerReflectionClient::new(server.channel.clone());
    let answers = client.server_reflection_info(Request::new(tokio_stream::once(request))).await;
    let answer = answers.unwrap().into_inner().message().await.unwrap().unwrap();
    answer.message_response.unwrap()
}

/// What the running server says that it serves, asked as grpcurl does.
#[tokio::test]
async fn nothing_is_served_that_is_not_in_the_table() {
    let server = support::start().await;
    let MessageResponse::ListServicesResponse(list) =
        reflected(&server, MessageRequest::ListServices(String::new())).await
    else {
        panic!("no list")
    };
    let mut served = Vec::new();
    for service in list.service {
        let asked = MessageRequest::FileContainingSymbol(service.name.clone());
        let MessageResponse::FileDescriptorResponse(files) = reflected(&server, asked).await else {
            panic!("no file of {}", service.name)
        };
        for file in files.file_descriptor_proto {
            let file = FileDescriptorProto::decode(file.as_slice()).unwrap();
            for found in &file.service {
                let name = format!("{}.{}", file.package(), found.name());
                if name == service.name {
                    served.extend(
                        found.method.iter().map(|rpc| (name.clone(), rpc.name().to_owned())),
                    );
                }
            }
        }
    }
    for (service, method) in &served {
        assert!(actions::entry(service, method).is_some(), "{service}/{method}");
    }
    served.sort();
    // Each version of reflection lists itself, and this was asked of v1.
    let mut table: Vec<(String, String)> = actions::TABLE
        .iter()
        .filter(|row| !row.0.contains("v1alpha"))
        .map(|(service, method, _)| ((*service).to_owned(), (*method).to_owned()))
        .collect();
    table.sort();
    assert_eq!(served, table);
}

/// Health and reflection are not decided by policies, and all else is.
#[tokio::test]
async fn where_nothing_is_permitted_health_and_reflection_answer_and_nothing_else() {
    let policies = Policies::parse(&[(
        "none.cedar".to_owned(),
        "forbid (principal, action, resource);".to_owned(),
    )]);
    let server = support::start_with_access(Access::with(policies.unwrap(), Mode::Enforce)).await;
    let mut health = HealthClient::new(server.channel.clone());
    health.check(HealthCheckRequest::default()).await.unwrap();
    reflected(&server, MessageRequest::ListServices(String::new())).await;
    let (mut groups, mut state) = (server.groups.clone(), server.sandbox.clone());
    let group = || Some("sg-00000001".to_owned());
    let permission = || vec![support::tcp(1, "10.0.0.0/8")];
    let answers = [
        state.load_state(sandbox::LoadStateRequest::default()).await.map(drop),
        state.get_state(sandbox::GetStateRequest::default()).await.map(drop),
        state.reset(sandbox::ResetRequest::default()).await.map(drop),
        state.inject_fault(sandbox::InjectFaultRequest::default()).await.map(drop),
        state.clear_faults(sandbox::ClearFaultsRequest::default()).await.map(drop),
        groups.revoke_egress(support::by_ids("sg-00000001", &["sgr-00000001"])).await.map(drop),
        groups
            .authorize_egress(v1::AuthorizeEgressRequest {
                group_id: group(),
                ip_permissions: permission(),
                ..Default::default()
            })
            .await
            .map(drop),
        groups
            .revoke_ingress(v1::RevokeIngressRequest {
                group_id: group(),
                ip_permissions: permission(),
                ..Default::default()
            })
            .await
            .map(drop),
        groups
            .authorize_ingress(v1::AuthorizeIngressRequest {
                group_id: group(),
                ip_permissions: permission(),
                ..Default::default()
            })
            .await
            .map(drop),
        groups
            .describe_security_group_rules(v1::DescribeSecurityGroupRulesRequest::default())
            .await
            .map(drop),
        groups
            .describe_security_groups(v1::DescribeSecurityGroupsRequest::default())
            .await
            .map(drop),
        groups
            .create_security_group(v1::CreateSecurityGroupRequest {
                group_name: Some("x".to_owned()),
                description: Some("x".to_owned()),
                ..Default::default()
            })
            .await
            .map(drop),
        groups
            .delete_security_group(v1::DeleteSecurityGroupRequest {
                group_id: group(),
                ..Default::default()
            })
            .await
            .map(drop),
    ];
    // Operations are told apart by who may see them: what one may not see is not there.
    let mut operations = OperationServiceClient::new(server.channel.clone());
    let listed = operations.list_operations(v1::ListOperationsRequest::default()).await.unwrap();
    assert_eq!(listed.into_inner().operations, []);
    let id = "op-01a20000-0000-7000-8000-000000000000".to_owned();
    let get = v1::GetOperationRequest { operation_id: id.clone(), ..Default::default() };
    let settle = v1::SettleOperationRequest {
        operation_id: id,
        r#as: v1::SettleAs::Succeeded.into(),
        reason: "seen".to_owned(),
    };
    let hidden = [
        operations.get_operation(get).await.map(drop),
        operations.settle_operation(settle).await.map(drop),
    ];
    for answer in hidden {
        let not_found = (Code::NotFound, "OPERATION_NOT_FOUND".to_owned());
        assert_eq!(support::refusal(answer), not_found);
    }
    let decided = actions::TABLE.iter().filter(|row| matches!(row.2, Entry::Decided(_))).count();
    assert_eq!(answers.len() + 3, decided, "an RPC that this test does not call");
    for (at, answer) in answers.into_iter().enumerate() {
        let denied = (Code::PermissionDenied, "ACCESS_DENIED".to_owned());
        assert_eq!(support::refusal(answer), denied, "call {at}");
    }
}
