//! Opening: settings are checked, credentials found, and one client made for each target.

use std::{collections::HashMap, sync::Arc, time::Duration};

use aws_config::{AppName, BehaviorVersion, SdkConfig, sts::AssumeRoleProvider};
use aws_sdk_ec2::config::{
    IdentityCache, SharedCredentialsProvider, SharedHttpClient, StalledStreamProtectionConfig,
    retry::{RetryConfig, RetryPartition},
    timeout::TimeoutConfig,
};
use aws_smithy_http_client::{Builder, ConnectorBuilder, proxy::ProxyConfig, tls};
use aws_types::{origin::Origin, service_config::ServiceConfigKey};
use http::Uri;
use tokio::task::JoinSet;

use super::{
    Ec2, Ec2Settings, TargetSettings,
    client::Served,
    denied::{Decoder, Turns},
    errors::detail_of,
    read::VpcKinds,
    session::Sessions,
};
use crate::{
    backend::standing::LastSeen,
    clock::SystemClock,
    rule::{AccountId, Region, Target},
    telemetry::metrics::Metrics,
};

/// How we call ourselves in user agents and assumed sessions.
const NAME: &str = "portcullis";

/// How long a write may stay unseen by reads at AWS, in the common case (R47). No figure is documented.
const READ_LAG: Duration = Duration::from_millis(250);

/// How long STS may take to say whose credentials we have.
const IDENTIFY_TIMEOUT: Duration = Duration::from_secs(15);

/// How long an idle connection is kept. Long enough for calls that follow one another, and short enough that it is we
/// who close it: a mutation that meets a closing connection ends in doubt.
const IDLE: Duration = Duration::from_secs(15);

impl Ec2 {
    /// Opens with AWS's default credential chain.
    pub async fn open(settings: Ec2Settings) -> Result<Self, String> {
        let endpoint = settings.endpoint_url.as_deref().map(Endpoint::parse).transpose()?;
        let mut loader =
            aws_config::defaults(BehaviorVersion::latest()).http_client(http_client(&endpoint));
        // Some sources of credentials want a Region, too.
        let mut regions = settings.targets.iter().flat_map(|target| &target.regions);
        if let Some(region) = regions.next().or(settings.default_region.as_ref()) {
            loader = loader.region(sdk_region(region));
        }
        let sdk = loader.load().await;
        Self::open_with(settings, sdk).await
    }

    /// Opens with a configuration of the SDK that the caller made: the seam for callers that bring their own
    /// credentials or HTTP client. Region, endpoint, retries and timeouts come from the settings all the same.
    pub async fn open_with(mut settings: Ec2Settings, sdk: SdkConfig) -> Result<Self, String> {
        let endpoint = settings.endpoint_url.as_deref().map(Endpoint::parse).transpose()?;
        if settings.targets.is_empty() {
            settings.targets.push(implied_target(&settings, &sdk)?);
        }
        let sdk = base_config(&settings, &endpoint, sdk)?;

        let mut accounts = JoinSet::new();
        for (index, target) in settings.targets.iter().enumerate() {
            let name = format!("EC2 target {}", index + 1);
            let claim = claimed_account(target).map_err(|wrong| format!("{name}: {wrong}"))?;
            let sessions = sessions(&sdk, target).map_err(|wrong| format!("{name}: {wrong}"))?;
            let sdk =
                target_config(&sdk, target).await.map_err(|wrong| format!("{name}: {wrong}"))?;
            let target = target.clone();
            accounts.spawn(async move {
                let account =
                    identify(&sdk, claim).await.map_err(|wrong| format!("{name}: {wrong}"))?;
                Ok::<_, String>((account, target, sdk, sessions))
            });
        }
        let turns = settings.decode_authorization_messages.then(Turns::new);
        let mut served = HashMap::new();
        while let Some(identified) = accounts.join_next().await {
            let (account, settings_of, sdk, sessions) =
                identified.map_err(|panic| format!("asking STS failed: {panic}"))??;
            let decoder = |turns| Arc::new(Decoder::new(aws_sdk_sts::Client::new(&sdk), turns));
            let decoder = turns.clone().map(decoder);
            for region in settings_of.regions {
                let target = Target { account: account.clone(), region };
                let one = Served {
                    target: target.clone(),
                    client: ec2_client(&sdk, &target, &endpoint),
                    attempt_timeout: settings.attempt_timeout,
                    sessions: sessions.clone(),
                    decoder: decoder.clone(),
                    metrics: Metrics::default(),
                    clock: Arc::new(SystemClock),
                    seen: LastSeen::default(),
                };
                let twice = format!("EC2 target {target} is configured twice");
                if served.insert(target, one).is_some() {
                    return Err(twice);
                }
            }
        }
        check_defaults(&settings, &served)?;
        let loopback = endpoint.as_ref().is_some_and(|endpoint| endpoint.loopback);
        Ok(Self {
            read_lag: if loopback { Duration::ZERO } else { READ_LAG },
            endpoint: endpoint.map(|endpoint| endpoint.url),
            served,
            default_account: settings.default_account,
            default_region: settings.default_region,
            vpcs: VpcKinds::default(),
        })
    }
}

