//! Guessing passwords is made slow: after some failures in a row at one endpoint, an origin waits
//! before it may try there again, twice as long with each further failure.
//!
//! Only failed proofs count, for names that exist and for those that do not. The table is bounded:
//! where it is full, who has waited out its pause is forgotten, else the oldest entry is.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::crowd::Origin;
use crate::refusal::Refusal;

const ENTRIES_MAX: usize = 10_000;
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Failures are forgotten when none has come for so long.
const MEMORY: Duration = Duration::from_secs(150);

/// Who has failed where.
#[derive(Debug, Default)]
pub(crate) struct Throttle(Mutex<HashMap<(Origin, String), Failures>>);

#[derive(Debug)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Failures {
    /// The time until the next try, if there is to be one.
    fn pause(&self, free: u32) -> Duration {
        match self.count.checked_sub(free) {
            None => Duration::ZERO,
            Some(excess) => PAUSE_MAX.min(PAUSE_MIN * (1 << excess.min(6))),
        }
    }
}

impl Throttle {
    /// Refuses an origin that must wait. `free` failures cost nothing.
    pub(crate) fn check(
        &self,
        origin: Origin,
        endpoint: &str,
        (free, now): (u32, Instant),
    ) -> Result<(), Refusal> {
        let entries = self.entries();
        let Some(failures) = entries.get(&(origin, endpoint.to_owned())) else { return Ok(()) };
        let waited = now.saturating_duration_since(failures.last);
        match failures.pause(free).checked_sub(waited) {
            None | Some(Duration::ZERO) => Ok(()),
            Some(left) => {
                let text = "too many failed logins from your address";
                let hint = format!("Try again in {} s.", left.as_secs() + 1);
                Err(Refusal::fatal("53400", text).with_hint(hint))
            }
        }
    }

    /// A proof failed.
    pub(crate) fn failed(&self, origin: Origin, endpoint: &str, now: Instant) {
        let mut entries = self.entries();
        let key = (origin, endpoint.to_owned());
        if entries.len() >= ENTRIES_MAX && !entries.contains_key(&key) {
            make_room(&mut entries, now);
        }
        let failures = entries.entry(key).or_insert(Failures { count: 0, last: now });
        if now.saturating_duration_since(failures.last) > MEMORY {
            failures.count = 0;
        }
        failures.count = failures.count.saturating_add(1);
        failures.last = now;
    }

    /// A proof was right: what went before were mistakes.
    pub(crate) fn succeeded(&self, origin: Origin, endpoint: &str) {
        self.entries().remove(&(origin, endpoint.to_owned()));
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<(Origin, String), Failures>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn make_room(entries: &mut HashMap<(Origin, String), Failures>, now: Instant) {
    entries.retain(|_, failures| now.saturating_duration_since(failures.last) <= MEMORY);
    if entries.len() >= ENTRIES_MAX {
        let oldest = entries.iter().min_by_key(|(_, failures)| failures.last);
        if let Some(key) = oldest.map(|(key, _)| key.clone()) {
            entries.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let throttle = Throttle::default();
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let guesser = Origin::User(7);
        let check = |seconds| throttle.check(guesser, "b1", (2, at(seconds)));
        throttle.failed(guesser, "b1", at(0));
        assert!(check(0).is_ok());
        throttle.failed(guesser, "b1", at(0));
        let refused = check(0).unwrap_err();
        assert_eq!(
            (refused.sqlstate, refused.hint.unwrap()),
            ("53400", "Try again in 2 s.".into())
        );
        assert!(check(1).is_ok());
        throttle.failed(guesser, "b1", at(1));
        assert!(check(2).is_err() && check(3).is_ok());
        assert!(throttle.check(guesser, "b2", (2, at(2))).is_ok());
        assert!(throttle.check(Origin::User(8), "b1", (2, at(2))).is_ok());
        for _ in 0..100 {
            throttle.failed(guesser, "b1", at(2));
        }
        assert!(check(61).is_err() && check(62).is_ok());
        throttle.failed(guesser, "b1", at(300));
        assert!(check(300).is_ok(), "forgotten");
        throttle.failed(guesser, "b1", at(300));
        throttle.succeeded(guesser, "b1");
        assert!(check(300).is_ok());
    }

    #[test]
    fn the_table_is_bounded() {
        let throttle = Throttle::default();
        let begun = Instant::now();
        for number in 0..ENTRIES_MAX + 5 {
            let origin = Origin::User(u32::try_from(number).unwrap());
            let now = begun + Duration::from_millis(u64::try_from(number).unwrap());
            throttle.failed(origin, "b1", now);
        }
        let entries = throttle.entries();
        assert_eq!(entries.len(), ENTRIES_MAX);
        assert!(!entries.contains_key(&(Origin::User(4), "b1".to_owned())));
    }
}
