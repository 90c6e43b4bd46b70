//! The parameters of a request in EC2's Query protocol: `IpPermissions.1.IpRanges.2.CidrIp=10.0.0.0/8` is a tree, and
//! whoever reads it takes out the members that an action has. What is left in the end is not recognized.

use std::collections::BTreeMap;

use crate::{backend::Refusal, rule::permission::excerpt};

/// The most parameters of one request. A thousand rules with all their members are fewer.
const MAX_PARAMETERS: usize = 16_384;

/// The most names in a row, such as the four of `IpPermissions.1.IpRanges.1.CidrIp`, twice over.
const MAX_DEPTH: usize = 10;

/// The members of a structure that nobody has read yet.
#[derive(Debug, Default)]
pub struct Fields {
    /// Where the structure is, with a dot at its end; empty at the top.
    path: String,
    members: BTreeMap<String, Node>,
}

#[derive(Debug)]
enum Node {
    Text(String),
    Members(BTreeMap<String, Node>),
}

impl Fields {
    /// Parses a form.
    pub fn parse(form: &[u8]) -> Result<Self, Refusal> {
        let mut fields = Self::default();
        for (count, (name, value)) in form_urlencoded::parse(form).enumerate() {
            if count == MAX_PARAMETERS {
                let message = format!("More than {MAX_PARAMETERS} parameters.");
                return Err(Refusal::new("MalformedQueryString", message));
            }
            if !insert(&mut fields.members, &name, value.into_owned()) {
                let message = format!("The parameter {} is given in two ways.", excerpt(&name));
                return Err(Refusal::new("MalformedQueryString", message));
            }
        }
        Ok(fields)
    }

    /// A text, which stays.
    pub fn peek(&self, name: &str) -> Option<&str> {
        match self.members.get(name)? {
            Node::Text(text) => Some(text),
            Node::Members(_) => None,
        }
    }

    /// Takes a text.
    pub fn text(&mut self, name: &str) -> Option<String> {
        match self.members.remove(name) {
            Some(Node::Text(text)) => Some(text),
            Some(node) => {
                self.members.insert(name.to_owned(), node);
                None
            }
            None => None,
        }
    }

    /// Takes a whole number. An empty text is none, as in CLI skeletons.
    pub fn number(&mut self, name: &str) -> Result<Option<i32>, Refusal> {
        match self.text(name).filter(|text| !text.is_empty()) {
            None => Ok(None),
            Some(text) => match text.parse() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(self.invalid(name, &text, "a 32-bit integer")),
            },
        }
    }

    /// Takes a truth value.
    pub fn flag(&mut self, name: &str) -> Result<Option<bool>, Refusal> {
        match self.text(name).filter(|text| !text.is_empty()) {
            None => Ok(None),
            Some(text) if text == "1" || text.eq_ignore_ascii_case("true") => Ok(Some(true)),
            Some(text) if text == "0" || text.eq_ignore_ascii_case("false") => Ok(Some(false)),
            Some(text) => Err(self.invalid(name, &text, "true or false")),
        }
    }

    /// Takes a list of structures: `Name.1.Member`, `Name.2.Member`. Gaps in the numbers do not matter.
    pub fn list<T>(
        &mut self,
        name: &str,
        read: impl Fn(&mut Fields) -> Result<T, Refusal>,
    ) -> Result<Vec<T>, Refusal> {
        let mut list = Vec::new();
        for (number, node) in self.numbered(name) {
            let path = format!("{}{name}.{number}.", self.path);
            let members = match node {
                Node::Members(members) => members,
                // How SDKs write an element without members.
                Node::Text(text) if text.is_empty() => BTreeMap::new(),
                Node::Text(_) => return Err(unknown(path.trim_end_matches('.'))),
            };
            let mut item = Fields { path, members };
            list.push(read(&mut item)?);
            item.finish()?;
        }
        Ok(list)
    }

    /// Takes a list of texts: `Name.1`, `Name.2`.
    pub fn texts(&mut self, name: &str) -> Result<Vec<String>, Refusal> {
        let mut texts = Vec::new();
        for (number, node) in self.numbered(name) {
            match node {
                Node::Text(text) => texts.push(text),
                Node::Members(members) => {
                    let path = format!("{}{name}.{number}.", self.path);
                    Fields { path, members }.finish()?;
                }
            }
        }
        Ok(texts)
    }

    /// Takes a structure: `Name.Member`.
    pub fn structure<T>(
        &mut self,
        name: &str,
        read: impl Fn(&mut Fields) -> Result<T, Refusal>,
    ) -> Result<Option<T>, Refusal> {
        if !matches!(self.members.get(name), Some(Node::Members(_))) {
            return Ok(None);
        }
        let Some(Node::Members(members)) = self.members.remove(name) else { return Ok(None) };
        let mut inner = Fields { path: format!("{}{name}.", self.path), members };
        let value = read(&mut inner)?;
        inner.finish()?;
        Ok(Some(value))
    }

    /// Drops what has nothing to do with the action.
    pub fn ignore(&mut self, name: &str) {
        self.members.remove(name);
    }

    /// EC2's error for a parameter that nobody has read.
    pub fn finish(&self) -> Result<(), Refusal> {
        let Some((name, mut node)) = self.members.first_key_value() else { return Ok(()) };
        let mut path = format!("{}{name}", self.path);
        while let Node::Members(members) = node {
            let Some((name, inner)) = members.first_key_value() else { break };
            path = format!("{path}.{name}");
            node = inner;
        }
        Err(unknown(&path))
    }

    /// The elements of a list in the order of their numbers. What is no list stays.
    fn numbered(&mut self, name: &str) -> Vec<(u32, Node)> {
        match self.members.get(name) {
            Some(Node::Members(members))
                if members.keys().all(|key| key.parse::<u32>().is_ok_and(|number| number > 0)) => {}
            // How SDKs write a list without elements.
            Some(Node::Text(text)) if text.is_empty() => {
                self.members.remove(name);
                return Vec::new();
            }
            _ => return Vec::new(),
        }
        let Some(Node::Members(members)) = self.members.remove(name) else { return Vec::new() };
        let mut list: Vec<(u32, Node)> =
            members.into_iter().filter_map(|(key, node)| Some((key.parse().ok()?, node))).collect();
        list.sort_by_key(|(number, _)| *number);
        list
    }

    fn invalid(&self, name: &str, text: &str, expected: &str) -> Refusal {
        let (path, text) = (excerpt(&format!("{}{name}", self.path)), excerpt(text));
        let message = format!("Invalid value '{text}' for {path}. Expecting {expected}.");
        Refusal::new("InvalidParameterValue", message)
    }
}

