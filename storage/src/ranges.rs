//! Sets of pages as rising runs that do not touch.

use std::ops::Range;

/// What of `pages` is not in `others`.
pub(crate) fn outside(pages: &[Range<u64>], others: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut left = Vec::new();
    let mut others = others.iter().peekable();
    for run in pages {
        let mut at = run.start;
        while let Some(other) = others.peek().filter(|other| other.start < run.end) {
            if other.start > at {
                left.push(at..other.start);
            }
            at = at.max(other.end);
            if other.end > run.end {
                break;
            }
            others.next();
        }
        if at < run.end {
            left.push(at..run.end);
        }
    }
    left
}

/// What of `pages` is in `others` too.
pub(crate) fn within(pages: &[Range<u64>], others: &[Range<u64>]) -> Vec<Range<u64>> {
    outside(pages, &outside(pages, others))
}

/// How many pages these are.
pub(crate) fn count(pages: &[Range<u64>]) -> u64 {
    pages.iter().map(|run| run.end - run.start).sum()
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn runs(set: &[bool]) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for (at, _) in set.iter().enumerate().filter(|(_, set)| **set) {
            let at = at as u64;
            match runs.last_mut() {
                Some(last) if last.end == at => last.end += 1,
                _ => runs.push(at..at + 1),
            }
        }
        runs
    }

    #[test]
    fn agree_with_plain_sets() {
        let mut random = StdRng::seed_from_u64(1);
        for _ in 0..2000 {
            let one: Vec<bool> = (0..12).map(|_| random.random()).collect();
            let other: Vec<bool> = (0..12).map(|_| random.random()).collect();
            let pairs = || one.iter().zip(&other);
            let left: Vec<bool> = pairs().map(|(one, other)| *one && !other).collect();
            let both: Vec<bool> = pairs().map(|(one, other)| *one && *other).collect();
            assert_eq!(outside(&runs(&one), &runs(&other)), runs(&left));
            assert_eq!(count(&within(&runs(&one), &runs(&other))), count(&runs(&both)));
        }
    }
}
