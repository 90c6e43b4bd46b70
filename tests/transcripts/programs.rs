//! The programs that a transcript needs: portcullis itself, grpcurl, moto's server.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    time::timeout,
};

/// How long a program may take to say where it listens.
const START: Duration = Duration::from_secs(60);

/// A server process; dropping it kills it.
pub struct Program {
    pub address: String,
    /// The sandbox's EC2 door, if it was opened.
    #[allow(dead_code, reason = "not every test that starts programs asks there")]
    pub ec2_door: Option<String>,
    process: Child,
}

#[allow(dead_code, reason = "not every test that starts programs ends them")]
impl Program {
    /// `kill -9`; waits until it is gone.
    pub async fn kill(mut self) {
        self.process.kill().await.unwrap();
    }

    /// How large a file it may write may become: bytes, or `unlimited`.
    pub async fn limit_files(&self, bytes: &str) {
        let id = self.process.id().unwrap().to_string();
        let limit = format!("--fsize={bytes}:unlimited");
        let status = Command::new("prlimit").args(["--pid", &id, &limit]).status().await.unwrap();
        assert!(status.success(), "prlimit {limit}");
    }

    /// Ends it as an administrator does; waits until it is gone, and returns its exit code.
    pub async fn end(mut self) -> Option<i32> {
        self.signal("TERM").await;
        self.process.wait().await.unwrap().code()
    }

    /// Sends it a signal by its name, such as STOP.
    pub async fn signal(&self, name: &str) {
        let id = self.process.id().unwrap().to_string();
        let status = Command::new("kill").args(["-s", name, &id]).status().await.unwrap();
        assert!(status.success(), "kill -s {name} {id}");
    }
}

/// A tool of the tests by its path below the tools folder, or on PATH. None: it is not installed, and need not be.
pub fn tool(path: &str) -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools");
    let folder = env::var_os("PORTCULLIS_TEST_TOOLS").map_or(own, PathBuf::from);
    let name = Path::new(path).file_name().unwrap();
    let on_path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&on_path).map(|folder| folder.join(name));
    let found = std::iter::once(folder.join(path)).chain(on_path).find(|file| file.is_file());
    if found.is_none() {
        let required = env::var_os("PORTCULLIS_TEST_REQUIRE_TOOLS");
        assert!(required.is_none_or(|value| value != "1"), "{path} is not installed");
        eprintln!("SKIPPED: what needs {path}; scripts/tools installs it");
    }
    found
}

/// `portcullis serve`, on a port of the system's choice unless the flags name one. It gets no environment but this:
/// settings and credentials of whoever runs the tests are not part of the scenarios.
pub async fn portcullis(flags: &[&str], environment: &[(&str, &str)]) -> Program {
    portcullis_with_log(flags, environment, Stdio::null()).await
}

/// The same, with its log somewhere.
pub async fn portcullis_with_log(
    flags: &[&str],
    environment: &[(&str, &str)],
    log: Stdio,
) -> Program {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(["serve", "--admin-listen", "off"]).args(flags);
    if !flags.contains(&"--listen") {
        command.args(["--listen", "127.0.0.1:0"]);
    }
    command.env_clear().envs(environment.iter().copied());
    command.stdout(Stdio::piped()).stderr(log);
    let mut process = start(&mut command);
    let word = |line: String| line.split_whitespace().nth(1).unwrap().to_owned();
    let mut lines = Lines::of(process.stdout.take().unwrap());
    let address = word(lines.next_with("  gRPC ").await);
    let ec2_door = if flags.contains(&"--sandbox-ec2-listen") {
        let url = word(lines.next_with("  EC2 ").await);
        Some(url.trim_start_matches("http://").to_owned())
    } else {
        None
    };
    lines.drain();
    Program { address, ec2_door, process }
}

/// moto's server on a port of the system's choice.
pub async fn moto(program: &Path) -> Program {
    let mut command = Command::new(program);
    command.args(["-H", "127.0.0.1", "-p", "0"]);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut process = start(&mut command);
    let mut lines = Lines::of(process.stderr.take().unwrap());
    let line = lines.next_with("Running on http://").await;
    lines.drain();
    let (_, address) = line.split_once("http://").unwrap();
    Program { address: address.trim().to_owned(), ec2_door: None, process }
}

fn start(command: &mut Command) -> Child {
    let started = command.stdin(Stdio::null()).kill_on_drop(true).spawn();
    started.unwrap_or_else(|error| panic!("{:?}: {error}", command.as_std().get_program()))
}

/// What a program prints.
struct Lines<S>(tokio::io::Lines<BufReader<S>>);

impl<S: AsyncRead + Send + Unpin + 'static> Lines<S> {
    fn of(stream: S) -> Self {
        Self(BufReader::new(stream).lines())
    }

    /// The next line that holds the text.
    async fn next_with(&mut self, text: &str) -> String {
        let found = timeout(START, async {
            while let Some(line) = self.0.next_line().await.unwrap() {
                if line.contains(text) {
                    return line;
                }
            }
            panic!("ended before it said {text:?}")
        });
        found.await.unwrap_or_else(|_| panic!("did not say {text:?} in {START:?}"))
    }

    /// Reads and drops the rest: a full pipe would stop the program.
    fn drain(mut self) {
        tokio::spawn(async move { while let Ok(Some(_)) = self.0.next_line().await {} });
    }
}

/// What a command prints to stdout, then to stderr, and its exit code.
pub async fn output<A: AsRef<OsStr>>(program: &Path, arguments: &[A]) -> (String, i32) {
    let mut command = Command::new(program);
    command.args(arguments);
    finish(command).await
}

/// The same of a command that is ready to start.
pub async fn finish(mut command: Command) -> (String, i32) {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(START, command.output()).await.expect("an end").unwrap();
    let mut text = String::from_utf8(output.stdout).unwrap();
    text.push_str(&String::from_utf8(output.stderr).unwrap());
    (text, output.status.code().unwrap())
}
