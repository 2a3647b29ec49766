//! One branch of a request: its ids, and the blocks with their keys and values.

use super::blocks::{self, BlockPool, Key};
use super::guidance::Branch;
use super::language_model::BLOCK;
use super::modality::ModalityRules;

/// A branch of a request and its part of the cache.
#[derive(Debug)]
pub(super) struct Lane {
    /// The branch's ids in place of the request's first `joins` ids.
    head: Vec<u32>,
    /// Where the branch joins the request: from here on both have the same ids.
    joins: usize,
    /// Tokens in the cache that are the lane's.
    len: usize,
    blocks: Vec<u32>,
    /// The keys of the lane's first full blocks, for lanes that share them.
    keys: Vec<Key>,
}

impl Lane {
    /// An empty lane of `branch`, for a request with the ids `ids` whose image block begins at `block_start`;
    /// `negative` is that of [`Branch::head`].
    pub(super) fn new(
        branch: Branch,
        ids: &[u32],
        block_start: usize,
        rules: &ModalityRules,
        negative: &[u32],
    ) -> Self {
        let joins = if branch == Branch::Full { 0 } else { block_start };
        let head = branch.head(ids, joins, rules, negative);
        Self { head, joins, len: 0, blocks: Vec::new(), keys: Vec::new() }
    }

    /// The lane's ids up to place `end`, those in the cache left out.
    pub(super) fn ids(&self, ids: &[u32], end: usize) -> Vec<u32> {
        let own = self.head.iter().chain(&ids[self.joins..]);
        own.skip(self.len).take(end - self.len).copied().collect()
    }

    /// The number of ids of the lane when the request has `len`.
    pub(super) fn total(&self, len: usize) -> usize {
        self.head.len() + len - self.joins
    }

    /// Tokens in the cache.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The blocks, those of [`grow`](Self::grow) included.
    pub(super) fn blocks(&self) -> &[u32] {
        &self.blocks
    }

    /// Takes promised blocks until `tokens` fit; returns how many.
    pub(super) fn grow(&mut self, tokens: usize, pool: &mut BlockPool) -> usize {
        let missing = blocks::blocks_for(tokens).saturating_sub(self.blocks.len());
        self.blocks.extend((0..missing).map(|_| pool.take()));
        missing
    }

    /// Makes the first `len` tokens the lane's; what lies behind them is stale.
    pub(super) fn keep(&mut self, len: usize) {
        self.len = len;
    }

    /// Leaves all blocks; returns how many, and those that hold nothing of use any more.
    pub(super) fn close(&mut self, pool: &mut BlockPool) -> (usize, Vec<u32>) {
        let blocks = std::mem::take(&mut self.blocks);
        // The last block first, so that beginnings are kept longest.
        let stale = blocks.iter().rev().copied().filter(|block| pool.leave(*block)).collect();
        self.len = 0;
        (blocks.len(), stale)
    }

    /// Computes the keys of the blocks that a prompt fills, all but the last of its ids: those of one id must be
    /// computed for its logits.
    pub(super) fn set_keys(&mut self, root: &Key, prompt: &[u32]) {
        let full = prompt[..prompt.len() - 1].chunks_exact(BLOCK);
        self.keys = full
            .scan(*root, |before, ids| {
                *before = blocks::key(before, ids);
                Some(*before)
            })
            .collect();
    }

    /// Takes over blocks with the lane's next ids for as long as there are any; returns how many.
    pub(super) fn share(&mut self, pool: &mut BlockPool) -> usize {
        if !self.len.is_multiple_of(BLOCK) || self.blocks.len() > self.len / BLOCK {
            return 0;
        }
        let before = self.blocks.len();
        while let Some(block) = self.keys.get(self.blocks.len()).and_then(|key| pool.share(key)) {
            self.blocks.push(block);
        }
        self.len = self.blocks.len() * BLOCK;
        self.blocks.len() - before
    }

    /// The key of the block that is to be computed next.
    pub(super) fn next_key(&self) -> Option<&Key> {
        self.keys.get(self.len / BLOCK)
    }

    /// The keys of the blocks that are complete when tokens `start` to `end` are computed.
    pub(super) fn keys_between(&self, start: usize, end: usize) -> impl Iterator<Item = Key> + '_ {
        let full = start / BLOCK..(end / BLOCK).min(self.keys.len());
        full.map(|at| self.keys[at])
    }

    /// Offers the blocks that are full from token `from` on to other lanes.
    pub(super) fn publish(&self, from: usize, pool: &mut BlockPool) {
        let full = from / BLOCK..(self.len / BLOCK).min(self.keys.len());
        for at in full {
            pool.publish(self.blocks[at], self.keys[at]);
        }
    }
}
