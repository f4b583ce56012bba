//! The `ardent` program as a user runs it, and what came back.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// No verb of a test takes longer; a longer one is a hang and exits 124.
const LIMIT_SECONDS: &str = "240";

/// What one run printed and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Standard output of a run that must have succeeded, without the last newline.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:#?}");
        self.stdout.trim_end().to_owned()
    }

    /// Both outputs of a run that must have ended with `code`.
    #[track_caller]
    pub(crate) fn failed(self, code: i32) -> String {
        assert_eq!(self.code, code, "{self:#?}");
        format!("{}{}", self.stdout, self.stderr)
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// The path of the program under test.
pub(crate) const ARDENT: &str = env!("CARGO_BIN_EXE_ardent");

/// Runs `ardent <args>` against the server of `data_dir`.
pub(crate) fn ardent(data_dir: &Path, args: &[&str]) -> Ran {
    let mut command = bounded(ARDENT);
    command.args(args).env("ARDENT_DATA_DIR", data_dir).env_remove("ARDENT_URL");
    run(&mut command)
}

/// Runs `ardent <args>` on a terminal of its own: colours, questions and all. What it shows is in
/// `stdout`; `typed` is what somebody types.
pub(crate) fn on_terminal(data_dir: &Path, args: &[&str], typed: &str) -> Ran {
    let quoted = args.iter().map(|arg| format!("'{arg}'")).collect::<Vec<_>>().join(" ");
    let mut command = bounded("script");
    command.args(["--quiet", "--return", "--command", &format!("{ARDENT} {quoted}"), "/dev/null"]);
    command.env("ARDENT_DATA_DIR", data_dir).env_remove("ARDENT_URL").env_remove("NO_COLOR");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("run a command on a terminal");
    let mut stdin = child.stdin.take().expect("a piped stdin");
    stdin.write_all(typed.as_bytes()).expect("type");
    let output = child.wait_with_output().expect("the command ends");
    drop(stdin);
    output.into()
}

/// A command that is ended when it takes too long, instead of hanging the test.
pub(crate) fn bounded(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", LIMIT_SECONDS]).arg(program);
    command
}

/// Runs a command with no standard input to its end.
pub(crate) fn run(command: &mut Command) -> Ran {
    command.stdin(Stdio::null()).output().expect("run a command").into()
}
