//! A folder of policies: what is taken, what is refused and where it says it is, and reading it again.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use portcullis::{
    access::{
        Access, Action, Caller, Circumstances, Fault, Mode, Policies, Resource, actions, policies,
    },
    api::methods,
    principal::{Peer, Principal},
    reload::{Reload, SETTLED},
    rule::{AccountId, Region, Target},
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

/// A folder that goes with the test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("access-{name}"));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn with(self, file: &str, text: &str) -> Self {
        self.write(file, text);
        self
    }

    pub fn write(&self, file: &str, text: &str) {
        fs::write(self.0.join(file), text).unwrap();
    }

    pub fn path(&self) -> &std::path::Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const ALL: &str = "permit (principal, action, resource);\n";

fn faults(file: &str, text: &str) -> Vec<Fault> {
    let files = [(file.to_owned(), text.to_owned())];
    Policies::parse(&files).err().unwrap_or_default()
}

#[test]
fn what_is_wrong_is_said_with_file_and_line() {
    for (text, line, says) in [
        ("\n\npermit (principal, action, resource)\n", Some(3), "unexpected end"),
        (
            "permit (\n  principal,\n  action == Action::\"Revoke\",\n  resource);",
            Some(3),
            "Action::\"Revoke\"",
        ),
        (
            "permit (principal, action, resource)\nwhen { true &&\n context.port == 1 };",
            Some(3),
            "port",
        ),
        (
            "\nforbid (principal, action in Action::\"mutate\", resource)\nwhen { resource.getTag(\"x\") == \"y\" };",
            Some(3),
            "hasTag",
        ),
        ("\npermit (principal == ?principal, action, resource);", None, "template"),
        ("@ID(\"x\") permit (principal, action, resource);", None, "@ID"),
        ("@report_only permit (principal, action, resource);", None, "\"true\" or \"false\""),
        ("@report_only(\"yes\") permit (principal, action, resource);", None, "\"yes\""),
        (
            "@id(\"a\") permit (principal, action, resource);@id(\"a\") forbid (principal, action, resource);",
            None,
            "two policies",
        ),
        ("@id(\"\") permit (principal, action, resource);", None, "@id"),
        (
            "permit (principal, action, resource) when { context.destination_cidr == ip(\"10.0.0.0/33\") };",
            Some(1),
            "10.0.0.0/33",
        ),
    ] {
        let faults = faults("a.cedar", text);
        assert!(!faults.is_empty(), "{text} passes");
        let fits = |fault: &Fault| {
            fault.file == "a.cedar" && fault.line == line && fault.message.contains(says)
        };
        assert!(faults.iter().any(fits), "{text}\n{faults:#?}");
    }
}

#[test]
fn faults_of_all_files_come_at_once() {
    let folder = Folder::new("faults")
        .with("a.cedar", "permit (principal, action);")
        .with("b.cedar", ALL)
        .with("c.cedar", "permit (principal, action, resource) when { context.x };\n")
        .with("ignored.txt", "not a policy")
        .with(".hidden.cedar", "not a policy");
    let faults = Policies::read(folder.path()).unwrap_err();
    let files: Vec<&str> = faults.iter().map(|fault| fault.file.as_str()).collect();
    assert!(files.contains(&"a.cedar") && files.contains(&"c.cedar"), "{faults:?}");
    assert!(files.iter().all(|file| ["a.cedar", "c.cedar"].contains(file)), "{faults:?}");
}

#[test]
fn an_empty_folder_is_no_policy() {
    let folder = Folder::new("empty").with("a.cedar", "// nothing\n");
    let faults = Policies::read(folder.path()).unwrap_err();
    assert!(faults[0].message.contains("no policy"), "{faults:?}");
    assert!(Policies::read(&folder.path().join("missing")).is_err());
    fs::create_dir(folder.path().join("b.cedar")).unwrap();
    assert!(Policies::read(folder.path()).unwrap_err()[0].message.contains("not a file"));
}

