//! What EC2 says in code when it does not permit a call: decoded for the log, and for nobody else.

use std::{
    io::Write,
    sync::{Arc, Mutex},
    time::Duration,
};

use portcullis::{
    api::proto::sandbox::v1::{Fault, FaultKind},
    backend::{Backend, BackendError, CallContext, DescribeRules, Refusal, ec2::Ec2},
    error::Error,
};
use tokio::time::{self, Instant};

use super::{
    call, door,
    identity::{caller, session_name},
    open,
    script::{Endpoint, Reply, error, sts_error},
    settings, target, target_settings,
};

const READ: &str = "DescribeSecurityGroupRules";
const DECODE: &str = "DecodeAuthorizationMessage";
const SAID: &str = "You are not authorized to perform this operation.";

/// A log that keeps what is written.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Keeps what this thread logs. A test's runtime has no other.
    fn start() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::INFO)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// The first line with this text in it.
    async fn line(&self, text: &str) -> String {
        let found = async {
            loop {
                let all = self.text();
                if let Some(line) = all.lines().find(|line| line.contains(text)) {
                    return line.to_owned();
                }
                tokio::task::yield_now().await;
            }
        };
        let found = time::timeout(Duration::from_secs(20), found).await;
        found.unwrap_or_else(|_| panic!("no {text:?} in {}", self.text()))
    }
}

fn not_permitted() -> Reply {
    let message = format!("{SAID} Encoded authorization failure message: BLOB-1");
    error(403, "UnauthorizedOperation", &message)
}

fn decoded(text: &str) -> Reply {
    let body = format!(
        "<DecodeAuthorizationMessageResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
         <DecodeAuthorizationMessageResult><DecodedMessage>{text}</DecodedMessage>\
         </DecodeAuthorizationMessageResult><ResponseMetadata><RequestId>r</RequestId>\
         </ResponseMetadata></DecodeAuthorizationMessageResponse>"
    );
    Reply::Answer(200, body)
}

async fn open_decoding(endpoint: &Endpoint) -> Ec2 {
    let mut settings = settings(&endpoint.url);
    settings.decode_authorization_messages = true;
    open(settings).await
}

/// Reads, and returns what EC2 did not permit.
async fn refusal(ec2: &Ec2, call: &CallContext) -> Refusal {
    match ec2.describe_rules(call, &target(), &DescribeRules::default()).await {
        Err(BackendError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn it_is_decoded_for_the_log_and_callers_learn_nothing() {
    let (log, _guard) = Log::start();
    let denials = vec![not_permitted(); 10];
    let texts = ["{&quot;allowed&quot;:false}", "{&quot;second&quot;:1}"].map(decoded);
    let endpoint = Endpoint::serve(&[(READ, &denials), (DECODE, &texts)]).await;
    let ec2 = open_decoding(&endpoint).await;
    let alice = CallContext { caller: Some(caller("alice")), ..call() };
    let told = refusal(&ec2, &alice).await;
    assert_eq!((told.code.as_str(), told.message.as_str()), ("UnauthorizedOperation", SAID));
    let error = format!("{:?}", Error::from_backend(told.into(), "sg-1"));
    assert!(!error.contains("BLOB"), "{error}");
    let line = log.line("allowed").await;
    for part in ["WARN", "operation-1", "request-1", "123456789012/us-east-1", ":alice"] {
        assert!(line.contains(part), "{part} in {line}");
    }
    let [asked] = &endpoint.received(DECODE)[..] else { panic!("not one question") };
    assert_eq!(asked.form["EncodedMessage"], "BLOB-1");

    // A flood costs STS one question a second.
    for _ in 0..5 {
        assert_eq!(refusal(&ec2, &call()).await.message, SAID);
    }
    log.line("not decoded").await;
    assert_eq!(endpoint.received(DECODE).len(), 1);
    time::pause();
    time::advance(Duration::from_secs(2)).await;
    time::resume();
    // The turn comes back in a task of its own.
    let second = async {
        while endpoint.received(DECODE).len() < 2 {
            refusal(&ec2, &call()).await;
        }
    };
    time::timeout(Duration::from_secs(20), second).await.unwrap();
    log.line("second").await;
    assert!(!log.text().contains("BLOB"), "{}", log.text());
}

#[tokio::test]
async fn the_answer_does_not_wait_and_failures_are_logged() {
    let (log, _guard) = Log::start();
    let endpoint = Endpoint::serve(&[(READ, &[not_permitted()]), (DECODE, &[Reply::Hang])]).await;
    let ec2 = open_decoding(&endpoint).await;
    let started = Instant::now();
    refusal(&ec2, &call()).await;
    assert!(started.elapsed() < Duration::from_secs(5));

    let no = sts_error(403, "AccessDenied", "no sts:DecodeAuthorizationMessage");
    let endpoint = Endpoint::serve(&[(READ, &[not_permitted()]), (DECODE, &[no])]).await;
    let ec2 = open_decoding(&endpoint).await;
    refusal(&ec2, &call()).await;
    let line = log.line("cannot be decoded").await;
    assert!(line.contains("no sts:DecodeAuthorizationMessage"), "{line}");
}

#[tokio::test]
async fn it_is_off_unless_it_is_on() {
    let endpoint = Endpoint::serve(&[(READ, &[not_permitted()])]).await;
    let ec2 = open(settings(&endpoint.url)).await;
    assert_eq!(refusal(&ec2, &call()).await.message, SAID);
    // STS is asked for nothing, now or later: what is spawned runs before this thread's next answer.
    refusal_of_another(&ec2).await;
    assert_eq!(endpoint.received(DECODE).len(), 0);
}

async fn refusal_of_another(ec2: &Ec2) {
    assert_eq!(refusal(ec2, &call()).await.code, "NotScripted");
}

/// From a caller's session to the log, with the sandbox for EC2 and STS.
#[tokio::test]
async fn the_sandbox_says_who_was_not_permitted_what() {
    let (log, _guard) = Log::start();
    let mut role = target_settings();
    role.role_arn = Some("arn:aws:iam::123456789012:role/portcullis".to_owned());
    role.session_per_principal = true;
    let (world, ec2) = door::open(vec![role]).await;
    world.inject(Fault {
        kind: FaultKind::Refuse.into(),
        error_code: "UnauthorizedOperation".to_owned(),
        ..Default::default()
    });
    let alice = caller("alice");
    let told = refusal(&ec2, &CallContext { caller: Some(alice.clone()), ..call() }).await;
    assert_eq!(told.message, "You are not authorized to perform this operation.");
    let line = log.line("decoded=").await;
    let session = session_name(&alice);
    for part in ["ec2:DescribeSecurityGroupRules", &session, "allowed"] {
        assert!(line.contains(part), "{part} in {line}");
    }
}
