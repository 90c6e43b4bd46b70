//! A change leaves for EC2 as long as it may, and not later.
//!
//! Between the last look at the lease and the first byte on its way lie the credentials, the signature and perhaps a new
//! connection; and a process can stand still anywhere, such as that of a virtual machine that is moved. If it stands
//! still for longer than the hold, another replica has settled the operation by then, and a rule that was added again
//! would go. So the time is looked at once more where the body is handed to the connection, which is open: a
//! head without its body is no request to EC2.
//!
//! By two clocks, as neither is enough. The monotonic one is not set, but it stands still while the machine is suspended.
//! The wall clock goes on then, but it may be set: back, and the other one ends the lease; forward, and a change that
//! might have left is not sent.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::SystemTime,
};

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use tokio::time::Instant;

use crate::{backend::CallContext, clock::Clock};

const LATE: &str = "the lease ended before the request was sent";

/// When a lease ends, by both clocks.
#[derive(Clone, Debug)]
pub(super) struct LeaseEnd {
    until: Instant,
    until_wall: SystemTime,
    clock: Arc<dyn Clock>,
}

impl LeaseEnd {
    /// When the call says, by both clocks.
    pub(super) fn of(call: &CallContext, clock: Arc<dyn Clock>) -> Self {
        let left = call.deadline.saturating_duration_since(Instant::now());
        let until_wall = call.deadline_wall.unwrap_or_else(|| clock.now() + left);
        Self { until: call.deadline, until_wall, clock }
    }

    /// Whether it has ended by either.
    fn is_over(&self) -> bool {
        Instant::now() >= self.until || self.clock.now() >= self.until_wall
    }
}

/// A body that nobody gets after a time.
struct Held {
    inner: Full<Bytes>,
    end: LeaseEnd,
}

/// The same body, until then. One that is not in memory is none of a change's.
pub(super) fn until(body: &SdkBody, end: LeaseEnd) -> Result<SdkBody, BoxError> {
    let bytes = body.bytes().ok_or("the request is not in memory")?;
    let inner = Full::new(Bytes::copy_from_slice(bytes));
    Ok(SdkBody::from_body_1_x(Held { inner, end }))
}

