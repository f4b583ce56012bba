//! Which layer holds each page of a file.
//!
//! A file of any size and a chain of any depth is looked up in constant time, and a clone shares
//! everything. Pages are grouped in chunks of 1 MiB; the first change of a chunk that another map
//! shares copies its 1 KiB.
//!
//! Invariant: no page at or past the end of the file is present (the inode cuts the map when the
//! file shrinks), so a page that is absent reads as zeros, whatever older layers hold there.

use std::ops::Range;
use std::sync::Arc;

use crate::id::LayerId;

/// Bytes in a page: the unit of copy-on-write and the block size of the file systems below.
pub(crate) const PAGE: u64 = 4096;
/// Pages in a chunk.
const CHUNK: usize = 256;
const CHUNK_PAGES: u64 = CHUNK as u64;

/// The page that holds byte `offset`.
pub(crate) fn page_of(offset: u64) -> u64 {
    offset / PAGE
}

/// The number of pages that hold `len` bytes.
pub(crate) fn pages_in(len: u64) -> u64 {
    len.div_ceil(PAGE)
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Chunk {
    Absent,
    Uniform(LayerId),
    Mixed(Arc<[Option<LayerId>; CHUNK]>),
}

impl Chunk {
    fn layer(&self, slot: usize) -> Option<LayerId> {
        match self {
            Self::Absent => None,
            Self::Uniform(layer) => Some(*layer),
            Self::Mixed(slots) => slots.get(slot).copied().flatten(),
        }
    }

    /// How many pages from `slot` on the same layer holds.
    fn same_from(&self, slot: usize) -> u64 {
        let Self::Mixed(slots) = self else { return (CHUNK - slot) as u64 };
        let first = slots.get(slot);
        slots.iter().skip(slot).take_while(|layer| Some(*layer) == first).count() as u64
    }

    /// Sets `slots` and returns what it replaced, as the number of pages that `counted` held.
    fn fill(&mut self, slots: Range<usize>, layer: Option<LayerId>, counted: LayerId) -> u64 {
        if let Self::Mixed(pages) = self {
            let pages = Arc::make_mut(pages);
            let mut held = 0;
            for page in pages.iter_mut().take(slots.end).skip(slots.start) {
                held += u64::from(*page == Some(counted));
                *page = layer;
            }
            let first = pages[0];
            if slots.len() > 1 && pages.iter().all(|page| *page == first) {
                *self = first.map_or(Self::Absent, Self::Uniform);
            }
            return held;
        }
        let before = self.layer(0);
        if before != layer {
            if slots.len() == CHUNK {
                *self = layer.map_or(Self::Absent, Self::Uniform);
            } else {
                let mut pages = [before; CHUNK];
                pages[slots.clone()].fill(layer);
                *self = Self::Mixed(Arc::new(pages));
            }
        }
        if before == Some(counted) { slots.len() as u64 } else { 0 }
    }
}

/// The map of one file.
#[derive(Clone, Debug, Default)]
pub(crate) struct PageMap {
    chunks: imbl::Vector<Chunk>,
}

/// Consecutive pages that one layer holds, or that no layer does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) pages: Range<u64>,
    pub(crate) layer: Option<LayerId>,
}

impl PageMap {
    /// The layer that holds `page`, or none if it reads as zeros.
    pub(crate) fn layer(&self, page: u64) -> Option<LayerId> {
        let (chunk, slot) = place(page);
        self.chunks.get(chunk)?.layer(slot)
    }

    /// Records that `layer` holds `pages` now. Returns how many it did not hold before.
    pub(crate) fn set(&mut self, pages: Range<u64>, layer: LayerId) -> u64 {
        let total = pages.end.saturating_sub(pages.start);
        let chunks = usize::try_from(pages.end.div_ceil(CHUNK_PAGES)).unwrap_or(usize::MAX);
        while self.chunks.len() < chunks {
            self.chunks.push_back(Chunk::Absent);
        }
        total - self.fill(pages, Some(layer), layer)
    }

    /// Forgets all pages from `first` on. Returns how many of them `layer` held.
    pub(crate) fn cut(&mut self, first: u64, layer: LayerId) -> u64 {
        let end = self.chunks.len() as u64 * CHUNK_PAGES;
        if first >= end {
            return 0;
        }
        let held = self.fill(first..end, None, layer);
        self.chunks.truncate(usize::try_from(first.div_ceil(CHUNK_PAGES)).unwrap_or(usize::MAX));
        held
    }

