//! The connection of all commands that call a server: the only place that makes one.

use tonic::transport::{Channel, Endpoint};

/// Connects in plaintext. The error names the address and says what happened.
pub async fn connect(address: &str) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .and_then(|endpoint| endpoint.user_agent(concat!("portcullis/", env!("CARGO_PKG_VERSION"))))
        .map_err(|_| format!("{address}: not an address"))?;
    let connected = endpoint.connect().await;
    connected.map_err(|error| format!("{address}: {}", chain(&error)))
}

/// An error with its sources: by itself it may only say "transport error".
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
