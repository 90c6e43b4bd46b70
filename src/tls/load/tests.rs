#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is a failed test")]

use rcgen::date_time_ymd;

use super::*;
use crate::{
    clock::ManualClock,
    tls::certificates::{Ca, Folder},
};

/// 2026-01-01.
const NOW: u64 = 1_767_225_600;

fn clock() -> Arc<dyn Clock> {
    Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)))
}

#[test]
fn what_is_dubious_is_warned_of() {
    let (folder, ca) = (Folder::new(), Ca::new("ca"));
    let warnings = |from: (i32, u8, u8), until: (i32, u8, u8), crl: i32| {
        let leaf = ca.issue("server", |params| {
            params.not_before = date_time_ymd(from.0, from.1, from.2);
            params.not_after = date_time_ymd(until.0, until.1, until.2);
        });
        let (certificate, key) = folder.put("server", &leaf);
        let files = Files {
            certificate,
            key,
            client_auth: ClientAuth::Required,
            client_cas: vec![folder.write("ca.pem", &ca.pem)],
            crls: vec![folder.write("ca.crl", ca.crl(&[], crl))],
        };
        load(&files, &clock()).map(|(_, warnings)| warnings).unwrap().join("\n")
    };
    let good = (2025, 1, 1);
    assert_eq!(warnings(good, (2027, 1, 1), 2027), "");
    for (from, until, crl, expected) in [
        (good, (2025, 12, 31), 2027, "server.pem: the certificate has expired"),
        (good, (2026, 1, 7), 2027, "server.pem: the certificate expires soon"),
        ((2026, 1, 2), (2027, 1, 1), 2027, "server.pem: the certificate is not good yet"),
        (good, (2027, 1, 1), 2025, "ca.crl: the revocation list has expired"),
    ] {
        let told = warnings(from, until, crl);
        assert!(told.contains(expected) && told.lines().count() == 1, "{told}");
    }
}

#[test]
fn lists_are_taken_in_der_too_and_one_that_is_too_large_is_not() {
    let (folder, ca) = (Folder::new(), Ca::new("ca"));
    let (certificate, key) = folder.put("server", &ca.leaf("server"));
    let pem = ca.crl(&[], 2027);
    let der = CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).unwrap();
    let files = Files {
        certificate,
        key,
        client_auth: ClientAuth::Optional,
        client_cas: vec![folder.write("ca.pem", &ca.pem)],
        crls: vec![folder.write("a.crl", &*der), folder.write("b.crl", format!("{pem}{pem}"))],
    };
    assert!(load(&files, &clock()).is_ok());
    folder.write("a.crl", &der[..der.len() - 1]);
    let faults = load(&files, &clock()).err().unwrap();
    assert_eq!((faults.len(), faults[0].setting), (1, CRLS));
    let large = vec![b'#'; usize::try_from(MAX_BYTES).unwrap() + 1];
    folder.write("ca.pem", large);
    let faults = load(&files, &clock()).err().unwrap();
    assert!(faults[0].message.contains("more than 1048576 bytes"), "{faults:?}");
}

#[test]
fn of_several_the_first_to_expire_counts() {
    let (folder, ca) = (Folder::new(), Ca::new("ca"));
    let leaf = ca.issue("server", |params| {
        params.not_before = date_time_ymd(2025, 1, 1);
        params.not_after = date_time_ymd(2027, 1, 1);
    });
    let (certificate, key) = folder.put("server", &leaf);
    let crls = [("a.crl", 2030), ("b.crl", 2028), ("c.crl", 2029)];
    let mut files = Files {
        certificate,
        key,
        client_auth: ClientAuth::Required,
        client_cas: vec![folder.write("ca.pem", &ca.pem)],
        crls: crls.map(|(name, until)| folder.write(name, ca.crl(&[], until))).into(),
    };
    let dates = |files: &Files| load(files, &clock()).map(|(state, _)| state.dates).unwrap();
    let found = dates(&files);
    assert_eq!(found.not_before, Some(time_of(1_735_689_600)));
    assert_eq!(found.not_after, Some(time_of(1_798_761_600)));
    assert_eq!(found.crl, Some(time_of(1_830_297_600)));
    assert!(found.client_ca > found.not_after, "{found:?}");
    (files.client_auth, files.client_cas, files.crls) = (ClientAuth::Off, Vec::new(), Vec::new());
    let found = dates(&files);
    assert_eq!((found.client_ca, found.crl), (None, None));
}

/// Neither errors nor Debug show what a key file holds.
#[test]
fn the_key_is_never_shown() {
    let (folder, ca) = (Folder::new(), Ca::new("ca"));
    let leaf = ca.leaf("server");
    let (certificate, key) = folder.put("server", &leaf);
    let files = Files { certificate, key, ..Files::default() };
    let tls = crate::tls::Tls::open(files, clock()).unwrap();
    let shown = format!("{tls:?}");
    assert!(shown.contains("server.key"), "{shown}");
    let body = leaf.key.lines().nth(1).unwrap();
    assert!(!shown.contains(body));
    for broken in [
        leaf.key.replace("-----END", "----END"),
        leaf.key.replace("-----\n", "----\n"),
        leaf.key.replace(body, &format!("{body}!")),
        format!("{body}\n"),
    ] {
        folder.write("server.key", broken);
        let told = tls.reload().unwrap_err();
        assert!(told.contains("holds no key") && !told.contains(body), "{told}");
        // The same file in the place of the certificate.
        let files = Files { certificate: folder.0.join("server.key"), ..tls.files().clone() };
        let told = format!("{:?}", load(&files, &clock()).err().unwrap());
        assert!(!told.contains(body), "{told}");
    }
}
