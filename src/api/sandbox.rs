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
use crate::{backend::sandbox::Sandbox, error::Error, rule::Violation};

/// The service over a sandbox.
#[derive(Clone, Debug)]
pub struct SandboxFace(Arc<Sandbox>);

impl SandboxFace {
    /// Works on `sandbox`.
    pub fn new(sandbox: Arc<Sandbox>) -> Self {
        Self(sandbox)
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
        let invalid = invalid(&request);
        let LoadStateRequest { state, replace } = request.into_inner();
        let loaded = match state {
            Some(state) => self.0.load_state(state, replace),
            None => Err(required("state")),
        };
        loaded.map(|warnings| Response::new(LoadStateResponse { warnings })).map_err(invalid)
    }

    async fn get_state(
        &self,
        request: Request<GetStateRequest>,
    ) -> Result<Response<GetStateResponse>, Status> {
        Ok(Response::new(self.0.get_state(request.into_inner().include_effects)))
    }

    async fn reset(&self, _: Request<ResetRequest>) -> Result<Response<ResetResponse>, Status> {
        Ok(Response::new(ResetResponse { incarnation: self.0.reset() }))
    }

    async fn inject_fault(
        &self,
        request: Request<InjectFaultRequest>,
    ) -> Result<Response<InjectFaultResponse>, Status> {
        let invalid = invalid(&request);
        let injected = match request.into_inner().fault {
            Some(fault) => self.0.inject_fault(fault),
            None => Err(required("fault")),
        };
        injected.map(|waiting| Response::new(InjectFaultResponse { waiting })).map_err(invalid)
    }

    async fn clear_faults(
        &self,
        _: Request<ClearFaultsRequest>,
    ) -> Result<Response<ClearFaultsResponse>, Status> {
        Ok(Response::new(ClearFaultsResponse { cleared: self.0.clear_faults() }))
    }
}
