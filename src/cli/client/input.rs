//! The values of flags, in the forms that the AWS CLI takes: JSON, `file://PATH`, or shorthand.

use std::{fs::File, io::Read as _};

use serde_json::{Map, Value};

use super::{
    schema::{Form, Schema},
    shorthand,
};

/// The most bytes of a file; a request this long is over every server's limit.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Reads values and checks them against the contract. Errors begin with the flag's name.
#[derive(Debug)]
pub struct Input {
    schema: Schema,
}

impl Input {
    /// With the contract's schema.
    pub fn new() -> Result<Self, String> {
        Schema::new().map(|schema| Self { schema })
    }

    /// A list of messages: one word that is a JSON list, or JSON objects and shorthand, one in each word.
    pub fn items(&self, flag: &str, message: &str, words: &[String]) -> Result<Value, String> {
        let (flag, words) = files(flag, words)?;
        let items = match json_list(&flag, &words)? {
            Some(items) => items.into_iter().map(|item| (item, Form::Json)).collect(),
            None => {
                let items = words.iter().enumerate().map(|(at, word)| {
                    let name = if words.len() == 1 {
                        flag.clone()
                    } else {
                        format!("{flag}, word {}", at + 1)
                    };
                    if word.trim_start().starts_with('{') {
                        return Ok((json(&name, word)?, Form::Json));
                    }
                    let item =
                        shorthand::parse(word).map_err(|fault| format!("{name}: {fault}"))?;
                    Ok((item, Form::Shorthand))
                });
                items.collect::<Result<Vec<_>, String>>()?
            }
        };
        let items = items.into_iter().enumerate().map(|(at, (item, form))| {
            self.schema
                .check(message, item, &format!("[{at}]"), form)
                .map_err(|e| format!("{flag}: {e}"))
        });
        items.collect::<Result<_, _>>().map(Value::Array)
    }

    /// A list of texts: one word that is a JSON list, or the words themselves.
    pub fn texts(&self, flag: &str, words: &[String]) -> Result<Value, String> {
        let (flag, words) = files(flag, words)?;
        let texts = json_list(&flag, &words)?;
        let texts = texts.unwrap_or_else(|| words.into_iter().map(Value::String).collect());
        match texts.iter().enumerate().find(|(_, text)| !text.is_string()) {
            Some((at, other)) => Err(format!("{flag}: [{at}]: expected text, but found {other}")),
            None => Ok(Value::Array(texts)),
        }
    }

    /// A JSON object that is a whole message.
    pub fn object(
        &self,
        flag: &str,
        message: &str,
        text: &str,
    ) -> Result<Map<String, Value>, String> {
        let (flag, words) = files(flag, &[text.to_owned()])?;
        let value = json(&flag, &words.concat())?;
        let checked = self.schema.check(message, value, "", Form::Json);
        match checked.map_err(|error| format!("{flag}: {error}"))? {
            Value::Object(members) => Ok(members),
            _ => Err(format!("{flag}: expected a JSON object")),
        }
    }
}

/// The words, or what stands in the file that the only word names; and the flag with that name.
fn files(flag: &str, words: &[String]) -> Result<(String, Vec<String>), String> {
    let [word] = words else {
        return match words.iter().find(|word| word.starts_with("file://")) {
            Some(word) => Err(format!("{flag}: {word} must be the only value")),
            None => Ok((flag.to_owned(), words.to_vec())),
        };
    };
    if word.starts_with("fileb://") {
        return Err(format!("{flag}: {word}: fileb:// is for binary values; use file://"));
    }
    let Some(path) = word.strip_prefix("file://") else {
        return Ok((flag.to_owned(), vec![word.clone()]));
    };
    let flag = format!("{flag}: {path}");
    let mut text = String::new();
    let read =
        File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text));
    match read {
        Err(error) => Err(format!("{flag}: cannot be read: {error}")),
        Ok(length) if length as u64 > MAX_FILE_BYTES => {
            Err(format!("{flag}: is longer than {MAX_FILE_BYTES} bytes"))
        }
        Ok(_) => Ok((flag, vec![text.trim().to_owned()])),
    }
}

fn json_list(flag: &str, words: &[String]) -> Result<Option<Vec<Value>>, String> {
    match words.iter().find(|word| word.trim_start().starts_with('[')) {
        None => Ok(None),
        Some(_) if words.len() > 1 => Err(format!("{flag}: a JSON list must be the only value")),
        Some(word) => match json(flag, word)? {
            Value::Array(items) => Ok(Some(items)),
            _ => Err(format!("{flag}: expected a JSON list")),
        },
    }
}

fn json(flag: &str, text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("{flag}: not JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn items(words: &[&str]) -> Result<Value, String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        Input::new().unwrap().items("--filters", "Filter", &words)
    }

    #[test]
    fn every_form_of_a_list_is_read() {
        let both = json!([{"Name": "a", "Values": ["b"]}, {"Name": "c", "Values": ["d", "e"]}]);
        for words in [
            &["Name=a,Values=b", "Name=c,Values=d,e"][..],
            &["Name=a,Values=[b]", r#"{"Name": "c", "Values": ["d", "e"]}"#],
            &[r#" [{"Name": "a", "Values": ["b"]}, {"name": "c", "values": ["d", "e"]}]"#],
        ] {
            assert_eq!(items(words), Ok(both.clone()), "{words:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_by_flag_and_word() {
        for (words, says) in [
            (&["Name=a", "Name"][..], "--filters, word 2: character 5: expected '='"),
            (&["Name"], "--filters: character 5: expected '='"),
            (&["Name=a", "Nmae=b"], "--filters: [1]: there is no \"Nmae\"; did you mean Name?"),
            (&["[1]"], "--filters: [0]: expected keys with values, but found the number 1"),
            (&["[{]"], "--filters: not JSON: "),
            (&["[]", "Name=a"], "--filters: a JSON list must be the only value"),
            (&["{\"Name\": \"a\", \"Values\": \"b\"}"], "[0].Values: expected a list"),
            (&["file:///no/such/file"], "--filters: /no/such/file: cannot be read: "),
            (&["file:///dev/zero"], "--filters: /dev/zero: is longer than 16777216 bytes"),
            (&["Name=a", "file://x"], "--filters: file://x must be the only value"),
            (&["fileb://x"], "use file://"),
        ] {
            let error = items(words).unwrap_err();
            assert!(error.contains(says), "{says:?} in {error:?}");
        }
        let input = Input::new().unwrap();
        let error = input.texts("--group-ids", &["[\"a\", 1]".to_owned()]).unwrap_err();
        assert_eq!(error, "--group-ids: [1]: expected text, but found 1");
        let error = input.object("--cli-input-json", "Filter", "[]").unwrap_err();
        assert!(error.starts_with("--cli-input-json: expected keys"), "{error}");
    }
}
