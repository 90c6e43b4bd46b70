//! Answers in EC2's XML: elements, and the envelopes around them.

use std::fmt::Display;

use quick_xml::{
    Writer,
    events::{BytesDecl, BytesEnd, BytesStart, BytesText, Event},
};

/// The version of EC2's API that is spoken.
pub const EC2_VERSION: &str = "2016-11-15";

/// The version of STS's API that is spoken.
pub const STS_VERSION: &str = "2011-06-15";

/// Whose protocol an answer is in: their envelopes differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// EC2.
    Ec2,
    /// STS.
    Sts,
}

/// An XML element: text or children.
#[derive(Debug)]
pub struct Element {
    name: &'static str,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Text(String),
    Children(Vec<Element>),
}

impl Element {
    /// An element that gets children.
    pub fn new(name: &'static str) -> Self {
        Self { name, content: Content::Children(Vec::new()) }
    }

    /// An element with text.
    pub fn text(name: &'static str, text: impl Display) -> Self {
        Self { name, content: Content::Text(text.to_string()) }
    }

    /// With another child.
    pub fn with(mut self, child: Element) -> Self {
        if let Content::Children(children) = &mut self.content {
            children.push(child);
        }
        self
    }

    /// With a text child.
    pub fn member(self, name: &'static str, text: impl Display) -> Self {
        self.with(Self::text(name, text))
    }

    /// With a text child, if there is a text.
    pub fn maybe(self, name: &'static str, text: Option<impl Display>) -> Self {
        match text {
            Some(text) => self.member(name, text),
            None => self,
        }
    }

    /// With a child that lists these: `<name><item>...</item></name>`.
    pub fn list(self, name: &'static str, items: impl IntoIterator<Item = Element>) -> Self {
        self.with(Self::items(name, items))
    }

    /// A list.
    pub fn items(name: &'static str, items: impl IntoIterator<Item = Element>) -> Self {
        let items = items.into_iter().map(|item| Self { name: "item", ..item }).collect();
        Self { name, content: Content::Children(items) }
    }

    fn write(&self, writer: &mut Writer<Vec<u8>>) -> std::io::Result<()> {
        writer.write_event(Event::Start(BytesStart::new(self.name)))?;
        match &self.content {
            Content::Text(text) => {
                writer.write_event(Event::Text(BytesText::new(&printable(text))))?;
            }
            Content::Children(children) => {
                for child in children {
                    child.write(writer)?;
                }
            }
        }
        writer.write_event(Event::End(BytesEnd::new(self.name)))
    }
}

/// The document that answers `action`.
pub fn answer(api: Api, action: &str, request_id: &str, body: &[Element]) -> Vec<u8> {
    let root = format!("{action}Response");
    match api {
        Api::Ec2 => {
            let namespace = format!("http://ec2.amazonaws.com/doc/{EC2_VERSION}/");
            document(&root, Some(&namespace), |writer| {
                Element::text("requestId", request_id).write(writer)?;
                body.iter().try_for_each(|element| element.write(writer))
            })
        }
        Api::Sts => {
            let namespace = format!("https://sts.amazonaws.com/doc/{STS_VERSION}/");
            let result = format!("{action}Result");
            document(&root, Some(&namespace), |writer| {
                writer.write_event(Event::Start(BytesStart::new(result.as_str())))?;
                body.iter().try_for_each(|element| element.write(writer))?;
                writer.write_event(Event::End(BytesEnd::new(result.as_str())))?;
                Element::new("ResponseMetadata").member("RequestId", request_id).write(writer)
            })
        }
    }
}

/// The document of an error.
pub fn error(api: Api, code: &str, message: &str, request_id: &str, ours: bool) -> Vec<u8> {
    match api {
        Api::Ec2 => {
            let error = Element::new("Error").member("Code", code).member("Message", message);
            document("Response", None, |writer| {
                Element::new("Errors").with(error).write(writer)?;
                Element::text("RequestID", request_id).write(writer)
            })
        }
        Api::Sts => {
            let namespace = format!("https://sts.amazonaws.com/doc/{STS_VERSION}/");
            document("ErrorResponse", Some(&namespace), |writer| {
                Element::new("Error")
                    .member("Type", if ours { "Receiver" } else { "Sender" })
                    .member("Code", code)
                    .member("Message", message)
                    .write(writer)?;
                Element::text("RequestId", request_id).write(writer)
            })
        }
    }
}

fn document(
    root: &str,
    namespace: Option<&str>,
    body: impl FnOnce(&mut Writer<Vec<u8>>) -> std::io::Result<()>,
) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    let mut start = BytesStart::new(root);
    if let Some(namespace) = namespace {
        start.push_attribute(("xmlns", namespace));
    }
    // Writing to memory cannot fail.
    let _ = writer
        .write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))
        .and_then(|()| writer.write_event(Event::Start(start)))
        .and_then(|()| body(&mut writer))
        .and_then(|()| writer.write_event(Event::End(BytesEnd::new(root))));
    writer.into_inner()
}

/// XML 1.0 has no way to write most control characters, not even escaped.
fn printable(text: &str) -> String {
    text.chars()
        .map(|character| match character {
            '\t' | '\n' | '\r' => character,
            '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => '\u{fffd}',
            _ => character,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(document: Vec<u8>) -> String {
        String::from_utf8(document).unwrap()
    }

    #[test]
    fn answers_have_ec2_s_envelope() {
        let body = [
            Element::text("return", true),
            Element::items(
                "set",
                [Element::new("x").member("a", "<&>\u{1}").maybe("b", None::<i32>)],
            ),
        ];
        assert_eq!(
            text(answer(Api::Ec2, "Act", "r-1", &body)),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
             <ActResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">\
             <requestId>r-1</requestId><return>true</return>\
             <set><item><a>&lt;&amp;&gt;\u{fffd}</a></item></set></ActResponse>"
        );
        assert_eq!(
            text(error(Api::Ec2, "Code", "a < b", "r-1", false)),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Response><Errors><Error><Code>Code</Code>\
             <Message>a &lt; b</Message></Error></Errors><RequestID>r-1</RequestID></Response>"
        );
    }

    #[test]
    fn answers_have_sts_s_envelope() {
        let body = [Element::text("Account", "123456789012")];
        assert_eq!(
            text(answer(Api::Sts, "Act", "r-1", &body)),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
             <ActResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
             <ActResult><Account>123456789012</Account></ActResult>\
             <ResponseMetadata><RequestId>r-1</RequestId></ResponseMetadata></ActResponse>"
        );
        assert_eq!(
            text(error(Api::Sts, "Code", "no", "r-1", true)),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
             <ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
             <Error><Type>Receiver</Type><Code>Code</Code><Message>no</Message></Error>\
             <RequestId>r-1</RequestId></ErrorResponse>"
        );
    }
}
