//! What is asked, and what each backend must answer. `{default}` is a group in the default VPC, `{nondefault}` one in
//! another VPC, `{peer}` a second one there; run.rs fills such names in.

pub const SERVICE: &str = "portcullis.v1.SecurityGroupService";

pub struct Scenario {
    /// Its heading in docs/transcript.md and its row in docs/conformance.md.
    pub name: &'static str,
    /// One sentence for a reader.
    pub about: &'static str,
    pub call: Call,
    pub sandbox: Expected,
    pub moto: Expected,
}

#[derive(Clone, Copy)]
pub enum Call {
    List,
    Describe(&'static str),
    Rpc(&'static str, &'static str),
}

/// What grpcurl must end with and print. Spaces and line ends do not count.
#[derive(Clone, Copy)]
pub struct Expected {
    pub exit: i32,
    pub says: &'static [&'static str],
    pub never: &'static [&'static str],
}

impl Expected {
    const fn without(self, never: &'static [&'static str]) -> Self {
        Self { never, ..self }
    }
}

const fn ok(says: &'static [&'static str]) -> Expected {
    Expected { exit: 0, says, never: &[] }
}

/// grpcurl ends with 64 plus the code.
const fn fails(code: i32, says: &'static [&'static str]) -> Expected {
    Expected { exit: 64 + code, says, never: &[] }
}

const INVALID_ARGUMENT: i32 = 3;
const NOT_FOUND: i32 = 5;

