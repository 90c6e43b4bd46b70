//! The attacks.

use serde_json::{Value, json};
use tonic::Code::{self, ResourceExhausted, Unauthenticated};

use crate::{
    keys::{b64, hmac_token},
    world::{FIRST, NOW, SECOND, World, claims, claims_with},
};

/// What is sent, and what must come back.
pub struct Attack {
    pub name: String,
    pub headers: Vec<(&'static str, Vec<u8>)>,
    pub code: Code,
    pub reason: &'static str,
}

const MISSING: &str = "CREDENTIALS_MISSING";
const INVALID: &str = "CREDENTIALS_INVALID";
const EXPIRED: &str = "CREDENTIALS_EXPIRED";

/// All of them.
pub fn attacks(world: &World) -> Vec<Attack> {
    let mut attacks = of_headers(world);
    let mut bearer = |name: String, token: String, reason| {
        let headers = vec![("authorization", format!("Bearer {token}").into_bytes())];
        attacks.push(Attack { name, headers, code: Unauthenticated, reason });
    };
    for (name, token) in of_static_tokens(world) {
        bearer(format!("static token: {name}"), token, INVALID);
    }
    for (name, token) in of_form(world) {
        bearer(format!("form: {name}"), token, INVALID);
    }
    for (name, token) in of_algorithm(world) {
        bearer(format!("algorithm: {name}"), token, INVALID);
    }
    for (name, token) in of_signature(world) {
        bearer(format!("signature: {name}"), token, INVALID);
    }
    for (name, token) in of_key_id(world) {
        bearer(format!("key: {name}"), token, INVALID);
    }
    for (changes, reason) in of_claims() {
        let token = world.p256.token(&claims_with(changes.clone()));
        bearer(format!("claims: {:.100}", changes.to_string()), token, reason);
    }
    attacks
}

fn of_headers(world: &World) -> Vec<Attack> {
    let good = world.p256.token(&claims());
    let other = world.ed25519.token(&claims());
    let bearer = |token: &str| format!("Bearer {token}").into_bytes();
    let one = |name: &str, value: &str, reason| Attack {
        name: format!("header: {name}"),
        headers: vec![("authorization", value.as_bytes().to_vec())],
        code: Unauthenticated,
        reason,
    };
    // Good but for its length.
    let long = world.p256.token(&claims_with(json!({"filler": "a".repeat(6000)})));
    assert!(long.len() > 8192);
    let too_long = "a".repeat(17 << 10);
    let mut attacks = vec![
        one("empty", "", INVALID),
        one("no token", "Bearer", INVALID),
        one("empty token", "Bearer ", INVALID),
        one("basic", "Basic YWxpY2U6c2VjcmV0", INVALID),
        one("another scheme", &format!("Digest {good}"), INVALID),
        one("no scheme", &good, INVALID),
        one("two spaces", &format!("Bearer  {good}"), INVALID),
        one("a tab", &format!("Bearer\t{good}"), INVALID),
        one("two tokens", &format!("Bearer {good} {good}"), INVALID),
        one("two in one value", &format!("Bearer {good}, Bearer {other}"), INVALID),
        one("quoted", &format!("Bearer \"{good}\""), INVALID),
        one("padded", &format!("Bearer {good}="), INVALID),
        one("percent-encoded", &format!("Bearer {good}%0a"), INVALID),
        one("a path", "Bearer ../../../etc/passwd", INVALID),
        one("too long", &format!("Bearer {long}"), INVALID),
    ];
    let mut push = |name: &str, headers, code, reason| {
        attacks.push(Attack { name: format!("header: {name}"), headers, code, reason });
    };
    push("none", vec![], Unauthenticated, MISSING);
    push(
        "far too long",
        vec![("authorization", bearer(&too_long))],
        ResourceExhausted,
        "REQUEST_TOO_LARGE",
    );
    push(
        "not ASCII",
        vec![("authorization", b"Bearer \xff\xfe".to_vec())],
        Unauthenticated,
        INVALID,
    );
    let twice = |first: &str, second: &str| {
        vec![("authorization", bearer(first)), ("authorization", bearer(second))]
    };
    push("several, good and bad", twice(&good, "junk"), Unauthenticated, INVALID);
    push("several, bad and good", twice("junk", &good), Unauthenticated, INVALID);
    push("several, both good", twice(&good, &other), Unauthenticated, INVALID);
    push("the same twice", twice(&good, &good), Unauthenticated, INVALID);
    for elsewhere in [
        "x-authorization",
        "proxy-authorization",
        "cookie",
        "x-forwarded-authorization",
        "x-api-key",
    ] {
        push(elsewhere, vec![(elsewhere, bearer(&good))], Unauthenticated, MISSING);
    }
    // What a proxy that ends TLS would say of the client's certificate is believed of nobody.
    for claimed in ["x-forwarded-client-cert", "x-client-cert", "x-remote-user", "x-forwarded-user"]
    {
        let value = b"Subject=\"CN=alice\";URI=spiffe://example.org/alice".to_vec();
        push(claimed, vec![(claimed, value)], Unauthenticated, MISSING);
    }
    attacks
}

fn of_static_tokens(world: &World) -> Vec<(&'static str, String)> {
    let good = &world.static_token;
    let digest: String =
        world.static_entry.sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    vec![
        ("unknown", format!("pct_{}", b64([7; 32]))),
        ("all zero", format!("pct_{}", b64([0; 32]))),
        ("cut", good[..good.len() - 1].to_owned()),
        ("longer", format!("{good}A")),
        ("the prefix alone", "pct_".into()),
        ("without its prefix", good[4..].to_owned()),
        ("another prefix", good.replace("pct_", "pat_")),
        ("in capitals", good.to_uppercase()),
        ("its digest", digest.clone()),
        ("its digest with the prefix", format!("pct_{digest}")),
        ("its name", "deployer".into()),
        ("as a JWT's part", format!("{good}.{good}.{good}")),
    ]
}

fn of_form(world: &World) -> Vec<(&'static str, String)> {
    let key = &world.p256;
    let good = key.token(&claims());
    let parts: Vec<&str> = good.split('.').collect();
    let (header, payload, signature) = (parts[0], parts[1], parts[2]);
    let plain = json!({"alg": "ES256", "kid": "p256"});
    let with = |name: &str, value: Value| {
        let mut header = plain.clone();
        header[name] = value;
        key.token_with(&header, &claims())
    };
    let deep = format!("{{\"sub\":{}{}}}", "[".repeat(2000), "]".repeat(2000));
    vec![
        ("one part", header.into()),
        ("two parts", format!("{header}.{payload}")),
        ("four parts", format!("{good}.{signature}")),
        (
            "five parts, as an encrypted one",
            format!("{header}.{payload}.{signature}.{header}.{payload}"),
        ),
        ("only dots", "..".into()),
        ("many dots", ".".repeat(4000)),
        ("no header", format!(".{payload}.{signature}")),
        ("no claims", format!("{header}..{signature}")),
        ("signature stripped", format!("{header}.{payload}.")),
        ("header not base64url", format!("!.{payload}.{signature}").replace('!', "A")),
        ("header no JSON", key.token_of("{", &claims().to_string())),
        ("header a list", key.token_of("[]", &claims().to_string())),
        ("header a text", key.token_of("\"ES256\"", &claims().to_string())),
        ("header without alg", key.token_with(&json!({"kid": "p256"}), &claims())),
        (
            "alg twice",
            key.token_of(r#"{"alg":"ES256","kid":"p256","alg":"none"}"#, &claims().to_string()),
        ),
        ("claims no JSON", key.token_of(&plain.to_string(), "{")),
        ("claims a list", key.token_of(&plain.to_string(), "[]")),
        ("claims null", key.token_of(&plain.to_string(), "null")),
        ("claims not UTF-8", {
            let message = format!("{}.{}", b64(plain.to_string()), b64(b"{\"sub\":\"\xff\"}"));
            format!("{message}.{}", b64(key.sign("ES256", message.as_bytes())))
        }),
        ("claims deep", key.token_of(&plain.to_string(), &deep)),
        ("crit", with("crit", json!(["exp"]))),
        ("crit null", with("crit", Value::Null)),
        ("b64 null", with("b64", Value::Null)),
        ("b64", with("b64", json!(false))),
        ("zip", with("zip", json!("DEF"))),
        ("enc", with("enc", json!("A128GCM"))),
        ("a logout token", with("typ", json!("logout+jwt"))),
        ("a security event", with("typ", json!("secevent+jwt"))),
        ("typ a number", with("typ", json!(1))),
    ]
}

fn of_algorithm(world: &World) -> Vec<(String, String)> {
    let payload = claims();
    let mut attacks = Vec::new();
    for name in ["none", "None", "NONE", "nOnE", "", "null"] {
        let message = format!(
            "{}.{}",
            b64(json!({"alg": name, "kid": "p256"}).to_string()),
            b64(payload.to_string())
        );
        attacks.push((format!("{name:?} without signature"), format!("{message}.")));
        attacks.push((format!("{name:?} with one"), format!("{message}.{}", b64("signature"))));
    }
    // An HMAC whose secret is what everybody has: the public key, in each form that a library might use.
    let jwk = world.rsa.jwk();
    let n = jwk["n"].as_str().unwrap();
    let secrets: [(&str, Vec<u8>); 5] = [
        ("the modulus in base64", n.as_bytes().to_vec()),
        ("the JWK", jwk.to_string().into_bytes()),
        ("the point", {
            let jwk = world.p256.jwk();
            format!("{}{}", jwk["x"].as_str().unwrap(), jwk["y"].as_str().unwrap()).into_bytes()
        }),
        ("nothing", Vec::new()),
        ("the set's oct key", b"secret-secret-secret-secret-secret".to_vec()),
    ];
    for (name, secret) in secrets {
        for (alg, kid) in [
            ("HS256", "rsa"),
            ("HS256", "p256"),
            ("HS256", "oct"),
            ("RS256", "rsa"),
            ("RS256", "oct"),
        ] {
            let token = hmac_token(&secret, &json!({"alg": alg, "kid": kid}), &payload);
            attacks.push((format!("{alg} of {kid} by HMAC with {name}"), token));
        }
    }
    // Algorithms that are not those of the key, and names that are nearly right.
    for (key, alg) in [
        (&world.rsa, "PS256"),
        (&world.rsa, "rs256"),
        (&world.rsa, "RS256 "),
        (&world.rsa, "ES256"),
        (&world.rsa, "EdDSA"),
        (&world.p256, "ES384"),
        (&world.p256, "RS256"),
        (&world.p256, "ES256K"),
        (&world.p256, "EdDSA"),
        (&world.p384, "ES256"),
        (&world.p384, "ES512"),
        (&world.ed25519, "ES256"),
        (&world.ed25519, "Ed448"),
    ] {
        let token = key.token_with(&json!({"alg": alg, "kid": key.kid}), &payload);
        attacks.push((format!("{alg} with the key {}", key.kid), token));
    }
    // The second issuer takes ES256 alone, whatever its header says.
    let of_second = claims_with(json!({"iss": SECOND}));
    let token = world.second_rsa.token(&of_second);
    attacks.push(("one that is not taken from this issuer".into(), token));
    let token = world.pinned.token_with(&json!({"alg": "RS384", "kid": "pinned"}), &payload);
    attacks.push(("one that the key is not for".into(), token));
    attacks
}

fn of_signature(world: &World) -> Vec<(&'static str, String)> {
    let good = world.p256.token(&claims());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (header, payload) = message.split_once('.').unwrap();
    let other = world.p256.token(&claims_with(json!({"sub": "bob"})));
    let other_payload = other.split('.').nth(1).unwrap();
    let other_signature = other.rsplit_once('.').unwrap().1;
    let other_header = b64(json!({"alg": "ES256", "kid": "p256", "x": 1}).to_string());
    let with = |name: &str, value: Value| {
        let mut header = json!({"alg": "RS256", "kid": "rsa"});
        header[name] = value;
        world.foreign.token_with(&header, &claims())
    };
    vec![
        ("claims changed", format!("{header}.{other_payload}.{signature}")),
        ("header changed", format!("{other_header}.{payload}.{signature}")),
        ("of another token", format!("{message}.{other_signature}")),
        ("all zero", format!("{message}.{}", b64([0; 64]))),
        ("all ones", format!("{message}.{}", b64([255; 64]))),
        ("empty DER", format!("{message}.{}", b64([0x30, 6, 2, 1, 0, 2, 1, 0]))),
        ("cut", format!("{message}.{}", &signature[..signature.len() - 4])),
        ("longer", format!("{message}.{signature}AAAA")),
        ("one byte", format!("{message}.AA")),
        ("by a key of nobody's under a known kid", world.foreign.token(&claims())),
        ("by the other issuer's key", {
            world.second.token_with(&json!({"alg": "ES256", "kid": "p256"}), &claims())
        }),
        ("by the first issuer for the second", {
            let header = json!({"alg": "ES256", "kid": "second"});
            world.p256.token_with(&header, &claims_with(json!({"iss": SECOND})))
        }),
        ("with its own key in the header", with("jwk", world.foreign.jwk())),
        ("with an address of its keys", with("jku", json!("http://127.0.0.1:1/keys"))),
        ("with a certificate", with("x5c", json!(["MIIB"]))),
        ("with an address of a certificate", with("x5u", json!("http://127.0.0.1:1/cert"))),
        ("invalid and expired", {
            let mut foreign = claims();
            foreign["exp"] = json!(NOW - 3600);
            world.foreign.token(&foreign)
        }),
    ]
}

fn of_key_id(world: &World) -> Vec<(String, String)> {
    let mut attacks = Vec::new();
    for kid in ["unknown", "", "../../dev/null", "p256' OR '1'='1", "p256\u{0}", "P256", "*"] {
        let token = world.p256.token_with(&json!({"alg": "ES256", "kid": kid}), &claims());
        attacks.push((format!("kid {kid:?}"), token));
    }
    for (name, kid) in
        [("a number", json!(1)), ("a list", json!(["p256"])), ("an object", json!({}))]
    {
        let token = world.p256.token_with(&json!({"alg": "ES256", "kid": kid}), &claims());
        attacks.push((format!("kid {name}"), token));
    }
    attacks.push(("rotated out".into(), world.retired.token(&claims())));
    attacks.push(("for encryption".into(), world.encryption.token(&claims())));
    let header = json!({"alg": "ES256"});
    attacks.push((
        "no kid and a key of nobody's".into(),
        world.retired.token_with(&header, &claims()),
    ));
    attacks
}

fn of_claims() -> Vec<(Value, &'static str)> {
    let long = "a".repeat(2049);
    let many: Vec<String> = (0..513).map(|number| format!("g{number}")).collect();
    vec![
        (json!({"exp": NOW - 61}), EXPIRED),
        (json!({"exp": NOW - 60}), EXPIRED),
        (json!({"exp": 0}), EXPIRED),
        (json!({"exp": -1}), EXPIRED),
        (json!({"exp": null}), INVALID),
        (json!({"exp": (NOW + 600).to_string()}), INVALID),
        (json!({"exp": [NOW + 600]}), INVALID),
        (json!({"exp": true}), INVALID),
        (json!({"nbf": NOW + 61}), INVALID),
        (json!({"nbf": NOW + 3600, "exp": NOW - 3600}), INVALID),
        (json!({"nbf": 1e300}), INVALID),
        (json!({"nbf": "0"}), INVALID),
        (json!({"iss": null}), INVALID),
        (json!({"iss": ""}), INVALID),
        (json!({"iss": "https://nobody.example"}), INVALID),
        (json!({"iss": "https://first.example/"}), INVALID),
        (json!({"iss": "HTTPS://FIRST.EXAMPLE"}), INVALID),
        (json!({"iss": "https://first.example.evil.example"}), INVALID),
        (json!({"iss": [FIRST]}), INVALID),
        (json!({"iss": {"": FIRST}}), INVALID),
        (json!({"aud": null}), INVALID),
        (json!({"aud": ""}), INVALID),
        (json!({"aud": "another"}), INVALID),
        (json!({"aud": "portcullis-production"}), INVALID),
        (json!({"aud": "Portcullis"}), INVALID),
        (json!({"aud": []}), INVALID),
        (json!({"aud": ["another", 1]}), INVALID),
        (json!({"aud": {"portcullis": true}}), INVALID),
        (json!({"sub": null}), INVALID),
        (json!({"sub": ""}), INVALID),
        (json!({"sub": 1000}), INVALID),
        (json!({"sub": ["alice"]}), INVALID),
        (json!({"sub": long}), INVALID),
        (json!({"sub": "*"}), INVALID),
        (json!({"sub": "team-*"}), INVALID),
        (json!({"sub": "alice\nlevel=ERROR forged"}), INVALID),
        (json!({"sub": "alice\r\nx-principal: root"}), INVALID),
        (json!({"sub": "alice\u{0}"}), INVALID),
        (json!({"sub": "alice\u{1b}[2J"}), INVALID),
        (json!({"sub": "\u{202e}ecila"}), INVALID),
        (json!({"sub": "al\u{200b}ice"}), INVALID),
        (json!({"sub": "alice\u{fe0f}"}), INVALID),
        (json!({"sub": "al\u{3164}ice"}), INVALID),
        (json!({"groups": ["team-a\u{e0100}"]}), INVALID),
        (json!({"sub": " alice"}), INVALID),
        (json!({"groups": 1}), INVALID),
        (json!({"groups": {"admin": true}}), INVALID),
        (json!({"groups": ["team-a", 1]}), INVALID),
        (json!({"groups": ["team-a", "*"]}), INVALID),
        (json!({"groups": ["team-a\nadmin"]}), INVALID),
        (json!({"groups": [""]}), INVALID),
        (json!({"groups": many}), INVALID),
        (json!({"realm_access": {"roles": [["admin"]]}}), INVALID),
    ]
}
