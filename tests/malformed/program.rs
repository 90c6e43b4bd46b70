//! The real program, observed from outside.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use portcullis::api::proto::v1::{
    DescribeSecurityGroupsRequest, security_group_service_client::SecurityGroupServiceClient,
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};
use tonic::transport::{Channel, Endpoint};

/// How long a start, or a well-formed call, may take. The silent connections that a call may have to wait for get
/// 10 s each.
const PATIENCE: Duration = Duration::from_secs(60);

type Client = SecurityGroupServiceClient<Channel>;

/// A server process; dropping it kills it.
pub struct Program {
    pub address: String,
    process: Child,
    log: PathBuf,
}

/// The calls that go on meanwhile.
pub struct Bystander {
    stop: oneshot::Sender<()>,
    calls: JoinHandle<usize>,
}

impl Program {
    /// On a port of the system's choice. Only errors are logged.
    pub async fn start(flags: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "off"]);
        command.args(["--log-level", "error"]).args(flags).env_clear().kill_on_drop(true);
        let name = format!("malformed-{}-{}.log", std::process::id(), flags.len());
        let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&log).unwrap());
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let address = timeout(PATIENCE, async {
            loop {
                let line = lines.next_line().await.unwrap().expect("an address");
                if line.starts_with("  gRPC ") {
                    return line.split_whitespace().nth(1).unwrap().to_owned();
                }
            }
        });
        let address = address.await.expect("a start");
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { address, process, log }
    }

    async fn client(&self) -> Client {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        Client::new(timeout(PATIENCE, endpoint.connect()).await.expect("a connection").unwrap())
    }

    /// A well-formed call on a connection of its own.
    pub async fn call(&self) {
        call(&mut self.client().await).await;
    }

    /// Well-formed calls, one after the other, on a connection of their own.
    pub async fn keep_calling(&self) -> Bystander {
        let mut client = self.client().await;
        let (stop, mut stopped) = oneshot::channel();
        let calls = tokio::spawn(async move {
            let mut count = 0;
            while stopped.try_recv() == Err(oneshot::error::TryRecvError::Empty) {
                call(&mut client).await;
                count += 1;
            }
            count
        });
        Bystander { stop, calls }
    }

    /// A line of the process's status in bytes, such as VmRSS.
    pub fn memory(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id().unwrap()));
        let status = status.unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    }

    /// What the server logged: a person should act on it.
    pub fn errors_logged(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

impl Bystander {
    /// Stops them and tells how many there were.
    pub async fn stop(self) -> usize {
        self.stop.send(()).unwrap();
        self.calls.await.unwrap()
    }
}

async fn call(client: &mut Client) {
    let request = DescribeSecurityGroupsRequest::default();
    let answer = timeout(PATIENCE, client.describe_security_groups(request));
    let groups = answer.await.expect("an answer").unwrap().into_inner().security_groups;
    assert!(!groups.is_empty());
}
