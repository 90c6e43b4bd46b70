//! `portcullis token new`: a static token, and what the server's configuration gets of it.

use clap::{Args, Subcommand};

use crate::{credentials::token, random::Random};

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Token {
    /// Print a new token, and the table that the configuration file gets
    New(New),
}

/// The arguments of `token new`.
#[derive(Args, Debug)]
pub struct New {
    /// The caller that it is for
    pub name: String,
    /// A group of the caller; once for each
    #[arg(long = "group", value_name = "GROUP")]
    pub groups: Vec<String>,
}

impl New {
    /// The text. The token is on the first line.
    pub fn make(self, random: &dyn Random) -> String {
        let (token, entry) = token::generate(random, &self.name, self.groups);
        format!(
            "{token}\n\n# The line above is for the caller; it is shown this once. The server's configuration gets:\n\n{}",
            entry.to_toml()
        )
    }
}
