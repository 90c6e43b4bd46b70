//! Revokes egress rules of a security group through Portcullis.
//!
//!     revoke-egress [--tls | --ca FILE] [--token-file FILE] [--key KEY] ADDRESS GROUP_ID [FILE]
//!
//! FILE holds a JSON list of IpPermissions, as the AWS CLI takes and prints them; without it they are read from stdin.
//! --tls: the connection is encrypted, and the system's CAs vouch for the server; --ca: the CAs in this file do.
//! --token-file: a JWT or another bearer token; without TLS it is sent to this machine only. --key: the idempotency
//! key, the same for each attempt at one change; without it one is drawn.
//! Exits 0 if EC2 took the request, 1 if the call failed, 2 if the program was called wrongly.

use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    io::read_to_string,
    net::IpAddr,
    process::ExitCode,
    time::{Duration, Instant},
};

use prost::Message;
use retry::ServiceConfig;
use serde_json::{Value, json};
use tonic::{
    Code, Request, Status,
    metadata::AsciiMetadataValue,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};
use tonic_types::pb;
use v1::{
    DescribeSecurityGroupRulesRequest, Filter, GetOperationRequest, RevokeEgressRequest,
    RevokeEgressResponse, UnknownExplanation, UnknownPermissionsDetail,
    operation_service_client::OperationServiceClient,
    security_group_service_client::SecurityGroupServiceClient, unknown_explanation::Subject,
};

mod retry;

#[allow(clippy::all, deprecated)]
mod v1 {
    tonic::include_proto!("portcullis.v1");
    include!(concat!(env!("OUT_DIR"), "/portcullis.v1.serde.rs"));
}

const DEADLINE: Duration = Duration::from_secs(60);
const SERVICE_CONFIG: &str = include_str!("../../service-config.json");
const USAGE: &str = "usage: revoke-egress [--tls | --ca FILE] [--token-file FILE] [--key KEY] \
                     ADDRESS GROUP_ID [FILE]";

/// Calls on a connection on which nothing comes back any more fail with UNAVAILABLE after 15 seconds, and are tried
/// again on another. Portcullis may be pinged that often; other servers close connections for it.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// What the command line says.
struct Flags {
    values: BTreeMap<String, String>,
    address: String,
    group_id: String,
    file: Option<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Some(flags) = flags() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match run(&flags).await.map_err(|error| error.downcast::<Status>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Ok(status)) => {
            print_error(&status);
            ExitCode::FAILURE
        }
        Err(Err(called_wrongly)) => {
            eprintln!("{called_wrongly}");
            ExitCode::from(2)
        }
    }
}

fn flags() -> Option<Flags> {
    let mut words = std::env::args().skip(1).peekable();
    let mut values = BTreeMap::new();
    while let Some(flag) = words.next_if(|word| word.starts_with("--")) {
        let value = match flag.as_str() {
            "--tls" => String::new(),
            "--ca" | "--token-file" | "--key" => words.next()?,
            _ => return None,
        };
        values.insert(flag, value);
    }
    let flags =
        Flags { values, address: words.next()?, group_id: words.next()?, file: words.next() };
    words.next().is_none().then_some(flags)
}

fn read_request(flags: &Flags) -> Result<RevokeEgressRequest, Box<dyn Error>> {
    let text = match &flags.file {
        Some(file) => fs::read_to_string(file)?,
        None => read_to_string(std::io::stdin())?,
    };
    let permissions: Value = serde_json::from_str(&text)?;
    let body = json!({"GroupId": flags.group_id, "IpPermissions": permissions});
    Ok(serde_json::from_value(body)?)
}

async fn run(flags: &Flags) -> Result<(), Box<dyn Error>> {
    let key = flags.values.get("--key").cloned();
    let key = key.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let keyed = visible(&key).ok_or("--key: not visible ASCII characters")?;
    let channel = connect(flags)?;
    let revoke =
        read_request(flags).map_err(|error| format!("the permissions cannot be read: {error}"))?;
    eprintln!("idempotency-key: {key}");
    let reads: ServiceConfig = serde_json::from_str(SERVICE_CONFIG)?;
    let groups = SecurityGroupServiceClient::new(channel.clone());
    let operations = OperationServiceClient::new(channel);
    let end = Instant::now() + DEADLINE;

    let filter = Filter { name: Some("group-id".into()), values: vec![flags.group_id.clone()] };
    let describe =
        DescribeSecurityGroupRulesRequest { filters: vec![filter], ..Default::default() };
    let (service, method) = ("portcullis.v1.SecurityGroupService", "DescribeSecurityGroupRules");
    let answer = reads.read(service, method, end, async |left| {
        let request = prepare(&describe, flags, left)?;
        Ok(groups.clone().describe_security_group_rules(request).await?)
    });
    let rules = answer.await?.into_inner().security_group_rules;
    println!("egress rules: {}", rules.iter().filter(|rule| rule.is_egress()).count());

    let answer = retry::with_key(keyed, end, async |key, left| {
        let mut request = prepare(&revoke, flags, left)?;
        request.metadata_mut().insert("idempotency-key", key);
        Ok(groups.clone().revoke_egress(request).await?)
    });
    print_response(answer.await?.get_ref())?;

    let by_key = GetOperationRequest { idempotency_key: key.clone(), ..Default::default() };
    let (service, method) = ("portcullis.v1.OperationService", "GetOperation");
    let answer = reads.read(service, method, end, async |left| {
        Ok(operations.clone().get_operation(prepare(&by_key, flags, left)?).await?)
    });
    let operation = answer.await?.into_inner().operation.unwrap_or_default();
    let (state, settled_by) =
        (operation.state().as_str_name(), operation.settled_by().as_str_name());
    println!("operation: {state}, {settled_by}");
    Ok(())
}