    /// Whether any page from `first` on is held by `layer`.
    pub(crate) fn holds_from(&self, first: u64, layer: LayerId) -> bool {
        let end = self.chunks.len() as u64 * CHUNK_PAGES;
        self.runs(first..end).any(|run| run.layer == Some(layer))
    }

    /// `pages` cut into runs, in order, each as long as can be.
    pub(crate) fn runs(&self, pages: Range<u64>) -> impl Iterator<Item = Run> + '_ {
        let mut next = pages.start;
        // Looked up once for all runs in it.
        let (mut index, mut chunk) = (usize::MAX, None);
        std::iter::from_fn(move || {
            let (start, mut layer) = (next, None);
            while next < pages.end {
                let (at, slot) = place(next);
                if at != index {
                    (index, chunk) = (at, self.chunks.get(at));
                }
                let here = chunk.and_then(|chunk| chunk.layer(slot));
                if next != start && here != layer {
                    break;
                }
                layer = here;
                let len = chunk.map_or(u64::MAX, |chunk| chunk.same_from(slot));
                next = next.saturating_add(len).min(pages.end);
            }
            (next > start).then_some(Run { pages: start..next, layer })
        })
    }

    fn fill(&mut self, pages: Range<u64>, layer: Option<LayerId>, counted: LayerId) -> u64 {
        let mut held = 0;
        let mut page = pages.start;
        while page < pages.end {
            let (index, slot) = place(page);
            let end = pages.end.min((index as u64 + 1) * CHUNK_PAGES);
            let slots = slot..slot + usize::try_from(end - page).unwrap_or(CHUNK - slot);
            if let Some(chunk) = self.chunks.get_mut(index) {
                held += chunk.fill(slots, layer, counted);
            }
            page = end;
        }
        held
    }
}

fn place(page: u64) -> (usize, usize) {
    let chunk = usize::try_from(page / CHUNK_PAGES).unwrap_or(usize::MAX);
    (chunk, usize::try_from(page % CHUNK_PAGES).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::iter::repeat;

    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn layer(number: u32) -> LayerId {
        LayerId::new(number).unwrap()
    }

    #[test]
    fn agrees_with_a_plain_array() {
        for seed in 0..50 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut map = PageMap::default();
            let mut plain = vec![None; 1500];
            for _ in 0..200 {
                let start = random.random_range(0..1400);
                let end = start + random.random_range(1..100);
                let by = layer(random.random_range(1..4));
                if random.random_bool(0.1) {
                    let held = plain[start..].iter().filter(|page| **page == Some(by)).count();
                    assert_eq!(map.cut(start as u64, by), held as u64, "seed {seed}");
                    plain[start..].fill(None);
                } else {
                    let new = plain[start..end].iter().filter(|page| **page != Some(by)).count();
                    assert_eq!(map.set(start as u64..end as u64, by), new as u64, "seed {seed}");
                    plain[start..end].fill(Some(by));
                }
            }
            for (page, expected) in plain.iter().enumerate() {
                assert_eq!(map.layer(page as u64), *expected, "seed {seed}");
            }
            let start = random.random_range(0..1500);
            for range in [0..1500, start..random.random_range(start..1600)] {
                let runs: Vec<_> = map.runs(range.clone()).collect();
                assert!(runs.windows(2).all(|pair| pair[0].layer != pair[1].layer), "seed {seed}");
                let pages: Vec<_> = runs.iter().flat_map(|run| run.pages.clone()).collect();
                assert!(pages.into_iter().eq(range), "seed {seed}");
                for (page, run) in runs.iter().flat_map(|run| run.pages.clone().zip(repeat(run))) {
                    let expected = plain.get(usize::try_from(page).unwrap()).copied().flatten();
                    assert_eq!(run.layer, expected, "seed {seed}");
                }
            }
        }
    }

    #[test]
    fn a_clone_keeps_what_it_saw() {
        let mut map = PageMap::default();
        map.set(0..1000, layer(1));
        let frozen = map.clone();
        map.set(10..20, layer(2));
        map.cut(500, layer(1));
        assert_eq!(frozen.runs(0..1000).count(), 1);
        assert_eq!(map.layer(15), Some(layer(2)));
        assert_eq!(map.layer(600), None);
    }
}
