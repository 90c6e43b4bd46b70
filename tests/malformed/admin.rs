//! The admin port: a few dozen malformed requests, and it still answers.

use std::{sync::Arc, time::Duration};

use portcullis::{
    admin::{self, Admin},
    backend::sandbox::Sandbox,
    clock::SystemClock,
    random::SystemRandom,
    reload::Stale,
    server::ServerStatus,
    telemetry::{level::Level, metrics::Metrics},
};
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

/// The server gives a connection five seconds.
const HANG: Duration = Duration::from_secs(30);

/// What is sent, whether the sender then says that it is done, and the statuses that may come. None: only the end.
type Request = (Vec<u8>, bool, &'static [u16]);

fn requests(rng: &mut StdRng) -> Vec<Request> {
    let mut requests = Vec::new();
    for _ in 0..8 {
        let mut junk = vec![0; rng.random_range(1..500)];
        rng.fill_bytes(&mut junk);
        junk[0] = 1;
        let number: u32 = rng.random();
        let long = "x".repeat(rng.random_range(9000..60_000));
        let many: String =
            (0..rng.random_range(101..500)).map(|i| format!("x{i}: x\r\n")).collect();
        let head = "GET /livez HTTP/1.1\r\nhost: x\r\n".to_owned();
        requests.extend([
            (junk, true, &[400][..]),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), true, &[400]),
            (format!("GET /{number} HTTP/1.1\r\nhost: x\r\n\r\n").into(), false, &[404]),
            (format!("GET /../..//{number} HTTP/1.1\r\n\r\n").into(), false, &[404]),
            (format!("DELETE /readyz?{number} HTTP/1.1\r\n\r\n").into(), false, &[405]),
            (
                format!("PUT /log-level HTTP/1.1\r\ncontent-length: 9000\r\n\r\n{long}").into(),
                false,
                &[413],
            ),
            (
                b"PUT /log-level HTTP/1.1\r\ncontent-length: 2\r\n\r\n\xff\xff".to_vec(),
                false,
                &[400],
            ),
            (
                format!("PUT /log-level HTTP/1.1\r\ncontent-length: 5\r\n\r\n{number}").into(),
                true,
                &[400, 413],
            ),
            (format!("{head}content-length: -{number}\r\n\r\n").into(), true, &[400]),
            (format!("GET /{long} HTTP/1.1\r\n\r\n").into(), true, &[414, 431]),
            (format!("{head}x-long: {long}\r\n\r\n").into(), true, &[431]),
            (format!("{head}{many}\r\n").into(), true, &[431]),
            (format!("{head}x-stalled-{number}: ").into(), false, &[408]),
            (Vec::new(), false, &[]),
            (
                format!("POST /livez HTTP/1.1\r\ncontent-length: 1{number}\r\n\r\nx").into(),
                false,
                &[405],
            ),
        ]);
    }
    requests
}

#[tokio::test]
async fn malformed_requests_to_the_admin_port() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (clock, random) = (Arc::new(SystemClock), Arc::new(SystemRandom));
    let (sandbox, _) = Sandbox::open(None, None, clock, random).unwrap();
    tokio::spawn(admin::serve(
        listener,
        Admin {
            status: ServerStatus::default(),
            backend: Arc::new(sandbox),
            stale: Stale::default(),
            metrics: Metrics::default(),
            config: "".into(),
            level: Level::open::<tracing_subscriber::Registry>("info").unwrap().1,
        },
        std::future::pending(),
    ));
    let requests = requests(&mut StdRng::seed_from_u64(super::SEED));
    let count = requests.len();
    let mut running = JoinSet::new();
    for (bytes, done, expected) in requests {
        running.spawn(async move {
            let answer = timeout(HANG, exchange(address, &bytes, done)).await;
            let answer = answer.unwrap_or_else(|_| panic!("a hang: {bytes:?}"));
            let status = answer.get(9..12).map(|status| status.parse::<u16>().unwrap());
            let fits = status.is_none_or(|status| expected.contains(&status));
            assert!(
                fits,
                "{answer:?}, expected {expected:?} of {:?}",
                String::from_utf8_lossy(&bytes)
            );
            // A connection may be reset before its answer was read, but not each.
            status.is_some()
        });
    }
    let answered = running.join_all().await.into_iter().filter(|answered| *answered).count();
    println!("{count} malformed requests to the admin port, {answered} of them answered");
    assert!(answered * 2 > count, "{answered} of {count}");
    let alive = exchange(address, b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n", false).await;
    assert!(alive.starts_with("HTTP/1.1 200 "), "{alive}");
}

/// All that is answered until the connection ends.
async fn exchange(address: std::net::SocketAddr, bytes: &[u8], done: bool) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(bytes).await;
    if done {
        let _ = stream.shutdown().await;
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}
