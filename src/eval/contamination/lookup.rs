//! Search by equality and by Hamming distance.

/// The owners of each key, in three flat lists.
#[derive(Debug)]
pub(super) struct Postings<K> {
    /// The distinct keys, sorted.
    keys: Vec<K>,
    /// Offset of the owners of each key, and the end.
    starts: Vec<u32>,
    owners: Vec<u32>,
}

impl<K: Ord> Postings<K> {
    /// The postings of pairs of a key and an owner.
    pub fn new(mut entries: Vec<(K, u32)>) -> Self {
        entries.sort_unstable();
        entries.dedup();
        let (mut keys, mut starts) = (Vec::new(), Vec::new());
        let mut owners = Vec::with_capacity(entries.len());
        for (key, owner) in entries {
            if keys.last() != Some(&key) {
                keys.push(key);
                starts.push(owners.len() as u32);
            }
            owners.push(owner);
        }
        starts.push(owners.len() as u32);
        Self { keys, starts, owners }
    }

    /// The number of distinct keys.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// The position of `key` among the distinct keys.
    pub fn find(&self, key: &K) -> Option<usize> {
        self.keys.binary_search(key).ok()
    }

    /// The owners of the key at position `at`.
    pub fn owners(&self, at: usize) -> &[u32] {
        &self.owners[self.starts[at] as usize..self.starts[at + 1] as usize]
    }
}

/// Bits per band.
const BAND: u32 = 16;
/// Bands per hash.
const BANDS: usize = 4;

/// An index of hashes by Hamming distance.
///
/// Multi-index hashing (Norouzi, Punjani & Fleet 2012, Fast Search in Hamming Space with
/// Multi-Index Hashing): if two hashes differ in at most `d` of 64 bits, at least one of the four
/// bands of 16 bits differs in at most `d / 4` (the pigeonhole principle). So each band's table is
/// probed with all values within that distance of the band: 1 probe per band up to `d` = 3, 17 up
/// to 7, 137 up to 11, 697 up to 15. Candidates are compared in full.
///
/// [`within`](Self::within) finds every hash within the distance exactly once, and no other. For
/// evenly distributed hashes the expected work is `4 x probes x len / 65536` comparisons.
#[derive(Debug)]
pub(super) struct HammingIndex {
    hashes: Vec<u64>,
    bands: [Postings<u16>; BANDS],
    distance: u32,
    /// Bit masks that turn a band into the values probed.
    changes: Vec<u16>,
}

impl HammingIndex {
    /// The index of `hashes` for distances up to `distance`; a hash's number is its position in the list.
    pub fn new(hashes: &[Option<u64>], distance: u32) -> Self {
        let radius = distance / BANDS as u32;
        let bands = std::array::from_fn(|band| {
            let numbered = (0..).zip(hashes);
            let entries =
                numbered.filter_map(|(number, hash)| Some((part((*hash)?, band), number)));
            Postings::new(entries.collect())
        });
        let changes = (0..=u16::MAX).filter(|change| change.count_ones() <= radius).collect();
        let hashes = hashes.iter().map(|hash| hash.unwrap_or_default()).collect();
        Self { hashes, bands, distance, changes }
    }

    /// Calls `found` with the number and the distance of every hash near `hash`.
    pub fn within(&self, hash: u64, mut found: impl FnMut(usize, u32)) {
        let radius = self.distance / BANDS as u32;
        for (band, table) in self.bands.iter().enumerate() {
            for change in &self.changes {
                let Some(at) = table.find(&(part(hash, band) ^ change)) else { continue };
                for &number in table.owners(at) {
                    let differing = hash ^ self.hashes[number as usize];
                    let distance = differing.count_ones();
                    let is_new = (0..band).all(|b| part(differing, b).count_ones() > radius);
                    if distance <= self.distance && is_new {
                        found(number as usize, distance);
                    }
                }
            }
        }
    }
}

/// Band `band` of `hash`.
fn part(hash: u64, band: usize) -> u16 {
    (hash >> (BAND * band as u32)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn every_hash_within_the_distance_is_found_once_and_no_other() {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let mut hashes: Vec<Option<u64>> = (0..500).map(|_| Some(rng.random())).collect();
        hashes.push(None);
        for distance in [0, 3, 6, 7, 11, 15] {
            let index = HammingIndex::new(&hashes, distance);
            for _ in 0..200 {
                // A known hash with some bits flipped.
                let mut hash = hashes[rng.random_range(0..500)].unwrap_or_default();
                for _ in 0..rng.random_range(0..20) {
                    hash ^= 1 << rng.random_range(0..64);
                }
                let mut found = Vec::new();
                index.within(hash, |number, distance| found.push((number, distance)));
                found.sort_unstable();
                let all = (0..).zip(&hashes).filter_map(|(number, other)| {
                    let apart = ((*other)? ^ hash).count_ones();
                    (apart <= distance).then_some((number, apart))
                });
                assert_eq!(found, all.collect::<Vec<_>>(), "distance {distance}");
            }
        }
    }

    #[test]
    fn postings_find_the_owners_of_a_key() {
        let postings = Postings::new(vec![("b", 1), ("a", 7), ("b", 0), ("b", 1)]);
        assert_eq!(postings.len(), 2);
        assert_eq!(
            postings.find(&"b").map(|position| postings.owners(position)),
            Some(&[0, 1][..])
        );
        assert_eq!(postings.find(&"c"), None);
    }
}
