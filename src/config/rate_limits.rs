//! `rate_limit_...` and `[[rate_limits]]`: how often each caller may call.

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    keys::{self, RATE_LIMIT_MEMBERS, RATE_LIMITS},
    reader::{Reader, nearest},
};

/// How often each caller may call. By default as often as it likes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// Everyone's limit of reads; none: no limit.
    pub read: Option<Rate>,
    /// Everyone's limit of changes.
    pub mutate: Option<Rate>,
    /// Other limits for some, in the file's order.
    pub overrides: Vec<RateOverride>,
    /// Whether what is over a limit is only logged.
    pub report_only: bool,
}

/// A limit: a bucket that holds `burst` calls and is filled at a steady rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many calls come back in a second. At least one.
    pub per_second: u32,
    /// How many calls may come at once. At least one.
    pub burst: u32,
}

/// A limit other than everyone's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateOverride {
    /// Whose.
    pub caller: LimitedCaller,
    /// Of which calls.
    pub class: CallClass,
    /// None: no limit.
    pub rate: Option<Rate>,
}

/// Whom a limit is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LimitedCaller {
    /// The principal with this id.
    Principal(String),
    /// Each principal in this group.
    Group(String),
}

/// The classes of calls that limits count apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallClass {
    /// Reads.
    Read,
    /// What changes something, dry runs included.
    Mutate,
}

impl CallClass {
    /// `read` or `mutate`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Mutate => "mutate",
        }
    }
}

/// The most calls a second or at once.
const MAX: i64 = 1_000_000;

/// Reads the settings and the tables.
pub fn read(reader: &mut Reader<'_>) -> RateLimits {
    let mut rate = |per_second, burst| {
        let (rate, at_once) = (reader.count(per_second), reader.count(burst));
        (rate > 0).then_some(Rate { per_second: rate, burst: at_once })
    };
    let read = rate("rate_limit_read_per_second", "rate_limit_read_burst");
    let mutate = rate("rate_limit_mutate_per_second", "rate_limit_mutate_burst");
    let report_only = reader.word("rate_limit_mode") == "report-only";
    RateLimits { read, mutate, overrides: overrides(reader), report_only }
}

fn overrides(reader: &mut Reader<'_>) -> Vec<RateOverride> {
    let Some(value) = reader.file.get(RATE_LIMITS).cloned() else { return Vec::new() };
    let DeValue::Array(entries) = value.get_ref() else {
        let place = reader.file.place_at(value.span().start, RATE_LIMITS);
        reader.complain_at(place, format!("takes tables, each under [[{RATE_LIMITS}]]"));
        return Vec::new();
    };
    let mut overrides: Vec<RateOverride> = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let place = reader.file.place_at(entry.span().start, &format!("{RATE_LIMITS}[{index}]"));
        let DeValue::Table(table) = entry.get_ref() else {
            let message = format!("takes a table, not a TOML {}", entry.get_ref().type_str());
            reader.complain_at(place, message);
            continue;
        };
        let entry = Entry { reader, table, index, place: place.clone() }.read();
        let Some(entry) = entry else { continue };
        let twice =
            |other: &RateOverride| (&other.caller, other.class) == (&entry.caller, entry.class);
        if overrides.iter().any(twice) {
            reader.complain_at(place, "has the same caller and class as one before it".to_owned());
        }
        note(reader, &entry);
        overrides.push(entry);
    }
    overrides
}

fn note(reader: &mut Reader<'_>, entry: &RateOverride) {
    let (name, caller) = match &entry.caller {
        LimitedCaller::Principal(id) => ("principal", id),
        LimitedCaller::Group(group) => ("group", group),
    };
    let caller = toml::Value::String(caller.clone());
    reader.note_table(format!("\n[[{RATE_LIMITS}]]"));
    reader.note_table(format!("{name} = {caller}"));
    reader.note_table(format!("class = \"{}\"", entry.class.as_str()));
    reader.note_table(format!("per_second = {}", entry.rate.map_or(0, |rate| rate.per_second)));
    if let Some(rate) = entry.rate {
        reader.note_table(format!("burst = {}", rate.burst));
    }
}

/// One table and where it is.
struct Entry<'r, 'a, 't> {
    reader: &'r mut Reader<'a>,
    table: &'t DeTable<'a>,
    index: usize,
    place: String,
}

impl Entry<'_, '_, '_> {
    /// The limit, unless something is wrong with it. Everything wrong in the table is reported.
    fn read(&mut self) -> Option<RateOverride> {
        self.check_names();
        let caller = match (self.text("principal"), self.text("group")) {
            (Some(id), None) => Some(LimitedCaller::Principal(id)),
            (None, Some(group)) => Some(LimitedCaller::Group(group)),
            (None, None) | (Some(_), Some(_)) => {
                self.complain("", "takes either a principal or a group".to_owned());
                None
            }
        };
        let class = self.text("class").and_then(|text| match text.as_str() {
            "read" => Some(CallClass::Read),
            "mutate" => Some(CallClass::Mutate),
            _ => {
                self.complain("class", format!("takes one of read, mutate, not {text:?}"));
                None
            }
        });
        let per_second = self.number("per_second", 0);
        let burst = self.number("burst", 1);
        let rate = match (per_second?, burst) {
            (0, None) => None,
            (0, Some(_)) => {
                self.complain("burst", "does nothing where per_second is 0".to_owned());
                None
            }
            (per_second, burst) => Some(Rate { per_second, burst: burst.unwrap_or(per_second) }),
        };
        Some(RateOverride { caller: caller?, class: class?, rate })
    }

    fn check_names(&mut self) {
        let names = || RATE_LIMIT_MEMBERS.iter().map(|(name, ..)| *name);
        for (key, _) in self.table {
            let name = key.get_ref();
            if !names().any(|known| known == name) {
                // In TOML, whatever follows a table's heading belongs to that table.
                let message = if keys::find(name).is_some() {
                    format!("is a setting: it goes above the first [[{RATE_LIMITS}]]")
                } else {
                    format!("there is no such member of a limit{}", nearest(name, names()))
                };
                self.complain(name, message);
            }
        }
        for (name, _, required, _) in RATE_LIMIT_MEMBERS {
            if *required && !self.table.contains_key(*name) {
                self.complain("", format!("{name} is missing"));
            }
        }
    }

    fn text(&mut self, name: &str) -> Option<String> {
        let value = self.table.get(name)?.get_ref();
        if value.as_str().is_none() {
            self.complain(name, format!("takes a string, not a TOML {}", value.type_str()));
        }
        value.as_str().map(str::to_owned)
    }

    fn number(&mut self, name: &str, least: i64) -> Option<u32> {
        let value = self.table.get(name)?.get_ref();
        let number = value.as_integer().and_then(|text| text.to_string().parse::<i64>().ok());
        let number = number.filter(|number| (least..=MAX).contains(number));
        if number.is_none() {
            self.complain(name, format!("takes a whole number, {least} to {MAX}"));
        }
        number.and_then(|number| u32::try_from(number).ok())
    }

    /// Reports a member, or the whole table.
    fn complain(&mut self, name: &str, message: String) {
        let key = self.table.get_key_value(name).map(|(key, _)| Spanned::span(key).start);
        let place = match key {
            Some(at) => {
                self.reader.file.place_at(at, &format!("{RATE_LIMITS}[{}].{name}", self.index))
            }
            None => self.place.clone(),
        };
        self.reader.complain_at(place, message);
    }
}
