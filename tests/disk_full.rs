//! A disk that is full, under the real program: nothing is sent that cannot be recorded, nothing is lost that was
//! acknowledged, and it recovers by itself. The limit is RLIMIT_FSIZE, set while it runs: a write beyond it fails.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic is a failed test"
)]
#![allow(dead_code, reason = "the helpers serve other tests, too")]

use std::path::PathBuf;

use portcullis::api::proto::{
    sandbox::v1::{GetStateRequest, sandbox_service_client::SandboxServiceClient},
    v1::{
        AuthorizeEgressRequest, DescribeSecurityGroupRulesRequest,
        security_group_service_client::SecurityGroupServiceClient,
    },
};
use tonic::{Code, Request, Status, transport::Channel};

use programs::{Program, output, portcullis};
use support::{refusal, tcp};

#[path = "transcripts/programs.rs"]
mod programs;
#[path = "service/support.rs"]
mod support;

const GROUP: &str = "sg-000000000000000d1";

struct World {
    groups: SecurityGroupServiceClient<Channel>,
    sandbox: SandboxServiceClient<Channel>,
    program: Program,
    folder: PathBuf,
}

impl World {
    async fn start() -> Self {
        let name = format!("portcullis-disk-full-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let program = portcullis(&["--ledger", &ledger(&folder)], &[]).await;
        let channel = Channel::from_shared(format!("http://{}", program.address)).unwrap();
        let channel = channel.connect().await.unwrap();
        let groups = SecurityGroupServiceClient::new(channel.clone());
        Self { groups, sandbox: SandboxServiceClient::new(channel), program, folder }
    }

    /// Adds a rule of its own, under a key of its own. Whether the answer is a recorded one.
    async fn authorize(&mut self, n: u8) -> Result<bool, Status> {
        let mut request = Request::new(AuthorizeEgressRequest {
            group_id: Some(GROUP.into()),
            ip_permissions: vec![tcp(8000, &format!("192.0.2.{n}/32"))],
            ..Default::default()
        });
        request.metadata_mut().insert("idempotency-key", format!("key-{n}").parse().unwrap());
        let answer = self.groups.authorize_egress(request).await?;
        Ok(answer.metadata().contains_key("idempotency-replayed"))
    }

    async fn effects(&mut self) -> usize {
        let request = GetStateRequest { include_effects: true };
        self.sandbox.get_state(request).await.unwrap().into_inner().effects.len()
    }
}

fn ledger(folder: &std::path::Path) -> String {
    format!("sqlite:{}", folder.join("ledger.db").display())
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[tokio::test]
async fn what_cannot_be_recorded_is_not_sent() {
    let mut world = World::start().await;
    for n in 1..=5 {
        assert!(!world.authorize(n).await.unwrap());
    }
    world.program.limit_files("4096").await;
    for n in 6..=9 {
        let refused = refusal(world.authorize(n).await);
        assert_eq!(refused, (Code::Unavailable, "LEDGER_UNAVAILABLE".into()));
    }
    assert_eq!(world.effects().await, 5);
    // Reads go on, and what was acknowledged is told again.
    let all = DescribeSecurityGroupRulesRequest::default();
    world.groups.describe_security_group_rules(all).await.unwrap();
    assert!(world.authorize(3).await.unwrap());

    world.program.limit_files("unlimited").await;
    let recovered = async {
        while let Err(status) = world.authorize(6).await {
            assert_eq!(refusal::<()>(Err(status)).1, "LEDGER_UNAVAILABLE");
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), recovered).await.expect("recovers");
    assert_eq!(world.effects().await, 6);
    for n in 1..=6 {
        assert!(world.authorize(n).await.unwrap(), "{n} is lost");
    }
    // Killed, as after a power cut: the proof of the file is whole.
    let folder = world.folder.clone();
    let verify = ["ledger", "verify", "--ledger", &ledger(&folder)].map(str::to_owned);
    world.program.signal("KILL").await;
    let said = loop {
        // Until the lock of the dead one is gone.
        let (said, code) = output(env!("CARGO_BIN_EXE_portcullis").as_ref(), &verify).await;
        if code == 0 {
            break said;
        }
    };
    assert!(said.starts_with("records 6\n"), "{said}");
}
