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

#[cfg(test)]
mod tests {
    use expect_test::expect_file;

    use super::*;

    const HEAD: &str = "\
# The `ardent` command

Made from the program's own help. `--format json` works on every verb: one object with `schema_version`, or an `error`
with `code`, `message`, `detail` and `hint`. Exit codes: 0 done, 1 failed, 2 wrong usage or failed preflight.
Colours are for terminals, and never with `NO_COLOR`.
";

    fn sections(command: &mut clap::Command, path: &str, out: &mut String) {
        let help = command.render_long_help().to_string();
        let lines = help.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
        *out += &format!("\n## {path}\n\n```text\n{}\n```\n", lines.trim_end());
        for verb in command.get_subcommands_mut() {
            if verb.get_name() != "help" && !verb.is_hide_set() {
                let path = format!("{path} {}", verb.get_name());
                sections(verb, &path, out);
            }
        }
    }

    /// `UPDATE_EXPECT=1` writes it anew.
    #[test]
    fn the_documented_verbs_are_those_of_the_program() {
        let mut program = Cli::command().disable_help_subcommand(true);
        program.build();
        let mut text = HEAD.to_owned();
        sections(&mut program, "ardent", &mut text);
        expect_file!["../../docs/cli.md"].assert_eq(&text);
    }
}
