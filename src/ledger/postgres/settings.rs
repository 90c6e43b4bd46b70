//! The database's URL: what of libpq's parameters is understood, and what is refused with a reason.

use std::{fmt, path::PathBuf, time::Duration};

use tokio_postgres::config::{Config, Host, SslMode, TargetSessionAttrs};

use super::OpenError;

/// Where the database is, and how it is used.
#[derive(Clone)]
pub struct Settings {
    /// What tokio-postgres needs to know. Its Debug hides the password; ours shows [`Settings::place`] only.
    pub(super) config: Config,
    pub(super) trust: Trust,
    pub(super) root_cert: Option<PathBuf>,
    /// Whether writes are prepared once for each connection, as long as that works.
    pub(super) prepared: bool,
    /// Hosts, ports and database, for messages.
    place: String,
    /// The most connections.
    pub connections: usize,
    /// The longest that one call may take, waiting for a connection included.
    pub bound: Duration,
    /// The longest that a call waits for the shared budget, before this replica goes on with a part of it for itself.
    pub budget_bound: Duration,
}

/// What libpq's `sslmode` comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// No TLS, or TLS with whoever answers.
    Anyone,
    /// A certificate of the CA, whatever its names.
    Ca,
    /// One that is for this host.
    Host,
}

/// libpq's parameters that would be ignored, which is worse than an error.
const NOT_SUPPORTED: &[(&str, &str)] = &[
    ("sslcert", "client certificates for the database are not supported: use a password"),
    ("sslkey", "client certificates for the database are not supported: use a password"),
    ("sslpassword", "client certificates for the database are not supported: use a password"),
    ("sslcrl", "revocation lists for the database are not supported"),
    ("sslcrldir", "revocation lists for the database are not supported"),
    ("sslnegotiation", "it is always PostgreSQL's own"),
    ("gssencmode", "GSSAPI is not supported"),
    ("krbsrvname", "GSSAPI is not supported"),
    ("service", "service files are not read: write host, dbname and user"),
    ("passfile", "password files are not read: write the password into the URL"),
    ("requiressl", "use sslmode=require"),
];

impl Settings {
    /// Reads `postgres://user:password@host:port/database?sslmode=verify-full&sslrootcert=FILE`. No error shows the
    /// URL: it may hold a password.
    pub fn parse(url: &str) -> Result<Self, OpenError> {
        let bad = |text: String| OpenError::Url(text);
        if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
            return Err(bad("it does not begin with postgres://".to_owned()));
        }
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let mut rest = form_urlencoded::Serializer::new(String::new());
        let (mut mode, mut root_cert, mut prepared) = (None, None, true);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if let Some((_, why)) = NOT_SUPPORTED.iter().find(|(refused, _)| *refused == name) {
                return Err(bad(format!("{name}: {why}")));
            }
            match name.as_ref() {
                "sslmode" => mode = Some(value.into_owned()),
                "sslrootcert" if value == "system" => {
                    let file = "/etc/ssl/certs/ca-certificates.crt";
                    return Err(bad(format!(
                        "sslrootcert=system is not supported: name a file, such as {file}"
                    )));
                }
                "sslrootcert" => root_cert = Some(PathBuf::from(value.as_ref())),
                "prepared_statements" => {
                    let other = || bad("prepared_statements is true or false".to_owned());
                    prepared = value.parse().map_err(|_| other())?;
                }
                _ => drop(rest.append_pair(&name, &value)),
            }
        }
        // tokio-postgres reads %20, but takes a plus for a plus.
        let rest = rest.finish().replace('+', "%20");
        let mut config: Config =
            format!("{base}?{rest}").parse().map_err(|error| bad(in_words(&error)))?;
        let (ssl, trust) = match (mode.as_deref(), &root_cert) {
            (Some("disable"), None) => (SslMode::Disable, Trust::Anyone),
            (None | Some("prefer"), None) => (SslMode::Prefer, Trust::Anyone),
            (Some("require"), None) => (SslMode::Require, Trust::Anyone),
            (Some("require" | "verify-ca"), Some(_)) => (SslMode::Require, Trust::Ca),
            (Some("verify-full"), Some(_)) => (SslMode::Require, Trust::Host),
            (Some(mode @ ("verify-ca" | "verify-full")), None) => {
                return Err(bad(format!("sslmode={mode} needs sslrootcert=FILE, the CA in PEM")));
            }
            (None | Some("disable" | "prefer"), Some(_)) => {
                let text = "sslrootcert needs sslmode=verify-full, verify-ca or require: else nothing is checked with it";
                return Err(bad(text.to_owned()));
            }
            (Some("allow"), _) => {
                return Err(
                    bad("sslmode=allow is not supported: use disable or prefer".to_owned()),
                );
            }
            (Some(_), _) => {
                let text = "sslmode is one of disable, prefer, require, verify-ca, verify-full";
                return Err(bad(text.to_owned()));
            }
        };
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(bad("it names no host".to_owned()));
        }
        if config.get_user().is_none() {
            return Err(bad("it names no user".to_owned()));
        }
        config.ssl_mode(ssl);
        // Of several hosts, the one that can be written to.
        if config.get_hosts().len() > 1 {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        if config.get_application_name().is_none() {
            config.application_name("portcullis");
        }
        let bound = Duration::from_secs(5);
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(Duration::from_secs(3));
        }
        config.tcp_user_timeout(bound * 2);
        config.keepalives_idle(Duration::from_secs(10));
        config.keepalives_interval(Duration::from_secs(3));
        config.keepalives_retries(3);
        let place = place(&config);
        Ok(Self {
            config,
            trust,
            root_cert,
            prepared,
            place,
            connections: 16,
            bound,
            budget_bound: Duration::from_secs(1),
        })
    }

    /// Hosts, ports and database, for messages.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Whether what is sent can be read or answered by somebody between here and the database.
    pub fn is_exposed(&self) -> bool {
        let far = |host: &Host| match host {
            Host::Tcp(name) => {
                name != "localhost"
                    && !name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
            }
            Host::Unix(_) => false,
        };
        self.trust == Trust::Anyone && self.config.get_hosts().iter().any(far)
    }
}

