//! The scenarios against the sandbox with its sample; the run is docs/transcript.md.

use super::{
    compare::compare,
    documents,
    programs::{portcullis, tool},
    run::Shell,
    scenarios::SCENARIOS,
};

#[tokio::test]
async fn the_sandbox_answers_as_docs_transcript_says() {
    let Some(grpcurl) = tool("bin/grpcurl") else { return };
    let server = portcullis(&[], &[]).await;
    let names = [
        ("default", "sg-000000000000000d1"),
        ("nondefault", "sg-000000000000000a1"),
        ("peer", "sg-000000000000000a2"),
        ("vpc", "vpc-0000000000000000a"),
        ("list", "pl-63a5400a"),
        ("rule", "sgr-0000000000000d1e1"),
    ];
    let names = names.map(|(name, value)| (name, value.to_owned())).to_vec();
    let shell = Shell { grpcurl: &grpcurl, address: &server.address, names };
    let ran = shell.run_all(SCENARIOS, |scenario| scenario.sandbox).await;
    compare("docs/transcript.md", &documents::transcript(&ran));
}
