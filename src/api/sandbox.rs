//! SandboxService: the sandbox's own face, offered only when it is the backend.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{
    proto::sandbox::v1::{
        ClearFaultsRequest, ClearFaultsResponse, GetStateRequest, GetStateResponse,
        InjectFaultRequest, InjectFaultResponse, LoadStateRequest, LoadStateResponse, ResetRequest,
        ResetResponse, sandbox_service_server::SandboxService,
    },
    service::CallInfo,
    status,
};
use crate::{
    access::{Access, Action, Caller, Circumstances, Resource},
    backend::sandbox::Sandbox,
    error::Error,
    principal::{Peer, Principal},
    rule::Violation,
};

/// The service over a sandbox.
#[derive(Clone, Debug)]
pub struct SandboxFace {
    sandbox: Arc<Sandbox>,
    access: Arc<Access>,
}

impl SandboxFace {
    /// Works on `sandbox`, as far as `access` allows.
    pub fn new(sandbox: Arc<Sandbox>, access: Arc<Access>) -> Self {
        Self { sandbox, access }
    }

    /// The sandbox, if this caller may do that to it.
    fn open<Q>(&self, request: &Request<Q>, action: Action) -> Result<&Sandbox, Status> {
        let info = request.extensions().get::<CallInfo>();
        let request_id = info.map(|info| info.request_id.as_ref()).unwrap_or_default();
        let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
        let allowed = match request.extensions().get::<Arc<Principal>>() {
            Some(principal) => {
                let caller = Caller { principal, peer: &peer, request_id };
                let circumstances = Circumstances::default();
                self.access.check(caller, action, Resource::Sandbox, circumstances)
            }
            None => Err(Error::internal("no principal in the request")),
        };
        allowed.map_err(|error| status::encode(error, request_id))?;
        Ok(&self.sandbox)
    }
}

/// The status of a request that is not right.
fn invalid<Q>(request: &Request<Q>) -> impl FnOnce(Vec<Violation>) -> Status + use<Q> {
    let info = request.extensions().get::<CallInfo>().cloned();
    move |violations| {
        let request_id = info.as_ref().map(|info| info.request_id.as_ref()).unwrap_or_default();
        status::encode(Error::invalid(violations), request_id)
    }
}

fn required(field: &str) -> Vec<Violation> {
    let message = format!("The request must contain the parameter {field}");
    vec![Violation::new(field, "MissingParameter", message)]
}

#[tonic::async_trait]
impl SandboxService for SandboxFace {
    async fn load_state(
        &self,
        request: Request<LoadStateRequest>,
    ) -> Result<Response<LoadStateResponse>, Status> {
        let sandbox = self.open(&request, Action::LoadState)?;
        let invalid = invalid(&request);
        let LoadStateRequest { state, replace } = request.into_inner();
        let loaded = match state {
            Some(state) => sandbox.load_state(state, replace),
            None => Err(required("state")),
        };
        loaded.map(|warnings| Response::new(LoadStateResponse { warnings })).map_err(invalid)
    }

    async fn get_state(
        &self,
        request: Request<GetStateRequest>,
    ) -> Result<Response<GetStateResponse>, Status> {
        let sandbox = self.open(&request, Action::GetState)?;
        Ok(Response::new(sandbox.get_state(request.into_inner().include_effects)))
    }

    async fn reset(
        &self,
        request: Request<ResetRequest>,
    ) -> Result<Response<ResetResponse>, Status> {
        let sandbox = self.open(&request, Action::Reset)?;
        Ok(Response::new(ResetResponse { incarnation: sandbox.reset() }))
    }

    async fn inject_fault(
        &self,
        request: Request<InjectFaultRequest>,
    ) -> Result<Response<InjectFaultResponse>, Status> {
        let sandbox = self.open(&request, Action::InjectFault)?;
        let invalid = invalid(&request);
        let injected = match request.into_inner().fault {
            Some(fault) => sandbox.inject_fault(fault),
            None => Err(required("fault")),
        };
        injected.map(|waiting| Response::new(InjectFaultResponse { waiting })).map_err(invalid)
    }

    async fn clear_faults(
        &self,
        request: Request<ClearFaultsRequest>,
    ) -> Result<Response<ClearFaultsResponse>, Status> {
        let sandbox = self.open(&request, Action::ClearFaults)?;
        Ok(Response::new(ClearFaultsResponse { cleared: sandbox.clear_faults() }))
    }
}