/// A legacy scalar never gets as far as a backend.
const fn legacy(
    name: &'static str,
    about: &'static str,
    body: &'static str,
    says: &'static [&'static str],
) -> Scenario {
    let refused = fails(INVALID_ARGUMENT, says);
    let call = Call::Rpc("RevokeEgress", body);
    Scenario { name, about, call, sandbox: refused, moto: refused }
}

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "list",
        about: "The services, by reflection. SandboxService is there with the sandbox only.",
        call: Call::List,
        sandbox: ok(&["portcullis.sandbox.v1.SandboxService", SERVICE, "grpc.health.v1.Health"]),
        moto: ok(&[SERVICE, "grpc.health.v1.Health"]).without(&["portcullis.sandbox"]),
    },
    Scenario {
        name: "describe the method",
        about: "A method with its comment.",
        call: Call::Describe("portcullis.v1.SecurityGroupService.RevokeEgress"),
        sandbox: ok(&["rpc RevokeEgress ( .portcullis.v1.RevokeEgressRequest )"]),
        moto: ok(&["rpc RevokeEgress ( .portcullis.v1.RevokeEgressRequest )"]),
    },
    Scenario {
        name: "describe the request",
        about: "A message: what is required, what is deprecated, and EC2's own JSON names.",
        call: Call::Describe("portcullis.v1.RevokeEgressRequest"),
        sandbox: ok(DESCRIBED),
        moto: ok(DESCRIBED),
    },
    Scenario {
        name: "authorize all four kinds of peer",
        about: "IPv4, IPv6, a prefix list and a group in one permission: four rules.",
        call: Call::Rpc(
            "AuthorizeEgress",
            r#"{"GroupId": "{nondefault}", "IpPermissions": [{
  "FromPort": 8443, "IpProtocol": "tcp", "ToPort": 8443,
  "IpRanges": [{"CidrIp": "198.51.100.0/24", "Description": "partner"}],
  "Ipv6Ranges": [{"CidrIpv6": "2001:db8::/32", "Description": "partner"}],
  "PrefixListIds": [{"Description": "storage", "PrefixListId": "{list}"}],
  "UserIdGroupPairs": [{"Description": "database", "GroupId": "{peer}"}]}]}"#,
        ),
        sandbox: ok(&["\"Return\": true", "198.51.100.0/24", "2001:db8::/32", "pl-63a5400a"]),
        moto: ok(&["\"Return\": true", "198.51.100.0/24", "2001:db8::/32", "pl-63a5400a"])
            .without(&["ReferencedGroupInfo", "storage"]),
    },
    Scenario {
        name: "revoke all four kinds of peer",
        about: "The request syntax of the EC2 reference, every member of a permission given. What EC2's describe \
                output adds to a group pair is taken and ignored.",
        call: Call::Rpc(
            "RevokeEgress",
            r#"{"DryRun": false, "GroupId": "{nondefault}", "IpPermissions": [{
  "FromPort": 8443, "IpProtocol": "tcp",
  "IpRanges": [{"CidrIp": "198.51.100.0/24", "Description": "partner"}],
  "Ipv6Ranges": [{"CidrIpv6": "2001:db8::/32", "Description": "partner"}],
  "PrefixListIds": [{"Description": "storage", "PrefixListId": "{list}"}],
  "ToPort": 8443,
  "UserIdGroupPairs": [{"Description": "database", "GroupId": "{peer}", "GroupName": "db",
    "PeeringStatus": "active", "UserId": "123456789012", "VpcId": "{vpc}",
    "VpcPeeringConnectionId": "pcx-00000000000000001"}]}]}"#,
        ),
        sandbox: ok(&["\"Return\": true", "OUTCOME_REVOKED_ALL", "\"ReferencedGroupId\""]),
        moto: fails(
            NOT_FOUND,
            &[
                "\"ec2_code\": \"InvalidPermission.NotFound\"",
                "UNKNOWN_REASON_DESCRIPTION_DIFFERS",
                "to pl-63a5400a, with no description instead of the given one.",
            ],
        ),
    },
    Scenario {
        name: "authorize without descriptions",
        about: "The same four peers on another port.",
        call: Call::Rpc(
            "AuthorizeEgress",
            r#"{"GroupId": "{nondefault}", "IpPermissions": [{
  "FromPort": 9443, "IpProtocol": "tcp", "ToPort": 9443,
  "IpRanges": [{"CidrIp": "198.51.100.0/24"}], "Ipv6Ranges": [{"CidrIpv6": "2001:db8::/32"}],
  "PrefixListIds": [{"PrefixListId": "{list}"}], "UserIdGroupPairs": [{"GroupId": "{peer}"}]}]}"#,
        ),
        sandbox: ok(&["\"Return\": true"]),
        moto: ok(&["\"Return\": true"]),
    },
    Scenario {
        name: "revoke without descriptions",
        about: "Four rules at once.",
        call: Call::Rpc(
            "RevokeEgress",
            r#"{"GroupId": "{nondefault}", "IpPermissions": [{
  "FromPort": 9443, "IpProtocol": "tcp", "ToPort": 9443,
  "IpRanges": [{"CidrIp": "198.51.100.0/24"}], "Ipv6Ranges": [{"CidrIpv6": "2001:db8::/32"}],
  "PrefixListIds": [{"PrefixListId": "{list}"}],
  "UserIdGroupPairs": [{"GroupId": "{peer}", "UserId": "123456789012"}]}]}"#,
        ),
        sandbox: ok(&["\"Return\": true", "OUTCOME_REVOKED_ALL", "\"ReferencedGroupId\""]),
        moto: ok(&["\"Return\": true", "OUTCOME_REVOKED_ALL"])
            .without(&["\"RevokedSecurityGroupRules\""]),
    },
    Scenario {
        name: "the reference's whole request",
        about: "The request syntax as the EC2 reference prints it, placeholders and all: each violation is named, \
                those of the six unsupported scalars and of the two lists together included.",
        call: Call::Rpc(
            "RevokeEgress",
            r#"{"DryRun": true, "GroupId": "string", "IpPermissions": [{
  "FromPort": 123, "IpProtocol": "string",
  "IpRanges": [{"CidrIp": "string", "Description": "string"}],
  "Ipv6Ranges": [{"CidrIpv6": "string", "Description": "string"}],
  "PrefixListIds": [{"Description": "string", "PrefixListId": "string"}],
  "ToPort": 123,
  "UserIdGroupPairs": [{"Description": "string", "GroupId": "string", "GroupName": "string",
    "PeeringStatus": "string", "UserId": "string", "VpcId": "string",
    "VpcPeeringConnectionId": "string"}]}],
 "SecurityGroupRuleIds": ["string"], "CidrIp": "string", "FromPort": 123,
 "IpProtocol": "string", "ToPort": 123, "SourceSecurityGroupName": "string",
 "SourceSecurityGroupOwnerId": "string"}"#,
        ),
        sandbox: fails(INVALID_ARGUMENT, WHOLE),
        moto: fails(INVALID_ARGUMENT, WHOLE),
    },
    Scenario {
        name: "unknown permission in the default VPC",
        about: "No error: the permission comes back as unknown, with the reason and the rule that is nearest.",
        call: Call::Rpc(
            "RevokeEgress",
            r#"{"GroupId": "{default}", "IpPermissions": [{"IpProtocol": "tcp", "FromPort": 80,
  "ToPort": 80, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}]}"#,
        ),
        sandbox: ok(&[
            "\"Return\": true",
            "\"UnknownIpPermissions\"",
            "UNKNOWN_REASON_PORT_RANGE_DIFFERS",
            "OUTCOME_REVOKED_NOTHING",
            "Ports must be equal.",
        ])
        .without(&["\"RevokedSecurityGroupRules\""]),
        moto: fails(
            NOT_FOUND,
            &[
                "\"ec2_code\": \"InvalidPermission.NotFound\"",
                "\"reason\": \"INVALID_PERMISSION_NOT_FOUND\"",
                "UNKNOWN_REASON_PORT_RANGE_DIFFERS",
                "\"Total\": 1",
            ],
        ),
    },
    Scenario {
        name: "unknown permission in a nondefault VPC",
        about: "An error, whose typed detail grpcurl finds by reflection.",
        call: Call::Rpc(
            "RevokeEgress",
            r#"{"GroupId": "{nondefault}", "IpPermissions": [{"IpProtocol": "tcp", "FromPort": 80,
  "ToPort": 80, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}]}"#,
        ),
        sandbox: fails(
            NOT_FOUND,
            &[
                "\"reason\": \"INVALID_PERMISSION_NOT_FOUND\"",
                "portcullis.v1.UnknownPermissionsDetail",
                "\"UnknownIpPermissions\"",
            ],
        ),
        moto: fails(
            NOT_FOUND,
            &[
                "\"ec2_code\": \"InvalidPermission.NotFound\"",
                "portcullis.v1.UnknownPermissionsDetail",
                "UNKNOWN_REASON_PORT_RANGE_DIFFERS",
                "\"Total\": 1",
            ],
        ),
    },
    Scenario {
        name: "partly unknown in a nondefault VPC",
        about: "The second permission has a rule, the first has none: all or nothing.",
        call: Call::Rpc(
            "RevokeEgress",
            r#"{"GroupId": "{nondefault}", "IpPermissions": [
  {"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]},
  {"IpProtocol": "udp", "FromPort": 53, "ToPort": 53, "IpRanges": [{"CidrIp": "10.0.0.2/32"}]}]}"#,
        ),
        sandbox: fails(
            NOT_FOUND,
            &["\"reason\": \"INVALID_PERMISSION_NOT_FOUND\"", "\"Total\": 1"],
        ),
        moto: fails(
            NOT_FOUND,
            &[
                "\"ec2_code\": \"InvalidPermission.NotFound\"",
                "UNKNOWN_REASON_PORT_RANGE_DIFFERS",
                "\"Total\": 1",
            ],
        ),
    },
    legacy(
        "CidrIp",
        "Not supported by EC2 on this call. The violation spells the permission that says the same.",
        r#"{"GroupId": "{default}", "CidrIp": "10.0.0.0/8"}"#,
        &[
            "\"field\": \"cidr_ip\"",
            r#"IpPermissions=[{\"IpRanges\":[{\"CidrIp\":\"10.0.0.0/8\"}]}]"#,
        ],
    ),
    legacy(
        "FromPort",
        "Not supported either.",
        r#"{"GroupId": "{default}", "FromPort": 443}"#,
        &["\"field\": \"from_port\"", r#"IpPermissions=[{\"FromPort\":443}]"#],
    ),
    legacy(
        "IpProtocol",
        "Not supported either.",
        r#"{"GroupId": "{default}", "IpProtocol": "tcp"}"#,
        &["\"field\": \"ip_protocol\"", r#"IpPermissions=[{\"IpProtocol\":\"tcp\"}]"#],
    ),
    legacy(
        "ToPort",
        "Not supported either.",
        r#"{"GroupId": "{default}", "ToPort": 443}"#,
        &["\"field\": \"to_port\"", r#"IpPermissions=[{\"ToPort\":443}]"#],
    ),
    legacy(
        "SourceSecurityGroupName",
        "Not supported either.",
        r#"{"GroupId": "{default}", "SourceSecurityGroupName": "web"}"#,
        &[
            "\"field\": \"source_security_group_name\"",
            r#"IpPermissions=[{\"UserIdGroupPairs\":[{\"GroupName\":\"web\"}]}]"#,
        ],
    ),
    legacy(
        "SourceSecurityGroupOwnerId",
        "Not supported either.",
        r#"{"GroupId": "{default}", "SourceSecurityGroupOwnerId": "123456789012"}"#,
        &[
            "\"field\": \"source_security_group_owner_id\"",
            r#"IpPermissions=[{\"UserIdGroupPairs\":[{\"UserId\":\"123456789012\"}]}]"#,
        ],
    ),
    Scenario {
        name: "neither list",
        about: "Nothing to revoke is not a success.",
        call: Call::Rpc("RevokeEgress", r#"{"GroupId": "{default}"}"#),
        sandbox: fails(INVALID_ARGUMENT, &["MISSING_PARAMETER"]),
        moto: fails(INVALID_ARGUMENT, &["MISSING_PARAMETER"]),
    },
    Scenario {
        name: "dry run",
        about: "EC2's error DryRunOperation is a success here. Whether the rule exists is not looked at.",
        call: Call::Rpc(
            "RevokeEgress",
            r#"{"DryRun": true, "GroupId": "{nondefault}", "IpPermissions": [{"IpProtocol": "tcp",
  "FromPort": 80, "ToPort": 80, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}]}"#,
        ),
        sandbox: ok(&["{ \"DryRun\": true }"]),
        moto: ok(&["{ \"DryRun\": true }"]),
    },
    Scenario {
        name: "OnUnknown FAIL in the default VPC",
        about: "An unknown permission fails the call here, too, before anything is sent.",
        call: Call::Rpc(
            "RevokeEgress",
            r#"{"GroupId": "{default}", "OnUnknown": "ON_UNKNOWN_FAIL", "IpPermissions": [
  {"IpProtocol": "udp", "FromPort": 53, "ToPort": 53, "IpRanges": [{"CidrIp": "10.0.0.2/32"}]},
  {"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}]}"#,
        ),
        sandbox: fails(
            NOT_FOUND,
            &["\"reason\": \"INVALID_PERMISSION_NOT_FOUND\"", "\"Total\": 1"],
        )
        .without(&["ec2_code"]),
        moto: fails(NOT_FOUND, &["\"reason\": \"INVALID_PERMISSION_NOT_FOUND\"", "\"Total\": 1"])
            .without(&["ec2_code"]),
    },
    Scenario {
        name: "OnUnknown REVOKE_MATCHED in a nondefault VPC",
        about: "What matches goes, the rest comes back as unknown, here as in the default VPC.",
        call: Call::Rpc(
            "RevokeEgress",
            r#"{"GroupId": "{nondefault}", "OnUnknown": "ON_UNKNOWN_REVOKE_MATCHED", "IpPermissions": [
  {"IpProtocol": "udp", "FromPort": 53, "ToPort": 53, "IpRanges": [{"CidrIp": "10.0.0.2/32"}]},
  {"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}]}"#,
        ),
        sandbox: ok(&[
            "OUTCOME_REVOKED_PART",
            "\"RevokedSecurityGroupRules\"",
            "\"UnknownIpPermissions\"",
        ]),
        moto: ok(&[
            "OUTCOME_REVOKED_PART",
            "\"UnknownIpPermissions\"",
            "UNKNOWN_REASON_PORT_RANGE_DIFFERS",
        ])
        .without(&["\"RevokedSecurityGroupRules\""]),
    },
    Scenario {
        name: "unknown rule id",
        about: "An error in either kind of VPC.",
        call: Call::Rpc(
            "RevokeEgress",
            r#"{"GroupId": "{default}", "SecurityGroupRuleIds": ["sgr-00000000000000001"]}"#,
        ),
        sandbox: fails(
            NOT_FOUND,
            &[
                "\"reason\": \"INVALID_SECURITY_GROUP_RULE_ID_NOT_FOUND\"",
                "\"UnknownSecurityGroupRuleIds\": [ \"sgr-00000000000000001\" ]",
            ],
        ),
        moto: fails(
            NOT_FOUND,
            &[
                "\"ec2_code\": \"InvalidPermission.NotFound\"",
                "security group. This security group has no rule with the id sgr-00000000000000001.",
                "\"UnknownSecurityGroupRuleIds\": [ \"sgr-00000000000000001\" ]",
            ],
        ),
    },
    Scenario {
        name: "a rule id among unknown ones",
        about: "Nothing is revoked for a good id beside a bad one.",
        call: Call::Rpc(
            "RevokeEgress",
            r#"{"GroupId": "{default}", "SecurityGroupRuleIds": ["{rule}", "sgr-00000000000000001"]}"#,
        ),
        sandbox: fails(NOT_FOUND, &["INVALID_SECURITY_GROUP_RULE_ID_NOT_FOUND", "\"Total\": 1"]),
        moto: fails(
            NOT_FOUND,
            &[
                "\"ec2_code\": \"InvalidPermission.NotFound\"",
                "\"UnknownSecurityGroupRuleIds\": [ \"sgr-00000000000000001\" ]",
                "\"Total\": 1",
            ],
        ),
    },
    Scenario {
        name: "a rule by its id",
        about: "The rule of the call before is still there.",
        call: Call::Rpc(
            "RevokeEgress",
            r#"{"GroupId": "{default}", "SecurityGroupRuleIds": ["{rule}"]}"#,
        ),
        sandbox: ok(&["OUTCOME_REVOKED_ALL", "\"SecurityGroupRuleId\": \"sgr-0000000000000d1e1\""]),
        moto: ok(&["OUTCOME_REVOKED_ALL", "WARNING_KIND_COVERED_BY_WIDER_RULE"])
            .without(&["\"RevokedSecurityGroupRules\""]),
    },
    Scenario {
        name: "partly unknown in the default VPC",
        about: "What matches goes, the rest comes back as unknown.",
        call: Call::Rpc(
            "RevokeEgress",
            r#"{"GroupId": "{default}", "IpPermissions": [
  {"IpProtocol": "udp", "FromPort": 53, "ToPort": 53, "IpRanges": [{"CidrIp": "10.0.0.2/32"}]},
  {"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}]}"#,
        ),
        sandbox: ok(&["\"Return\": true", "OUTCOME_REVOKED_PART", "\"UnknownIpPermissions\""]),
        moto: fails(NOT_FOUND, &["\"ec2_code\": \"InvalidPermission.NotFound\"", "\"Total\": 1"]),
    },
    Scenario {
        name: "describe the rules that are left",
        about: "The matching permission of the call before is gone.",
        call: Call::Rpc(
            "DescribeSecurityGroupRules",
            r#"{"Filters": [{"Name": "group-id", "Values": ["{default}"]}]}"#,
        ),
        sandbox: ok(&["\"SecurityGroupRules\""]).without(&["\"IpProtocol\": \"udp\""]),
        moto: ok(&["\"SecurityGroupRules\""]).without(&["\"IpProtocol\": \"udp\""]),
    },
    Scenario {
        name: "a wrong description",
        about: "A description may be left out; if given, it must be the rule's own.",
        call: Call::Rpc(
            "RevokeEgress",
            r#"{"GroupId": "{peer}", "IpPermissions": [{"IpProtocol": "-1",
  "IpRanges": [{"CidrIp": "0.0.0.0/0", "Description": "not its description"}]}]}"#,
        ),
        sandbox: fails(NOT_FOUND, &["INVALID_PERMISSION_NOT_FOUND"]),
        moto: ok(&["\"Return\": true", "OUTCOME_REVOKED_ALL"]),
    },
    Scenario {
        name: "describe a group",
        about: "Its egress rules, as EC2 merges them.",
        call: Call::Rpc("DescribeSecurityGroups", r#"{"GroupIds": ["{nondefault}"]}"#),
        sandbox: ok(&["\"IpPermissionsEgress\""]),
        // All four of port 8443 are still there; moto does not show the prefix list's description.
        moto: ok(&[
            "198.51.100.0/24",
            "2001:db8::/32",
            "{ \"PrefixListId\": \"pl-63a5400a\" }",
            "\"Description\": \"database\"",
        ])
        .without(&["\"FromPort\": 9443", "\"IpProtocol\": \"udp\""]),
    },
    Scenario {
        name: "revoke what describe printed",
        about: "The IpPermissionsEgress of the answer before, untouched. The group has no egress rule left.",
        call: Call::Rpc(
            "RevokeEgress",
            r#"{"GroupId": "{nondefault}", "IpPermissions": {pasted}}"#,
        ),
        sandbox: ok(&["OUTCOME_REVOKED_ALL", "WARNING_KIND_LAST_EGRESS_RULE_REMOVED"])
            .without(&["Unknown"]),
        moto: ok(&["\"Return\": true", "OUTCOME_REVOKED_ALL"]),
    },
];

const DESCRIBED: &[&str] = &[
    r#"group_id = 1 [ json_name = "GroupId", (.google.api.field_behavior) = REQUIRED ];"#,
    r#"optional string cidr_ip = 10 [deprecated = true, json_name = "CidrIp"];"#,
];

/// Every violation of the reference's request.
const WHOLE: &[&str] = &[
    "\"field\": \"group_id\"",
    "\"field\": \"cidr_ip\"",
    "\"field\": \"from_port\"",
    "\"field\": \"ip_protocol\"",
    "\"field\": \"to_port\"",
    "\"field\": \"source_security_group_name\"",
    "\"field\": \"source_security_group_owner_id\"",
    "\"field\": \"ip_permissions[0].ip_protocol\"",
    "\"field\": \"ip_permissions[0].ip_ranges[0].cidr_ip\"",
    "\"field\": \"ip_permissions[0].ipv6_ranges[0].cidr_ipv6\"",
    "\"field\": \"ip_permissions[0].prefix_list_ids[0].prefix_list_id\"",
    "\"field\": \"ip_permissions[0].user_id_group_pairs[0].group_id\"",
    "\"field\": \"ip_permissions[0].user_id_group_pairs[0].user_id\"",
    "\"field\": \"security_group_rule_ids[0]\"",
    "\"field\": \"security_group_rule_ids\"",
];
