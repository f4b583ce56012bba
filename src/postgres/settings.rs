//! The settings computes run with, read from `config/branch.conf`, `config/trunk.conf` and
//! `config/load.conf`.
//!
//! They reach `postgres` as `-c name=value`, never through a file of the data directory.

/// What a compute serves; decides its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComputeKind {
    /// The follower of a source: one client, the applier.
    Trunk,
    /// A trunk whose first copy is being made: thrown away unless that ends well.
    Load,
    /// A writable copy for people and jobs.
    Branch,
}

const BRANCH: &str = include_str!("../../config/branch.conf");
const TRUNK: &str = include_str!("../../config/trunk.conf");
const LOAD: &str = include_str!("../../config/load.conf");

/// One `name = value` of a settings file.
struct Setting<'a> {
    name: &'a str,
    value: &'a str,
    /// First major that knows the setting.
    since: u32,
}

/// Arguments for `postgres`, in the order in which a later one wins.
pub(super) fn arguments(kind: ComputeKind, major: u32) -> Vec<String> {
    let (trunk, load) = match kind {
        ComputeKind::Trunk => (TRUNK, ""),
        ComputeKind::Load => (TRUNK, LOAD),
        ComputeKind::Branch => ("", ""),
    };
    parse(BRANCH)
        .chain(parse(trunk))
        .chain(parse(load))
        .filter(|setting| major >= setting.since)
        .flat_map(|setting| ["-c".to_owned(), format!("{}={}", setting.name, setting.value)])
        .collect()
}

fn parse(text: &str) -> impl Iterator<Item = Setting<'_>> {
    text.lines().filter_map(parse_line)
}

fn parse_line(line: &str) -> Option<Setting<'_>> {
    let (setting, reason) = line.split_once('#').unwrap_or((line, ""));
    let (name, value) = setting.split_once('=')?;
    let since = reason.trim_start().strip_prefix('[').and_then(|rest| rest.split_once("+]"));
    let since = since.and_then(|(major, _)| major.parse().ok()).unwrap_or(0);
    Some(Setting { name: name.trim(), value: value.trim().trim_matches('\''), since })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_has_a_reason() {
        for line in BRANCH.lines().chain(TRUNK.lines()).chain(LOAD.lines()) {
            let Some(setting) = parse_line(line) else { continue };
            let reason = line.split_once('#').map_or("", |(_, reason)| reason.trim());
            let reason = reason.split_once("+] ").map_or(reason, |(_, reason)| reason);
            assert!(reason.len() > 10, "{} has no reason", setting.name);
        }
    }

    #[test]
    fn a_setting_reaches_only_majors_that_know_it() {
        let sync = "recovery_init_sync_method=syncfs".to_owned();
        assert!(!arguments(ComputeKind::Branch, 13).contains(&sync));
        assert!(arguments(ComputeKind::Branch, 14).contains(&sync));
        assert!(arguments(ComputeKind::Branch, 15).contains(&"listen_addresses=".to_owned()));
    }

    #[test]
    fn only_a_load_goes_without_fsync() {
        let last = |kind| {
            let mut all = arguments(kind, 15).into_iter();
            all.rfind(|argument| argument.starts_with("fsync=")).unwrap()
        };
        assert_eq!(last(ComputeKind::Load), "fsync=off");
        assert_eq!(
            (last(ComputeKind::Trunk), last(ComputeKind::Branch)),
            ("fsync=on".into(), "fsync=on".into())
        );
    }

    #[test]
    fn the_trunk_does_not_change_what_recovery_compares() {
        let compared = ["wal_level", "max_", "track_commit_timestamp", "wal_log_hints"];
        for setting in parse(TRUNK) {
            let name = setting.name;
            assert!(name == "max_wal_size" || !compared.iter().any(|c| name.starts_with(c)));
        }
    }
}
