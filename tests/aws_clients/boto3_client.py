"""boto3 against the sandbox's EC2 door. Asserts by itself, and prints docs/transcript-boto3.md: each section is a function
below and what it printed."""

import inspect
import json
import os
import subprocess

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from wire import Wire

WEB, DB, LEGACY = "sg-000000000000000a1", "sg-000000000000000a2", "sg-000000000000000d1"
APP_VPC = "vpc-0000000000000000a"

wire = Wire()
session = boto3.Session()
wire.watch(session)
client = session.client("ec2")
ec2 = session.resource("ec2")
SECTIONS = []


def section(function):
    SECTIONS.append(function)


def refused(call, **arguments):
    """The error's code, EC2's sentence and the HTTP status."""
    try:
        call(**arguments)
    except ClientError as error:
        metadata = error.response["ResponseMetadata"]
        assert metadata["RequestId"] == metadata["HTTPHeaders"]["x-amzn-requestid"]
        said = error.response["Error"]
        return f"{metadata['HTTPStatusCode']} {said['Code']}: {said['Message']}"
    raise AssertionError("it was not refused")


def inject(fault):
    """A fault for the next call, through the sandbox's gRPC API."""
    method = "portcullis.sandbox.v1.SandboxService/InjectFault"
    command = ["grpcurl", "-plaintext", "-d", '{"Fault": %s}' % fault, os.environ["PORTCULLIS"], method]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


@section
def create_a_group_and_wait_for_it():
    created = client.create_security_group(
        GroupName="shop",
        Description="The shop",
        VpcId=APP_VPC,
        TagSpecifications=[
            {"ResourceType": "security-group", "Tags": [{"Key": "team", "Value": "shop"}]}
        ],
    )
    metadata = created.pop("ResponseMetadata")
    assert metadata["HTTPStatusCode"] == 200 and metadata["RetryAttempts"] == 0
    assert metadata["RequestId"] == metadata["HTTPHeaders"]["x-amzn-requestid"]
    client.get_waiter("security_group_exists").wait(GroupIds=[created["GroupId"]])
    print(created)


def shop():
    (group,) = ec2.security_groups.filter(Filters=[{"Name": "group-name", "Values": ["shop"]}])
    return group


@section
def authorize_and_revoke_by_permissions():
    permission = {
        "IpProtocol": "tcp",
        "FromPort": 8443,
        "ToPort": 8443,
        "IpRanges": [{"CidrIp": "198.51.100.0/24", "Description": "partner"}],
        "Ipv6Ranges": [{"CidrIpv6": "2001:db8::/32"}],
        "PrefixListIds": [{"PrefixListId": "pl-63a5400a"}],
        "UserIdGroupPairs": [{"GroupId": DB}],
    }
    group = shop().id
    authorized = client.authorize_security_group_egress(GroupId=group, IpPermissions=[permission])
    assert authorized["Return"] is True and len(authorized["SecurityGroupRules"]) == 4
    assert all("Tags" not in rule for rule in authorized["SecurityGroupRules"])
    revoked = client.revoke_security_group_egress(GroupId=group, IpPermissions=[permission])
    assert revoked["Return"] is True and "UnknownIpPermissions" not in revoked
    ids = [rule["SecurityGroupRuleId"] for rule in authorized["SecurityGroupRules"]]
    assert ids == [rule["SecurityGroupRuleId"] for rule in revoked["RevokedSecurityGroupRules"]]
    for rule in revoked["RevokedSecurityGroupRules"]:
        print(rule)


@section
def authorize_and_revoke_by_rule_ids():
    group = shop().id
    authorized = client.authorize_security_group_egress(
        GroupId=group,
        IpPermissions=[
            {"IpProtocol": "icmp", "FromPort": 8, "ToPort": -1, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}
        ],
        TagSpecifications=[
            {"ResourceType": "security-group-rule", "Tags": [{"Key": "ticket", "Value": "NET-7"}]}
        ],
    )
    (rule,) = authorized["SecurityGroupRules"]
    found = client.describe_security_group_rules(
        Filters=[{"Name": "tag:ticket", "Values": ["NET-7"]}]
    )
    assert found["SecurityGroupRules"] == [rule]
    revoked = client.revoke_security_group_egress(
        GroupId=group, SecurityGroupRuleIds=[rule["SecurityGroupRuleId"]]
    )
    print(rule)
    print(revoked["RevokedSecurityGroupRules"])