fn place(config: &Config) -> String {
    let ports = config.get_ports();
    let hosts = config.get_hosts().iter().enumerate().map(|(at, host)| {
        let port = ports.get(at).or(ports.first()).unwrap_or(&5432);
        match host {
            Host::Tcp(name) => format!("{name}:{port}"),
            Host::Unix(path) => format!("{}:{port}", path.display()),
        }
    });
    let mut hosts: Vec<String> = hosts.collect();
    if hosts.is_empty() {
        hosts.extend(config.get_hostaddrs().iter().map(ToString::to_string));
    }
    let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
    format!("{}/{database}", hosts.join(","))
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("place", &self.place).finish_non_exhaustive()
    }
}

/// An error of tokio-postgres with its causes, and without what the server says of rows.
pub(super) fn in_words(error: &tokio_postgres::Error) -> String {
    if let Some(said) = error.as_db_error() {
        return format!("{} ({})", said.message(), said.code().code());
    }
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let text = inner.to_string();
        if !words.contains(&text) {
            words = format!("{words}: {text}");
        }
        cause = inner.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_mean_what_libpq_means() {
        for (query, ssl, trust) in [
            ("", SslMode::Prefer, Trust::Anyone),
            ("?sslmode=disable", SslMode::Disable, Trust::Anyone),
            ("?sslmode=prefer", SslMode::Prefer, Trust::Anyone),
            ("?sslmode=require", SslMode::Require, Trust::Anyone),
            ("?sslmode=require&sslrootcert=/ca.pem", SslMode::Require, Trust::Ca),
            ("?sslrootcert=/ca.pem&sslmode=verify-ca", SslMode::Require, Trust::Ca),
            ("?sslmode=verify-full&sslrootcert=%2Fca.pem", SslMode::Require, Trust::Host),
        ] {
            let settings = Settings::parse(&format!("postgres://u:p@db.example/x{query}")).unwrap();
            assert_eq!((settings.config.get_ssl_mode(), settings.trust), (ssl, trust), "{query}");
            assert_eq!(settings.root_cert.is_some(), trust != Trust::Anyone, "{query}");
            assert_eq!(settings.is_exposed(), trust == Trust::Anyone, "{query}");
        }
    }

    #[test]
    fn what_would_be_ignored_is_refused_without_the_password() {
        for (url, said) in [
            ("mysql://u:hunter2@h/d", "postgres://"),
            ("postgres://u:hunter2@h/d?sslmode=allow", "allow is not supported"),
            ("postgres://u:hunter2@h/d?sslmode=hunter2", "one of disable"),
            ("postgres://u:hunter2@h/d?sslmode=verify-full", "needs sslrootcert"),
            ("postgres://u:hunter2@h/d?sslrootcert=/ca", "sslrootcert needs"),
            ("postgres://u:hunter2@h/d?sslmode=verify-full&sslrootcert=system", "name a file"),
            ("postgres://u:hunter2@h/d?sslcert=/c", "sslcert: client certificates"),
            ("postgres://u:hunter2@h/d?service=x", "service files"),
            ("postgres://u:hunter2@h/d?colour=red", "colour"),
            ("postgres://u:hunter2@h/d?prepared_statements=1", "true or false"),
            ("postgres://u:hunter2@h:port/d", "port"),
            ("postgres://h/d", "no user"),
            ("postgres:///d?user=u", "no host"),
        ] {
            let error = Settings::parse(url).unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(text.contains(said) && !text.contains("hunter2"), "{url}: {text}");
        }
    }

    #[test]
    fn a_url_is_shown_without_its_password() {
        let url =
            "postgres://alice:hunter2@db-1,db-2:6000/ledger?connect_timeout=7&options=-c%20a%3Db";
        let settings = Settings::parse(url).unwrap();
        assert_eq!(settings.place(), "db-1:5432,db-2:6000/ledger");
        let shown = format!("{settings:?}");
        assert!(shown.contains("db-1") && !shown.contains("hunter2"), "{shown}");
        assert_eq!(settings.config.get_options(), Some("-c a=b"));
        assert_eq!(settings.config.get_connect_timeout(), Some(&Duration::from_secs(7)));
        let near = Settings::parse("postgres://u@127.0.0.1/d").unwrap();
        assert!(!near.is_exposed());
    }
}
