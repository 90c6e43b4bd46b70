//! The configuration file: TOML with the line of every key.

use std::path::{Path, PathBuf};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Complaint,
    keys::{self, Key, TABLES, Takes},
    reader::nearest,
};

/// A parsed file, or nothing if there is none.
pub struct File<'a> {
    path: Option<&'a Path>,
    text: &'a str,
    table: DeTable<'a>,
}

impl<'a> File<'a> {
    /// Parses, and reports bad syntax and unknown keys. What could be read is kept: other faults are reported, too.
    pub fn parse(file: Option<&'a (PathBuf, String)>, complaints: &mut Vec<Complaint>) -> Self {
        let Some((path, text)) = file else {
            return Self { path: None, text: "", table: DeTable::new() };
        };
        let (table, errors) = DeTable::parse_recoverable(text);
        let file = Self { path: Some(path), text, table: table.into_inner() };
        for error in errors {
            let place = error.span().map_or_else(
                || path.display().to_string(),
                |span| format!("{}:{}", path.display(), file.line(span.start)),
            );
            complaints.push(Complaint { place, message: error.message().to_owned() });
        }
        file.check_names(&file.table, "", complaints);
        file
    }

    /// The folder that the file is in.
    pub fn folder(&self) -> Option<&'a Path> {
        self.path.and_then(Path::parent)
    }

    /// The file, the line and the key, if the file has it.
    pub fn place(&self, name: &str) -> Option<String> {
        let value = self.get(name)?;
        Some(self.place_at(value.span().start, name))
    }

    /// The same for a position in the text.
    pub fn place_at(&self, at: usize, name: &str) -> String {
        let path = self.path.map(Path::display).map(|path| path.to_string()).unwrap_or_default();
        format!("{path}:{}: {name}", self.line(at))
    }

    /// The value of a dotted key.
    pub fn get(&self, name: &str) -> Option<&Spanned<DeValue<'a>>> {
        let mut names = name.split('.');
        let first = self.table.get(names.next()?)?;
        names.try_fold(first, |value, name| value.get_ref().as_table()?.get(name))
    }

    /// The values of a key as texts. An error if they are not of the TOML type that the key takes.
    pub fn texts(&self, key: &Key) -> Result<Vec<String>, String> {
        let Some(value) = self.get(key.name) else { return Ok(Vec::new()) };
        let value = value.get_ref();
        match (key.takes, value) {
            (Takes::Number(..), DeValue::Integer(number)) => Ok(vec![plain(&number.to_string())]),
            (Takes::Switch, DeValue::Boolean(on)) => Ok(vec![on.to_string()]),
            (Takes::Ratio, DeValue::Integer(number)) => Ok(vec![plain(&number.to_string())]),
            (Takes::Ratio, DeValue::Float(number)) => Ok(vec![number.to_string()]),
            (Takes::Files | Takes::List(_) | Takes::Pairs { .. }, DeValue::Array(items)) => {
                let texts = items.iter().map(|item| item.get_ref().as_str().map(str::to_owned));
                let texts: Option<Vec<String>> = texts.collect();
                texts.ok_or_else(|| "takes a list of strings".to_owned())
            }
            (
                Takes::Number(..)
                | Takes::Ratio
                | Takes::Switch
                | Takes::Files
                | Takes::List(_)
                | Takes::Pairs { .. },
                _,
            ) => {
                let wanted = match key.takes {
                    Takes::Number(..) => "a whole number",
                    Takes::Ratio => "a number",
                    Takes::Switch => "true or false",
                    _ => "a list of strings",
                };
                Err(format!("takes {wanted}, not a TOML {}", value.type_str()))
            }
            (_, DeValue::String(text)) => Ok(vec![text.to_string()]),
            _ => Err(format!("takes a string, not a TOML {}", value.type_str())),
        }
    }

    fn check_names(&self, table: &DeTable<'a>, within: &str, complaints: &mut Vec<Complaint>) {
        for (key, value) in table {
            let name = format!("{within}{}", key.get_ref());
            if TABLES.contains(&name.as_str()) || keys::find(&name).is_some() {
                continue;
            }
            let prefix = format!("{name}.");
            let mut all = keys::groups().flat_map(|(_, keys)| keys).map(|key| key.name);
            if let DeValue::Table(inner) = value.get_ref()
                && all.any(|known| known.starts_with(&prefix))
            {
                self.check_names(inner, &prefix, complaints);
                continue;
            }
            let names = keys::groups().flat_map(|(_, keys)| keys).map(|key| key.name);
            let message = format!(
                "there is no such setting{}",
                nearest(&name, names.chain(TABLES.iter().copied()))
            );
            complaints.push(Complaint { place: self.place_at(key.span().start, &name), message });
        }
    }

    fn line(&self, at: usize) -> usize {
        1 + self.text.bytes().take(at).filter(|&byte| byte == b'\n').count()
    }
}

/// A TOML integer in decimal, if it is one that any setting could take.
fn plain(number: &str) -> String {
    let prefixes = [("0x", 16), ("0o", 8), ("0b", 2)];
    let prefixed =
        prefixes.iter().find_map(|(prefix, radix)| Some((number.strip_prefix(prefix)?, *radix)));
    let (digits, radix) = prefixed.unwrap_or((number, 10));
    u64::from_str_radix(digits, radix)
        .map_or_else(|_| number.to_owned(), |number| number.to_string())
}
