//! The command line.
//!
//! The flags of the settings are made from the table of settings ([`crate::config::keys`]), the rest is clap's
//! derive. `portcullis` without a subcommand serves.

use std::{ffi::OsString, path::PathBuf};

use clap::{
    Arg, ArgAction, ArgMatches, Args, FromArgMatches, Parser, Subcommand, ValueHint,
    builder::PathBufValueParser,
};

use crate::config::keys::{self, CONFIG_ENV, Key, Takes};

pub mod banner;
pub mod client;
mod connect;
pub mod health;
pub mod ledger;
pub mod policy;
pub mod token;

const AFTER_HELP: &str = "\
Each setting is taken from its flag, else its environment variable, else the file, else its default.

Examples:
  portcullis
      serves the sandbox on 127.0.0.1:50051
  portcullis --sandbox-state groups.json
      serves a sandbox that starts with what `aws ec2 describe-security-groups > groups.json` printed
  portcullis describe-rules --filters Name=group-id,Values=sg-000000000000000a1
      asks a running server, with the AWS CLI's flags
  PORTCULLIS_LOG_LEVEL=debug portcullis --config /etc/portcullis.toml
      takes the settings from a file, and one from the environment
  portcullis check-config --config /etc/portcullis.toml
      prints the configuration in effect, or everything that is wrong with it

Exit codes:
  0   after a drain (SIGTERM or SIGINT starts it), or the command did what it should
  1   cannot start; calls were still in work at the end of drain_timeout_ms or at a second signal;
      health: not SERVING; policy check: something is wrong; policy explain: denied;
      ledger: it cannot be opened, or verify found something;
      revoke-egress, authorize-egress, describe-rules, describe-groups, operations: refused, or
      something was unknown
  2   the last five: nobody can tell; no server or no answer in time, or EC2's was lost
  64  the configuration or the command line is wrong";

/// What to do.
#[derive(Debug)]
pub enum Command {
    /// Serve.
    Serve(Settings),
    /// Check the configuration.
    CheckConfig(CheckConfig),
    /// Ask a server for its health.
    Health(health::Health),
    /// Work on policies.
    Policy(policy::Policy),
    /// Make a static token.
    NewToken(token::New),
    /// Work on a ledger.
    Ledger(ledger::Ledger),
    /// Call a server.
    Client(client::Client),
}

/// Reads the command line. The error is also how clap asks for help or version to be printed.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, clap::Error> {
    let cli = Cli::try_parse_from(args)?;
    Ok(match cli.command {
        None => Command::Serve(cli.settings),
        Some(Sub::Serve(settings)) => Command::Serve(settings),
        Some(Sub::CheckConfig(check)) => Command::CheckConfig(check),
        Some(Sub::Health(health)) => Command::Health(health),
        Some(Sub::Policy(policy)) => Command::Policy(policy),
        Some(Sub::Token { command: token::Token::New(new) }) => Command::NewToken(new),
        Some(Sub::Ledger { command }) => Command::Ledger(command),
        Some(Sub::Client(client)) => Command::Client(client),
    })
}

/// A gRPC service that adds and removes rules of EC2 security groups, on EC2 or in a sandbox.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version, args_conflicts_with_subcommands = true)]
#[command(after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Option<Sub>,
}

#[derive(Debug, Subcommand)]
enum Sub {
    /// Serve; the same as no subcommand
    Serve(Settings),
    /// Print the configuration in effect, or everything that is wrong with it
    CheckConfig(CheckConfig),
    /// Ask a running server for its health
    Health(health::Health),
    /// Check policies, and say who may do what by them
    Policy(policy::Policy),
    /// Make static tokens
    Token {
        #[command(subcommand)]
        command: token::Token,
    },
    /// Prove, print or migrate the ledger of changes
    Ledger {
        #[command(subcommand)]
        command: ledger::Ledger,
    },
    #[command(flatten)]
    Client(client::Client),
}

/// The arguments of `check-config`.
#[derive(Args, Debug)]
pub struct CheckConfig {
    /// The settings to check.
    #[command(flatten)]
    pub settings: Settings,
    /// Print the reference of all settings, as Markdown.
    #[arg(long, hide = true)]
    pub reference: bool,
}

/// The file and the settings that the flags give.
#[derive(Debug, Default)]
pub struct Settings {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// The settings by their names in the table, with their values.
    pub flags: Vec<(&'static str, Vec<String>)>,
}

impl Args for Settings {
    fn augment_args(command: clap::Command) -> clap::Command {
        let file = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(PathBufValueParser::new())
            .value_hint(ValueHint::FilePath)
            .help(format!("The configuration file, in TOML [env: {CONFIG_ENV}]"));
        let flags = keys::groups().flat_map(|(heading, keys)| {
            keys.iter().map(move |key| flag(key).help_heading(heading))
        });
        command.arg(file).args(flags)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Settings {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let config = matches.get_one::<PathBuf>("config").cloned();
        let flags = keys::groups()
            .flat_map(|(_, keys)| keys)
            .filter_map(|key| {
                let values = matches.get_many::<String>(key.name)?;
                Some((key.name, values.cloned().collect()))
            })
            .collect();
        Ok(Self { config, flags })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The flag of a setting. Its value is taken as it is: the configuration checks it, with all others.
fn flag(key: &'static Key) -> Arg {
    let default = if key.default.is_empty() { "none" } else { key.default };
    let unit = match key.takes {
        Takes::Number(unit, ..) => format!(" {unit}"),
        _ => String::new(),
    };
    let words = match key.takes {
        Takes::Choice(words) => format!(" [one of: {}]", words.join(", ")),
        _ => String::new(),
    };
    let arg = Arg::new(key.name)
        .long(key.flag())
        .value_name(key.takes.placeholder())
        .help(format!("{}{words} [default: {default}{unit}] [env: {}]", key.doc, key.env()));
    match key.takes {
        Takes::Files => arg.num_args(1..).action(ArgAction::Append).value_hint(ValueHint::FilePath),
        Takes::List(_) | Takes::Pairs { .. } => arg.num_args(1..).action(ArgAction::Append),
        Takes::Switch => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
        _ => arg,
    }
}