@section
def what_ec2_does_not_know_in_a_default_vpc():
    dns = {"IpProtocol": "udp", "FromPort": 53, "ToPort": 53, "IpRanges": [{"CidrIp": "10.0.0.2/32"}]}
    other = {"IpProtocol": "tcp", "FromPort": 81, "ToPort": 81, "Ipv6Ranges": [{"CidrIpv6": "::/0"}]}
    answer = client.revoke_security_group_egress(GroupId=LEGACY, IpPermissions=[dns, other])
    assert answer["Return"] is True and len(answer["RevokedSecurityGroupRules"]) == 1
    print(answer["UnknownIpPermissions"])
    answer = client.revoke_security_group_egress(GroupId=LEGACY, IpPermissions=[dns, other])
    assert answer["Return"] is True and "RevokedSecurityGroupRules" not in answer
    assert len(answer["UnknownIpPermissions"]) == 2


@section
def revoke_what_describe_printed():
    (group,) = client.describe_security_groups(GroupIds=[WEB])["SecurityGroups"]
    permissions = group["IpPermissionsEgress"]
    revoked = client.revoke_security_group_egress(GroupId=WEB, IpPermissions=permissions)
    assert "UnknownIpPermissions" not in revoked
    print(len(permissions), "permissions,", len(revoked["RevokedSecurityGroupRules"]), "rules")
    client.authorize_security_group_egress(GroupId=WEB, IpPermissions=permissions)
    (again,) = client.describe_security_groups(GroupIds=[WEB])["SecurityGroups"]
    assert again == group


@section
def pages():
    groups = client.get_paginator("describe_security_groups")
    sizes = [
        len(page["SecurityGroups"])
        for page in groups.paginate(PaginationConfig={"PageSize": 5})
    ]
    print("groups:", sizes)
    rules = client.get_paginator("describe_security_group_rules")
    found = [
        rule["SecurityGroupRuleId"]
        for page in rules.paginate(PaginationConfig={"PageSize": 7})
        for rule in page["SecurityGroupRules"]
    ]
    whole = client.describe_security_group_rules()
    assert "NextToken" not in whole
    assert found == [rule["SecurityGroupRuleId"] for rule in whole["SecurityGroupRules"]]
    assert len(found) == len(set(found))
    of_web = rules.paginate(Filters=[{"Name": "group-id", "Values": [WEB]}], MaxResults=5)
    print("rules of one group:", [len(page["SecurityGroupRules"]) for page in of_web])


@section
def the_resource_api():
    group = ec2.create_security_group(GroupName="edge", Description="Edge", VpcId=APP_VPC)
    assert group.group_name == "edge" and group.vpc_id == APP_VPC and group.owner_id == "123456789012"
    assert group.tags is None and group.ip_permissions == []
    print(group.ip_permissions_egress)

    group.revoke_egress(IpPermissions=group.ip_permissions_egress)
    group.authorize_ingress(IpProtocol="tcp", FromPort=443, ToPort=443, CidrIp="0.0.0.0/0")
    group.authorize_egress(
        IpPermissions=[
            {"IpProtocol": "tcp", "FromPort": 5432, "ToPort": 5432, "UserIdGroupPairs": [{"GroupId": DB}]}
        ]
    )
    group.reload()
    print(group.ip_permissions)
    print(group.ip_permissions_egress)

    group.revoke_ingress(IpProtocol="tcp", FromPort=443, ToPort=443, CidrIp="0.0.0.0/0")
    group.reload()
    assert group.ip_permissions == []
    group.delete()
    print(refused(group.reload))


@section
def collections_of_the_resource_api():
    everywhere = {group.id for group in ec2.security_groups.all()}
    assert everywhere == {group.id for group in ec2.security_groups.page_size(5)}
    data = ec2.security_groups.filter(Filters=[{"Name": "tag:team", "Values": ["data"]}])
    print([group.group_name for group in data])
    in_vpc = ec2.Vpc(APP_VPC).security_groups.all()
    print(sorted(group.group_name for group in in_vpc))


@section
def change_rules_in_place():
    group = shop()
    (rule,) = group.authorize_egress(
        IpPermissions=[
            {"IpProtocol": "tcp", "FromPort": 25, "ToPort": 25, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}
        ]
    )["SecurityGroupRules"]
    rule_id = rule["SecurityGroupRuleId"]
    changed = {
        "IpProtocol": "tcp",
        "FromPort": 587,
        "ToPort": 587,
        "CidrIpv4": "10.1.2.3/16",
        "Description": "mail",
    }
    change = [{"SecurityGroupRuleId": rule_id, "SecurityGroupRule": changed}]
    assert client.modify_security_group_rules(GroupId=group.id, SecurityGroupRules=change)["Return"]

    def now():
        described = client.describe_security_group_rules(SecurityGroupRuleIds=[rule_id])
        return described["SecurityGroupRules"][0]

    print(now())
    update = client.update_security_group_rule_descriptions_egress
    by_id = [{"SecurityGroupRuleId": rule_id, "Description": "mail out"}]
    assert update(GroupId=group.id, SecurityGroupRuleDescriptions=by_id)["Return"]
    assert now()["Description"] == "mail out"
    same = {"IpProtocol": "tcp", "FromPort": 587, "ToPort": 587}
    same["IpRanges"] = [{"CidrIp": "10.1.0.0/16"}]
    assert update(GroupId=group.id, IpPermissions=[same])["Return"]
    assert "Description" not in now()
    ingress = client.update_security_group_rule_descriptions_ingress
    print(refused(ingress, GroupId=group.id, SecurityGroupRuleDescriptions=by_id))
    assert ingress(
        GroupId=DB,
        SecurityGroupRuleDescriptions=[
            {"SecurityGroupRuleId": "sgr-0000000000000a2c1", "Description": "web servers"}
        ],
    )["Return"]
    other_kind = {"IpProtocol": "tcp", "FromPort": 587, "ToPort": 587, "CidrIpv6": "::/0"}
    change = [{"SecurityGroupRuleId": rule_id, "SecurityGroupRule": other_kind}]
    modify = client.modify_security_group_rules
    said = refused(modify, GroupId=group.id, SecurityGroupRules=change)
    print(said.replace(rule_id, "the rule"))


