//! One target's SDK client, and the one way through it.

use std::{
    borrow::Cow,
    future::Future,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, AtomicU32, Ordering},
    },
    time::Duration,
};

use aws_sdk_ec2::{
    Client,
    config::{self, SharedCredentialsProvider},
};
use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        interceptors::{
            Intercept,
            context::{
                AfterDeserializationInterceptorContextRef,
                BeforeSerializationInterceptorContextRef, BeforeTransmitInterceptorContextMut,
                BeforeTransmitInterceptorContextRef,
            },
        },
        orchestrator::Metadata,
        result::SdkError,
        runtime_components::RuntimeComponents,
    },
    http::Response,
};
use aws_smithy_types::{
    config_bag::ConfigBag, error::metadata::ProvideErrorMetadata, retry::RetryConfig,
    timeout::TimeoutConfig,
};
use tokio::time::{Instant, timeout_at};
use xmlparser::{ElementEnd, Token, Tokenizer};

use super::{
    denied::{self, Decoder},
    errors::{Stage, classify, is_credentials_refusal},
    held::{self, LeaseEnd},
    session::{Session, Sessions},
    traced::Traced,
};
use crate::{
    backend::{BackendError, CallContext, Failure, Refusal, standing::LastSeen},
    clock::Clock,
    pacing::is_throttling,
    rule::Target,
    telemetry::metrics::Metrics,
};

/// With less time than this, nothing is sent: the answer would come too late to be told.
const LEAST_TIME: Duration = Duration::from_millis(50);

/// What one call is to EC2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Repeated when that can help.
    Read,
    /// Sent once. `dry_run`: it is asked what would be, so no answer leaves a doubt.
    Mutation { dry_run: bool },
}

/// One target's client.
pub(super) struct Served {
    pub(super) target: Target,
    pub(super) client: Client,
    pub(super) attempt_timeout: Duration,
    /// The callers' own sessions, if they have some.
    pub(super) sessions: Option<Arc<Sessions>>,
    /// Decodes what EC2 does not permit, if that is wanted.
    pub(super) decoder: Option<Arc<Decoder>>,
    pub(super) metrics: Metrics,
    /// By which leases end, too.
    pub(super) clock: Arc<dyn Clock>,
    /// How it stands.
    pub(super) seen: LastSeen,
}

impl Served {
    /// The session of who makes the call. None: the target's own.
    async fn session(&self, call: &CallContext) -> Result<Option<Session>, BackendError> {
        let (Some(sessions), Some(caller)) = (&self.sessions, &call.caller) else {
            return Ok(None);
        };
        let within = timeout_at(call.deadline, sessions.of(caller)).await;
        let late = || Err("STS did not answer in time".to_owned());
        let session = within.unwrap_or_else(|_| late());
        session.map(Some).map_err(|why| {
            let error = BackendError::CredentialsUnavailable(Failure::new(why));
            self.see(Some(&error), error_type(&error));
            error
        })
    }

    /// Keeps what a call says of the target.
    fn see(&self, error: Option<&BackendError>, class: Option<Cow<'static, str>>) {
        let now = Instant::now();
        match error {
            None => self.seen.answered(now),
            // Something of EC2, or of our credentials there, and not of what was asked for.
            Some(BackendError::Refused(Refusal { code, .. }))
                if !is_throttling(code) && !is_credentials_refusal(code) =>
            {
                self.seen.answered(now);
            }
            Some(
                BackendError::Refused(_)
                | BackendError::Unavailable(_)
                | BackendError::OutcomeUnknown(_)
                | BackendError::CredentialsUnavailable(_),
            ) => self.seen.failed(class.unwrap_or("other".into()), now),
            // It was not called.
            Some(
                BackendError::DeadlineTooNear
                | BackendError::BudgetExhausted { .. }
                | BackendError::TargetNotConfigured { .. },
            ) => {}
        }
    }

