//! The load tester, `shardcast load`: many clients against a running server, and what they measured.
//!
//! Clients speak the real signaling, ICE, DTLS and SRTP; publishers and subscribers are in one process,
//! so that one clock tells how long a packet was on its way. Knows of the server only what a client
//! knows, and what `/proc` says of its process.

mod check;
mod connection;
mod datagrams;
mod feedback;
pub mod histogram;
pub mod impair;
mod impair_command;
mod media;
mod negotiation;
pub mod options;
mod peer;
mod process;
mod reception;
pub mod report;
mod run;
mod sampler;
mod shared;
mod stamp;
mod tally;
mod worker;

pub use options::Options;
pub use report::Report;
pub use run::{LoadError, run};

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser as _;
use signal_hook::consts::SIGINT;

/// The command line's word for this program.
pub const SUBCOMMAND: &str = "load";

/// Exit code for a command line that is wrong, or a server that cannot be reached or used.
const EXIT_UNUSABLE: u8 = 2;
/// Exit code for a run that did not show what was demanded.
const EXIT_FAIL: u8 = 1;

/// Runs `shardcast load`; `args` begins with what the program is called. Returns its exit code.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let options = match Options::try_parse_from(args) {
        Ok(options) => options,
        Err(error) => {
            let is_help = !error.use_stderr();
            // A reader that closes the pipe early has seen what it wanted.
            let _ = error.print();
            return if is_help {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(EXIT_UNUSABLE)
            };
        }
    };
    // The first Ctrl-C ends measuring and reports; the second ends the process.
    let stop = Arc::new(AtomicBool::new(false));
    let registered = signal_hook::flag::register_conditional_default(SIGINT, Arc::clone(&stop))
        .and_then(|_| signal_hook::flag::register(SIGINT, Arc::clone(&stop)));
    if let Err(error) = registered {
        eprintln!("shardcast load: {error}");
        return ExitCode::from(EXIT_UNUSABLE);
    }
    let json = match open_json(&options) {
        Ok(json) => json,
        Err(error) => {
            eprintln!("shardcast load: {error}");
            return ExitCode::from(EXIT_UNUSABLE);
        }
    };
    match run(&options, &stop, &mut std::io::stderr()).and_then(|report| print(json, &report)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_FAIL),
        Err(error) => {
            eprintln!("shardcast load: {error}");
            ExitCode::from(EXIT_UNUSABLE)
        }
    }
}

/// Where the JSON goes.
enum Json {
    Nowhere,
    Stdout,
    File(PathBuf, File),
}

/// Opened before the run: it would be a pity to hear of a wrong path at its end.
fn open_json(options: &Options) -> Result<Json, LoadError> {
    match &options.json {
        None => Ok(Json::Nowhere),
        Some(path) if path.as_os_str() == "-" => Ok(Json::Stdout),
        Some(path) => match File::create(path) {
            Ok(file) => Ok(Json::File(path.clone(), file)),
            Err(error) => Err(LoadError::Json(path.clone(), error)),
        },
    }
}

/// Prints what a run has shown, and says whether that is good.
fn print(json: Json, report: &Report) -> Result<bool, LoadError> {
    let mut stdout = std::io::stdout();
    if let Json::Stdout = json {
        let _ = writeln!(stdout, "{}", report.to_json());
        eprint!("{report}");
        return Ok(report.verdict.pass);
    }
    let _ = write!(stdout, "{report}");
    if let Json::File(path, mut file) = json {
        writeln!(file, "{}", report.to_json()).map_err(|error| LoadError::Json(path, error))?;
    }
    Ok(report.verdict.pass)
}
