//! What the sandbox starts with where no state is given: the same at each start, ids and all.
//!
//! Account 123456789012, us-east-1 (the default target):
//!
//! | id | what |
//! | --- | --- |
//! | vpc-0000000000000000d | the default VPC, 172.31.0.0/16 |
//! | sg-0000000000000000d | its group `default` |
//! | sg-000000000000000d1 | `legacy`: egress tcp 443 to 10.0.0.0/8 and 0.0.0.0/0, udp 53, all IPv4; ingress tcp 22 |
//! | vpc-0000000000000000a | a nondefault VPC, 10.0.0.0/16 and IPv6 |
//! | sg-0000000000000000a | its group `default` |
//! | sg-000000000000000a1 | `web`: egress to CIDRs, IPv6, `db`, `cache`, a prefix list and icmp; ingress tcp 80, 443 |
//! | sg-000000000000000a2 | `db`: egress tcp 443 to the prefix lists; ingress tcp 5432 from `web` |
//! | sg-000000000000000a3 | `cache`: one egress rule; ingress tcp 6379 from `web` and from itself |
//! | sg-000000000000000a4 | `stack-owned`: tagged by CloudFormation; all IPv4 and IPv6 out |
//! | pl-00000000000000001 | `internal-networks`, 10 entries |
//! | pl-63a5400a | AWS's own `com.amazonaws.us-east-1.s3` |
//!
//! Account 210987654321, eu-west-1:
//!
//! | id | what |
//! | --- | --- |
//! | vpc-0000000000000000e | the default VPC |
//! | sg-0000000000000000e | its group `default` |
//! | sg-000000000000000e1 | `worker`: tcp 443 and all IPv4 out |
//!
//! A rule's id ends like its group's, then `e` (egress) or `c` (ingress: coming in), then its number:
//! sgr-0000000000000a1e1 is the first egress rule of `web`.

/// A state in the form that LoadState takes.
pub const SAMPLE: &str = include_str!("sample.json");
