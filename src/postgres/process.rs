//! One process of the operating system: started in its own session with few rights, or found
//! again, and watched through a pidfd.
//!
//! Must never: signal by pid. Own children are reaped here, adopted ones by whoever inherited
//! them; both are watched the same way.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, setsid, waitid,
};
use rustix::thread::{
    Gid, Uid, set_no_new_privs, set_thread_gid, set_thread_groups, set_thread_uid,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

/// The operating system account of a compute. It needs no entry in the user database and must
/// not have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// User id, one per compute.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// How a postmaster ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It returned this code; 0 is an orderly shutdown.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// It was adopted, so its status went to another process.
    Unknown,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Unknown => f.write_str("exit status unknown"),
        }
    }
}

/// Stands for one process, even after its pid is reused.
#[derive(Debug)]
pub(super) struct Pidfd(AsyncFd<OwnedFd>);

impl Pidfd {
    /// Opens it; `ESRCH` when there is no such process. The caller checks after this call that
    /// the pid still is the process it means. Needs a tokio runtime.
    pub(super) fn open(pid: u32) -> io::Result<Self> {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pid = raw.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        // SAFETY: an `OwnedFd` is open and returns the same descriptor until it is dropped, and
        // the `AsyncFd` owns it.
        let registered = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?;
        Ok(Self(registered))
    }

    /// Sends a signal; a process that is gone already is no error.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(self.0.get_ref(), signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns when the process has ended.
    pub(super) async fn ended(&self) -> io::Result<()> {
        self.0.readable().await.map(drop)
    }

    /// Collects the status of an ended child; of a process that is not our child there is none.
    fn reap(&self) -> Exit {
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match waitid(WaitId::PidFd(self.0.get_ref().as_fd()), ended) {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, Some(signal)) => Exit::Signal(signal),
                (None, None) => Exit::Unknown,
            },
            Ok(None) | Err(_) => Exit::Unknown,
        }
    }
}

/// A postmaster that is watched, so that its end is known and, if it is our child, reaped.
#[derive(Debug)]
pub(super) struct Process {
    pid: u32,
    pidfd: Arc<Pidfd>,
    exit: watch::Receiver<Option<Exit>>,
}

impl Process {
    /// Watches a process that is running now; see [`Pidfd::open`].
    pub(super) fn watch(pid: u32) -> io::Result<Self> {
        let pidfd = Arc::new(Pidfd::open(pid)?);
        let (sender, exit) = watch::channel(None);
        let watched = Arc::clone(&pidfd);
        // Ends with the process it watches, whether or not anyone still holds the handle: a
        // child of ours has to be reaped.
        tokio::spawn(async move {
            let seen = match watched.ended().await {
                Ok(()) => watched.reap(),
                Err(_closed) => Exit::Unknown,
            };
            sender.send_replace(Some(seen));
        });
        Ok(Self { pid, pidfd, exit })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        self.pidfd.signal(signal)
    }

    /// False once the end of the process was seen.
    pub(super) fn is_running(&self) -> bool {
        self.exit.borrow().is_none()
    }

    /// Waits for the end of the process.
    pub(super) async fn exited(&self) -> Exit {
        let mut exit = self.exit.clone();
        // The sender is dropped unsent only when the runtime shuts down under us.
        let seen = exit.wait_for(Option::is_some).await.map_or(None, |seen| *seen);
        seen.unwrap_or(Exit::Unknown)
    }
}

/// What a process has open when it begins.
pub(super) struct Streams {
    pub(super) input: Stdio,
    pub(super) output: File,
    pub(super) errors: File,
}

impl Streams {
    /// Everything goes to a log.
    pub(super) fn to(log: &File) -> io::Result<Self> {
        let (output, errors) = (log.try_clone()?, log.try_clone()?);
        Ok(Self { input: Stdio::null(), output, errors })
    }
}

