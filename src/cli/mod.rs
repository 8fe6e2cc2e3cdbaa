//! The command line: parse, run, exit codes.

mod doctor;
mod exit;
mod http;
mod offline;
mod output;
mod remote;
mod sessions;
mod settings;

pub use exit::{Exit, Failure};
pub use settings::ReferenceForm;

use crate::bench::{self, BenchCommand};
use crate::config::{KEYS, Key, Loaded, Sources};
use crate::ops::logging;
use crate::server;
use crate::session::SessionName;
use clap::{Arg, ArgMatches, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// Keeps live collaborative sessions, whatever happens.
#[derive(Debug, Parser)]
#[command(name = "hotset", version, disable_help_subcommand = true)]
struct Cli {
    /// Read these settings instead of config/hotset.toml
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Read these settings instead of .env
    #[arg(long, global = true, value_name = "FILE")]
    env_file: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon (this is what happens without a command)
    Serve,
    /// Show what the running daemon is doing
    Status,
    /// Save a session now
    Save(OneSession),
    /// Make, list and verify backups
    #[command(subcommand)]
    Backups(BackupsCommand),
    /// List sessions, and end projects
    #[command(subcommand)]
    Sessions(SessionsCommand),
    /// Put a backup in place of the current state
    ///
    /// What was newer is kept. While the daemon runs, everybody in the session is told and disconnected.
    Restore {
        /// A backup's name, `latest`, or a file
        from: String,
        #[command(flatten)]
        of: OneSession,
        /// Only check and show what would be restored
        #[arg(long)]
        dry_run: bool,
    },
    /// Go on after damage: shows what is lost, or accepts that
    ///
    /// Prints a token; with it, the loss is accepted. The daemon must be stopped.
    Recover {
        /// The token that confirms what was shown
        #[arg(long, value_name = "TOKEN")]
        accept_loss: Option<String>,
    },
    /// Fill an empty session from the old server's file
    ///
    /// Reads its session_snapshot.pkl or the add-on's .db. The daemon must be stopped.
    Import {
        /// The file; nothing in it is executed
        file: PathBuf,
        #[command(flatten)]
        into: OneSession,
    },
    /// Check everything in the data directory
    Fsck,
    /// Write a session out as JSON
    Export {
        #[command(flatten)]
        session: OneSession,
        /// Write into this new file instead of to standard output
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Show the passwords in force
    #[command(subcommand)]
    Password(PasswordCommand),
    /// Show and check the settings
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Find out what is wrong with this installation, and what to do
    ///
    /// A line for each check: ok, warn or FAIL. Ends with 1 if one failed.
    Doctor,
    /// End with 0 if the daemon is alive (for containers)
    Healthcheck,
    /// Measure this daemon on this machine, against a bare room
    #[command(subcommand)]
    Bench(Box<BenchCommand>),
}

#[derive(Debug, Subcommand)]
enum BackupsCommand {
    /// Make a backup of a session now
    Create {
        #[command(flatten)]
        of: OneSession,
        /// Also copy it to this new file, or to standard output (`-`)
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// List a session's backups
    List(OneSession),
    /// Check every byte of one backup, or of all
    Verify {
        /// Its name
        name: Option<String>,
        #[command(flatten)]
        of: OneSession,
    },
}

#[derive(Debug, Subcommand)]
enum SessionsCommand {
    /// Show which sessions there are
    List,
    /// End a project: keep all of a session as a backup, and begin anew
    ///
    /// The session is empty then, and Blender clients are disconnected.
    Archive {
        /// Which session
        #[arg(value_name = "NAME", default_value = "default", value_parser = session_name)]
        session: SessionName,
    },
}

#[derive(Debug, Subcommand)]
enum PasswordCommand {
    /// Show them; they are never shown anywhere else
    Show,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Show every setting and where it comes from
    Show,
    /// Say whether the settings are good, without starting anything
    Check,
    /// Print the reference of all settings
    Reference {
        /// In which form
        #[arg(long, value_enum, default_value = "md")]
        form: ReferenceForm,
    },
}

#[derive(Debug, clap::Args)]
struct OneSession {
    /// Which session
    #[arg(long, value_name = "NAME", default_value = "default", value_parser = session_name)]
    session: SessionName,
}

fn session_name(text: &str) -> Result<SessionName, String> {
    let allowed = "a session's name is 1 to 64 of a-z 0-9 - _";
    SessionName::new(text).map_err(|error| format!("it {error}: {allowed}"))
}

/// Runs the command line and says how the process should end.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let matches = match command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => {
            // Help and version are no failures; clap knows where each belongs.
            let _closed = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done };
        }
    };
    match Cli::from_arg_matches(&matches).map_err(|error| Failure::new(Exit::Usage, error)).and_then(|cli| {
        let sources = sources(&cli, &matches);
        dispatch(cli, sources)
    }) {
        Ok(()) => Exit::Done,
        Err(failure) => {
            output::complain(&failure.message);
            failure.exit
        }
    }
}

