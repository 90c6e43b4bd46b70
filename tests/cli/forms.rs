//! Every form of every flag says the same, and bad input is refused before anything is sent.

use std::{fs, path::Path};

use super::client::{NONDEFAULT_VPC, Server, run};

/// Two rules of the sample.
const JSON: &str = r#"[{"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443,
    "IpRanges": [{"CidrIp": "203.0.113.0/24", "Description": "payment provider"}]},
    {"IpProtocol": "udp", "FromPort": 53, "ToPort": 53, "IpRanges": [{"CidrIp": "10.0.0.2/32"}]}]"#;
const FIRST: &str = r#"IpProtocol=tcp,FromPort=443,ToPort=443,IpRanges=[{CidrIp=203.0.113.0/24,Description="payment provider"}]"#;
const SECOND: &str = "IpProtocol=udp,FromPort=53,ToPort=53,IpRanges=[{CidrIp=10.0.0.2/32}]";

fn file(name: &str, text: &str) -> String {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cli-forms-{name}"));
    fs::write(&path, text).unwrap();
    format!("file://{}", path.display())
}

#[tokio::test]
async fn permissions_are_taken_in_every_form_that_the_aws_cli_takes() {
    let file_list = file("list.json", JSON);
    let short = file("short.txt", &format!("{SECOND}\n"));
    let base = format!(
        r#"{{"GroupId": "{NONDEFAULT_VPC}", "DryRun": true, "CidrIp": "", "FromPort": 0, "IpPermissions": {JSON}}}"#
    );
    let base_file = file("base.json", &base);
    let bare = base_file.strip_prefix("file://").unwrap();
    let relative = format!("file://{}", Path::new(bare).file_name().unwrap().display());
    let group = ["--group-id", NONDEFAULT_VPC];
    for (words, removed) in [
        (&["--ip-permissions", JSON][..], 2),
        (&["--ip-permissions", FIRST, SECOND], 2),
        (
            &[
                "--ip-permissions",
                FIRST,
                r#"{"IpProtocol": "17", "FromPort": 53, "ToPort": 53, "IpRanges": [{"CidrIp": "10.0.0.2/32"}]}"#,
            ],
            2,
        ),
        (
            &[
                "--ip-permissions",
                "IpProtocol=tcp,FromPort=443,ToPort=443,IpRanges={CidrIp=203.0.113.0/24}",
            ],
            1,
        ),
        (
            &[
                "--ip-permissions",
                "IpProtocol=tcp,FromPort=443,ToPort=443,Ipv6Ranges=[{CidrIpv6=::/0}],PrefixListIds=[{PrefixListId=pl-00000000000000001}]",
            ],
            2,
        ),
        (
            &[
                "--ip-permissions",
                "IpProtocol=icmp,FromPort=8,ToPort=-1,IpRanges=[{CidrIp=10.0.0.0/16}]",
            ],
            1,
        ),
        (&["--ip-permissions", &file_list], 2),
        (&["--ip-permissions", &short], 1),
        (&["--protocol", "tcp", "--port", "443", "--cidr", "203.0.113.0/24"], 1),
        (&["--protocol", "tcp", "--port", "8000-8100", "--cidr", "10.1.0.0/16"], 1),
        (&["--protocol", "icmp", "--port", "8--1", "--cidr", "10.0.0.0/16"], 1),
        (
            &[
                "--protocol",
                "tcp",
                "--port",
                "5432",
                "--source-group",
                "sg-000000000000000a2",
                "--group-owner",
                "123456789012",
            ],
            1,
        ),
        (&["--security-group-rule-ids", "sgr-0000000000000a1e5", "sgr-0000000000000a1e6"], 2),
        (
            &["--security-group-rule-ids", r#"["sgr-0000000000000a1e5", "sgr-0000000000000a1e6"]"#],
            2,
        ),
        (&["--cli-input-json", &base, "--no-dry-run"], 2),
        (&["--cli-input-json", &base_file, "--no-dry-run"], 2),
        (&["--cli-input-json", &relative, "--no-dry-run"], 2),
        (&["--cli-input-json", &base, "--no-dry-run", "--ip-permissions", SECOND], 1),
        (&["--cli-input-json", &base], 0),
    ] {
        let server = Server::start().await;
        let ran = server.ask(&[&["revoke-egress"], words, &group].concat()).await;
        assert_eq!(ran.exit, 0, "{words:?}: {ran:?}");
        assert_eq!(server.egress_rules(NONDEFAULT_VPC).await, 9 - removed, "{words:?}: {ran:?}");
    }
}

#[tokio::test]
async fn all_protocols_are_said_in_the_aws_clis_words() {
    let server = Server::start().await;
    for protocol in ["all", "-1"] {
        let words = ["revoke-egress", "--group-id", "sg-000000000000000a4", "--protocol", protocol];
        let ran = server
            .ask(&[&words[..], &["--port", "-1", "--cidr", "0.0.0.0/0", "--dry-run"]].concat())
            .await;
        assert_eq!(ran.exit, 0, "{ran:?}");
    }
}

#[tokio::test]
async fn the_target_overrides_only_what_is_given() {
    let server = Server::start().await;
    let base = r#"{"Target": {"AccountId": "210987654321", "Region": "us-east-1"}, "GroupIds": ["sg-000000000000000e1"]}"#;
    let words = ["describe-groups", "--cli-input-json", base];
    let ran = server.ask(&words).await;
    assert_eq!((ran.exit, ran.error()["Reason"].as_str().unwrap()), (1, "TARGET_NOT_CONFIGURED"));
    let ran = server.ask(&[&words[..], &["--region", "eu-west-1"]].concat()).await;
    assert_eq!(ran.json()["SecurityGroups"][0]["GroupName"], "worker");
}

#[tokio::test]
async fn bad_input_is_exit_64_and_named_and_never_sent() {
    // Nobody listens there: what gets as far as a call ends with 2.
    let nowhere = ["--address", "127.0.0.1:9"];
    for (words, says) in [
        (
            &["--ip-permissions", "IpProtocol=tcp,IpRanges={CidrIp}"][..],
            "--ip-permissions: character 32: expected '=' after the key, but found '}'\n  IpProtocol=tcp,IpRanges={CidrIp}\n                                 ^",
        ),
        (&["--ip-permissions", SECOND, "IpProtocol"], "--ip-permissions, word 2: character 11: "),
        (
            &["--ip-permissions", "IpProtocol=tcp,FromPort"],
            "[0].IpProtocol: expected text, but found the list tcp,FromPort",
        ),
        (
            &["--ip-permissions", "IpProtocl=tcp"],
            "--ip-permissions: [0]: there is no \"IpProtocl\"; did you mean IpProtocol?",
        ),
        (
            &["--ip-permissions", r#"[{"IpRanges": [{"CidrIP": "x"}]}]"#],
            "[0].IpRanges[0]: there is no \"CidrIP\"; did you mean CidrIp?",
        ),
        (
            &["--ip-permissions", "FromPort=http"],
            "[0].FromPort: expected a whole number, but found \"http\"",
        ),
        (&["--ip-permissions", "[{]"], "--ip-permissions: not JSON: "),
        (
            &["--ip-permissions", "file:///no/such"],
            "--ip-permissions: /no/such: cannot be read: No such file",
        ),
        (&["--ip-permissions", "a=\u{1b}[31m\u{9b}"], "there is no \"a\""),
        (&["--ip-permissions", "\u{1b}[31m=a"], "but found '\u{fffd}'"),
        (&["--ip-permissions"], "a value is required for '--ip-permissions"),
        (&["--ip-permissions", SECOND, "--ip-permissions", FIRST], "cannot be used multiple times"),
        (&["--ip-permissions", SECOND, "--port", "5"], "cannot be used with"),
        (&["--port", "ssh"], "not FROM or FROM-TO"),
        (
            &["--cli-input-json", "{\"GroupID\": \"x\"}"],
            "--cli-input-json: there is no \"GroupID\"; did you mean GroupId?",
        ),
        (&["--cli-input-json", "[]"], "--cli-input-json: expected keys with values"),
        (&["--on-unknown", "ignore"], "[possible values: fail, revoke-matched]"),
        (&["--output", "yaml"], "[possible values: table, json]"),
        (&["--timeout-ms", "0"], "--timeout-ms"),
        (&["--timeout-ms", "18446744073709551615"], "--timeout-ms"),
        (&["--grup-id", "x"], "--group-id"),
        (&["--address", "localhost"], "not HOST:PORT"),
    ] {
        let address = if words[0] == "--address" { &[][..] } else { &nowhere };
        let ran = run(&[&["revoke-egress"], words, address].concat()).await;
        assert_eq!((ran.exit, ran.out.as_str()), (64, ""), "{words:?}: {ran:?}");
        assert!(ran.err.starts_with("error: ") && ran.err.contains(says), "{words:?}: {}", ran.err);
    }
    let ran = run(&["describe-rules", "--max-items", "0"]).await;
    assert_eq!(ran.exit, 64);
    let ran = run(&[&["revoke-egress", "--ip-permissions", SECOND], &nowhere[..]].concat()).await;
    assert_eq!(ran.exit, 2, "{ran:?}");
}
