//! Answers as people read them, and as JSON. What a server sends is not trusted with a terminal.

use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width, presets};
use serde::Serialize;

use crate::{
    api::proto::v1::{self, unknown_explanation::Subject},
    rule::{Protocol, Traffic, traffic::Ports},
};

/// A column of free text keeps at least so much; less room, and the rows become blocks.
const LEAST_TEXT: usize = 12;
/// More of a cell is no help to anybody.
const MOST_OF_A_CELL: usize = 1000;

pub mod operations;

/// One line's worth of text that does nothing to a terminal.
pub fn clean(text: &str) -> String {
    let clean = |char: char| match char {
        '\n' | '\r' | '\t' => ' ',
        char if acts(char) => char::REPLACEMENT_CHARACTER,
        char => char,
    };
    text.chars().map(clean).collect()
}

/// Whether a character moves, colours or reorders rather than shows.
fn acts(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Protobuf JSON. Characters that act are escaped, also those that JSON itself lets pass.
pub fn json(answer: &impl Serialize) -> String {
    let text = serde_json::to_string_pretty(answer).unwrap_or_default();
    let mut safe = String::with_capacity(text.len() + 1);
    for char in text.chars() {
        // Outside of strings JSON has only line feeds, and inside of them it has none.
        if char != '\n' && acts(char) {
            safe.push_str(&format!("\\u{:04x}", u32::from(char)));
        } else {
            safe.push(char);
        }
    }
    safe.push('\n');
    safe
}

/// Text in lines that fit a terminal; without a width each stays whole.
#[derive(Debug)]
pub struct Lines {
    width: Option<usize>,
    text: String,
}

impl Lines {
    /// No lines yet.
    pub fn new(width: Option<usize>) -> Self {
        Self { width, text: String::new() }
    }

    /// Adds a text, broken between words; what follows the first line stands a little further in.
    pub fn add(&mut self, indent: usize, text: &str) {
        let width = self.width.unwrap_or(usize::MAX);
        let mut line = " ".repeat(indent);
        let mut used = indent;
        for (at, word) in clean(text).split(' ').filter(|word| !word.is_empty()).enumerate() {
            let length = word.chars().count();
            if at > 0 && used + 1 + length > width {
                self.text.push_str(&line);
                self.text.push('\n');
                line = " ".repeat(indent + 2);
                used = indent + 2;
            } else if at > 0 {
                line.push(' ');
                used += 1;
            }
            line.push_str(word);
            used += length;
        }
        self.text.push_str(&line);
        self.text.push('\n');
    }

    /// Adds a table. A column with free text takes several lines if it must; what cannot be broken never is: if it
    /// does not fit, each row becomes a block of its own.
    fn table<const N: usize>(&mut self, columns: [(&str, Kind); N], rows: &[[String; N]]) {
        let cell = |text: &String| clean(&text.chars().take(MOST_OF_A_CELL).collect::<String>());
        let rows: Vec<[String; N]> = rows.iter().map(|row| row.each_ref().map(cell)).collect();
        let mut table = Table::new();
        table.load_style(presets::ASCII_FULL_CONDENSED).set_header(columns.map(|(name, _)| name));
        table.add_rows(rows.iter().map(|row| row.to_vec()));
        let widths = table.column_max_content_widths();
        let least = columns.iter().zip(&widths).map(|((_, kind), width)| match kind {
            Kind::Word => usize::from(*width),
            Kind::Text => usize::from(*width).min(LEAST_TEXT),
        });
        // A border and a space on either side of each, and one more border.
        let least = least.sum::<usize>() + 3 * N + 1;
        let Some(width) = self.width.map(|width| u16::try_from(width).unwrap_or(u16::MAX)) else {
            return self.push(&table);
        };
        if least > usize::from(width) {
            return self.blocks(columns, &rows);
        }
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        table.set_constraints(columns.map(|(_, kind)| match kind {
            Kind::Word => ColumnConstraint::ContentWidth,
            Kind::Text => ColumnConstraint::UpperBoundary(Width::Fixed(width)),
        }));
        self.push(&table);
    }

    fn push(&mut self, table: &Table) {
        self.text.push_str(&table.trim_fmt());
        self.text.push('\n');
    }

    fn blocks<const N: usize>(&mut self, columns: [(&str, Kind); N], rows: &[[String; N]]) {
        for row in rows {
            for ((at, cell), (name, _)) in row.iter().enumerate().zip(columns) {
                if !cell.is_empty() {
                    self.add(if at == 0 { 0 } else { 2 }, &format!("{name}: {cell}"));
                }
            }
        }
    }

    /// The text.
    pub fn finish(self) -> String {
        self.text
    }
}

/// What stands in a column.
#[derive(Clone, Copy)]
enum Kind {
    /// Ids and the like, which are copied and must stay whole.
    Word,
    /// What may be broken.
    Text,
}

// === impl answers ===

/// What a revoke did.
pub fn revoked(answer: &v1::RevokeEgressResponse, group: &str, width: Option<usize>) -> String {
    let mut lines = Lines::new(width);
    let rules: Vec<Rule> = answer.revoked_security_group_rules.iter().map(Rule::from).collect();
    rule_table(&mut lines, &rules, true);
    let count = count(rules.len(), "rule");
    let unknown = answer.unknown_explanations.len();
    lines.add(
        0,
        &match answer.outcome() {
            _ if answer.dry_run => dry_run(),
            v1::Outcome::RevokedAll => format!("Revoked all that was asked: {count} of {group}."),
            v1::Outcome::RevokedPart => {
                format!("Revoked a part: {count} of {group}; {unknown} unknown.")
            }
            v1::Outcome::RevokedNothing => {
                format!("Revoked nothing: {group} has no such rule; {unknown} unknown.")
            }
            v1::Outcome::Unspecified => format!("Revoked {count} of {group}."),
        },
    );
    explanations(&mut lines, &answer.unknown_explanations, "");
    if let Some(seen) = &answer.verification {
        let reads = self::count(usize::try_from(seen.attempts).unwrap_or_default(), "read");
        lines.add(
            0,
            &if seen.visible {
                format!("Verified: the change was visible after {reads}.")
            } else {
                format!("Not verified: the change was not visible yet after {reads}.")
            },
        );
    }
    warnings(&mut lines, &answer.warnings);
    operation(&mut lines, &answer.operation_id);
    lines.finish()
}

/// What an authorize did.
pub fn authorized(
    answer: &v1::AuthorizeEgressResponse,
    group: &str,
    width: Option<usize>,
) -> String {
    let mut lines = Lines::new(width);
    let rules: Vec<Rule> = answer.security_group_rules.iter().map(Rule::from).collect();
    rule_table(&mut lines, &rules, true);
    let count = count(rules.len(), "rule");
    lines.add(0, &if answer.dry_run { dry_run() } else { format!("Added {count} to {group}.") });
    warnings(&mut lines, &answer.warnings);
    operation(&mut lines, &answer.operation_id);
    lines.finish()
}

/// Rules, by group and direction.
pub fn rules(answer: &v1::DescribeSecurityGroupRulesResponse, width: Option<usize>) -> String {
    let mut lines = Lines::new(width);
    let rules: Vec<Rule> = answer.security_group_rules.iter().map(Rule::from).collect();
    let mut left: Vec<&Rule> = rules.iter().collect();
    while let Some(first) = left.first() {
        let (group, egress) = (first.group, first.egress);
        let (these, rest): (Vec<&Rule>, Vec<&Rule>) =
            left.into_iter().partition(|rule| (rule.group, rule.egress) == (group, egress));
        lines.add(0, &format!("{group} {}", if egress { "egress" } else { "ingress" }));
        rule_table(&mut lines, &these, egress);
        left = rest;
    }
    total(&mut lines, answer.dry_run, rules.len(), "rule", answer.next_token.as_deref());
    lines.finish()
}

/// Groups, without their rules.
pub fn groups(answer: &v1::DescribeSecurityGroupsResponse, width: Option<usize>) -> String {
    let mut lines = Lines::new(width);
    let rows: Vec<[String; 4]> = answer
        .security_groups
        .iter()
        .map(|group| {
            let parts = [&group.group_id, &group.vpc_id, &group.group_name, &group.description];
            parts.map(|part| part.clone().unwrap_or_default())
        })
        .collect();
    if !rows.is_empty() {
        let (word, text) = (Kind::Word, Kind::Text);
        let columns = [("Group", word), ("VPC", word), ("Name", text), ("Description", text)];
        lines.table(columns, &rows);
    }
    total(&mut lines, answer.dry_run, rows.len(), "group", answer.next_token.as_deref());
    lines.finish()
}

fn dry_run() -> String {
    "Dry run: the call is permitted, and nothing was changed.".to_owned()
}

fn total(lines: &mut Lines, dry: bool, number: usize, what: &str, next: Option<&str>) {
    lines.add(0, &if dry { dry_run() } else { format!("{}.", count(number, what)) });
    if let Some(next) = next {
        lines.add(0, &format!("There are more: go on with --starting-token {next}"));
    }
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn warnings(lines: &mut Lines, warnings: &[v1::Warning]) {
    for warning in warnings {
        let kind = warning.kind().as_str_name();
        let kind = kind.strip_prefix("WARNING_KIND_").unwrap_or(kind);
        lines.add(0, &format!("Warning: {} [{kind}]", warning.message));
    }
}

fn operation(lines: &mut Lines, id: &str) {
    if !id.is_empty() {
        lines.add(0, &format!("Operation: {id}"));
    }
}

/// Why each permission or rule id was unknown. What was `said` before is not said again.
pub fn explanations(lines: &mut Lines, explanations: &[v1::UnknownExplanation], said: &str) {
    for explanation in explanations {
        let reason = explanation.reason().as_str_name();
        let reason = reason.strip_prefix("UNKNOWN_REASON_").unwrap_or(reason);
        let subject = match &explanation.subject {
            Some(Subject::IpPermission(permission)) => asked(permission),
            Some(Subject::SecurityGroupRuleId(id)) => id.clone(),
            None => String::new(),
        };
        lines.add(2, &format!("unknown: {subject} [{reason}]"));
        if !said.contains(&explanation.message) {
            lines.add(4, &explanation.message);
        }
        if !explanation.operation_id.is_empty() {
            lines.add(4, &format!("removed by operation {}", explanation.operation_id));
        }
        for nearest in explanation.nearest_rules.iter().map(Rule::from) {
            lines.add(4, &format!("nearest: {nearest}"));
        }
    }
}

/// A permission in a few words: `tcp 443 to 10.0.0.0/8`. An explanation's has one peer.
fn asked(permission: &v1::IpPermission) -> String {
    let v1::IpPermission { ip_ranges, ipv6_ranges, prefix_list_ids, user_id_group_pairs, .. } =
        permission;
    let described = |peer: &Option<String>, text: &Option<String>| {
        let peer = peer.as_deref().unwrap_or("?");
        match text.as_deref() {
            Some(text) if !text.is_empty() => format!("{peer} \"{text}\""),
            _ => peer.to_owned(),
        }
    };
    let peers: Vec<String> = ip_ranges
        .iter()
        .map(|range| described(&range.cidr_ip, &range.description))
        .chain(ipv6_ranges.iter().map(|range| described(&range.cidr_ipv6, &range.description)))
        .chain(
            prefix_list_ids.iter().map(|list| described(&list.prefix_list_id, &list.description)),
        )
        .chain(user_id_group_pairs.iter().map(|pair| {
            let group = if pair.group_id.is_some() { &pair.group_id } else { &pair.group_name };
            let group = described(group, &pair.description);
            pair.user_id.as_ref().map_or(group.clone(), |user| format!("{group} of account {user}"))
        }))
        .collect();
    let traffic =
        traffic(permission.ip_protocol.as_deref(), permission.from_port, permission.to_port);
    format!("{traffic} to {}", peers.join(", "))
}

/// Protocol and ports in the words of the domain, and one port as one.
fn traffic(protocol: Option<&str>, from: Option<i32>, to: Option<i32>) -> String {
    let text = protocol.unwrap_or_default();
    let Some(protocol) = Protocol::parse(text) else { return text.to_owned() };
    match (from, to) {
        (Some(from), Some(to)) if protocol.ports() == Ports::Range && from == to => {
            format!("{protocol} {from}")
        }
        _ => Traffic::from_ec2(protocol, from, to).to_string(),
    }
}

/// What is shown of a rule, whichever message it came in.
#[derive(Debug)]
struct Rule<'a> {
    id: &'a str,
    group: &'a str,
    egress: bool,
    traffic: String,
    peer: String,
    description: &'a str,
}

impl std::fmt::Display for Rule<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { id, group, egress, traffic, peer, description } = self;
        write!(f, "{id} of {group}: {traffic} {} {peer}", if *egress { "to" } else { "from" })?;
        if description.is_empty() { Ok(()) } else { write!(f, " \"{description}\"") }
    }
}