impl Body for Held {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.end.is_over() {
            return Poll::Ready(Some(Err(LATE.into())));
        }
        Pin::new(&mut self.inner).poll_frame(cx).map_err(|never| match never {})
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, Mutex},
        time::Duration,
    };

    use aws_sdk_ec2::{
        Client,
        config::{self, Credentials, SharedHttpClient},
    };
    use aws_smithy_runtime_api::{
        client::{
            http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn},
            orchestrator::HttpRequest,
            result::ConnectorError,
        },
        http::{Response, StatusCode},
    };
    use http_body_util::BodyExt as _;
    use tokio::time::sleep_until;

    use super::{
        super::client::{Kind, Served},
        *,
    };
    use crate::{
        backend::{BackendError, standing::LastSeen},
        clock::ManualClock,
        rule::{AccountId, Region, Target},
        telemetry::metrics::Metrics,
    };

    const LEASE: Duration = Duration::from_secs(5);

    /// A connection that is open at a time, by whose coming the wall clock has moved too, and what went over it.
    #[derive(Clone, Debug)]
    struct Connection {
        open_at: Instant,
        clock: ManualClock,
        moves: Move,
        sent: Arc<Mutex<Vec<Bytes>>>,
    }

    #[derive(Clone, Copy, Debug)]
    enum Move {
        Forward(Duration),
        Back(Duration),
        /// By when the call begins.
        Before(Duration),
    }

    impl HttpConnector for Connection {
        fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
            let Self { open_at, clock, moves, sent } = self.clone();
            // As hyper does: the connection is a task of its own, and goes on when nobody waits for it any more.
            let task = tokio::spawn(async move {
                sleep_until(open_at).await;
                match moves {
                    Move::Forward(by) => clock.advance(by),
                    Move::Back(by) => clock.set_back(by),
                    Move::Before(_) => {}
                }
                let error = |error| ConnectorError::io(error);
                let body = request.into_body().collect().await.map_err(error)?.to_bytes();
                sent.lock().unwrap().push(body);
                let answer = "<RevokeSecurityGroupEgressResponse/>";
                Ok(Response::new(StatusCode::try_from(200).unwrap(), answer.into()))
            });
            HttpConnectorFuture::new(async move { task.await.unwrap() })
        }
    }

    /// Revokes, over a connection that is open after so long by both clocks: the answer, and what went over it in the end.
    async fn revoke(open_after: Duration, kind: Kind) -> (Result<(), BackendError>, usize) {
        revoke_while(Move::Forward(open_after), open_after, kind).await
    }

    /// The same, while the wall clock moves otherwise.
    async fn revoke_while(
        moves: Move,
        open_after: Duration,
        kind: Kind,
    ) -> (Result<(), BackendError>, usize) {
        let open_at = Instant::now() + open_after;
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let clock = ManualClock::new(start);
        let connection = Connection { open_at, clock: clock.clone(), moves, sent: Arc::default() };
        let connector = connection.clone();
        let http: SharedHttpClient =
            http_client_fn(move |_, _| SharedHttpConnector::new(connector.clone()));
        let config = config::Builder::new()
            .behavior_version_latest()
            .region(config::Region::new("us-east-1"))
            .credentials_provider(Credentials::new("test", "test", None, None, "test"))
            .http_client(http);
        let served = Served {
            target: Target {
                account: AccountId::new("123456789012"),
                region: Region::new("us-east-1"),
            },
            client: Client::from_conf(config.build()),
            attempt_timeout: LEASE,
            sessions: None,
            decoder: None,
            metrics: Metrics::default(),
            clock: Arc::new(clock.clone()),
            seen: LastSeen::default(),
        };
        let mut call = CallContext::new(Instant::now() + LEASE, "op-1");
        if let Move::Before(by) = moves {
            call.deadline_wall = Some(start + LEASE);
            clock.advance(by);
        }
        let send = |client: &Client, config| {
            let call = client.revoke_security_group_egress().group_id("sg-1");
            call.customize().config_override(config).send()
        };
        let answer = served.call(&call, kind, send).await;
        sleep_until(open_at + Duration::from_secs(1)).await;
        let sent = connection.sent.lock().unwrap().len();
        (answer.map(drop), sent)
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_leaves_within_its_lease_or_never() {
        let change = Kind::Mutation { dry_run: false };
        let (answer, sent) = revoke(LEASE / 2, change).await;
        assert!(answer.is_ok(), "{answer:?}");
        assert_eq!(sent, 1);
        // Nobody waits for it any more, and its connection opens.
        let (answer, sent) = revoke(LEASE * 2, change).await;
        assert!(matches!(answer, Err(BackendError::OutcomeUnknown(_))), "{answer:?}");
        assert_eq!(sent, 0);
        // What changes nothing may come late.
        let (_, sent) = revoke(LEASE * 2, Kind::Mutation { dry_run: true }).await;
        assert_eq!(sent, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_was_suspended_does_not_send_after_its_lease() {
        let change = Kind::Mutation { dry_run: false };
        // The monotonic clock stood still for ten minutes.
        let (moment, asleep) = (Duration::from_millis(10), Duration::from_secs(600));
        let (answer, sent) = revoke_while(Move::Forward(asleep), moment, change).await;
        assert!(matches!(answer, Err(BackendError::OutcomeUnknown(_))), "{answer:?}");
        assert_eq!(sent, 0);
        let (_, sent) =
            revoke_while(Move::Forward(asleep), moment, Kind::Mutation { dry_run: true }).await;
        assert_eq!(sent, 1);
        // It did before the call began, which the wall clock says by when it has to be sent.
        let (_, sent) = revoke_while(Move::Before(asleep), moment, change).await;
        assert_eq!(sent, 0);
        // Clocks are set by a little all the time.
        for moves in [Move::Forward(LEASE / 4), Move::Back(asleep), Move::Before(LEASE / 4)] {
            let (answer, sent) = revoke_while(moves, moment, change).await;
            assert!(answer.is_ok(), "{moves:?}: {answer:?}");
            assert_eq!(sent, 1);
        }
        // One that is set back makes no lease longer.
        let (_, sent) = revoke_while(Move::Back(asleep), LEASE * 2, change).await;
        assert_eq!(sent, 0);
    }
}
