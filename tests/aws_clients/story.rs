//! What a person does with the AWS CLI, from a fresh start and in this order.

/// A line of shell, and what must come of it.
#[derive(Clone, Copy)]
pub struct Step {
    /// Its heading in docs/transcript-aws-cli.md.
    pub name: &'static str,
    /// A sentence for a reader.
    pub about: &'static str,
    pub command: &'static str,
    /// EC2's error code. None: it succeeds.
    pub code: Option<&'static str>,
    /// What the output must say, whatever the document holds. Spaces and line ends do not count.
    pub says: &'static [&'static str],
    pub never: &'static [&'static str],
    /// Variables for the steps to come, with the JSON pointer to their value.
    pub keep: &'static [(&'static str, &'static str)],
}

impl Step {
    const fn says(self, says: &'static [&'static str]) -> Self {
        Self { says, ..self }
    }

    const fn never(self, never: &'static [&'static str]) -> Self {
        Self { never, ..self }
    }

    const fn keeps(self, keep: &'static [(&'static str, &'static str)]) -> Self {
        Self { keep, ..self }
    }

    const fn fails(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }
}

const fn step(name: &'static str, about: &'static str, command: &'static str) -> Step {
    Step { name, about, command, code: None, says: &[], never: &[], keep: &[] }
}

