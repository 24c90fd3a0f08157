//! The `shardcast` command: parses options, runs the server, and stops it on SIGINT or SIGTERM; or
//! runs the load tester, as `shardcast load`, or a bad network, as `shardcast impair`.

use std::io::{IsTerminal as _, Write as _};
use std::num::NonZero;
use std::process::ExitCode;

use shardcast::config::{Config, ConfigError};
use shardcast::load;
use shardcast::server::Server;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Exit code for wrong usage (sysexits(3): EX_USAGE).
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    match args.nth(1) {
        Some(word) if word == load::SUBCOMMAND => {
            return load::main(std::iter::once("shardcast load".into()).chain(args));
        }
        Some(word) if word == load::impair::SUBCOMMAND => {
            return load::impair::main(std::iter::once("shardcast impair".into()).chain(args));
        }
        _ => {}
    }
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let config = Config::load(
        std::env::args_os(),
        |name| std::env::var_os(name),
        |path| std::fs::read_to_string(path),
        cores,
    );
    let config = match config {
        Ok(config) => config,
        Err(ConfigError::Information(text)) => {
            // A reader that closes the pipe early has seen what it wanted.
            let _ = write!(std::io::stdout(), "{text}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("shardcast: {error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    tracing_subscriber::fmt()
        .with_env_filter(config.log.as_str())
        .with_writer(std::io::stderr)
        // Colours are for people; a file, a journal or a container's log would keep their codes.
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    for name in Config::unknown_variables(std::env::vars_os().map(|(name, _)| name)) {
        tracing::warn!("there is no option for the environment variable {name}: it is ignored");
    }
    match run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: &Config) -> Result<(), Box<dyn std::error::Error>> {
    // Registered before anything runs, so that no signal is missed.
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let server = Server::start(config)?;
    let signal = signals.forever().next();
    tracing::info!(?signal, "stopping");
    // A second signal while stopping ends the process at once, as people expect.
    signal_hook::flag::register_conditional_default(SIGINT, always())?;
    signal_hook::flag::register_conditional_default(SIGTERM, always())?;
    server.shutdown();
    Ok(())
}

fn always() -> std::sync::Arc<std::sync::atomic::AtomicBool> {
    std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true))
}