fn connect(flags: &Flags) -> Result<Channel, Box<dyn Error>> {
    let (ca, token) = (flags.values.get("--ca"), flags.values.get("--token-file"));
    let encrypted = ca.is_some() || flags.values.contains_key("--tls");
    let scheme = if encrypted { "https" } else { "http" };
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{}", flags.address))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT);
    if encrypted {
        let tls = match ca {
            None => ClientTlsConfig::new().with_native_roots(),
            Some(file) => {
                let cas = fs::read(file).map_err(|error| format!("--ca: {file}: {error}"))?;
                ClientTlsConfig::new().ca_certificate(Certificate::from_pem(cas))
            }
        };
        endpoint = endpoint.tls_config(tls)?;
    } else if token.is_some() && !is_loopback(endpoint.uri().host().unwrap_or_default()) {
        let to = &flags.address;
        return Err(format!(
            "--token-file: the token would go to {to} in plaintext; give --tls or --ca"
        )
        .into());
    }
    Ok(endpoint.connect_lazy())
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// The request with its deadline and the token, which is read for each call: tokens are replaced while programs run.
fn prepare<T: Clone>(
    message: &T,
    flags: &Flags,
    left: Duration,
) -> Result<Request<T>, Box<dyn Error>> {
    let mut request = Request::new(message.clone());
    request.set_timeout(left);
    if let Some(file) = flags.values.get("--token-file") {
        let token = fs::read_to_string(file).map_err(|e| format!("--token-file: {file}: {e}"))?;
        if visible(token.trim()).is_none() {
            let why = "not one token of visible ASCII characters";
            return Err(format!("--token-file: {file}: {why}").into());
        }
        request.metadata_mut().insert("authorization", format!("Bearer {}", token.trim()).parse()?);
    }
    Ok(request)
}

fn visible(text: &str) -> Option<AsciiMetadataValue> {
    let is_visible = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    text.parse().ok().filter(|_| is_visible)
}

fn print_response(response: &RevokeEgressResponse) -> Result<(), serde_json::Error> {
    println!("outcome: {}", response.outcome().as_str_name());
    for rule in &response.revoked_security_group_rules {
        println!("revoked: {}", serde_json::to_string(rule)?);
    }
    response.unknown_explanations.iter().for_each(print_unknown);
    for warning in &response.warnings {
        println!("warning: {}", warning.message);
    }
    Ok(())
}

fn print_error(status: &Status) {
    println!("status: {}: {}", code_name(status.code()), status.message());
    let details = pb::Status::decode(status.details()).unwrap_or_default().details;
    for detail in details {
        let value = detail.value.as_slice();
        match detail.type_url.rsplit('/').next().unwrap_or_default() {
            "google.rpc.ErrorInfo" => {
                let info = pb::ErrorInfo::decode(value).unwrap_or_default();
                println!("reason: {}", info.reason);
                for (key, value) in BTreeMap::from_iter(info.metadata) {
                    println!("metadata: {key}={value}");
                }
            }
            "google.rpc.BadRequest" => {
                let request = pb::BadRequest::decode(value).unwrap_or_default();
                for violation in request.field_violations {
                    println!("violation: {}: {}", violation.field, violation.description);
                }
            }
            "portcullis.v1.UnknownPermissionsDetail" => {
                let unknown = UnknownPermissionsDetail::decode(value).unwrap_or_default();
                println!("unknown in all: {}", unknown.total);
                unknown.unknown_explanations.iter().for_each(print_unknown);
                if unknown.truncated {
                    println!("the list was cut to fit into the status");
                }
            }
            _ => {}
        }
    }
}

fn print_unknown(explanation: &UnknownExplanation) {
    let subject = match &explanation.subject {
        Some(Subject::IpPermission(permission)) => {
            serde_json::to_string(permission).unwrap_or_default()
        }
        Some(Subject::SecurityGroupRuleId(id)) => id.clone(),
        None => String::new(),
    };
    println!("unknown: {} {subject}", explanation.reason().as_str_name());
}

/// gRPC's own names of its codes; tonic has Rust's.
fn code_name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}
