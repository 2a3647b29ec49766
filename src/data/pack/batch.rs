//! Documents, and packed rows of them.

use crate::tokenize::{Processor, TokenClass, TokenSequence};

/// The token ids of a document and the number of its source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// The ids and their loss mask.
    pub tokens: TokenSequence,
    /// Number of the source, for losses by source.
    pub source: u32,
    /// File and line, row or member of its sample, for messages; may be empty.
    pub place: String,
    /// The number of ids that it had, if its end was cut off.
    pub cut_from: Option<usize>,
}

impl Document {
    /// The document cut to at most `len` ids; images are not cut.
    pub(in crate::data) fn cut(mut self, len: usize, processor: &Processor) -> Self {
        let whole = self.tokens.len();
        if whole > len {
            self.cut_from = Some(whole);
            self.tokens = processor.truncated(self.tokens, len);
        }
        self
    }

    /// Whether any of its ids is a target.
    pub(super) fn is_learnt(&self) -> bool {
        self.tokens.loss_mask.iter().skip(1).any(|is_target| *is_target)
    }
}

impl From<TokenSequence> for Document {
    fn from(tokens: TokenSequence) -> Self {
        Self { tokens, ..Self::default() }
    }
}

/// Packed rows of token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedBatch {
    /// Token ids, `[rows, seq_len]` row-major; padding is the pad id.
    pub ids: Vec<u32>,
    /// Number of the token's document in its row, from 1; 0 for padding. `[rows, seq_len]`
    pub document_ids: Vec<u32>,
    /// Position of the token in its document, from 0; 0 for padding. `[rows, seq_len]`
    pub positions: Vec<u32>,
    /// Whether the token is a target (of the token before it). Never true for the first token of a
    /// document or for padding. `[rows, seq_len]`
    pub loss_mask: Vec<bool>,
    /// Number of the token's source; 0 for padding. `[rows, seq_len]`
    pub sources: Vec<u32>,
    /// Number of rows.
    pub rows: usize,
    /// Tokens in a row.
    pub seq_len: usize,
}

impl PackedBatch {
    /// Rows of nothing but padding.
    pub(super) fn padding(rows: usize, seq_len: usize, pad: u32) -> Self {
        let len = rows * seq_len;
        Self {
            ids: vec![pad; len],
            document_ids: vec![0; len],
            positions: vec![0; len],
            loss_mask: vec![false; len],
            sources: vec![0; len],
            rows,
            seq_len,
        }
    }

    /// Rows of the given documents, each in its order; those of a row fit `seq_len` tokens.
    pub(crate) fn of_rows(rows: &[Vec<&Document>], seq_len: usize, pad: u32) -> Self {
        let mut batch = Self::padding(rows.len(), seq_len, pad);
        for (row, documents) in rows.iter().enumerate() {
            let mut start = row * seq_len;
            for (number, document) in (1..).zip(documents) {
                batch.place(start, number, document);
                start += document.tokens.len();
            }
        }
        batch
    }

    /// Writes document `number` of its row at `start`; it must not cross the end of the row.
    pub(super) fn place(
        &mut self,
        start: usize,
        number: u32,
        Document { tokens, source, .. }: &Document,
    ) {
        let len = tokens.ids.len();
        self.ids[start..start + len].copy_from_slice(&tokens.ids);
        self.document_ids[start..start + len].fill(number);
        self.sources[start..start + len].fill(*source);
        self.loss_mask[start + 1..start + len].copy_from_slice(&tokens.loss_mask[1..]);
        for (position, slot) in (0..).zip(&mut self.positions[start..start + len]) {
            *slot = position;
        }
    }

    /// Number of tokens without padding.
    pub fn num_tokens(&self) -> usize {
        self.document_ids.iter().filter(|&&document| document != 0).count()
    }

    /// The share of padding, 0 to 1.
    pub fn padding_share(&self) -> f64 {
        1.0 - self.num_tokens() as f64 / self.ids.len() as f64
    }
}

/// Packed rows of tokens, each marked as text or image code.
#[derive(Clone, Debug)]
pub struct NextTokenBatch {
    /// Ids, documents, positions and targets.
    pub packed: PackedBatch,
    /// Whether each token is an image code, `[rows, seq_len]`.
    pub is_image: Vec<bool>,
}

impl NextTokenBatch {
    /// `packed` with the image codes among `processor`'s ids marked.
    pub(in crate::data) fn new(packed: PackedBatch, processor: &Processor) -> Self {
        let vocabulary = processor.vocabulary();
        let is_image = |&id: &u32| vocabulary.class(id) == TokenClass::Image;
        Self { is_image: packed.ids.iter().map(is_image).collect(), packed }
    }

    /// The rows of all `batches` in one.
    ///
    /// # Panics
    /// If there is none, or their rows differ in length.
    pub fn joined(batches: &[Self]) -> Self {
        let seq_len = batches[0].packed.seq_len;
        let mut all = Self { packed: PackedBatch::padding(0, seq_len, 0), is_image: Vec::new() };
        for Self { packed, is_image } in batches {
            assert_eq!(packed.seq_len, seq_len, "rows of one batch have one length");
            all.packed.ids.extend(&packed.ids);
            all.packed.document_ids.extend(&packed.document_ids);
            all.packed.positions.extend(&packed.positions);
            all.packed.loss_mask.extend(&packed.loss_mask);
            all.packed.sources.extend(&packed.sources);
            all.packed.rows += packed.rows;
            all.is_image.extend(is_image);
        }
        all
    }
}
