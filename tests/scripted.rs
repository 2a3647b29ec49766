//! A scripted language model for tests of generation, which checks every pass.

mod ledger;
mod watched;

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::sync::LazyLock;

use calumma::Result;
use calumma::generate::{LanguageModel, Span};
use calumma::tokenize::{
    BEGIN_IMAGE_TOKEN, BOS_TOKEN, END_IMAGE_TOKEN, EOS_TOKEN, IMAGE_TOKEN, PAD_TOKEN, SEP_TOKEN,
    TokenClass, UNK_TOKEN, Vocabulary, code_token,
};

pub use ledger::Ledger;
use ledger::digest_of;
pub use watched::Watched;

pub const CODES: usize = 6;
pub const GRID: (usize, usize) = (2, 3);
pub const CONTEXT: usize = 40;
/// What a block of the cache is said to take.
pub const BLOCK_BYTES: usize = 1 << 20;

/// Four control tokens, twelve codes, end-image, begin-image, separator, placeholder, ten texts.
pub fn vocabulary() -> &'static Vocabulary {
    static VOCABULARY: LazyLock<Vocabulary> = LazyLock::new(|| {
        let name = |name: &str| name.to_owned();
        let first = [BOS_TOKEN, PAD_TOKEN, EOS_TOKEN, UNK_TOKEN].map(name);
        let other = [END_IMAGE_TOKEN, BEGIN_IMAGE_TOKEN, SEP_TOKEN, IMAGE_TOKEN].map(name);
        let texts = ('a'..='j').map(String::from);
        let names = first.into_iter().chain((0..12).map(code_token)).chain(other).chain(texts);
        Vocabulary::from_names(names.zip(0..)).unwrap()
    });
    &VOCABULARY
}

/// The id of the text number `nth`.
pub fn text(nth: u32) -> u32 {
    (0..).filter(|&id| vocabulary().class(id) == TokenClass::Text).nth(nth as usize).unwrap()
}

/// The id of a code.
pub fn code(code: u32) -> u32 {
    vocabulary().image_id(code).unwrap()
}

pub type Logits = dyn Fn(&[u32]) -> Vec<f32>;

/// A span of a pass, as the model saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The lane's ids up to the span's last one.
    pub row: Vec<u32>,
    /// The number of them that the cache held.
    pub start: usize,
    pub wanted: usize,
    pub columns: Range<usize>,
}

impl Seen {
    /// The ids that were fed.
    pub fn ids(&self) -> &[u32] {
        &self.row[self.start..]
    }
}

/// A model whose logits are a function of the row; it checks every call.
pub struct Scripted {
    pub logits: Box<Logits>,
    pub vocab: usize,
    pub context: usize,
    pub caches: Cell<usize>,
    /// The number of blocks that were poisoned.
    pub poisoned: Cell<usize>,
    /// Whether `seen` grows.
    pub recording: Cell<bool>,
    /// The spans of each pass.
    pub seen: RefCell<Vec<Vec<Seen>>>,
}

impl Scripted {
    pub fn new(logits: impl Fn(&[u32]) -> Vec<f32> + 'static) -> Self {
        Self {
            logits: Box::new(logits),
            vocab: vocabulary().len(),
            context: CONTEXT,
            caches: Cell::new(0),
            poisoned: Cell::new(0),
            recording: Cell::new(true),
            seen: RefCell::new(Vec::new()),
        }
    }

    /// Pseudo-random logits, equal for equal rows; images begin often.
    pub fn random() -> Self {
        let begin_image = vocabulary().special().begin_image.unwrap() as usize;
        let vocab = vocabulary().len();
        Self::new(move |row| {
            let mut logits: Vec<f32> = (0..vocab as u32).map(|id| noise(row, id)).collect();
            logits[begin_image] += 2.0;
            logits
        })
    }

    /// Prefers `ids`, the first one most, whatever the row.
    pub fn preferring(ids: &[u32]) -> Self {
        let mut logits = vec![0.0; vocabulary().len()];
        for (rank, &id) in ids.iter().enumerate() {
            logits[id as usize] = 9.0 - rank as f32;
        }
        Self::new(move |_| logits.clone())
    }

    /// With room for `context` ids.
    pub fn with_context(self, context: usize) -> Self {
        Self { context, ..self }
    }

    /// Without a record of the passes, for long tests.
    pub fn unrecorded(self) -> Self {
        self.recording.set(false);
        self
    }

    /// The rows of all lanes at their longest, sorted: those that begin no longer one. Without a window
    /// every id in them is the lane's.
    pub fn lanes(&self) -> Vec<Vec<u32>> {
        let seen = self.seen.borrow();
        let mut rows: Vec<Vec<u32>> = seen.iter().flatten().map(|span| span.row.clone()).collect();
        rows.sort();
        rows.dedup();
        // A longer row with the same beginning comes next in this order.
        let begins_next =
            |at: usize| rows.get(at + 1).is_some_and(|next| next.starts_with(&rows[at]));
        (0..rows.len()).filter(|&at| !begins_next(at)).map(|at| rows[at].clone()).collect()
    }

    /// The number of ids that each pass was given.
    pub fn rows_per_pass(&self) -> Vec<usize> {
        let rows = |pass: &Vec<Seen>| pass.iter().map(|span| span.ids().len()).sum();
        self.seen.borrow().iter().map(rows).collect()
    }
}

/// A number from -2 to 2 that depends on the whole row and `id`.
pub fn noise(row: &[u32], id: u32) -> f32 {
    let mixed = ledger::digest(digest_of(row), id);
    (mixed >> 40) as f32 / (1 << 22) as f32 - 2.0
}

impl LanguageModel for Scripted {
    type Cache = Ledger;

    fn vocab_size(&self) -> usize {
        self.vocab
    }

    fn context(&self) -> usize {
        self.context
    }

    fn block_bytes(&self) -> usize {
        BLOCK_BYTES
    }

    fn new_cache(&self, blocks: usize) -> Ledger {
        self.caches.set(self.caches.get() + 1);
        Ledger::new(blocks)
    }

    fn pass(&self, spans: &[Span<'_>], cache: &mut Ledger) -> Result<Vec<Vec<Vec<f32>>>> {
        let rows = cache.pass(spans, self.vocab, self.context);
        let logits = |(span, row): (&Span<'_>, &Vec<u32>)| {
            let lens = row.len() + 1 - span.wanted..=row.len();
            let columns = span.columns.clone();
            lens.map(|len| (self.logits)(&row[..len])[columns.clone()].to_vec()).collect()
        };
        let found = spans.iter().zip(&rows).map(logits).collect();
        if self.recording.get() {
            let seen = |(span, row): (&Span<'_>, Vec<u32>)| Seen {
                row,
                start: span.start,
                wanted: span.wanted,
                columns: span.columns.clone(),
            };
            self.seen.borrow_mut().push(spans.iter().zip(rows).map(seen).collect());
        }
        Ok(found)
    }

    fn poison(&self, blocks: &[u32], cache: &mut Ledger) {
        self.poisoned.set(self.poisoned.get() + blocks.len());
        cache.poison(blocks);
    }
}
