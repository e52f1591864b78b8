//! Whether the server would start with its parameters, found out before it has to: one mistake in the configuration of the
//! cluster must not keep a node down. What is refused is left out, and the value of the last start stays in force.

use super::{Context, start_stop};
use crate::error::{Error, Result};
use crate::pgdata;
use crate::site::Site;
use ha_core::pgconf::{self, Refusal, Refusals};
use ha_node::server_files;

/// The server computes it from all others, after it has loaded its libraries: nothing that it checks before it serves
/// anybody comes later.
const COMPUTED_LAST: &str = "shared_memory_size";
/// Tried in place of `postgresql.conf`.
const TRIAL: &str = "postgresql.trial.conf";

/// Leaves out what the server refuses, unless it has started with all of this before. What it refused then is tried again: a
/// library may be there by now. `before` is the file as the server had it last, with what a reload has put in force since its start.
pub fn settle(context: &Context, before: &str) -> Result<()> {
    let site = &context.site;
    let present = server_files::text(&server_files::main(&site.paths));
    let started = started(site);
    let known = pgconf::still_refused(&site.config, &present);
    let certain: Refusals = known.clone().into_iter().filter(|(_, refusal)| refusal.by_start).collect();
    if present == started && certain == known {
        return Ok(());
    }
    let refused = match trial(context, &certain) {
        Ok(None) => Ok(certain),
        Ok(Some(_)) if present == started => Ok(known),
        Ok(Some(_)) => search(context, &certain, &started, before),
        Err(error) => Err(error),
    };
    let _ = std::fs::remove_file(site.data_dir().join(TRIAL));
    write(site, &refused?)
}

/// What must be left out besides, because the server has never started with it.
fn search(context: &Context, certain: &Refusals, started: &str, before: &str) -> Result<Refusals> {
    let site = &context.site;
    let suspects = suspects(site, certain, [before, started], false);
    let without = merged(certain, &suspects);
    if suspects.is_empty() || trial(context, &without)?.is_some() {
        // Something else is wrong: the start itself will say what.
        return Ok(certain.clone());
    }
    let mut refused = certain.clone();
    for (name, refusal) in &suspects {
        let mut with = without.clone();
        with.remove(name);
        if let Some(why) = trial(context, &with)? {
            report(site, name, refusal, &why);
            refused.insert(name.clone(), refusal.clone());
        }
    }
    // Each of them alone is right, all together are not.
    if trial(context, &refused)?.is_some() {
        tracing::error!("the server refuses its changed parameters together: all of them are left out");
        refused = without;
    }
    Ok(refused)
}

/// After a start that failed: goes back to the parameters of the last one that did not. False if those are the same. What an
/// acknowledgement is worth is not given up for it: those settings stay as they are.
pub fn fall_back(context: &Context) -> Result<bool> {
    let site = &context.site;
    let started = started(site);
    let present = server_files::text(&server_files::main(&site.paths));
    let known = pgconf::still_refused(&site.config, &present);
    let mut suspects = suspects(site, &known, [&started, &started], true);
    suspects.retain(|name, _| !pgconf::DURABILITY.contains(&name.as_str()));
    if started.is_empty() || suspects.is_empty() {
        return Ok(false);
    }
    write(site, &merged(&known, &suspects))?;
    Ok(true)
}

/// Goes on from [`fall_back`], once it is known whether that helped: `before` is what was in force before it.
pub fn fell_back(context: &Context, before: &Refusals, helped: bool, why: &Error) -> Result<()> {
    let site = &context.site;
    if !helped {
        return write(site, before);
    }
    let refused = refused(site);
    let names: Vec<&str> = refused.keys().filter(|name| !before.contains_key(*name)).map(String::as_str).collect();
    tracing::error!(
        "the server does not start with its changed parameters ({}): it was started with what it had before: {why}",
        names.join(", ")
    );
    Ok(())
}

/// What is left out at present.
#[must_use]
pub fn refused(site: &Site) -> Refusals {
    server_files::still_refused(&site.paths, &site.config)
}

/// A primary must not begin to acknowledge by other rules than it was told.
pub fn allow_primary(site: &Site) -> Result<()> {
    let refused = refused(site);
    let open = |name: &&&str| refused.get(**name).is_some_and(|refusal| refusal.instead.is_none());
    match pgconf::DURABILITY.iter().find(open) {
        Some(name) => {
            let why =
                "the server refuses its value, and has no other: it does not start as primary until that is mended";
            Err(Error::Refused(format!("postgresql.parameters.{name}: {why}")))
        }
        None => Ok(()),
    }
}

/// The server has started with what its file says now.
pub fn started_well(site: &Site) -> Result<()> {
    pgdata::write_durably(&site.paths.started_conf(), &server_files::text(&server_files::main(&site.paths)))
}

/// What came along with a copy: the source runs with it.
pub fn inherit(site: &Site) -> Result<()> {
    let theirs = server_files::text(&server_files::main(&site.paths));
    if pgconf::parameters_in(&theirs).is_empty() {
        return pgdata::remove_durably(&site.paths.started_conf());
    }
    pgdata::write_durably(&site.paths.started_conf(), &theirs)
}

fn started(site: &Site) -> String {
    server_files::text(&site.paths.started_conf())
}

/// What has changed since the last start, with the value of the first of two files that has another one.
fn suspects(site: &Site, known: &Refusals, [before, started]: [&str; 2], by_start: bool) -> Refusals {
    let (before, at_start) = (pgconf::parameters_in(before), pgconf::parameters_in(started));
    let changed = pgconf::changed_since(&site.config, started).into_iter();
    let suspect = |(name, value): (String, String)| {
        let other = before.get(&name).filter(|other| **other != value);
        let instead = other.or_else(|| at_start.get(&name)).cloned();
        (!known.contains_key(&name)).then_some((name, Refusal { instead, by_start }))
    };
    changed.filter_map(suspect).collect()
}

fn merged(known: &Refusals, more: &Refusals) -> Refusals {
    known.iter().chain(more).map(|(name, refusal)| (name.clone(), refusal.clone())).collect()
}

fn write(site: &Site, refused: &Refusals) -> Result<()> {
    let written = server_files::write(&site.paths, &site.config, refused);
    written.map(|_| ()).map_err(Error::io(|| "writing the server's configuration".to_owned()))
}

/// What the server says against starting with this; nothing if it would start.
fn trial(context: &Context, refused: &Refusals) -> Result<Option<String>> {
    let site = &context.site;
    let path = site.data_dir().join(TRIAL);
    let text = pgconf::postgresql_conf(&site.config, refused);
    std::fs::write(&path, text).map_err(Error::io(|| format!("writing {}", path.display())))?;
    let mut command = start_stop::postgres(site, refused);
    command.args(["-C", COMPUTED_LAST, "-c"]).arg(format!("config_file={}", path.display()));
    match context.run(&mut command, "") {
        Ok(_) => Ok(None),
        Err(Error::Program { tail, .. }) => Ok(Some(tail)),
        Err(error) => Err(error),
    }
}

fn report(site: &Site, name: &str, refusal: &Refusal, why: &str) {
    let refused = pgconf::value_of(&site.config, &Refusals::new(), name).unwrap_or_default();
    let instead =
        refusal.instead.as_ref().map_or_else(|| "it is left out".to_owned(), |old| format!("\"{old}\" stays"));
    tracing::error!("postgresql.parameters.{name}: the server refuses \"{refused}\"; {instead}: {why}");
}
