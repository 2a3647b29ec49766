//! The blocks of a paged cache: who uses them, what is promised, and which hold beginnings worth keeping.
//!
//! A request is admitted only if the blocks that it can ever need are promised to it, so nothing has to be
//! taken from a running request. Blocks that prefill has filled are kept under a key when their last
//! user leaves, until their place is needed; a request that begins with the same ids takes them over.

use std::collections::{BTreeMap, HashMap};

use sha2::{Digest, Sha256};

use super::language_model::BLOCK;

/// The ids of a lane up to the end of a block, and the salt, as a hash.
pub(super) type Key = [u8; 32];

/// The key of a block that follows `before`, the key of the block ahead of it or the salt's.
pub(super) fn key(before: &Key, ids: &[u32]) -> Key {
    let mut hash = Sha256::new_with_prefix(before);
    for id in ids {
        hash.update(id.to_le_bytes());
    }
    hash.finalize().into()
}

/// The key that the first blocks of all lanes follow.
pub(super) fn root(salt: u64) -> Key {
    Sha256::digest(salt.to_le_bytes()).into()
}

/// The number of blocks that hold `tokens`.
pub(super) fn blocks_for(tokens: usize) -> usize {
    tokens.div_ceil(BLOCK)
}

#[derive(Clone, Debug, Default)]
struct Entry {
    users: usize,
    key: Option<Key>,
    /// When its last user left, if it is kept.
    left: Option<u64>,
}

/// The blocks of one cache.
#[derive(Debug)]
pub(super) struct BlockPool {
    entries: Vec<Entry>,
    free: Vec<u32>,
    /// Blocks without users whose content is kept, the one that was left first at the front.
    kept: BTreeMap<u64, u32>,
    by_key: HashMap<Key, u32>,
    promised: usize,
    /// Kept blocks that were taken for other content since this was last asked.
    evicted: Vec<u32>,
    clock: u64,
}

impl BlockPool {
    pub(super) fn new(blocks: usize) -> Self {
        Self {
            entries: vec![Entry::default(); blocks],
            free: (0..blocks as u32).rev().collect(),
            kept: BTreeMap::new(),
            by_key: HashMap::new(),
            promised: 0,
            evicted: Vec::new(),
            clock: 0,
        }
    }

    pub(super) fn total(&self) -> usize {
        self.entries.len()
    }

    /// Blocks that hold tokens of running requests.
    pub(super) fn used(&self) -> usize {
        self.total() - self.free.len() - self.kept.len()
    }

    /// Promises `blocks`, if so many are neither used nor promised.
    pub(super) fn promise(&mut self, blocks: usize) -> bool {
        let fits = self.used() + self.promised + blocks <= self.total();
        self.promised += if fits { blocks } else { 0 };
        fits
    }

    /// Takes back a promise.
    pub(super) fn release_promise(&mut self, blocks: usize) {
        self.promised -= blocks;
    }

    /// A block that was promised, for one user; its content is stale.
    pub(super) fn take(&mut self) -> u32 {
        self.promised -= 1;
        let block = self.free.pop().unwrap_or_else(|| {
            let (_, block) = self.kept.pop_first().expect("promised blocks are there");
            let key = self.entries[block as usize].key.take().expect("kept blocks have keys");
            self.by_key.remove(&key);
            self.evicted.push(block);
            block
        });
        self.entries[block as usize] = Entry { users: 1, key: None, left: None };
        block
    }

    /// Kept blocks that were taken for other content since this was last asked.
    pub(super) fn take_evicted(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.evicted)
    }

    /// The block with the content of `key`, for one more user, in place of a promised one.
    pub(super) fn share(&mut self, key: &Key) -> Option<u32> {
        let block = *self.by_key.get(key)?;
        self.promised -= 1;
        let entry = &mut self.entries[block as usize];
        entry.users += 1;
        if let Some(left) = entry.left.take() {
            self.kept.remove(&left);
        }
        Some(block)
    }

    /// Notes that `block` is full and holds the content of `key`, unless another one does.
    pub(super) fn publish(&mut self, block: u32, key: Key) {
        if let std::collections::hash_map::Entry::Vacant(vacant) = self.by_key.entry(key) {
            vacant.insert(block);
            self.entries[block as usize].key = Some(key);
        }
    }

    /// One user of `block` leaves; whether nobody can read its content any more.
    pub(super) fn leave(&mut self, block: u32) -> bool {
        let entry = &mut self.entries[block as usize];
        entry.users -= 1;
        if entry.users > 0 {
            return false;
        }
        if entry.key.is_some() {
            self.clock += 1;
            entry.left = Some(self.clock);
            self.kept.insert(self.clock, block);
            return false;
        }
        self.free.push(block);
        true
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn promises_never_exceed_the_blocks() {
        let mut pool = BlockPool::new(3);
        assert!(pool.promise(2) && !pool.promise(2) && pool.promise(1));
        let (a, b) = (pool.take(), pool.take());
        assert!(a != b && pool.used() == 2 && !pool.promise(1));
        assert!(pool.leave(a) && pool.promise(1));
    }

    #[test]
    fn kept_blocks_are_found_until_their_place_is_needed_the_oldest_first() {
        let mut pool = BlockPool::new(2);
        assert!(pool.promise(2));
        let keys = [key(&root(0), &[1]), key(&root(0), &[2])];
        for key in keys {
            let block = pool.take();
            pool.publish(block, key);
            assert!(!pool.leave(block));
        }
        assert!(
            pool.used() == 0
                && pool.by_key.contains_key(&keys[0])
                && pool.by_key.contains_key(&keys[1])
        );
        assert!(pool.promise(1));
        pool.take();
        assert!(!pool.by_key.contains_key(&keys[0]) && pool.by_key.contains_key(&keys[1]));
        assert!(pool.promise(1) && pool.share(&keys[1]).is_some());
        assert_eq!(pool.used(), 2);
    }

    #[test]
    fn shared_blocks_stay_until_the_last_user_leaves() {
        let mut pool = BlockPool::new(1);
        let key = key(&root(7), &[3, 4]);
        assert!(pool.promise(1));
        let block = pool.take();
        pool.publish(block, key);
        pool.promised += 1;
        assert_eq!(pool.share(&key), Some(block));
        pool.leave(block);
        assert_eq!(pool.used(), 1);
        pool.leave(block);
        assert_eq!(pool.used(), 0);
    }

    #[test]
    fn keys_depend_on_the_salt_and_on_all_ids_before() {
        let [a, b] = [root(1), root(2)];
        assert_ne!(key(&a, &[1]), key(&b, &[1]));
        assert_ne!(key(&key(&a, &[1]), &[2]), key(&key(&a, &[3]), &[2]));
    }
}
