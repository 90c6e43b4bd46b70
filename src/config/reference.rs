//! The reference of all settings, as Markdown: `docs/configuration.md` is this text.

use std::fmt::Write as _;

use super::keys::{
    self, JWT_ISSUER_MEMBERS, JWT_ISSUERS, RATE_LIMIT_MEMBERS, RATE_LIMITS, STATIC_TOKEN_MEMBERS,
    STATIC_TOKENS, TARGET_MEMBERS, TARGETS, Takes,
};

const HEAD: &str = "\
# Configuration

<!-- Generated from the table of settings: portcullis check-config --reference > docs/configuration.md -->

Every setting has a default, and three places override it, each one those before it:

1. the TOML file that `--config FILE` or `PORTCULLIS_CONFIG` names;
2. the environment;
3. flags.

A setting's name in the file gives the other two: `log_level` is `PORTCULLIS_LOG_LEVEL` and `--log-level`. A name that
is no setting is refused wherever it stands, and so is a setting that does nothing with the backend in use. Variables
that Kubernetes sets for a Service named `portcullis` are left alone.

`portcullis check-config` takes what `portcullis serve` takes, and prints the configuration in effect with the place
that each value comes from, or everything that is wrong with it. Secrets are not printed.

Exit codes: 0 after a drain (SIGTERM or SIGINT); 1 if it cannot start, or calls were still in work at the end
of `drain_timeout_ms` or at a second signal; 64 if the configuration or the command line is wrong.
";

const TARGETS_HEAD: &str = "
The accounts and Regions that the EC2 backend serves. In the file only, one table for each account:

```toml
[[ec2_targets]]
account_id = \"123456789012\"
regions = [\"us-east-1\", \"eu-west-1\"]
role_arn = \"arn:aws:iam::123456789012:role/portcullis\"
```

| member | takes | required | meaning |
| --- | --- | --- | --- |
";

const ISSUERS_HEAD: &str = "
The issuers whose JWTs are taken. In the file only, one table for each (docs/authentication.md):

```toml
[[jwt_issuers]]
issuer = \"https://login.example.com\"
audiences = [\"portcullis\"]
jwks_url = \"https://login.example.com/.well-known/jwks.json\"
groups_claims = [\"groups\"]
```

| member | takes | required | meaning |
| --- | --- | --- | --- |
";

const TOKENS_HEAD: &str = "
Tokens for small set-ups; `portcullis token new` makes one. In the file only, one table for each:

```toml
[[static_tokens]]
name = \"deployer\"
sha256 = \"0000000000000000000000000000000000000000000000000000000000000000\"
groups = [\"platform\"]
```

| member | takes | required | meaning |
| --- | --- | --- | --- |
";

const RATE_LIMITS_HEAD: &str = "
Limits of some callers that replace everyone's. In the file only, one table for each:

```toml
[[rate_limits]]
group = \"deployers\"
class = \"mutate\"
per_second = 5
burst = 50
```

| member | takes | required | meaning |
| --- | --- | --- | --- |
";

/// The whole text.
pub fn reference() -> String {
    let mut text = HEAD.to_owned();
    for (heading, keys) in keys::groups() {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n## {heading}\n");
        for key in keys {
            let default = match key.default {
                "" => "none".to_owned(),
                default => format!("`{default}`"),
            };
            let _ = write!(
                text,
                "\n### `{}`\n\n{}\n\n- takes: {}\n- default: {default}\n\
                 - environment: `{}`\n- flag: `{}`\n",
                key.name,
                key.doc,
                key.takes.describe(),
                key.env(),
                usage(key),
            );
            if let Some(variable) = key.standard() {
                let _ = writeln!(text, "- else: `{variable}` in the environment");
            }
            if let Some(backend) = key.only_with {
                let _ = writeln!(text, "- only with: `backend = \"{backend}\"`");
            }
        }
    }
    for (table, head, members) in [
        (TARGETS, TARGETS_HEAD, TARGET_MEMBERS),
        (JWT_ISSUERS, ISSUERS_HEAD, JWT_ISSUER_MEMBERS),
        (STATIC_TOKENS, TOKENS_HEAD, STATIC_TOKEN_MEMBERS),
        (RATE_LIMITS, RATE_LIMITS_HEAD, RATE_LIMIT_MEMBERS),
    ] {
        let _ = write!(text, "\n## `[[{table}]]`\n{head}");
        for (name, takes, required, doc) in members {
            let required = if *required { "yes" } else { "no" };
            let _ = writeln!(text, "| `{name}` | {takes} | {required} | {doc} |");
        }
    }
    text
}

fn usage(key: &keys::Key) -> String {
    match key.takes {
        Takes::Switch if key.default == "false" => format!("--{}", key.flag()),
        Takes::Switch => format!("--{}=false", key.flag()),
        takes => format!("--{} {}", key.flag(), takes.placeholder()),
    }
}
