//! Runs the scenarios one after the other and checks each.

use std::path::Path;

use serde_json::Value;

use super::{
    normal::normal,
    programs::output,
    scenarios::{Call, Expected, SERVICE, Scenario},
};

/// What stands for what in the bodies, such as `{default}` for a group's id.
pub type Names = Vec<(&'static str, String)>;

/// A scenario as it ran, without what differs from run to run.
pub struct Ran {
    pub scenario: &'static Scenario,
    /// As typed at a shell, with the server at its default address.
    pub command: String,
    pub output: String,
    pub exit: i32,
}

/// A server to ask, and the program that asks.
pub struct Shell<'a> {
    pub grpcurl: &'a Path,
    pub address: &'a str,
    pub names: Names,
}

impl Shell<'_> {
    pub async fn run_all(
        &self,
        scenarios: &'static [Scenario],
        expected: impl Fn(&Scenario) -> Expected,
    ) -> Vec<Ran> {
        let mut all = Vec::new();
        let mut wrong = String::new();
        let mut before = Value::Null;
        for scenario in scenarios {
            let (ran, answer) = self.run(scenario, &before).await;
            for complaint in complaints(&ran, &expected(scenario)) {
                wrong.push_str(&format!("\n{}: {complaint}\n{}\n", scenario.name, ran.output));
            }
            before = answer;
            all.push(ran);
        }
        assert!(wrong.is_empty(), "{wrong}");
        all
    }

    async fn run(&self, scenario: &'static Scenario, before: &Value) -> (Ran, Value) {
        let (text, exit, command) = match scenario.call {
            Call::List => self.reflect(&["list"]).await,
            Call::Describe(symbol) => self.reflect(&["describe", symbol]).await,
            Call::Rpc(method, body) => {
                let body = self.fill(body, before);
                let (text, exit) = self.call(method, &body).await;
                let command =
                    format!("grpcurl -plaintext -d '{body}' 127.0.0.1:50051 {SERVICE}/{method}");
                (text, exit, command)
            }
        };
        let answer = serde_json::from_str(&text).unwrap_or_default();
        let ran = Ran { scenario, command, output: normal(text.trim_end()), exit };
        (ran, answer)
    }

    async fn reflect(&self, words: &[&str]) -> (String, i32, String) {
        let command = [&["-plaintext", self.address], words].concat();
        let (text, exit) = output(self.grpcurl, &command).await;
        (text, exit, format!("grpcurl -plaintext 127.0.0.1:50051 {}", words.join(" ")))
    }

    /// One call; the answer or error as grpcurl prints it.
    pub async fn call(&self, method: &str, body: &str) -> (String, i32) {
        let method = format!("{SERVICE}/{method}");
        let arguments = ["-plaintext", "-max-time", "30", "-d", body, self.address, &method];
        output(self.grpcurl, &arguments).await
    }

    /// `{pasted}` is the egress rules of the group that the answer before describes, untouched.
    pub fn fill(&self, body: &str, before: &Value) -> String {
        let mut body = body.to_owned();
        for (name, value) in &self.names {
            body = body.replace(&format!("{{{name}}}"), value);
        }
        if body.contains("{pasted}") {
            let rules = &before["SecurityGroups"][0]["IpPermissionsEgress"];
            assert!(rules.as_array().is_some_and(|rules| !rules.is_empty()), "{before}");
            body = body.replace("{pasted}", &serde_json::to_string_pretty(rules).unwrap());
        }
        body
    }
}

fn complaints(ran: &Ran, expected: &Expected) -> Vec<String> {
    let mut complaints = Vec::new();
    if ran.exit != expected.exit {
        complaints.push(format!("exit {}, not {}", ran.exit, expected.exit));
    }
    let spaceless = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let output = spaceless(&ran.output);
    for text in expected.says.iter().filter(|text| !output.contains(&spaceless(text))) {
        complaints.push(format!("does not say {text:?}"));
    }
    for text in expected.never.iter().filter(|text| output.contains(&spaceless(text))) {
        complaints.push(format!("says {text:?}"));
    }
    complaints
}
