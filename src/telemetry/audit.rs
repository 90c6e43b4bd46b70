//! The audit stream's lines about attempts at changes that were refused and left no record: one for each, with the
//! target `audit`. Operations have theirs from `operations/audit.rs`, when their outcome is recorded.
//!
//! Whoever may reach the port can be refused any number of times. So there are [`MOST`] lines a second of each kind at
//! most, and what is left out is counted and said in a line of its own; one kind's flood does not hide another's lines.

use std::{
    mem,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior, interval};

/// The most lines of one kind in a second.
pub const MOST: u32 = 100;
const WINDOW: Duration = Duration::from_secs(1);

/// What refused an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "their names say it")]
pub enum Kind {
    Authentication,
    Policy,
    RateLimit,
    Validation,
    Capacity,
    State,
    Ec2,
    Ledger,
    Deadline,
    Fault,
}

/// One attempt. There is nothing of the request in it but its method, and nothing of the credential but whose it is.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "as in the line of the call")]
pub struct Attempt<'a> {
    pub kind: Kind,
    pub rpc: &'a str,
    pub code: &'static str,
    pub reason: &'a str,
    pub request_id: &'a str,
    /// The caller's id, if it is known.
    pub principal: Option<&'a str>,
    pub client: Option<IpAddr>,
}

/// The bounds of the stream.
#[derive(Debug)]
pub struct Audit {
    windows: Mutex<[Window; Kind::ALL.len()]>,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    began: Instant,
    written: u32,
    left_out: u64,
}

// === impl Kind ===

impl Kind {
    const ALL: [Self; 10] = [
        Self::Authentication,
        Self::Policy,
        Self::RateLimit,
        Self::Validation,
        Self::Capacity,
        Self::State,
        Self::Ec2,
        Self::Ledger,
        Self::Deadline,
        Self::Fault,
    ];

    /// Of an error, by its reason on the wire. None: there is a record that it is about (OUTCOME_UNKNOWN), or it is of no
    /// change.
    pub fn of(reason: &str) -> Option<Self> {
        Some(match reason {
            "CREDENTIALS_MISSING"
            | "CREDENTIALS_INVALID"
            | "CREDENTIALS_EXPIRED"
            | "CREDENTIALS_UNVERIFIABLE" => Self::Authentication,
            "ACCESS_DENIED" => Self::Policy,
            "RATE_LIMITED" => Self::RateLimit,
            "INVALID_REQUEST"
            | "REQUEST_TOO_LARGE"
            | "TARGET_NOT_CONFIGURED"
            | "IDEMPOTENCY_KEY_REUSED"
            | "UNIMPLEMENTED" => Self::Validation,
            "OVERLOADED" | "DRAINING" | "EC2_BUDGET_EXHAUSTED" => Self::Capacity,
            "GROUP_IN_DOUBT"
            | "OPERATION_IN_PROGRESS"
            | "OPERATION_NOT_FOUND"
            | "OPERATION_SETTLED" => Self::State,
            // What EC2 said no to has a record. Not so what it was not asked for: dry runs, and what its reads, its
            // throttling or our credentials there stand against.
            "INVALID_GROUP_NOT_FOUND"
            | "INVALID_SECURITY_GROUP_RULE_ID_NOT_FOUND"
            | "INVALID_PERMISSION_NOT_FOUND"
            | "INVALID_PERMISSION_DUPLICATE"
            | "INVALID_GROUP_DUPLICATE"
            | "RULES_PER_SECURITY_GROUP_LIMIT_EXCEEDED"
            | "DEPENDENCY_VIOLATION"
            | "CANNOT_DELETE"
            | "EC2_UNAUTHORIZED_OPERATION"
            | "EC2_CREDENTIALS_UNAVAILABLE"
            | "EC2_REQUEST_LIMIT_EXCEEDED"
            | "EC2_REJECTED"
            | "EC2_UNAVAILABLE" => Self::Ec2,
            "LEDGER_UNAVAILABLE" => Self::Ledger,
            // One that ran out of time between its intent and its request has a record, too.
            "DEADLINE_EXCEEDED" => Self::Deadline,
            "INTERNAL" => Self::Fault,
            _ => return None,
        })
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Authentication => "authentication",
            Self::Policy => "policy",
            Self::RateLimit => "rate limit",
            Self::Validation => "validation",
            Self::Capacity => "capacity",
            Self::State => "state",
            Self::Ec2 => "EC2",
            Self::Ledger => "ledger",
            Self::Deadline => "deadline",
            Self::Fault => "fault",
        }
    }
}