/// Without any target: the credentials' own account, in the default Region or the one of the AWS environment.
fn implied_target(settings: &Ec2Settings, sdk: &SdkConfig) -> Result<TargetSettings, String> {
    let of_sdk = || sdk.region().map(|region| Region::new(region.as_ref()));
    let region = settings.default_region.clone().or_else(of_sdk).ok_or(
        "no EC2 target is configured and no Region is known: set default_region or AWS_REGION",
    )?;
    Ok(TargetSettings {
        account: settings.default_account.clone(),
        regions: vec![region],
        role_arn: None,
        external_id: None,
        session_per_principal: false,
    })
}

fn check_defaults(settings: &Ec2Settings, served: &HashMap<Target, Served>) -> Result<(), String> {
    if let Some(account) = &settings.default_account
        && !served.keys().any(|target| target.account == *account)
    {
        return Err(format!("the default account {account} is none of the EC2 targets"));
    }
    if let Some(region) = &settings.default_region
        && !served.keys().any(|target| target.region == *region)
    {
        return Err(format!("the default Region {region} is none of the EC2 targets"));
    }
    Ok(())
}

// === configuration ===

/// What all targets share.
fn base_config(
    settings: &Ec2Settings,
    endpoint: &Option<Endpoint>,
    sdk: SdkConfig,
) -> Result<SdkConfig, String> {
    if sdk.credentials_provider().is_none() {
        return Err("the SDK configuration has no source of AWS credentials".to_owned());
    }
    if sdk.time_source().is_none() {
        return Err("the SDK configuration has no source of time".to_owned());
    }
    // The start-up checks and the scope of idempotency keys depend on the endpoint, so it has one place to be said.
    if endpoint.is_none() && endpoint_in_environment(&sdk) {
        return Err("the AWS environment or profile sets an endpoint URL; \
                    set it in the configuration of Portcullis instead"
            .to_owned());
    }
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(settings.connect_timeout)
        .operation_attempt_timeout(settings.attempt_timeout)
        .build();
    // EC2's buckets refill within parts of a second, so waiting starts short.
    let retries = RetryConfig::standard()
        .with_max_attempts(3)
        .with_initial_backoff(Duration::from_millis(100))
        .with_max_backoff(Duration::from_secs(2));
    let http_client = sdk.http_client().unwrap_or_else(|| http_client(endpoint));
    let mut builder = sdk.into_builder();
    // Says that the endpoint, or its absence, is ours: the environment's settings for single services end here.
    builder.insert_origin("endpoint_url", Origin::shared_config());
    builder.set_endpoint_url(endpoint.as_ref().map(|endpoint| endpoint.url.clone()));
    let builder = builder
        .behavior_version(BehaviorVersion::latest())
        .http_client(http_client)
        .timeout_config(timeouts)
        .retry_config(retries)
        // The attempt's timeout says it all.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    let name = AppName::new(NAME).map_err(|invalid| invalid.to_string())?;
    Ok(builder.app_name(name).build())
}

