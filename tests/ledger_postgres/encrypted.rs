//! TLS to the database: what each `sslmode` lets through.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, sync::LazyLock};

use portcullis::ledger::postgres::OpenError;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::{
    server::{PASSWORD, Server, give_away},
    suite::{intent, write},
    world::{ledger, open, shared},
};

/// Over the network with TLS only.
const HBA: &str = "local all all scram-sha-256\nhostssl all all 127.0.0.1/32 scram-sha-256\n";

#[derive(Debug)]
struct Encrypted {
    server: Server,
    /// The CA of its certificate, which is for 127.0.0.1.
    ca: PathBuf,
    /// Another.
    stranger: PathBuf,
}

fn authority() -> (String, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (params.self_signed(&key).unwrap().pem(), Issuer::new(params, key))
}

/// A server that takes nothing but TLS over the network.
fn encrypted() -> &'static Encrypted {
    static SERVER: LazyLock<Encrypted> = LazyLock::new(|| {
        let (ca_pem, ca) = authority();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &ca).unwrap();
        let server = Server::start_with(&["fsync=off", "ssl=on"], |folder| {
            for (name, text) in [
                ("server.crt", certificate.pem()),
                ("server.key", key.serialize_pem()),
                ("pg_hba.conf", HBA.to_owned()),
            ] {
                let file = folder.join("data").join(name);
                fs::write(&file, text).unwrap();
                fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
                give_away(&file);
            }
        });
        let (ca, stranger) = (server.folder().join("ca.pem"), server.folder().join("stranger.pem"));
        fs::write(&ca, ca_pem).unwrap();
        fs::write(&stranger, authority().0).unwrap();
        Encrypted { server, ca, stranger }
    });
    &SERVER
}

fn url(host: &str, query: &str) -> String {
    let Encrypted { server, ca, stranger } = encrypted();
    let query =
        query.replace("CA", ca.to_str().unwrap()).replace("STRANGER", stranger.to_str().unwrap());
    let port = server.address().rsplit_once(':').unwrap().1.to_owned();
    format!("postgres://postgres:{PASSWORD}@{host}:{port}/{}?{query}", server.database().name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_good_enough_is_taken() {
    for (host, query) in [
        ("127.0.0.1", "sslmode=verify-full&sslrootcert=CA"),
        // The password is bound to the channel: nobody stands between.
        ("127.0.0.1", "sslmode=verify-full&sslrootcert=CA&channel_binding=require"),
        ("localhost", "sslmode=verify-ca&sslrootcert=CA"),
        ("localhost", "sslmode=require&sslrootcert=CA"),
        ("localhost", "sslmode=require"),
        ("localhost", "sslmode=prefer"),
        ("localhost", ""),
    ] {
        let ledger = ledger(&url(host, query)).await;
        write(&ledger, &intent(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_not_is_refused() {
    for (host, query, said) in [
        ("localhost", "sslmode=verify-full&sslrootcert=CA", "certificate not valid for name"),
        ("127.0.0.1", "sslmode=verify-full&sslrootcert=STRANGER", "invalid peer certificate"),
        ("127.0.0.1", "sslmode=verify-ca&sslrootcert=STRANGER", "invalid peer certificate"),
        ("127.0.0.1", "sslmode=require&sslrootcert=STRANGER", "invalid peer certificate"),
        ("127.0.0.1", "sslmode=disable", "no encryption"),
    ] {
        let error = open(&url(host, query)).await.unwrap_err();
        assert!(matches!(error, OpenError::Unreachable(_)), "{error:?}");
        assert!(error.to_string().contains(said), "{query}: {error}");
    }
    let error =
        open(&url("127.0.0.1", "sslmode=verify-ca&sslrootcert=/no/such.pem")).await.unwrap_err();
    assert!(matches!(&error, OpenError::Tls(why) if why.contains("/no/such.pem")), "{error:?}");
    // A server without TLS, where TLS is wanted.
    let plain = shared().database().url().replace("sslmode=disable", "sslmode=require");
    let error = open(&plain).await.unwrap_err();
    assert!(error.to_string().contains("does not support TLS"), "{error}");
    open(&plain.replace("sslmode=require", "sslmode=prefer")).await.unwrap();
}