// === impl Audit ===

impl Default for Audit {
    fn default() -> Self {
        let window = Window { began: Instant::now(), written: 0, left_out: 0 };
        Self { windows: Mutex::new([window; Kind::ALL.len()]) }
    }
}

impl Audit {
    /// Writes the attempt's line, or counts it.
    pub fn refused(&self, attempt: Attempt<'_>) {
        let now = Instant::now();
        let mut windows = self.windows();
        let Some(window) = windows.get_mut(attempt.kind as usize) else { return };
        let left_out = window.turn(now);
        let fits = window.written < MOST;
        if fits {
            window.written += 1;
        } else {
            window.left_out += 1;
        }
        drop(windows);
        tell(attempt.kind, left_out);
        if fits {
            let Attempt { kind, rpc, code, reason, request_id, principal, client } = attempt;
            tracing::info!(
                target: "audit",
                by = kind.as_str(),
                rpc,
                code,
                reason,
                request_id,
                principal,
                client = client.map(tracing::field::display),
                "refused"
            );
        }
    }

    /// Says what was left out when nothing else comes, for ever.
    pub async fn keep_telling(&self) {
        let mut ticks = interval(WINDOW);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.tell_all();
        }
    }

    fn tell_all(&self) {
        let now = Instant::now();
        let counts = self.windows().each_mut().map(|window| window.turn(now));
        Kind::ALL.into_iter().zip(counts).for_each(|(kind, left_out)| tell(kind, left_out));
    }

    fn windows(&self) -> MutexGuard<'_, [Window; Kind::ALL.len()]> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Audit {
    /// The last count is not lost with the server.
    fn drop(&mut self) {
        let windows = self.windows.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (kind, window) in Kind::ALL.into_iter().zip(windows) {
            tell(kind, mem::take(&mut window.left_out));
        }
    }
}

impl Window {
    /// Begins the next window if this one is over; what was left out in it.
    fn turn(&mut self, now: Instant) -> u64 {
        if now.duration_since(self.began) < WINDOW {
            return 0;
        }
        (self.began, self.written) = (now, 0);
        mem::take(&mut self.left_out)
    }
}

fn tell(kind: Kind, left_out: u64) {
    if left_out > 0 {
        tracing::warn!(target: "audit", by = kind.as_str(), left_out, "refused attempts left out");
    }
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use super::*;

    /// What was written, line by line.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        fn count(&self, what: &str) -> usize {
            let bytes = self.0.lock().unwrap();
            std::str::from_utf8(&bytes).unwrap().lines().filter(|line| line.contains(what)).count()
        }
    }

    fn attempt(kind: Kind) -> Attempt<'static> {
        let (rpc, code, reason) = ("/s/m", "UNAUTHENTICATED", "CREDENTIALS_INVALID");
        Attempt { kind, rpc, code, reason, request_id: "r", principal: None, client: None }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_counted_and_hides_nothing_else() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone());
        let _guard = tracing::subscriber::set_default(subscriber.finish());
        let audit = Audit::default();
        for _ in 0..1000 {
            audit.refused(attempt(Kind::Authentication));
        }
        let others = || Kind::ALL.into_iter().filter(|kind| *kind != Kind::Authentication);
        others().for_each(|kind| audit.refused(attempt(kind)));
        assert_eq!(lines.count("\"by\":\"authentication\""), 100);
        for kind in others() {
            assert_eq!(lines.count(&format!("\"by\":\"{}\"", kind.as_str())), 1);
        }
        // Said as soon as the second is over, although nothing comes any more.
        let _ = tokio::time::timeout(Duration::from_millis(2500), audit.keep_telling()).await;
        assert_eq!(lines.count("\"left_out\":900"), 1);
        assert_eq!(lines.count("left_out"), 1);
        for _ in 0..101 {
            audit.refused(attempt(Kind::Authentication));
        }
        assert_eq!(lines.count("refused\""), 209);
        tokio::time::advance(WINDOW).await;
        // Or with the next line.
        audit.refused(attempt(Kind::Authentication));
        assert_eq!(lines.count("\"left_out\":1}"), 1);
        for _ in 0..102 {
            audit.refused(attempt(Kind::Authentication));
        }
        drop(audit);
        assert_eq!(lines.count("\"left_out\":3}"), 1);
    }
}