    /// Makes one call. `send` gets the client, and the configuration that its operation must be sent with.
    pub(super) async fn call<T, E, F>(
        &self,
        call: &CallContext,
        kind: Kind,
        send: impl FnOnce(&Client, config::Builder) -> F,
    ) -> Result<T, BackendError>
    where
        F: Future<Output = Result<T, SdkError<E, Response>>>,
        E: std::error::Error + ProvideErrorMetadata + 'static,
    {
        // Before anything is waited for: the machine may be suspended meanwhile.
        let lease = LeaseEnd::of(call, self.clock.clone());
        let remaining = || call.deadline.saturating_duration_since(Instant::now());
        if remaining() < LEAST_TIME {
            return Err(BackendError::DeadlineTooNear);
        }
        let session = self.session(call).await?;
        let remaining = remaining();
        if remaining < LEAST_TIME {
            return Err(BackendError::DeadlineTooNear);
        }
        let timeouts = TimeoutConfig::builder()
            .operation_timeout(remaining)
            .operation_attempt_timeout(self.attempt_timeout.min(remaining))
            .build();
        let traced = Traced::begin("EC2");
        let effect = kind == Kind::Mutation { dry_run: false };
        let progress = Progress { until: effect.then_some(lease), ..Progress::default() };
        let mut config =
            config::Builder::default().timeout_config(timeouts).interceptor(progress.clone());
        if let Some(traced) = &traced {
            config = config.interceptor(traced.watch());
        }
        if kind != Kind::Read {
            config.set_retry_config(Some(RetryConfig::disabled()));
        }
        // In the user agent, which CloudTrail keeps. An id that does not fit in there is left out.
        let operation =
            config::FrameworkMetadata::new("operation", Some(call.operation_id.clone()));
        if let Ok(operation) = operation {
            config.push_framework_metadata(operation);
        }
        if let Some(session) = &session {
            config.set_credentials_provider(Some(SharedCredentialsProvider::new(
                session.credentials(),
            )));
        }
        let began = Instant::now();
        let answer = send(&self.client, config).await.map_err(|error| {
            let error = classify(&error, progress.stage(), effect);
            self.refused(call, session.as_ref(), error)
        });
        let took = began.elapsed();
        // Set before anything can fail.
        let action = progress.action.get().cloned().unwrap_or_default();
        let error = answer.as_ref().err();
        let class = error.and_then(error_type);
        if let Some(traced) = traced {
            let (region, account) = (self.target.region.as_str(), self.target.account.as_str());
            traced.end(&action, Some(region), Some(account), class.as_deref());
        }
        self.see(error, class.clone());
        let target = (self.target.account.as_str(), self.target.region.as_str());
        let throttled = progress.throttled.load(Ordering::Relaxed);
        if throttled > 0 {
            self.metrics.throttled(action.clone(), target, throttled.into());
        }
        self.metrics.called_ec2(action, target, class, took);
        answer
    }

    /// What follows from EC2's refusal besides the answer.
    fn refused(
        &self,
        call: &CallContext,
        session: Option<&Session>,
        error: BackendError,
    ) -> BackendError {
        let BackendError::Refused(mut refusal) = error else { return error };
        if let Some(encoded) = denied::take_encoded(&mut refusal)
            && let Some(decoder) = &self.decoder
        {
            decoder.decode(call, &self.target, &refusal, encoded);
        }
        if is_credentials_refusal(&refusal.code)
            && let (Some(sessions), Some(caller), Some(session)) =
                (&self.sessions, &call.caller, session)
        {
            sessions.drop_refused(caller, session);
        }
        BackendError::Refused(refusal)
    }
}

/// What spans and metrics call an error: EC2's own code, if it gave one. None: it is the answer to a dry run that would
/// be good.
fn error_type(error: &BackendError) -> Option<Cow<'static, str>> {
    Some(match error {
        BackendError::Refused(Refusal { code, .. }) if code == "DryRunOperation" => return None,
        // EC2's codes are a few hundred. What does not look like one is none.
        BackendError::Refused(Refusal { code, .. }) if is_code(code) => code.clone().into(),
        BackendError::Refused(_) => "_OTHER".into(),
        BackendError::Unavailable(Failure { code: Some(code), .. })
        | BackendError::OutcomeUnknown(Failure { code: Some(code), .. })
            if is_code(code) =>
        {
            code.clone().into()
        }
        BackendError::Unavailable(_) => "unavailable".into(),
        BackendError::OutcomeUnknown(_) => "outcome_unknown".into(),
        BackendError::CredentialsUnavailable(_) => "credentials_unavailable".into(),
        BackendError::DeadlineTooNear => "deadline_too_near".into(),
        BackendError::BudgetExhausted { .. } => "budget_exhausted".into(),
        BackendError::TargetNotConfigured { .. } => "target_not_configured".into(),
    })
}

pub(super) fn is_code(text: &str) -> bool {
    (1..=80).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.')
}

/// Follows one call through the SDK, and checks that what came back is an XML document at all.
#[derive(Clone, Debug, Default)]
struct Progress {
    stage: Arc<AtomicU8>,
    /// EC2's name of what is called.
    action: Arc<OnceLock<Cow<'static, str>>>,
    /// Until when it may be sent, if it changes something.
    until: Option<LeaseEnd>,
    /// How many attempts EC2 throttled.
    throttled: Arc<AtomicU32>,
}

