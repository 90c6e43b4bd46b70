//! The real program, with all that it says.

use std::{
    process::Stdio,
    sync::{Arc, Mutex},
};

use portcullis::api::proto::v1::{
    IpPermission, IpRange, RevokeEgressRequest, operation_service_client::OperationServiceClient,
    security_group_service_client::SecurityGroupServiceClient,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    task::JoinHandle,
    time::timeout,
};
use tonic::{Request, transport::Channel};

use super::collector::PATIENCE;

/// A group of the sandbox's sample, in the default VPC.
pub const GROUP: &str = "sg-000000000000000d1";

pub const REVOKE: &str = "portcullis.v1.SecurityGroupService/RevokeEgress";

pub struct Program {
    pub channel: Channel,
    process: Child,
    stderr: Arc<Mutex<String>>,
    read: JoinHandle<()>,
}

impl Program {
    /// `portcullis serve` with these flags and nothing else in its environment than this.
    pub async fn start(flags: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "off"]).args(flags);
        command.env_clear().envs(environment.iter().copied()).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let stderr = Arc::new(Mutex::new(String::new()));
        let (kept, from) = (stderr.clone(), process.stderr.take().unwrap());
        let read = tokio::spawn(async move {
            let mut lines = BufReader::new(from).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let mut kept = kept.lock().unwrap();
                kept.push_str(&line);
                kept.push('\n');
            }
        });
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let address = timeout(PATIENCE, async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if let Some(rest) = line.strip_prefix("  gRPC ") {
                    return rest.split_whitespace().next().unwrap().to_owned();
                }
            }
            panic!("it ended: {}", stderr.lock().unwrap())
        });
        let address = address.await.expect("a start");
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let channel = Channel::from_shared(format!("http://{address}")).unwrap();
        let channel = channel.connect().await.unwrap();
        Self { channel, process, stderr, read }
    }

    pub fn groups(&self) -> SecurityGroupServiceClient<Channel> {
        SecurityGroupServiceClient::new(self.channel.clone())
    }

    pub fn operations(&self) -> OperationServiceClient<Channel> {
        OperationServiceClient::new(self.channel.clone())
    }

    /// SIGTERM, its exit code, and all that it has said. It must end by itself.
    pub async fn end(mut self) -> (Option<i32>, String) {
        let id = self.process.id().unwrap().to_string();
        let sent = Command::new("kill").args(["-s", "TERM", &id]).status().await.unwrap();
        assert!(sent.success());
        // Its own connection would keep the drain waiting for a moment.
        drop(self.channel);
        let ended = timeout(PATIENCE, self.process.wait()).await.expect("an end").unwrap();
        timeout(PATIENCE, self.read).await.expect("the end of its log").unwrap();
        let said = self.stderr.lock().unwrap().clone();
        (ended.code(), said)
    }
}

/// A permission that the sample's group does not have: an answer, and nothing changes.
pub fn unknown(port: i32) -> RevokeEgressRequest {
    let range = IpRange { cidr_ip: Some("192.0.2.0/24".into()), description: None };
    RevokeEgressRequest {
        group_id: Some(GROUP.into()),
        ip_permissions: vec![IpPermission {
            ip_protocol: Some("tcp".into()),
            from_port: Some(port),
            to_port: Some(port),
            ip_ranges: vec![range],
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// A request with metadata.
pub fn with<T>(message: T, metadata: &[(&'static str, &str)]) -> Request<T> {
    let mut request = Request::new(message);
    for (name, value) in metadata {
        request.metadata_mut().insert(*name, value.parse().unwrap());
    }
    request
}

/// A caller's `traceparent`.
pub fn traceparent(trace: &str, sampled: bool) -> String {
    format!("00-{trace}-00f067aa0ba902b7-0{}", u8::from(sampled))
}
