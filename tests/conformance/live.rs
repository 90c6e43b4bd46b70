//! The cases against a server that somebody else has started: `scripts/live-aws` runs this on real EC2.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic ends the run, and the script cleans up"
)]
#![allow(dead_code, reason = "checking the table and writing the page are the test's")]

mod case;
mod client;
mod compare;
mod names;
mod report;
mod run;

use std::{fs, path::PathBuf};

use clap::Parser;

use case::Table;
use client::Client;
use names::Names;
use report::Report;
use run::{Place, Verdict};

/// Runs every conformance case against a Portcullis server with the EC2 backend, and writes what was answered.
#[derive(Parser)]
struct Flags {
    /// Where the server listens.
    #[arg(long)]
    address: String,
    /// Tells this run's groups from others: in their names, and the value of their tag.
    #[arg(long)]
    run: String,
    #[arg(long)]
    account: String,
    #[arg(long)]
    region: String,
    /// A VPC without IPv6 that is not the default one.
    #[arg(long)]
    vpc: String,
    /// A VPC with IPv6, peered with the other.
    #[arg(long)]
    ipv6_vpc: String,
    /// A managed prefix list of at most five entries.
    #[arg(long)]
    prefix_list: String,
    /// The day, for the report.
    #[arg(long)]
    date: String,
    /// How many seconds a read that is not yet as expected is repeated.
    #[arg(long, default_value_t = 15)]
    patience: u32,
    /// Where the report goes.
    #[arg(long)]
    out: PathBuf,
}

#[tokio::main]
async fn main() {
    let flags = Flags::parse();
    let mut names = Names::default();
    for (name, value) in [
        ("vpc:nondefault", &flags.vpc),
        ("vpc:ipv6", &flags.ipv6_vpc),
        ("prefix-list", &flags.prefix_list),
        ("account", &flags.account),
        ("region", &flags.region),
    ] {
        names.set(name, value.as_str());
    }
    let place = Place {
        name: "live",
        client: Client::connect(&flags.address).await,
        names,
        run: flags.run,
        patience: flags.patience,
        tidy: true,
    };
    let verdicts = place.run_all(&Table::read(), false).await;
    let as_documented =
        verdicts.values().filter(|verdict| matches!(verdict, Verdict::AsDocumented { .. })).count();
    let report = Report::new(flags.date, flags.region, &verdicts);
    fs::write(&flags.out, report.to_json()).unwrap();
    println!("{as_documented} of {} cases as documented", verdicts.len());
}
