//! Documents that tests write and keep true.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

pub fn compare(name: &str, now: &str) {
    if env::var_os("PORTCULLIS_TEST_UPDATE").is_some_and(|value| value == "1") {
        fs::write(path(name), now).unwrap();
        return;
    }
    let written = fs::read_to_string(path(name)).unwrap_or_default();
    let mut lines = written.lines().zip(now.lines()).enumerate();
    if let Some((at, (old, new))) = lines.find(|(_, (old, new))| old != new) {
        let line = at + 1;
        panic!(
            "{name}:{line} says\n  {old}\nand the program\n  {new}\nIf the program is right: PORTCULLIS_TEST_UPDATE=1"
        );
    }
    assert_eq!(written.len(), now.len(), "{name} ends elsewhere: PORTCULLIS_TEST_UPDATE=1");
}
