//! The client's end of TLS, for the commands that call a server.

use std::{path::Path, sync::Arc};

use tokio_rustls::rustls::{
    ClientConfig, Error, RootCertStore, crypto,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    version::{TLS12, TLS13},
};

/// Trusts the CAs in `ca`; proves itself with a certificate and its key, if asked to. The error names the file.
pub fn config(ca: &Path, own: Option<(&Path, &Path)>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate).map_err(|error| format!("{}: {error}", ca.display()))?;
    }
    let builder =
        ClientConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some((file, key_file)) => {
            let chain = certificates(file)?;
            let key = PrivateKeyDer::from_pem_slice(&read(key_file)?)
                .map_err(|_| format!("{}: no key in PEM", key_file.display()))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| match error {
                Error::InconsistentKeys(_) => format!(
                    "{}: does not fit the certificate in {}",
                    key_file.display(),
                    file.display()
                ),
                error => format!("{}: {error}", key_file.display()),
            })?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// A file of CAs, which has at least one in it. The error names the file.
pub fn read_ca(file: &Path) -> Result<Vec<u8>, String> {
    certificates(file)?;
    read(file)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(file)?).collect();
    let all = all.ok().filter(|all| !all.is_empty());
    all.ok_or_else(|| format!("{}: no certificate in PEM", file.display()))
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))
}
