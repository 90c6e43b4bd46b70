//! A server to ask, and the program that asks it.

use std::{path::Path, process::Stdio};

use portcullis::api::proto::sandbox::v1::{
    Fault, FaultKind, InjectFaultRequest, sandbox_service_client::SandboxServiceClient,
};
use serde_json::Value;
use tokio::process::Command;
use tonic::transport::Channel;

use super::programs::{Program, portcullis};

/// The group of the sample in a default VPC, and the one in a nondefault VPC.
pub const DEFAULT_VPC: &str = "sg-000000000000000d1";
pub const NONDEFAULT_VPC: &str = "sg-000000000000000a1";

/// A fresh sandbox with the sample.
pub struct Server {
    pub program: Program,
}

/// What a command printed, and its exit code.
#[derive(Debug)]
pub struct Ran {
    pub out: String,
    pub err: String,
    pub exit: i32,
}

impl Ran {
    /// stdout as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// stderr as JSON.
    pub fn error(&self) -> Value {
        serde_json::from_str(&self.err).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Server {
    pub async fn start() -> Self {
        Self { program: portcullis(&[], &[]).await }
    }

    /// A command against this server.
    pub async fn ask(&self, words: &[&str]) -> Ran {
        run(&[words, &["--address", &self.program.address]].concat()).await
    }

    pub async fn fault(&self, kind: FaultKind, action: &str, delay_s: i64) {
        let address = format!("http://{}", self.program.address);
        let channel = Channel::from_shared(address).unwrap().connect().await.unwrap();
        let mut sandbox = SandboxServiceClient::new(channel);
        let delay = Some(pbjson_types::Duration { seconds: delay_s, nanos: 0 });
        let delay = delay.filter(|_| delay_s > 0);
        // A stale read is one of many: the server reads until it sees what it wants.
        let count = if kind == FaultKind::StaleRead { 1_000_000 } else { 1 };
        let fault =
            Fault { kind: kind.into(), action: action.into(), count, delay, ..Fault::default() };
        sandbox.inject_fault(InjectFaultRequest { fault: Some(fault) }).await.unwrap();
    }

    /// How many egress rules a group has.
    pub async fn egress_rules(&self, group: &str) -> usize {
        let filter = format!("Name=group-id,Values={group}");
        let rules = self.ask(&["describe-rules", "--filters", &filter]).await.json();
        let rules = rules["SecurityGroupRules"].as_array().unwrap().clone();
        rules.iter().filter(|rule| rule["IsEgress"] == true).count()
    }
}

/// The program with nothing of our own environment, and no terminal.
pub async fn run(words: &[&str]) -> Ran {
    let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_portcullis")));
    command.args(words).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    command.current_dir(env!("CARGO_TARGET_TMPDIR"));
    let output = command.output().await.unwrap();
    Ran {
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
        exit: output.status.code().unwrap(),
    }
}
