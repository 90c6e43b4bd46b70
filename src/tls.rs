//! TLS: what the server proves itself with, whose client certificates it takes, and how both change while it runs.
//!
//! [`Tls`] holds what its files said when they were last good. [`Tls::reload`] reads them again: new connections get
//! what is new, and open ones whose client certificate is no longer good are told ([`Session::distrusted`]).
//! Read on in: `load` (files), `verify` (client certificates), [`facts`] (what a certificate says), [`client`].

use std::{fmt, io, path::PathBuf, sync::Arc, time::SystemTime};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{Error, ServerConfig, pki_types::CertificateDer},
    server::TlsStream,
};

use crate::{clock::Clock, principal::Certificate};

use self::verify::Verifier;

#[cfg(test)]
#[allow(
    dead_code,
    clippy::unwrap_used,
    reason = "a panic is a failed test, and the integration tests use all of it"
)]
#[path = "../tests/tls/certificates.rs"]
pub(crate) mod certificates;
pub mod client;
pub mod facts;
mod load;
mod verify;

/// What is offered to clients: HTTP/2, and HTTP/1.1 for gRPC-Web.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Whether clients prove themselves with a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// They are not asked for one.
    #[default]
    Off,
    /// They may have none. One that they have must be good.
    Optional,
    /// Without a good one there is no connection.
    Required,
}

/// Where everything is, in PEM.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// The server's certificate, then the intermediate ones.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Whether clients prove themselves.
    pub client_auth: ClientAuth,
    /// The CAs of their certificates.
    pub client_cas: Vec<PathBuf>,
    /// Lists of certificates that are revoked, in PEM or DER.
    pub crls: Vec<PathBuf>,
}

/// One thing that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The setting that names the file.
    pub setting: &'static str,
    /// The file, and what is wrong with it. Never what a key file holds.
    pub message: String,
}

/// From when and until when the files are good, as they were last read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dates {
    /// From when the server's certificate is.
    pub not_before: Option<SystemTime>,
    /// Until when it is.
    pub not_after: Option<SystemTime>,
    /// When the first of the clients' CAs expires. None: clients are not asked for certificates.
    pub client_ca: Option<SystemTime>,
    /// When the first of the revocation lists must have been replaced. None: none of them says when.
    pub crl: Option<SystemTime>,
}

/// What files said when they were read.
struct State {
    config: Arc<ServerConfig>,
    /// None: clients are not asked for certificates.
    verifier: Option<Arc<Verifier>>,
    dates: Dates,
}

/// The server's end of TLS.
pub struct Tls {
    files: Files,
    clock: Arc<dyn Clock>,
    state: watch::Sender<Arc<State>>,
}

/// What goes with one connection.
pub struct Session {
    /// The client's certificate, if it proved to hold one.
    pub certificate: Option<Arc<Certificate>>,
    chain: Vec<CertificateDer<'static>>,
    clock: Arc<dyn Clock>,
    state: watch::Receiver<Arc<State>>,
}

/// Everything that is wrong with the files. Nothing: they can be served with.
pub fn check(files: &Files, clock: &Arc<dyn Clock>) -> Vec<Fault> {
    load::load(files, clock).err().unwrap_or_default()
}

/// Whether a handshake failed because one end did not take the other's certificate.
pub fn is_about_certificates(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    matches!(
        inner,
        Some(
            Error::InvalidCertificate(_) | Error::NoCertificatesPresented | Error::AlertReceived(_)
        )
    )
}

// === impl Files ===

impl Files {
    /// All of them.
    pub fn paths(&self) -> Vec<PathBuf> {
        let mut all = vec![self.certificate.clone(), self.key.clone()];
        all.extend(self.client_cas.iter().chain(&self.crls).cloned());
        all
    }
}

// === impl Tls ===

impl Tls {
    /// Reads the files. What is only dubious, such as an expired certificate, is logged.
    pub fn open(files: Files, clock: Arc<dyn Clock>) -> Result<Self, Vec<Fault>> {
        let (state, warnings) = load::load(&files, &clock)?;
        log(&warnings);
        Ok(Self { files, clock, state: watch::Sender::new(Arc::new(state)) })
    }

    /// Where everything is.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// What the files say of time.
    pub fn dates(&self) -> Dates {
        self.state.borrow().dates
    }

    /// Reads the files again. If anything is wrong with them all stays as it was.
    pub fn reload(&self) -> Result<(), String> {
        self.reload_if(&|| true)
    }

    /// The same, but takes what was read only if the files are then `still` the same: one that is cut between two
    /// revocation lists is valid.
    pub fn reload_if(&self, still: &dyn Fn() -> bool) -> Result<(), String> {
        let (state, warnings) = load::load(&self.files, &self.clock).map_err(|faults| {
            let lines = faults.iter().map(|fault| format!("{}: {}", fault.setting, fault.message));
            lines.collect::<Vec<_>>().join("; ")
        })?;
        if !still() {
            return Ok(());
        }
        log(&warnings);
        self.state.send_replace(Arc::new(state));
        Ok(())
    }

    /// The handshake. It waits for the client as long as the client takes: the caller bounds it.
    pub async fn accept<I>(&self, stream: I) -> io::Result<(TlsStream<I>, Session)>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let mut state = self.state.subscribe();
        let config = state.borrow_and_update().config.clone();
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let chain: Vec<_> = chain.iter().map(|one| one.clone().into_owned()).collect();
        let certificate = match chain.first() {
            // It was read during the handshake, so that this cannot fail any more.
            Some(own) => Some(Arc::new(facts::of(own).map_err(io::Error::other)?)),
            None => None,
        };
        let clock = self.clock.clone();
        Ok((stream, Session { certificate, chain, clock, state }))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

fn log(warnings: &[String]) {
    for warning in warnings {
        tracing::warn!(warning, "TLS");
    }
}

// === impl Session ===

impl Session {
    /// Ends when a reload brought CAs or a revocation list by which the client's certificate is no longer good.
    /// Expiry is not what it is about: calls are checked for that.
    pub async fn distrusted(mut self) {
        let Some((own, between)) = self.chain.split_first() else {
            return std::future::pending().await;
        };
        let until = self.certificate.as_ref().map(|certificate| certificate.not_after);
        while self.state.changed().await.is_ok() {
            let state = self.state.borrow_and_update().clone();
            // An expired certificate stays what it is, so that the reason is told call by call.
            let now = until.map_or_else(|| self.clock.now(), |until| until.min(self.clock.now()));
            let good = |verifier: &Arc<Verifier>| verifier.check(own, between, now).is_ok();
            if !state.verifier.as_ref().is_some_and(good) {
                return;
            }
        }
        std::future::pending().await
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// Seconds since 1970 as a time.
fn time_of(seconds: i64) -> SystemTime {
    let span = std::time::Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(span)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(span)
    };
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}
