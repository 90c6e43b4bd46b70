//! What differs from run to run, made the same.

/// Ids that are drawn at random become names. The sample's own rule ids are fixed, and stay: they begin with zeros.
pub fn normal(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c: char| !in_word(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end.max(first.len_utf8()));
        out.push_str(name(word));
        rest = after;
    }
    out
}

fn in_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-'
}

fn name(word: &str) -> &str {
    match word.split_once('-') {
        Some(("op", id)) if is_uuid(id) => "OPERATION-ID",
        Some(("sgr", id)) if id.len() == 17 && !id.starts_with("0000000000") => "RULE-ID",
        Some(_) if is_uuid(word) => "REQUEST-ID",
        _ => word,
    }
}

fn is_uuid(text: &str) -> bool {
    let parts: Vec<usize> = text.split('-').map(str::len).collect();
    parts == [8, 4, 4, 4, 12] && text.chars().all(|c| c == '-' || c.is_ascii_hexdigit())
}

#[test]
fn only_what_is_random_is_named() {
    let uuid = "01a20855-7df9-7f97-883a-5e3bf834e895";
    let text =
        format!("op-{uuid} \"{uuid}\" sgr-0123456789abcdef0 sgr-0000000000000d1e1 op-1 – sg-1");
    let named = "OPERATION-ID \"REQUEST-ID\" RULE-ID sgr-0000000000000d1e1 op-1 – sg-1";
    assert_eq!(normal(&text), named);
}
