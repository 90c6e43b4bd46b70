//! The README's commands, as they stand there, and what they print.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use tokio::process::Command;

use super::{
    compare::{compare, path},
    normal::normal,
    programs::{Program, finish, portcullis, tool},
};

/// Where the README has the server.
const ADDRESS: &str = "127.0.0.1:50051";

/// How the server is started there.
const START: &str = "portcullis --config who.toml > log 2>&1 &";

/// The text between the fences of the code blocks of this kind.
fn blocks<'a>(text: &'a str, kind: &str) -> Vec<&'a str> {
    let fence = format!("```{kind}\n");
    text.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

/// The commands of a console block: what follows `$ `, up to where a shell would not ask for more.
fn commands(block: &str) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    let mut goes_on = false;
    for line in block.lines() {
        if goes_on {
            let command = commands.last_mut().unwrap();
            command.push('\n');
            command.push_str(line);
        } else if let Some(first) = line.strip_prefix("$ ") {
            commands.push(first.to_owned());
        } else {
            continue;
        }
        let command = commands.last().unwrap();
        goes_on = command.ends_with('\\') || command.matches('\'').count() % 2 == 1;
    }
    commands
}

/// A folder with programs on the PATH, gone with the test.
struct Shell {
    folder: PathBuf,
    path: String,
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Shell {
    fn new(name: &str, grpcurl: &Path) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let own = Path::new(env!("CARGO_BIN_EXE_portcullis")).parent().unwrap();
        let tools = grpcurl.parent().unwrap();
        let path = format!("{}:{}:/usr/local/bin:/usr/bin:/bin", own.display(), tools.display());
        Self { folder, path }
    }

    /// Both streams, and the exit code.
    async fn run(&self, script: &str, folder: &Path) -> (String, i32) {
        let mut command = Command::new("bash");
        command.args(["-e", "-c", script]).env_clear().env("PATH", &self.path);
        command.env("HOME", &self.folder).current_dir(folder);
        finish(command).await
    }

    /// The block as it comes out now.
    async fn console(&self, block: &str, server: &Program, folder: &Path) -> String {
        let mut text = String::new();
        for command in commands(block) {
            assert!(command.contains(ADDRESS), "{command}");
            let (output, _) = self.run(&command.replace(ADDRESS, &server.address), folder).await;
            text.push_str(&format!("$ {command}\n{}\n", output.trim_end()));
        }
        // Ids that are drawn at random may stay as they are.
        if normal(&text) == normal(block) { block.to_owned() } else { text }
    }
}

#[tokio::test]
async fn the_readme_shows_what_its_commands_print() {
    let Some(grpcurl) = tool("bin/grpcurl") else { return };
    let readme = fs::read_to_string(path("README.md")).unwrap();
    let (before, rest) = readme.split_once("\n## Who calls\n").unwrap();
    let (who, _) = rest.split_once("\n## ").unwrap();
    let shell = Shell::new("readme", &grpcurl);
    let mut now = readme.clone();

    // The first screen: a fresh start without anything.
    let first = blocks(before, "console");
    assert_eq!(first.len(), 1);
    let server = portcullis(&[], &[]).await;
    let shown = shell.console(first[0], &server, &shell.folder).await;
    now = now.replace(first[0], &shown);

    // The setup runs as it stands there in what could be a clone, but for the build and the start at the end.
    if tool("bin/openssl").is_none() {
        return;
    }
    symlink(path("deploy"), shell.folder.join("deploy")).unwrap();
    let setup = blocks(who, "sh");
    assert_eq!(setup.len(), 1);
    let setup = setup[0].trim_end().strip_suffix(START).expect("the start at the end");
    let script = format!("cargo() {{ [ \"$1\" = build ]; }}\n{setup}");
    let (said, code) = shell.run(&script, &shell.folder).await;
    assert_eq!(code, 0, "{said}");
    let folder = shell.folder.join("target/who");
    let file = folder.join("who.toml");
    let server = portcullis(&["--config", file.to_str().unwrap()], &[]).await;
    let calls = blocks(who, "console");
    assert_eq!(calls.len(), 1);
    let shown = shell.console(calls[0], &server, &folder).await;
    now = now.replace(calls[0], &shown);

    // Each kind of credential is there, and passes; and what policy does not allow is refused.
    for part in ["$(head -n 1 token)", "$(cat jwt)", "-cert bob.pem"] {
        assert!(shown.contains(part), "{part}");
    }
    assert_eq!(shown.matches("\"DryRun\": true\n").count(), 2, "{shown}");
    assert_eq!(shown.matches("\"CidrIpv4\"").count(), 1, "{shown}");
    assert_eq!(shown.matches("Code: PermissionDenied").count(), 1, "{shown}");
    // Without any of them nothing is answered.
    let bare = format!("grpcurl -cacert ca.pem {} list", server.address);
    let (said, code) = shell.run(&bare, &folder).await;
    assert!(code != 0 && said.contains("a credential is needed"), "{said}");
    compare("README.md", &now);
}

#[test]
fn commands_are_taken_whole() {
    let block = "$ a 'b\n  c' \\\n  d\nout\n$ e\n{ 'x }\n$ f\n";
    assert_eq!(commands(block), ["a 'b\n  c' \\\n  d", "e", "f"]);
    assert_eq!(blocks("x\n```sh\na\n```\n```console\nb\n```\n", "console"), ["b\n"]);
}
