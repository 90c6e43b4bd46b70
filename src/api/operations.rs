//! OperationService: what became of changes, and an operator's word on those that nobody else can settle.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{
    decode::operations as decode,
    encode::operations::operation,
    proto::v1::{
        GetOperationRequest, GetOperationResponse, ListOperationsRequest, ListOperationsResponse,
        SettleOperationRequest, SettleOperationResponse,
        operation_service_server::OperationService,
    },
    service::CallInfo,
    status,
};
use crate::{
    access::Caller,
    error::Error,
    operations::records::Records,
    principal::{Peer, Principal},
};

/// The service over the ledger.
#[derive(Clone, Debug)]
pub struct OperationFace(Records);

impl OperationFace {
    /// Shows `records`.
    pub fn new(records: Records) -> Self {
        Self(records)
    }
}

/// What the HTTP layers know of a call.
struct Known {
    request_id: Arc<str>,
    principal: Arc<Principal>,
    peer: Peer,
}

impl Known {
    fn of<Q>(request: &Request<Q>) -> Result<Self, Status> {
        let extensions = request.extensions();
        let info = extensions.get::<CallInfo>();
        let request_id = info.map(|info| info.request_id.clone()).unwrap_or_default();
        let Some(principal) = extensions.get::<Arc<Principal>>().cloned() else {
            let error = Error::internal("no principal in the request");
            return Err(status::encode(error, &request_id));
        };
        let peer = extensions.get::<Peer>().cloned().unwrap_or_default();
        Ok(Self { request_id, principal, peer })
    }

    fn caller(&self) -> Caller<'_> {
        let Self { request_id, principal, peer } = self;
        Caller { principal, peer, request_id }
    }

    fn refuse(&self, error: Error) -> Status {
        status::encode(error, &self.request_id)
    }
}

#[tonic::async_trait]
impl OperationService for OperationFace {
    async fn get_operation(
        &self,
        request: Request<GetOperationRequest>,
    ) -> Result<Response<GetOperationResponse>, Status> {
        let known = Known::of(&request)?;
        let which = decode::get(request.get_ref());
        let which = which.map_err(|wrong| known.refuse(Error::invalid(wrong)))?;
        let record = self.0.get(known.caller(), &which).await.map_err(|e| known.refuse(e))?;
        Ok(Response::new(GetOperationResponse { operation: Some(operation(&record)) }))
    }

    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsResponse>, Status> {
        let known = Known::of(&request)?;
        let query = decode::list(request.into_inner());
        let query = query.map_err(|wrong| known.refuse(Error::invalid(wrong)))?;
        let page = self.0.list(known.caller(), &query).await;
        let (records, next) = page.map_err(|error| known.refuse(error))?;
        Ok(Response::new(ListOperationsResponse {
            operations: records.iter().map(operation).collect(),
            next_page_token: next.unwrap_or_default(),
        }))
    }

    async fn settle_operation(
        &self,
        request: Request<SettleOperationRequest>,
    ) -> Result<Response<SettleOperationResponse>, Status> {
        let known = Known::of(&request)?;
        let word = decode::settle(request.get_ref());
        let word = word.map_err(|wrong| known.refuse(Error::invalid(wrong)))?;
        let record = self.0.settle(known.caller(), &word).await.map_err(|e| known.refuse(e))?;
        Ok(Response::new(SettleOperationResponse { operation: Some(operation(&record)) }))
    }
}
