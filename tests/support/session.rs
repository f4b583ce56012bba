//! Clients that stay: an open psql, and a stream of short connections.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::process::Signal;

use super::drivers::psql;
use super::processes;

/// A psql that is told its statements one by one.
pub(crate) struct OpenSession(Child);

impl OpenSession {
    pub(crate) fn start(url: &str) -> Self {
        let mut command = Command::new("psql");
        command.args(["--no-psqlrc", "-Atq", url]).stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().expect("start psql");
        let mut session = Self(child);
        assert_eq!(session.ask("select 'begun'"), "begun");
        session
    }

    /// Sends a statement and does not wait for its answer.
    pub(crate) fn begin(&mut self, sql: &str) {
        let input = self.0.stdin.as_mut().expect("stdin");
        input.write_all(format!("{sql};\n").as_bytes()).expect("write to psql");
    }

    /// Runs a statement and returns the first line of its answer.
    pub(crate) fn ask(&mut self, sql: &str) -> String {
        self.begin(sql);
        let output = self.0.stdout.as_mut().expect("stdout");
        let (mut line, mut byte) = (Vec::new(), [0]);
        while output.read(&mut byte).expect("read from psql") == 1 && byte != *b"\n" {
            line.push(byte[0]);
        }
        String::from_utf8(line).expect("text")
    }

    /// Ctrl-C: psql sends a cancel request on a connection of its own, and ends a script then.
    /// Returns what the server said to the statement.
    pub(crate) fn interrupt(self) -> String {
        processes::signal(self.0.id(), Signal::INT);
        let output = self.0.wait_with_output().expect("psql ends");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// The client is gone without a word.
    pub(crate) fn kill(mut self) {
        self.0.kill().expect("kill psql");
        self.0.wait().expect("psql ends");
    }

    /// Asks once more, in vain. Returns what psql has to say of that.
    pub(crate) fn has_lost_its_server(mut self) -> String {
        // A psql that has seen it already does not read any more.
        let _ = self.0.stdin.take().expect("stdin").write_all(b"select 1;\n");
        let output = self.0.wait_with_output().expect("psql ends");
        assert_eq!(output.status.code(), Some(2), "the connection is lost: {output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Proves that the session still works, and leaves.
    pub(crate) fn end(mut self) {
        assert_eq!(self.ask("select 'still here'"), "still here");
        drop(self.0.stdin.take());
        assert!(self.0.wait().expect("psql ends").success());
    }
}

/// Connects, asks and leaves, over and over.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<(usize, Vec<String>)>>,
}

impl Load {
    pub(crate) fn start(url: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = || {
            let (url, stop) = (url.to_owned(), stop.clone());
            std::thread::spawn(move || {
                let (mut served, mut refused) = (0, Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    let said = psql(&url, "select 1");
                    match said.code {
                        0 => served += 1,
                        _ => refused.push(said.stderr),
                    }
                }
                (served, refused)
            })
        };
        let clients = (0..2).map(|_| client()).collect();
        Self { stop, clients }
    }

    /// How many were served, and what the others were told.
    pub(crate) fn end(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.clients.into_iter().map(|client| client.join().expect("a client ends"));
        ended.fold((0, Vec::new()), |(served, mut refused), (more, said)| {
            refused.extend(said);
            (served + more, refused)
        })
    }
}
