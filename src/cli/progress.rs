//! Notices of a long verb, on standard error: rewritten in place on a terminal, lines otherwise.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// Where notices are shown while a statement runs.
#[derive(Clone)]
pub(super) struct ProgressLine(Arc<Mutex<State>>);

struct State {
    on_terminal: bool,
    /// A line without its end is on the terminal.
    is_open: bool,
}

/// Back to the first column, and clear to the end of the line.
const REWRITE: &str = "\r\x1b[K";

impl ProgressLine {
    pub(super) fn new() -> Self {
        let on_terminal = std::io::stderr().is_terminal();
        Self(Arc::new(Mutex::new(State { on_terminal, is_open: false })))
    }

    /// Lines are seen one at a time, and only while they are true.
    pub(super) fn is_on_terminal(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).on_terminal
    }

    /// Shows a line instead of the one before.
    pub(super) fn show(&self, line: &str) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.is_open = state.on_terminal;
        write_out(&if state.on_terminal {
            format!("{REWRITE}{line}")
        } else {
            format!("{line}\n")
        });
    }

    /// Clears the line, so that the answer begins on an empty one.
    pub(super) fn finish(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut state.is_open) {
            write_out(REWRITE);
        }
    }
}

fn write_out(text: &str) {
    // Progress that cannot be shown is no reason to fail.
    drop(std::io::stderr().write_all(text.as_bytes()));
}
