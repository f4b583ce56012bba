//! The command table: every statement of the admin SQL, once.

mod branch;
mod connector;
mod network;
mod server;
mod settings;

use super::grammar::Command;

/// All commands, in the order `ARDENT HELP` lists them.
pub(crate) fn all() -> impl Iterator<Item = &'static Command> {
    connector::COMMANDS
        .iter()
        .chain(branch::COMMANDS)
        .chain(network::COMMANDS)
        .chain(settings::COMMANDS)
        .chain(server::COMMANDS)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_command_has_a_name_of_its_own_and_a_summary() {
        let names: BTreeSet<_> = all().map(Command::name).collect();
        assert_eq!(names.len(), all().count());
        assert!(all().all(|command| !command.summary.is_empty()));
    }
}
