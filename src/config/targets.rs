//! `[[ec2_targets]]`: the accounts and Regions that are served.

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::rule::{AccountId, Region};

use super::{
    BackendConfig, Config, Secret, TargetConfig,
    keys::{self, TARGET_MEMBERS, TARGETS},
    reader::{Reader, nearest},
};

/// Reads the targets. Without any, the account of the credentials in use is served, in the default Region.
pub fn read(reader: &mut Reader<'_>) -> Vec<TargetConfig> {
    let Some(value) = reader.file.get(TARGETS).cloned() else { return Vec::new() };
    let place = reader.file.place_at(value.span().start, TARGETS);
    let entries = match value.get_ref() {
        DeValue::Array(entries) if !entries.is_empty() => entries.iter(),
        _ => {
            reader
                .complain_at(place, format!("takes at least one table, each under [[{TARGETS}]]"));
            return Vec::new();
        }
    };
    let mut targets: Vec<TargetConfig> = Vec::new();
    for (index, entry) in entries.enumerate() {
        let place = reader.file.place_at(entry.span().start, &format!("{TARGETS}[{index}]"));
        let DeValue::Table(table) = entry.get_ref() else {
            reader.complain_at(
                place,
                format!("takes a table, not a TOML {}", entry.get_ref().type_str()),
            );
            continue;
        };
        let Some(target) = (Entry { reader, table, index, place }).read() else { continue };
        if targets.iter().any(|other| other.account == target.account) {
            let place =
                reader.file.place_at(entry.span().start, &format!("{TARGETS}[{index}].account_id"));
            reader.complain_at(
                place,
                format!("{} is listed twice; give it all its Regions once", target.account),
            );
        }
        note(reader, &target);
        targets.push(target);
    }
    targets
}

/// Refuses a default account or Region that is not served.
pub fn check_default(reader: &mut Reader<'_>, config: &Config) {
    let BackendConfig::Ec2(ec2) = &config.backend else {
        check_sandbox_default(reader, config);
        return;
    };
    if ec2.targets.is_empty() {
        return;
    }
    if let Some(account) = &config.default_account
        && !ec2.targets.iter().any(|target| target.account == *account)
    {
        reader.complain("default_account_id", format!("{account} is not among {TARGETS}"));
    }
    if let Some(region) = &config.default_region {
        // The Region must be one of the account that a call without any means.
        let mut targets = ec2.targets.iter();
        let served = match &config.default_account {
            Some(account) => {
                targets.any(|target| target.account == *account && target.regions.contains(region))
            }
            None => targets.any(|target| target.regions.contains(region)),
        };
        if !served {
            reader.complain("default_region", format!("{region} is not among {TARGETS}"));
        }
    }
}

/// The sandbox's accounts have Regions of their own, so that one without the other says nothing.
fn check_sandbox_default(reader: &mut Reader<'_>, config: &Config) {
    let (given, missing) = match (&config.default_account, &config.default_region) {
        (Some(_), None) => ("default_account_id", "default_region"),
        (None, Some(_)) => ("default_region", "default_account_id"),
        (Some(_), Some(_)) | (None, None) => return,
    };
    reader.complain(given, format!("goes together with {missing}, which is not set"));
}

/// Notes what is in effect, without the secret.
fn note(reader: &mut Reader<'_>, target: &TargetConfig) {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let regions: Vec<String> =
        target.regions.iter().map(|region| quoted(region.as_str())).collect();
    let mut lines = vec![
        format!("\n[[{TARGETS}]]"),
        format!("account_id = {}", quoted(target.account.as_str())),
        format!("regions = [{}]", regions.join(", ")),
    ];
    lines.extend(target.role_arn.as_deref().map(|arn| format!("role_arn = {}", quoted(arn))));
    lines.extend(target.external_id.as_ref().map(|id| format!("external_id = \"{id:?}\"")));
    lines.extend(target.session_per_principal.then(|| "session_per_principal = true".to_owned()));
    lines.into_iter().for_each(|line| reader.note_table(line));
}

/// One table and where it is.
struct Entry<'r, 'a, 't> {
    reader: &'r mut Reader<'a>,
    table: &'t DeTable<'a>,
    index: usize,
    place: String,
}

