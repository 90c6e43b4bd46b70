//! What standard clients retry by themselves.

use std::fs;

use portcullis::api::methods;
use serde_json::{Value, json};

use crate::folder;

/// The service config names each call that only reads, and no other: a transport must not repeat changes.
#[test]
fn the_service_config_names_the_reads() {
    let text = fs::read_to_string(folder("service-config.json")).unwrap();
    let config: Value = serde_json::from_str(&text).unwrap();
    let names = config["methodConfig"].as_array().unwrap().iter().flat_map(|one| {
        assert_eq!(one["retryPolicy"]["retryableStatusCodes"], json!(["UNAVAILABLE"]));
        one["name"].as_array().unwrap()
    });
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut named: Vec<_> =
        names.map(|name| (text(&name["service"]), text(&name["method"]))).collect();
    named.sort();
    let mut reads = methods::all().unwrap();
    reads.retain(|(service, method)| {
        let own = service.starts_with("portcullis.v1.") || service == "grpc.health.v1.Health";
        let streams = method == "Watch";
        own && !streams && !methods::is_change(&format!("/{service}/{method}"))
    });
    reads.sort();
    assert_eq!(named, reads);
}