impl<'a> From<&'a v1::SecurityGroupRule> for Rule<'a> {
    fn from(rule: &'a v1::SecurityGroupRule) -> Self {
        let group = rule.referenced_group_info.as_ref();
        let group = group.map(|peer| match peer.user_id.as_ref() {
            Some(user) if rule.group_owner_id.as_ref() != Some(user) => {
                format!("{} of account {user}", peer.group_id.as_deref().unwrap_or_default())
            }
            _ => peer.group_id.clone().unwrap_or_default(),
        });
        let peers =
            [rule.cidr_ipv4.clone(), rule.cidr_ipv6.clone(), rule.prefix_list_id.clone(), group];
        Self {
            id: rule.security_group_rule_id.as_deref().unwrap_or_default(),
            group: rule.group_id.as_deref().unwrap_or_default(),
            egress: rule.is_egress.unwrap_or_default(),
            traffic: traffic(rule.ip_protocol.as_deref(), rule.from_port, rule.to_port),
            peer: peers.into_iter().flatten().next().unwrap_or_default(),
            description: rule.description.as_deref().unwrap_or_default(),
        }
    }
}

impl<'a> From<&'a v1::RevokedSecurityGroupRule> for Rule<'a> {
    fn from(rule: &'a v1::RevokedSecurityGroupRule) -> Self {
        let peers =
            [&rule.cidr_ipv4, &rule.cidr_ipv6, &rule.prefix_list_id, &rule.referenced_group_id];
        Self {
            id: rule.security_group_rule_id.as_deref().unwrap_or_default(),
            group: rule.group_id.as_deref().unwrap_or_default(),
            egress: rule.is_egress.unwrap_or_default(),
            traffic: traffic(rule.ip_protocol.as_deref(), rule.from_port, rule.to_port),
            peer: peers.into_iter().flatten().next().cloned().unwrap_or_default(),
            description: rule.description.as_deref().unwrap_or_default(),
        }
    }
}

fn rule_table<'a, R: std::borrow::Borrow<Rule<'a>>>(lines: &mut Lines, rules: &[R], egress: bool) {
    if rules.is_empty() {
        return;
    }
    let rows: Vec<[String; 4]> = rules
        .iter()
        .map(|rule| {
            let Rule { id, traffic, peer, description, .. } = rule.borrow();
            [(*id).to_owned(), traffic.clone(), peer.clone(), (*description).to_owned()]
        })
        .collect();
    let (word, peer) = (Kind::Word, if egress { "To" } else { "From" });
    let columns = [("Rule", word), ("Traffic", word), (peer, word), ("Description", Kind::Text)];
    lines.table(columns, &rows);
}

#[cfg(test)]
mod tests;
