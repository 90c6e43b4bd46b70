//! What Prometheus reads.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use portcullis::telemetry::metrics::table::TABLE;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// How long what has happened may take to be seen.
const PATIENCE: Duration = Duration::from_secs(60);

/// One reading of `/metrics`.
#[derive(Clone, Debug)]
pub struct Text(pub String);

impl Text {
    pub async fn read(admin: SocketAddr) -> Self {
        let answer = ask(admin, "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
        Self(body.to_owned())
    }

    /// The sum of the series of that name with these labels. None: there is none.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let found: Vec<f64> = self
            .series(name)
            .filter(|(of, _)| {
                labels.iter().all(|(name, value)| of.contains(&format!("{name}=\"{value}\"")))
            })
            .map(|(_, value)| value)
            .collect();
        (!found.is_empty()).then(|| found.iter().sum())
    }

    /// The series of a name: labels and value.
    pub fn series(&self, name: &str) -> impl Iterator<Item = (&str, f64)> {
        self.0.lines().filter_map(move |line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = rest.rsplit_once(' ')?;
            (labels.is_empty() || labels.starts_with('{')).then(|| (labels, value.parse().unwrap()))
        })
    }
}

/// One request over HTTP/1.1: all of the answer.
pub async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Which metrics were seen moving.
#[derive(Default)]
pub struct Seen(BTreeSet<String>);

impl Seen {
    /// Waits until the series of a metric of the table, with these labels, have such a sum.
    pub async fn until(
        &mut self,
        admin: SocketAddr,
        name: &str,
        labels: &[(&str, &str)],
        fits: impl Fn(f64) -> bool,
    ) {
        // A histogram moves with its count.
        let base = name.strip_suffix("_count").unwrap_or(name);
        let metric = TABLE.iter().find(|metric| metric.prometheus_name() == base);
        assert!(metric.is_some(), "{base} is not in the table");
        let mut last = None;
        let seen = timeout(PATIENCE, async {
            loop {
                let text = Text::read(admin).await;
                if text.value(name, labels).is_some_and(&fits) {
                    return;
                }
                last = Some(text);
                tokio::task::yield_now().await;
            }
        });
        if seen.await.is_err() {
            let text = last.unwrap().0;
            let lines = text.lines().filter(|line| !line.contains("_bucket"));
            let lines: Vec<&str> = lines.collect();
            panic!("{name} {labels:?} does not come in\n{}", lines.join("\n"));
        }
        self.0.insert(base.to_owned());
    }

    /// Those of the table that were not.
    pub fn missing(&self) -> Vec<String> {
        let names = TABLE.iter().map(|metric| metric.prometheus_name());
        names.filter(|name| !self.0.contains(name)).collect()
    }
}
