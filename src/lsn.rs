//! A position in a Postgres write-ahead log.

use std::fmt;
use std::str::FromStr;

/// A byte position in the write-ahead log of one Postgres cluster, printed as `16/B374D848`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// The text is not two hexadecimal halves joined by a slash.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("invalid log position {0:?}")]
pub struct InvalidLsn(String);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = InvalidLsn;

    fn from_str(text: &str) -> Result<Self, InvalidLsn> {
        let invalid = || InvalidLsn(text.to_owned());
        let (high, low) = text.split_once('/').ok_or_else(invalid)?;
        let high = u32::from_str_radix(high, 16).map_err(|_| invalid())?;
        let low = u32::from_str_radix(low, 16).map_err(|_| invalid())?;
        Ok(Self(u64::from(high) << 32 | u64::from(low)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_it_reads() {
        for text in ["0/0", "0/155BE40", "16/B374D848", "FFFFFFFF/FFFFFFFF"] {
            assert_eq!(text.parse::<Lsn>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_what_postgres_refuses() {
        for text in ["", "0", "/", "0/", "g/0", "100000000/0", "0/1/2"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }
}
