//! A set of numbers that mostly follow each other: as many entries as there are gaps.

use std::collections::BTreeMap;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Numbers {
    /// The last number of each run, by its first.
    runs: BTreeMap<u32, u32>,
}

impl Numbers {
    pub(crate) fn contains(&self, number: u32) -> bool {
        self.runs.range(..=number).next_back().is_some_and(|(_, last)| *last >= number)
    }

    /// Adds all numbers from `first` to `last`, none of which is in the set.
    pub(crate) fn insert(&mut self, first: u32, last: u32) {
        let before = self.runs.range(..first).next_back().map(|(first, last)| (*first, *last));
        let first = match before {
            Some((start, end)) if end.checked_add(1) == Some(first) => start,
            _ => first,
        };
        let after = last.checked_add(1).and_then(|next| self.runs.remove(&next));
        self.runs.insert(first, after.unwrap_or(last));
    }

    pub(crate) fn runs(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.runs.iter().map(|(first, last)| (*first, *last))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use rand::seq::SliceRandom;

    use super::*;

    #[test]
    fn has_what_was_put_in_however_it_came() {
        let mut order: Vec<u32> = (1..200).collect();
        order.shuffle(&mut StdRng::seed_from_u64(1));
        let mut numbers = Numbers::default();
        for (count, number) in order.iter().enumerate() {
            assert!(!numbers.contains(*number));
            numbers.insert(*number, *number);
            assert!(order[..=count].iter().all(|number| numbers.contains(*number)));
        }
        assert_eq!(numbers.runs().collect::<Vec<_>>(), [(1, 199)]);
        numbers.insert(u32::MAX, u32::MAX);
        assert!(numbers.contains(u32::MAX) && !numbers.contains(200) && !numbers.contains(0));
    }
}
