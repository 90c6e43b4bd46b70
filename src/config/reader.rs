//! Reads typed values from the layers and collects what is wrong with them.
//!
//! A value that is wrong is reported and its default goes on in its place, so that one fault hides no other.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use percent_encoding::percent_decode_str;
use tracing_subscriber::EnvFilter;

use crate::rule::{AccountId, Region};

use super::{
    Complaint, Setting, Sources,
    file::File,
    keys::{self, CONFIG_ENV, ENV_PREFIX, Key, TABLES, TARGETS, Takes},
    ledger::LedgerEngine,
    telemetry,
};

/// The longest value of a pair, decoded, in bytes.
const MAX_VALUE: usize = 4096;

/// Variables that only tests know.
const TEST_PREFIX: &str = "PORTCULLIS_TEST_";

/// The layers, what was found wrong in them, and what was read from them.
pub struct Reader<'a> {
    sources: &'a Sources,
    pub(super) file: File<'a>,
    complaints: Vec<Complaint>,
    settings: Vec<Setting>,
    tables: Vec<Setting>,
}

/// A setting's value as the strongest layer that has it gives it.
struct Given {
    place: String,
    values: Vec<String>,
    from_file: bool,
}

impl<'a> Reader<'a> {
    /// Checks the names in all layers.
    pub fn new(sources: &'a Sources) -> Self {
        let mut complaints = Vec::new();
        let file = File::parse(sources.file.as_ref(), &mut complaints);
        complaints
            .extend(sources.env.iter().filter_map(|(name, value)| check_variable(name, value)));
        Self { sources, file, complaints, settings: Vec::new(), tables: Vec::new() }
    }

    /// What was read, or else what is wrong.
    pub fn finish(mut self) -> Result<Vec<Setting>, Vec<Complaint>> {
        self.settings.append(&mut self.tables);
        if self.complaints.is_empty() { Ok(self.settings) } else { Err(self.complaints) }
    }

    /// Reports a setting under the name that the user wrote.
    pub fn complain(&mut self, name: &str, message: String) {
        let place = self.place(name);
        self.complaints.push(Complaint { place, message });
    }

    /// Reports something at a place of its own.
    pub fn complain_at(&mut self, place: String, message: String) {
        self.complaints.push(Complaint { place, message });
    }

    /// Notes a line of a table that is in effect. In a file, tables come after all settings.
    pub fn note_table(&mut self, line: String) {
        self.tables.push(Setting { line, from: String::new() });
    }

    /// Whether any layer has the setting.
    pub fn is_given(&self, name: &str) -> bool {
        keys::find(name).is_some_and(|key| self.place_of(key).is_some())
    }

    /// Whether any layer gives the setting another value than its default, which may be written out anywhere.
    pub fn is_changed(&self, name: &str) -> bool {
        let Some(key) = keys::find(name) else { return false };
        let given = self.given(key).ok().flatten();
        given.is_some_and(|given| given.values.iter().any(|value| value != key.default))
    }

    /// Whether a layer of ours has the setting: not only a variable that is meant for all programs.
    pub fn is_given_here(&self, name: &str) -> bool {
        let Some(key) = keys::find(name) else { return false };
        self.flag(key).is_some()
            || self.variable(key).is_some()
            || self.file.place(key.name).is_some()
    }

