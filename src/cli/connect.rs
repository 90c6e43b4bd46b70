//! The connection of all commands that call a server: the only place that makes one.

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use http::{Uri, header::AUTHORIZATION, uri::Authority};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, pki_types::ServerName},
};
use tonic::{
    Request,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};
use tower::service_fn;

use crate::tls::client;

/// The longest credential that is sent; the server takes no longer ones.
const MAX_TOKEN_BYTES: usize = 8 << 10;

/// How a command proves itself, and whom it trusts.
#[derive(Args, Debug, Default)]
pub struct Security {
    /// The CAs that may vouch for the server, in PEM; the connection is encrypted
    #[arg(long, value_name = "FILE")]
    tls_ca_file: Option<PathBuf>,
    /// The certificate to show to the server, in PEM
    #[arg(long, value_name = "FILE", requires_all = ["tls_key_file", "tls_ca_file"])]
    tls_cert_file: Option<PathBuf>,
    /// The certificate's key, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    tls_key_file: Option<PathBuf>,
    /// The name in the server's certificate [default: the host in --address]
    #[arg(long, value_name = "NAME", requires = "tls_ca_file")]
    tls_server_name: Option<String>,
    /// The file with the token to send; without --tls-ca-file only to this machine
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// A server that is connected.
#[derive(Clone, Debug)]
pub struct Connected {
    /// The connection.
    pub channel: Channel,
    token: Option<MetadataValue<Ascii>>,
}

/// Why there is no connection.
#[derive(Debug)]
pub enum Unconnected {
    /// The flags or their files are wrong; nothing was sent.
    Usage(String),
    /// The server was not reached, or is not the one that was meant.
    Unreachable(String),
}

impl Security {
    /// Connects. Errors name the address or the file, and say what happened.
    pub async fn connect(&self, address: &str, wait: Duration) -> Result<Connected, Unconnected> {
        let usage = Unconnected::Usage;
        let authority: Authority =
            address.parse().map_err(|_| usage(format!("{address}: not an address")))?;
        let token = self.token(&authority).map_err(usage)?;
        let tls = self.tls(&authority).map_err(usage)?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let not_one = || usage(format!("{address}: not an address"));
        let origin = format!("{scheme}://{address}").parse().map_err(|_| not_one())?;
        // tonic would encrypt what is https by itself, and refuses to leave that to the connector. So only the calls say
        // https.
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .and_then(|it| it.user_agent(concat!("portcullis/", env!("CARGO_PKG_VERSION"))))
            .map_err(|_| not_one())?
            .origin(origin);
        let connecting = async {
            match tls {
                None => endpoint.connect().await,
                Some((config, name)) => {
                    let connector =
                        service_fn(move |to: Uri| encrypted(to, config.clone(), name.clone()));
                    endpoint.connect_with_connector(connector).await
                }
            }
        };
        match tokio::time::timeout(wait, connecting).await {
            Ok(Ok(channel)) => Ok(Connected { channel, token }),
            Ok(Err(error)) => {
                Err(Unconnected::Unreachable(format!("{address}: {}", chain(&error))))
            }
            Err(_) => {
                let waited = wait.as_millis();
                let message = format!("{address}: no connection within {waited} ms");
                Err(Unconnected::Unreachable(message))
            }
        }
    }

    fn tls(
        &self,
        authority: &Authority,
    ) -> Result<Option<(Arc<ClientConfig>, ServerName<'static>)>, String> {
        let Some(ca) = &self.tls_ca_file else { return Ok(None) };
        let own = self.tls_cert_file.as_deref().zip(self.tls_key_file.as_deref());
        let config = client::config(ca, own)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let name = self.tls_server_name.as_deref().unwrap_or(host);
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| format!("{name}: not a name that a certificate could have"))?;
        Ok(Some((config, name)))
    }

    /// The token as it is sent. In plaintext it stays on this machine.
    fn token(&self, authority: &Authority) -> Result<Option<MetadataValue<Ascii>>, String> {
        let Some(file) = &self.token_file else { return Ok(None) };
        if self.tls_ca_file.is_none() && !is_loopback(authority.host()) {
            return Err(format!(
                "--token-file: the token would go to {authority} in plaintext; give --tls-ca-file"
            ));
        }
        let text = std::fs::read_to_string(file)
            .map_err(|error| format!("{}: {error}", file.display()))?;
        let token = text.trim();
        let fits = !token.is_empty()
            && token.len() <= MAX_TOKEN_BYTES
            && token.bytes().all(|byte| byte.is_ascii_graphic());
        let value = format!("Bearer {token}").parse::<MetadataValue<Ascii>>();
        match value {
            Ok(mut value) if fits => {
                value.set_sensitive(true);
                Ok(Some(value))
            }
            _ => Err(format!("{}: not one token of visible ASCII characters", file.display())),
        }
    }
}

impl Connected {
    /// Proves who calls.
    pub fn sign<T>(&self, request: &mut Request<T>) {
        if let Some(token) = &self.token {
            request.metadata_mut().insert(AUTHORIZATION.as_str(), token.clone());
        }
    }
}

async fn encrypted(
    to: Uri,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> std::io::Result<TokioIo<tokio_rustls::client::TlsStream<TcpStream>>> {
    let address = to.authority().map(Authority::as_str).unwrap_or_default();
    let stream = TcpStream::connect(address).await?;
    let _ = stream.set_nodelay(true);
    let stream = TlsConnector::from(config).connect(name, stream).await?;
    Ok(TokioIo::new(stream))
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost")
        || address.is_ok_and(|address| address.to_canonical().is_loopback())
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
