//! What is taken and what is not, through a socket. What is exact about it is tested beside the layer.

use portcullis::config::Limits;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::support::*;

#[tokio::test]
async fn a_connection_may_watch_a_few_names_and_checks_are_free() {
    let server = start_with(Limits { max_concurrent_streams: 100, ..limits() }).await;
    let mut health = HealthClient::new(server.channel.clone());
    let mut watches = Vec::new();
    let refused = loop {
        match health.watch(HealthCheckRequest::default()).await {
            Ok(watch) => watches.push(watch),
            Err(status) => break status,
        }
    };
    assert_eq!(watches.len(), 8);
    assert_eq!(refusal::<()>(Err(refused)), (Code::ResourceExhausted, "RATE_LIMITED".to_owned()));
    for _ in 0..100 {
        health.check(HealthCheckRequest::default()).await.unwrap();
    }
    watches.pop();
    while health.watch(HealthCheckRequest::default()).await.is_err() {
        tokio::task::yield_now().await;
    }
}
