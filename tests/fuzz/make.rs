//! Makes requests: most are careful, of parts that fit, so that what is behind the checks is reached, too.

use portcullis::api::proto::v1;
use rand::{Rng, RngExt, rngs::StdRng, seq::IndexedRandom};

/// Good values and bad ones.
pub type Values = (&'static [&'static str], &'static [&'static str]);

pub const GROUPS: Values = (
    &[
        "sg-0d000000000000001",
        "sg-0d000000000000002",
        "sg-0e000000000000001",
        "sg-0e000000000000002",
    ],
    &["sg-00000000", "sg-0123456789abcdef0", "sg-", "db", ""],
);
pub const NAMES: Values = (&["web", "db", "DB"], &["default", "new", "sg-x", "é", "", "a&b", "x "]);
pub const VPCS: Values = (
    &["vpc-0d000000000000000", "vpc-0e000000000000000", "vpc-0f000000000000000"],
    &["vpc-00000000", "vpc", ""],
);
pub const PROTOCOLS: Values = (
    &["tcp", "tcp", "tcp", "udp", "6", "17", "TCP", "-1", "47"],
    &["icmp", "icmpv6", "1", "58", "all", "256", "-2", "", " tcp", "esp"],
);
pub const CIDRS: Values = (
    &["10.0.0.0/8", "10.1.2.3/8", "0.0.0.0/0", "10.0.0.2/32", "192.168.0.0/16"],
    &["10.0.0.0/33", "10.0.0.0", "10.0.0.256/8", "::/0", "", "010.0.0.0/8", "10.0.0.0/08"],
);
pub const CIDRS6: Values = (
    &["::/0", "2001:db8::/32", "2001:DB8:0::1/32"],
    &["::1/129", "10.0.0.0/8", "::ffff:10.0.0.1/128"],
);
pub const LISTS: Values = (&["pl-0a000000000000001"], &["pl-0a000000000000002", "pl-", "x", ""]);
const ACCOUNTS: Values = (&["123456789012"], &["210987654321", "1", "12345678901x"]);
pub const TEXTS: Values = (
    &["internal https", "x", "a thing (1)", "k=v"],
    &["", "é", "a'b", "a&b", "\u{0}", "\u{1f600}", "  "],
);
const TOKENS: Values = (&["ZzEgc2ctMDAwMDAwMDE", "cjEgc2ctMSBzZ3ItMQ"], &["", "x", "\u{0}"]);
const FILTERS: Values = (
    &[
        "group-id",
        "group-name",
        "vpc-id",
        "description",
        "owner-id",
        "tag:Name",
        "tag-key",
        "ip-permission.cidr",
        "egress.ip-permission.from-port",
        "egress.ip-permission.protocol",
    ],
    &["security-group-rule-id", "nonsense", ""],
);
const FILTER_VALUES: Values =
    (&["*", "web", "w?b", "sg-0d000000000000001", "443", "tcp", "\\*", "**a*"], &["", "sg-", "\\"]);
const PORTS: &[i32] = &[0, 1, 8, 22, 80, 90, 443, 8443, 65535];
const BAD_PORTS: &[i32] = &[65536, -1, -2, i32::MAX, i32::MIN];

/// One of these.
pub fn pick<T: Copy>(random: &mut StdRng, from: &[T]) -> T {
    *from.choose(random).unwrap()
}

/// True about once in `n`.
pub fn once_in(random: &mut StdRng, n: u32) -> bool {
    random.random_range(0..n) == 0
}

/// Makes the parts of one request.
pub struct Maker<'a> {
    pub random: &'a mut StdRng,
    /// Makes what is right, as far as it can tell.
    pub careful: bool,
}

impl<'a> Maker<'a> {
    pub fn new(random: &'a mut StdRng) -> Self {
        let careful = !once_in(random, 3);
        Self { random, careful }
    }

    pub fn once_in(&mut self, n: u32) -> bool {
        once_in(self.random, n)
    }

