//! A scripted language model for tests of the decoding loop.

use std::cell::{Cell, RefCell};

use calumma::Result;
use calumma::generate::LanguageModel;
use calumma::tokenize::{
    BEGIN_IMAGE_TOKEN, BOS_TOKEN, END_IMAGE_TOKEN, EOS_TOKEN, IMAGE_TOKEN, PAD_TOKEN, SEP_TOKEN,
    UNK_TOKEN, Vocabulary, code_token,
};

pub const CODES: usize = 6;
pub const GRID: (usize, usize) = (2, 3);
pub const CONTEXT: usize = 40;

/// Four control tokens, twelve codes, end-image, begin-image, separator, placeholder, ten texts.
pub fn vocabulary() -> Vocabulary {
    let name = |name: &str| name.to_owned();
    let first = [BOS_TOKEN, PAD_TOKEN, EOS_TOKEN, UNK_TOKEN].map(name);
    let other = [END_IMAGE_TOKEN, BEGIN_IMAGE_TOKEN, SEP_TOKEN, IMAGE_TOKEN].map(name);
    let texts = ('a'..='j').map(String::from);
    let names = first.into_iter().chain((0..12).map(code_token)).chain(other).chain(texts);
    Vocabulary::from_names(names.zip(0..)).unwrap()
}

pub type Logits = dyn Fn(&[u32]) -> Vec<f32>;

/// A model whose logits are a function of the row; it checks every call.
pub struct Scripted {
    pub logits: Box<Logits>,
    pub vocab: usize,
    pub caches: Cell<usize>,
    /// All rows of the cache after each call.
    pub seen: RefCell<Vec<Vec<Vec<u32>>>>,
}

pub struct Rows {
    rows: Vec<Vec<u32>>,
    filled: usize,
    capacity: usize,
}

impl Scripted {
    pub fn new(logits: impl Fn(&[u32]) -> Vec<f32> + 'static) -> Self {
        let vocab = vocabulary().len();
        Self {
            logits: Box::new(logits),
            vocab,
            caches: Cell::new(0),
            seen: RefCell::new(Vec::new()),
        }
    }

    /// Pseudo-random logits, equal for equal rows; images begin often.
    pub fn random() -> Self {
        let begin_image = vocabulary().special().begin_image as usize;
        let vocab = vocabulary().len();
        Self::new(move |row| {
            let hash = |seed: u64, value: u64| {
                let mixed = (seed ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
            };
            let row = row.iter().fold(7, |seed, &id| hash(seed, u64::from(id) + 1));
            let logit = |id| (hash(row, id) >> 40) as f32 / (1 << 22) as f32 - 2.0;
            let mut logits: Vec<f32> = (0..vocab as u64).map(logit).collect();
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

    pub fn last_rows(&self) -> Vec<Vec<u32>> {
        self.seen.borrow().last().unwrap().clone()
    }
}

impl LanguageModel for Scripted {
    type Cache = Rows;

    fn vocab_size(&self) -> usize {
        self.vocab
    }

    fn context(&self) -> usize {
        CONTEXT
    }

    fn new_cache(&self, batch: usize, capacity: usize) -> Rows {
        self.caches.set(self.caches.get() + 1);
        Rows { rows: vec![Vec::new(); batch], filled: 0, capacity }
    }

    fn next_logits(&self, rows: &[Vec<u32>], cache: &mut Rows) -> Result<Vec<Vec<f32>>> {
        let longest = rows.iter().map(Vec::len).max().unwrap();
        assert!(longest > 0 && rows.len() == cache.rows.len());
        cache.filled += longest;
        assert!(cache.filled <= cache.capacity, "{} of {}", cache.filled, cache.capacity);
        for (row, new) in cache.rows.iter_mut().zip(rows) {
            row.extend(new);
            assert!(row.len() <= CONTEXT);
        }
        self.seen.borrow_mut().push(cache.rows.clone());
        let logits = |(row, new): (&Vec<u32>, &Vec<u32>)| {
            if new.is_empty() { Vec::new() } else { (self.logits)(row) }
        };
        Ok(cache.rows.iter().zip(rows).map(logits).collect())
    }
}
