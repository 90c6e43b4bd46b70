//! The AWS CLI's shorthand: `IpProtocol=tcp,FromPort=443,IpRanges=[{CidrIp=10.0.0.0/8,Description="a b"}]`.
//!
//! It knows no schema: every scalar is text. The grammar is the AWS CLI's own (`awscli/shorthand.py`), but likely
//! mistakes are faults: an empty key, a key twice inside braces, a value that begins with a closing bracket. What the
//! AWS CLI refuses without need is read: an empty value inside braces, spaces at the end. `key@=file://...` is refused.

use std::fmt;

use serde_json::{Map, Value};

/// Deeper nesting is no request of ours; each level is a call on the stack.
const MAX_DEPTH: usize = 16;

/// What is wrong with a text, and where.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    /// The character where reading stopped, from 0.
    at: usize,
    problem: String,
    text: String,
}

impl fmt::Display for Fault {
    /// The problem, then the line it is on with a mark below the character.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before: String = self.text.chars().take(self.at).collect();
        let column = before.chars().rev().take_while(|&char| char != '\n').count();
        let line = self.text.split('\n').nth(before.matches('\n').count()).unwrap_or_default();
        let mark = " ".repeat(column);
        write!(f, "character {}: {}\n  {line}\n  {mark}^", self.at + 1, self.problem)
    }
}

/// Reads one word of shorthand: `key=value` pairs with commas between.
pub fn parse(text: &str) -> Result<Value, Fault> {
    let mut parser = Parser { chars: text.chars().collect(), at: 0 };
    parser.pairs().map(Value::Object).map_err(|(at, problem)| Fault {
        at,
        problem,
        text: text.to_owned(),
    })
}

type Parsed<T> = Result<T, (usize, String)>;

struct Parser {
    chars: Vec<char>,
    at: usize,
}

