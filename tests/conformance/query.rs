//! EC2's own API, for what the service does not offer: VPCs and prefix lists. Signatures are not checked there.

use std::fmt::Write as _;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const SCOPE: &str = "testing/20260101/us-east-1/ec2/aws4_request";

/// An emulator of EC2.
pub struct Ec2 {
    address: String,
}

impl Ec2 {
    pub fn new(address: &str) -> Self {
        Self { address: address.to_owned() }
    }

    /// The XML of an answer.
    pub async fn ask(&self, action: &str, fields: &[(&str, &str)]) -> String {
        let mut body = format!("Action={action}&Version=2016-11-15");
        for (name, value) in fields {
            let _ = write!(body, "&{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC));
        }
        let request = format!(
            "POST / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential={SCOPE}, SignedHeaders=host, Signature=0\r\n\
             \r\n{body}",
            self.address,
            body.len()
        );
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{action}: {answer}");
        answer
    }
}

/// The texts of all elements of a name.
pub fn members(xml: &str, name: &str) -> Vec<String> {
    let (start, end) = (format!("<{name}>"), format!("</{name}>"));
    let parts = xml.split(&start).skip(1);
    parts.filter_map(|part| part.split_once(&end).map(|(text, _)| text.to_owned())).collect()
}
