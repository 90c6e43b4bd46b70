//! The span of one call of the SDK: it follows the call on its way, and tells whoever is called which trace it is in.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        interceptors::{
            Intercept,
            context::{
                AfterDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextMut,
                BeforeTransmitInterceptorContextRef,
            },
        },
        runtime_components::RuntimeComponents,
    },
};
use aws_smithy_types::config_bag::ConfigBag;

use crate::telemetry::trace::{self, ClientSpan};

/// The span, until the call is over.
pub(super) struct Traced {
    span: ClientSpan,
    service: &'static str,
    watch: Watch,
}

/// The call's interceptor.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    headers: Arc<[(String, String)]>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    host: Option<String>,
    port: Option<u16>,
    attempts: u16,
    status: Option<u16>,
    request_id: Option<String>,
}

// === impl Traced ===

impl Traced {
    /// Begins it; none if there shall be no span.
    pub(super) fn begin(service: &'static str) -> Option<Self> {
        let span = ClientSpan::begin(service)?;
        let watch = Watch { headers: span.headers().into(), seen: Arc::default() };
        Some(Self { span, service, watch })
    }

    /// What the call must be made with.
    pub(super) fn watch(&self) -> Watch {
        self.watch.clone()
    }

    /// Ends it. `error`: the class of what went wrong.
    pub(super) fn end(
        self,
        action: &str,
        region: Option<&str>,
        account: Option<&str>,
        error: Option<&str>,
    ) {
        let Self { span, service, watch } = self;
        let seen = watch.seen();
        let mut attributes = vec![
            trace::attribute("rpc.system.name", "aws-api"),
            trace::attribute("rpc.service", service),
            trace::attribute("rpc.method", action.to_owned()),
            trace::attribute("cloud.provider", "aws"),
        ];
        let given =
            |name, value: Option<&str>| value.map(|value| trace::attribute(name, value.to_owned()));
        attributes.extend(given("cloud.region", region));
        attributes.extend(given("cloud.account.id", account));
        attributes.extend(given("server.address", seen.host.as_deref()));
        attributes.extend(given("aws.request_id", seen.request_id.as_deref()));
        let number =
            |name, value: Option<u16>| value.map(|value| trace::attribute(name, i64::from(value)));
        attributes.extend(number("server.port", seen.port));
        attributes.extend(number("http.response.status_code", seen.status));
        attributes.extend(number(
            "http.request.resend_count",
            seen.attempts.checked_sub(1).filter(|again| *again > 0),
        ));
        drop(seen);
        span.end(format!("{service}.{action}"), attributes, error);
    }
}

// === impl Watch ===

impl Watch {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Intercept for Watch {
    fn name(&self) -> &'static str {
        "portcullis trace"
    }

    fn read_before_attempt(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let mut seen = self.seen();
        seen.attempts = seen.attempts.saturating_add(1);
        Ok(())
    }

    /// Not signed, so that a proxy may put its own span into them: a signature that says what they were would be a wrong
    /// one behind it.
    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let headers = context.request_mut().headers_mut();
        for (name, value) in self.headers.iter() {
            // What is no header stays here: the call goes before its trace.
            let _ = headers.try_insert(name.clone(), value.clone());
        }
        Ok(())
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Ok(uri) = context.request().uri().parse::<http::Uri>() {
            let mut seen = self.seen();
            seen.host = uri.host().map(str::to_owned);
            let of_scheme = if uri.scheme_str() == Some("http") { 80 } else { 443 };
            seen.port = Some(uri.port_u16().unwrap_or(of_scheme));
        }
        Ok(())
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response();
        let names = ["x-amzn-requestid", "x-amzn-request-id", "x-amz-request-id"];
        let id = names.iter().find_map(|name| response.headers().get(*name));
        let mut seen = self.seen();
        seen.status = Some(response.status().as_u16());
        seen.request_id = id.map(str::to_owned);
        Ok(())
    }
}