@section
def tags():
    group = shop()
    group.create_tags(Tags=[{"Key": "stage", "Value": "test"}, {"Key": "team", "Value": "checkout"}])
    group.reload()
    print(group.tags)
    of_group = [{"Name": "resource-id", "Values": [group.id]}]
    (stage, team) = client.describe_tags(Filters=of_group)["Tags"]
    assert stage["ResourceType"] == "security-group" and team["Value"] == "checkout"
    pages = client.get_paginator("describe_tags").paginate(PaginationConfig={"PageSize": 5})
    print("tags:", [len(page["Tags"]) for page in pages])
    client.delete_tags(Resources=[group.id], Tags=[{"Key": "stage"}])
    group.reload()
    print(group.tags)


@section
def vpcs():
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16", AmazonProvidedIpv6CidrBlock=True)
    assert vpc.state == "pending" and vpc.tags is None
    client.get_waiter("vpc_exists").wait(VpcIds=[vpc.id])
    client.get_waiter("vpc_available").wait(VpcIds=[vpc.id])
    vpc.create_tags(Tags=[{"Key": "Name", "Value": "new"}])
    vpc.reload()
    assert vpc.is_default is False and vpc.tags == [{"Key": "Name", "Value": "new"}]
    print(vpc.cidr_block, vpc.state, len(vpc.ipv6_cidr_block_association_set), "IPv6")
    group = vpc.create_security_group(GroupName="inside", Description="Inside")
    print(sorted(group.group_name for group in vpc.security_groups.all()))
    print(refused(vpc.delete))
    group.delete()
    vpc.delete()
    (app, default) = ec2.vpcs.all()
    assert default.tags is None and default.ipv6_cidr_block_association_set is None
    print((app.id, app.is_default), (default.id, default.is_default))
    pages = client.get_paginator("describe_vpcs").paginate(PaginationConfig={"PageSize": 5})
    assert [len(page["Vpcs"]) for page in pages] == [2]


@section
def prefix_lists():
    created = client.create_managed_prefix_list(
        PrefixListName="partners",
        AddressFamily="IPv4",
        MaxEntries=3,
        Entries=[{"Cidr": "198.51.100.0/24", "Description": "one"}],
        TagSpecifications=[{"ResourceType": "prefix-list", "Tags": [{"Key": "team", "Value": "net"}]}],
    )["PrefixList"]
    assert created["State"] == "create-in-progress"
    print(created)
    pages = client.get_paginator("describe_managed_prefix_lists").paginate()
    lists = [found for page in pages for found in page["PrefixLists"]]
    assert created["PrefixListId"] in [found["PrefixListId"] for found in lists]
    (of_aws,) = [found for found in lists if found["OwnerId"] == "AWS"]
    assert "Version" not in of_aws and of_aws["State"] == "create-complete"
    print(sorted((found["PrefixListName"], found["OwnerId"]) for found in lists))


@section
def network_interfaces():
    of_group = [{"Name": "group-id", "Values": [WEB]}]
    print(client.describe_network_interfaces(Filters=of_group)["NetworkInterfaces"])


@section
def errors():
    one = [{"IpProtocol": "tcp", "FromPort": 1, "ToPort": 1, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}]
    revoke = client.revoke_security_group_egress
    print(refused(revoke, GroupId=WEB, IpPermissions=one))
    print(refused(revoke, GroupId=WEB, IpPermissions=one, DryRun=True))
    print(refused(revoke, GroupId=WEB))
    print(refused(revoke, GroupId=WEB, SecurityGroupRuleIds=["sgr-0000000000000fade"]))
    print(refused(revoke, GroupId=WEB, SecurityGroupRuleIds=["sgr-0000000000000a1e1"] * 2))
    print(refused(revoke, GroupId="sg-0000000000000fade", IpPermissions=one))
    print(refused(revoke, GroupId=WEB, CidrIp="10.0.0.0/8"))
    print(refused(client.delete_security_group, GroupId=DB))
    print(refused(client.describe_security_groups, MaxResults=1001))
    print(refused(client.describe_security_groups, Filters=[{"Name": "colour", "Values": ["red"]}]))


