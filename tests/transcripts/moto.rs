//! The same scenarios through the EC2 backend against moto's server.

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    programs::{moto, portcullis, tool},
    run::Shell,
    scenarios::SCENARIOS,
};

/// What moto takes for its own account, 123456789012.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("AWS_ACCESS_KEY_ID", "testing"),
    ("AWS_SECRET_ACCESS_KEY", "testing"),
    ("AWS_REGION", "us-east-1"),
];

#[tokio::test]
async fn moto_answers_through_the_ec2_backend() {
    let Some(grpcurl) = tool("bin/grpcurl") else { return };
    let Some(program) = tool("venv/bin/moto_server") else { return };
    let ec2 = moto(&program).await;
    let vpc = create_vpc(&ec2.address).await;
    let url = format!("http://{}", ec2.address);
    let flags = [
        "--backend",
        "ec2",
        "--ec2-endpoint-url",
        &url,
        "--default-region",
        "us-east-1",
        "--ledger",
        "memory",
    ];
    let server = portcullis(&flags, ENVIRONMENT).await;
    let mut shell = Shell { grpcurl: &grpcurl, address: &server.address, names: Vec::new() };
    build(&mut shell, vpc).await;
    shell.run_all(SCENARIOS, |scenario| scenario.moto).await;
}

/// The groups of the sandbox's sample that the scenarios name, through our own calls.
async fn build(shell: &mut Shell<'_>, vpc: String) {
    shell.names.push(("list", "pl-63a5400a".to_owned()));
    shell.names.push(("vpc", vpc));
    for (name, body) in [
        ("default", r#"{"GroupName": "legacy", "Description": "default VPC"}"#),
        ("nondefault", r#"{"GroupName": "web", "Description": "web", "VpcId": "{vpc}"}"#),
        ("peer", r#"{"GroupName": "db", "Description": "db", "VpcId": "{vpc}"}"#),
    ] {
        let answer = must(shell, "CreateSecurityGroup", body).await;
        shell.names.push((name, text(&answer["GroupId"])));
    }
    for group in ["{default}", "{nondefault}"] {
        let body = format!(
            r#"{{"GroupId": "{group}", "IpPermissions": [
              {{"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443,
               "IpRanges": [{{"CidrIp": "10.0.0.0/8", "Description": "internal https"}}]}},
              {{"IpProtocol": "udp", "FromPort": 53, "ToPort": 53,
               "IpRanges": [{{"CidrIp": "10.0.0.2/32", "Description": "dns"}}]}}]}}"#
        );
        must(shell, "AuthorizeEgress", &body).await;
    }
    let filter = r#"{"Filters": [{"Name": "group-id", "Values": ["{default}"]}]}"#;
    let answer = must(shell, "DescribeSecurityGroupRules", filter).await;
    let rules = answer["SecurityGroupRules"].as_array().unwrap();
    let rule = rules.iter().find(|rule| rule["CidrIpv4"] == "10.0.0.0/8").unwrap();
    shell.names.push(("rule", text(&rule["SecurityGroupRuleId"])));
}

async fn must(shell: &Shell<'_>, method: &str, body: &str) -> Value {
    let (answer, exit) = shell.call(method, &shell.fill(body, &Value::Null)).await;
    assert_eq!(exit, 0, "{method} {body}: {answer}");
    serde_json::from_str(&answer).unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// A VPC that is not the default one, with IPv6, asked of moto itself: our service has no such call.
async fn create_vpc(address: &str) -> String {
    let body = "Action=CreateVpc&Version=2016-11-15&CidrBlock=10.9.0.0/16\
        &AmazonProvidedIpv6CidrBlock=true";
    let scope = "testing/20260101/us-east-1/ec2/aws4_request";
    let request = format!(
        "POST / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0\r\n\
         \r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (_, id) = answer.split_once("<vpcId>").unwrap_or_else(|| panic!("{answer}"));
    id.split('<').next().unwrap().to_owned()
}
