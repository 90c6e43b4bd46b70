//! A server with TLS on a socket, and clients that shake hands with it.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use portcullis::{
    access::Access,
    api::proto::v1::{self, security_group_service_client::SecurityGroupServiceClient as Groups},
    api::scribe::ProtoScribe,
    backend::sandbox::Sandbox,
    clock::{Clock, SystemClock},
    config::{AuthenticationConfig, Limits, RateLimits},
    credentials::Authenticator,
    ledger::Terms,
    middleware::idempotency::Books,
    random::SeededRandom,
    server::{self, Drained, Parts, ServerStatus},
    telemetry::metrics::Metrics,
    tls::{ClientAuth, Files, Tls, client},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{self, AlertDescription, ClientConfig, pki_types::ServerName},
};
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use super::certificates::{Ca, Folder, Leaf};

/// A server, its CA, and the CA of its clients.
pub struct Server {
    pub folder: Folder,
    pub ca: Ca,
    pub clients: Ca,
    pub tls: Arc<Tls>,
    pub address: SocketAddr,
    pub stop: Option<oneshot::Sender<()>>,
    pub task: Option<JoinHandle<Drained>>,
}

impl Server {
    /// With an own certificate; with client certificates as it says; with a revocation list if there is one.
    pub async fn start(client_auth: ClientAuth) -> Self {
        Self::start_with(client_auth, false).await
    }

    pub async fn start_with(client_auth: ClientAuth, with_crl: bool) -> Self {
        // TLS alone is the matter here: whoever gets a connection is served.
        let off = AuthenticationConfig::default();
        let clock = Arc::new(SystemClock);
        let authenticator = Authenticator::open(off, false, clock.clone()).await.unwrap();
        let access = Access::allow_all();
        Self::start_for(client_auth, with_crl, clock, Arc::new(authenticator), access).await
    }

    /// For callers that this tells, and who may do that.
    pub async fn start_for(
        client_auth: ClientAuth,
        with_crl: bool,
        clock: Arc<dyn Clock>,
        authenticator: Arc<Authenticator>,
        access: Access,
    ) -> Self {
        let (folder, ca, clients) = (Folder::new(), Ca::new("servers"), Ca::new("clients"));
        let (certificate, key) = folder.put("server", &ca.leaf("server"));
        folder.write("ca.pem", &ca.pem);
        let client_cas = vec![folder.write("clients.pem", &clients.pem)];
        let crls = if with_crl {
            vec![folder.write("clients.crl", clients.crl(&[], 2090))]
        } else {
            Vec::new()
        };
        let files = Files { certificate, key, client_auth, client_cas, crls };
        let tls = Arc::new(Tls::open(files, clock.clone()).unwrap());
        let random = Arc::new(SeededRandom::new(1));
        let (sandbox, _) = Sandbox::open(None, None, clock.clone(), random.clone()).unwrap();
        let sandbox = Arc::new(sandbox);
        let parts = Parts {
            limits: Limits::default(),
            rate_limits: RateLimits::default(),
            tls: Some(tls.clone()),
            authenticator,
            backend: sandbox.clone(),
            sandbox: Some(sandbox),
            books: Books::in_memory(Terms::default(), clock.clone(), Arc::new(ProtoScribe)),
            access: Arc::new(access),
            clock,
            random,
            metrics: Metrics::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move {
            let _ = stopped.await;
        };
        let task = tokio::spawn(server::serve(listener, parts, shutdown, ServerStatus::default()));
        Self { folder, ca, clients, tls, address, stop: Some(stop), task: Some(task) }
    }

    /// The setting of a client that trusts the server and has a certificate or none.
    pub fn client(&self, own: Option<&Leaf>) -> Arc<ClientConfig> {
        let own = own.map(|leaf| self.folder.put("client", leaf));
        let own = own.as_ref().map(|(certificate, key)| (certificate.as_path(), key.as_path()));
        client::config(&self.path("ca.pem"), own).unwrap()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.0.join(name)
    }

    /// A connection for calls.
    pub async fn channel(&self, config: Arc<ClientConfig>) -> Result<Channel, String> {
        let address = self.address;
        let connector = service_fn(move |_| {
            let config = config.clone();
            async move { handshake(address, config).await.map(TokioIo::new) }
        });
        // tonic would encrypt what is https by itself: only the calls say so.
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let endpoint = endpoint.origin(format!("https://{address}").parse().unwrap());
        endpoint.connect_with_connector(connector).await.map_err(|error| told(&error))
    }

    /// One call on a new connection.
    pub async fn call(&self, config: Arc<ClientConfig>) -> Result<(), String> {
        let channel = self.channel(config).await?;
        call_on(channel).await
    }

    /// The alert that the server answers a handshake with. In TLS 1.3 it comes after the client thinks that all is
    /// well.
    pub async fn alert(&self, config: Arc<ClientConfig>) -> AlertDescription {
        let ended = match handshake(self.address, config).await {
            Ok(mut stream) => stream.read_u8().await.map(|_| ()),
            Err(error) => Err(error),
        };
        let error = ended.unwrap_err();
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::AlertReceived(alert)) => *alert,
            _ => panic!("no alert but {error:?}"),
        }
    }

    /// What the server answers to bytes that are written as they are.
    pub async fn raw(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        // It may close with our bytes unread, which some systems tell as an error.
        let _ = stream.read_to_end(&mut answer).await;
        answer
    }
}

/// Calls until the connection is no longer good for it.
pub async fn until_refused(channel: Channel) {
    let calls = async {
        while call_on(channel.clone()).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    patiently(calls).await;
}

/// What does not come to pass fails the test.
pub async fn patiently<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("it did not come to pass")
}

pub async fn handshake(
    address: SocketAddr,
    config: Arc<ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(config).connect(name, stream).await
}

pub async fn call_on(channel: Channel) -> Result<(), String> {
    let request = v1::DescribeSecurityGroupsRequest::default();
    let answer = Groups::new(channel).describe_security_groups(request).await;
    answer.map(|_| ()).map_err(|status| told(&status))
}

fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
