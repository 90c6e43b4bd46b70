//! What stands below the flags in each command's help: examples and exit codes.

macro_rules! exit_codes {
    ($done:literal, $refused:literal, $doubt:literal) => {
        concat!(
            "Exit codes:\n  0   ",
            $done,
            "\n  1   ",
            $refused,
            "\n  2   cannot tell: no connection, no answer before the deadline, or the server failed",
            $doubt,
            "\n",
            "  64  the command line or a value in it is wrong; nothing was sent"
        )
    };
}

macro_rules! reads {
    () => {
        exit_codes!("listed, even if there is nothing", "refused", "")
    };
}

pub const REVOKE: &str = concat!(
    "Takes the flags of `aws ec2 revoke-security-group-egress`.\n\nExamples:\n",
    "  portcullis revoke-egress --group-id sg-000000000000000a1 --ip-permissions \\\n",
    "      'IpProtocol=tcp,FromPort=443,ToPort=443,IpRanges=[{CidrIp=203.0.113.0/24}]'\n",
    "  portcullis revoke-egress --group-id sg-000000000000000a1 \\\n",
    "      --protocol udp --port 53 --cidr 10.0.0.2/32\n",
    "  portcullis revoke-egress --group-id sg-000000000000000a1 --ip-permissions file://rules.json \\\n",
    "      --on-unknown revoke-matched --verify\n",
    "  portcullis revoke-egress --group-id sg-000000000000000a1 \\\n",
    "      --security-group-rule-ids sgr-0000000000000a1e5 sgr-0000000000000a1e6 --output json\n\n",
    exit_codes!(
        "done as asked (with --dry-run: it would be permitted)",
        "refused, and nothing was changed; or something was unknown, and only the rest was removed",
        ";\n      EC2's answer was lost; --verify did not see the change in time. Look before you try again"
    )
);

pub const AUTHORIZE: &str = concat!(
    "Takes the flags of `aws ec2 authorize-security-group-egress`.\n\nExamples:\n",
    "  portcullis authorize-egress --group-id sg-000000000000000a1 --ip-permissions \\\n",
    "      'IpProtocol=tcp,FromPort=22,ToPort=22,IpRanges=[{CidrIp=192.0.2.0/24,Description=\"to office\"}]' \\\n",
    "      --tag-specifications 'ResourceType=security-group-rule,Tags=[{Key=ticket,Value=NET-7}]'\n",
    "  portcullis authorize-egress --group-id sg-000000000000000a1 --protocol tcp --port 5432 \\\n",
    "      --source-group sg-000000000000000a3 --dry-run\n\n",
    exit_codes!(
        "done as asked (with --dry-run: it would be permitted)",
        "refused, and nothing was changed",
        ";\n      EC2's answer was lost. Look before you try again"
    )
);

pub const DESCRIBE_RULES: &str = concat!(
    "Takes the flags of `aws ec2 describe-security-group-rules`.\n\nExamples:\n",
    "  portcullis describe-rules --filters Name=group-id,Values=sg-000000000000000a1\n",
    "  portcullis describe-rules --security-group-rule-ids sgr-0000000000000a1e5 --output json\n",
    "  portcullis describe-rules --page-size 100 --max-items 250\n\n",
    reads!()
);

pub const DESCRIBE_GROUPS: &str = concat!(
    "Takes the flags of `aws ec2 describe-security-groups`.\n\nExamples:\n",
    "  portcullis describe-groups --filters Name=tag:team,Values=data Name=vpc-id,Values='vpc-*'\n",
    "  portcullis describe-groups --group-ids sg-000000000000000a1 --output json |\n",
    "      jq '.SecurityGroups[0].IpPermissionsEgress' > rules.json\n\n",
    reads!()
);

pub const LIST_OPERATIONS: &str = concat!(
    "One's own operations are listed wherever one may work; those of others where policies allow it.\n\nExamples:\n",
    "  portcullis operations list --states unresolved in-doubt\n",
    "  portcullis operations list --group-id sg-000000000000000a1 --since 2026-11-01T00:00:00Z\n",
    "  portcullis operations list --caller token::deployer --max-items 1000 --output json\n\n",
    reads!()
);

pub const GET_OPERATION: &str = concat!(
    "Examples:\n",
    "  portcullis operations get --operation-id op-01a20855-7df9-7f97-883a-5e3bf834e895\n",
    "  portcullis operations get --idempotency-key 0b5c6f3e-remove-https\n\n",
    exit_codes!("found, whatever became of it", "not found, or refused", "")
);

pub const SETTLE_OPERATION: &str = concat!(
    "Look at EC2 and its CloudTrail first. Nothing is sent to EC2; who settled it, and the reason, are recorded.\n\nExamples:\n",
    "  portcullis operations settle --operation-id op-01a20855-7df9-7f97-883a-5e3bf834e895 \\\n",
    "      --as succeeded --reason 'CHG-9: in CloudTrail at 14:03'\n\n",
    exit_codes!(
        "settled, or an operator had settled it so before",
        "refused, and nothing was changed: not found, settled already, or somebody works on it",
        ".\n      The same command again is safe"
    )
);