    /// The variables.
    pub fn env(&self) -> &'a [(String, String)] {
        &self.sources.env
    }

    /// The setting as the user wrote it.
    pub fn place(&self, name: &str) -> String {
        let place = keys::find(name).and_then(|key| self.place_of(key));
        place.unwrap_or_else(|| name.to_owned())
    }

    /// Refuses the settings of backends other than this one.
    pub fn refuse_other_backends(&mut self, backend: &str) {
        for key in keys::groups().flat_map(|(_, keys)| keys) {
            if let Some(other) = key.only_with.filter(|other| *other != backend)
                && self.is_given(key.name)
            {
                self.complain(key.name, format!("does nothing unless backend = {other:?}"));
            }
        }
        if backend != "ec2"
            && let Some(place) = self.file.place(TARGETS)
        {
            self.complain_at(place, "does nothing unless backend = \"ec2\"".to_owned());
        }
    }

    /// Refuses a smaller setting that is greater than the larger one.
    pub fn check_order(&mut self, smaller: &str, larger: &str) {
        let value = |name| {
            let key = keys::find(name)?;
            let given = self.given(key).ok().flatten();
            let text = given.and_then(|given| given.values.into_iter().next());
            text.unwrap_or_else(|| key.default.to_owned()).parse::<u64>().ok()
        };
        if let (Some(low), Some(high)) = (value(smaller), value(larger))
            && low > high
        {
            // The one that was written is the one to look at.
            let at = if self.is_given(smaller) { smaller } else { larger };
            self.complain(at, format!("{smaller} is {low}, more than {larger}, which is {high}"));
        }
    }

    // === typed getters ===

    /// A socket address.
    pub fn address(&mut self, name: &str) -> SocketAddr {
        self.address_or_off(name).unwrap_or_else(|| (Ipv4Addr::LOCALHOST, 0).into())
    }

    /// A socket address; none for `off`, which the table allows or not.
    pub fn address_or_off(&mut self, name: &str) -> Option<SocketAddr> {
        self.one(name, |key, text| match text {
            "off" if key.takes == Takes::AddressOrOff => Ok(None),
            _ => text.parse().map(Some).map_err(|_| key.takes.describe()),
        })
        .flatten()
    }

    /// One of the table's words.
    pub fn word(&mut self, name: &str) -> &'static str {
        self.one(name, |key, text| {
            let Takes::Choice(words) = key.takes else { return Err(key.takes.describe()) };
            let found = words.iter().find(|word| **word == text).copied();
            found.ok_or_else(|| format!("one of {}", words.join(", ")))
        })
        .unwrap_or_default()
    }

    /// Files, which must exist.
    pub fn files(&mut self, name: &str) -> Vec<PathBuf> {
        let files = self.paths(name);
        for file in files.iter().filter(|file| !file.is_file()) {
            self.complain(name, format!("there is no file {}", file.display()));
        }
        files
    }

    /// A folder, which must exist, if one is given.
    pub fn folder(&mut self, name: &str) -> Option<PathBuf> {
        let given = self.noted(name)?.1?;
        let from = self.file.folder().filter(|_| given.from_file);
        let named = given.values.first().map(PathBuf::from).unwrap_or_default();
        let folder = from.map_or_else(|| named.clone(), |folder| folder.join(&named));
        if !folder.is_dir() {
            self.complain_at(given.place, format!("there is no folder {}", folder.display()));
        }
        Some(folder)
    }

    /// A list of values.
    pub fn list<T>(&mut self, name: &str, parse: impl Fn(&str) -> Option<T>) -> Vec<T> {
        let Some((key, Some(given))) = self.noted(name) else { return Vec::new() };
        let mut values = Vec::new();
        for text in &given.values {
            match parse(text) {
                Some(value) => values.push(value),
                None => {
                    let message = format!("takes {}, not {text:?}", key.takes.describe());
                    self.complain_at(given.place.clone(), message);
                }
            }
        }
        values
    }

    /// Files that someone else reads and reports.
    pub fn paths(&mut self, name: &str) -> Vec<PathBuf> {
        let Some((_, Some(given))) = self.noted(name) else { return Vec::new() };
        // A file is read from any folder; flags and variables mean the one that the user is in.
        let folder = self.file.folder().filter(|_| given.from_file);
        let path = |file| folder.map_or_else(|| PathBuf::from(file), |folder| folder.join(file));
        given.values.iter().map(path).collect()
    }

    /// An account id, if one is given.
    pub fn account(&mut self, name: &str) -> Option<AccountId> {
        self.one(name, |key, text| AccountId::parse(text).ok_or_else(|| key.takes.describe()))
    }

    /// A Region, if one is given.
    pub fn region(&mut self, name: &str) -> Option<Region> {
        self.one(name, |key, text| Region::parse(text).ok_or_else(|| key.takes.describe()))
    }

    /// A URL without credentials, path or query, if one is given.
    pub fn url(&mut self, name: &str) -> Option<String> {
        self.one(name, |key, text| {
            let url: http::Uri = text.parse().map_err(|_| key.takes.describe())?;
            let authority = url.authority().ok_or_else(|| key.takes.describe())?;
            if !matches!(url.scheme_str(), Some("http" | "https")) {
                return Err(key.takes.describe());
            }
            if authority.as_str().contains('@')
                || !matches!(url.path(), "" | "/")
                || url.query().is_some()
            {
                return Err("an address without credentials, path and query".to_owned());
            }
            Ok(text.to_owned())
        })
    }

    /// Where a ledger is, if that is given.
    pub fn ledger(&mut self, name: &str) -> Option<LedgerEngine> {
        self.one(name, |key, text| LedgerEngine::parse(text).ok_or_else(|| key.takes.describe()))
    }

    /// `true` or `false`.
    pub fn switch(&mut self, name: &str) -> bool {
        self.one(name, |key, text| text.parse().map_err(|_| key.takes.describe()))
            .unwrap_or_default()
    }

    /// Directives of a log filter.
    pub fn directives(&mut self, name: &str) -> String {
        self.one(name, |key, text| match EnvFilter::builder().parse(text) {
            Ok(_) if !text.trim().is_empty() => Ok(text.to_owned()),
            _ => Err(key.takes.describe()),
        })
        .unwrap_or_default()
    }

    /// A number from 0 to 1.
    pub fn ratio(&mut self, name: &str) -> f64 {
        self.one(name, |key, text| {
            let number = text.parse().ok().filter(|number| (0.0..=1.0).contains(number));
            number.ok_or_else(|| key.takes.describe())
        })
        .unwrap_or_default()
    }

    /// A short name.
    pub fn name(&mut self, name: &str) -> String {
        self.one(name, |key, text| {
            let fit = (1..=255).contains(&text.len())
                && text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
            if fit { Ok(text.to_owned()) } else { Err(key.takes.describe()) }
        })
        .unwrap_or_default()
    }

    /// Names and their values. `checked` gives a name as it is used, if it is one. What is wrong is not shown: it may
    /// be secret.
    pub fn pairs(
        &mut self,
        name: &str,
        checked: impl Fn(&str) -> Option<String>,
    ) -> Vec<(String, String)> {
        let Some((key, Some(given))) = self.noted(name) else { return Vec::new() };
        let mut pairs = Vec::new();
        for (index, text) in given.values.iter().enumerate() {
            let pair = text.split_once('=').and_then(|(name, value)| {
                let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
                let shown = value.chars().all(|c| !c.is_control()) && value.len() <= MAX_VALUE;
                shown.then_some((checked(name.trim())?, value.into_owned()))
            });
            match pair {
                Some(pair) => pairs.push(pair),
                None => {
                    let wanted = key.takes.describe();
                    let message =
                        format!("takes {wanted}; that is not so for number {}", index + 1);
                    self.complain_at(given.place.clone(), message);
                }
            }
        }
        pairs
    }

    /// Milliseconds.
    pub fn millis(&mut self, name: &str) -> Duration {
        Duration::from_millis(self.number(name))
    }

    /// A time; none if it is 0.
    pub fn millis_or_never(&mut self, name: &str) -> Option<Duration> {
        Some(self.millis(name)).filter(|time| !time.is_zero())
    }

    /// A size in memory. The table bounds it far below what a usize holds.
    pub fn size(&mut self, name: &str) -> usize {
        usize::try_from(self.number(name)).unwrap_or(usize::MAX)
    }

    /// A count. The table bounds it far below what 32 bits hold.
    pub fn count(&mut self, name: &str) -> u32 {
        u32::try_from(self.number(name)).unwrap_or(u32::MAX)
    }

    fn number(&mut self, name: &str) -> u64 {
        self.one(name, |key, text| {
            let Takes::Number(_, min, max) = key.takes else { return Err(key.takes.describe()) };
            let number = text.parse().ok().filter(|number| (min..=max).contains(number));
            number.ok_or_else(|| format!("a whole number, {}", key.takes.describe()))
        })
        .unwrap_or_default()
    }

    // === layers ===

    /// One value: the strongest layer's, or the default if there is none or it is wrong.
    fn one<T>(&mut self, name: &str, parse: impl Fn(&Key, &str) -> Result<T, String>) -> Option<T> {
        let (key, given) = self.noted(name)?;
        if let Some(Given { place, values, .. }) = given {
            let text = values.into_iter().next().unwrap_or_default();
            match parse(key, &text) {
                Ok(value) => return Some(value),
                // Nor is what looks like a URL with a password in it, in the wrong place.
                Err(wanted)
                    if key.takes.may_be_secret() || text.contains('@') || text.contains("://") =>
                {
                    self.complain_at(place, format!("takes {wanted}"));
                }
                Err(wanted) => self.complain_at(place, format!("takes {wanted}, not {text:?}")),
            }
        }
        if key.default.is_empty() { None } else { parse(key, key.default).ok() }
    }

    /// The setting and the value that is given; notes what is in effect.
    fn noted(&mut self, name: &str) -> Option<(&'static Key, Option<Given>)> {
        let Some(key) = keys::find(name) else {
            self.complain_at(name.to_owned(), "is missing in the table of settings".to_owned());
            return None;
        };
        let given = self.given(key).unwrap_or_else(|complaint| {
            self.complaints.push(complaint);
            None
        });
        let line = match &given {
            Some(given) => format!("{name} = {}", literal(key.takes, &given.values)),
            None if key.default.is_empty() => format!("# {name} is not set"),
            None => format!("{name} = {}", literal(key.takes, &[key.default.to_owned()])),
        };
        let from = match &given {
            Some(given) => given.place.clone(),
            None if key.default.is_empty() => String::new(),
            None => "default".to_owned(),
        };
        self.settings.push(Setting { line, from });
        Some((key, given))
    }

    /// What the strongest layer gives. An error if it is of the wrong type in the file.
    fn given(&self, key: &Key) -> Result<Option<Given>, Complaint> {
        if let Some((_, values)) = self.flag(key) {
            let (place, values) = (format!("--{}", key.flag()), values.clone());
            return Ok(Some(Given { place, values, from_file: false }));
        }
        if let Some((name, value)) = self.variable(key) {
            let values = split(key.takes, value);
            return Ok(Some(Given { place: name.clone(), values, from_file: false }));
        }
        let Some(place) = self.file.place(key.name) else {
            return Ok(self.standard(key).map(|(variable, value)| Given {
                place: variable.to_owned(),
                values: split(key.takes, value),
                from_file: false,
            }));
        };
        match self.file.texts(key) {
            Ok(values) => Ok(Some(Given { place, values, from_file: true })),
            Err(message) => Err(Complaint { place, message }),
        }
    }

    fn place_of(&self, key: &Key) -> Option<String> {
        let flag = self.flag(key).map(|_| format!("--{}", key.flag()));
        let variable = || self.variable(key).map(|(name, _)| name.clone());
        let standard = || self.standard(key).map(|(variable, _)| variable.to_owned());
        flag.or_else(variable).or_else(|| self.file.place(key.name)).or_else(standard)
    }

    fn flag(&self, key: &Key) -> Option<&'a (&'static str, Vec<String>)> {
        self.sources.flags.iter().find(|(name, _)| *name == key.name)
    }

    /// The weakest layer: a variable that is meant for all programs. An empty one counts as none.
    fn standard(&self, key: &Key) -> Option<(&'static str, &'a str)> {
        let wanted = key.standard().filter(|_| !telemetry::disabled(&self.sources.env))?;
        let (_, value) = self.sources.env.iter().find(|(name, _)| name == wanted)?;
        (!value.is_empty()).then_some((wanted, value.as_str()))
    }

    fn variable(&self, key: &Key) -> Option<&'a (String, String)> {
        let wanted = key.env();
        self.sources.env.iter().find(|(name, _)| *name == wanted)
    }
}

