//! The tables that only the file can hold, and what may be in each.

/// The tables that only the file can hold.
pub const TABLES: &[&str] = &[TARGETS, JWT_ISSUERS, STATIC_TOKENS, RATE_LIMITS];

/// The accounts and Regions that are served: `[[ec2_targets]]`.
pub const TARGETS: &str = "ec2_targets";

/// A member of a target: its name, what it takes, whether it is required, and what it is.
pub const TARGET_MEMBERS: &[(&str, &str, bool, &str)] = &[
    ("account_id", "12 digits", true, "The account. Each account is listed once."),
    ("regions", "a list of Region codes", true, "The Regions of the account that are served."),
    (
        "role_arn",
        "a role's ARN",
        false,
        "The role to assume in the account. Without it the process's own credentials are used.",
    ),
    (
        "external_id",
        "text",
        false,
        "The external id that the role's trust policy asks for. A secret: it is never printed.",
    ),
    (
        "session_per_principal",
        "true or false",
        false,
        "Whether each caller's EC2 calls go out under a session of its own, so that CloudTrail names the caller; else `false`. Needs `role_arn` and a trust policy that allows it: see docs/aws-identity.md.",
    ),
];

/// The issuers whose JWTs are taken: `[[jwt_issuers]]`.
pub const JWT_ISSUERS: &str = "jwt_issuers";

/// A member of an issuer: as in [`TARGET_MEMBERS`].
pub const JWT_ISSUER_MEMBERS: &[(&str, &str, bool, &str)] = &[
    ("issuer", "text", true, "What `iss` says, exactly. Each issuer is listed once."),
    (
        "audiences",
        "a list of texts",
        true,
        "`aud` must name one of them. Take names that are this service's alone.",
    ),
    ("jwks_file", "a file", false, "The issuer's keys, a JWK set. This or `jwks_url`."),
    (
        "jwks_url",
        "a URL",
        false,
        "Where the issuer's keys are. https, or http on loopback; redirects are not followed.",
    ),
    (
        "jwks_ca_file",
        "a file",
        false,
        "The CAs that `jwks_url` is verified with, in PEM; else the system's.",
    ),
    (
        "jwks_token_file",
        "a file",
        false,
        "A bearer token to send to `jwks_url`, read anew each time. Kubernetes' API server asks for one.",
    ),
    (
        "algorithms",
        "a list of RS256, RS384, RS512, ES256, ES384, EdDSA",
        false,
        "The signatures that are taken; else all of these. A key must fit, too.",
    ),
    (
        "groups_claims",
        "a list of paths",
        false,
        "Claims that hold groups, such as `groups` or `realm_access.roles`: a text or a list of texts each.",
    ),
    (
        "groups_prefix",
        "text",
        false,
        "Comes before each of the issuer's groups, so that they are not those of another issuer.",
    ),
    ("clock_skew_s", "0 to 300", false, "How far the issuer's clock may be off; else 60."),
];

/// The static tokens: `[[static_tokens]]`.
pub const STATIC_TOKENS: &str = "static_tokens";

/// A member of a static token: as in [`TARGET_MEMBERS`].
pub const STATIC_TOKEN_MEMBERS: &[(&str, &str, bool, &str)] = &[
    (
        "name",
        "text",
        true,
        "The caller. Two tokens may have one name while one replaces the other.",
    ),
    (
        "sha256",
        "64 hexadecimal digits",
        true,
        "The token's digest. The token itself is nowhere here.",
    ),
    ("groups", "a list of texts", false, "The caller's groups."),
];

/// The limits of some callers: `[[rate_limits]]`.
pub const RATE_LIMITS: &str = "rate_limits";

/// A member of a limit: as in [`TARGET_MEMBERS`].
pub const RATE_LIMIT_MEMBERS: &[(&str, &str, bool, &str)] = &[
    ("principal", "a principal's id", false, "The one caller it is for. Either this or `group`."),
    (
        "group",
        "a group's name",
        false,
        "Each caller in the group has this limit for itself. A principal's own limit goes before its groups'; of several groups the first listed counts.",
    ),
    ("class", "`read` or `mutate`", true, "Which calls it counts."),
    ("per_second", "0 to 1000000", true, "How many calls come back in a second. 0: no limit."),
    (
        "burst",
        "1 to 1000000",
        false,
        "How many calls may come at once. Without it as many as come back in a second.",
    ),
];