/// What one account's clients share: its credentials, which are renewed in one place for all its Regions.
async fn target_config(sdk: &SdkConfig, target: &TargetSettings) -> Result<SdkConfig, String> {
    let region = target.regions.first().ok_or("it has no Region")?;
    let regional = sdk.to_builder().region(sdk_region(region)).build();
    let builder = regional.to_builder().identity_cache(IdentityCache::lazy().build());
    let Some(role) = &target.role_arn else {
        return match &target.external_id {
            Some(_) => Err("an external id without a role to assume".to_owned()),
            None => Ok(builder.build()),
        };
    };
    let mut provider = AssumeRoleProvider::builder(role).configure(&regional).session_name(NAME);
    if let Some(id) = &target.external_id {
        provider = provider.external_id(id);
    }
    let provider = SharedCredentialsProvider::new(provider.build().await);
    Ok(builder.credentials_provider(provider).build())
}

/// The callers' own sessions, if the target has them. The process's own credentials ask for them: sessions that a
/// session asks for would be a role further away.
fn sessions(sdk: &SdkConfig, target: &TargetSettings) -> Result<Option<Arc<Sessions>>, String> {
    if !target.session_per_principal {
        return Ok(None);
    }
    let role = target.role_arn.clone().ok_or("a session per principal without a role to assume")?;
    let region = target.regions.first().ok_or("it has no Region")?;
    let regional = sdk.to_builder().region(sdk_region(region)).build();
    let config = aws_sdk_sts::config::Builder::from(&regional)
        // A role that cannot be assumed must not take the retries of the others.
        .retry_partition(RetryPartition::new(format!("{NAME}/{role}")))
        .build();
    let sts = aws_sdk_sts::Client::from_conf(config);
    Ok(Some(Arc::new(Sessions::new(sts, regional, role, target.external_id.clone()))))
}

fn ec2_client(
    sdk: &SdkConfig,
    target: &Target,
    endpoint: &Option<Endpoint>,
) -> aws_sdk_ec2::Client {
    let mut config = aws_sdk_ec2::config::Builder::from(sdk)
        .region(sdk_region(&target.region))
        // A target that is throttled must not take the retries of the others.
        .retry_partition(RetryPartition::new(format!("{NAME}/{target}")));
    config.set_endpoint_url(endpoint.as_ref().map(|endpoint| endpoint.url.clone()));
    aws_sdk_ec2::Client::from_conf(config.build())
}

/// One pool of connections for all clients.
fn http_client(endpoint: &Option<Endpoint>) -> SharedHttpClient {
    let loopback = endpoint.as_ref().is_some_and(|endpoint| endpoint.loopback);
    Builder::new().build_with_connector_fn(move |settings, components| {
        let crypto = tls::rustls_provider::CryptoMode::AwsLc;
        let mut builder = ConnectorBuilder::default()
            .tls_provider(tls::Provider::Rustls(crypto))
            .pool_idle_timeout(IDLE);
        builder.set_connector_settings(settings.cloned());
        builder.set_sleep_impl(components.and_then(|components| components.sleep_impl()));
        let proxy = if loopback { ProxyConfig::disabled() } else { ProxyConfig::from_env() };
        builder.set_proxy_config(Some(proxy));
        builder.build()
    })
}

fn endpoint_in_environment(sdk: &SdkConfig) -> bool {
    let of_service = |service, env| {
        let key = ServiceConfigKey::builder().service_id(service).env(env).profile("endpoint_url");
        let config = sdk.service_config().zip(key.build().ok());
        config.is_some_and(|(config, key)| config.load_config(key).is_some())
    };
    sdk.endpoint_url().is_some()
        || of_service("EC2", "AWS_ENDPOINT_URL")
        || of_service("STS", "AWS_ENDPOINT_URL")
}

fn sdk_region(region: &Region) -> aws_config::Region {
    aws_config::Region::new(region.as_str().to_owned())
}

// === accounts ===

/// The account that the settings claim a target to be.
fn claimed_account(target: &TargetSettings) -> Result<Option<AccountId>, String> {
    let Some(arn) = &target.role_arn else { return Ok(target.account.clone()) };
    let of_role = account_of_role(arn).ok_or("role_arn is not the ARN of an IAM role")?;
    match &target.account {
        Some(account) if *account != of_role => {
            Err(format!("its role is of account {of_role}, not {account}"))
        }
        _ => Ok(Some(of_role)),
    }
}