    /// Nearly always.
    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if !self.careful && self.once_in(8) { None } else { Some(make(self)) }
    }

    /// Nearly never.
    fn rarely<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if !self.careful && self.once_in(8) { Some(make(self)) } else { None }
    }

    /// Mostly one or two, at times none, at times too many.
    fn count(&mut self) -> usize {
        if self.careful {
            return self.random.random_range(1..3);
        }
        match self.random.random_range(0..2000_u32) {
            0 => 1001,
            1..40 => self.random.random_range(0..70),
            40..400 => 0,
            400..1400 => 1,
            _ => self.random.random_range(2..5),
        }
    }

    fn many<T>(&mut self, make: impl Fn(&mut Self) -> T) -> Vec<T> {
        (0..self.count()).map(|_| make(self)).collect()
    }

    pub fn of(&mut self, (good, bad): Values) -> String {
        match self.random.random_range(0..40_u32) {
            0 if !self.careful => self.text(),
            1..20 if !self.careful => pick(self.random, bad).to_owned(),
            _ => pick(self.random, good).to_owned(),
        }
    }

    /// A text that could be anything.
    pub fn text(&mut self) -> String {
        if self.careful {
            return pick(self.random, TEXTS.0).to_owned();
        }
        match self.random.random_range(0..30_u32) {
            0 => "x".repeat(self.random.random_range(0..600)),
            1 => {
                (0..self.random.random_range(0..20)).map(|_| self.random.random::<char>()).collect()
            }
            _ => pick(self.random, TEXTS.1).to_owned(),
        }
    }

    pub fn port(&mut self) -> i32 {
        match self.random.random_range(0..20_u32) {
            0 if !self.careful => self.random.random(),
            1..5 if !self.careful => pick(self.random, BAD_PORTS),
            _ => pick(self.random, PORTS),
        }
    }

    /// The first and the last port.
    pub fn ports(&mut self) -> (i32, i32) {
        let (a, b) = (self.port(), self.port());
        match self.random.random_range(0..4_u32) {
            0 if self.careful => (a.min(b), a.max(b)),
            0 => (a, b),
            _ => (a, a),
        }
    }

    pub fn cidr(&mut self) -> String {
        if self.once_in(2) {
            let octet: u8 = self.random.random();
            return format!("10.{octet}.0.0/{}", self.random.random_range(8..25_u8));
        }
        self.of(CIDRS)
    }

    /// A rule id: one that is known, or nonsense.
    pub fn rule_id(&mut self, known: &[String]) -> String {
        const BAD: &[&str] = &["sgr-00000000", "sgr-", "sgr-0123456789abcdef01", "10.0.0.0/8"];
        match self.random.random_range(0..10_u32) {
            0 if !self.careful => self.text(),
            1..3 if !self.careful => pick(self.random, BAD).to_owned(),
            _ => known.choose(self.random).cloned().unwrap_or_default(),
        }
    }

    fn description(&mut self) -> Option<String> {
        if self.once_in(3) { Some(self.text()) } else { None }
    }

    pub fn permission(&mut self) -> v1::IpPermission {
        let ports = self.maybe(Self::ports);
        let mut permission = v1::IpPermission {
            ip_protocol: self.maybe(|make| make.of(PROTOCOLS)),
            from_port: ports.map(|(from, _)| from),
            to_port: ports.and_then(|(_, to)| self.maybe(|_| to)),
            ..Default::default()
        };
        permission.ip_ranges = self.many(|make| v1::IpRange {
            cidr_ip: make.maybe(Self::cidr),
            description: make.description(),
        });
        if self.once_in(4) {
            permission.ipv6_ranges = self.many(|make| v1::Ipv6Range {
                cidr_ipv6: make.maybe(|make| make.of(CIDRS6)),
                description: make.description(),
            });
        }
        if self.once_in(6) {
            permission.prefix_list_ids = self.many(|make| v1::PrefixListId {
                prefix_list_id: make.maybe(|make| make.of(LISTS)),
                description: make.description(),
            });
        }
        if self.once_in(4) {
            permission.user_id_group_pairs = self.many(|make| v1::UserIdGroupPair {
                group_id: make.maybe(|make| make.of(GROUPS)),
                group_name: make.rarely(|make| make.of(NAMES)),
                user_id: make.rarely(|make| make.of(ACCOUNTS)),
                vpc_id: make.rarely(|make| make.of(VPCS)),
                peering_status: make.rarely(Self::text),
                vpc_peering_connection_id: make.rarely(Self::text),
                description: make.description(),
            });
        }
        permission
    }

    fn tags(&mut self) -> Vec<v1::Tag> {
        self.many(|make| v1::Tag { key: make.maybe(Self::text), value: make.maybe(Self::text) })
    }

    fn specifications(&mut self, kind: &str) -> Vec<v1::TagSpecification> {
        if !self.once_in(6) {
            return Vec::new();
        }
        let kind = kind.to_owned();
        let resource_type = self.maybe(|make| if make.careful { kind } else { make.text() });
        vec![v1::TagSpecification { resource_type, tags: self.tags() }]
    }

    fn filters(&mut self) -> Vec<v1::Filter> {
        self.many(|make| v1::Filter {
            name: make.maybe(|make| make.of(FILTERS)),
            values: make.many(|make| make.of(FILTER_VALUES)),
        })
    }

    /// Permissions or rule ids; carelessly both or neither.
    fn selection(&mut self, known: &[String]) -> (Vec<v1::IpPermission>, Vec<String>) {
        let way = self.random.random_range(0..20_u32);
        let (both, by_id) = (!self.careful && way == 0, way < 8);
        let ids = by_id || both;
        (
            if by_id && !both { Vec::new() } else { self.many(Self::permission) },
            if ids { (0..self.count()).map(|_| self.rule_id(known)).collect() } else { Vec::new() },
        )
    }
}

