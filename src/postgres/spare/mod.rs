//! A Postgres that is loaded before anybody needs it: the dynamic linker's work, a fourth of what
//! the program does before it forks its first child, is not waited for when a compute starts.
//!
//! ```text
//! loaded   executed with `hold.c` preloaded, which waits before main(); it has no data directory,
//!          no arguments and no account yet, but the memory that its processes will share
//! used     [`Spare::run`] sends what an exec would have got: the process is the postmaster
//! ended    its socket closed, because we ended or another program is wanted: it ends too
//! ```
//!
//! Must never: be needed. Without a spare, or with one that has died, a compute is executed.
//! Bounds: one spare, of the program that was started last; its memory is that of `shared.rs`.

mod shared;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::MemfdFlags;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    sendmsg, socketpair,
};

use self::shared::SharedMemory;
use super::process::{Account, Process, Streams, spawn_detached};

const LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hold.so"));

const PRELOAD: &str = "LD_PRELOAD";
/// As `hold.c` looks for what memory to make ready.
const SHARED: &str = "SHARED";
/// Standard output of a spare is the library, until it gets an output of its own.
const LIBRARY_PATH: &str = "/proc/self/fd/1";

/// As what ps(1) shows a spare.
const LABEL: &str = "postgres: loaded ahead by ardent";
/// Room for the arguments of a compute, which are some 2 KiB.
const ARGUMENTS_BYTES: usize = 16 * 1024;
/// As `hold.c` takes it.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// The place for one spare.
#[derive(Debug, Default)]
pub struct Spares(Mutex<Option<Spare>>);

/// A process before its `main`.
#[derive(Debug)]
pub(super) struct Spare {
    program: Program,
    process: Process,
    /// Its end is the spare's.
    socket: OwnedFd,
}

/// What was loaded: an update of the package leaves another file under the same path.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Program {
    path: PathBuf,
    file: (u64, u64),
    preload: Option<OsString>,
}

impl Spares {
    /// The spare, if it is the program of this command.
    pub(super) fn take(&self, command: &Command) -> Option<Spare> {
        let program = Program::of(command).ok()?;
        self.place().take_if(|spare| spare.program == program)
    }

    /// Sees to it that there is a spare for commands like this one, which the process `pid` runs.
    /// Blocks.
    pub(super) fn prepare(&self, command: &Command, pid: u32) -> io::Result<()> {
        let program = Program::of(command)?;
        if self.place().as_ref().is_some_and(|spare| spare.program == program) {
            return Ok(());
        }
        let spare = Spare::load(program, SharedMemory::of(pid).ok())?;
        *self.place() = Some(spare);
        Ok(())
    }

    /// Ends the spare, if there is one, and sees it gone.
    pub(crate) async fn end(&self) {
        let Some(Spare { process, socket, .. }) = self.place().take() else { return };
        drop(socket);
        process.exited().await;
    }

    /// Its process, while it is a spare.
    #[cfg(test)]
    pub(super) fn pid(&self) -> Option<u32> {
        self.place().as_ref().map(|spare| spare.process.pid())
    }