@section
def what_boto3_itself_would_not_send():
    def send(service, action, **parameters):
        """With parameters that the SDK's model does not have, or has otherwise."""
        other = session.client(service)
        put = lambda params, **_: params["body"].update(parameters)
        other.meta.events.register("before-call", put)
        return refused(getattr(other, action))

    print(send("ec2", "describe_security_groups", GroupSize="large"))
    print(send("ec2", "describe_security_groups", Version="2014-10-01"))
    print(send("ec2", "describe_security_groups", Action="DescribeWeather"))
    print(send("sts", "get_caller_identity", Version="2011-06-16"))
    print(send("sts", "get_caller_identity", Action="DescribeSecurityGroups"))
    print(send("sts", "get_session_token"))


@section
def a_throttled_call_is_tried_again():
    patient = session.client("ec2", config=Config(retries={"mode": "standard", "total_max_attempts": 3}))
    inject('{"Kind": "FAULT_KIND_THROTTLE", "Action": "DescribeSecurityGroups"}')
    answer = patient.describe_security_groups(GroupIds=[WEB])
    print("retries:", answer["ResponseMetadata"]["RetryAttempts"])


@section
def a_lost_answer_of_a_change():
    """EC2 has no client token here: a retry finds its own change."""
    group = shop().id
    change = {"IpProtocol": "tcp", "FromPort": 9, "ToPort": 9, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}
    inject('{"Kind": "FAULT_KIND_LOSE_ANSWER", "Action": "AuthorizeSecurityGroupEgress"}')
    try:
        client.authorize_security_group_egress(GroupId=group, IpPermissions=[change])
    except (BotoCoreError, ResponseParserError) as error:
        print(type(error).__name__)
    print(refused(client.authorize_security_group_egress, GroupId=group, IpPermissions=[change]))


@section
def another_account():
    sts = session.client("sts")
    print(sts.get_caller_identity()["Arn"])
    assumed = sts.assume_role(
        RoleArn="arn:aws:iam::210987654321:role/network/operator",
        RoleSessionName="maintenance",
        DurationSeconds=900,
        SourceIdentity="alice",
        Tags=[{"Key": "team", "Value": "network"}],
        TransitiveTagKeys=["team"],
    )
    assert assumed["Credentials"]["Expiration"].tzinfo is not None
    print(assumed["SourceIdentity"])
    there = boto3.Session(
        assumed["Credentials"]["AccessKeyId"],
        assumed["Credentials"]["SecretAccessKey"],
        assumed["Credentials"]["SessionToken"],
        region_name="eu-west-1",
    )
    wire.watch(there)
    identity = there.client("sts").get_caller_identity()
    assert identity["Arn"] == assumed["AssumedRoleUser"]["Arn"]
    assert identity["UserId"] == assumed["AssumedRoleUser"]["AssumedRoleId"]
    print(identity["Account"], identity["Arn"])
    worker = there.resource("ec2").SecurityGroup("sg-000000000000000e1")
    worker.revoke_egress(IpPermissions=worker.ip_permissions_egress)
    worker.reload()
    print(worker.owner_id, worker.group_name, worker.ip_permissions_egress)
    print(refused(client.describe_security_groups, GroupIds=[worker.id]))


@section
def why_a_call_was_not_permitted():
    """EC2 says it in code, which STS decodes."""
    inject('{"Kind": "FAULT_KIND_REFUSE", "ErrorCode": "UnauthorizedOperation"}')
    try:
        client.describe_security_groups()
    except ClientError as error:
        text = error.response["Error"]["Message"]
    said, encoded = text.split(" Encoded authorization failure message: ")
    print(said)
    sts = session.client("sts")
    denial = json.loads(sts.decode_authorization_message(EncodedMessage=encoded)["DecodedMessage"])
    print(denial["allowed"], denial["context"]["action"], denial["context"]["principal"]["arn"])
    print(refused(sts.decode_authorization_message, EncodedMessage="x" + encoded))


@section
def every_answer_was_of_botocore_s_model():
    shop().delete()
    print("actions:", *sorted(wire.actions))
    print("errors:", *sorted(wire.codes))


for function in SECTIONS:
    print(f"\n## {function.__name__.replace('_', ' ')}\n\n```python")
    source = inspect.getsource(function).removeprefix("@section\n")
    print(source, end="```\n\n```text\n")
    function()
    print("```")
