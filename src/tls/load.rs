//! Reads the server's TLS files and reports everything that is wrong with them at once.

use std::{
    io::Read as _,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio_rustls::rustls::{
    Error, RootCertStore, ServerConfig,
    crypto::{self, CryptoProvider},
    pki_types::{
        CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime, pem::PemObject as _,
    },
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
    time_provider::TimeProvider,
    version::{TLS12, TLS13},
};
use x509_parser::{
    certificate::X509Certificate, prelude::FromDer as _, revocation_list::CertificateRevocationList,
};

use super::{ClientAuth, Dates, Fault, Files, PROTOCOLS, State, time_of, verify::Verifier};
use crate::clock::Clock;

const CERTIFICATE: &str = "tls_cert_file";
const KEY: &str = "tls_key_file";
const CLIENT_CAS: &str = "tls_client_ca_files";
const CRLS: &str = "tls_crl_files";

/// The largest file with certificates or a key. All public CAs together are a quarter of it.
const MAX_BYTES: u64 = 1 << 20;

/// The largest revocation list; the largest public ones are of this order.
const MAX_CRL_BYTES: u64 = 64 << 20;

/// Before an expiry shorter than this the log warns at each reading.
const SOON: Duration = Duration::from_secs(7 * 86_400);

/// rustls' time is the clock's.
#[derive(Debug)]
struct Time(Arc<dyn Clock>);

/// Collects what is wrong, and what is only dubious.
struct Loading {
    now: SystemTime,
    faults: Vec<Fault>,
    warnings: Vec<String>,
    dates: Dates,
}

/// What the files say, and what is dubious about it.
pub fn load(files: &Files, clock: &Arc<dyn Clock>) -> Result<(State, Vec<String>), Vec<Fault>> {
    let mut loading = Loading {
        now: clock.now(),
        faults: Vec::new(),
        warnings: Vec::new(),
        dates: Dates::default(),
    };
    let provider = Arc::new(crypto::aws_lc_rs::default_provider());
    let own = loading.own(files, &provider);
    let verifier = loading.verifier(files, &provider);
    let Loading { mut faults, warnings, dates, .. } = loading;
    let (Some(own), true) = (own, faults.is_empty()) else { return Err(faults) };
    let time = Arc::new(Time(clock.clone()));
    let versions = ServerConfig::builder_with_details(provider, time)
        .with_protocol_versions(&[&TLS13, &TLS12]);
    let builder = match versions {
        Ok(builder) => builder,
        Err(error) => {
            faults.push(Fault { setting: "tls", message: error.to_string() });
            return Err(faults);
        }
    };
    let builder = match &verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier.clone()),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    Ok((State { config: Arc::new(config), verifier, dates }, warnings))
}

/// The earlier one of those that there are.
fn first(one: Option<SystemTime>, other: Option<SystemTime>) -> Option<SystemTime> {
    one.into_iter().chain(other).min()
}

impl Loading {
    /// The server's own certificate with its key.
    fn own(&mut self, files: &Files, provider: &CryptoProvider) -> Option<CertifiedKey> {
        let chain = self.certificates(CERTIFICATE, &files.certificate);
        if let Some(first) = chain.as_ref().and_then(|chain| chain.first())
            && let Some((from, until)) =
                self.check_validity(&files.certificate, "the certificate", first)
        {
            self.dates.not_before = Some(from);
            self.dates.not_after = Some(until);
        }
        let bytes = self.read(KEY, &files.key, MAX_BYTES);
        // The parser's own words may hold a line of the file.
        let key = bytes.and_then(|bytes| PrivateKeyDer::from_pem_slice(&bytes).ok());
        if key.is_none() && !self.faults.iter().any(|fault| fault.setting == KEY) {
            let message = format!(
                "{} holds no key in PEM (PKCS #8, PKCS #1 or SEC 1, not encrypted)",
                files.key.display()
            );
            self.fault(KEY, message);
        }
        let (chain, key) = (chain?, key?);
        match CertifiedKey::from_der(chain, key, provider) {
            Ok(own) => Some(own),
            Err(Error::InconsistentKeys(_)) => {
                let message = format!(
                    "{} does not fit the certificate in {}",
                    files.key.display(),
                    files.certificate.display()
                );
                self.fault(KEY, message);
                None
            }
            Err(Error::InvalidCertificate(error)) => {
                self.fault(CERTIFICATE, format!("{}: {error}", files.certificate.display()));
                None
            }
            Err(_) => {
                let message = format!(
                    "{} is not a key that TLS can use: RSA of 2048 bits or more, P-256, P-384, \
                     P-521 or Ed25519",
                    files.key.display()
                );
                self.fault(KEY, message);
                None
            }
        }
    }

    /// Who says which clients are good.
    fn verifier(&mut self, files: &Files, provider: &Arc<CryptoProvider>) -> Option<Arc<Verifier>> {
        if files.client_auth == ClientAuth::Off {
            return None;
        }
        let mut roots = RootCertStore::empty();
        for file in &files.client_cas {
            for (index, certificate) in
                self.certificates(CLIENT_CAS, file).into_iter().flatten().enumerate()
            {
                let name = format!("certificate {}", index + 1);
                self.check_ca(file, &name, &certificate);
                if let Err(error) = roots.add(certificate) {
                    self.fault(CLIENT_CAS, format!("{}: {name}: {error}", file.display()));
                }
            }
        }
        let roots = Arc::new(roots);
        let mut crls = Vec::new();
        for file in &files.crls {
            crls.extend(self.crls(file, &roots, provider));
        }
        if roots.is_empty() || !self.faults.is_empty() {
            return None;
        }
        let verifier = verifier(&roots, provider, crls, files.client_auth == ClientAuth::Optional);
        match verifier {
            Ok(verifier) => Some(Arc::new(Verifier::new(verifier))),
            Err(error) => {
                self.fault(CLIENT_CAS, error);
                None
            }
        }
    }

