//! The arguments of one statement, as its grammar found them, and their conversion into types.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::name::Name;
use crate::secret::Secret;

use super::error::sqlstate;
use super::grammar::{OptionKind, OptionSpec};
use super::syntax::{SyntaxError, did_you_mean};

/// SQLSTATE of a text in name position that is not a name.
const INVALID_NAME: &str = "42602";

/// One value, checked against what the grammar wants in its place. Not `Debug`: it may be a
/// password.
#[derive(Clone)]
pub(crate) enum Argument {
    /// A text, or an identifier.
    Text(String),
    /// A name of ours.
    Name(Name),
    /// An option that is on or off.
    Flag(bool),
    /// A length of time.
    Duration(Duration),
    /// A number of bytes, or of things.
    Number(u64),
    /// Words to the end of the statement.
    Words(Vec<String>),
    /// A `$n` whose value is not known yet: the statement is only being described.
    Unknown,
}

/// Values by the key the grammar gives them, with the byte offset of each.
#[derive(Default)]
pub(crate) struct Arguments {
    values: BTreeMap<&'static str, (Argument, usize)>,
}

impl Arguments {
    /// Adds a value. A key given twice is the caller's to refuse.
    pub(crate) fn insert(&mut self, key: &'static str, value: Argument, at: usize) {
        self.values.insert(key, (value, at));
    }

    /// The key was given.
    pub(crate) fn contains(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Some value is still unknown, so that no statement can be built.
    pub(crate) fn has_unknown(&self) -> bool {
        self.values.values().any(|(value, _)| matches!(value, Argument::Unknown))
    }

    /// Byte offset of a value, for errors about what is in it.
    pub(crate) fn offset(&self, key: &str) -> usize {
        self.values.get(key).map_or(0, |(_, at)| *at)
    }

    /// A name that may be left out.
    pub(crate) fn optional_name(&self, key: &str) -> Option<Name> {
        match self.values.get(key) {
            Some((Argument::Name(name), _)) => Some(name.clone()),
            _ => None,
        }
    }

    /// A name the grammar demands.
    pub(crate) fn name(&self, key: &str) -> Name {
        self.optional_name(key).expect("the command's grammar demands this name")
    }

    /// A text that may be left out.
    pub(crate) fn optional_text(&self, key: &str) -> Option<&str> {
        match self.values.get(key) {
            Some((Argument::Text(text), _)) => Some(text),
            _ => None,
        }
    }

    /// A text the grammar demands.
    pub(crate) fn text(&self, key: &str) -> &str {
        self.optional_text(key).expect("the command's grammar demands this text")
    }

    /// A text that must not be shown.
    pub(crate) fn secret(&self, key: &str) -> Secret {
        Secret::new(self.text(key))
    }

    /// `a,b` as its parts, blanks around them ignored.
    pub(crate) fn list(&self, key: &str) -> Vec<String> {
        let parts = self.optional_text(key).unwrap_or_default().split(',');
        parts.map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }

    /// A flag; off if left out and no other default is given.
    pub(crate) fn flag(&self, key: &str, default: bool) -> bool {
        match self.values.get(key) {
            Some((Argument::Flag(flag), _)) => *flag,
            _ => default,
        }
    }

    /// A length of time that may be left out.
    pub(crate) fn duration(&self, key: &str) -> Option<Duration> {
        match self.values.get(key) {
            Some((Argument::Duration(duration), _)) => Some(*duration),
            _ => None,
        }
    }

    /// A number that may be left out.
    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        match self.values.get(key) {
            Some((Argument::Number(number), _)) => Some(*number),
            _ => None,
        }
    }

    /// Words that may be left out.
    pub(crate) fn words(&self, key: &str) -> Vec<String> {
        match self.values.get(key) {
            Some((Argument::Words(words), _)) => words.clone(),
            _ => Vec::new(),
        }
    }
}

/// A text as a name of ours.
pub(crate) fn name(text: &str, at: usize) -> Result<Argument, SyntaxError> {
    text.parse().map(Argument::Name).map_err(|_| {
        // The text itself may be a misplaced password or URL; clients show it by its position.
        SyntaxError::at(at, "invalid name").with_sqlstate(INVALID_NAME).with_detail(
            "A name is 1 to 63 lower-case letters, digits and single hyphens, with a letter or \
             digit at both ends.",
        )
    })
}

/// The value of an option; `None` when only the option's name was given.
pub(crate) fn option(
    spec: &OptionSpec,
    value: Option<&str>,
    at: usize,
) -> Result<Argument, SyntaxError> {
    let wrong = |detail: String| {
        SyntaxError::at(at, format!("invalid value for option \"{}\"", spec.name))
            .with_sqlstate(sqlstate::INVALID_PARAMETER)
            .with_detail(detail)
    };
    let Some(value) = value else {
        return match spec.kind {
            OptionKind::Flag => Ok(Argument::Flag(true)),
            _ => Err(wrong(format!("The option needs a value: {}.", spec.kind.syntax()))),
        };
    };
    match spec.kind {
        OptionKind::Text => Ok(Argument::Text(value.to_owned())),
        OptionKind::Flag => flag(value)
            .map(Argument::Flag)
            .ok_or_else(|| wrong("Expected on, off, true, false, yes, no, 1 or 0.".to_owned())),
        OptionKind::Duration => duration(value).map(Argument::Duration).ok_or_else(|| {
            wrong("Expected a number with a unit: ms, s, min, h or d, as in '30s'.".to_owned())
        }),
        OptionKind::Size => size(value).map(Argument::Number).ok_or_else(|| {
            wrong("Expected a number with a unit: B, kB, MB, GB or TB, as in '10GB'.".to_owned())
        }),
        OptionKind::Count => value
            .parse()
            .map(Argument::Number)
            .map_err(|_| wrong("Expected a whole number.".to_owned())),
        OptionKind::Choice(words) => {
            let chosen = words.iter().find(|word| word.eq_ignore_ascii_case(value));
            chosen.map(|word| Argument::Text((*word).to_owned())).ok_or_else(|| {
                wrong(format!("Expected one of {}.", words.join(", ")))
                    .with_hint(did_you_mean(value, words.iter().copied()))
            })
        }
    }
}

/// The words Postgres takes for a boolean.
fn flag(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Some(true),
        "off" | "false" | "no" | "0" => Some(false),
        _ => None,
    }
}

/// A number and its unit; blanks between them are ignored.
fn measure(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    Some((number.parse().ok()?, unit.trim()))
}

/// `30s`, `5min`; a bare number is seconds.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = measure(text)?;
    let unit_ms = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(unit_ms).map(Duration::from_millis)
}

/// Powers of 1024, as in Postgres' configuration.
fn size(text: &str) -> Option<u64> {
    let (number, unit) = measure(text)?;
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "kb" => 10,
        "mb" => 20,
        "gb" => 30,
        "tb" => 40,
        _ => return None,
    };
    number.checked_mul(1_u64 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("30s"), Some(Duration::from_secs(30)));
        assert_eq!(duration(" 5 min "), Some(Duration::from_secs(300)));
        assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(duration("7"), Some(Duration::from_secs(7)));
        for bad in ["", "s", "5 parsecs", "-1s", "99999999999999999999s", "99999999999999999d"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!(size("10GB"), Some(10 << 30));
        assert_eq!(size("512 kb"), Some(512 << 10));
        assert_eq!(size("1"), Some(1));
        for bad in ["GB", "1.5GB", "1XB", "99999999999999999TB"] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }
}
