//! What EC2 says in code when it does not permit a call: who was refused what, and by which policy. STS decodes it, for
//! the log. Callers are told neither the code nor what it says.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Semaphore,
    time::{Instant, sleep_until, timeout},
};

use super::errors::detail_of;
use crate::{
    backend::{CallContext, Refusal},
    rule::Target,
};

/// How EC2 introduces it, at the end of its message.
const MARK: &str = "Encoded authorization failure message:";

/// EC2's code for a call that is not permitted.
const NOT_PERMITTED: &str = "UnauthorizedOperation";

/// The longest that STS takes.
const MAX_ENCODED: usize = 10_240;

/// The longest text that is logged.
const MAX_LOGGED: usize = 8192;

/// At most one question to STS in this time.
const PAUSE: Duration = Duration::from_secs(1);

/// How long STS may take.
const DECODE_TIMEOUT: Duration = Duration::from_secs(10);

/// Decodes with one target's own session.
pub(super) struct Decoder {
    sts: aws_sdk_sts::Client,
    turns: Turns,
}

/// One turn at a time, for all targets together.
#[derive(Clone, Debug)]
pub(super) struct Turns(Arc<Semaphore>);

/// Takes the encoded message out of EC2's text, so that it goes nowhere else.
pub(super) fn take_encoded(refusal: &mut Refusal) -> Option<String> {
    let (said, rest) = refusal.message.split_once(MARK)?;
    let encoded = rest.split_whitespace().next().unwrap_or_default().to_owned();
    let said = said.trim_end().to_owned();
    refusal.message = said;
    (refusal.code == NOT_PERMITTED && (1..=MAX_ENCODED).contains(&encoded.len())).then_some(encoded)
}

// === impl Turns ===

impl Turns {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

// === impl Decoder ===

impl Decoder {
    pub(super) fn new(sts: aws_sdk_sts::Client, turns: Turns) -> Self {
        Self { sts, turns }
    }

    /// Decodes and logs, on its own: the call does not wait. Without a turn the log only says so.
    pub(super) fn decode(
        &self,
        call: &CallContext,
        target: &Target,
        refusal: &Refusal,
        encoded: String,
    ) {
        let operation_id = call.operation_id.clone();
        let ec2_request_id = refusal.request_id.clone();
        let principal = call.caller.as_ref().map(|caller| caller.id());
        let Ok(turn) = self.turns.0.clone().try_acquire_owned() else {
            tracing::warn!(
                operation_id,
                ec2_request_id,
                principal,
                %target,
                "EC2 did not permit the call; not decoded, as another was a moment ago"
            );
            return;
        };
        let (sts, target) = (self.sts.clone(), target.clone());
        tokio::spawn(async move {
            let next = Instant::now() + PAUSE;
            let asked = sts.decode_authorization_message().encoded_message(encoded).send();
            let decoded = match timeout(DECODE_TIMEOUT, asked).await {
                Ok(Ok(answer)) => Ok(answer.decoded_message.unwrap_or_default()),
                Ok(Err(error)) => Err(detail_of(&error)),
                Err(_) => Err("STS does not answer".to_owned()),
            };
            match decoded {
                Ok(mut decoded) => {
                    if let Some((end, _)) = decoded.char_indices().nth(MAX_LOGGED) {
                        decoded.truncate(end);
                    }
                    tracing::warn!(
                        operation_id,
                        ec2_request_id,
                        principal,
                        %target,
                        decoded,
                        "EC2 did not permit the call"
                    );
                }
                Err(error) => tracing::warn!(
                    operation_id,
                    ec2_request_id,
                    principal,
                    %target,
                    error,
                    "EC2 did not permit the call; what it says cannot be decoded"
                ),
            }
            sleep_until(next).await;
            drop(turn);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoded_message_leaves_the_text() {
        let said = "You are not authorized to perform this operation.";
        for (code, rest, encoded) in [
            (NOT_PERMITTED, " Encoded authorization failure message: aB3_-x", Some("aB3_-x")),
            (NOT_PERMITTED, " Encoded authorization failure message: aB3 and more", Some("aB3")),
            (NOT_PERMITTED, "", None),
            (NOT_PERMITTED, " Encoded authorization failure message: ", None),
            ("OtherCode", " Encoded authorization failure message: aB3", None),
        ] {
            let mut refusal = Refusal::new(code, format!("{said}{rest}"));
            assert_eq!(take_encoded(&mut refusal).as_deref(), encoded, "{code}{rest}");
            assert_eq!(refusal.message, said);
        }
        let long = format!("{MARK} {}", "x".repeat(MAX_ENCODED + 1));
        let mut refusal = Refusal::new(NOT_PERMITTED, long);
        assert_eq!(take_encoded(&mut refusal), None);
        assert_eq!(refusal.message, "");
    }
}