pub const STORY: &[Step] = &[
    step(
        "who am I",
        "A key that holds no account, such as `test`, stands for the default account.",
        "aws sts get-caller-identity",
    )
    .says(&["\"Account\": \"123456789012\""]),
    // --- reading ---
    step(
        "groups by their rules",
        "Every group that a rule lets out to this network.",
        "aws ec2 describe-security-groups \\
    --filters Name=egress.ip-permission.cidr,Values=203.0.113.0/24",
    )
    .says(&["\"GroupName\": \"web\"", "\"PrefixListIds\": [ {", "\"UserIdGroupPairs\": []"])
    .never(&["\"GroupName\": \"db\"", "NextToken"]),
    step(
        "groups by tag, name and VPC",
        "All filters must fit; `*` stands for anything.",
        "aws ec2 describe-security-groups --output text \\
    --filters Name=tag:team,Values=data Name=group-name,Values='*a*' \\
        Name=vpc-id,Values=vpc-0000000000000000a \\
    --query 'SecurityGroups[].[GroupId,GroupName,Description]'",
    )
    .says(&["sg-000000000000000a3"])
    .never(&["sg-000000000000000a2"]),
    step(
        "all groups, page by page",
        "The CLI asks for pages of five until there are no more.",
        "aws ec2 describe-security-groups --page-size 5 --output text \\
    --query 'SecurityGroups[].[GroupId,GroupName]'",
    )
    .says(&["sg-0000000000000000a default", "sg-000000000000000d1 legacy"]),
    step(
        "the first groups",
        "`--max-items` ends early and says where to go on.",
        "aws ec2 describe-security-groups --page-size 5 --max-items 6 \\
    --query '{Names: SecurityGroups[].GroupName, NextToken: NextToken}'",
    )
    .says(&["NextToken"])
    .keeps(&[("TOKEN", "/NextToken")]),
    step(
        "the groups after those",
        "From where the call before ended.",
        "aws ec2 describe-security-groups --page-size 5 --starting-token $TOKEN --output text \\
    --query 'SecurityGroups[].GroupName'",
    )
    .says(&["legacy"])
    .never(&["web"]),
    step(
        "the rules of a group",
        "One entry for each rule. Rules without tags have an empty list of them.",
        "aws ec2 describe-security-group-rules \\
    --filters Name=group-id,Values=sg-000000000000000a2",
    )
    .says(&["\"Tags\": []", "\"ReferencedGroupInfo\"", "\"PrefixListId\": \"pl-63a5400a\""]),
    step(
        "a rule by its id",
        "With a description and a tag.",
        "aws ec2 describe-security-group-rules --security-group-rule-ids sgr-0000000000000a1e3",
    )
    .says(&["\"Key\": \"ticket\""]),
    step(
        "all rules, page by page",
        "Pages of five, then a filter on what the CLI got.",
        "aws ec2 describe-security-group-rules --page-size 5 --output text \\
    --query 'SecurityGroupRules[?IpProtocol==`icmp`].[SecurityGroupRuleId,Description]'",
    )
    .says(&["sgr-0000000000000a1e7 ping"]),
    // --- creating ---
    step(
        "create a group",
        "In a VPC, with a tag. From here on `$SHOP` is its id.",
        "aws ec2 create-security-group --group-name shop --description 'The shop' \\
    --vpc-id vpc-0000000000000000a \\
    --tag-specifications 'ResourceType=security-group,Tags=[{Key=team,Value=storefront}]'",
    )
    .says(&["\"SecurityGroupArn\"", "\"Key\": \"team\""])
    .keeps(&[("SHOP", "/GroupId")]),
    step(
        "create a group in the default VPC",
        "Without a VPC it is the default one. Groups there may be named in place of ids.",
        "aws ec2 create-security-group --group-name edge --description 'In the default VPC'",
    )
    .never(&["Tags"])
    .keeps(&[("EDGE", "/GroupId")]),
    step(
        "what a group begins with",
        "Everything may go out, over IPv4 and, as the VPC has IPv6, over IPv6. Tags of a group without any are left out.",
        "aws ec2 describe-security-groups --group-ids $SHOP &&
aws ec2 describe-security-groups --group-ids $EDGE",
    )
    .says(&["\"CidrIpv6\": \"::/0\"", "\"IpPermissions\": []"]),
    // --- authorizing ---
    step(
        "authorize every kind of peer",
        "IPv4, IPv6, a prefix list and a group in one permission: four rules, each with the tag.",
        r#"aws ec2 authorize-security-group-egress --group-id $SHOP \
    --tag-specifications 'ResourceType=security-group-rule,Tags=[{Key=ticket,Value=NET-7}]' \
    --ip-permissions '[{"IpProtocol": "tcp", "FromPort": 8443, "ToPort": 8443,
        "IpRanges": [{"CidrIp": "198.51.100.0/24", "Description": "partner"}],
        "Ipv6Ranges": [{"CidrIpv6": "2001:db8::/32", "Description": "partner, IPv6"}],
        "PrefixListIds": [{"PrefixListId": "pl-63a5400a", "Description": "storage"}],
        "UserIdGroupPairs": [{"GroupId": "sg-000000000000000a2", "Description": "database"}]}]'"#,
    )
    .says(&["198.51.100.0/24", "2001:db8::/32", "pl-63a5400a", "sg-000000000000000a2", "NET-7"])
    .keeps(&[("PARTNER", "/SecurityGroupRules/0/SecurityGroupRuleId")]),
    step(
        "authorize in shorthand",
        "Two permissions. Ports of ICMP are a type and a code. Rules without tags: no list of them in this answer.",
        "aws ec2 authorize-security-group-egress --group-id $SHOP \\
    --ip-permissions IpProtocol=udp,FromPort=53,ToPort=53,IpRanges='[{CidrIp=10.0.0.2/32}]' \\
        IpProtocol=icmp,FromPort=8,ToPort=-1,IpRanges='[{CidrIp=10.0.0.0/16,Description=ping}]'",
    )
    .never(&["Tags"]),
    step(
        "authorize what comes in",
        "The CLI's own options make a permission of protocol, port and network.",
        "aws ec2 authorize-security-group-ingress --group-name edge \\
    --protocol tcp --port 80-81 --cidr 203.0.113.7/24",
    )
    .says(&["\"CidrIpv4\": \"203.0.113.0/24\"", "\"IsEgress\": false"]),
    step(
        "authorize what comes in from a group",
        "All protocols: the CLI makes -1 of `all`.",
        "aws ec2 authorize-security-group-ingress --group-id $SHOP \\
    --protocol all --source-group sg-000000000000000a1",
    )
    .says(&["\"ReferencedGroupInfo\"", "\"UserId\": \"123456789012\"", "\"IpProtocol\": \"-1\""]),
    step(
        "authorize a protocol by its number",
        "And over IPv6 all of ICMP.",
        "aws ec2 authorize-security-group-egress --group-id $SHOP \\
    --ip-permissions IpProtocol=47,IpRanges='[{CidrIp=10.1.0.0/16}]' \\
        IpProtocol=icmpv6,Ipv6Ranges='[{CidrIpv6=2001:DB8:1::/48}]'",
    )
    .says(&["\"IpProtocol\": \"47\"", "\"IpProtocol\": \"icmpv6\"", "2001:db8:1::/48"]),
    step(
        "the rules by the new tag",
        "With their ARNs.",
        "aws ec2 describe-security-group-rules --filters Name=tag:ticket,Values=NET-7 \\
    --query 'sort_by(SecurityGroupRules, &Description)[].{What: Description, Arn: SecurityGroupRuleArn, Tags: Tags}'",
    )
    .says(&["\"What\": \"storage\"", "security-group-rule/"]),
    // --- revoking ---
    step(
        "may I?",
        "A dry run changes nothing, and its good answer is an error.",
        "aws ec2 revoke-security-group-egress --dry-run --group-id $SHOP \\
    --protocol tcp --port 8443 --cidr 198.51.100.0/24",
    )
    .fails("DryRunOperation"),
    step(
        "revoke in shorthand",
        "One of the four peers of the permission; the others stay.",
        "aws ec2 revoke-security-group-egress --group-id $SHOP \\
    --ip-permissions IpProtocol=tcp,FromPort=8443,ToPort=8443,PrefixListIds='[{PrefixListId=pl-63a5400a}]'",
    )
    .says(&["\"Return\": true", "\"PrefixListId\": \"pl-63a5400a\""])
    .never(&["UnknownIpPermissions"]),
    step(
        "revoke in JSON",
        "Host bits do not matter, and neither does a description that is left out.",
        r#"aws ec2 revoke-security-group-egress --group-id $SHOP \
    --ip-permissions '[{"IpProtocol": "6", "FromPort": 8443, "ToPort": 8443,
        "Ipv6Ranges": [{"CidrIpv6": "2001:DB8:0:0::1/32"}]}]'"#,
    )
    .says(&["\"CidrIpv6\": \"2001:db8::/32\""]),
    step(
        "revoke by a rule's id",
        "The first rule of the tagged four.",
        "aws ec2 revoke-security-group-egress --group-id $SHOP --security-group-rule-ids $PARTNER",
    )
    .says(&["\"Description\": \"partner\"", "\"CidrIpv4\": \"198.51.100.0/24\""]),
    step(
        "revoke a group in the CLI's own options",
        "`--source-group` is the destination here.",
        "aws ec2 revoke-security-group-egress --group-id $SHOP \\
    --protocol tcp --port 8443 --source-group sg-000000000000000a2",
    )
    .says(&["\"ReferencedGroupId\": \"sg-000000000000000a2\""]),
    step(
        "revoke what describe printed",
        "The permissions of a group, through a file and back. No egress rule is left.",
        "aws ec2 describe-security-groups --group-ids $SHOP \\
    --query 'SecurityGroups[0].IpPermissionsEgress' > permissions.json &&
aws ec2 revoke-security-group-egress --group-id $SHOP --ip-permissions file://permissions.json \\
    --query '[Return, UnknownIpPermissions, length(RevokedSecurityGroupRules)]' --output text &&
aws ec2 describe-security-groups --group-ids $SHOP --query 'SecurityGroups[0].IpPermissionsEgress'",
    )
    .says(&["True None 6 []"]),
    step(
        "partly unknown, in a default VPC",
        "What matches goes; the rest comes back. The call succeeds.",
        "aws ec2 revoke-security-group-egress --group-id sg-000000000000000d1 \\
    --ip-permissions IpProtocol=udp,FromPort=53,ToPort=53,IpRanges='[{CidrIp=10.0.0.2/32}]' \\
        IpProtocol=tcp,FromPort=81,ToPort=81,IpRanges='[{CidrIp=192.0.2.0/24},{CidrIp=192.0.2.0/25}]'",
    )
    .says(&["\"Return\": true", "\"UnknownIpPermissions\": [ {", "sgr-0000000000000d1e3"]),
    step(
        "wholly unknown, in a default VPC",
        "Nothing was revoked, and still it succeeds: there is no list of revoked rules.",
        "aws ec2 revoke-security-group-egress --group-id sg-000000000000000d1 \\
    --protocol tcp --port 81 --cidr 192.0.2.0/24",
    )
    .says(&["\"Return\": true", "UnknownIpPermissions"])
    .never(&["RevokedSecurityGroupRules"]),
    step(
        "partly unknown, in any other VPC",
        "Nothing is revoked.",
        "aws ec2 revoke-security-group-egress --group-id sg-000000000000000a1 \\
    --ip-permissions IpProtocol=udp,FromPort=53,ToPort=53,IpRanges='[{CidrIp=10.0.0.2/32}]' \\
        IpProtocol=tcp,FromPort=81,ToPort=81,IpRanges='[{CidrIp=192.0.2.0/24}]'",
    )
    .fails("InvalidPermission.NotFound"),
    step(
        "the rule is still there",
        "After the call before.",
        "aws ec2 describe-security-group-rules --security-group-rule-ids sgr-0000000000000a1e8 \\
    --query 'SecurityGroupRules[].[IpProtocol,FromPort,CidrIpv4]' --output text",
    )
    .says(&["udp 53 10.0.0.2/32"]),
    step(
        "revoke what comes in",
        "By the group's name, which works in the default VPC.",
        "aws ec2 revoke-security-group-ingress --group-name edge \\
    --protocol tcp --port 80-81 --cidr 203.0.113.0/24",
    )
    .says(&["\"IsEgress\": false"]),
    // --- changing ---
    step(
        "a rule to change",
        "From here on `$RULE` is its id.",
        "aws ec2 authorize-security-group-egress --group-id $SHOP \\
    --ip-permissions IpProtocol=tcp,FromPort=25,ToPort=25,IpRanges='[{CidrIp=10.0.0.0/8,Description=mail}]'",
    )
    .keeps(&[("RULE", "/SecurityGroupRules/0/SecurityGroupRuleId")]),
    step(
        "change a rule",
        "Everything but its id: what is left out is gone, the description, too.",
        r#"aws ec2 modify-security-group-rules --group-id $SHOP \
    --security-group-rules "SecurityGroupRuleId=$RULE,SecurityGroupRule={IpProtocol=tcp,FromPort=587,ToPort=587,CidrIpv4=10.1.0.0/16}" &&
aws ec2 describe-security-group-rules --security-group-rule-ids $RULE"#,
    )
    .says(&["\"Return\": true", "\"FromPort\": 587", "10.1.0.0/16"])
    .never(&["mail"]),
    step(
        "describe a rule anew",
        "By the rule's id.",
        r#"aws ec2 update-security-group-rule-descriptions-egress --group-id $SHOP \
    --security-group-rule-descriptions "SecurityGroupRuleId=$RULE,Description=submission" &&
aws ec2 describe-security-group-rules --security-group-rule-ids $RULE \
    --query 'SecurityGroupRules[].Description' --output text"#,
    )
    .says(&["submission"]),
    step(
        "describe what comes in",
        "By its properties.",
        "aws ec2 update-security-group-rule-descriptions-ingress --group-name legacy \\
    --ip-permissions IpProtocol=tcp,FromPort=22,ToPort=22,IpRanges='[{CidrIp=203.0.113.0/24,Description=headquarters}]'",
    )
    .says(&["\"Return\": true"]),
    step(
        "tag a group",
        "And its tags, as DescribeTags has them.",
        "aws ec2 create-tags --resources $SHOP --tags Key=stage,Value=test &&
aws ec2 delete-tags --resources $SHOP --tags Key=team &&
aws ec2 describe-tags --filters Name=resource-id,Values=$SHOP",
    )
    .says(&["\"Key\": \"stage\"", "\"ResourceType\": \"security-group\""])
    .never(&["team"]),
    step(
        "VPCs",
        "What has no tags, or no IPv6, has no list of them.",
        "aws ec2 describe-vpcs",
    )
    .says(&["\"IsDefault\": true", "\"Ipv6Pool\": \"Amazon\""]),
    step(
        "create a VPC",
        "It is there at once, with its default group.",
        "aws ec2 create-vpc --cidr-block 10.9.0.0/16",
    )
    .says(&["\"State\": \"pending\"", "\"Ipv6CidrBlockAssociationSet\": []"])
    .keeps(&[("VPC", "/Vpc/VpcId")]),
    step(
        "a VPC's groups",
        "Then the VPC goes, and they with it.",
        "aws ec2 wait vpc-available --vpc-ids $VPC &&
aws ec2 describe-security-groups --filters Name=vpc-id,Values=$VPC \\
    --query 'SecurityGroups[].[GroupName,Description]' --output text &&
aws ec2 delete-vpc --vpc-id $VPC",
    )
    .says(&["default default VPC security group"]),
    step(
        "prefix lists",
        "AWS's own have neither version nor size.",
        "aws ec2 describe-managed-prefix-lists",
    )
    .says(&["\"OwnerId\": \"AWS\"", "\"State\": \"create-complete\""]),
    step(
        "create a prefix list",
        "Its weight against a group's limit is what it may hold.",
        "aws ec2 create-managed-prefix-list --prefix-list-name partners --address-family IPv4 \\
    --max-entries 3 --entries Cidr=198.51.100.0/24,Description=one",
    )
    .says(&["create-in-progress"]),
    step(
        "network interfaces",
        "There are none, so none is in the way when a group is to be deleted.",
        "aws ec2 describe-network-interfaces --filters Name=group-id,Values=$SHOP",
    ),
    // --- deleting ---
    step("delete a group", "", "aws ec2 delete-security-group --group-id $SHOP")
        .says(&["\"Return\": true", "\"GroupId\": \"$SHOP\""]),
    step(
        "delete a group by name",
        "In the default VPC.",
        "aws ec2 delete-security-group --group-name edge",
    )
    .says(&["\"GroupId\": \"$EDGE\""]),
    step("it is gone", "", "aws ec2 describe-security-groups --group-ids $SHOP")
        .fails("InvalidGroup.NotFound"),
    // --- another account ---
    step(
        "a role in another account",
        "Any role of an account of the sandbox may be assumed. The variables hold the credentials from here on.",
        "aws sts assume-role --role-arn arn:aws:iam::210987654321:role/network/operator \\
    --role-session-name maintenance",
    )
    .says(&["arn:aws:sts::210987654321:assumed-role/operator/maintenance"])
    .keeps(&[
        ("KEY_ID", "/Credentials/AccessKeyId"),
        ("SECRET", "/Credentials/SecretAccessKey"),
        ("SESSION", "/Credentials/SessionToken"),
    ]),
    step(
        "who am I now",
        "The session's credentials in this command's environment.",
        "AWS_ACCESS_KEY_ID=$KEY_ID AWS_SECRET_ACCESS_KEY=$SECRET AWS_SESSION_TOKEN=$SESSION \\
    aws sts get-caller-identity",
    )
    .says(&["\"Account\": \"210987654321\"", "assumed-role/operator/maintenance"]),
    step(
        "revoke in the other account",
        "Its Region is another one, too.",
        "export AWS_ACCESS_KEY_ID=$KEY_ID AWS_SECRET_ACCESS_KEY=$SECRET AWS_SESSION_TOKEN=$SESSION &&
aws --region eu-west-1 ec2 revoke-security-group-egress --group-id sg-000000000000000e1 \\
    --security-group-rule-ids sgr-0000000000000e1e1 &&
aws --region eu-west-1 ec2 describe-security-groups --output text \\
    --query 'SecurityGroups[].[OwnerId,GroupId,GroupName]'",
    )
    .says(&["198.51.100.0/24", "210987654321 sg-000000000000000e1 worker"])
    .never(&["123456789012"]),
    step(
        "a group of the other account",
        "Without its credentials it does not exist.",
        "aws ec2 describe-security-groups --group-ids sg-000000000000000e1",
    )
    .fails("InvalidGroup.NotFound"),
];