fn unknown(path: &str) -> Refusal {
    let message = format!("The parameter {} is not recognized", excerpt(path));
    Refusal::new("UnknownParameter", message)
}

/// Puts a text where its name says. False: something is there, or on the way there.
fn insert(mut members: &mut BTreeMap<String, Node>, name: &str, text: String) -> bool {
    let mut names = name.splitn(MAX_DEPTH, '.').peekable();
    while let Some(name) = names.next() {
        if names.peek().is_none() {
            return members.insert(name.to_owned(), Node::Text(text)).is_none();
        }
        let node = members.entry(name.to_owned()).or_insert_with(|| Node::Members(BTreeMap::new()));
        let Node::Members(inner) = node else { return false };
        members = inner;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(form: &str) -> Fields {
        Fields::parse(form.as_bytes()).unwrap()
    }

    fn pair(fields: &mut Fields) -> Result<(Option<String>, Option<i32>), Refusal> {
        Ok((fields.text("Text"), fields.number("Number")?))
    }

    #[test]
    fn texts_numbers_and_flags_are_taken_once() {
        let mut form = fields("A=x%20y&B=-1&C=TRUE&D=0&E=&F=+");
        assert_eq!(form.text("A").as_deref(), Some("x y"));
        assert_eq!(form.text("A"), None);
        assert_eq!(form.number("B"), Ok(Some(-1)));
        assert_eq!((form.flag("C"), form.flag("D")), (Ok(Some(true)), Ok(Some(false))));
        assert_eq!((form.number("E"), form.flag("Z")), (Ok(None), Ok(None)));
        assert_eq!(form.finish().unwrap_err().message, "The parameter F is not recognized");
    }

    #[test]
    fn lists_come_in_the_order_of_their_numbers() {
        let mut form = fields("L.10.Text=c&L.2.Number=2&L.2.Text=b&L.1=&T.2=y&T.1=x&M=");
        let list = form.list("L", pair).unwrap();
        let of = |text: &str, number| (Some(text.to_owned()), number);
        assert_eq!(list, [(None, None), of("b", Some(2)), of("c", None)]);
        assert_eq!(form.texts("T").unwrap(), ["x", "y"]);
        assert_eq!(form.texts("M").unwrap(), [""; 0]);
        assert_eq!(form.finish(), Ok(()));
    }

    #[test]
    fn what_no_action_has_is_named_in_full() {
        for (form, path) in [
            ("L.1.Text=a&L.1.Other.3=b", "L.1.Other.3"),
            ("L.0.Text=a", "L.0.Text"),
            ("L.x.Text=a", "L.x.Text"),
            ("L.1=a", "L.1"),
            ("L=a", "L"),
            ("T=a", "T"),
            ("T.1.x=a", "T.1.x"),
            ("T.1.2.3.4.5.6.7.8.9.10.11=a", "T.1.2.3.4.5.6.7.8.9.10.11"),
            ("S.Text.1=a", "S.Text.1"),
        ] {
            let mut form = fields(form);
            let error = form
                .list("L", pair)
                .and_then(|_| form.texts("T"))
                .and_then(|_| form.structure("S", pair))
                .and_then(|_| form.finish())
                .unwrap_err();
            assert_eq!(error.code, "UnknownParameter");
            assert_eq!(error.message, format!("The parameter {path} is not recognized"));
        }
    }

    #[test]
    fn bad_values_are_named() {
        let mut form = fields("L.1.Number=1.5&F=yes");
        let error = form.list("L", pair).unwrap_err();
        assert_eq!(
            (error.code.as_str(), error.message.as_str()),
            (
                "InvalidParameterValue",
                "Invalid value '1.5' for L.1.Number. Expecting a 32-bit integer."
            )
        );
        let error = form.flag("F").unwrap_err();
        assert_eq!(error.message, "Invalid value 'yes' for F. Expecting true or false.");
    }

    #[test]
    fn what_is_there_twice_or_too_often_is_malformed() {
        let many = "A.1=&".repeat(MAX_PARAMETERS + 1);
        let distinct: String = (0..=MAX_PARAMETERS).map(|number| format!("A.{number}=&")).collect();
        for form in ["A=1&A=2", "A=1&A.1=2", "A.1=2&A=1", &many, &distinct] {
            assert_eq!(Fields::parse(form.as_bytes()).unwrap_err().code, "MalformedQueryString");
        }
        for form in ["", "&&", "=", "=x", "%", "A.=1", ".=1", "\u{0}=\u{1}", "A..B=1"] {
            assert!(Fields::parse(form.as_bytes()).is_ok(), "{form}");
        }
    }
}