fn account_of_role(arn: &str) -> Option<AccountId> {
    let mut parts = arn.splitn(6, ':');
    let head = [parts.next()?, parts.next()?, parts.next()?, parts.next()?];
    let [account, resource] = [parts.next()?, parts.next()?];
    let is_role = matches!(head, ["arn", partition, "iam", ""] if partition.starts_with("aws"))
        && resource.strip_prefix("role/").is_some_and(|name| !name.is_empty());
    is_role.then(|| AccountId::parse(account)).flatten()
}

/// Asks STS whose credentials they are, which also leaves them ready for the first call.
async fn identify(sdk: &SdkConfig, claim: Option<AccountId>) -> Result<AccountId, String> {
    let found = tokio::time::timeout(IDENTIFY_TIMEOUT, caller_account(sdk))
        .await
        .unwrap_or_else(|_| Err("STS does not answer".to_owned()));
    match (found, claim) {
        (Ok(found), Some(claim)) if found != claim => {
            Err(format!("the AWS credentials are of account {found}, not {claim}"))
        }
        (Ok(found), _) => Ok(found),
        // One account's trouble must not keep the others from being served. Its calls will say what is wrong.
        (Err(wrong), Some(claim)) => {
            tracing::warn!(account = %claim, error = %wrong, "cannot check the account of the AWS credentials");
            Ok(claim)
        }
        (Err(wrong), None) => Err(format!("cannot find out the account: {wrong}")),
    }
}

async fn caller_account(sdk: &SdkConfig) -> Result<AccountId, String> {
    let answer = aws_sdk_sts::Client::new(sdk).get_caller_identity().send().await;
    let answer = answer.map_err(|error| detail_of(&error))?;
    answer.account().and_then(AccountId::parse).ok_or_else(|| "STS names no account".to_owned())
}

// === impl Endpoint ===

/// Where EC2 is, if not at AWS.
#[derive(Debug)]
struct Endpoint {
    url: String,
    loopback: bool,
}

impl Endpoint {
    fn parse(text: &str) -> Result<Self, String> {
        // The text is not shown: it may hold a password.
        let uri: Uri = text.parse().map_err(|_| "the EC2 endpoint is not a URL")?;
        let host = match (uri.scheme_str(), uri.authority()) {
            (Some("http" | "https"), Some(authority)) if !authority.as_str().contains('@') => {
                authority.host().to_owned()
            }
            (Some("http" | "https"), Some(_)) => {
                return Err("the EC2 endpoint must not hold credentials".to_owned());
            }
            _ => return Err("the EC2 endpoint must be an http or https URL".to_owned()),
        };
        if uri.query().is_some() {
            return Err("the EC2 endpoint must not have a query".to_owned());
        }
        let address = host.trim_start_matches('[').trim_end_matches(']').parse();
        let loopback = host.eq_ignore_ascii_case("localhost")
            || address.is_ok_and(|address: std::net::IpAddr| address.is_loopback());
        Ok(Self { url: text.trim_end_matches('/').to_owned(), loopback })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_urls_without_secrets() {
        for (url, loopback) in [
            ("http://127.0.0.1:5000", true),
            ("http://[::1]:5000/", true),
            ("https://localhost", true),
            ("https://ec2.us-east-1.amazonaws.com", false),
            ("https://vpce-1.ec2.us-east-1.vpce.amazonaws.com", false),
        ] {
            let endpoint = Endpoint::parse(url).unwrap();
            assert_eq!(endpoint.loopback, loopback, "{url}");
            assert!(!endpoint.url.ends_with('/'), "{url}");
        }
        for bad in ["", "127.0.0.1:5000", "/x", "ftp://x", "http://u:p@x", "http://x/?a=b"] {
            let wrong = Endpoint::parse(bad).unwrap_err();
            assert!(!wrong.contains("u:p"), "{wrong}");
        }
    }

    #[test]
    fn a_role_tells_its_account() {
        for arn in ["arn:aws:iam::123456789012:role/a", "arn:aws-cn:iam::123456789012:role/p/a"] {
            assert_eq!(account_of_role(arn), AccountId::parse("123456789012"), "{arn}");
        }
        for bad in [
            "",
            "role/a",
            "arn:aws:iam::123456789012:user/a",
            "arn:aws:sts::123456789012:assumed-role/a/b",
            "arn:aws:iam::12345:role/a",
            "arn:aws:iam::123456789012:role/",
        ] {
            assert_eq!(account_of_role(bad), None, "{bad}");
        }
    }
}
