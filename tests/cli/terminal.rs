//! In a real terminal: tmux is one, and tells what stands on its screen.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tokio::time::timeout;

use super::{
    client::{DEFAULT_VPC, Server},
    programs::{output, tool},
};

/// A tmux server of our own; dropping it ends it.
struct Tmux {
    program: PathBuf,
    socket: PathBuf,
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = Command::new(&self.program).arg("-S").arg(&self.socket).arg("kill-server").output();
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl Tmux {
    async fn tmux(&self, words: &[&str]) -> String {
        let socket = self.socket.to_str().unwrap();
        // Without a file of the user's; with UTF-8, whatever the locale.
        let words = [&["-f", "/dev/null", "-u", "-S", socket], words].concat();
        let (text, exit) = output(&self.program, &words).await;
        assert_eq!(exit, 0, "{words:?}: {text}");
        text
    }

    /// What a command leaves on a screen of that width, with every escape code, and its exit code.
    async fn run(
        program: &Path,
        width: usize,
        name: &str,
        words: &[&str],
    ) -> (Vec<String>, String) {
        // The path of a socket may not be long.
        let socket =
            std::env::temp_dir().join(format!("portcullis-{}-{name}-{width}", std::process::id()));
        let tmux = Self { program: program.to_owned(), socket };
        let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let tell = format!("{} -S {} wait-for -S ended", program.display(), tmux.socket.display());
        let line = format!(
            "unset NO_COLOR; {} {}; echo \"[exit $?]\"; {tell}; exec cat",
            env!("CARGO_BIN_EXE_portcullis"),
            quoted.join(" ")
        );
        let width = width.to_string();
        tmux.tmux(&["new-session", "-d", "-x", &width, "-y", "80", &line]).await;
        let ended = timeout(Duration::from_secs(60), tmux.tmux(&["wait-for", "ended"])).await;
        assert!(
            ended.is_ok(),
            "the command did not end: {}",
            tmux.tmux(&["capture-pane", "-p"]).await
        );
        let screen = tmux.tmux(&["capture-pane", "-p", "-e"]).await;
        let mut lines: Vec<String> =
            screen.trim_end().lines().map(|line| line.trim_end().to_owned()).collect();
        let exit = lines.pop().unwrap();
        (lines, exit)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_fit_terminals_of_80_and_200_columns() {
    let Some(tmux) = tool("bin/tmux") else { return };
    let server = Server::start().await;
    let address = server.program.address.as_str();
    let filter = "Name=group-id,Values=sg-000000000000000a1";
    let words = ["describe-rules", "--address", address, "--filters", filter];
    for (width, rule) in [
        (80, "| sgr-0000000000000a1e3 | tcp 443       | 203.0.113.0/24       | payment       |"),
        (
            200,
            "| sgr-0000000000000a1e3 | tcp 443       | 203.0.113.0/24       | payment provider  |",
        ),
    ] {
        let (lines, exit) = Tmux::run(&tmux, width, "rules", &words).await;
        assert_eq!(exit, "[exit 0]", "{lines:#?}");
        let screen = lines.join("\n");
        assert!(screen.contains(rule), "{screen}");
        assert!(!screen.contains('\u{1b}'), "{screen:?}");
        // Each table is whole: a line that the terminal broke would not end with its border.
        assert!(lines.iter().all(|line| line.chars().count() <= width));
        let borders = lines.iter().filter(|line| line.starts_with(['|', '+']));
        assert!(borders.clone().all(|line| line.ends_with(['|', '+'])), "{screen}");
        assert!(borders.count() > 15);
        for id in 1..=9 {
            assert!(screen.contains(&format!("sgr-0000000000000a1e{id} ")), "{screen}");
        }
        assert_eq!(lines.last().unwrap(), "12 rules.");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sentences_are_broken_between_words_and_exit_codes_shown() {
    let Some(tmux) = tool("bin/tmux") else { return };
    let server = Server::start().await;
    let address = server.program.address.as_str();
    let words =
        ["revoke-egress", "--address", address, "--group-id", DEFAULT_VPC, "--protocol", "tcp"];
    let unknown = [&words[..], &["--port", "444", "--cidr", "10.0.0.0/8"]].concat();
    let (lines, exit) = Tmux::run(&tmux, 80, "unknown", &unknown).await;
    assert_eq!(exit, "[exit 1]", "{lines:#?}");
    let expected = [
        "Revoked nothing: sg-000000000000000d1 has no such rule; 1 unknown.",
        "  unknown: tcp 444 to 10.0.0.0/8 [PORT_RANGE_DIFFERS]",
        "    sgr-0000000000000d1e1 is tcp 443-443 to 10.0.0.0/8; asked was tcp 444-444 to",
        "      10.0.0.0/8. Ports must be equal.",
        "    nearest: sgr-0000000000000d1e1 of sg-000000000000000d1: tcp 443 to",
        "      10.0.0.0/8 \"internal https\"",
    ];
    assert_eq!(lines[..expected.len()], expected);

    let known = [&words[..], &["--port", "443", "--cidr", "10.0.0.0/8"]].concat();
    let (lines, exit) = Tmux::run(&tmux, 80, "known", &known).await;
    assert_eq!(
        (exit.as_str(), lines[5].as_str()),
        ("[exit 0]", "Revoked all that was asked: 1 rule of sg-000000000000000d1.")
    );

    let refused = [&words[..], &["--port", "1", "--cidr", "10"]].concat();
    let (lines, exit) = Tmux::run(&tmux, 80, "refused", &refused).await;
    assert_eq!(
        (exit.as_str(), lines[0].as_str()),
        ("[exit 1]", "portcullis: INVALID_ARGUMENT: INVALID_REQUEST")
    );

    let nowhere = ["describe-rules", "--address", "127.0.0.1:9"];
    let (lines, exit) = Tmux::run(&tmux, 80, "nowhere", &nowhere).await;
    assert_eq!(
        (exit.as_str(), lines[0].as_str()),
        ("[exit 2]", "portcullis: UNAVAILABLE: UNREACHABLE")
    );
}
