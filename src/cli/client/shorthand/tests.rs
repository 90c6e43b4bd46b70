use serde_json::json;

use super::*;

#[test]
fn reads_what_the_aws_cli_reads() {
    for (text, value) in [
        ("a=b", json!({"a": "b"})),
        ("a=", json!({"a": ""})),
        ("a=,b=", json!({"a": "", "b": ""})),
        ("a=b,c=d", json!({"a": "b", "c": "d"})),
        ("a=b,c", json!({"a": ["b", "c"]})),
        ("Name=group-id,Values=sg-1,sg-2", json!({"Name": "group-id", "Values": ["sg-1", "sg-2"]})),
        ("Values=x,y,z,Name=n", json!({"Values": ["x", "y", "z"], "Name": "n"})),
        ("a=b , c = d", json!({"a": "b", "c": "d"})),
        (" a=b\n,\tc=d ", json!({"a": "b", "c": "d"})),
        ("a=one two , three", json!({"a": ["one two", "three"]})),
        ("Name=tag:a/b,Values=c:d/e", json!({"Name": "tag:a/b", "Values": "c:d/e"})),
        ("a-b_c.d#e/f:g=1", json!({"a-b_c.d#e/f:g": "1"})),
        ("a=b=c", json!({"a": "b=c"})),
        ("a=x[0]", json!(null)),
        ("a=x{y", json!({"a": "x{y"})),
        ("a=1,x]", json!({"a": ["1", "x]"]})),
        (r"a=b\,c", json!({"a": "b,c"})),
        (r"a=b\,c,d\,e", json!({"a": ["b,c", "d,e"]})),
        (r"a=C:\dir", json!({"a": r"C:\dir"})),
        (r#"a="b,c""#, json!({"a": "b,c"})),
        (r#"a="b"  ,c='d'"#, json!({"a": "b", "c": "d"})),
        (r#"a="",b=''"#, json!({"a": "", "b": ""})),
        (r#"a=b,"""#, json!({"a": ["b", ""]})),
        (r#"a=b,"c=d",'e,f'"#, json!({"a": ["b", "c=d", "e,f"]})),
        (r#"a="say \"hi\"""#, json!({"a": "say \"hi\""})),
        (r"a='it\'s'", json!({"a": "it's"})),
        (r#"a='"',b="'""#, json!({"a": "\"", "b": "'"})),
        (r#"a="b\\c\d""#, json!({"a": r"b\c\d"})),
        (r#"a="ends in \\",b=c"#, json!({"a": r"ends in \", "b": "c"})),
        ("a=[]", json!({"a": []})),
        ("a=[b]", json!({"a": ["b"]})),
        ("a=[b,c,]", json!({"a": ["b", "c"]})),
        ("a=[ b , c=d ]", json!({"a": ["b", "c=d"]})),
        ("a=[b, [c, d]]", json!({"a": ["b", ["c", "d"]]})),
        (r#"a=["x]","y,z"]"#, json!({"a": ["x]", "y,z"]})),
        ("a={}", json!({"a": {}})),
        ("a={b=c,}", json!({"a": {"b": "c"}})),
        ("a={b=}", json!({"a": {"b": ""}})),
        ("a={ b = c , d = [ e ] } , f = g", json!({"a": {"b": "c", "d": ["e"]}, "f": "g"})),
        ("a=[{b=c},{b=d}],e=f", json!({"a": [{"b": "c"}, {"b": "d"}], "e": "f"})),
        ("a=\u{fc}ber,b=\u{1f512}", json!({"a": "\u{fc}ber", "b": "\u{1f512}"})),
        (
            r#"IpProtocol=tcp,FromPort=443,ToPort=443,IpRanges=[{CidrIp=10.0.0.0/8,Description="a b"}]"#,
            json!({"IpProtocol": "tcp", "FromPort": "443", "ToPort": "443",
                "IpRanges": [{"CidrIp": "10.0.0.0/8", "Description": "a b"}]}),
        ),
        (
            "IpProtocol=-1,IpRanges=[{CidrIp=0.0.0.0/0}],Ipv6Ranges=[{CidrIpv6=::/0}]",
            json!({"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}],
                "Ipv6Ranges": [{"CidrIpv6": "::/0"}]}),
        ),
        (
            "ResourceType=security-group-rule,Tags=[{Key=a,Value=b},{Key=c,Value=}]",
            json!({"ResourceType": "security-group-rule",
                "Tags": [{"Key": "a", "Value": "b"}, {"Key": "c", "Value": ""}]}),
        ),
    ] {
        let got = parse(text);
        if value.is_null() {
            assert!(got.is_err(), "{text}: {got:?}");
        } else {
            assert_eq!(got, Ok(value), "{text}");
        }
    }
}

#[test]
fn a_fault_says_at_which_character_and_what_was_expected() {
    for (text, at, says) in [
        ("", 1, "expected a key such as IpProtocol=, but the text ends"),
        ("=a", 1, "expected a key such as IpProtocol=, but found '='"),
        ("a", 2, "expected '=' after the key, but the text ends"),
        ("a,b=c", 2, "expected '=' after the key, but found ','"),
        ("a b=c", 3, "expected '=' after the key, but found 'b'"),
        ("a=b,", 5, "expected a value or key=value after ',', but the text ends"),
        ("a=b,,c=d", 5, "expected a key such as IpProtocol=, but found ','"),
        ("a=b,c,", 7, "expected a value or key=value after ',', but the text ends"),
        ("a=b]", 4, "expected ',' or the end, but found ']'"),
        ("a=b\"c\"", 4, "expected ',' or the end, but found '\"'"),
        ("a=\"b\"c", 6, "expected ',' or the end, but found 'c'"),
        ("a=\"b", 3, "expected a closing \" for this one, but the text ends"),
        ("a=b,'c", 5, "expected a closing ' for this one, but the text ends"),
        ("a=[b", 5, "expected ',' or ']', but the text ends"),
        ("a=[b}", 5, "expected ',' or ']', but found '}'"),
        ("a=[", 4, "expected ',' or ']', but the text ends"),
        ("a={", 4, "expected a key such as IpProtocol=, but the text ends"),
        ("a={b}", 5, "expected '=' after the key, but found '}'"),
        ("a={b=c", 7, "expected ',' or '}', but the text ends"),
        ("a={b=c]", 7, "expected ',' or '}', but found ']'"),
        ("a=[{b=c}]]", 10, "expected ',' or the end, but found ']'"),
        ("a=b,c=d,a=e", 9, "the key a comes a second time"),
        ("a={b=c,b=d}", 8, "the key b comes a second time"),
        ("a@=file://x", 2, "'@=' is not supported"),
        ("\u{fc}=b", 1, "but found '\u{fc}'"),
        ("a=\u{1f512},\u{fc}=b", 5, "but found '\u{fc}'"),
    ] {
        let fault = parse(text).unwrap_err();
        assert_eq!(fault.at + 1, at, "{text}: {fault}");
        assert!(fault.to_string().starts_with(&format!("character {at}: ")), "{fault}");
        assert!(fault.problem.contains(says), "{text}: {fault}");
    }
}

#[test]
fn a_mark_stands_below_the_character_on_its_line() {
    let fault = parse("a=b,\nc==d,e").unwrap_err().to_string();
    assert_eq!(fault, "character 8: expected ',' or the end, but found '='\n  c==d,e\n    ^");
    let fault = parse("a=b,\n c==d\ne=f").unwrap_err().to_string();
    assert!(fault.ends_with("\n   c==d\n     ^"), "{fault}");
}

#[test]
fn nesting_has_a_bound() {
    for (open, close) in [("[", "]"), ("{a=", "}")] {
        let nested = |depth: usize| format!("a={}b{}", open.repeat(depth), close.repeat(depth));
        assert!(parse(&nested(MAX_DEPTH)).is_ok());
        let fault = parse(&nested(100_000)).unwrap_err();
        assert!(fault.problem.contains("nested more than"), "{fault}");
    }
}

proptest::proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in r#"[a-b=,\[\]{}"'\\ @-]{0,24}"#) {
        let _ = parse(&text).map_err(|fault| fault.to_string());
    }

    #[test]
    fn what_is_quoted_comes_back(text in r"\PC{0,40}") {
        let quoted = text.replace('\\', r"\\").replace('"', "\\\"");
        let value = parse(&format!("a=[\"{quoted}\"],b=\"{quoted}\"")).unwrap();
        proptest::prop_assert_eq!(value, json!({"a": [&text], "b": &text}));
    }
}