impl Parser {
    fn now(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn skip_spaces(&mut self) {
        while self.now().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
    }

    fn fail<T>(&self, expected: &str) -> Parsed<T> {
        let found = match self.now() {
            Some(char) => format!("found '{char}'"),
            None => "the text ends".to_owned(),
        };
        Err((self.at, format!("expected {expected}, but {found}")))
    }

    fn expect(&mut self, char: char, expected: &str) -> Parsed<()> {
        self.skip_spaces();
        if self.now() != Some(char) {
            return self.fail(expected);
        }
        self.at += 1;
        self.skip_spaces();
        Ok(())
    }

    /// All of the text.
    fn pairs(&mut self) -> Parsed<Map<String, Value>> {
        let mut pairs = Map::new();
        loop {
            self.skip_spaces();
            let start = self.at;
            let key = self.key()?;
            let value = self.top_value()?;
            add(&mut pairs, key, value, start)?;
            self.skip_spaces();
            if self.now().is_none() {
                return Ok(pairs);
            }
            self.expect(',', "',' or the end")?;
        }
    }

    /// A key and the `=` after it.
    fn key(&mut self) -> Parsed<String> {
        let start = self.at;
        while self.now().is_some_and(|char| char.is_ascii_alphanumeric() || "-_.#/:".contains(char))
        {
            self.at += 1;
        }
        let key: String = self.chars.iter().take(self.at).skip(start).collect();
        if key.is_empty() {
            return self.fail("a key such as IpProtocol=");
        }
        self.skip_spaces();
        if self.now() == Some('@') {
            return Err((
                self.at,
                "'@=' is not supported: give the value itself, or all of it as file://".to_owned(),
            ));
        }
        self.expect('=', "'=' after the key")?;
        Ok(key)
    }

    /// Outside brackets a value may be a list with commas: `Values=a,b`.
    fn top_value(&mut self) -> Parsed<Value> {
        if matches!(self.now(), Some('[' | '{')) {
            return self.value(0);
        }
        let first = self.scalar(Self::ends_value)?;
        let mut list = Vec::new();
        loop {
            self.skip_spaces();
            let comma = self.at;
            if self.now() != Some(',') {
                break;
            }
            self.at += 1;
            self.skip_spaces();
            // What follows the comma is one more value, or the next key.
            let start = self.at;
            let more = self.scalar(Self::ends_list_value)?;
            let empty = self.at == start;
            self.skip_spaces();
            match self.now() {
                None if empty => return self.fail("a value or key=value after ','"),
                None | Some(',') if !empty => list.push(Value::String(more)),
                _ => {
                    self.at = comma;
                    break;
                }
            }
        }
        if list.is_empty() {
            return Ok(Value::String(first));
        }
        list.insert(0, Value::String(first));
        Ok(Value::Array(list))
    }

    /// A value inside brackets, or one that begins with one.
    fn value(&mut self, depth: usize) -> Parsed<Value> {
        if depth > MAX_DEPTH {
            return Err((self.at, format!("nested more than {MAX_DEPTH} deep")));
        }
        match self.now() {
            Some('[') => self.list(depth).map(Value::Array),
            Some('{') => self.braces(depth).map(Value::Object),
            _ => self.scalar(Self::ends_value).map(Value::String),
        }
    }

    fn list(&mut self, depth: usize) -> Parsed<Vec<Value>> {
        self.expect('[', "'['")?;
        let mut values = Vec::new();
        while self.now() != Some(']') {
            values.push(self.value(depth + 1)?);
            self.skip_spaces();
            if self.now() != Some(']') {
                self.expect(',', "',' or ']'")?;
            }
        }
        self.at += 1;
        Ok(values)
    }

    fn braces(&mut self, depth: usize) -> Parsed<Map<String, Value>> {
        self.expect('{', "'{'")?;
        let mut pairs = Map::new();
        while self.now() != Some('}') {
            let start = self.at;
            let key = self.key()?;
            let value = self.value(depth + 1)?;
            add(&mut pairs, key, value, start)?;
            self.skip_spaces();
            if self.now() != Some('}') {
                self.expect(',', "',' or '}'")?;
            }
        }
        self.at += 1;
        Ok(pairs)
    }

    /// Text up to what `ends` it, or in quotes. It may be empty.
    fn scalar(&mut self, ends: fn(char) -> bool) -> Parsed<String> {
        if let Some(quote @ ('"' | '\'')) = self.now() {
            return self.quoted(quote);
        }
        // These can stand inside a value but not begin it.
        if self.now().is_some_and(|char| "=[{".contains(char)) {
            return Ok(String::new());
        }
        let mut text = String::new();
        while let Some(char) = self.now() {
            if char == '\\' && self.chars.get(self.at + 1) == Some(&',') {
                text.push(',');
                self.at += 2;
            } else if ends(char) {
                break;
            } else {
                text.push(char);
                self.at += 1;
            }
        }
        text.truncate(text.trim_end().len());
        Ok(text)
    }

    fn ends_value(char: char) -> bool {
        "\"',]}".contains(char)
    }

    /// The values after the first in a list without brackets: `=` shows that it was a key.
    fn ends_list_value(char: char) -> bool {
        "\"',=".contains(char)
    }

    fn quoted(&mut self, quote: char) -> Parsed<String> {
        let start = self.at;
        self.at += 1;
        let mut text = String::new();
        while let Some(char) = self.now() {
            self.at += 1;
            match char {
                '\\' if self.now().is_some_and(|next| next == quote || next == '\\') => {
                    text.extend(self.now());
                    self.at += 1;
                }
                _ if char == quote => return Ok(text),
                _ => text.push(char),
            }
        }
        Err((start, format!("expected a closing {quote} for this one, but the text ends")))
    }
}

fn add(pairs: &mut Map<String, Value>, key: String, value: Value, at: usize) -> Parsed<()> {
    if pairs.contains_key(&key) {
        let hint = "if the next item begins here, put a space in place of the comma";
        return Err((at, format!("the key {key} comes a second time; {hint}")));
    }
    pairs.insert(key, value);
    Ok(())
}

#[cfg(test)]
mod tests;
