//! A fresh data directory for a trunk: `initdb` and the roles.
//!
//! It knows nothing of a source, so it can be made before there is one: the database comes with the
//! first copy, and its encoding and locale with it.
//!
//! ```text
//! being made   a scratch directory of `initdb`'s user, who must be one that the host knows
//! [`Template`] the same directory, whole
//! placed       renamed, and the account's of the compute that starts on it
//! ```
//! Dropped before it is placed, it is removed. Nothing is synced here: the store makes the bytes
//! durable when it takes them in.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::geteuid;

use super::compute::blocking;
use super::error::PostgresError;
use super::installation::Installation;
use super::process::Account;
use super::roles;

/// Everyone who reaches the socket is let in: its directory admits the server alone.
const ACCESS_RULES: &str = "# Written by Ardent. Only the front door reaches the socket.\n\
     local all all trust\n";

/// What a template is made from.
#[derive(Clone, Debug)]
pub struct TemplateSpec {
    /// The binaries.
    pub installation: Installation,
    /// A directory that is made. Those above it can be entered by `user`.
    pub scratch_dir: PathBuf,
    /// Who runs `initdb` when the server is root.
    pub user: String,
}

/// A data directory that no server has run on.
#[derive(Debug)]
pub struct Template {
    scratch: Scratch,
    installation: Installation,
}

impl Template {
    /// Makes one. Takes about a second.
    pub async fn make(spec: TemplateSpec) -> Result<Self, PostgresError> {
        blocking(move || Self::make_blocking(spec)).await
    }

    fn make_blocking(spec: TemplateSpec) -> Result<Self, PostgresError> {
        let scratch = Scratch::create(&spec)?;
        run_initdb(&spec, &scratch)?;
        fs::write(scratch.data_dir.join("pg_hba.conf"), ACCESS_RULES)
            .map_err(PostgresError::io("configure template"))?;
        run_single_user(&spec, &scratch, &roles::template_statements(spec.installation.major))?;
        Ok(Self { scratch, installation: spec.installation })
    }

    /// The binaries it was made with.
    pub fn installation(&self) -> &Installation {
        &self.installation
    }

    /// Makes it the data directory of a compute: `data_dir` is absent, or there and empty, and
    /// every file becomes the account's; `None`: ours.
    pub async fn place(
        self,
        data_dir: PathBuf,
        account: Option<Account>,
    ) -> Result<(), PostgresError> {
        let failed = PostgresError::io("move template into its place");
        blocking(move || move_tree(&self.scratch.data_dir, &data_dir, account).map_err(failed))
            .await
    }
}

/// A directory of `initdb`'s user, removed when this is dropped if it is still there.
#[derive(Debug)]
struct Scratch {
    data_dir: PathBuf,
    user: Option<Account>,
}

impl Scratch {
    fn create(spec: &TemplateSpec) -> Result<Self, PostgresError> {
        let user = match geteuid().is_root() {
            true => Some(lookup_user(&spec.user)?),
            false => None,
        };
        let data_dir = spec.scratch_dir.clone();
        let failed = || PostgresError::io("make scratch directory");
        fs::DirBuilder::new().mode(0o700).create(&data_dir).map_err(failed())?;
        let scratch = Self { data_dir, user };
        if let Some(Account { uid, gid }) = user {
            chown(&scratch.data_dir, Some(uid), Some(gid)).map_err(failed())?;
        }
        Ok(scratch)
    }

    /// A program of the installation, run as `initdb`'s user.
    fn command(&self, spec: &TemplateSpec, program: &str) -> Command {
        let mut command = Command::new(spec.installation.program(program));
        command
            .env_clear()
            .envs([("LC_ALL", "C"), ("TZ", "UTC"), ("PATH", "/usr/bin:/bin")])
            .current_dir("/")
            .stdin(Stdio::null());
        if let Some(Account { uid, gid }) = self.user {
            // The standard library drops supplementary groups along with root.
            command.uid(uid).gid(gid);
        }
        command
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        match fs::remove_dir_all(&self.data_dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.data_dir.display(), %error, "scratch directory is left");
            }
            _ => {}
        }
    }
}

