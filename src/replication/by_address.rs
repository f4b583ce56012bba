//! Maps whose keys need no hash that resists an attacker, for what is looked up with every row:
//! addresses of what we allocated, and numbers that are such a hash already.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

pub(super) type AddressMap<V> = HashMap<usize, V, BuildHasherDefault<AddressHasher>>;
pub(super) type HashedMap<V> = HashMap<u64, V, BuildHasherDefault<AddressHasher>>;

/// Spreads one number over all bits of the hash.
#[derive(Default)]
pub(super) struct AddressHasher(u64);

/// 2^64 divided by the golden ratio, and odd: neighbours land far apart (Knuth, volume 3, 6.4).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        // The product's upper bits depend on all bits of the number, its lower ones do not: both
        // ends of the hash are used.
        let product = (self.0 ^ number).wrapping_mul(SPREAD);
        self.0 = product ^ product.rotate_left(32);
    }

    fn write_usize(&mut self, number: usize) {
        // No address is longer.
        self.write_u64(u64::try_from(number).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::{BuildHasher, BuildHasherDefault};

    use super::*;

    /// A map takes a place by the lower bits and tells neighbours apart by the upper seven.
    #[test]
    fn neighbours_land_far_apart() {
        let hashing = BuildHasherDefault::<AddressHasher>::default();
        for step in [1_usize, 16, 48, 4096] {
            let hashes: Vec<u64> =
                (0..1000).map(|n| hashing.hash_one(0x7f00_0000 + n * step)).collect();
            let places: HashSet<u64> = hashes.iter().map(|hash| hash % 1024).collect();
            let tags: HashSet<u64> = hashes.iter().map(|hash| hash >> 57).collect();
            assert!(places.len() > 500, "{step}: {} places", places.len());
            assert!(tags.len() > 100, "{step}: {} tags", tags.len());
        }
    }
}
