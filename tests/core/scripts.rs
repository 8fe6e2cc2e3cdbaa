//! Golden scripts: commands in, events and rejections out, in one text that anyone can read.
//!
//! Lines that are indented are what the session must answer to the line above them. `UPDATE_GOLDEN=1` writes the
//! answers anew; read the difference before you commit it. The language is described in `tests/golden/scripts/README.md`.

use super::{parse, show};
use hotset::session::{
    Author, ClientId, Command, Decision, Event, Limits, MemberName, OpKey, Operation, Role, Session, Timestamp,
};
use std::collections::BTreeMap;
use std::path::Path;

struct Stage {
    session: Session,
    limits: Limits,
    roles: BTreeMap<String, Role>,
    clients: BTreeMap<String, u128>,
    at: i64,
}

impl Stage {
    fn new() -> Self {
        Self {
            session: Session::new(),
            limits: Limits::default(),
            roles: BTreeMap::new(),
            clients: BTreeMap::new(),
            at: 0,
        }
    }

    fn run(&mut self, line: &str) -> Vec<String> {
        if let Some(what) = line.strip_prefix("show ") {
            return show::state(&self.session, what);
        }
        if let Some(limit) = line.strip_prefix("limit ") {
            self.limit(limit);
            return Vec::new();
        }
        if let Some((who, operations)) = line.split_once(": ") {
            return self.edit(who, operations);
        }
        let mut words = parse::Words::new(line);
        let who = words.next();
        if words.take("is now") {
            self.roles.insert(who, role(&words.next()));
            return Vec::new();
        }
        let command = if words.take("joins") {
            self.join(&who, &mut words)
        } else if words.take("leaves") {
            Command::Leave
        } else if words.take("restores") {
            assert_eq!(who, "daemon", "nobody else does");
            return self.restore(&words.next());
        } else {
            panic!("not understood: {line}")
        };
        words.done();
        self.decide(&who, &command)
    }

    fn restore(&mut self, source: &str) -> Vec<String> {
        self.at += 1;
        let event = Event::restored(self.session.seq() + 1, Timestamp(self.at), source);
        self.session.evolve(&event);
        show::event(&event)
    }

    fn join(&mut self, who: &str, words: &mut parse::Words) -> Command {
        if let Some(word) = words.after("as") {
            self.roles.insert(who.to_owned(), role(&word));
        }
        let next = self.clients.len() as u128 + 1;
        let client = words.after("client").map(|client| client.parse().expect("a number"));
        let client = client.or_else(|| self.clients.get(who).copied()).unwrap_or(next);
        self.clients.insert(who.to_owned(), client);
        Command::Join { client: ClientId(client) }
    }

    /// `alice`, `alice op 5` or `alice ops 1 to 1030`, of which only the last answer is shown.
    fn edit(&mut self, who: &str, operations: &str) -> Vec<String> {
        let operations: Vec<Operation> = match operations {
            "nothing at all" => Vec::new(),
            operations => operations.split(" ; ").map(parse::operation).collect(),
        };
        let mut words = parse::Words::new(who);
        let who = words.next();
        let numbers = if let Some(first) = words.after("ops") {
            let last = words.after("to").expect("a last number");
            first.parse().expect("a number")..=last.parse().expect("a number")
        } else if let Some(op) = words.after("op") {
            let op: u64 = op.parse().expect("a number");
            op..=op
        } else {
            return self.decide(&who, &Command::Edit { op: None, operations });
        };
        let client = ClientId(*self.clients.get(&who).expect("somebody who joined"));
        let mut answer = Vec::new();
        for op in numbers {
            let op = Some(OpKey { client, op });
            answer = self.decide(&who, &Command::Edit { op, operations: operations.clone() });
        }
        answer
    }

    fn decide(&mut self, who: &str, command: &Command) -> Vec<String> {
        let name = if who == "daemon" { MemberName::daemon() } else { MemberName::new(who).expect("a name") };
        let role = self.roles.get(who).copied().unwrap_or(if name.is_daemon() { Role::Admin } else { Role::Member });
        self.at += 1;
        let before = self.session.clone();
        let decision = self.session.decide(command, &Author { name, role }, Timestamp(self.at), &self.limits);
        assert_eq!(before, self.session, "deciding changes nothing");
        match decision {
            Ok(Decision::New(event)) => {
                self.session.evolve(&event);
                show::event(&event)
            }
            Ok(Decision::Repeat { seq }) => vec![format!("was done by #{seq} already")],
            Err(rejection) => vec![format!("refused ({}): {rejection}", rejection.code())],
        }
    }

    fn limit(&mut self, words: &str) {
        let (what, limit) = words.split_once(' ').expect("what and how much");
        let limits = &mut self.limits;
        let field = match what {
            "nodes" => &mut limits.nodes,
            "payload_bytes_total" => &mut limits.payload_bytes_total,
            "payload_bytes" => &mut limits.payload_bytes,
            "deltas" => &mut limits.deltas,
            "dependencies" => &mut limits.dependencies,
            "depth" => &mut limits.depth,
            "json_depth" => &mut limits.json_depth,
            "batch_operations" => &mut limits.batch_operations,
            "tasks" => &mut limits.tasks,
            "chat_messages" => &mut limits.chat_messages,
            "chat_bytes" => &mut limits.chat_bytes,
            "members_online" => &mut limits.members_online,
            "members_remembered" => &mut limits.members_remembered,
            "metadata_bytes" => &mut limits.metadata_bytes,
            "clients_remembered" => &mut limits.clients_remembered,
            "settings" => &mut limits.settings,
            "setting_bytes" => &mut limits.setting_bytes,
            other => panic!("no such limit: {other}"),
        };
        *field = limit.parse().expect("a number");
    }
}

fn role(word: &str) -> Role {
    match word {
        "viewer" => Role::Viewer,
        "member" => Role::Member,
        "admin" => Role::Admin,
        other => panic!("no such role: {other}"),
    }
}

/// The script with the answers that the session really gives.
fn played(script: &str) -> String {
    let mut stage = Stage::new();
    let mut out = String::new();
    for line in script.lines().filter(|line| !line.starts_with("  ")) {
        out += line;
        out += "\n";
        if !line.is_empty() && !line.starts_with("# ") {
            for answer in stage.run(line) {
                out.extend(["  ", &answer, "\n"]);
            }
        }
    }
    out
}

#[test]
fn every_golden_script_is_answered_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/scripts");
    let mut played_scripts = 0;
    for entry in std::fs::read_dir(folder).expect("the scripts") {
        let path = entry.expect("a file").path();
        if path.extension().is_none_or(|ending| ending != "txt") {
            continue;
        }
        let script = std::fs::read_to_string(&path).expect("a script");
        let played = played(&script);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &played).expect("the script is written");
        } else {
            assert_eq!(script, played, "{}", path.display());
        }
        played_scripts += 1;
    }
    assert!(played_scripts >= 10, "only {played_scripts} scripts were found");
}
