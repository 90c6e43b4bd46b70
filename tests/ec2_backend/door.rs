//! The sandbox's EC2 door in this process: EC2 and STS for a test that wants to know what they saw.

use std::sync::Arc;

use portcullis::{
    api::{
        proto::sandbox::v1::{Effect, Fault},
        query::{self, Door},
    },
    backend::{
        ec2::{Ec2, TargetSettings},
        sandbox::Sandbox,
    },
    clock::SystemClock,
    random::SeededRandom,
};
use tokio::{net::TcpListener, task::JoinHandle};

use super::settings;

/// A group of the sandbox's sample that is not in its default account.
pub const ELSEWHERE: &str = "sg-000000000000000e1";

/// A network that no rule of the sample names.
pub const NETWORK: &str = "192.0.2.0/24";

/// The sandbox behind the door. The door ends with it.
pub struct World {
    pub sandbox: Arc<Sandbox>,
    task: JoinHandle<()>,
}

impl World {
    /// What was applied.
    pub fn effects(&self) -> Vec<Effect> {
        self.sandbox.get_state(true).effects
    }

    /// Lets the next calls meet a fault.
    pub fn inject(&self, fault: Fault) {
        self.sandbox.inject_fault(fault).unwrap();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Opens a sandbox and its door, and the EC2 backend on it.
pub async fn open(targets: Vec<TargetSettings>) -> (World, Ec2) {
    let (clock, random) = (Arc::new(SystemClock), Arc::new(SeededRandom::new(1)));
    let (sandbox, _) = Sandbox::open(None, None, clock.clone(), random.clone()).unwrap();
    let sandbox = Arc::new(sandbox);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut settings = settings(&format!("http://{}", listener.local_addr().unwrap()));
    let door = Arc::new(Door::new(sandbox.clone(), clock, random));
    let task = tokio::spawn(query::serve(listener, door, std::future::pending()));
    settings.targets = targets;
    settings.decode_authorization_messages = true;
    (World { sandbox, task }, super::open(settings).await)
}
