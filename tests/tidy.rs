//! Rules of this source tree that no lint knows. Reads files only; needs no Postgres.

#[cfg(test)]
mod tidy {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    const LINES_MAX: usize = 400;
    const COLUMNS_MAX: usize = 100;
    /// Where code of ours lives; `target` and the drivers' packages stand beside these.
    const ROOTS: [&str; 5] = ["src", "proxy", "storage", "tests", "benches"];
    /// What the CLI may use, so that it stays a client.
    const CLI_MAY_USE: [&str; 5] = ["cli", "name", "lsn", "secret", "config"];

    struct Source {
        /// Relative to the repository, `/` between parts.
        path: String,
        text: String,
    }

    impl Source {
        /// Its lines with their numbers, up to its unit tests.
        fn production(&self) -> impl Iterator<Item = (usize, &str)> {
            let end = self.tests_from().unwrap_or(usize::MAX);
            self.lines().take_while(move |(number, _)| *number < end)
        }

        fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
            self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
        }

        fn code(&self) -> String {
            let code = self.text.lines().filter(|line| !line.trim_start().starts_with("//"));
            code.collect::<Vec<_>>().join("\n")
        }

        /// The line on which unit tests begin; a file of an integration test is all test.
        fn tests_from(&self) -> Option<usize> {
            if self.path.starts_with("tests/") || self.path.contains("/tests/") {
                return Some(1);
            }
            let lines: Vec<&str> = self.text.lines().collect();
            let begins = |pair: &[&str]| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ");
            lines.windows(2).position(begins).map(|index| index + 1)
        }
    }

    fn root() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR"))
    }

    fn read(path: &str) -> String {
        std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn sources() -> Vec<Source> {
        let mut paths = Vec::new();
        for directory in ROOTS {
            collect(&root().join(directory), &mut paths);
        }
        assert!(paths.len() > 20, "the source tree was not found");
        let relative = |path: &PathBuf| {
            let path = path.strip_prefix(root()).expect("a path below the root");
            path.to_string_lossy().into_owned()
        };
        let paths = paths.iter().map(relative);
        paths.map(|path| Source { text: read(&path), path }).collect()
    }

    fn collect(directory: &Path, paths: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name();
            if path.is_dir() && name != "target" && name != "node_modules" && name != ".venv" {
                collect(&path, paths);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                paths.push(path);
            }
        }
    }

    #[track_caller]
    fn assert_none(rule: &str, broken: &[String]) {
        assert!(broken.is_empty(), "{rule}:\n{}", broken.join("\n"));
    }

    /// Lines for which `breaks` holds, as `path:line: text`.
    fn lines_where(
        sources: &[Source],
        breaks: impl Fn(&Source, usize, &str) -> bool,
    ) -> Vec<String> {
        let mut broken = Vec::new();
        for source in sources {
            let bad = source.lines().filter(|(number, line)| breaks(source, *number, line));
            broken.extend(bad.map(|(number, line)| format!("{}:{number}: {line}", source.path)));
        }
        broken
    }

    #[test]
    fn every_file_says_first_what_it_is_for() {
        let silent = sources().into_iter().filter(|source| !source.text.starts_with("//! "));
        let silent: Vec<String> = silent.map(|source| source.path).collect();
        assert_none("line one is `//!`", &silent);
    }

    #[test]
    fn no_file_holds_more_than_one_idea_fits_in() {
        let count = |source: &Source| source.production().count();
        let long = sources().into_iter().map(|source| (count(&source), source.path));
        let long = long.filter(|(lines, _)| *lines > LINES_MAX);
        let long: Vec<String> = long.map(|(lines, path)| format!("{path}: {lines}")).collect();
        assert_none("at most 400 lines", &long);
    }

    #[test]
    fn lines_fit_the_screen() {
        let wide = lines_where(&sources(), |source, number, line| {
            let in_tests = source.tests_from().is_some_and(|from| number >= from);
            // A text for people or for Postgres is not cut up to fit.
            let holds_text = line.contains('"') && !line.trim_start().starts_with("//");
            line.chars().count() > COLUMNS_MAX && !in_tests && !holds_text
        });
        assert_none("at most 100 columns", &wide);
    }

    #[test]
    fn nothing_is_put_off_or_switched_off() {
        let marks = [
            concat!("TO", "DO"),
            concat!("FIX", "ME"),
            concat!("#[", "ignore"),
            concat!("#[", "allow("),
            concat!("#![", "allow("),
        ];
        let found =
            lines_where(&sources(), |_, _, line| marks.iter().any(|mark| line.contains(mark)));
        assert_none("no marks of unfinished work", &found);
    }

    #[test]
    fn what_a_module_offers_is_named() {
        let globs = lines_where(&sources(), |_, _, line| {
            let line = line.trim_start();
            line.starts_with("pub") && line.contains(" use ") && line.ends_with("::*;")
        });
        assert_none("no glob re-exports", &globs);
    }

    #[test]
    fn tests_wait_for_conditions_instead_of_sleeping() {
        let found = lines_where(&sources(), |source, number, line| {
            let in_tests = source.tests_from().is_some_and(|from| number >= from);
            let calls = line.contains(concat!("sl", "eep("));
            let by_us = line.contains("thread::") || line.contains("time::");
            let is_support = source.path.contains("support");
            in_tests && calls && by_us && !is_support
        });
        assert_none("only the helpers that wait for a condition sleep", &found);
    }

    /// The modules of the root crate in the order of src/lib.rs, lowest first.
    fn layers() -> Vec<String> {
        let text = read("src/lib.rs");
        let declared = text.lines().filter_map(|line| line.strip_prefix("pub mod "));
        let layers: Vec<String> =
            declared.map(|name| name.trim_end_matches(';').to_owned()).collect();
        assert!(layers.len() > 5, "src/lib.rs declares its layers");
        layers
    }

    /// The module of the root crate that a file belongs to.
    fn module_of(path: &str) -> Option<&str> {
        let below = path.strip_prefix("src/")?;
        let module = below.split('/').next()?.trim_end_matches(".rs");
        (module != "lib" && module != "main").then_some(module)
    }

    /// The first names after `prefix::`, also inside `prefix::{a, b::c}`.
    fn names_after(code: &str, prefix: &str) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for (at, _) in code.match_indices(prefix) {
            if code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_') {
                continue;
            }
            let Some(rest) = code[at + prefix.len()..].strip_prefix("::") else { continue };
            match rest.strip_prefix('{') {
                Some(list) => names.extend(first_names_in_braces(list)),
                None => names.extend([identifier(rest)]),
            }
        }
        names
    }

    fn first_names_in_braces(list: &str) -> Vec<String> {
        let mut names = Vec::new();
        let (mut depth, mut expects_name) = (0, true);
        for (at, character) in list.char_indices() {
            match character {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => expects_name = true,
                _ if expects_name && character.is_alphabetic() => {
                    names.push(identifier(&list[at..]));
                    expects_name = false;
                }
                _ => {}
            }
        }
        names
    }

    fn identifier(text: &str) -> String {
        text.chars()
            .take_while(|character| character.is_alphanumeric() || *character == '_')
            .collect()
    }

    #[test]
    fn the_scan_for_names_sees_every_form() {
        let code = "use crate::{a, b::{c, d}, e as f}; crate::g::h(); mycrate::i; pub(crate) j";
        let names: Vec<String> = names_after(code, "crate").into_iter().collect();
        assert_eq!(names, ["a", "b", "e", "g"]);
    }

    #[test]
    fn modules_use_only_what_stands_below_them() {
        let layers = layers();
        let rank = |module: &str| layers.iter().position(|layer| layer == module);
        let mut broken = Vec::new();
        for source in sources() {
            let Some(own) = module_of(&source.path) else { continue };
            let own_rank = rank(own).unwrap_or_else(|| panic!("{own} is not in src/lib.rs"));
            let used = names_after(&source.code(), "crate");
            let upward =
                used.into_iter().filter(|name| rank(name).is_some_and(|rank| rank > own_rank));
            broken.extend(upward.map(|name| format!("{} uses {name}", source.path)));
        }
        assert_none("dependencies point downwards", &broken);
    }

    #[test]
    fn the_cli_stays_a_client() {
        let layers = layers();
        let mut broken = Vec::new();
        for source in sources() {
            if module_of(&source.path) != Some("cli") {
                continue;
            }
            let code = source.code();
            let ours = names_after(&code, "crate").into_iter();
            let ours = ours.filter(|name| layers.contains(name) && !CLI_MAY_USE.contains(&&**name));
            broken.extend(ours.map(|name| format!("{} uses {name}", source.path)));
            let others = names_after(&code, "proxy").into_iter().filter(|name| name != "client");
            broken.extend(others.map(|name| format!("{} uses proxy::{name}", source.path)));
            if !names_after(&code, "storage").is_empty() {
                broken.push(format!("{} uses storage", source.path));
            }
        }
        assert_none("the CLI knows names, configuration and the wire", &broken);
    }

    #[test]
    fn following_a_source_needs_the_wire_only() {
        let mut broken = Vec::new();
        for source in sources() {
            if !matches!(module_of(&source.path), Some("source" | "replication")) {
                continue;
            }
            let used = names_after(&source.code(), "proxy").into_iter();
            let others = used.filter(|name| name != "client" && name != "wire");
            broken.extend(others.map(|name| format!("{} uses proxy::{name}", source.path)));
        }
        assert_none("source and replication use proxy::client and proxy::wire", &broken);
    }

    #[test]
    fn every_file_is_part_of_its_crate() {
        let mut orphans = Vec::new();
        for source in sources() {
            let path = Path::new(&source.path);
            let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("a file name");
            let parent = path.parent().expect("a directory");
            let is_root = ["lib", "main", "mod", "tidy", "build"].contains(&stem)
                || parent.ends_with("tests") && parent.parent() != Some(Path::new("src"))
                || parent.ends_with("benches")
                || parent.ends_with("examples");
            let declared = |file: PathBuf| {
                let text = std::fs::read_to_string(root().join(file)).unwrap_or_default();
                text.lines().any(|line| line.trim_end().ends_with(&format!("mod {stem};")))
            };
            let candidates = [
                parent.join("mod.rs"),
                parent.join("lib.rs"),
                parent.join("main.rs"),
                parent.with_extension("rs"),
            ];
            if !is_root && !candidates.into_iter().any(declared) {
                orphans.push(source.path.clone());
            }
        }
        assert_none("declared by a `mod`", &orphans);
    }

    /// Words between single backticks, and lines inside code blocks, of a Markdown file.
    fn code_in(markdown: &str) -> Vec<&str> {
        let mut code = Vec::new();
        for (index, part) in markdown.split("```").enumerate() {
            if index % 2 == 1 {
                code.extend(part.lines().skip(1));
            } else {
                code.extend(part.split('`').skip(1).step_by(2));
            }
        }
        code
    }

    #[test]
    fn paths_and_targets_in_the_documents_exist() {
        let makefile = read("Makefile");
        let mut broken = Vec::new();
        for document in ["README.md", "ARCHITECTURE.md"] {
            let text = read(document);
            for code in code_in(&text) {
                let first = code.split_whitespace().next().unwrap_or_default();
                let below_root = ["src/", "proxy/", "storage/", "tests/", "benches/", "config/"];
                let is_path = below_root.iter().any(|root| first.starts_with(root));
                if is_path && !root().join(first).exists() {
                    broken.push(format!("{document}: {first}"));
                }
                if let Some(target) = code.trim().strip_prefix("make ")
                    && !makefile.contains(&format!("\n{}:", identifier(target)))
                {
                    broken.push(format!("{document}: make {target}"));
                }
            }
        }
        assert_none("documents name what exists", &broken);
    }

    #[test]
    fn commands_in_the_readme_are_ones_the_program_knows() {
        let readme = read("README.md");
        let mut commands: Vec<&str> = code_in(&readme);
        commands.retain(|code| code.trim_start().starts_with("ardent "));
        assert!(!commands.is_empty(), "the README shows no command");
        let mut broken = Vec::new();
        for command in commands {
            let words: Vec<&str> = command.split_whitespace().skip(1).collect();
            let is_verb = |word: &&&str| word.chars().all(|c| c.is_ascii_lowercase() || c == '-');
            let verbs: Vec<&str> = words
                .iter()
                .take_while(|word| !word.starts_with('-'))
                .take_while(is_verb)
                .copied()
                .collect();
            let help =
                Command::new(env!("CARGO_BIN_EXE_ardent")).args(verbs).arg("--help").output();
            let help = help.expect("run ardent");
            let text = String::from_utf8_lossy(&help.stdout).into_owned();
            let options = words.iter().filter(|word| word.starts_with("--"));
            let unknown = options
                .filter(|option| !text.contains(option.split('=').next().unwrap_or_default()));
            let unknown: Vec<&&str> = unknown.collect();
            if !help.status.success() || !unknown.is_empty() {
                broken.push(format!("{command} {unknown:?}"));
            }
        }
        assert_none("README shows real commands", &broken);
    }
}
