//! A real PostgreSQL of the tests' own, from Debian's package: `scripts/tools postgresql` installs it.
//!
//! Its data is in a temporary folder; it listens on a free port of 127.0.0.1. PostgreSQL does not run as root, so root
//! becomes `nobody` for it.

use std::{
    ffi::OsStr,
    fs,
    net::TcpListener,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// Whom root becomes: Debian's `nobody` and `nogroup`.
const NOBODY: u32 = 65_534;

/// How long the server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// The password of every role that is made here.
pub const PASSWORD: &str = "hunter2-never-shown";

/// One server.
#[derive(Debug)]
pub struct Server {
    folder: PathBuf,
    port: u16,
    settings: Vec<String>,
    process: Option<Child>,
    /// Ends the server and removes its files when this process is gone, however it went.
    _reaper: Child,
    databases: AtomicU32,
}

/// Waits for the end of its input, which is ours.
const REAPER: &str = r#"
    cat >/dev/null
    read -r server <"$0/data/postmaster.pid" && {
        kill -CONT $server $(ps -o pid= --ppid $server)
        kill -QUIT $server
        while kill -0 $server; do :; done
    }
    rm -rf "$0"
"#;

impl Server {
    /// Makes one and starts it. `settings` are as in postgresql.conf: `fsync=off`.
    pub fn start(settings: &[&str]) -> Self {
        Self::start_with(settings, |_| ())
    }

    /// The same, with a chance to change files below its folder before it starts; its data is in `data`.
    pub fn start_with(settings: &[&str], change: impl FnOnce(&Path)) -> Self {
        let folder = folder();
        let reaper = Command::new("sh")
            .args(["-c", REAPER])
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut server = Self {
            folder,
            _reaper: reaper,
            port: TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port(),
            settings: settings.iter().map(|&setting| setting.to_owned()).collect(),
            process: None,
            databases: AtomicU32::new(0),
        };
        let password = server.folder.join("password");
        fs::write(&password, PASSWORD).unwrap();
        give_away(&password);
        let initdb = server
            .command("initdb")
            .args(["--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"])
            .arg("--no-sync")
            .arg(format!("--pwfile={}", password.display()))
            .arg(format!("--pgdata={}", server.data().display()))
            .output()
            .unwrap();
        assert!(initdb.status.success(), "initdb: {}", String::from_utf8_lossy(&initdb.stderr));
        change(&server.folder);
        server.begin();
        server
    }

    /// Starts it again after [`Self::stop`] or [`Self::kill`].
    pub fn begin(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.log()).unwrap();
        let mut command = self.command("postgres");
        command
            .arg("-D")
            .arg(self.data())
            .args(["-c", "listen_addresses=127.0.0.1", "-c", &format!("port={}", self.port)])
            .args(["-c", &format!("unix_socket_directories={}", self.folder.display())])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            // Of its own, so that a signal to the tests is not one to it.
            .process_group(0);
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        self.process = Some(command.spawn().unwrap());
        let end = now() + PATIENCE;
        while !self.psql_says("postgres", "SELECT 1").0 {
            assert!(now() < end, "it does not start: {}", fs::read_to_string(self.log()).unwrap());
        }
    }

    /// Stops it as an administrator does who does not wait for its users.
    pub fn stop(&mut self) {
        self.end("INT");
    }

    /// Ends it as a crash does.
    pub fn kill(&mut self) {
        self.end("QUIT");
    }

    fn end(&mut self, signal: &str) {
        if let Some(mut process) = self.process.take() {
            self.signal(process.id(), "CONT");
            kill(process.id(), signal);
            process.wait().unwrap();
        }
    }

    /// All of it stands still, and the machine goes on taking connections for it.
    pub fn pause(&self) {
        self.signal(self.process.as_ref().unwrap().id(), "STOP");
    }

    /// It goes on.
    pub fn go_on(&self) {
        self.signal(self.process.as_ref().unwrap().id(), "CONT");
    }

    /// The postmaster first, then its children: it would replace those that it sees die.
    fn signal(&self, postmaster: u32, signal: &str) {
        kill(postmaster, signal);
        let mut list = Command::new("ps");
        list.args(["-o", "pid=", "--ppid"]).arg(postmaster.to_string());
        let children = list.output().unwrap();
        for child in String::from_utf8(children.stdout).unwrap().split_whitespace() {
            kill(child.parse().unwrap(), signal);
        }
    }

    /// Makes an empty database, and says where it is.
    pub fn database(&self) -> Database<'_> {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let name = format!("test_{number}");
        self.psql("postgres", &format!("CREATE DATABASE {name}"));
        Database { server: self, name }
    }

    /// The address that it listens on.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Where its socket and its files are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Runs SQL as an administrator.
    pub fn psql(&self, database: &str, sql: &str) -> String {
        let (good, said) = self.psql_says(database, sql);
        assert!(good, "{sql}: {said}");
        said
    }

    fn psql_says(&self, database: &str, sql: &str) -> (bool, String) {
        let output = self
            .command("psql")
            .args([
                "--no-psqlrc",
                "--quiet",
                "--tuples-only",
                "--no-align",
                "-v",
                "ON_ERROR_STOP=1",
            ])
            .arg("-h")
            .arg(&self.folder)
            .args(["-p", &self.port.to_string(), "-U", "postgres"])
            .args(["-d", database, "-c", sql])
            .env("PGPASSWORD", PASSWORD)
            .env("PGCONNECT_TIMEOUT", "5")
            .output()
            .unwrap();
        let said = if output.status.success() { output.stdout } else { output.stderr };
        (output.status.success(), String::from_utf8(said).unwrap().trim().to_owned())
    }

    /// One of PostgreSQL's programs, as somebody who is not root.
    pub fn command(&self, name: &str) -> Command {
        self.program(binaries().join(name))
    }

    /// A program, as somebody who is not root.
    pub fn program(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.folder);
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end("INT");
        drop(fs::remove_dir_all(&self.folder));
    }
}

