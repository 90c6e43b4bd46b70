//! The processes: EC2, and the servers in front of it.

use std::{env, fs::File, path::PathBuf, process::Stdio};

use portcullis::api::proto::{
    sandbox::v1::{LoadStateRequest, sandbox_service_client::SandboxServiceClient},
    v1::security_group_service_client::SecurityGroupServiceClient,
};
use serde_json::{Value, json};
use tokio::sync::watch;
use tonic::transport::Channel;

use crate::programs::{Program, portcullis, portcullis_with_log};

pub const VPCS: [(&str, bool); 2] =
    [("vpc-0d000000000000000", true), ("vpc-0e000000000000000", false)];
pub const GROUPS: usize = 12;
pub const RULES: usize = 40;

const ACCOUNT: &str = "123456789012";
const REGION: &str = "us-east-1";

/// Attempts are short, so that what is in doubt can be settled soon.
const QUICK: [&str; 6] = [
    "--ec2-connect-timeout-ms",
    "200",
    "--ec2-attempt-timeout-ms",
    "500",
    "--ledger-settle-grace-ms",
    "100",
];

/// Where the ledger is.
pub enum Where {
    Sqlite(PathBuf),
    Postgres(String),
}

/// A sandbox behind its EC2 door; its effects survive whatever happens to the servers.
pub struct Ec2 {
    program: Program,
    pub sandbox: SandboxServiceClient<Channel>,
    pub groups: SecurityGroupServiceClient<Channel>,
}

/// The servers.
pub struct Fleet {
    url: String,
    ledger: String,
    /// Where each listens, and more flags for all of them.
    listen: Vec<String>,
    flags: Vec<&'static str>,
    replicas: Vec<Option<Program>>,
    starts: usize,
    addresses: watch::Sender<Vec<String>>,
}

pub fn channel(address: &str) -> Channel {
    Channel::from_shared(format!("http://{address}")).unwrap().connect_lazy()
}

/// The group and its one rule of that number.
pub fn group_id(group: usize) -> String {
    format!("sg-{:017x}", group + 1)
}

pub fn cidr(rule: usize) -> String {
    format!("10.{}.{}.0/24", rule / 200, rule % 200)
}

impl Ec2 {
    pub async fn start() -> Self {
        let program = portcullis(&["--sandbox-ec2-listen", "127.0.0.1:0"], &[]).await;
        let channel = channel(&program.address);
        let mut sandbox = SandboxServiceClient::new(channel.clone());
        let state = serde_json::from_value(state()).unwrap();
        let request = LoadStateRequest { state: Some(state), replace: true };
        sandbox.load_state(request).await.unwrap();
        Self { program, sandbox, groups: SecurityGroupServiceClient::new(channel) }
    }
}

/// Groups in both kinds of VPC, with many rules each.
fn state() -> Value {
    let vpcs: Vec<Value> = VPCS
        .iter()
        .map(|(id, default)| {
            json!({"VpcId": id, "IsDefault": default, "CidrBlock": "172.31.0.0/16", "OwnerId": ACCOUNT, "Region": REGION})
        })
        .collect();
    let ranges: Vec<Value> = (0..RULES).map(|rule| json!({"CidrIp": cidr(rule)})).collect();
    let groups: Vec<Value> = (0..GROUPS)
        .map(|group| {
            json!({
                "GroupId": group_id(group), "GroupName": format!("chaos-{group}"),
                "Description": "for a test", "OwnerId": ACCOUNT, "VpcId": VPCS[group % 2].0,
                "IpPermissionsEgress": [
                    {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "IpRanges": ranges},
                ],
            })
        })
        .collect();
    json!({"Vpcs": vpcs, "SecurityGroups": groups})
}

impl Fleet {
    /// On ports of the system's choice.
    pub async fn start(ec2: &Ec2, ledger: Where, replicas: usize) -> Self {
        Self::start_at(ec2, ledger, vec!["127.0.0.1:0".to_owned(); replicas], QUICK.to_vec()).await
    }

    pub async fn start_at(
        ec2: &Ec2,
        ledger: Where,
        listen: Vec<String>,
        flags: Vec<&'static str>,
    ) -> Self {
        let url = format!("http://{}", ec2.program.ec2_door.as_ref().unwrap());
        let ledger = match ledger {
            Where::Sqlite(path) => format!("sqlite:{}", path.display()),
            Where::Postgres(url) => url,
        };
        let replicas = listen.len();
        let mut fleet = Self {
            url,
            ledger,
            listen,
            flags,
            replicas: (0..replicas).map(|_| None).collect(),
            starts: 0,
            addresses: watch::Sender::new(vec![String::new(); replicas]),
        };
        for replica in 0..replicas {
            fleet.restart(replica).await;
        }
        fleet
    }

    pub fn addresses(&self) -> watch::Receiver<Vec<String>> {
        self.addresses.subscribe()
    }

    /// A server that knows no one but EC2 and the ledger.
    pub async fn restart(&mut self, replica: usize) {
        let flags = [
            "--backend",
            "ec2",
            "--ec2-endpoint-url",
            &self.url,
            // Said, so that a start on a busy machine need not wait for STS.
            "--default-account-id",
            ACCOUNT,
            "--default-region",
            REGION,
            "--ec2-pacing",
            "off",
            "--listen",
            &self.listen[replica],
        ];
        let flags = [&flags[..], &self.flags].concat();
        let environment = [
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("PORTCULLIS_LEDGER", &self.ledger),
        ];
        self.starts += 1;
        let log = log_of(self.starts, replica);
        let program = portcullis_with_log(&flags, &environment, log).await;
        self.addresses.send_modify(|all| all[replica].clone_from(&program.address));
        self.replicas[replica] = Some(program);
    }

    /// `kill -9`, and waits until it is gone.
    pub async fn kill(&mut self, replica: usize) {
        self.replicas[replica].take().unwrap().kill().await;
    }

    /// Ends one as a rolling restart does, and returns its exit code.
    pub async fn end(&mut self, replica: usize) -> Option<i32> {
        self.replicas[replica].take().unwrap().end().await
    }

    pub async fn signal(&self, replica: usize, name: &str) {
        self.replicas[replica].as_ref().unwrap().signal(name).await;
    }
}

/// A file of its own for each start, in the folder `CHAOS_LOGS`; nowhere without it.
#[allow(clippy::disallowed_methods, reason = "where logs are kept is the script's to say")]
fn log_of(start: usize, replica: usize) -> Stdio {
    let Some(folder) = env::var_os("CHAOS_LOGS") else { return Stdio::null() };
    let name = format!("{start:04}-replica-{replica}.log");
    File::create(PathBuf::from(folder).join(name)).unwrap().into()
}
