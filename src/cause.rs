//! An error with its causes on one line, for operators and logs.

use std::error::Error;
use std::fmt;

/// Shows an error and what caused it; a cause whose text the line has already is left out.
///
/// Errors of ours hold no password, so neither does the line.
pub struct Causes<'a>(pub &'a dyn Error);

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = self.0.to_string();
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !line.contains(&text) {
                line.push_str(": ");
                line.push_str(&text);
            }
            cause = error.source();
        }
        f.write_str(&line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("open door")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn says_each_cause_once() {
        let error = Outer(std::io::Error::other("no key"));
        assert_eq!(Causes(&error).to_string(), "open door: no key");
        let plain = std::io::Error::other("no key");
        assert_eq!(Causes(&plain).to_string(), "no key");
    }
}
