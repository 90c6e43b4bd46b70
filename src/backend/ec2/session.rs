//! A session of the target's role for each caller, so that CloudTrail tells callers apart.
//!
//! A caller's calls are signed with the keys of its own session or not at all: there is no way from one caller's slot
//! to another's, and none back to the target's own session.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_config::SdkConfig;
use aws_sdk_ec2::config::Credentials;
use aws_sdk_sts::types::Tag;
use aws_smithy_types::error::metadata::ProvideErrorMetadata as _;
use sha2::{Digest, Sha256};
use tokio::{
    sync::{Mutex as Flight, OwnedMutexGuard, Semaphore},
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::{client::is_code, errors::detail_of, traced::Traced};
use crate::{principal::Principal, telemetry::trace};

/// The most sessions of one target. Beyond it the one that was not used for the longest time leaves; its caller's next
/// call asks STS again.
const MOST: usize = 1000;

/// The most questions to STS at once, for one target.
const MAX_FLIGHTS: usize = 32;

/// How long a session lasts. It is what a role gives unasked, and the most that a role gives to a role.
const LIFETIME: Duration = Duration::from_hours(1);

/// A session is renewed when it has this much left, or a quarter of its life.
const RENEW: Duration = Duration::from_mins(5);

/// A session with less than this is not used: it might end on the way.
const LEAST: Duration = Duration::from_secs(10);

/// How long STS may take, with all tries.
const ASSUME_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a failure answers a caller's further calls.
const FAILED_FOR: Duration = Duration::from_secs(1);

/// How long after a failure a session that is still good is not renewed.
const RENEWAL_PAUSE: Duration = Duration::from_secs(15);

/// A session that EC2 does not take is dropped if it is at least this old. A younger one would be no better.
const WORTH_DROPPING: Duration = Duration::from_secs(10);

/// The longest value of a session tag.
const MAX_TAG_VALUE: usize = 256;

/// The sessions of one target.
pub(super) struct Sessions {
    role: Arc<Role>,
    held: Mutex<Held>,
    flights: Arc<Semaphore>,
}

/// Whom STS is asked for.
struct Role {
    sts: aws_sdk_sts::Client,
    sdk: SdkConfig,
    arn: String,
    external_id: Option<String>,
}

/// Slots by the digest of the principal's id, which may be long.
#[derive(Default)]
struct Held {
    slots: HashMap<[u8; 32], (Arc<Slot>, u64)>,
    uses: u64,
}

/// One caller's session.
#[derive(Default)]
struct Slot {
    state: Mutex<State>,
    /// Held while STS is asked: one question at a time.
    flight: Arc<Flight<()>>,
}

#[derive(Default)]
struct State {
    session: Option<Session>,
    failed: Option<(Instant, String)>,
}

/// A session that STS gave.
#[derive(Clone)]
pub(super) struct Session {
    credentials: Credentials,
    begun: Instant,
    renew: Instant,
    ends: Instant,
}

/// What a slot has for a call.
enum Look {
    Good(Session),
    /// Still good, and to be renewed.
    Ageing(Session),
    Failed(String),
    Nothing,
}

// === impl Sessions ===

impl Sessions {
    /// Sessions of a role, which `sdk`'s credentials may assume.
    pub(super) fn new(
        sts: aws_sdk_sts::Client,
        sdk: SdkConfig,
        arn: String,
        external_id: Option<String>,
    ) -> Self {
        Self {
            role: Arc::new(Role { sts, sdk, arn, external_id }),
            held: Mutex::default(),
            flights: Arc::new(Semaphore::new(MAX_FLIGHTS)),
        }
    }

    /// The caller's session. An error says why there is none, for the log.
    pub(super) async fn of(&self, caller: &Arc<Principal>) -> Result<Session, String> {
        let slot = self.held().slot(digest(caller));
        match slot.look() {
            Look::Good(session) => return Ok(session),
            Look::Ageing(session) => {
                // Nobody waits for it.
                if let Ok(flight) = slot.flight.clone().try_lock_owned() {
                    drop(self.ask(flight, slot.clone(), caller.clone(), true));
                }
                return Ok(session);
            }
            Look::Failed(why) => return Err(why),
            Look::Nothing => {}
        }
        let flight = slot.flight.clone().lock_owned().await;
        // Whoever flew before us may have brought it.
        if let Some(result) = slot.look().result() {
            return result;
        }
        // A task of its own: if this call ends before STS answers, those who wait behind it are served all the same.
        if self.ask(flight, slot.clone(), caller.clone(), false).await.is_err() {
            return Err("asking STS for a session failed".to_owned());
        }
        let nothing = || Err("the session that STS gave has ended".to_owned());
        slot.look().result().unwrap_or_else(nothing)
    }

    /// EC2 does not take this session: the next call asks for another.
    pub(super) fn drop_refused(&self, caller: &Principal, session: &Session) {
        if session.begun.elapsed() >= WORTH_DROPPING {
            let slot = self.held().slot(digest(caller));
            let mut state = slot.state();
            if state.session.as_ref().is_some_and(|held| held.begun == session.begun) {
                state.session = None;
            }
        }
    }

    fn ask(
        &self,
        flight: OwnedMutexGuard<()>,
        slot: Arc<Slot>,
        caller: Arc<Principal>,
        renewal: bool,
    ) -> JoinHandle<()> {
        let (role, flights) = (self.role.clone(), self.flights.clone());
        let asked = async move {
            let _flight = flight;
            // The semaphore is never closed.
            let _permit = flights.acquire_owned().await;
            let answer = timeout(ASSUME_TIMEOUT, role.assume(&caller)).await;
            let answer = answer.unwrap_or_else(|_| Err("STS does not answer".to_owned()));
            if renewal && let Err(error) = &answer {
                tracing::warn!(principal = %caller, role = role.arn, error, "cannot renew a session");
            }
            slot.put(answer);
        };
        // A renewal is no part of the call that it happens beside.
        if renewal { tokio::spawn(asked) } else { tokio::spawn(trace::carried(asked)) }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Role ===

impl Role {
    async fn assume(&self, caller: &Principal) -> Result<Session, String> {
        let begun = Instant::now();
        let name = session_name(caller);
        let tags = tags(caller)
            .into_iter()
            .map(|(key, value)| Tag::builder().key(key).value(value).build())
            .collect::<Result<Vec<Tag>, _>>()
            .map_err(|error| error.to_string())?;
        let traced = Traced::begin("STS");
        let mut request = self
            .sts
            .assume_role()
            .role_arn(&self.arn)
            .set_external_id(self.external_id.clone())
            .role_session_name(&name)
            .source_identity(&name)
            .set_tags(Some(tags))
            .customize();
        if let Some(traced) = &traced {
            request = request.interceptor(traced.watch());
        }
        let answer = request.send().await;
        if let Some(traced) = traced {
            let class = answer.as_ref().err().map(|error| match error.code() {
                Some(code) if is_code(code) => code,
                Some(_) => "_OTHER",
                None => "unavailable",
            });
            traced.end("AssumeRole", self.sdk.region().map(AsRef::as_ref), None, class);
        }
        let answer =
            answer.map_err(|error| format!("AssumeRole as {name}: {}", detail_of(&error)))?;
        let given = answer.credentials.ok_or("STS gave no credentials")?;
        let now = self.sdk.time_source().map(|source| source.now());
        let ends = std::time::SystemTime::try_from(given.expiration).ok();
        let said = ends.zip(now).and_then(|(ends, now)| ends.duration_since(now).ok());
        // If this machine's clock is far off, it is what we asked for that counts.
        let life = said.filter(|said| *said <= LIFETIME).unwrap_or(LIFETIME);
        Ok(Session {
            credentials: Credentials::new(
                given.access_key_id,
                given.secret_access_key,
                Some(given.session_token),
                None,
                "portcullis session",
            ),
            begun,
            renew: begun + life.saturating_sub(RENEW.min(life / 4)),
            ends: begun + life.saturating_sub(LEAST),
        })
    }
}

// === impl Held ===

impl Held {
    fn slot(&mut self, key: [u8; 32]) -> Arc<Slot> {
        self.uses += 1;
        if let Some((slot, used)) = self.slots.get_mut(&key) {
            *used = self.uses;
            return slot.clone();
        }
        // A look at all of them costs less than the question to STS that follows.
        if self.slots.len() >= MOST
            && let Some(oldest) = self.slots.iter().min_by_key(|(_, (_, used))| *used)
        {
            let oldest = *oldest.0;
            self.slots.remove(&oldest);
        }
        let slot = Arc::<Slot>::default();
        self.slots.insert(key, (slot.clone(), self.uses));
        slot
    }
}

// === impl Slot ===

impl Slot {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self) -> Look {
        let now = Instant::now();
        let state = self.state();
        let failed_within = |time| match &state.failed {
            Some((at, why)) if now.duration_since(*at) < time => Some(why.clone()),
            _ => None,
        };
        match &state.session {
            Some(session) if now < session.ends => {
                if now < session.renew || failed_within(RENEWAL_PAUSE).is_some() {
                    Look::Good(session.clone())
                } else {
                    Look::Ageing(session.clone())
                }
            }
            _ => failed_within(FAILED_FOR).map_or(Look::Nothing, Look::Failed),
        }
    }

    fn put(&self, answer: Result<Session, String>) {
        let mut state = self.state();
        match answer {
            Ok(session) => *state = State { session: Some(session), failed: None },
            Err(why) => state.failed = Some((Instant::now(), why)),
        }
    }
}

// === impl Session ===

impl Session {
    /// What its calls are signed with.
    pub(super) fn credentials(&self) -> Credentials {
        self.credentials.clone()
    }
}

// === impl Look ===

impl Look {
    fn result(self) -> Option<Result<Session, String>> {
        match self {
            Self::Good(session) | Self::Ageing(session) => Some(Ok(session)),
            Self::Failed(why) => Some(Err(why)),
            Self::Nothing => None,
        }
    }
}

// === what AWS is told ===

fn digest(caller: &Principal) -> [u8; 32] {
    Sha256::digest(caller.id()).into()
}

/// RoleSessionName and SourceIdentity: 2 to 64 characters of letters, digits and `_=,.@-`, which ids of callers are
/// not. 128 bits of the digest, so that no two callers have one name.
fn session_name(caller: &Principal) -> String {
    let digest = digest(caller);
    let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("portcullis-{hex}")
}

/// The caller in full. A part that is empty has no tag.
fn tags(caller: &Principal) -> Vec<(&'static str, String)> {
    let parts = [
        ("portcullis:method", caller.method.as_str()),
        ("portcullis:issuer", &caller.issuer),
        ("portcullis:subject", &caller.subject),
    ];
    let given = parts.into_iter().filter(|(_, part)| !part.is_empty());
    given.map(|(key, part)| (key, tag_value(part))).collect()
}

/// A text in AWS's alphabet. What is not in it is written as `=` and two hexadecimal digits a byte; a text that is too
/// long then is replaced by `=sha256/` and its digest, which no other text is written as.
fn tag_value(text: &str) -> String {
    let mut value = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"_.:/+@-".contains(&byte) {
            value.push(char::from(byte));
        } else {
            value.push_str(&format!("={byte:02X}"));
        }
    }
    if value.len() > MAX_TAG_VALUE {
        let digest = Sha256::digest(text);
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        value = format!("=sha256/{hex}");
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::principal::Method;

    fn caller(issuer: &str, subject: &str) -> Principal {
        Principal {
            method: Method::Jwt,
            issuer: issuer.to_owned(),
            subject: subject.to_owned(),
            groups: Vec::new(),
        }
    }

    #[test]
    fn a_name_is_what_standard_tools_compute() {
        let alice = caller("https://issuer.example", "alice");
        assert_eq!(alice.id(), "jwt:https%3A//issuer.example:alice");
        // printf %s 'jwt:https%3A//issuer.example:alice' | sha256sum | cut -c1-32
        assert_eq!(session_name(&alice), "portcullis-c8aea4ddcf5e3580d3f35c4d90a1a27b");
        let documented = include_str!("../../../docs/aws-identity.md");
        assert!(documented.contains(&session_name(&alice)));
        for subject in ["", "*", "a\nb", &"x".repeat(5000), "spiffe://example.org/ns/a"] {
            let name = session_name(&caller("", subject));
            assert!((2..=64).contains(&name.len()), "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), "{name}");
        }
        assert_ne!(session_name(&alice), session_name(&caller("https://issuer.example:alice", "")));
    }

    #[test]
    fn tags_hold_the_caller_in_aws_s_alphabet() {
        let all = tags(&caller("https://issuer.example", "alice=b c*\u{e9}"));
        let all: Vec<(&str, &str)> =
            all.iter().map(|(key, value)| (*key, value.as_str())).collect();
        assert_eq!(
            all,
            [
                ("portcullis:method", "jwt"),
                ("portcullis:issuer", "https://issuer.example"),
                ("portcullis:subject", "alice=3Db=20c=2A=C3=A9"),
            ]
        );
        assert_eq!(tags(&caller("", "a")).len(), 2, "an empty issuer has no tag");
        let longest = "a".repeat(256);
        assert_eq!(tag_value(&longest), longest);
        for long in ["a".repeat(257), "*".repeat(86)] {
            let value = tag_value(&long);
            assert!(value.starts_with("=sha256/") && value.len() == 72, "{value}");
        }
        // Whoever is called like a digest is not taken for one.
        assert_eq!(tag_value("=sha256/00"), "=3Dsha256/00");
    }

    #[test]
    fn the_least_recently_used_leaves() {
        let key = |number: u32| {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&number.to_be_bytes());
            key
        };
        let mut held = Held::default();
        let first = held.slot(key(0));
        let second = held.slot(key(1));
        for number in 2..1000 {
            held.slot(key(number));
        }
        assert!(Arc::ptr_eq(&held.slot(key(0)), &first));
        held.slot(key(5000));
        assert_eq!(held.slots.len(), 1000);
        assert!(Arc::ptr_eq(&held.slot(key(0)), &first), "used of late");
        assert!(!Arc::ptr_eq(&held.slot(key(1)), &second), "it left");
        for number in 0..100_000 {
            held.slot(key(number));
        }
        assert_eq!(held.slots.len(), 1000);
    }
}
