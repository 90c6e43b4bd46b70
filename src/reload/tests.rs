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
    reload.register(name, vec![path], move |still| {
        counted.fetch_add(1, Ordering::Relaxed);
        let text = fs::read_to_string(&file).unwrap_or_default();
        assert!(still());
        if text == "bad" { Err("it says bad".to_owned()) } else { Ok(()) }
    });
    reads
}

/// Looks, and if there is need for it again when files that are not written any more have settled.
fn settled(reload: &mut Reload, asked: bool) {
    let now = Instant::now();
    assert!(reload.look(asked, now) || reload.look(false, now + SETTLED));
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

    settled(&mut reload, false);
    settled(&mut reload, false);
    assert_eq!(reads(), (1, 1), "read once, because it may have changed before the first look");
    folder.write("second", "2");
    settled(&mut reload, false);
    assert_eq!(reads(), (1, 2));
    settled(&mut reload, true);
    assert_eq!(reads(), (2, 3), "asked for");

    folder.write("first", "bad");
    settled(&mut reload, false);
    settled(&mut reload, false);
    assert_eq!((reads(), stale.names()), ((4, 3), vec!["first"]));
    folder.write("first", "1");
    settled(&mut reload, false);
    assert_eq!((reads(), stale.names()), ((5, 3), vec![]));
    // A file that is gone is a change, too.
    fs::remove_file(folder.0.join("second")).unwrap();
    settled(&mut reload, false);
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
    settled(&mut reload, false);
    link("..two");
    settled(&mut reload, false);
    assert_eq!(reads.load(Ordering::Relaxed), 2);
    folder.write("another", "");
    settled(&mut reload, false);
    assert_eq!(reads.load(Ordering::Relaxed), 3);
}

#[test]
fn files_are_taken_when_two_looks_found_the_same() {
    let folder = Folder::new("settling");
    let stale = Stale::default();
    let mut reload = Reload::new(stale.clone());
    let reads = part(&mut reload, "part", folder.write("part", "whole"));
    let (start, soon) = (Instant::now(), Duration::from_millis(1));
    let mut look =
        |asked, after| (reload.look(asked, start + after), reads.load(Ordering::Relaxed));
    assert_eq!(look(false, Duration::ZERO), (false, 0), "once is not twice");
    // Whoever asks twice does not make the time pass.
    assert_eq!(look(true, soon), (false, 0));
    assert_eq!(look(false, SETTLED), (true, 1), "what was asked for is not forgotten");
    assert_eq!(look(false, SETTLED * 2), (true, 1));
    assert_eq!(look(true, SETTLED * 2 + soon), (true, 2), "what stayed the same is read at once");
    // Cut, and even bad, for less than it takes to settle.
    folder.write("part", "who");
    assert_eq!(look(false, SETTLED * 4), (false, 2));
    folder.write("part", "bad");
    assert_eq!(look(false, SETTLED * 5), (false, 2));
    folder.write("part", "whole");
    assert_eq!(look(false, SETTLED * 6), (false, 2));
    assert_eq!(look(false, SETTLED * 7), (true, 2), "it is as it was");
    folder.write("part", "who");
    assert_eq!(look(false, SETTLED * 8), (false, 2));
    assert_eq!(look(false, SETTLED * 9), (true, 3), "it stays so, and is meant");
    assert_eq!(stale.names(), Vec::<&str>::new());
}

#[test]
fn what_changes_all_the_time_is_stale() {
    let folder = Folder::new("restless");
    let stale = Stale::default();
    let mut reload = Reload::new(stale.clone());
    let path = folder.write("part", "");
    let reads = part(&mut reload, "part", path);
    let start = Instant::now();
    let mut second = 0;
    let mut look = |text: &str| {
        folder.write("part", text);
        second += 1;
        reload.look(false, start + Duration::from_secs(second))
    };
    for text in 0..30 {
        assert!(!look(&text.to_string()));
        assert_eq!(stale.names(), Vec::<&str>::new());
    }
    assert!(look("30"), "no reason to hurry any more");
    assert_eq!((stale.names(), reads.load(Ordering::Relaxed)), (vec!["part"], 0));
    assert!(look("30"));
    assert_eq!((stale.names(), reads.load(Ordering::Relaxed)), (vec![], 1));
}

#[test]
fn what_changes_while_it_is_read_is_not_taken() {
    for fault in [None, Some("cut".to_owned())] {
        let folder = Folder::new("moving");
        let stale = Stale::default();
        let mut reload = Reload::new(stale.clone());
        let path = folder.write("part", "1");
        let taken = Arc::new(AtomicUsize::new(0));
        let (file, took) = (path.clone(), taken.clone());
        reload.register("part", vec![path], move |still| {
            if fs::read_to_string(&file).unwrap() == "1" {
                fs::write(&file, "2").unwrap();
                if let Some(fault) = &fault {
                    return Err(fault.clone());
                }
            }
            took.fetch_add(usize::from(still()), Ordering::Relaxed);
            Ok(())
        });
        let start = Instant::now();
        for (looks, expected) in [(0, (false, 0)), (1, (false, 0)), (2, (false, 0)), (3, (true, 1))]
        {
            let done = reload.look(false, start + SETTLED * looks);
            assert_eq!((done, taken.load(Ordering::Relaxed)), expected, "{looks}");
        }
        assert_eq!(stale.parts().iter().map(|part| part.failures).sum::<u64>(), 0);
    }
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
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    folder.write("part", "2");
    while reads.load(Ordering::Relaxed) == 1 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(start.elapsed() >= PERIOD, "read again after {:?}", start.elapsed());
    task.abort();
}
