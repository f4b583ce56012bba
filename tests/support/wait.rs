//! The one way to wait in a test: for a condition, with a deadline. Nothing else may sleep.

use std::time::{Duration, Instant};

/// Other processes are watched from outside, where nothing can be awaited; this often is enough.
const POLL: Duration = Duration::from_millis(20);

/// Returns what `condition` finds, or fails the test naming `what` once `deadline` has passed.
pub(crate) fn eventually<T>(
    deadline: Duration,
    what: &str,
    condition: impl FnMut() -> Option<T>,
) -> T {
    within(deadline, condition).unwrap_or_else(|| panic!("{what}: not within {deadline:?}"))
}

/// Returns what `condition` finds before `deadline` has passed, else nothing.
pub(crate) fn within<T>(deadline: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = condition() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(POLL);
    }
}
