//! `portcullis policy`, and the program with policies.

use std::process::{Command, Stdio};

use super::loading::Folder;

/// Exit code and what was printed, without anything of our own environment.
fn run(args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.env_clear().args(args).stdin(Stdio::null()).current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn check_says_what_is_wrong_and_where() {
    let (code, out, _) = run(&["policy", "check", "deploy/policies/guardrails"]);
    assert_eq!((code, out.as_str()), (0, "OK: 6 policies\n"));
    let folder = Folder::new("check")
        .with("a.cedar", "\npermit (principal, action, resource) when { context.x };");
    let (code, out, _) = run(&["policy", "check", folder.path().to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(out.starts_with("a.cedar:2: "), "{out}");
}

fn explain(more: &[&str]) -> (i32, String, String) {
    let request = r#"{"GroupId": "sg-0123456789abcdef0", "Target": {"AccountId": "123456789012", "Region": "us-east-1"},
        "IpPermissions": [{"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]},
                          {"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]}"#;
    let args = [
        "policy",
        "explain",
        "--policy-dir",
        "deploy/policies/guardrails",
        "--peer-address",
        "10.0.0.1",
        "--principal",
        "jwt:https%3A//issuer.example:alice",
        "--action",
        "AuthorizeEgress",
        "--request",
        request,
    ];
    run(&[&args, more].concat())
}

#[test]
fn explain_answers_rule_by_rule() {
    let (code, out, _) = explain(&["--group-of", "network-engineers"]);
    assert_eq!(code, 1);
    assert_eq!(
        out,
        "allow  access on 123456789012/us-east-1: 10-permit.cedar#engineers\n\
         allow  AuthorizeEgress on 123456789012/us-east-1/sg-0123456789abcdef0 egress tcp 443-443 0.0.0.0/0: 10-permit.cedar#engineers\n\
         deny   AuthorizeEgress on 123456789012/us-east-1/sg-0123456789abcdef0 egress all protocols 0.0.0.0/0: 20-forbid.cedar#only-https-to-the-internet\n"
    );
    let (code, out, _) = explain(&[]);
    assert_eq!(code, 1);
    assert_eq!(out.matches("no policy permits it").count(), 2, "{out}");
    let (_, out, _) = explain(&["--group-of", "network-engineers", "--tag", "protected=true"]);
    assert!(out.contains("#protected-groups-stay-as-they-are"), "{out}");
}

#[test]
fn explain_allows_with_exit_code_0() {
    let args = [
        "policy",
        "explain",
        "--policy-dir",
        "deploy/policies/team-by-tag",
        "--principal",
        "token::ci",
        "--group-of",
        "web",
        "--account",
        "123456789012",
        "--region",
        "us-east-1",
        "--group",
        "sg-01234567",
        "--tag",
        "team=web",
        "--action",
        "DeleteSecurityGroup",
    ];
    let (code, out, err) = run(&args);
    assert_eq!(code, 0, "{out}{err}");
    let (code, _, err) =
        run(&[&args[..5], &["jwt:https://x:alice", "--action", "DeleteSecurityGroup"]].concat());
    assert_eq!(code, 64);
    assert!(err.contains("%3A"), "{err}");
}

#[test]
fn explain_tells_who_goes_before_others() {
    let args = [
        "policy",
        "explain",
        "--policy-dir",
        "deploy/policies/break-glass",
        "--principal",
        "jwt:https%3A//issuer.example:alice",
        "--action",
        "UseIncidentLane",
        "--account",
        "123456789012",
        "--region",
        "us-east-1",
    ];
    let (code, out, err) = run(&[&args[..], &["--group-of", "incident-responders"]].concat());
    assert_eq!(code, 0, "{out}{err}");
    assert_eq!(
        out,
        "allow  access on 123456789012/us-east-1: break-glass.cedar#responders-look\n\
         allow  UseIncidentLane on 123456789012/us-east-1: break-glass.cedar#responders-first\n"
    );
    let (code, out, _) = run(&[&args[..], &["--group-of", "web"]].concat());
    assert_eq!((code, out.matches("no policy permits it").count()), (1, 2), "{out}");
}

#[test]
fn a_server_does_not_start_on_broken_policies() {
    let folder = Folder::new("start").with("a.cedar", "permit (principal, action);");
    let dir = folder.path().to_str().unwrap();
    let serve = ["--listen", "127.0.0.1:0", "--admin-listen", "off", "--policy-dir", dir];
    let (code, _, err) = run(&serve);
    assert_eq!(code, 1);
    assert!(err.contains("a.cedar:1"), "{err}");
    folder.write("a.cedar", "");
    let (code, _, err) = run(&serve);
    assert!(code == 1 && err.contains("no policy"), "{err}");
    let (code, _, err) = run(&["check-config", "--policy-dir", "no-such-folder"]);
    assert!(code == 64 && err.contains("there is no folder"), "{err}");
    let (code, _, err) = run(&["check-config", "--policy-mode", "report-only"]);
    assert!(code == 64 && err.contains("policy_dir"), "{err}");
}

#[test]
fn explain_decides_operations_on_the_target_alone() {
    let explain = |action: &str, set: &str| {
        let policies = format!("deploy/policies/{set}");
        run(&[
            "policy",
            "explain",
            "--policy-dir",
            &policies,
            "--principal",
            "token::ci",
            "--group-of",
            "incident-responders",
            "--account",
            "123456789012",
            "--region",
            "us-east-1",
            "--action",
            action,
        ])
    };
    let (code, out, err) = explain("SettleOperation", "break-glass");
    assert_eq!(
        (code, out.as_str()),
        (
            0,
            "allow  access on 123456789012/us-east-1: break-glass.cedar#responders-look\n\
             allow  SettleOperation on 123456789012/us-east-1: break-glass.cedar#responders-settle\n"
        ),
        "{err}"
    );
    // Who may list groups in a Target does not see all operations there.
    let (code, out, _) = explain("ListOperations", "team-by-tag");
    assert_eq!(code, 1, "{out}");
}
