//! EC2's own budgets (ec2-facts section 7), and how it says that one is spent.

use super::Bucket;

/// What stands for DescribeSecurityGroups without any filter, id, name or page size.
pub const ALL_GROUPS: &str = "DescribeSecurityGroups, unfiltered";

/// EC2's own bucket of an action, per account and Region. Each request costs one token however many rules it has.
pub fn ec2_bucket(action: &str) -> Bucket {
    let (burst, per_second) = match action {
        ALL_GROUPS => (50, 10),
        "CreateTags" | "DeleteTags" => (100, 10),
        read if read.starts_with("Describe") => (100, 20),
        _ => (50, 5),
    };
    Bucket { burst, per_second }
}

/// EC2's codes for too many requests, and those of others that speak its protocol.
pub fn is_throttling(code: &str) -> bool {
    code == "RequestLimitExceeded"
        || code.starts_with("Throttl")
        || code.starts_with("RequestThrottled")
        || code.starts_with("TooManyRequests")
        || code == "SlowDown"
}