/// Starts a program that outlives us: own session, the compute's account, no way to gain rights,
/// no descriptor of ours but its streams. Blocks until the program was executed or refused.
pub(super) fn spawn_detached(
    command: &mut Command,
    account: Option<Account>,
    streams: Streams,
) -> io::Result<u32> {
    command.stdin(streams.input).stdout(streams.output).stderr(streams.errors);
    // SAFETY: `confine` makes system calls only; it neither allocates nor takes a lock, so it may
    // run between fork and exec of a process with other threads.
    unsafe {
        command.pre_exec(move || confine(account));
    }
    let child = command.spawn()?;
    // The `Child` is let go without a wait: `Process::watch` reaps through the pidfd.
    let pid = child.id();
    set_ordinary_oom_score(pid)?;
    Ok(pid)
}

/// Runs in the child, between fork and exec. The order matters: groups and gid need the rights
/// that `set_thread_uid` gives up.
fn confine(account: Option<Account>) -> io::Result<()> {
    setsid()?;
    if let Some(Account { uid, gid }) = account {
        set_thread_groups(&[])?;
        set_thread_gid(Gid::from_raw(gid))?;
        set_thread_uid(Uid::from_raw(uid))?;
    }
    set_no_new_privs(true)?;
    close_inherited_on_exec()
}

/// Our own descriptors are close-on-exec; this covers those that our starter left open for us.
fn close_inherited_on_exec() -> io::Result<()> {
    const FIRST: libc::c_uint = 3;
    // SAFETY: the call takes three integers and only sets flags on descriptors of this process.
    let result = unsafe {
        libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The server may be protected from the kernel's out-of-memory killer; a compute is not, and what
/// it forks inherits the score.
fn set_ordinary_oom_score(pid: u32) -> io::Result<()> {
    let own = fs::read_to_string("/proc/self/oom_score_adj")?;
    if own.trim() == "0" {
        return Ok(());
    }
    match fs::write(format!("/proc/{pid}/oom_score_adj"), "0") {
        // Lowering a score needs a right that an unprivileged server lacks: then it stays as is.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        // The program ended at once; the caller sees that through the pidfd.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// When a process started, in clock ticks since boot: with its pid it names a process for good.
/// `None` when it is gone or only a zombie is left of it.
pub(super) fn start_ticks(pid: u32) -> Option<u64> {
    let fields = stat_fields(pid)?;
    let ticks = fields.get(START_TIME)?.parse().ok()?;
    (!matches!(fields.get(STATE)?.as_str(), "Z" | "X")).then_some(ticks)
}

/// The parent of a process.
pub fn parent_of(pid: u32) -> Option<u32> {
    stat_fields(pid)?.get(PARENT)?.parse().ok()
}

/// Where fields of `/proc/<pid>/stat` stand behind the command: the 3rd, 4th and 22nd of proc(5).
const STATE: usize = 0;
const PARENT: usize = 1;
const START_TIME: usize = 19;

fn stat_fields(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    // The command may hold anything; the fields after its `)` cannot.
    let (_, fields) = stat.rsplit_once(')')?;
    Some(fields.split_ascii_whitespace().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_when_a_process_started() {
        let own = start_ticks(std::process::id()).unwrap();
        assert!(own > 0);
        assert_eq!(start_ticks(std::process::id()), Some(own));
        assert_eq!(start_ticks(u32::MAX), None);
        assert_eq!(parent_of(std::process::id()), Some(std::os::unix::process::parent_id()));
    }

    #[tokio::test]
    async fn reaps_its_own_child_and_tells_how_it_ended() {
        let null = File::options().write(true).open("/dev/null").unwrap();
        let log = || Streams::to(&null).unwrap();
        let pid = spawn_detached(Command::new("sh").args(["-c", "exit 7"]), None, log()).unwrap();
        let process = Process::watch(pid).unwrap();
        assert_eq!(process.exited().await, Exit::Code(7));
        assert!(!Path::new("/proc").join(pid.to_string()).exists(), "left a zombie");
        assert!(process.signal(Signal::TERM).is_ok());

        let pid = spawn_detached(Command::new("sleep").arg("60"), None, log()).unwrap();
        let process = Process::watch(pid).unwrap();
        process.signal(Signal::KILL).unwrap();
        assert_eq!(process.exited().await, Exit::Signal(9));
    }
}