#[test]
fn a_file_without_a_policy_is_a_fault_beside_others() {
    let folder = Folder::new("hollow").with("a.cedar", ALL).with("b.cedar", ALL);
    for hollow in ["", "\n", "// forbid (principal, action, resource);\n"] {
        folder.write("b.cedar", hollow);
        let faults = Policies::read(folder.path()).unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert_eq!(faults[0].to_string(), "b.cedar: there is no policy in it");
    }
}

/// Cut between two policies, a file is valid and forbids less.
#[tokio::test(start_paused = true)]
async fn a_file_that_is_cut_while_it_is_written_lifts_no_forbid() {
    const PERIOD: Duration = Duration::from_secs(5);
    let forbid = "forbid (principal, action, resource);\n";
    let folder = Folder::new("cut").with("a.cedar", &format!("{ALL}{forbid}"));
    let access = Arc::new(Access::open(folder.path(), Mode::Enforce).unwrap());
    let mut reload = Reload::default();
    let reloaded = access.clone();
    let paths = vec![folder.path().to_owned()];
    reload.register("policies", paths, move |still| reloaded.reload_if(still));
    let now = Arc::new(Notify::new());
    let task = tokio::spawn(reload.run(PERIOD, now.clone()));
    pass(SETTLED * 2).await;
    for by_signal in [true, false] {
        // The look of the period comes one later.
        now.notify_one();
        pass(PERIOD - Duration::from_millis(1)).await;
        folder.write("a.cedar", ALL);
        if by_signal {
            now.notify_one();
        }
        pass(SETTLED / 2).await;
        assert!(!allows(&access), "by signal: {by_signal}");
        folder.write("a.cedar", &format!("{ALL}{forbid}"));
        pass(SETTLED * 3).await;
        assert!(!allows(&access), "by signal: {by_signal}");
    }
    // What stays is meant, and a signal does not wait for the period.
    folder.write("a.cedar", ALL);
    now.notify_one();
    pass(SETTLED * 3 / 2).await;
    assert!(allows(&access));
    task.abort();
}

/// Lets the paused clock go on, and all that waits for it.
async fn pass(time: Duration) {
    sleep_until(Instant::now() + time).await;
}

fn allows(access: &Access) -> bool {
    let target =
        Target { account: AccountId::new("123456789012"), region: Region::new("us-east-1") };
    let (principal, peer) = (Principal::local(), Peer::default());
    let caller = Caller { principal: &principal, peer: &peer, request_id: "r" };
    let on = Resource::Target(&target);
    access.check(caller, Action::Access, on, Circumstances::default()).is_ok()
}

#[test]
fn an_empty_or_broken_set_keeps_the_one_in_force() {
    let folder = Folder::new("reload").with("a.cedar", ALL);
    let access = Access::open(folder.path(), Mode::Enforce).unwrap();
    let allowed = || allows(&access);
    assert!(allowed());
    for broken in ["", "permit (", "permit (principal, action == Action::\"x\", resource);"] {
        folder.write("a.cedar", broken);
        assert!(access.reload().is_err(), "{broken}");
        assert!(allowed(), "{broken}");
    }
    folder.write("a.cedar", "forbid (principal, action, resource);");
    access.reload().unwrap();
    assert!(!allowed());
}

#[test]
fn the_schema_has_exactly_the_tables_actions() {
    let schema = policies::schema().unwrap();
    let mut of_schema: Vec<String> =
        schema.actions().map(|uid| uid.id().unescaped().to_owned()).collect();
    let mut of_table: Vec<String> = actions::TABLE
        .iter()
        .filter_map(|(_, _, entry)| match entry {
            actions::Entry::Decided(action) => Some(action.as_str().to_owned()),
            actions::Entry::Open => None,
        })
        .chain(["access", "UseIncidentLane", "read", "mutate", "sandbox"].map(str::to_owned))
        .collect();
    of_schema.sort();
    of_table.sort();
    assert_eq!(of_schema, of_table);
    assert_eq!(methods::check(), Ok(()));
}
