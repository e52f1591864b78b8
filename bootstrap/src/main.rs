//! `ha_bootstrap`: the supervisor of a `ha_ext` node.
#![forbid(unsafe_code)]

use ha_bootstrap::cli::{self, Command};
use ha_bootstrap::error::{Error, Result};
use ha_bootstrap::load::{self, Loaded};
use ha_bootstrap::site::Site;
use ha_bootstrap::supervisor::{Purpose, Supervisor};
use ha_bootstrap::{checks, detach, status};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    let command = match cli::parse(std::env::args_os().skip(1)) {
        Ok(command) => command,
        Err(mistake) => {
            eprintln!("ha_bootstrap: {mistake} (ha_bootstrap --help shows the usage)");
            return ExitCode::from(2);
        }
    };
    let done = match command {
        Command::Help => print(cli::HELP),
        Command::Version => print(concat!("ha_bootstrap ", env!("CARGO_PKG_VERSION"), "\n")),
        Command::Run { file } => supervise(&file, Purpose::Run),
        Command::Prepare { file, at_most } => supervise(&file, Purpose::Prepare { at_most }),
        Command::Detach { target } => detach_node(&target),
        Command::Status { file, json } => show(&file, json),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("ha_bootstrap: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print(text: &str) -> Result<u8> {
    std::io::stdout().write_all(text.as_bytes()).map_err(Error::io(|| "writing".to_owned()))?;
    Ok(0)
}

fn site_of(loaded: &Loaded) -> Site {
    Site::new(Arc::new(loaded.config.clone()), loaded.file.clone())
}

fn supervise(file: &Path, purpose: Purpose) -> Result<u8> {
    checks::not_root()?;
    let loaded = load::load(file)?;
    let level = load::tracing_level(loaded.config.log_level);
    let queue = ha_node::log::install(level, || {}).map_err(|error| Error::Refused(error.to_string()))?;
    let died: ha_node::runtime::Died = Arc::new(|name, why| eprintln!("the thread {name} died: {why}"));
    let writer = ha_node::log::spawn_writer(queue.clone(), std::io::stderr(), died)
        .map_err(Error::io(|| "starting the log".to_owned()))?;
    let done = supervised(loaded, purpose);
    if let Err(error) = &done {
        tracing::error!("{error}");
    }
    queue.close();
    let _ = writer.join();
    // It is in the log already.
    Ok(done.unwrap_or(1))
}

fn supervised(loaded: Loaded, purpose: Purpose) -> Result<u8> {
    let site = site_of(&loaded);
    checks::place(&site)?;
    site.make_control_dir()?;
    let _lock = checks::lock_supervisor(&site)?;
    let version_num = checks::environment(&site)?;
    ha_node::environment::keep(&site.paths, &loaded.layers.environment)
        .map_err(Error::io(|| "keeping the environment for the server".to_owned()))?;
    tracing::info!(
        "ha_bootstrap {} for {} of {}, PostgreSQL {}.{}",
        env!("CARGO_PKG_VERSION"),
        site.config.name,
        site.config.scope,
        version_num / 10_000,
        version_num % 10_000
    );
    if let Some(mistake) = &loaded.mistake {
        tracing::warn!(
            "the dynamic configuration as it was last seen cannot be used before the store tells it anew: {mistake}"
        );
    }
    Supervisor::new(loaded, site, version_num, purpose)?.run()
}

fn detach_node(target: &Path) -> Result<u8> {
    checks::not_root()?;
    let is_data_dir = target.join("PG_VERSION").exists();
    let data_dir = if is_data_dir {
        std::path::absolute(target).map_err(Error::io(|| format!("finding {}", target.display())))?
    } else {
        let loaded = load::load(target)?;
        let site = site_of(&loaded);
        if checks::supervisor_runs(&site) {
            let why = format!("a supervisor runs for {}: stop it first", site.data_dir().display());
            return Err(Error::Refused(why));
        }
        site.data_dir().to_owned()
    };
    let done = detach::detach(&data_dir)?;
    print(&format!("{}\n", if done.is_empty() { "nothing to do".to_owned() } else { done.join("\n") }))
}

fn show(file: &Path, json: bool) -> Result<u8> {
    let loaded = load::load(file)?;
    let site = site_of(&loaded);
    let found = status::collect(loaded, &site)?;
    if json {
        return print(&format!("{found:#}\n"));
    }
    print(&status::text(&found))
}
