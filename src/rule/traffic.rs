//! Protocol and ports in normal form.

use std::fmt;

use super::Violation;

/// An IP protocol: a number 0..=255, or all of them. A name and its number are one protocol (ec2-facts R17).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Protocol(i16);

impl Protocol {
    /// Every protocol, `-1`.
    pub const ALL: Self = Self(-1);
    /// TCP, 6.
    pub const TCP: Self = Self(6);
    /// UDP, 17.
    pub const UDP: Self = Self(17);
    /// ICMP for IPv4, 1.
    pub const ICMP: Self = Self(1);
    /// ICMP for IPv6, 58.
    pub const ICMPV6: Self = Self(58);

    /// A name (`tcp`, `udp`, `icmp`, `icmpv6`, in any case: R18), a number, or `-1`. The literal `all` is not one.
    pub fn parse(text: &str) -> Option<Self> {
        const NAMES: [(&str, Protocol); 4] = [
            ("tcp", Protocol::TCP),
            ("udp", Protocol::UDP),
            ("icmp", Protocol::ICMP),
            ("icmpv6", Protocol::ICMPV6),
        ];
        if text == "-1" {
            return Some(Self::ALL);
        }
        if let Some((_, protocol)) = NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text))
        {
            return Some(*protocol);
        }
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        text.parse::<u8>().ok().map(|number| Self(number.into()))
    }

    /// The number; -1 for all.
    pub fn number(self) -> i16 {
        self.0
    }

    /// How ports are to be read with this protocol.
    pub fn ports(self) -> Ports {
        match self {
            Self::TCP | Self::UDP => Ports::Range,
            Self::ICMP | Self::ICMPV6 => Ports::TypeAndCode,
            _ => Ports::None,
        }
    }
}

impl fmt::Display for Protocol {
    /// As EC2 describes it: the name of the four that have one, else the number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TCP => f.write_str("tcp"),
            Self::UDP => f.write_str("udp"),
            Self::ICMP => f.write_str("icmp"),
            Self::ICMPV6 => f.write_str("icmpv6"),
            Self(number) => write!(f, "{number}"),
        }
    }
}

impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the two port fields mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// First and last port.
    Range,
    /// ICMP type and code.
    TypeAndCode,
    /// Nothing: ports are ignored and not part of a rule's identity (R16; design.md section 7 for R19).
    None,
}

/// Protocol and ports in normal form: -1 and -1 where the protocol has no ports or all types and codes are meant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Traffic {
    protocol: Protocol,
    from: i32,
    to: i32,
}

/// EC2's code for nearly every bad value.
const INVALID_VALUE: &str = "InvalidParameterValue";

impl Traffic {
    /// Every protocol and port.
    pub const ALL: Self = Self { protocol: Protocol::ALL, from: -1, to: -1 };

    /// Checks ports against the protocol (ec2-facts section 2). The violations name `from_port` and `to_port`.
    pub fn new(
        protocol: Protocol,
        from: Option<i32>,
        to: Option<i32>,
    ) -> Result<Self, Vec<Violation>> {
        let both = match (protocol.ports(), from, to) {
            (Ports::None, _, _) => return Ok(Self { protocol, from: -1, to: -1 }),
            (Ports::TypeAndCode, None, None) if protocol == Protocol::ICMPV6 => (-1, -1),
            (_, Some(from), Some(to)) => (from, to),
            (kind, from, _) => {
                let field = if from.is_none() { "from_port" } else { "to_port" };
                return Err(vec![Violation::new(field, INVALID_VALUE, both_needed(kind))]);
            }
        };
        let violations = match protocol.ports() {
            Ports::Range => check_range(both),
            Ports::TypeAndCode => check_type_and_code(both),
            Ports::None => Vec::new(),
        };
        if violations.is_empty() {
            Ok(Self { protocol, from: both.0, to: both.1 })
        } else {
            Err(violations)
        }
    }

    /// What EC2 answered, which is normalized and not checked: it is EC2 that decides what exists.
    pub fn from_ec2(protocol: Protocol, from: Option<i32>, to: Option<i32>) -> Self {
        match protocol.ports() {
            Ports::None => Self { protocol, from: -1, to: -1 },
            Ports::Range | Ports::TypeAndCode => {
                Self { protocol, from: from.unwrap_or(-1), to: to.unwrap_or(-1) }
            }
        }
    }

    /// The protocol.
    pub fn protocol(self) -> Protocol {
        self.protocol
    }

    /// First port or ICMP type; -1 for none or all. The form in which a rule is described by itself (R16).
    pub fn from_port(self) -> i32 {
        self.from
    }

    /// Last port or ICMP code; -1 for none or all.
    pub fn to_port(self) -> i32 {
        self.to
    }

    /// The ports as a permission has them: absent for a protocol without ports (R16).
    pub fn permission_ports(self) -> Option<(i32, i32)> {
        (self.protocol.ports() != Ports::None).then_some((self.from, self.to))
    }