fn run_initdb(spec: &TemplateSpec, scratch: &Scratch) -> Result<(), PostgresError> {
    let mut command = scratch.command(spec, "initdb");
    command.arg("--pgdata").arg(&scratch.data_dir).args([
        "--username=ardent_system",
        "--auth=trust",
        "--data-checksums",
        "--no-sync",
        "--encoding=UTF8",
    ]);
    let output = command.output().map_err(PostgresError::io("execute initdb"))?;
    succeeded("initdb", &output)
}

/// Runs statements with no server around them: no socket, no other process, 0.1 s.
fn run_single_user(
    spec: &TemplateSpec,
    scratch: &Scratch,
    statements: &[&str],
) -> Result<(), PostgresError> {
    let failed = || PostgresError::io("execute postgres --single");
    let mut child = scratch
        .command(spec, "postgres")
        // -j: a statement ends at a semicolon and an empty line; -F: no fsync.
        .args(["--single", "-j", "-F", "-c", "exit_on_error=on", "-D"])
        .arg(&scratch.data_dir)
        .arg("template1")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed())?;
    if let Some(mut input) = child.stdin.take() {
        let text: String = statements.iter().map(|statement| format!("{statement};\n\n")).collect();
        // A server that gave up does not read; its own words below say why.
        drop(input.write_all(text.as_bytes()));
    }
    let output = child.wait_with_output().map_err(failed())?;
    succeeded("postgres --single", &output)
}

fn succeeded(program: &'static str, output: &Output) -> Result<(), PostgresError> {
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let grave = |line: &&str| line.contains("error:") || line.contains("FATAL:");
    let line = text.lines().find(grave).or_else(|| text.lines().last()).unwrap_or("no message");
    Err(PostgresError::ProgramFailed { program, message: line.to_owned() })
}

/// A rename where that can be: a copy takes as long as `initdb`.
fn move_tree(from: &Path, to: &Path, owner: Option<Account>) -> io::Result<()> {
    own_tree(from, owner)?;
    // To another file system, or over the root of one. What else is wrong, the copy says.
    fs::rename(from, to).or_else(|_| copy_tree(from, to, owner))
}

fn own_tree(path: &Path, owner: Option<Account>) -> io::Result<()> {
    own(path, owner)?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            own_tree(&entry.path(), owner)?;
        } else {
            own(&entry.path(), owner)?;
        }
    }
    Ok(())
}

/// Copies a directory of plain files, as `initdb` makes it: no links, no sparse files.
fn copy_tree(from: &Path, to: &Path, owner: Option<Account>) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(to) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::set_permissions(to, fs::Permissions::from_mode(0o700))?;
        }
        other => other?,
    }
    own(to, owner)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target, owner)?;
        } else {
            fs::copy(entry.path(), &target)?;
            own(&target, owner)?;
        }
    }
    Ok(())
}

fn own(path: &Path, owner: Option<Account>) -> io::Result<()> {
    owner.map_or(Ok(()), |Account { uid, gid }| chown(path, Some(uid), Some(gid)))
}

/// Finds a user in the host's own user database.
fn lookup_user(name: &str) -> Result<Account, PostgresError> {
    let passwd = fs::read_to_string("/etc/passwd").map_err(PostgresError::io("read users"))?;
    let entry = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let account = entry.filter(|fields| fields.first() == Some(&name)).find_map(|fields| {
        let uid = fields.get(2)?.parse().ok()?;
        let gid = fields.get(3)?.parse().ok()?;
        Some(Account { uid, gid })
    });
    account.ok_or_else(|| PostgresError::NoSuchUser(name.to_owned()))
}
