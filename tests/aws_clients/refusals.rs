//! Every error code that EC2 documents for security groups, and how the AWS CLI comes to see it.

/// How a code comes about.
#[derive(Clone, Copy)]
pub enum Way {
    /// This line of shell ends with it.
    By(&'static str),
    /// Only a fault gives it: this one (the members of InjectFault's `Fault`), then a plain describe.
    Fault(&'static str),
    /// The sandbox never answers it, for this reason.
    Never(&'static str),
}

use Way::{By, Fault, Never};

/// In an order that works: what changes the state for good is at the end.
pub const REFUSALS: &[(&str, Way)] = &[
    (
        "DryRunOperation",
        By("aws ec2 authorize-security-group-egress --dry-run --group-id sg-000000000000000a1 \\
    --protocol tcp --port 443 --cidr 10.9.0.0/16"),
    ),
    (
        "MissingParameter",
        By("aws ec2 revoke-security-group-egress --group-id sg-000000000000000a1"),
    ),
    (
        "InvalidParameterValue",
        By("aws ec2 authorize-security-group-egress --group-id sg-000000000000000a1 \\
    --protocol tcp --port 65536 --cidr 10.9.0.0/16"),
    ),
    (
        "InvalidParameterCombination",
        By("aws ec2 revoke-security-group-egress --group-id sg-000000000000000a1 \\
    --security-group-rule-ids sgr-0000000000000a1e1 \\
    --ip-permissions IpProtocol=tcp,FromPort=443,ToPort=443,IpRanges='[{CidrIp=0.0.0.0/0}]'"),
    ),
    (
        "UnknownParameter",
        Never(
            "The door answers it, but the AWS CLI refuses such a parameter before it sends anything; \
             see [transcript-boto3.md](transcript-boto3.md).",
        ),
    ),
    (
        "InvalidGroupId.Malformed",
        By("aws ec2 revoke-security-group-egress --group-id web --protocol all --cidr 0.0.0.0/0"),
    ),
    (
        "InvalidGroup.NotFound",
        By("aws ec2 revoke-security-group-egress --group-id sg-0000000000000fade \\
    --protocol all --cidr 0.0.0.0/0"),
    ),
    (
        "InvalidGroup.Duplicate",
        By("aws ec2 create-security-group --group-name WEB --description again \\
    --vpc-id vpc-0000000000000000a"),
    ),
    ("InvalidGroup.InUse", Never("EC2 says DependencyViolation for groups in a VPC.")),
    (
        "InvalidGroup.Reserved",
        By("aws ec2 create-security-group --group-name default --description mine"),
    ),
    ("CannotDelete", By("aws ec2 delete-security-group --group-id sg-0000000000000000a")),
    ("DependencyViolation", By("aws ec2 delete-security-group --group-id sg-000000000000000a2")),
    (
        "InvalidPermission.NotFound",
        By("aws ec2 revoke-security-group-egress --group-id sg-000000000000000a1 \\
    --protocol tcp --port 444 --cidr 0.0.0.0/0"),
    ),
    (
        "InvalidPermission.Duplicate",
        By("aws ec2 authorize-security-group-egress --group-id sg-000000000000000a1 \\
    --protocol tcp --port 443 --cidr 0.0.0.0/0"),
    ),
    (
        "InvalidPermission.Malformed",
        Never("Of EC2-Classic, which is gone: groups in a VPC get InvalidParameterValue."),
    ),
    (
        "InvalidSecurityGroupRuleId.Malformed",
        By("aws ec2 revoke-security-group-egress --group-id sg-000000000000000a1 \\
    --security-group-rule-ids 10.0.0.0/8"),
    ),
    (
        "InvalidSecurityGroupRuleId.NotFound",
        By("aws ec2 revoke-security-group-egress --group-id sg-000000000000000a1 \\
    --security-group-rule-ids sgr-0000000000000a1e1 sgr-0000000000000fade"),
    ),
    (
        "InvalidPrefixListId.Malformed",
        By("aws ec2 authorize-security-group-egress --group-id sg-000000000000000a1 \\
    --ip-permissions IpProtocol=-1,PrefixListIds='[{PrefixListId=s3}]'"),
    ),
    (
        "InvalidPrefixListID.NotFound",
        By("aws ec2 authorize-security-group-egress --group-id sg-000000000000000a1 \\
    --ip-permissions IpProtocol=-1,PrefixListIds='[{PrefixListId=pl-0000000000000fade}]'"),
    ),
    (
        "InvalidVpcID.Malformed",
        By("aws ec2 create-security-group --group-name x --description x --vpc-id app"),
    ),
    (
        "InvalidVpcID.NotFound",
        By("aws ec2 create-security-group --group-name x --description x --vpc-id vpc-01234567"),
    ),
    (
        "RulesPerSecurityGroupLimitExceeded",
        By("aws ec2 authorize-security-group-egress --group-id sg-000000000000000a1 \\
    --ip-permissions \"IpProtocol=-1,IpRanges=[$(seq -f '{CidrIp=10.9.%g.0/24}' -s , 60)]\""),
    ),
    (
        "ResourceCountExceeded",
        By("aws ec2 revoke-security-group-egress --group-id sg-000000000000000a1 \\
    --security-group-rule-ids $(seq -f 'sgr-%017.0f' 1001)"),
    ),
    (
        "TagLimitExceeded",
        By("aws ec2 create-security-group --group-name x --description x \\
    --tag-specifications \"ResourceType=security-group,Tags=[$(seq -f '{Key=%g}' -s , 51)]\""),
    ),
    (
        "FilterLimitExceeded",
        By("aws ec2 describe-security-groups --filters Name=group-name,Values=$(seq -s , 201)"),
    ),
    (
        "InvalidPaginationToken",
        By("aws ec2 describe-security-groups --no-paginate --next-token elsewhere"),
    ),
    ("InvalidNextToken", Never("InvalidPaginationToken is what these describes answer.")),
    (
        "InvalidFilter",
        Never("InvalidParameterValue is what these describes answer to an unknown filter."),
    ),
    (
        "InvalidMaxResults",
        Never("InvalidParameterValue is what these describes answer to a number out of range."),
    ),
    ("InvalidAction", By("aws ec2 describe-key-pairs")),
    (
        "AccessDenied",
        By(
            "aws sts assume-role --role-arn arn:aws:iam::999999999999:role/x --role-session-name me",
        ),
    ),
    (
        "ValidationError",
        By(
            "aws sts assume-role --role-arn arn:aws:iam::210987654321:user/x --role-session-name me",
        ),
    ),
    (
        "PackedPolicyTooLarge",
        By(
            r#"aws sts assume-role --role-arn arn:aws:iam::210987654321:role/x --role-session-name me \
    --tags $(for n in $(seq 30); do printf 'Key=k%d,Value=%0250d ' $n $n; done)"#,
        ),
    ),
    (
        "InvalidAuthorizationMessageException",
        By("aws sts decode-authorization-message --encoded-message x"),
    ),
    ("AuthFailure", By("aws --region ap-south-1 ec2 describe-security-groups")),
    ("AuthFailure", Fault(r#"{"Kind": "FAULT_KIND_REFUSE_CREDENTIALS"}"#)),
    (
        "UnauthorizedOperation",
        Fault(r#"{"Kind": "FAULT_KIND_REFUSE", "ErrorCode": "UnauthorizedOperation"}"#),
    ),
    (
        "UnsupportedOperation",
        Fault(r#"{"Kind": "FAULT_KIND_REFUSE", "ErrorCode": "UnsupportedOperation"}"#),
    ),
    ("Unsupported", Fault(r#"{"Kind": "FAULT_KIND_REFUSE", "ErrorCode": "Unsupported"}"#)),
    ("RequestLimitExceeded", Fault(r#"{"Kind": "FAULT_KIND_THROTTLE"}"#)),
    (
        "ServiceUnavailable",
        Fault(r#"{"Kind": "FAULT_KIND_SERVER_ERROR", "ErrorCode": "ServiceUnavailable"}"#),
    ),
    ("Unavailable", Fault(r#"{"Kind": "FAULT_KIND_SERVER_ERROR", "ErrorCode": "Unavailable"}"#)),
    ("InternalError", Fault(r#"{"Kind": "FAULT_KIND_SERVER_ERROR"}"#)),
    (
        "InternalFailure",
        Fault(r#"{"Kind": "FAULT_KIND_SERVER_ERROR", "ErrorCode": "InternalFailure"}"#),
    ),
    (
        "ServerInternal",
        Fault(r#"{"Kind": "FAULT_KIND_SERVER_ERROR", "ErrorCode": "ServerInternal"}"#),
    ),
    (
        "VPCIdNotSpecified",
        By(
            r#"grpcurl -plaintext -d '{"State": {"Vpcs": [{"VpcId": "vpc-0000000000000000d", "IsDefault": false}]}}' \
    $PORTCULLIS portcullis.sandbox.v1.SandboxService/LoadState > loaded.json &&
aws ec2 create-security-group --group-name x --description x"#,
        ),
    ),
    (
        "SecurityGroupLimitExceeded",
        By(r#"{ printf '{"State": {"SecurityGroups": ['
  for n in $(seq 2500); do
    [ $n = 1 ] || printf ,
    printf '{"GroupId": "sg-%017d", "GroupName": "many-%d", "VpcId": "vpc-0000000000000000a"}' $n $n
  done
  printf ']}}'
} | grpcurl -plaintext -d @ $PORTCULLIS portcullis.sandbox.v1.SandboxService/LoadState > loaded.json &&
aws ec2 create-security-group --group-name x --description x --vpc-id vpc-0000000000000000a"#),
    ),
];
