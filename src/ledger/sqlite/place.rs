//! The file and its folder: made for nobody else's eyes, and locked.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::fault::{Cause, OpenError};

/// A file that is this process's. It may not be opened but by SQLite: closing any other descriptor of it would drop
/// SQLite's own locks (POSIX has it so). That is why the lock is on a file beside it.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    identity: (u64, u64),
    _lock: File,
}

impl Place {
    /// Makes what is missing and locks it.
    pub(super) fn take(wanted: &Path) -> Result<Self, OpenError> {
        take(wanted).map_err(|cause| OpenError { path: wanted.to_owned(), cause })
    }

    /// Whether the file is still the one that was opened.
    pub(super) fn check(&self) -> Result<(), OpenError> {
        let cause = match identity(&self.path) {
            Ok(identity) if identity == self.identity => return Ok(()),
            Ok(_) => Cause::Replaced,
            Err(error) => Cause::Io("it is gone", error),
        };
        Err(OpenError { path: self.path.clone(), cause })
    }
}

fn take(wanted: &Path) -> Result<Place, Cause> {
    let folder = match wanted.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    make_folder(folder).map_err(|error| Cause::Io("its folder cannot be made", error))?;
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(wanted);
    match made {
        Ok(file) => file
            .sync_all()
            .and_then(|()| sync(folder))
            .map_err(|error| Cause::Io("it cannot be made durable", error))?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(Cause::Io("it cannot be made", error)),
    }
    // Two names of one file are one lock.
    let path = fs::canonicalize(wanted).map_err(|error| Cause::Io("it cannot be found", error))?;
    let mut beside = path.clone().into_os_string();
    beside.push(".lock");
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(beside)
        .map_err(|error| Cause::Io("the lock beside it cannot be made", error))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(Cause::InUse),
        Err(TryLockError::Error(error)) => return Err(Cause::Io("it cannot be locked", error)),
    }
    let identity = identity(&path).map_err(|error| Cause::Io("it cannot be found", error))?;
    Ok(Place { path, identity, _lock: lock })
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(path).map(|file| (file.dev(), file.ino()))
}

fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync(parent),
        _ => sync(Path::new(".")),
    }
}

/// So that a name in a folder outlasts a power cut.
fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
