//! `portcullis health`: asks a server for its health, as a container's health check does.

use std::{num::NonZeroU64, time::Duration};

use clap::Args;
use tonic::{Code, Request};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::connect::{Security, Unconnected};

/// The arguments of `health`.
#[derive(Args, Debug)]
pub struct Health {
    /// Where the server listens
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:50051")]
    address: String,
    /// The service to ask for; none asks for the server as a whole
    #[arg(long, value_name = "NAME", default_value = "")]
    service: String,
    /// How long to wait for the answer, in milliseconds
    #[arg(long, value_name = "NUMBER", default_value = "3000")]
    timeout_ms: NonZeroU64,
    #[command(flatten)]
    security: Security,
}

impl Health {
    /// The server's word for its health, and whether that word is SERVING. An error if there is no answer.
    pub async fn ask(&self) -> Result<(&'static str, bool), String> {
        let wait = Duration::from_millis(self.timeout_ms.get());
        let answer = tokio::time::timeout(wait, self.ask_patiently()).await;
        answer.map_err(|_| format!("{}: no answer within {} ms", self.address, self.timeout_ms))?
    }

    async fn ask_patiently(&self) -> Result<(&'static str, bool), String> {
        // The caller's clock bounds it, with the answer.
        let connected = self.security.connect(&self.address, Duration::MAX).await;
        let connected = connected.map_err(|failed| match failed {
            Unconnected::Usage(why) | Unconnected::Unreachable(why) => why,
        })?;
        let mut request = Request::new(HealthCheckRequest { service: self.service.clone() });
        connected.sign(&mut request);
        match HealthClient::new(connected.channel).check(request).await {
            Ok(response) => {
                let status = response.into_inner().status();
                Ok((status.as_str_name(), status == ServingStatus::Serving))
            }
            Err(status) if status.code() == Code::NotFound => {
                Ok((ServingStatus::ServiceUnknown.as_str_name(), false))
            }
            Err(status) => {
                Err(format!("{}: {:?}: {}", self.address, status.code(), status.message()))
            }
        }
    }
}