impl Progress {
    fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Relaxed) {
            0 => Stage::Building,
            1 => Stage::Identifying,
            2 => Stage::Signing,
            _ => Stage::Sending,
        }
    }

    fn reach(&self, stage: Stage) {
        let number = match stage {
            Stage::Building => 0,
            Stage::Identifying => 1,
            Stage::Signing => 2,
            Stage::Sending => 3,
        };
        self.stage.store(number, Ordering::Relaxed);
    }
}

impl Intercept for Progress {
    fn name(&self) -> &'static str {
        "portcullis progress"
    }

    fn read_before_execution(
        &self,
        _context: &BeforeSerializationInterceptorContextRef<'_>,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(metadata) = bag.load::<Metadata>() {
            let _ = self.action.set(metadata.name().to_owned().into());
        }
        Ok(())
    }

    fn read_before_attempt(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.reach(Stage::Identifying);
        Ok(())
    }

    fn modify_before_signing(
        &self,
        _context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.reach(Stage::Signing);
        Ok(())
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(until) = &self.until {
            let body = held::until(context.request().body(), until.clone())?;
            *context.request_mut().body_mut() = body;
        }
        Ok(())
    }

    fn read_before_transmit(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.reach(Stage::Sending);
        Ok(())
    }

    /// The SDK's parser for EC2 takes a document that ends in its midst for one that says no more: rules would be
    /// missing without a word.
    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response();
        if !response.status().is_success() && is_throttled(response) {
            self.throttled.fetch_add(1, Ordering::Relaxed);
        }
        // An answer that broke off is an error already, and one that the SDK tries a read again for.
        if !response.status().is_success() || context.output_or_error().is_err() {
            return Ok(());
        }
        let body = response.body().bytes().ok_or("the answer was not read")?;
        Ok(check_well_formed(std::str::from_utf8(body)?)?)
    }
}

/// Whether an attempt was refused because there were too many: the SDK tries reads again, and tells of the last one only.
fn is_throttled(response: &Response) -> bool {
    let body = response.body().bytes().and_then(|body| std::str::from_utf8(body).ok());
    response.status().as_u16() == 429
        || body.and_then(error_code).is_some_and(|code| is_throttling(&code))
}

/// The code in EC2's document of an error.
fn error_code(document: &str) -> Option<String> {
    let mut tokens = Tokenizer::from(document).map_while(Result::ok);
    tokens.find(|token| matches!(token, Token::ElementStart { local, .. } if local == "Code"))?;
    tokens.find_map(|token| match token {
        Token::Text { text } => Some(text.trim().to_owned()),
        _ => None,
    })
}

/// Whether every element ends, in the right order, and there is one.
fn check_well_formed(document: &str) -> Result<(), String> {
    let mut open = Vec::new();
    let mut elements = 0_usize;
    for token in Tokenizer::from(document) {
        match token.map_err(|error| format!("malformed XML: {error}"))? {
            Token::ElementStart { prefix, local, .. } => {
                elements += 1;
                open.push((prefix.as_str(), local.as_str()));
            }
            Token::ElementEnd { end: ElementEnd::Empty, .. } => drop(open.pop()),
            Token::ElementEnd { end: ElementEnd::Close(prefix, local), .. } => {
                let ended = open.pop();
                if ended != Some((prefix.as_str(), local.as_str())) {
                    return Err(format!("malformed XML: </{local}> ends nothing"));
                }
            }
            _ => {}
        }
    }
    match open.last() {
        Some((_, local)) => Err(format!("malformed XML: <{local}> does not end")),
        None if elements == 0 => Err("no XML element".to_owned()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_read_from_whatever_there_is() {
        let answer = "<?xml version=\"1.0\"?>\n<Response><Errors><Error><Code>A.B</Code><Message>no</Message></Error>";
        assert_eq!(error_code(answer).as_deref(), Some("A.B"));
        for none in ["", "<a>b</a>", "<Code", "<Code/>", "gateway"] {
            assert_eq!(error_code(none), None, "{none}");
        }
    }

    #[test]
    fn only_whole_documents_are_well_formed() {
        for good in ["<a/>", "<?xml version=\"1.0\"?>\n<a x=\"1\"><b>c</b><d/></a>\n"] {
            assert_eq!(check_well_formed(good), Ok(()), "{good}");
        }
        for bad in ["", "  ", "text", "<a>", "<a><b></a>", "<a><b></b>", "<a></b>", "<a", "<a/><"] {
            assert!(check_well_formed(bad).is_err(), "{bad}");
        }
    }
}
