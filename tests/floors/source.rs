//! Reads just enough Rust: code apart from comments and quotes, and the paths in it.

/// The text with comments and quotes blanked: what they hold is not code.
pub(super) fn code_of(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let hashes = rest.iter().skip(1).take_while(|&&byte| byte == b'#').count();
        let end = match rest {
            [b'/', b'/', ..] => after(bytes, at, b"\n") - 1,
            [b'/', b'*', ..] => after(bytes, at + 2, b"*/"),
            [b'r', ..] if rest.get(1 + hashes) == Some(&b'"') => {
                after(bytes, at + hashes + 2, format!("\"{}", "#".repeat(hashes)).as_bytes())
            }
            [b'"', ..] => {
                let mut end = at + 1;
                while end < bytes.len() && bytes[end] != b'"' {
                    end += if bytes[end] == b'\\' { 2 } else { 1 };
                }
                end + 1
            }
            [b'\'', b'\\', _, ..] => after(bytes, at + 3, b"'"),
            [b'\'', _, b'\'', ..] => at + 3,
            _ => at,
        };
        let end = end.min(bytes.len());
        code[at..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
        at = end.max(at + 1);
    }
    code.iter_mut().filter(|byte| !byte.is_ascii()).for_each(|byte| *byte = b' ');
    String::from_utf8(code).unwrap()
}

/// The position after the next `needle`, or the end.
fn after(bytes: &[u8], from: usize, needle: &[u8]) -> usize {
    let found = (from..bytes.len()).find(|&at| bytes[at..].starts_with(needle));
    found.map_or(bytes.len(), |at| at + needle.len())
}

/// Every path of two or more segments: where it is, in how many inline modules, and its segments. Use groups are
/// spread, and a glob is an empty segment.
pub(super) fn paths(code: &str) -> Vec<(usize, usize, Vec<&str>)> {
    let (mut all, mut inline, mut braces, mut at, mut last) = (Vec::new(), Vec::new(), 0, 0, "");
    while at < code.len() {
        match code.as_bytes()[at] {
            byte if is_word(byte) => {
                let mut found = Vec::new();
                let end = path_tree(code, at, &[], &mut found);
                if last == "mod" && code[end..].trim_start().starts_with('{') {
                    inline.push(braces);
                }
                last = &code[at..end];
                let depth = inline.len();
                found.retain(|(_, path)| path.len() > 1);
                all.extend(found.into_iter().map(|(at, path)| (at, depth, path)));
                at = end;
                continue;
            }
            b'{' => braces += 1,
            b'}' => {
                braces -= 1;
                inline.pop_if(|outside| *outside == braces);
            }
            _ => {}
        }
        at += 1;
    }
    all
}

/// Reads the path that goes on at `at` after `path`, and returns its end.
fn path_tree<'a>(
    code: &'a str,
    mut at: usize,
    path: &[&'a str],
    found: &mut Vec<(usize, Vec<&'a str>)>,
) -> usize {
    if code[at..].starts_with('{') {
        at += 1;
        loop {
            let gap = code[at..].find(|c: char| c != ',' && !c.is_whitespace());
            at += gap.unwrap_or(code.len() - at);
            if at == code.len() || code[at..].starts_with('}') {
                return code.len().min(at + 1);
            }
            at = path_tree(code, at, path, found);
            at += code[at..].find([',', '}']).unwrap_or(code.len() - at);
        }
    }
    let end = at + code[at..].bytes().take_while(|&byte| is_word(byte)).count();
    let path = [path, &[&code[at..end]]].concat();
    let on = code[end..].strip_prefix("::").and_then(|rest| rest.bytes().next());
    if on.is_some_and(|byte| is_word(byte) || b"{*".contains(&byte)) {
        return path_tree(code, end + 2, &path, found);
    }
    found.push((at, path));
    end
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}
