//! What every place of a paged cache holds, and whether a pass keeps the rules of `LanguageModel`.

use std::collections::{BTreeMap, BTreeSet};

use calumma::generate::{BLOCK, Span};

/// What a place of a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Empty,
    Poisoned,
    /// Keys and values of `id`, computed after the ids that `digest` stands for; they are of use after
    /// these ids only.
    Held {
        id: u32,
        digest: u64,
    },
}

/// The places of all blocks.
pub struct Ledger {
    blocks: BTreeMap<u32, [Place; BLOCK]>,
    count: usize,
}

/// Stands for a row of ids: that of the row without its last id, then the last id.
pub fn digest(before: u64, id: u32) -> u64 {
    let mixed = (before ^ (u64::from(id) + 1)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

/// The digest of a whole row.
pub fn digest_of(row: &[u32]) -> u64 {
    row.iter().fold(7, |before, &id| digest(before, id))
}

impl Ledger {
    pub fn new(count: usize) -> Self {
        Self { blocks: BTreeMap::new(), count }
    }

    /// Checks a pass and writes its ids; returns the row of each span: its lane's ids from the first one
    /// to the span's last one.
    pub fn pass(&mut self, spans: &[Span<'_>], vocab: usize, context: usize) -> Vec<Vec<u32>> {
        assert!(!spans.is_empty(), "a pass without spans");
        spans.iter().for_each(|span| self.check(span, vocab, context));
        check_owners(spans);
        let rows: Vec<Vec<u32>> = spans.iter().map(|span| self.read(span)).collect();
        for (span, row) in spans.iter().zip(&rows) {
            let mut of_row = digest_of(row);
            for (place, &id) in (span.start..).zip(span.ids) {
                of_row = digest(of_row, id);
                let block = self.blocks.entry(span.blocks[place / BLOCK]);
                block.or_insert([Place::Empty; BLOCK])[place % BLOCK] =
                    Place::Held { id, digest: of_row };
            }
        }
        rows.into_iter().zip(spans).map(|(row, span)| [&row, span.ids].concat()).collect()
    }

    /// Marks `blocks`, which nobody may read before they are written again.
    pub fn poison(&mut self, blocks: &[u32]) {
        for &block in blocks {
            assert!((block as usize) < self.count, "block {block} of {} is poisoned", self.count);
            self.blocks.insert(block, [Place::Poisoned; BLOCK]);
        }
    }

    /// Checks what a span says of itself.
    fn check(&self, span: &Span<'_>, vocab: usize, context: usize) {
        let end = span.start + span.ids.len();
        assert!(!span.ids.is_empty(), "a span without ids");
        assert!(span.ids.iter().all(|&id| (id as usize) < vocab), "ids {:?}", span.ids);
        assert!(end <= context, "{end} ids in a context of {context}");
        let room = span.blocks.len() * BLOCK;
        assert!(end <= room, "{end} ids in {room} places");
        let known = |block: &&u32| (**block as usize) < self.count;
        let known = span.blocks.iter().filter(known).collect::<BTreeSet<_>>();
        assert_eq!(known.len(), span.blocks.len(), "blocks {:?} of {}", span.blocks, self.count);
        assert!(span.wanted <= span.ids.len(), "{} of {} ids", span.wanted, span.ids.len());
        let columns = &span.columns;
        assert!(columns.start <= columns.end && columns.end <= vocab, "columns {columns:?}");
        assert!(span.wanted == 0 || !columns.is_empty(), "logits of no column");
    }

    /// The ids of a lane before a span.
    fn read(&self, span: &Span<'_>) -> Vec<u32> {
        let mut of_row = digest_of(&[]);
        let held = |place: usize| {
            let block = span.blocks[place / BLOCK];
            let held = self.blocks.get(&block).map_or(Place::Empty, |b| b[place % BLOCK]);
            let Place::Held { id, digest: found } = held else {
                panic!("token {place} of a lane is read from block {block}, where it is {held:?}");
            };
            of_row = digest(of_row, id);
            assert_eq!(found, of_row, "token {place} of a lane was computed after other ids");
            id
        };
        (0..span.start).map(held).collect()
    }
}

/// Checks that no span reads or writes what another one of the pass writes to.
fn check_owners(spans: &[Span<'_>]) {
    let own = |span: &Span<'_>| span.start / BLOCK;
    let mut written = BTreeSet::new();
    for span in spans {
        for block in &span.blocks[own(span)..] {
            assert!(written.insert(*block), "two spans of a pass write to block {block}");
        }
    }
    for span in spans {
        let read = &span.blocks[..own(span)];
        let both = read.iter().find(|block| written.contains(block));
        assert_eq!(both, None, "a span of a pass reads a block that another one writes to");
    }
}