    /// Whether everything that `other` allows is allowed by this, too.
    pub fn covers(self, other: Self) -> bool {
        if self.protocol == Protocol::ALL {
            return true;
        }
        self.protocol == other.protocol
            && match self.protocol.ports() {
                Ports::Range => self.from <= other.from && other.to <= self.to,
                Ports::TypeAndCode => {
                    (self.from == -1 || self.from == other.from)
                        && (self.to == -1 || self.to == other.to)
                }
                Ports::None => true,
            }
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, from, to } = *self;
        match protocol.ports() {
            Ports::Range => write!(f, "{protocol} {from}-{to}"),
            Ports::TypeAndCode if (from, to) == (-1, -1) => write!(f, "{protocol} all types"),
            Ports::TypeAndCode if to == -1 => write!(f, "{protocol} type {from}"),
            Ports::TypeAndCode => write!(f, "{protocol} type {from} code {to}"),
            Ports::None if protocol == Protocol::ALL => f.write_str("all protocols"),
            Ports::None => write!(f, "protocol {protocol}"),
        }
    }
}

impl fmt::Debug for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn both_needed(kind: Ports) -> &'static str {
    match kind {
        Ports::Range => {
            "Invalid value for portRange. Must specify both from and to ports with TCP/UDP."
        }
        Ports::TypeAndCode | Ports::None => {
            "Invalid value for portRange. Must specify both type (from port) and code (to port) with ICMP."
        }
    }
}

fn check_range((from, to): (i32, i32)) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (field, name, port) in [("from_port", "from", from), ("to_port", "to", to)] {
        if !(0..=65535).contains(&port) {
            let message = format!("TCP/UDP ({name}) port ({port}) out of range");
            violations.push(Violation::new(field, INVALID_VALUE, message));
        }
    }
    if violations.is_empty() && from > to {
        let message = format!("Invalid TCP/UDP port range ({from}:{to})");
        violations.push(Violation::new("to_port", INVALID_VALUE, message));
    }
    violations
}

fn check_type_and_code((kind, code): (i32, i32)) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (field, name, value) in [("from_port", "type", kind), ("to_port", "code", code)] {
        if !(-1..=255).contains(&value) {
            let message = format!("ICMP {name} ({value}) out of range");
            violations.push(Violation::new(field, INVALID_VALUE, message));
        }
    }
    if violations.is_empty() && kind == -1 && code != -1 {
        let message = format!("ICMP code ({code}) must be -1 when the type is -1 (all types)");
        violations.push(Violation::new("to_port", INVALID_VALUE, message));
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(protocol: &str, from: i32, to: i32) -> Traffic {
        Traffic::new(Protocol::parse(protocol).unwrap(), Some(from), Some(to)).unwrap()
    }

    #[test]
    fn r17_r18_names_and_numbers_in_any_case_are_one_protocol() {
        for (a, b) in [("tcp", "6"), ("UDP", "17"), ("Icmp", "1"), ("icmpv6", "58")] {
            assert_eq!(Protocol::parse(a), Protocol::parse(b));
            assert_eq!(Protocol::parse(b).unwrap().to_string(), a.to_lowercase());
        }
        assert_eq!(Protocol::parse("47").unwrap().to_string(), "47");
        for bad in ["all", "esp", "", "-2", "256", "+6", " 6", "6.0"] {
            assert_eq!(Protocol::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn ports_without_meaning_are_dropped() {
        for ports in [(None, None), (Some(0), Some(0)), (Some(9), None)] {
            for protocol in ["-1", "47"] {
                let protocol = Protocol::parse(protocol).unwrap();
                let traffic = Traffic::new(protocol, ports.0, ports.1).unwrap();
                assert_eq!((traffic.from_port(), traffic.to_port()), (-1, -1));
                assert_eq!(traffic.permission_ports(), None);
            }
        }
    }

    #[test]
    fn bad_ports_are_named() {
        let cases = [
            ("tcp", None, None, "from_port"),
            ("tcp", Some(1), None, "to_port"),
            ("udp", Some(-1), Some(-1), "from_port"),
            ("tcp", Some(1), Some(65536), "to_port"),
            ("tcp", Some(80), Some(70), "to_port"),
            ("icmp", None, None, "from_port"),
            ("icmp", Some(256), Some(0), "from_port"),
            ("icmp", Some(-1), Some(0), "to_port"),
            ("icmpv6", Some(1), None, "to_port"),
        ];
        for (protocol, from, to, field) in cases {
            let violations =
                Traffic::new(Protocol::parse(protocol).unwrap(), from, to).unwrap_err();
            assert_eq!(violations[0].field, field, "{protocol} {from:?} {to:?}");
            assert_eq!(violations[0].code, "InvalidParameterValue");
        }
        assert!(Traffic::new(Protocol::ICMPV6, None, None).is_ok());
    }

    #[test]
    fn wider_traffic_covers_narrower() {
        assert!(Traffic::ALL.covers(traffic("tcp", 1, 2)));
        assert!(traffic("tcp", 80, 90).covers(traffic("tcp", 80, 80)));
        assert!(!traffic("tcp", 80, 90).covers(traffic("tcp", 79, 90)));
        assert!(!traffic("tcp", 80, 90).covers(traffic("udp", 80, 90)));
        assert!(traffic("icmp", 8, -1).covers(traffic("icmp", 8, 0)));
        assert!(!traffic("icmp", 8, 0).covers(traffic("icmp", 8, -1)));
        assert!(traffic("icmp", -1, -1).covers(traffic("icmp", 3, 4)));
    }
}