/// One database.
#[derive(Debug)]
pub struct Database<'a> {
    pub server: &'a Server,
    pub name: String,
}

impl Database<'_> {
    /// As the administrator.
    pub fn url(&self) -> String {
        self.url_at(&self.server.address(), "postgres")
    }

    /// By another way, and as another role.
    pub fn url_at(&self, address: &str, role: &str) -> String {
        format!("postgres://{role}:{PASSWORD}@{address}/{}?sslmode=disable", self.name)
    }

    pub fn psql(&self, sql: &str) -> String {
        self.server.psql(&self.name, sql)
    }
}

/// Of the newest version that is installed.
fn binaries() -> PathBuf {
    let version = |folder: &PathBuf| folder.parent()?.file_name()?.to_str()?.parse::<u32>().ok();
    let folders = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let folders = folders.map(|entry| entry.unwrap().path().join("bin"));
    folders
        .filter(|folder| folder.join("initdb").exists())
        .max_by_key(version)
        .expect("PostgreSQL is not installed: run scripts/tools postgresql")
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// So that a server that is not root may read it.
pub fn give_away(path: &Path) {
    if is_root() {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

fn folder() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("portcullis-postgres-{}-{number}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    fs::create_dir(&folder).unwrap();
    give_away(&folder);
    folder
}

/// A process that ends another when this one is gone.
pub fn end_with_us(process: u32) -> Child {
    Command::new("sh")
        .args(["-c", "cat >/dev/null; kill \"$0\""])
        .arg(process.to_string())
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap()
}

fn kill(process: u32, signal: &str) {
    // It may be gone already.
    drop(Command::new("kill").arg(format!("-{signal}")).arg(process.to_string()).output());
}

#[allow(clippy::disallowed_methods, reason = "how long a real process takes")]
fn now() -> Instant {
    Instant::now()
}