/// The commands that explain the settings; the others only take them.
const EXPLAIN_SETTINGS: [&str; 2] = ["serve", "config"];

const SETTINGS_ELSEWHERE: &str = "Settings as for serve: hotset serve --help";

/// Columns of a setting's explanation. Wrapped here, because `clap` does it only with a package to ask the terminal.
const EXPLANATION_COLUMNS: usize = 68;

/// The derived commands, with one flag for each setting from the table.
fn command() -> clap::Command {
    let settings: Vec<Arg> = KEYS.iter().filter_map(setting).collect();
    let command = Cli::command().args(settings.clone());
    command.mut_subcommands(|command| {
        if EXPLAIN_SETTINGS.contains(&command.get_name()) {
            return command;
        }
        let hidden = settings.iter().map(|setting| setting.clone().hide(true));
        let command = command.args(hidden).after_help(SETTINGS_ELSEWHERE);
        command.mut_subcommands(|command| command.after_help(SETTINGS_ELSEWHERE))
    })
}

fn setting(key: &Key) -> Option<Arg> {
    let arg = Arg::new(key.name).long(key.flag()?).value_name(key.placeholder()).help(wrapped(key.doc));
    let arg = arg.help_heading("Settings").global(true).next_line_help(true);
    Some(arg.hide_short_help(true).allow_hyphen_values(false))
}

fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= EXPLANATION_COLUMNS => {
                *line = format!("{line} {word}");
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}

fn sources(cli: &Cli, matches: &ArgMatches) -> Sources {
    let environment: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
    let named = |name: &str| environment.get(OsStr::new(name)).filter(|value| !value.is_empty()).map(PathBuf::from);
    let flag = |key: &Key| Some((key.name, matches.get_one::<String>(key.name)?.clone()));
    Sources {
        directory: PathBuf::new(),
        config: cli.config.clone().or_else(|| named("HOTSET_CONFIG")),
        env_file: cli.env_file.clone().or_else(|| named("HOTSET_ENV_FILE")),
        flags: KEYS.iter().filter(|key| !key.is_secret()).filter_map(flag).collect(),
        environment,
    }
}

fn dispatch(cli: Cli, sources: Sources) -> Result<(), Failure> {
    if let Some(Command::Config(ConfigCommand::Reference { form })) = cli.command {
        return settings::reference(form);
    }
    if let Some(Command::Bench(what)) = &cli.command {
        return bench::run(what, cli.json).map_err(|error| Failure::new(Exit::InputOutput, error));
    }
    if let Some(Command::Doctor) = cli.command {
        logging::start_for_command().map_err(|error| Failure::new(Exit::Internal, error))?;
        return doctor::run(&sources, cli.json);
    }
    let loaded = load(&cli, &sources)?;
    match cli.command {
        None | Some(Command::Serve) => Ok(server::run(sources, &loaded)?),
        Some(command) => {
            warn(&loaded);
            logging::start_for_command().map_err(|error| Failure::new(Exit::Internal, error))?;
            ask(command, &loaded, cli.json)
        }
    }
}