impl Entry<'_, '_, '_> {
    /// The target, unless account or Regions are wrong. Everything wrong in the table is reported.
    fn read(&mut self) -> Option<TargetConfig> {
        self.check_names();
        let account = self.text("account_id").and_then(|text| {
            let account = AccountId::parse(&text);
            account.or_else(|| self.refuse("account_id", &text, "12 digits"))
        });
        let regions = self.regions();
        let role_arn = self.text("role_arn").filter(|arn| match (role_account(arn), &account) {
            (Some(of_role), Some(account)) if of_role != account.as_str() => {
                self.complain(
                    "role_arn",
                    format!("is a role of {of_role}, not of account {account}"),
                );
                false
            }
            (Some(_), _) => true,
            (None, _) => {
                let _: Option<()> = self.refuse(
                    "role_arn",
                    arn,
                    "an ARN such as arn:aws:iam::123456789012:role/name",
                );
                false
            }
        });
        let external_id = self.text("external_id");
        if external_id.is_some() && !self.table.contains_key("role_arn") {
            self.complain("external_id", "does nothing without role_arn".to_owned());
        }
        if external_id.as_ref().is_some_and(|id| !(2..=1224).contains(&id.len())) {
            self.complain("external_id", "takes 2 to 1224 characters".to_owned());
        }
        let external_id = external_id.map(Secret);
        let session_per_principal = self.switch("session_per_principal");
        if session_per_principal && !self.table.contains_key("role_arn") {
            let message = "needs role_arn: a session of its own is one of a role that is assumed";
            self.complain("session_per_principal", message.to_owned());
        }
        Some(TargetConfig {
            account: account?,
            regions: regions?,
            role_arn,
            external_id,
            session_per_principal,
        })
    }

    fn check_names(&mut self) {
        for (key, _) in self.table {
            let name = key.get_ref();
            let names = || TARGET_MEMBERS.iter().map(|(name, ..)| *name);
            if !names().any(|known| known == name) {
                // In TOML, whatever follows a table's heading belongs to that table.
                let message = if keys::find(name).is_some() {
                    format!("is a setting: it goes above the first [[{TARGETS}]]")
                } else {
                    format!("there is no such member of a target{}", nearest(name, names()))
                };
                self.complain(name, message);
            }
        }
        for (name, _, required, _) in TARGET_MEMBERS {
            if *required && !self.table.contains_key(*name) {
                self.reader.complain_at(self.place.clone(), format!("{name} is missing"));
            }
        }
    }

    fn regions(&mut self) -> Option<Vec<Region>> {
        let value = self.table.get("regions")?;
        let texts: Option<Vec<&str>> = value
            .get_ref()
            .as_array()
            .map(|items| items.iter().map(|item| item.get_ref().as_str()).collect())
            .unwrap_or_default();
        let texts = texts.unwrap_or_default();
        if texts.is_empty() {
            self.complain("regions", "takes a list of at least one Region code".to_owned());
            return None;
        }
        let mut regions = Vec::new();
        for text in texts {
            match Region::parse(text) {
                Some(region) if regions.contains(&region) => {
                    self.complain("regions", format!("{text} is listed twice"));
                }
                Some(region) => regions.push(region),
                None => {
                    let _: Option<()> =
                        self.refuse("regions", text, "Region codes such as us-east-1");
                }
            }
        }
        Some(regions)
    }

    fn text(&mut self, name: &str) -> Option<String> {
        let value = self.table.get(name)?.get_ref();
        if value.as_str().is_none() {
            self.complain(name, format!("takes a string, not a TOML {}", value.type_str()));
        }
        value.as_str().map(str::to_owned)
    }

    /// False if there is none, or it is wrong.
    fn switch(&mut self, name: &str) -> bool {
        let Some(value) = self.table.get(name).map(Spanned::get_ref) else { return false };
        if let DeValue::Boolean(on) = value {
            return *on;
        }
        self.complain(name, format!("takes true or false, not a TOML {}", value.type_str()));
        false
    }

    fn refuse<T>(&mut self, name: &str, text: &str, wanted: &str) -> Option<T> {
        self.complain(name, format!("takes {wanted}, not {text:?}"));
        None
    }

    fn complain(&mut self, name: &str, message: String) {
        let key = self.table.get_key_value(name).map(|(key, _)| Spanned::span(key).start);
        let place = match key {
            Some(at) => self.reader.file.place_at(at, &format!("{TARGETS}[{}].{name}", self.index)),
            None => self.place.clone(),
        };
        self.reader.complain_at(place, message);
    }
}

/// The account in a role's ARN.
fn role_account(arn: &str) -> Option<&str> {
    let mut parts = arn.splitn(6, ':');
    let is_arn = parts.next() == Some("arn") && parts.next()?.starts_with("aws");
    let is_iam = parts.next() == Some("iam") && parts.next() == Some("");
    let account = parts.next().filter(|account| AccountId::parse(account).is_some())?;
    let has_name = parts.next()?.strip_prefix("role/").is_some_and(|name| !name.is_empty());
    (is_arn && is_iam && has_name).then_some(account)
}
