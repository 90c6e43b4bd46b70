//! Certificates and CAs that change while the server runs.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use portcullis::tls::ClientAuth;
use tokio_rustls::rustls::HandshakeKind;

use super::{
    certificates::Ca,
    support::{Server, call_on, handshake, until_refused},
};

const CALLERS: usize = 8;
const ROTATIONS: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_under_load_fails_no_call() {
    let server = Arc::new(Server::start(ClientAuth::Required).await);
    let leaf = server.clients.leaf("alice");
    let config = server.client(Some(&leaf));
    let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (server, config) = (server.clone(), config.clone());
            let (stop, calls) = (stop.clone(), calls.clone());
            tokio::spawn(async move {
                let open = server.channel(config.clone()).await.unwrap();
                while !stop.load(Ordering::Relaxed) {
                    server.call(config.clone()).await.unwrap();
                    call_on(open.clone()).await.unwrap();
                    calls.fetch_add(2, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for rotation in 0..ROTATIONS {
        let new = server.ca.leaf(&format!("server {rotation}"));
        // The certificate first: what a look in between sees does not fit, and changes nothing.
        server.folder.write("server.pem", &new.certificate);
        let error = server.tls.reload().unwrap_err();
        assert!(error.contains("does not fit"), "{error}");
        server.folder.write("server.key", &new.key);
        server.tls.reload().unwrap();
        let stream = handshake(server.address, config.clone()).await.unwrap();
        let shown = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
        assert!(shown == new.der, "rotation {rotation}: the old certificate");
        let before = calls.load(Ordering::Relaxed);
        while calls.load(Ordering::Relaxed) < before + CALLERS {
            assert!(callers.iter().all(|caller| !caller.is_finished()), "a call failed");
            tokio::task::yield_now().await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    assert!(calls.load(Ordering::Relaxed) >= CALLERS * ROTATIONS);
}

#[tokio::test]
async fn a_new_ca_comes_beside_the_old_one_before_that_goes() {
    let server = Server::start(ClientAuth::Required).await;
    let new = Ca::new("new clients");
    let (old_leaf, new_leaf) = (server.clients.leaf("alice"), new.leaf("alice"));
    let open = server.channel(server.client(Some(&old_leaf))).await.unwrap();
    call_on(open.clone()).await.unwrap();
    assert!(server.call(server.client(Some(&new_leaf))).await.is_err());

    server.folder.write("clients.pem", format!("{}{}", server.clients.pem, new.pem));
    server.tls.reload().unwrap();
    let new_open = server.channel(server.client(Some(&new_leaf))).await.unwrap();
    call_on(new_open.clone()).await.unwrap();
    server.call(server.client(Some(&old_leaf))).await.unwrap();
    call_on(open.clone()).await.unwrap();

    server.folder.write("clients.pem", &new.pem);
    server.tls.reload().unwrap();
    assert!(server.call(server.client(Some(&old_leaf))).await.is_err());
    server.call(server.client(Some(&new_leaf))).await.unwrap();
    // The connection that was open ends, and the client cannot make another.
    until_refused(open).await;
    call_on(new_open).await.unwrap();
}

#[tokio::test]
async fn an_open_connection_ends_when_its_certificate_is_revoked() {
    let server = Server::start_with(ClientAuth::Optional, true).await;
    let (alice, bob) = (server.clients.leaf("alice"), server.clients.leaf("bob"));
    let of_alice = server.channel(server.client(Some(&alice))).await.unwrap();
    let of_bob = server.channel(server.client(Some(&bob))).await.unwrap();
    let of_nobody = server.channel(server.client(None)).await.unwrap();
    for channel in [&of_alice, &of_bob, &of_nobody] {
        call_on(channel.clone()).await.unwrap();
    }
    server.folder.write("clients.crl", server.clients.crl(&[&alice.serial], 2090));
    server.tls.reload().unwrap();
    until_refused(of_alice).await;
    call_on(of_bob).await.unwrap();
    call_on(of_nobody).await.unwrap();
}

/// A session that is resumed skips the client's certificate: none may outlive the trust that it began with.
#[tokio::test]
async fn a_session_is_not_resumed_past_a_reload() {
    let server = Server::start_with(ClientAuth::Required, true).await;
    let alice = server.clients.leaf("alice");
    let config = server.client(Some(&alice));
    server.call(config.clone()).await.unwrap();
    let stream = handshake(server.address, config.clone()).await.unwrap();
    assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
    server.call(config.clone()).await.unwrap();
    server.folder.write("clients.crl", server.clients.crl(&[&alice.serial], 2090));
    server.tls.reload().unwrap();
    assert!(server.call(config).await.is_err());
}

#[tokio::test]
async fn broken_files_change_nothing() {
    let server = Server::start_with(ClientAuth::Required, true).await;
    let config = server.client(Some(&server.clients.leaf("alice")));
    let other = server.ca.leaf("other");
    for (name, text, expected) in [
        ("server.pem", "", "tls_cert_file: "),
        ("server.pem", "-----BEGIN CERTIFICATE-----\nAAAA", "tls_cert_file: "),
        ("server.key", other.key.as_str(), "tls_key_file: "),
        ("server.key", "-----BEGIN PRIVATE KEY-----\nhush", "tls_key_file: "),
        ("clients.pem", "nothing", "tls_client_ca_files: "),
        ("clients.crl", "nothing", "tls_crl_files: "),
    ] {
        let good = std::fs::read(server.path(name)).unwrap();
        server.folder.write(name, text);
        let error = server.tls.reload().unwrap_err();
        assert!(error.contains(expected) && !error.contains("hush"), "{name}: {error}");
        server.call(config.clone()).await.unwrap();
        server.folder.write(name, good);
        server.tls.reload().unwrap();
    }
    std::fs::remove_file(server.path("server.pem")).unwrap();
    assert!(server.tls.reload().unwrap_err().contains("cannot be read"));
    server.call(config).await.unwrap();
}
