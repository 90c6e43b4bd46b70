//! One entry of a list of tables, `[[...]]`: its members, read with everything that is wrong reported.

use std::path::PathBuf;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    keys,
    reader::{Reader, nearest},
};

/// The members that a table may have, as the tables in [`keys`] list them.
pub type Members = &'static [(&'static str, &'static str, bool, &'static str)];

/// Reads each entry of a list of tables. An entry with unusable members is left out: it is reported.
pub fn read<T>(
    reader: &mut Reader<'_>,
    name: &'static str,
    members: Members,
    read: impl Fn(&mut Entry<'_, '_, '_>) -> Option<T>,
) -> Vec<T> {
    let Some(value) = reader.file.get(name).cloned() else { return Vec::new() };
    let DeValue::Array(entries) = value.get_ref() else {
        let place = reader.file.place_at(value.span().start, name);
        reader.complain_at(place, format!("takes tables, each under [[{name}]]"));
        return Vec::new();
    };
    let mut found = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let place = reader.file.place_at(entry.span().start, &format!("{name}[{index}]"));
        let DeValue::Table(table) = entry.get_ref() else {
            let kind = entry.get_ref().type_str();
            reader.complain_at(place, format!("takes a table, not a TOML {kind}"));
            continue;
        };
        let mut entry = Entry { reader, table, name, index, place };
        entry.check_names(members);
        found.extend(read(&mut entry));
    }
    found
}

/// One table and where it is.
pub struct Entry<'r, 'a, 't> {
    reader: &'r mut Reader<'a>,
    table: &'t DeTable<'a>,
    name: &'static str,
    index: usize,
    place: String,
}

impl Entry<'_, '_, '_> {
    /// Whether the table has the member.
    pub fn has(&self, name: &str) -> bool {
        self.table.contains_key(name)
    }

    /// A text that is not empty.
    pub fn text(&mut self, name: &str) -> Option<String> {
        let value = self.table.get(name)?.get_ref();
        match value.as_str() {
            Some("") => self.refuse(name, "must not be empty".to_owned()),
            Some(text) => Some(text.to_owned()),
            None => self.refuse(name, format!("takes a string, not a TOML {}", value.type_str())),
        }
    }

    /// A list of texts, none of them empty. None if there is no such member, or it is wrong.
    pub fn texts(&mut self, name: &str) -> Option<Vec<String>> {
        let value = self.table.get(name)?;
        let texts = value.get_ref().as_array().and_then(|items| {
            let texts = items.iter().map(|item| item.get_ref().as_str().map(str::to_owned));
            texts.collect::<Option<Vec<String>>>()
        });
        match texts {
            Some(texts) if !texts.iter().any(String::is_empty) => Some(texts),
            _ => self.refuse(name, "takes a list of strings, none of them empty".to_owned()),
        }
    }

    /// A whole number from `min` to `max`.
    pub fn number(&mut self, name: &str, min: u64, max: u64) -> Option<u64> {
        let number = match self.table.get(name)?.get_ref() {
            DeValue::Integer(number) => number.to_string().parse().ok(),
            _ => None,
        };
        match number.filter(|number| (min..=max).contains(number)) {
            Some(number) => Some(number),
            None => self.refuse(name, format!("takes a whole number, {min} to {max}")),
        }
    }

    /// A file, which must exist. A relative name starts from the configuration file's folder.
    pub fn file(&mut self, name: &str) -> Option<PathBuf> {
        let path = self.path(name)?;
        if path.is_file() {
            return Some(path);
        }
        self.refuse(name, format!("there is no file {}", path.display()))
    }

    /// A file that need not exist yet.
    pub fn path(&mut self, name: &str) -> Option<PathBuf> {
        let text = self.text(name)?;
        Some(self.reader.file.folder().map_or_else(|| PathBuf::from(&text), |at| at.join(&text)))
    }

    /// Reports a member, or the whole table if it has none of that name.
    pub fn refuse<T>(&mut self, name: &str, message: String) -> Option<T> {
        let key = self.table.get_key_value(name).map(|(key, _)| Spanned::span(key).start);
        let place = match key {
            Some(at) => {
                self.reader.file.place_at(at, &format!("{}[{}].{name}", self.name, self.index))
            }
            None => self.place.clone(),
        };
        self.reader.complain_at(place, message);
        None
    }

    /// Notes what is in effect.
    pub fn note(&mut self, members: &[(&str, String)]) {
        self.reader.note_table(format!("\n[[{}]]", self.name));
        for (name, value) in members {
            self.reader.note_table(format!("{name} = {value}"));
        }
    }

    fn check_names(&mut self, members: Members) {
        for (key, _) in self.table {
            let name = key.get_ref();
            let names = || members.iter().map(|(name, ..)| *name);
            if !names().any(|known| known == name) {
                // In TOML, whatever follows a table's heading belongs to that table.
                let message = if keys::find(name).is_some() {
                    format!("is a setting: it goes above the first [[{}]]", self.name)
                } else {
                    format!("there is no such member{}", nearest(name, names()))
                };
                let _: Option<()> = self.refuse(name, message);
            }
        }
        for (name, _, required, _) in members {
            if *required && !self.table.contains_key(*name) {
                self.reader.complain_at(self.place.clone(), format!("{name} is missing"));
            }
        }
    }
}

/// A text as TOML writes it.
pub fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A list of texts as TOML writes it.
pub fn list(texts: &[String]) -> String {
    format!("[{}]", texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", "))
}
