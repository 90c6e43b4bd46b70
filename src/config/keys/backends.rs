//! What holds the security groups.

use super::{DAY, Key, MILLISECONDS, Takes};

pub(super) const BACKEND: &[Key] = &[
    Key {
        name: "backend",
        takes: Takes::Choice(&["sandbox", "ec2"]),
        default: "sandbox",
        only_with: None,
        doc: "What holds the security groups: an in-process sandbox that behaves like EC2, \
              or EC2 itself.",
    },
    Key {
        name: "default_account_id",
        takes: Takes::Account,
        default: "",
        only_with: None,
        doc: "The account of a call that names none. With the sandbox it goes together with default_region.",
    },
    Key {
        name: "default_region",
        takes: Takes::Region,
        default: "",
        only_with: None,
        doc: "The Region of a call that names none. With the sandbox it goes together with default_account_id; with EC2 and no [[ec2_targets]] it is the Region that is served, else the one of the AWS environment or profile is.",
    },
    Key {
        name: "sandbox_state",
        takes: Takes::Files,
        default: "",
        only_with: Some("sandbox"),
        doc: "What the sandbox starts with, as the AWS CLI's describe commands print it. \
              Several files are merged. A relative name in the configuration file starts \
              from that file's folder.",
    },
    Key {
        name: "sandbox_ec2_listen",
        takes: Takes::AddressOrOff,
        default: "off",
        only_with: Some("sandbox"),
        doc: "Where the sandbox also answers EC2's own Query API, for the AWS CLI, SDKs and \
              Terraform. Signatures are read for account and Region and not verified. Only \
              loopback addresses start, unless sandbox_ec2_allow_remote.",
    },
    Key {
        name: "sandbox_ec2_allow_remote",
        takes: Takes::Switch,
        default: "false",
        only_with: Some("sandbox"),
        doc: "Lets sandbox_ec2_listen be an address that other machines reach. Whoever \
              reaches it can change everything in the sandbox.",
    },
    Key {
        name: "sandbox_throttle",
        takes: Takes::Switch,
        default: "false",
        only_with: Some("sandbox"),
        doc: "Whether the sandbox refuses with RequestLimitExceeded what is beyond EC2's own \
              request budgets, such as 50 revokes at once and 5 a second.",
    },
    Key {
        name: "ec2_endpoint_url",
        takes: Takes::Url,
        default: "",
        only_with: Some("ec2"),
        doc: "Replaces EC2's and STS's own endpoints, for an emulator or a VPC endpoint.",
    },
    Key {
        name: "ec2_connect_timeout_ms",
        takes: Takes::Number(MILLISECONDS, 1, DAY),
        default: "3000",
        only_with: Some("ec2"),
        doc: "How long connecting to EC2 may take.",
    },
    Key {
        name: "ec2_attempt_timeout_ms",
        takes: Takes::Number(MILLISECONDS, 1, DAY),
        default: "10000",
        only_with: Some("ec2"),
        doc: "How long one attempt of an EC2 call may take, connecting included.",
    },
    Key {
        name: "ec2_decode_authorization_messages",
        takes: Takes::Switch,
        default: "false",
        only_with: Some("ec2"),
        doc: "Whether what EC2 says in code when it does not permit a call is decoded by STS and \
              logged, at most once a second. The role needs sts:DecodeAuthorizationMessage. \
              Callers are never told. See docs/aws-identity.md.",
    },
    Key {
        name: "insecure_loopback",
        takes: Takes::Switch,
        default: "false",
        only_with: Some("ec2"),
        doc: "Lets anyone on this machine change real security groups: starts on EC2 \
              without TLS, or although callers are not authenticated. Not needed if \
              ec2_endpoint_url is on loopback.",
    },
];
