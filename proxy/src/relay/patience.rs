//! How long a thread looks again and again for something to do before it sleeps.
//!
//! To halt a processor and to wake it takes as long as a short statement does, and in a virtual
//! machine longer: with one client most of the time goes there. To stay awake costs little if what
//! is waited for comes soon, and nobody else wants the processor. So a thread stays awake while
//! most of its waits are short and no more than [`AT_WORK_MAX`] of its sessions' backends are at
//! work. Meanwhile it gives way to whoever else is to run on its processor: that may be the one
//! it waits for.
//!
//! | A wait | Changes the credit by |
//! |---|---|
//! | that ended awake, or asleep within [`ASLEEP_MAX`] | +1, up to [`CREDIT_MAX`] |
//! | longer | −[`LONG_WAIT_COST`], down to 0 |
//!
//! Below [`CREDIT_NEEDED`] it sleeps at once.

use std::time::Duration;

/// What a short statement takes on its way to the backend and back, with some to spare.
const AWAKE_MAX: Duration = Duration::from_micros(80);
/// The same for one who sleeps: to be woken is most of it.
const ASLEEP_MAX: Duration = Duration::from_micros(160);
/// There are two processors for each lane: its own, and one for the backends.
const AT_WORK_MAX: usize = 1;
/// A few statements. Most clients send no more.
const CREDIT_NEEDED: u32 = 16;
/// So much is stayed awake for in vain after the last of many: 12 waits, a millisecond.
const CREDIT_MAX: u32 = 64;
/// One wait of five may be long. Of a client that thinks between its statements, it is each other.
const LONG_WAIT_COST: u32 = 4;

/// What a thread knows of its waits.
#[derive(Debug, Default)]
pub(super) struct Patience {
    credit: u32,
}

impl Patience {
    /// How long to stay awake in the next wait, with so many sessions at work.
    pub(super) fn awake(&self, at_work: usize) -> Duration {
        let stays_awake = self.credit >= CREDIT_NEEDED && at_work <= AT_WORK_MAX;
        if stays_awake { AWAKE_MAX } else { Duration::ZERO }
    }

    /// Learns how long the wait took.
    pub(super) fn note(&mut self, awake: Duration, waited: Duration) {
        let short = if awake.is_zero() { ASLEEP_MAX } else { AWAKE_MAX };
        self.credit = match waited <= short {
            true => (self.credit + 1).min(CREDIT_MAX),
            false => self.credit.saturating_sub(LONG_WAIT_COST),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = AWAKE_MAX;
    const LONG: Duration = ASLEEP_MAX.saturating_add(Duration::from_nanos(1));

    fn after(waits: impl IntoIterator<Item = Duration>) -> bool {
        let mut patience = Patience::default();
        waits.into_iter().for_each(|waited| patience.note(patience.awake(0), waited));
        assert!(patience.awake(AT_WORK_MAX + 1).is_zero());
        !patience.awake(AT_WORK_MAX).is_zero()
    }

    #[test]
    fn it_stays_awake_only_while_most_waits_are_short() {
        let needed = CREDIT_NEEDED as usize;
        assert!(!after([SHORT].repeat(needed - 1)));
        assert!(after([SHORT].repeat(needed)));
        assert!(after([ASLEEP_MAX].repeat(needed)));
        assert!(!after([ASLEEP_MAX].repeat(needed + 1)));
        assert!(!after([SHORT, LONG].repeat(1000)));
        assert!(after([[SHORT; 5].as_slice(), &[LONG]].concat().repeat(1000)));
    }

    #[test]
    fn what_it_stays_awake_for_in_vain_is_bounded() {
        let in_vain = ((CREDIT_MAX - CREDIT_NEEDED) / LONG_WAIT_COST) as usize;
        let then = |long: usize| after([[SHORT].repeat(100_000), [LONG].repeat(long)].concat());
        assert!(then(in_vain));
        assert!(!then(in_vain + 1));
    }
}