/// A request of one of the RPCs.
#[derive(Clone, Debug)]
pub enum Message {
    RevokeEgress(v1::RevokeEgressRequest),
    RevokeIngress(v1::RevokeIngressRequest),
    AuthorizeEgress(v1::AuthorizeEgressRequest),
    AuthorizeIngress(v1::AuthorizeIngressRequest),
    DescribeRules(v1::DescribeSecurityGroupRulesRequest),
    DescribeGroups(v1::DescribeSecurityGroupsRequest),
    Create(v1::CreateSecurityGroupRequest),
    Delete(v1::DeleteSecurityGroupRequest),
}

/// The scalars that the requests on rules have besides.
macro_rules! scalars {
    ($make:ident, $request:ident) => {
        if !$make.careful && $make.once_in(10) {
            $request.cidr_ip = $make.rarely(Maker::cidr);
            $request.from_port = $make.rarely(Maker::port);
            $request.to_port = $make.rarely(Maker::port);
            $request.ip_protocol = $make.maybe(|make| make.of(PROTOCOLS));
            $request.source_security_group_name = $make.rarely(|make| make.of(NAMES));
            $request.source_security_group_owner_id = $make.rarely(|make| make.of(ACCOUNTS));
        }
    };
}

/// `known`: ids of rules that exist, and permissions that name some of them.
#[allow(deprecated, reason = "the contract has them")]
pub fn message(random: &mut StdRng, known: &[String], existing: &[v1::IpPermission]) -> Message {
    let make = &mut Maker::new(random);
    let group_id = make.maybe(|make| make.of(GROUPS));
    let dry_run = if make.once_in(15) { Some(true) } else { None };
    match make.random.random_range(0..14_u32) {
        0..4 => {
            let (mut ip_permissions, security_group_rule_ids) = make.selection(known);
            // What is there: random rules seldom are.
            if !ip_permissions.is_empty() && make.once_in(2) {
                ip_permissions = existing.choose(make.random).cloned().into_iter().collect();
            }
            let mut request = v1::RevokeEgressRequest {
                group_id,
                ip_permissions,
                security_group_rule_ids,
                dry_run,
                on_unknown: make.rarely(|make| make.random.random_range(-1..5)).unwrap_or(0),
                ..Default::default()
            };
            scalars!(make, request);
            Message::RevokeEgress(request)
        }
        4..6 => {
            let (ip_permissions, security_group_rule_ids) = make.selection(known);
            let mut request = v1::RevokeIngressRequest {
                group_id,
                group_name: make.rarely(|make| make.of(NAMES)),
                ip_permissions,
                security_group_rule_ids,
                dry_run,
                ..Default::default()
            };
            scalars!(make, request);
            Message::RevokeIngress(request)
        }
        6..9 => {
            let mut request = v1::AuthorizeEgressRequest {
                group_id,
                ip_permissions: make.many(Maker::permission),
                tag_specifications: make.specifications("security-group-rule"),
                dry_run,
                ..Default::default()
            };
            scalars!(make, request);
            Message::AuthorizeEgress(request)
        }
        9 => {
            let mut request = v1::AuthorizeIngressRequest {
                group_id,
                group_name: make.rarely(|make| make.of(NAMES)),
                ip_permissions: make.many(Maker::permission),
                tag_specifications: make.specifications("security-group-rule"),
                dry_run,
                ..Default::default()
            };
            scalars!(make, request);
            Message::AuthorizeIngress(request)
        }
        10 => Message::DescribeRules(v1::DescribeSecurityGroupRulesRequest {
            filters: make.filters(),
            security_group_rule_ids: (0..make.count()).map(|_| make.rule_id(known)).collect(),
            next_token: make.rarely(|make| make.of(TOKENS)),
            max_results: make.rarely(Maker::port),
            dry_run,
            ..Default::default()
        }),
        11 => Message::DescribeGroups(v1::DescribeSecurityGroupsRequest {
            filters: make.filters(),
            group_ids: make.many(|make| make.of(GROUPS)),
            group_names: make.rarely(|make| vec![make.of(NAMES)]).unwrap_or_default(),
            next_token: make.rarely(|make| make.of(TOKENS)),
            max_results: make.rarely(Maker::port),
            dry_run,
            ..Default::default()
        }),
        12 => Message::Create(v1::CreateSecurityGroupRequest {
            group_name: make.maybe(|make| {
                let number: u8 = make.random.random();
                format!("{}{number}", make.of(NAMES))
            }),
            description: make.maybe(Maker::text),
            vpc_id: make.maybe(|make| make.of(VPCS)),
            tag_specifications: make.specifications("security-group"),
            dry_run,
            ..Default::default()
        }),
        // Seldom a group that exists: the others need them.
        _ => Message::Delete(v1::DeleteSecurityGroupRequest {
            group_id: if make.once_in(20) { group_id } else { Some("sg-00000000".to_owned()) },
            group_name: make.rarely(|make| make.of(NAMES)),
            dry_run,
            ..Default::default()
        }),
    }
}

/// Bytes that are not quite what they were.
pub fn spoil(random: &mut StdRng, bytes: &mut Vec<u8>) {
    for _ in 0..random.random_range(1..4) {
        let place = random.random_range(0..=bytes.len());
        match random.random_range(0..5_u32) {
            0 => bytes.truncate(place),
            1 => bytes.insert(place, random.random()),
            2 if place < bytes.len() => bytes[place] ^= 1 << random.random_range(0..8),
            3 if place < bytes.len() => drop(bytes.remove(place)),
            4 => {
                let from = random.random_range(0..=place);
                let piece = bytes[from..place].to_vec();
                bytes.splice(place..place, piece.into_iter().take(64));
            }
            _ => {
                let mut noise = [0; 8];
                random.fill_bytes(&mut noise);
                bytes.extend(noise);
            }
        }
    }
}
