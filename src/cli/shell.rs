//! What the program tells shells and `man` about itself: made from the verbs, so never out of date.

use clap::CommandFactory;

use super::args::{Cli, Command};

/// The text of a verb that needs no server; none for all others.
pub(super) fn text(command: &Command) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    match command {
        Command::Completions { shell } => {
            clap_complete::generate(*shell, &mut Cli::command(), "ardent", &mut text);
        }
        Command::Man => manual(&mut text).ok()?,
        _ => return None,
    }
    Some(text)
}

/// One page: the program, then each verb.
fn manual(out: &mut Vec<u8>) -> std::io::Result<()> {
    let mut program = Cli::command();
    program.build();
    clap_mangen::Man::new(program.clone()).render(out)?;
    let mut verbs: Vec<clap::Command> = program.get_subcommands().cloned().collect();
    while !verbs.is_empty() {
        let verb = verbs.remove(0);
        if verb.is_hide_set() || verb.get_name() == "help" {
            continue;
        }
        let nested: Vec<_> = verb.get_subcommands().cloned().collect();
        let page = clap_mangen::Man::new(verb);
        page.render_name_section(out)?;
        page.render_synopsis_section(out)?;
        page.render_description_section(out)?;
        page.render_options_section(out)?;
        verbs.splice(0..0, nested);
    }
    Ok(())
}