/// The name out of these that is nearest to a mistyped one, if one is near enough to be meant.
pub fn nearest<'n>(typed: &str, names: impl Iterator<Item = &'n str>) -> String {
    let near = names
        .map(|name| (strsim::damerau_levenshtein(typed, name), name))
        .filter(|(distance, name)| *distance <= (name.len() / 4).max(2))
        .min();
    near.map(|(_, name)| format!("; did you mean {name}?")).unwrap_or_default()
}

/// A variable's values.
fn split(takes: Takes, value: &str) -> Vec<String> {
    match takes {
        Takes::Files | Takes::List(_) | Takes::Pairs { .. } => {
            value.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect()
        }
        _ => vec![value.to_owned()],
    }
}

/// A complaint about a variable that is none of ours.
fn check_variable(name: &str, value: &str) -> Option<Complaint> {
    let known: Vec<String> = keys::groups().flat_map(|(_, keys)| keys).map(Key::env).collect();
    if name == CONFIG_ENV
        || !name.starts_with(ENV_PREFIX)
        || name.starts_with(TEST_PREFIX)
        || known.iter().any(|known| known == name)
        || is_service_link(name, value)
    {
        return None;
    }
    let is_table = |table: &&&str| name == format!("{ENV_PREFIX}{}", table.to_uppercase());
    let message = if let Some(table) = TABLES.iter().find(is_table) {
        format!("only the configuration file can hold [[{table}]]")
    } else {
        let names = known.iter().map(String::as_str).chain([CONFIG_ENV]);
        format!("there is no such setting{}", nearest(name, names))
    };
    Some(Complaint { place: name.to_owned(), message })
}

