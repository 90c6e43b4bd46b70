//! grpc.health.v1: what can be served, by name.

use tonic_health::{ServingStatus, server::HealthReporter};

/// The names that are answered: the whole server, each service, and what they depend on.
#[derive(Clone, Debug)]
pub struct Health {
    reporter: HealthReporter,
    names: Vec<&'static str>,
}

impl Health {
    /// Everything in `names` is serving, and so is the whole server, whose name is empty.
    pub async fn serving(reporter: HealthReporter, mut names: Vec<&'static str>) -> Self {
        names.push("");
        let health = Self { reporter, names };
        health.set(ServingStatus::Serving).await;
        health
    }

    /// Nothing is served any more: the server drains.
    pub async fn drain(&self) {
        self.set(ServingStatus::NotServing).await;
    }

    /// Whether changes can be recorded. Without that they are refused, and everything else is served.
    pub async fn ledger(&self, up: bool) {
        let status = if up { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in ["ledger", "mutations"] {
            self.reporter.set_service_status(name, status).await;
        }
    }

    /// Whether EC2 answers, as the last calls saw it. Where it does not, calls say so by themselves.
    pub async fn backend(&self, up: bool) {
        let status = if up { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.reporter.set_service_status("backend", status).await;
    }

    async fn set(&self, status: ServingStatus) {
        for name in &self.names {
            self.reporter.set_service_status(name, status).await;
        }
    }
}
