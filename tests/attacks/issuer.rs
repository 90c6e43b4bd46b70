//! An issuer's HTTP server: it answers a text that the test can change, and counts.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

#[derive(Clone)]
pub struct Issuer {
    pub url: String,
    answer: Arc<Mutex<(String, String)>>,
    /// Whether the answer never ends.
    pub endless: Arc<AtomicBool>,
    fetches: Arc<AtomicUsize>,
    pub authorization: Arc<Mutex<Option<String>>>,
}

impl Issuer {
    pub async fn start(body: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let issuer = Self {
            url,
            answer: Arc::new(Mutex::new(("200 OK".into(), body))),
            endless: Arc::default(),
            fetches: Arc::default(),
            authorization: Arc::default(),
        };
        let server = issuer.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => request.push(byte),
                        Err(_) => break,
                    }
                }
                server.fetches.fetch_add(1, Ordering::SeqCst);
                let request = String::from_utf8(request).unwrap();
                let sent = request.lines().find_map(|line| line.strip_prefix("authorization: "));
                *server.authorization.lock().unwrap() = sent.map(str::to_owned);
                if server.endless.load(Ordering::SeqCst) {
                    // Until the client has had enough.
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n{\"keys\": [").await;
                    while stream.write_all(&[b' '; 4096]).await.is_ok() {}
                    continue;
                }
                let (status, body) = server.answer.lock().unwrap().clone();
                let length = body.len();
                let head = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
                );
                // A client that has read enough hangs up.
                let _ = stream.write_all((head + &body).as_bytes()).await;
            }
        });
        issuer
    }

    pub fn answer(&self, status: &str, body: String) {
        *self.answer.lock().unwrap() = (status.into(), body);
    }

    pub fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }
}
