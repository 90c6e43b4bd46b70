//! An endpoint that answers as it is told: a list of replies for each action.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
};

use percent_encoding::percent_decode_str;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// What the endpoint does with one request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Answers with a status and body.
    Answer(u16, String),
    /// Writes these bytes and hangs up.
    Raw(String),
    /// Resets the connection.
    Reset,
    /// Says nothing.
    Hang,
}

/// One request that came.
#[derive(Clone, Debug)]
pub struct Received {
    /// The parameters of the form.
    pub form: HashMap<String, String>,
    /// The headers, as they came.
    pub head: String,
}

/// The endpoint. It ends when it is dropped.
pub struct Endpoint {
    pub url: String,
    received: Arc<Mutex<Vec<Received>>>,
    task: JoinHandle<()>,
}

type Replies = Arc<Mutex<HashMap<String, VecDeque<Reply>>>>;

impl Endpoint {
    /// Serves the replies of each action in order. A request beyond them fails with a code that no test expects.
    pub async fn serve(script: &[(&str, &[Reply])]) -> Self {
        let replies: HashMap<String, VecDeque<Reply>> = script
            .iter()
            .map(|(action, replies)| ((*action).to_owned(), replies.iter().cloned().collect()))
            .collect();
        let replies: Replies = Arc::new(Mutex::new(replies));
        let received = Arc::new(Mutex::new(Vec::new()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn({
            let received = received.clone();
            async move {
                let mut connections = tokio::task::JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    connections.spawn(connection(stream, replies.clone(), received.clone()));
                }
            }
        });
        Self { url, received, task }
    }

    /// The requests of an action so far.
    pub fn received(&self, action: &str) -> Vec<Received> {
        let all = self.received.lock().unwrap();
        all.iter().filter(|request| request.form["Action"] == action).cloned().collect()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connection(mut stream: TcpStream, replies: Replies, received: Arc<Mutex<Vec<Received>>>) {
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut buffer).await {
        let action = request.form["Action"].clone();
        received.lock().unwrap().push(request);
        let reply = replies.lock().unwrap().get_mut(&action).and_then(VecDeque::pop_front);
        let reply = reply.unwrap_or_else(|| match action.as_str() {
            "GetCallerIdentity" => caller_identity(super::ACCOUNT),
            _ => error(400, "NotScripted", &action),
        });
        match reply {
            Reply::Answer(status, body) => {
                let head = format!(
                    "HTTP/1.1 {status} Status\r\ncontent-type: text/xml\r\ncontent-length: {}\r\n\
                     x-amzn-requestid: request-1\r\n\r\n",
                    body.len()
                );
                stream.write_all((head + &body).as_bytes()).await.unwrap();
            }
            Reply::Raw(bytes) => {
                stream.write_all(bytes.as_bytes()).await.unwrap();
                return;
            }
            Reply::Reset => {
                stream.set_zero_linger().unwrap();
                return;
            }
            Reply::Hang => std::future::pending().await,
        }
    }
}

async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Received> {
    let head = loop {
        if let Some(end) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break String::from_utf8(buffer.drain(..end + 4).collect()).unwrap();
        }
        // TLS begins with this byte. Who speaks it is hung up on.
        if stream.read_buf(buffer).await.ok()? == 0 || buffer.first() == Some(&0x16) {
            return None;
        }
    };
    let length = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(0, |(_, value)| value.trim().parse().unwrap());
    while buffer.len() < length {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    let body = String::from_utf8(buffer.drain(..length).collect()).unwrap();
    let decode =
        |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into();
    let form = body
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect();
    Some(Received { form, head })
}

/// EC2's answer to an action.
pub fn answer(action: &str, content: &str) -> Reply {
    let namespace = "http://ec2.amazonaws.com/doc/2016-11-15/";
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{action}Response xmlns=\"{namespace}\">\
         <requestId>request-1</requestId>{content}</{action}Response>"
    );
    Reply::Answer(200, body)
}

/// EC2's error.
pub fn error(status: u16, code: &str, message: &str) -> Reply {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>{code}</Code>\
         <Message>{message}</Message></Error></Errors><RequestID>request-1</RequestID></Response>"
    );
    Reply::Answer(status, body)
}

/// STS's error.
pub fn sts_error(status: u16, code: &str, message: &str) -> Reply {
    let body = format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error>\
         <Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>\
         <RequestId>request-1</RequestId></ErrorResponse>"
    );
    Reply::Answer(status, body)
}

pub fn caller_identity(account: &str) -> Reply {
    let body = format!(
        "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
         <GetCallerIdentityResult><Arn>arn:aws:iam::{account}:user/test</Arn>\
         <UserId>AIDAEXAMPLE</UserId><Account>{account}</Account></GetCallerIdentityResult>\
         <ResponseMetadata><RequestId>request-1</RequestId></ResponseMetadata>\
         </GetCallerIdentityResponse>"
    );
    Reply::Answer(200, body)
}

pub fn assumed_role(arn: &str) -> Reply {
    let body = format!(
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
         <AssumeRoleResult><Credentials><AccessKeyId>ASIAASSUMED</AccessKeyId>\
         <SecretAccessKey>not-a-secret</SecretAccessKey><SessionToken>session</SessionToken>\
         <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials><AssumedRoleUser>\
         <Arn>{arn}</Arn><AssumedRoleId>AROAEXAMPLE:portcullis</AssumedRoleId></AssumedRoleUser>\
         </AssumeRoleResult><ResponseMetadata><RequestId>request-1</RequestId></ResponseMetadata>\
         </AssumeRoleResponse>"
    );
    Reply::Answer(200, body)
}
