//! Clients that want every change made once, and try until they have its answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use portcullis::api::proto::v1::{
    AuthorizeEgressRequest, IpPermission, IpRange, RevokeEgressRequest, RevokeEgressResponse,
    security_group_service_client::SecurityGroupServiceClient,
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tonic::{Code, Request, Status};

use crate::fleet::{Ec2, GROUPS, RULES, channel, cidr, group_id};

/// How many clients there are.
pub const CLIENTS: usize = 8;

/// How long a call may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The clients at work.
pub struct Clients {
    tasks: JoinSet<Vec<Job>>,
    calls: watch::Receiver<usize>,
    answered: watch::Receiver<usize>,
    enough: Arc<AtomicBool>,
}

/// What was asked for, and the answers.
pub struct Jobs {
    pub all: Vec<Job>,
    pub calls: usize,
}

/// One change: a rule goes. Somebody else adds the same again as soon as it is answered: a second revoke would take that one.
#[derive(Debug)]
pub struct Job {
    pub group: usize,
    pub rule: usize,
    pub key: String,
    pub answer: Result<RevokeEgressResponse, Status>,
}

impl Clients {
    pub fn start(ec2: &Ec2, addresses: &watch::Receiver<Vec<String>>) -> Self {
        let (count, answered) = watch::channel(0);
        let count = Arc::new(count);
        let (called, calls) = watch::channel(0);
        let called = Arc::new(called);
        let (next, enough) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let mut tasks = JoinSet::new();
        for client in 0..CLIENTS {
            let (count, called, next) = (count.clone(), called.clone(), next.clone());
            let enough = enough.clone();
            let (addresses, outside) = (addresses.clone(), ec2.groups.clone());
            tasks.spawn(async move {
                let mut jobs = Vec::new();
                while !enough.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    // What is answered is added again by somebody else, so that there is always more to do.
                    let (group, rule) = (number % GROUPS, number / GROUPS % RULES);
                    let mut job = Job {
                        group,
                        rule,
                        key: format!("chaos-{number}"),
                        answer: Err(Status::unknown("")),
                    };
                    job.answer = job.revoke(client, &addresses, &called).await;
                    if job.answer.is_ok() {
                        job.add_outside(outside.clone()).await;
                    }
                    jobs.push(job);
                    count.send_modify(|count| *count += 1);
                }
                jobs
            });
        }
        Self { tasks, calls, answered, enough }
    }

    pub fn answered(&self) -> usize {
        *self.answered.borrow()
    }

    /// Waits for so many more answers.
    pub async fn answers(&self, more: usize) {
        let wanted = self.answered() + more;
        let mut answered = self.answered.clone();
        answered.wait_for(|count| *count >= wanted).await.expect("a client failed");
    }

    /// Waits for so many more calls, answered or not.
    pub async fn calls(&self, more: usize) {
        let wanted = *self.calls.borrow() + more;
        let mut calls = self.calls.clone();
        calls.wait_for(|count| *count >= wanted).await.expect("a client failed");
    }

    /// Waits until what was begun has its answer.
    pub async fn finish(self) -> Jobs {
        self.enough.store(true, Ordering::Relaxed);
        let all = self.tasks.join_all().await.into_iter().flatten().collect();
        Jobs { all, calls: *self.calls.borrow() }
    }
}

impl Job {
    fn permission(&self) -> IpPermission {
        IpPermission {
            ip_protocol: Some("tcp".into()),
            from_port: Some(443),
            to_port: Some(443),
            ip_ranges: vec![IpRange { cidr_ip: Some(cidr(self.rule)), description: None }],
            ..Default::default()
        }
    }

    pub fn request(&self) -> Request<RevokeEgressRequest> {
        let mut request = Request::new(RevokeEgressRequest {
            group_id: Some(group_id(self.group)),
            ip_permissions: vec![self.permission()],
            ..Default::default()
        });
        request.metadata_mut().insert("idempotency-key", self.key.parse().unwrap());
        request.set_timeout(PATIENCE);
        request
    }

    /// Tries with the key until there is an answer, with one server after the other.
    async fn revoke(
        &self,
        client: usize,
        addresses: &watch::Receiver<Vec<String>>,
        called: &watch::Sender<usize>,
    ) -> Result<RevokeEgressResponse, Status> {
        for attempt in 0.. {
            let address = {
                let all = addresses.borrow();
                all[(client + attempt) % all.len()].clone()
            };
            called.send_modify(|calls| *calls += 1);
            let mut server = SecurityGroupServiceClient::new(channel(&address));
            match server.revoke_egress(self.request()).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) if is_passing(&status) => {
                    sleep_until(Instant::now() + Duration::from_millis(50)).await;
                }
                Err(status) => return Err(status),
            }
        }
        unreachable!("a client does not give up")
    }

    /// Adds the same rule again, as another tool would: straight at EC2.
    async fn add_outside(&self, mut ec2: SecurityGroupServiceClient<tonic::transport::Channel>) {
        let request = AuthorizeEgressRequest {
            group_id: Some(group_id(self.group)),
            ip_permissions: vec![self.permission()],
            ..Default::default()
        };
        ec2.authorize_egress(request).await.unwrap();
    }
}

/// What a client with a key tries again: it is not answered, or not yet.
pub fn is_passing(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::Aborted
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::ResourceExhausted
            // A connection that breaks in the midst of an answer.
            | Code::Unknown
    )
}
