use super::*;

fn rule(id: &str, cidr: &str, description: &str) -> v1::SecurityGroupRule {
    v1::SecurityGroupRule {
        security_group_rule_id: Some(id.to_owned()),
        group_id: Some("sg-000000000000000a1".to_owned()),
        is_egress: Some(true),
        ip_protocol: Some("tcp".to_owned()),
        from_port: Some(443),
        to_port: Some(443),
        cidr_ipv4: Some(cidr.to_owned()),
        description: Some(description.to_owned()),
        ..v1::SecurityGroupRule::default()
    }
}

fn listed(rule: v1::SecurityGroupRule, width: Option<usize>) -> String {
    let security_group_rules = vec![rule];
    let answer =
        v1::DescribeSecurityGroupRulesResponse { security_group_rules, ..Default::default() };
    rules(&answer, width)
}

#[test]
fn a_table_fits_its_terminal_and_breaks_only_free_text() {
    let id = "sgr-0000000000000a1e1";
    let text = "a description of eight words, to be broken";
    for width in [67, 72, 80, 100, 200] {
        let shown = listed(rule(id, "203.0.113.0/24", text), Some(width));
        assert!(shown.lines().all(|line| line.chars().count() <= width), "{width}\n{shown}");
        assert!(shown.contains(id) && shown.contains("203.0.113.0/24"), "{shown}");
        let words = shown.lines().filter_map(|line| line.rsplit('|').nth(1)).collect::<Vec<_>>();
        let words = words.join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words, format!("Description {text}"), "{width}\n{shown}");
    }
    // Not a terminal: one line for each rule, however long.
    let shown = listed(rule(id, "203.0.113.0/24", text), None);
    assert!(shown.contains(&format!("| {id} | tcp 443 | 203.0.113.0/24 | {text} |")), "{shown}");
}

#[test]
fn rows_that_do_not_fit_become_blocks() {
    let long = "2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff/128";
    let shown = listed(rule("sgr-0000000000000a1e1", long, "one two"), Some(60));
    assert!(!shown.contains('|'), "{shown}");
    for line in [
        "Rule: sgr-0000000000000a1e1",
        "  Traffic: tcp 443",
        &format!("  To: {long}"),
        "  Description: one two",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line} in\n{shown}");
    }
}

#[test]
fn nothing_that_a_server_sends_acts_on_the_terminal() {
    let evil = "a\u{1b}[2Jb\u{9b}31mc\u{7}\r\nd\u{202e}e\u{7f}";
    let mut evil_rule = rule(evil, evil, evil);
    evil_rule.group_id = Some(evil.to_owned());
    evil_rule.ip_protocol = Some(evil.to_owned());
    let explanation = v1::UnknownExplanation {
        subject: Some(Subject::SecurityGroupRuleId(evil.to_owned())),
        nearest_rules: vec![evil_rule.clone()],
        message: evil.to_owned(),
        operation_id: evil.to_owned(),
        ..Default::default()
    };
    let warning = v1::Warning { message: evil.to_owned(), ..Default::default() };
    let answer = v1::RevokeEgressResponse {
        unknown_explanations: vec![explanation],
        warnings: vec![warning],
        operation_id: evil.to_owned(),
        ..Default::default()
    };
    for width in [None, Some(30), Some(300)] {
        let shown = revoked(&answer, evil, width) + &listed(evil_rule.clone(), width);
        assert!(shown.contains("a\u{fffd}[2Jb\u{fffd}31mc\u{fffd}"), "{shown}");
        assert!(!shown.chars().any(|char| char != '\n' && acts(char)), "{shown:?}");
    }
    let printed = json(&evil_rule);
    assert!(!printed.chars().any(|char| char != '\n' && acts(char)), "{printed:?}");
    let back: v1::SecurityGroupRule = serde_json::from_str(&printed).unwrap();
    assert_eq!(back, evil_rule);
}

#[test]
fn traffic_is_said_in_few_words() {
    for (protocol, from, to, words) in [
        ("tcp", Some(443), Some(443), "tcp 443"),
        ("6", Some(0), Some(65535), "tcp 0-65535"),
        ("udp", Some(0), Some(0), "udp 0"),
        ("icmp", Some(8), Some(-1), "icmp type 8"),
        ("icmp", Some(3), Some(3), "icmp type 3 code 3"),
        ("icmpv6", Some(-1), Some(-1), "icmpv6 all types"),
        ("-1", None, None, "all protocols"),
        ("-1", Some(-1), Some(-1), "all protocols"),
        ("47", Some(-1), Some(-1), "protocol 47"),
        ("esp?", None, None, "esp?"),
    ] {
        assert_eq!(traffic(Some(protocol), from, to), words);
    }
}

#[test]
fn peers_are_said_whatever_their_kind() {
    let mut peer = rule("sgr-1", "", "db");
    peer.cidr_ipv4 = None;
    peer.group_owner_id = Some("123456789012".to_owned());
    let group = |user: &str| v1::ReferencedSecurityGroup {
        group_id: Some("sg-2".to_owned()),
        user_id: Some(user.to_owned()),
        ..Default::default()
    };
    for (user, words) in
        [("123456789012", "sg-2"), ("210987654321", "sg-2 of account 210987654321")]
    {
        peer.referenced_group_info = Some(group(user));
        let said = Rule::from(&peer).to_string();
        assert_eq!(said, format!("sgr-1 of sg-000000000000000a1: tcp 443 to {words} \"db\""));
    }
    let permission = v1::IpPermission {
        ip_protocol: Some("-1".to_owned()),
        ipv6_ranges: vec![v1::Ipv6Range { cidr_ipv6: Some("::/0".to_owned()), description: None }],
        user_id_group_pairs: vec![v1::UserIdGroupPair {
            group_name: Some("web".to_owned()),
            user_id: Some("210987654321".to_owned()),
            description: Some("d".to_owned()),
            ..Default::default()
        }],
        prefix_list_ids: vec![v1::PrefixListId {
            prefix_list_id: Some("pl-1".to_owned()),
            description: None,
        }],
        ..Default::default()
    };
    let words = "all protocols to ::/0, pl-1, web \"d\" of account 210987654321";
    assert_eq!(asked(&permission), words);
}

#[test]
fn long_text_is_broken_between_words() {
    let mut lines = Lines::new(Some(20));
    lines.add(2, "one two three four five extraordinarily-long-word six");
    assert_eq!(
        lines.finish(),
        "  one two three four\n    five\n    extraordinarily-long-word\n    six\n"
    );
}