    /// A file's revocation lists.
    fn crls(
        &mut self,
        file: &Path,
        roots: &Arc<RootCertStore>,
        provider: &Arc<CryptoProvider>,
    ) -> Vec<CertificateRevocationListDer<'static>> {
        let Some(bytes) = self.read(CRLS, file, MAX_CRL_BYTES) else { return Vec::new() };
        // CAs publish them in DER.
        let crls = if bytes.starts_with(&[0x30]) {
            vec![CertificateRevocationListDer::from(bytes)]
        } else {
            let crls: Result<Vec<_>, _> =
                CertificateRevocationListDer::pem_slice_iter(&bytes).collect();
            crls.unwrap_or_default()
        };
        if crls.is_empty() {
            let message = format!("{} holds no revocation list in PEM or DER", file.display());
            self.fault(CRLS, message);
        }
        for crl in &crls {
            // One by one, because rustls does not say which of several is wrong.
            let alone = verifier(roots, provider, vec![crl.clone()], false);
            match CertificateRevocationList::from_der(crl) {
                Ok((_, parsed)) if roots.is_empty() || alone.is_ok() => {
                    let until = parsed.next_update().map(|time| time_of(time.timestamp()));
                    self.dates.crl = first(self.dates.crl, until);
                    if until.is_some_and(|until| until < self.now) {
                        self.warnings.push(format!(
                            "{}: the revocation list has expired: the clients of its CA are refused",
                            file.display()
                        ));
                    }
                }
                Ok(_) => {
                    let error = alone.err().unwrap_or_default();
                    self.fault(CRLS, format!("{}: {error}", file.display()));
                }
                Err(_) => {
                    let message = format!("{} is not a revocation list", file.display());
                    self.fault(CRLS, message);
                }
            }
        }
        crls
    }

    /// A file's certificates; at least one.
    fn certificates(
        &mut self,
        setting: &'static str,
        file: &Path,
    ) -> Option<Vec<CertificateDer<'static>>> {
        let bytes = self.read(setting, file, MAX_BYTES)?;
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
        match all {
            Ok(all) if !all.is_empty() => Some(all),
            Ok(_) => {
                self.fault(setting, format!("{} holds no certificate in PEM", file.display()));
                None
            }
            Err(_) => {
                // The parser's own words may hold a line of the file, and the key may be in it, too.
                self.fault(setting, format!("{} is not PEM throughout", file.display()));
                None
            }
        }
    }

    /// A client certificate in the place of a CA would let its holder make certificates for anyone.
    fn check_ca(&mut self, file: &Path, name: &str, der: &CertificateDer<'_>) {
        if let Ok((_, certificate)) = X509Certificate::from_der(der)
            && !certificate.is_ca()
        {
            self.fault(CLIENT_CAS, format!("{}: {name} is not a CA's", file.display()));
        }
        let until = self.check_validity(file, name, der).map(|(_, until)| until);
        self.dates.client_ca = first(self.dates.client_ca, until);
    }

    /// From when and until when it is good.
    fn check_validity(
        &mut self,
        file: &Path,
        name: &str,
        der: &CertificateDer<'_>,
    ) -> Option<(SystemTime, SystemTime)> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let validity = certificate.validity();
        let from = time_of(validity.not_before.timestamp());
        let until = time_of(validity.not_after.timestamp());
        let file = file.display();
        if until < self.now {
            let at = validity.not_after;
            self.warnings.push(format!("{file}: {name} has expired: it was good until {at}"));
        } else if self.now < from {
            let at = validity.not_before;
            self.warnings.push(format!("{file}: {name} is not good yet, only from {at}"));
        } else if until.duration_since(self.now).is_ok_and(|left| left < SOON) {
            let at = validity.not_after;
            self.warnings.push(format!("{file}: {name} expires soon: it is good until {at}"));
        }
        Some((from, until))
    }

    fn read(&mut self, setting: &'static str, file: &Path, most: u64) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = std::fs::File::open(file)
            .and_then(|opened| opened.take(most + 1).read_to_end(&mut bytes));
        match read {
            Ok(length) if length as u64 <= most => Some(bytes),
            Ok(_) => {
                self.fault(setting, format!("{} has more than {most} bytes", file.display()));
                None
            }
            Err(error) => {
                self.fault(setting, format!("{} cannot be read: {error}", file.display()));
                None
            }
        }
    }

    fn fault(&mut self, setting: &'static str, message: String) {
        self.faults.push(Fault { setting, message });
    }
}

/// A revocation list counts wherever in the chain it lists a certificate, until it expires. A CA without one revokes
/// nothing: demanding one of every CA would refuse all clients of a CA that has none.
fn verifier(
    roots: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
    crls: Vec<CertificateRevocationListDer<'static>>,
    optional: bool,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let builder = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
        .with_crls(crls)
        .allow_unknown_revocation_status()
        .enforce_revocation_expiration();
    let builder = if optional { builder.allow_unauthenticated() } else { builder };
    builder.build().map_err(|error| error.to_string())
}

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        let since = self.0.now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some(UnixTime::since_unix_epoch(since))
    }
}

#[cfg(test)]
mod tests;
