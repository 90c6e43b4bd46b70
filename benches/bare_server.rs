//! What the benchmark compares with: tonic's own server with default settings and no middleware, answering
//! RevokeEgress with a message made beforehand.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, missing_docs)]

use portcullis::api::proto::v1::{
    self,
    security_group_service_server::{SecurityGroupService, SecurityGroupServiceServer},
};
use tonic::{Request, Response, Status};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Bare(v1::RevokeEgressResponse);

macro_rules! unimplemented_calls {
    ($($name:ident, $request:ident, $response:ident;)*) => {
        #[tonic::async_trait]
        impl SecurityGroupService for Bare {
            async fn revoke_egress(
                &self,
                _: Request<v1::RevokeEgressRequest>,
            ) -> Result<Response<v1::RevokeEgressResponse>, Status> {
                Ok(Response::new(self.0.clone()))
            }
            $(async fn $name(&self, _: Request<v1::$request>) -> Result<Response<v1::$response>, Status> {
                Err(Status::unimplemented(""))
            })*
        }
    };
}

unimplemented_calls! {
    authorize_egress, AuthorizeEgressRequest, AuthorizeEgressResponse;
    revoke_ingress, RevokeIngressRequest, RevokeIngressResponse;
    authorize_ingress, AuthorizeIngressRequest, AuthorizeIngressResponse;
    describe_security_group_rules, DescribeSecurityGroupRulesRequest, DescribeSecurityGroupRulesResponse;
    describe_security_groups, DescribeSecurityGroupsRequest, DescribeSecurityGroupsResponse;
    create_security_group, CreateSecurityGroupRequest, CreateSecurityGroupResponse;
    delete_security_group, DeleteSecurityGroupRequest, DeleteSecurityGroupResponse;
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().expect("the address to listen on");
    let answer = arguments.next().expect("the file with the answer, protobuf JSON");
    let answer = serde_json::from_slice(&std::fs::read(answer).unwrap()).unwrap();
    tonic::transport::Server::builder()
        .add_service(SecurityGroupServiceServer::new(Bare(answer)))
        .serve(address.parse().unwrap())
        .await
        .unwrap();
}