/// Whether Kubernetes put the variable there: beside a Service whose name is `portcullis` or begins with
/// `portcullis-`, every pod of the namespace gets `PORTCULLIS_SERVICE_HOST`, `PORTCULLIS_PORT_50051_TCP` and so on.
fn is_service_link(name: &str, value: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_url = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    if name.ends_with("_SERVICE_HOST") {
        return value.parse::<std::net::IpAddr>().is_ok();
    }
    if name.ends_with("_SERVICE_PORT") || name.contains("_SERVICE_PORT_") {
        return is_number(value);
    }
    if name.ends_with("_PORT") && is_url {
        return true;
    }
    let Some((_, rest)) = name.split_once("_PORT_") else { return false };
    let mut parts = rest.split('_');
    parts.next().is_some_and(is_number)
        && parts.next().is_some_and(|protocol| matches!(protocol, "TCP" | "UDP" | "SCTP"))
        && parts.next().is_none_or(|member| matches!(member, "PROTO" | "PORT" | "ADDR"))
        && parts.next().is_none()
}

/// The values as the file would have them.
fn literal(takes: Takes, values: &[String]) -> String {
    let quoted = |text: &String| toml::Value::String(text.clone()).to_string();
    match takes {
        Takes::Files | Takes::List(_) => {
            format!("[{}]", values.iter().map(quoted).collect::<Vec<_>>().join(", "))
        }
        Takes::Pairs { secret: true } => {
            let name = |pair: &String| pair.split_once('=').map_or("", |(name, _)| name).to_owned();
            let redacted = |pair: &String| quoted(&format!("{}=[redacted]", name(pair)));
            format!("[{}]", values.iter().map(redacted).collect::<Vec<_>>().join(", "))
        }
        Takes::Pairs { secret: false } => {
            format!("[{}]", values.iter().map(quoted).collect::<Vec<_>>().join(", "))
        }
        Takes::Number(..) | Takes::Switch | Takes::Ratio => values.concat(),
        Takes::Ledger => {
            values.first().map(|text| quoted(&LedgerEngine::redacted(text))).unwrap_or_default()
        }
        _ => values.first().map(quoted).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubernetes_puts_beside_a_service_is_no_setting() {
        for (name, value) in [
            ("PORTCULLIS_SERVICE_HOST", "10.0.0.1"),
            ("PORTCULLIS_SERVICE_PORT", "50051"),
            ("PORTCULLIS_SERVICE_PORT_GRPC", "50051"),
            ("PORTCULLIS_PORT", "tcp://10.0.0.1:50051"),
            ("PORTCULLIS_PORT_50051_TCP", "tcp://10.0.0.1:50051"),
            ("PORTCULLIS_PORT_50051_TCP_PROTO", "tcp"),
            ("PORTCULLIS_ADMIN_PORT_9464_TCP_ADDR", "10.0.0.1"),
        ] {
            assert_eq!(check_variable(name, value), None, "{name}");
        }
        for (name, value) in [("PORTCULLIS_PORT", "50051"), ("PORTCULLIS_PORT_X_TCP", "1")] {
            assert!(check_variable(name, value).is_some(), "{name}");
        }
    }
}
