//! Fetches JWK sets over HTTPS, with the HTTP client that the AWS SDK has.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use http::{
    HeaderValue, Request, StatusCode, Uri,
    header::{ACCEPT, AUTHORIZATION, USER_AGENT},
};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{
    ClientConfig, RootCertStore, crypto,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use crate::config::KeysFrom;

use super::{futures::BoxFuture, jwks::MAX_BYTES};

/// Gets the text of a JWK set. Whoever asks bounds the time.
pub trait Fetch: fmt::Debug + Send + Sync + 'static {
    /// Gets it.
    fn fetch(&self) -> BoxFuture<Result<Bytes, String>>;
}

/// From a URL. Redirects are not followed: where the keys are is the operator's word alone.
#[derive(Clone, Debug)]
pub struct HttpFetch {
    url: Uri,
    ca_file: Option<PathBuf>,
    token_file: Option<PathBuf>,
}

impl HttpFetch {
    /// From the URL, if the keys are at one.
    pub fn new(keys: &KeysFrom) -> Option<Self> {
        let KeysFrom::Url { url, ca_file, token_file } = keys else { return None };
        Some(Self { url: url.clone(), ca_file: ca_file.clone(), token_file: token_file.clone() })
    }

    async fn get(self) -> Result<Bytes, String> {
        let url = self.url.clone();
        let mut request = Request::get(url).body(Empty::<Bytes>::new()).map_err(text)?;
        let headers = request.headers_mut();
        headers
            .insert(ACCEPT, HeaderValue::from_static("application/jwk-set+json, application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static("portcullis"));
        // CAs and token are read each time: both are rotated under us. Files can block.
        let files = tokio::task::spawn_blocking(move || {
            let connector = connector(self.ca_file.as_deref())?;
            let token = self.token_file.map(|file| {
                let token = std::fs::read_to_string(&file);
                token.map_err(|error| format!("{}: {error}", file.display()))
            });
            Ok::<_, String>((connector, token.transpose()?))
        });
        let (connector, token) = files.await.map_err(text)??;
        if let Some(token) = token {
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim()))
                .map_err(|_| "the file of jwks_token_file holds no token".to_owned())?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let client = Client::builder(TokioExecutor::new()).build(connector);
        let response = client.request(request).await.map_err(causes)?;
        if response.status() != StatusCode::OK {
            return Err(format!("answered {}", response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_BYTES).collect().await;
        Ok(body.map_err(text)?.to_bytes())
    }
}

impl Fetch for HttpFetch {
    fn fetch(&self) -> BoxFuture<Result<Bytes, String>> {
        Box::pin(self.clone().get())
    }
}

fn connector(ca_file: Option<&Path>) -> Result<HttpsConnector<HttpConnector>, String> {
    let provider = crypto::aws_lc_rs::default_provider();
    let builder = HttpsConnectorBuilder::new();
    let builder = match ca_file {
        None => builder.with_provider_and_native_roots(provider).map_err(text)?,
        Some(file) => {
            let fault = |error: &dyn fmt::Display| format!("{}: {error}", file.display());
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_file_iter(file).map_err(|error| fault(&error))? {
                let certificate = certificate.map_err(|error| fault(&error))?;
                roots.add(certificate).map_err(|error| fault(&error))?;
            }
            let config = ClientConfig::builder_with_provider(Arc::new(provider))
                .with_safe_default_protocol_versions()
                .map_err(text)?
                .with_root_certificates(roots)
                .with_no_client_auth();
            builder.with_tls_config(config)
        }
    };
    // Plain HTTP is for loopback alone: the configuration checks that.
    Ok(builder.https_or_http().enable_http1().build())
}

fn text(error: impl fmt::Display) -> String {
    error.to_string()
}

/// An error with what caused it: a client's own text is mostly `client error (Connect)`.
fn causes(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
