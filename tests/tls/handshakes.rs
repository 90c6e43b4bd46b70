//! Who gets a connection and who does not.

use std::sync::Arc;

use portcullis::tls::ClientAuth;
use rcgen::date_time_ymd;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::rustls::{
    AlertDescription, ClientConfig, ProtocolVersion, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    version::{TLS12, TLS13},
};

use super::{
    certificates::{Ca, Leaf, uri},
    support::{Server, handshake},
};

/// A client's setting for one version of TLS.
fn only(
    server: &Server,
    version: &'static tokio_rustls::rustls::SupportedProtocolVersion,
    own: Option<&Leaf>,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(server.ca.pem.as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(leaf) => {
            let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![leaf.der.clone().into()], key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

#[tokio::test]
async fn calls_go_over_tls_1_3_and_1_2() {
    let server = Server::start(ClientAuth::Off).await;
    server.call(server.client(None)).await.unwrap();
    for (version, expected) in
        [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)]
    {
        let config = Arc::new(only(&server, version, None));
        server.call(config.clone()).await.unwrap();
        let stream = handshake(server.address, config).await.unwrap();
        let (_, session) = stream.get_ref();
        assert_eq!(session.protocol_version(), Some(expected));
        assert_eq!(session.alpn_protocol(), Some(&b"h2"[..]));
    }
}

#[tokio::test]
async fn a_client_that_does_not_know_our_ca_does_not_call() {
    let server = Server::start(ClientAuth::Off).await;
    server.folder.write("ca.pem", Ca::new("others").pem);
    let error = server.call(server.client(None)).await.unwrap_err();
    assert!(error.contains("UnknownIssuer"), "{error}");
}

#[tokio::test]
async fn a_good_client_certificate_is_taken_whether_required_or_not() {
    for client_auth in [ClientAuth::Required, ClientAuth::Optional] {
        let server = Server::start(client_auth).await;
        let leaf = server.clients.leaf("alice");
        server.call(server.client(Some(&leaf))).await.unwrap();
        server.call(Arc::new(only(&server, &TLS12, Some(&leaf)))).await.unwrap();
        let spiffe = server.clients.issue("bob", |params| {
            params.subject_alt_names.push(uri("spiffe://example.org/bob"));
        });
        server.call(server.client(Some(&spiffe))).await.unwrap();
    }
}

#[tokio::test]
async fn without_a_certificate_there_is_no_call_where_one_is_required() {
    let server = Server::start(ClientAuth::Required).await;
    let alert = server.alert(server.client(None)).await;
    assert_eq!(alert, AlertDescription::CertificateRequired);
    let in_1_2 = server.alert(Arc::new(only(&server, &TLS12, None))).await;
    assert!(
        matches!(
            in_1_2,
            AlertDescription::CertificateRequired | AlertDescription::HandshakeFailure
        ),
        "{in_1_2:?}"
    );
    assert!(server.call(server.client(None)).await.is_err());
    let server = Server::start(ClientAuth::Optional).await;
    server.call(server.client(None)).await.unwrap();
}

/// Optional means that there may be none, not that anything goes.
#[tokio::test]
async fn a_bad_client_certificate_is_refused_whether_required_or_not() {
    for client_auth in [ClientAuth::Required, ClientAuth::Optional] {
        let server = Server::start(client_auth).await;
        let issue = |change: fn(&mut rcgen::CertificateParams)| server.clients.issue("x", change);
        for (what, leaf, expected) in [
            ("self-signed", Leaf::self_signed("x"), AlertDescription::UnknownCA),
            ("of an unknown CA", Ca::new("clients").leaf("x"), AlertDescription::DecryptError),
            ("of another CA", Ca::new("others").leaf("x"), AlertDescription::UnknownCA),
            (
                "expired",
                issue(|params| params.not_after = date_time_ymd(2024, 1, 1)),
                AlertDescription::CertificateExpired,
            ),
            (
                "not yet good",
                issue(|params| params.not_before = date_time_ymd(2090, 1, 1)),
                AlertDescription::CertificateExpired,
            ),
            (
                "two SPIFFE ids",
                issue(|params| {
                    params.subject_alt_names.push(uri("spiffe://example.org/a"));
                    params.subject_alt_names.push(uri("spiffe://example.org/b"));
                }),
                AlertDescription::CertificateUnknown,
            ),
            (
                "a SPIFFE id beside another URI",
                issue(|params| {
                    params.subject_alt_names.push(uri("https://example.org/a"));
                    params.subject_alt_names.push(uri("spiffe://example.org/b"));
                }),
                AlertDescription::CertificateUnknown,
            ),
            (
                "a malformed SPIFFE id",
                issue(|params| params.subject_alt_names.push(uri("spiffe://example.org/a/../b"))),
                AlertDescription::CertificateUnknown,
            ),
            (
                "for servers only",
                issue(|params| {
                    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
                }),
                AlertDescription::UnsupportedCertificate,
            ),
        ] {
            for config in [server.client(Some(&leaf)), Arc::new(only(&server, &TLS12, Some(&leaf)))]
            {
                let alert = server.alert(config.clone()).await;
                assert_eq!(alert, expected, "{what}");
                assert!(server.call(config).await.is_err(), "{what}");
            }
        }
    }
}

#[tokio::test]
async fn what_a_list_revokes_is_refused_and_an_expired_list_refuses_all() {
    let server = Server::start_with(ClientAuth::Required, true).await;
    let (good, bad) = (server.clients.leaf("good"), server.clients.leaf("bad"));
    let others = Ca::new("others");
    let unlisted = others.leaf("of a CA without a list");
    server.folder.write("clients.pem", format!("{}{}", server.clients.pem, others.pem));
    server.tls.reload().unwrap();
    for leaf in [&good, &bad, &unlisted] {
        server.call(server.client(Some(leaf))).await.unwrap();
    }
    server.folder.write("clients.crl", server.clients.crl(&[&bad.serial], 2090));
    server.tls.reload().unwrap();
    let alert = server.alert(server.client(Some(&bad))).await;
    assert_eq!(alert, AlertDescription::CertificateRevoked);
    for leaf in [&good, &unlisted] {
        server.call(server.client(Some(leaf))).await.unwrap();
    }
    // Nobody knows what happened since.
    server.folder.write("clients.crl", server.clients.crl(&[], 2022));
    server.tls.reload().unwrap();
    assert!(server.call(server.client(Some(&good))).await.is_err());
    server.call(server.client(Some(&unlisted))).await.unwrap();
    // A list that someone else signed refuses, too, rather than nothing.
    server.folder.write("clients.crl", Ca::new("clients").crl(&[], 2090));
    server.tls.reload().unwrap();
    assert!(server.call(server.client(Some(&good))).await.is_err());
}

/// A ClientHello of version 3.x, with suites of now and then, and the extensions that they need. Clients of old versions
/// say nothing of signatures.
fn hello(minor: u8, with_signatures: bool) -> Vec<u8> {
    let mut body = vec![3, minor];
    body.extend([7; 32]);
    body.extend([0, 0, 6, 0xc0, 0x2b, 0xc0, 0x09, 0x00, 0x2f, 1, 0]);
    let groups = [0, 10, 0, 4, 0, 2, 0, 0x17];
    let formats = [0, 11, 0, 2, 1, 0];
    let signatures = [0, 13, 0, 4, 0, 2, 4, 3];
    let signatures = if with_signatures { &signatures[..] } else { &[] };
    body.extend([0, if with_signatures { 22 } else { 14 }]);
    body.extend(groups.iter().chain(&formats).chain(signatures));
    let mut handshake = vec![1, 0, 0, u8::try_from(body.len()).unwrap()];
    handshake.extend(body);
    let mut record = vec![22, 3, 1, 0, u8::try_from(handshake.len()).unwrap()];
    record.extend(handshake);
    record
}

#[tokio::test]
async fn older_versions_are_refused() {
    let server = Server::start(ClientAuth::Off).await;
    // The same for TLS 1.2 is answered with a ServerHello.
    let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    stream.write_all(&hello(3, true)).await.unwrap();
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!((answer[0], answer[5]), (22, 2));
    // SSL 3, TLS 1.0, TLS 1.1: a fatal alert, protocol_version; or handshake_failure, since signatures come first.
    for (with_signatures, alert) in [(true, 70), (false, 40)] {
        for minor in [0, 1, 2] {
            let answer = server.raw(&hello(minor, with_signatures)).await;
            assert_eq!((answer[0], &answer[5..]), (21, &[2, alert][..]), "3.{minor}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn what_is_no_tls_is_not_answered() {
    let server = Server::start(ClientAuth::Off).await;
    for bytes in [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..],
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        &[0; 64],
        &[22, 3, 1, 0xff, 0xff],
    ] {
        let answer = server.raw(bytes).await;
        // At most an alert.
        assert!(answer.is_empty() || answer[0] == 21 && answer.len() == 7, "{answer:?}");
    }
    server.call(server.client(None)).await.unwrap();
}

#[tokio::test]
async fn http_2_is_spoken_without_alpn_and_nothing_with_an_unknown_one() {
    let server = Server::start(ClientAuth::Off).await;
    let mut config = only(&server, &TLS13, None);
    config.alpn_protocols = Vec::new();
    server.call(Arc::new(config.clone())).await.unwrap();
    config.alpn_protocols = vec![b"spdy/1".to_vec()];
    let alert = server.alert(Arc::new(config.clone())).await;
    assert_eq!(alert, AlertDescription::NoApplicationProtocol);
    // gRPC-Web comes so.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut stream = handshake(server.address, Arc::new(config)).await.unwrap();
    let request =
        b"POST /x/y HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 "), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn a_drain_ends_handshakes_and_finishes_connections() {
    let mut server = Server::start(ClientAuth::Off).await;
    let channel = server.channel(server.client(None)).await.unwrap();
    super::support::call_on(channel).await.unwrap();
    let mut silent = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let _ = server.stop.take().unwrap().send(());
    assert!(server.task.take().unwrap().await.unwrap().complete);
    let ended = silent.read(&mut [0]).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
}
