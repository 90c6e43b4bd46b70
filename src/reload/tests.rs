#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is a failed test")]

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// A folder of its own, gone with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("portcullis-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A part that counts how often it is read, and refuses a file that says `bad`.
fn part(reload: &mut Reload, name: &'static str, path: PathBuf) -> Arc<AtomicUsize> {
    let reads = Arc::new(AtomicUsize::new(0));
    let counted = reads.clone();
    let file = path.clone();
    reload.register(name, vec![path], move || {
        counted.fetch_add(1, Ordering::Relaxed);
        let text = fs::read_to_string(&file).unwrap_or_default();
        if text == "bad" { Err("it says bad".to_owned()) } else { Ok(()) }
    });
    reads
}

#[test]
fn only_what_changed_is_read_and_what_is_broken_is_tried_again() {
    let folder = Folder::new("reload");
    let stale = Stale::default();
    let mut reload = Reload::new(stale.clone());
    assert!(reload.is_empty());
    let first = part(&mut reload, "first", folder.write("first", "1"));
    let second = part(&mut reload, "second", folder.write("second", "1"));
    let reads = || (first.load(Ordering::Relaxed), second.load(Ordering::Relaxed));

    reload.look(false);
    reload.look(false);
    assert_eq!(reads(), (1, 1), "read once, because it may have changed before the first look");
    folder.write("second", "2");
    reload.look(false);
    assert_eq!(reads(), (1, 2));
    reload.look(true);
    assert_eq!(reads(), (2, 3), "asked for");

    folder.write("first", "bad");
    reload.look(false);
    reload.look(false);
    assert_eq!((reads(), stale.names()), ((4, 3), vec!["first"]));
    folder.write("first", "1");
    reload.look(false);
    assert_eq!((reads(), stale.names()), ((5, 3), vec![]));
    // A file that is gone is a change, too.
    fs::remove_file(folder.0.join("second")).unwrap();
    reload.look(false);
    assert_eq!(reads(), (5, 4));
}

#[test]
fn a_folder_is_its_files_through_symbolic_links() {
    let folder = Folder::new("links");
    for (data, text) in [("..one", "1"), ("..two", "2")] {
        fs::create_dir(folder.0.join(data)).unwrap();
        folder.write(&format!("{data}/file"), text);
    }
    let link = |to: &str| {
        let _ = fs::remove_file(folder.0.join("..data"));
        std::os::unix::fs::symlink(to, folder.0.join("..data")).unwrap();
    };
    link("..one");
    std::os::unix::fs::symlink("..data/file", folder.0.join("file")).unwrap();
    let mut reload = Reload::default();
    let reads = part(&mut reload, "folder", folder.0.clone());
    reload.look(false);
    link("..two");
    reload.look(false);
    assert_eq!(reads.load(Ordering::Relaxed), 2);
    folder.write("another", "");
    reload.look(false);
    assert_eq!(reads.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn it_looks_every_period_and_when_it_is_told_to() {
    let folder = Folder::new("period");
    let mut reload = Reload::default();
    let reads = part(&mut reload, "part", folder.write("part", "1"));
    let now = Arc::new(Notify::new());
    let task = tokio::spawn(reload.run(Duration::from_secs(5), now.clone()));
    let until = async |count| {
        let read = async {
            while reads.load(Ordering::Relaxed) < count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), read).await.unwrap();
    };
    until(1).await;
    now.notify_one();
    until(2).await;
    folder.write("part", "2");
    until(3).await;
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn a_look_that_was_asked_for_is_the_first_one_too() {
    const PERIOD: Duration = Duration::from_secs(5);
    let folder = Folder::new("asked");
    let mut reload = Reload::default();
    let path = folder.write("part", "1");
    let reads = part(&mut reload, "part", path);
    let now = Arc::new(Notify::new());
    now.notify_one();
    let start = tokio::time::Instant::now();
    let task = tokio::spawn(reload.run(PERIOD, now));
    while reads.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    folder.write("part", "2");
    while reads.load(Ordering::Relaxed) == 1 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(start.elapsed() >= PERIOD, "read again after {:?}", start.elapsed());
    task.abort();
}
