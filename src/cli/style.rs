//! Colours: on a terminal only, and never with `NO_COLOR` (<https://no-color.org>).

use std::io::IsTerminal;

/// Whether text is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// As it is.
    Plain,
    /// With ANSI colours.
    Coloured,
}

/// What a colour is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paint {
    /// Good, current.
    Green,
    /// Works with a restriction.
    Yellow,
    /// Failed, broken.
    Red,
    /// Under way.
    Cyan,
    /// Less important.
    Dim,
}

impl Style {
    /// The style for an output.
    pub(super) fn of(output: &impl IsTerminal) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        if wanted && output.is_terminal() { Self::Coloured } else { Self::Plain }
    }

    pub(super) fn paint(self, paint: Paint, text: &str) -> String {
        let code = match paint {
            Paint::Green => 32,
            Paint::Yellow => 33,
            Paint::Red => 31,
            Paint::Cyan => 36,
            Paint::Dim => 2,
        };
        match self {
            Self::Plain => text.to_owned(),
            Self::Coloured => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }
}
