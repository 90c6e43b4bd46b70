//! The TLS settings: which go together, and whether their files are good.

use std::sync::Arc;

use crate::{
    clock::{Clock, SystemClock},
    tls::{self, ClientAuth, Files},
};

use super::{Config, TlsConfig, reader::Reader};

/// Reads them, and reports those that do nothing and those that are missing.
pub fn read(reader: &mut Reader<'_>) -> TlsConfig {
    let mode = reader.word("tls");
    let certificate = reader.paths("tls_cert_file").pop();
    let key = reader.paths("tls_key_file").pop();
    let client_auth = match reader.word("tls_client_auth") {
        "optional" => ClientAuth::Optional,
        "required" => ClientAuth::Required,
        _ => ClientAuth::Off,
    };
    let client_cas = reader.paths("tls_client_ca_files");
    let crls = reader.paths("tls_crl_files");
    if mode != "server" {
        let given = [
            ("tls_cert_file", certificate.is_some()),
            ("tls_key_file", key.is_some()),
            ("tls_client_auth", client_auth != ClientAuth::Off),
            ("tls_client_ca_files", !client_cas.is_empty()),
            ("tls_crl_files", !crls.is_empty()),
        ];
        for (name, _) in given.iter().filter(|(_, given)| *given) {
            reader.complain(name, "does nothing unless tls = \"server\"".to_owned());
        }
        return if mode == "upstream" { TlsConfig::Upstream } else { TlsConfig::Off };
    }
    for (name, given) in [("tls_cert_file", &certificate), ("tls_key_file", &key)] {
        if given.is_none() && !reader.is_given(name) {
            reader.complain("tls", format!("needs {name}"));
        }
    }
    if client_auth == ClientAuth::Off {
        for (name, files) in [("tls_client_ca_files", &client_cas), ("tls_crl_files", &crls)] {
            if !files.is_empty() {
                let message = "does nothing unless tls_client_auth is optional or required";
                reader.complain(name, message.to_owned());
            }
        }
    } else if client_cas.is_empty() {
        reader.complain("tls_client_auth", "needs tls_client_ca_files".to_owned());
    }
    TlsConfig::Server(Files {
        certificate: certificate.unwrap_or_default(),
        key: key.unwrap_or_default(),
        client_auth,
        client_cas,
        crls,
    })
}

/// Reports what is wrong with the files themselves.
pub fn check_files(reader: &mut Reader<'_>, config: &Config) {
    let TlsConfig::Server(files) = &config.tls else { return };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    for fault in tls::check(files, &clock) {
        // A file that is not named is told of already.
        if reader.is_given(fault.setting) {
            reader.complain(fault.setting, fault.message);
        }
    }
}