/// The settings. A daemon that runs is healthy whatever has been written into them since.
fn load(cli: &Cli, sources: &Sources) -> Result<Loaded, Failure> {
    let is_for_a_start = matches!(cli.command, None | Some(Command::Serve | Command::Config(ConfigCommand::Check)));
    match sources.load() {
        Ok(loaded) if is_for_a_start => {
            loaded.check_ports()?;
            Ok(loaded)
        }
        Err(errors) if matches!(cli.command, Some(Command::Healthcheck)) && !errors.only_flags() => {
            errors.0.iter().for_each(|error| output::complain(&format!("warning: {error}")));
            Ok(sources.load_what_is_good())
        }
        loaded => Ok(loaded?),
    }
}

fn ask(command: Command, loaded: &Loaded, json: bool) -> Result<(), Failure> {
    match command {
        Command::Serve | Command::Doctor | Command::Bench(_) | Command::Config(ConfigCommand::Reference { .. }) => {
            Ok(())
        }
        Command::Status => remote::status(loaded, json),
        Command::Save(of) => remote::save(loaded, &of.session, json),
        Command::Backups(BackupsCommand::Create { of, to }) => {
            remote::create_backup(loaded, &of.session, to.as_deref(), json)
        }
        Command::Backups(BackupsCommand::List(of)) => offline::list_backups(loaded, &of.session, json),
        Command::Backups(BackupsCommand::Verify { name, of }) => {
            offline::verify_backups(loaded, &of.session, name.as_deref(), json)
        }
        Command::Sessions(command) => sessions::run(&command, loaded, json),
        Command::Restore { from, of, dry_run } => offline::restore(loaded, &of.session, &from, dry_run, json),
        Command::Recover { accept_loss } => offline::recover(loaded, accept_loss.as_deref(), json),
        Command::Import { file, into } => offline::import(loaded, &into.session, &file, json),
        Command::Fsck => offline::fsck(loaded, json),
        Command::Export { session, to } => output::write_out(to.as_deref(), &mut |out| {
            if remote::export(loaded, &session.session, out)? {
                return Ok(());
            }
            offline::export(loaded, &session.session, out)
        }),
        Command::Password(PasswordCommand::Show) => settings::show_passwords(loaded, json),
        Command::Config(ConfigCommand::Show) => settings::show(loaded, json),
        Command::Config(ConfigCommand::Check) => settings::check(loaded, json),
        Command::Healthcheck => remote::healthcheck(loaded, json),
    }
}

fn warn(loaded: &Loaded) {
    for warning in &loaded.warnings {
        output::complain(&format!("warning: {warning}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visit(command: &clap::Command, each: &mut impl FnMut(&clap::Command)) {
        each(command);
        command.get_subcommands().for_each(|command| visit(command, each));
    }

    #[test]
    fn the_help_of_every_command_fits_a_terminal() {
        let mut all = command();
        all.build();
        visit(&all, &mut |command| {
            let help = command.clone().render_long_help().to_string();
            let usage = |line: &str| line.starts_with("Usage:");
            for line in help.lines().filter(|line| !usage(line)) {
                assert!(line.chars().count() <= 100, "{}: {line}", command.get_name());
            }
        });
    }

    #[test]
    fn only_the_commands_about_settings_explain_them_and_all_take_them() {
        let help = |arguments: &[&str]| command().try_get_matches_from(arguments).unwrap_err().to_string();
        for arguments in [&["hotset", "serve", "--help"] as &[_], &["hotset", "config", "show", "--help"]] {
            assert!(help(arguments).contains("--create-sessions <BOOL>"), "{arguments:?}");
        }
        for arguments in [&["hotset", "save", "--help"] as &[_], &["hotset", "backups", "list", "--help"]] {
            let help = help(arguments);
            assert!(!help.contains("--create-sessions") && help.lines().count() < 30, "{arguments:?}: {help}");
            assert!(help.contains("hotset serve --help"), "{arguments:?}: {help}");
        }
        for arguments in [
            &["hotset", "backups", "list", "--max-backups", "3"] as &[_],
            &["hotset", "--max-backups", "3", "backups", "list"],
            &["hotset", "backups", "--max-backups", "3", "list"],
            &["hotset", "--max-backups", "3"],
        ] {
            let matches = command().try_get_matches_from(arguments).unwrap();
            assert_eq!(matches.get_one::<String>("max_backups").map(String::as_str), Some("3"), "{arguments:?}");
        }
    }
}
