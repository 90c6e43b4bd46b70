//! The places that the tests start themselves. All are asked through the service's own gRPC API.

use std::process;

use super::{
    client::Client,
    names::Names,
    programs::{self, Program, portcullis, tool},
    query::{Ec2, members},
    run::Place,
};

/// What the sandbox and moto take for their own account and credentials.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("AWS_ACCESS_KEY_ID", "testing"),
    ("AWS_SECRET_ACCESS_KEY", "testing"),
    ("AWS_REGION", REGION),
];
const REGION: &str = "us-east-1";
const ACCOUNT: &str = "123456789012";
const STATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conformance/state.json");

/// A place, and the programs that it is made of.
pub struct Started {
    pub place: Place,
    _programs: Vec<Program>,
}

/// The server with the sandbox.
pub async fn sandbox() -> Started {
    let server = portcullis(&["--sandbox-state", STATE], &[]).await;
    started("sandbox", state_names(), vec![server]).await
}

/// The server with the EC2 backend, whose EC2 is another server's sandbox.
pub async fn door() -> Started {
    let flags = ["--sandbox-state", STATE, "--sandbox-ec2-listen", "127.0.0.1:0"];
    let door = portcullis(&flags, &[]).await;
    let server = ec2_backend(door.ec2_door.as_deref().unwrap()).await;
    started("door", state_names(), vec![server, door]).await
}

/// The server with the EC2 backend, whose EC2 is moto. None: moto is not installed, and need not be.
pub async fn moto() -> Option<Started> {
    let moto = programs::moto(&tool("venv/bin/moto_server")?).await;
    let names = moto_names(&Ec2::new(&moto.address)).await;
    let server = ec2_backend(&moto.address).await;
    Some(started("moto", names, vec![server, moto]).await)
}

async fn ec2_backend(address: &str) -> Program {
    let url = format!("http://{address}");
    let flags = [
        "--backend",
        "ec2",
        "--ec2-endpoint-url",
        &url,
        "--default-region",
        REGION,
        "--ledger",
        "memory",
    ];
    portcullis(&flags, ENVIRONMENT).await
}

/// The first program is the one to ask.
async fn started(name: &'static str, names: Names, programs: Vec<Program>) -> Started {
    let client = Client::connect(&programs[0].address).await;
    let run = process::id().to_string();
    let place = Place { name, client, names, run, patience: 0, tidy: false };
    Started { place, _programs: programs }
}

/// What state.json has.
fn state_names() -> Names {
    names([
        ("vpc:nondefault", "vpc-0e000000000000000"),
        ("vpc:ipv6", "vpc-0f000000000000000"),
        ("prefix-list", "pl-0a000000000000001"),
    ])
}

/// The same, made with moto's own API: the service has no such calls.
async fn moto_names(ec2: &Ec2) -> Names {
    let vpc = ec2.ask("CreateVpc", &[("CidrBlock", "10.9.0.0/16")]).await;
    let vpc = members(&vpc, "vpcId")[0].clone();
    let ipv6 = [("CidrBlock", "10.10.0.0/16"), ("AmazonProvidedIpv6CidrBlock", "true")];
    let ipv6 = members(&ec2.ask("CreateVpc", &ipv6).await, "vpcId")[0].clone();
    let peering = [("VpcId", vpc.as_str()), ("PeerVpcId", ipv6.as_str())];
    let peering = ec2.ask("CreateVpcPeeringConnection", &peering).await;
    let peering = members(&peering, "vpcPeeringConnectionId")[0].clone();
    ec2.ask("AcceptVpcPeeringConnection", &[("VpcPeeringConnectionId", &peering)]).await;
    let list = [("PrefixListName", "conformance"), ("AddressFamily", "IPv4"), ("MaxEntries", "5")];
    let list = members(&ec2.ask("CreateManagedPrefixList", &list).await, "prefixListId")[0].clone();
    names([("vpc:nondefault", &vpc), ("vpc:ipv6", &ipv6), ("prefix-list", &list)])
}

fn names<const N: usize>(pairs: [(&str, &str); N]) -> Names {
    let mut names = Names::default();
    for (name, value) in pairs {
        names.set(name, value);
    }
    names.set("account", ACCOUNT);
    names.set("region", REGION);
    names
}