    fn place(&self) -> MutexGuard<'_, Option<Spare>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spare {
    fn load(program: Program, shared: Option<SharedMemory>) -> io::Result<Self> {
        let (socket, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let mut preload = OsString::from(LIBRARY_PATH);
        if let Some(other) = &program.preload {
            preload.push(":");
            preload.push(other);
        }
        let mut command = Command::new(&program.path);
        command.arg0(LABEL).arg(" ".repeat(ARGUMENTS_BYTES)).current_dir("/");
        command.env_clear().env(PRELOAD, preload);
        command.envs(shared.map(|shared| (SHARED, shared.to_string())));
        let nothing = File::options().write(true).open("/dev/null")?;
        let streams = Streams { input: theirs.into(), output: library()?, errors: nothing };
        // It takes its account when it is used.
        let process = Process::watch(spawn_detached(&mut command, None, streams)?)?;
        Ok(Self { program, process, socket })
    }

    /// Runs a command in this process, as [`spawn_detached`] does in a new one. An error says that
    /// the process is none to run anything in; whatever goes wrong later ends it.
    pub(super) fn run(
        self,
        command: &Command,
        account: Option<Account>,
        log: &File,
    ) -> io::Result<Process> {
        let message = message(command, account)?;
        let log = [log.as_fd()];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut attached = SendAncillaryBuffer::new(&mut space);
        attached.push(SendAncillaryMessage::ScmRights(&log));
        sendmsg(&self.socket, &[IoSlice::new(&message)], &mut attached, SendFlags::NOSIGNAL)?;
        Ok(self.process)
    }
}

impl Program {
    fn of(command: &Command) -> io::Result<Self> {
        let path = PathBuf::from(command.get_program());
        let meta = path.metadata()?;
        let mut variables = command.get_envs();
        let preload = variables.find(|(name, _)| *name == PRELOAD).and_then(|(_, value)| value);
        Ok(Self { file: (meta.dev(), meta.ino()), preload: preload.map(OsStr::to_owned), path })
    }
}

/// The library as a file that has no path: one could not be preloaded with a blank in it.
fn library() -> io::Result<File> {
    // Kernels before 6.3 do not know the second flag, and need none to run what is in the file.
    let made = rustix::fs::memfd_create("hold.so", MemfdFlags::CLOEXEC | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create("hold.so", MemfdFlags::CLOEXEC));
    let mut file = File::from(made?);
    file.write_all(LIBRARY)?;
    Ok(file)
}

/// What `hold.c` reads.
fn message(command: &Command, account: Option<Account>) -> io::Result<Vec<u8>> {
    let directory = command.get_current_dir().map_or(OsStr::new("/"), |path| path.as_os_str());
    let arguments: Vec<_> = [command.get_program()].into_iter().chain(command.get_args()).collect();
    let variables: Vec<_> = command
        .get_envs()
        .filter_map(|(name, value)| Some([name.as_bytes(), b"=", value?.as_bytes()].concat()))
        .collect();
    let count = |all: usize| u32::try_from(all).map_err(io::Error::other);
    let Account { uid, gid } = account.unwrap_or(Account { uid: 0, gid: 0 });
    let has_account = u32::from(account.is_some());
    let words = [has_account, uid, gid, count(arguments.len())?, count(variables.len())?];
    let mut message: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
    let mut append = |string: &[u8]| {
        message.extend_from_slice(string);
        message.push(0);
    };
    append(directory.as_bytes());
    arguments.iter().for_each(|argument| append(argument.as_bytes()));
    variables.iter().for_each(|variable| append(variable));
    let arguments_bytes: usize = arguments.iter().map(|argument| argument.len() + 1).sum();
    if message.len() > MESSAGE_BYTES_MAX || arguments_bytes > ARGUMENTS_BYTES {
        return Err(io::Error::other("a command line too long for a spare process"));
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_without_room_is_refused() {
        let with = |bytes: usize| message(Command::new("p").arg("x".repeat(bytes)), None);
        assert!(with(ARGUMENTS_BYTES - 3).is_ok());
        assert!(with(ARGUMENTS_BYTES - 2).is_err());
        let mut command = Command::new("p");
        command.env("NAME", "x".repeat(MESSAGE_BYTES_MAX));
        assert!(message(&command, None).is_err());
    }

    #[test]
    fn what_is_loaded_beside_it_makes_another_program() {
        let plain = Program::of(&Command::new("/bin/sh")).unwrap();
        let with = Program::of(Command::new("/bin/sh").env(PRELOAD, "/lib/x.so")).unwrap();
        assert_ne!(plain, with);
        assert_eq!(plain, Program::of(Command::new("/bin/sh").env("A", "b")).unwrap());
        assert!(Program::of(&Command::new("/no/such/program")).is_err());
    }
}
