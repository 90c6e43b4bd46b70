//! Where a call comes from: whose address, behind proxies; and whether it is a page in a browser that calls.

use std::net::{IpAddr, SocketAddr};

use http::{
    HeaderMap,
    header::{HOST, ORIGIN},
    uri::{Authority, Uri},
};
use ipnet::IpNet;

const FORWARDED_FOR: &str = "x-forwarded-for";

/// The peer's address; or, if the peer is a trusted proxy, the right-most entry of x-forwarded-for that is not one.
/// Every proxy appends the address that it saw, so that what is left of an untrusted one is that caller's own claim.
pub fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(&address));
    let mut client = peer.to_canonical();
    if !is_trusted(client) {
        return client;
    }
    let values: Vec<&str> =
        headers.get_all(FORWARDED_FOR).iter().map(|value| value.to_str().unwrap_or("?")).collect();
    for entry in values.iter().rev().flat_map(|value| value.rsplit(',')) {
        // What cannot be read was not written by a proxy that is to be trusted: the last one that could be is it.
        let Some(address) = address(entry.trim()) else { break };
        client = address;
        if !is_trusted(client) {
            break;
        }
    }
    client
}

/// Whether a page of somewhere else asks, in a browser on this machine. Where nobody is asked for a credential, whoever
/// reaches the address may do everything, and every page that is open reaches it, under a name of its own if it has to (DNS
/// rebinding). Browsers say where a page is from, but with plain GETs of its own site; see [`is_asked_as_local`] for those.
/// What is no browser says nothing.
pub fn is_page_elsewhere(headers: &HeaderMap) -> bool {
    let is_here = |origin: &str| {
        let origin = origin.parse::<Uri>().ok();
        origin.and_then(|origin| origin.into_parts().authority).is_some_and(|at| is_local(&at))
    };
    let elsewhere = |value: &http::HeaderValue| !value.to_str().is_ok_and(is_here);
    headers.get_all(ORIGIN).iter().any(elsewhere)
        || headers
            .get_all("sec-fetch-site")
            .iter()
            .any(|site| site != "none" && site != "same-origin")
}

/// Whether the server was asked by a name or address that only this machine has, or by none.
pub fn is_asked_as_local(headers: &HeaderMap) -> bool {
    let local = |host: &http::HeaderValue| {
        host.to_str().is_ok_and(|host| host.parse().is_ok_and(|host| is_local(&host)))
    };
    headers.get_all(HOST).iter().all(local)
}

fn is_local(authority: &Authority) -> bool {
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let address = host.parse::<IpAddr>().map(|address| address.to_canonical().is_loopback());
    address.unwrap_or_else(|_| host.eq_ignore_ascii_case("localhost"))
}

/// An address as proxies write it: some add the port.
fn address(entry: &str) -> Option<IpAddr> {
    let bare = entry.strip_prefix('[').and_then(|entry| entry.strip_suffix(']')).unwrap_or(entry);
    let address = bare.parse().ok();
    let address = address.or_else(|| Some(entry.parse::<SocketAddr>().ok()?.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_most_untrusted_entry_is_the_client() {
        let trusted: Vec<IpNet> =
            ["10.0.0.0/8", "fd00::/8"].map(|text| text.parse().unwrap()).to_vec();
        let cases: &[(&str, &[&str], &str)] = &[
            // Not a proxy: what it claims is nothing.
            ("192.0.2.1", &["198.51.100.1"], "192.0.2.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("::ffff:10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            // The left part is the caller's own claim.
            ("10.0.0.1", &["203.0.113.9, 198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["203.0.113.9, 198.51.100.1, 10.1.1.1"], "198.51.100.1"),
            ("10.0.0.1", &["203.0.113.9", "198.51.100.1,10.1.1.1"], "198.51.100.1"),
            ("10.0.0.1", &["198.51.100.1", "203.0.113.9, 10.2.2.2"], "203.0.113.9"),
            ("10.0.0.1", &["10.3.3.3, 10.2.2.2"], "10.3.3.3"),
            ("10.0.0.1", &["198.51.100.1, junk"], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1, junk, 10.2.2.2"], "10.2.2.2"),
            ("10.0.0.1", &[""], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1:4711"], "198.51.100.1"),
            ("fd00::1", &["[2001:db8::1]:4711"], "2001:db8::1"),
            ("fd00::1", &["[2001:db8::1]"], "2001:db8::1"),
            ("fd00::1", &["2001:db8::1, ::ffff:10.0.0.9"], "2001:db8::1"),
        ];
        for (peer, values, client) in cases {
            let mut headers = HeaderMap::new();
            for value in *values {
                headers.append(FORWARDED_FOR, value.parse().unwrap());
            }
            let found = client_address(peer.parse().unwrap(), &headers, &trusted);
            assert_eq!(found, client.parse::<IpAddr>().unwrap(), "{peer} {values:?}");
        }
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            (http::HeaderName::from_static(name), http::HeaderValue::from_static(value))
        });
        pairs.collect()
    }

    #[test]
    fn pages_of_this_machine_are_told_from_others() {
        let here =
            ["http://localhost:8080", "http://127.0.0.1", "https://[::1]:1", "http://LOCALHOST"];
        let others = [
            "http://evil.example:52053",
            "null",
            "",
            "http://localhost.evil.example",
            "file://",
            "http://10.0.0.1",
        ];
        for (origins, elsewhere) in [(&here[..], false), (&others[..], true)] {
            for origin in origins {
                assert_eq!(
                    is_page_elsewhere(&headers(&[("origin", origin)])),
                    elsewhere,
                    "{origin}"
                );
            }
        }
        for (site, elsewhere) in
            [("none", false), ("same-origin", false), ("same-site", true), ("cross-site", true)]
        {
            assert_eq!(
                is_page_elsewhere(&headers(&[("sec-fetch-site", site)])),
                elsewhere,
                "{site}"
            );
        }
        assert!(!is_page_elsewhere(&headers(&[])));
        for (host, local) in [
            ("localhost:9464", true),
            ("127.1.2.3", true),
            ("[::1]:9464", true),
            ("evil.example:9464", false),
            ("0.0.0.0:9464", false),
            ("", false),
        ] {
            assert_eq!(is_asked_as_local(&headers(&[("host", host)])), local, "{host}");
        }
        assert!(is_asked_as_local(&headers(&[])));
    }
}
