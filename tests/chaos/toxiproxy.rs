//! What stands between a client and its server and can be told to fail: `scripts/tools toxiproxy` installs it.

use std::{net::SocketAddr, path::Path, process::Stdio};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::{Child, Command},
};

/// One proxy; dropping it ends it.
pub struct Toxiproxy {
    api: SocketAddr,
    /// Where it listens for connections to what is behind it.
    pub address: String,
    _process: Child,
}

impl Toxiproxy {
    /// In front of `upstream`.
    pub async fn start(program: &Path, upstream: &str) -> Self {
        // The port is free, and nobody else takes it within this moment.
        let api = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let process = Command::new(program)
            .args(["-host", "127.0.0.1", "-port", &api.port().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        while TcpStream::connect(api).await.is_err() {
            tokio::task::yield_now().await;
        }
        let mut proxy = Self { api, address: String::new(), _process: process };
        let made = json!({"name": "it", "listen": "127.0.0.1:0", "upstream": upstream});
        let made = proxy.ask("POST", "/proxies", &made).await;
        proxy.address = made["listen"].as_str().unwrap().to_owned();
        proxy
    }

    /// Nothing goes through, and nobody is let in.
    pub async fn down(&self) {
        self.ask("POST", "/proxies/it", &json!({"enabled": false})).await;
    }

    /// One of toxiproxy's toxics, on what goes to the server (`upstream`) or comes from it (`downstream`).
    pub async fn toxic(&self, kind: &str, stream: &str, attributes: Value) {
        let toxic = json!({"type": kind, "stream": stream, "attributes": attributes});
        self.ask("POST", "/proxies/it/toxics", &toxic).await;
    }

    /// Everything goes through again.
    pub async fn heal(&self) {
        self.ask("POST", "/reset", &Value::Null).await;
    }

    async fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            self.api,
            body.len(),
        );
        let mut stream = TcpStream::connect(self.api).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 2"), "{request}\n{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).unwrap_or_default()
    }
}
