//! Token ids and loss mask of a rendered document.

use super::render::Rendered;
use crate::Result;
use crate::tokenize::{CodedSegment, EncodeOptions, Processor, TokenSequence};

impl Rendered {
    /// The document as token ids, from begin-of-text to end-of-text. The loss mask follows
    /// `supervised`; end-of-text has the mask of the last segment, begin-of-text is never a target.
    ///
    /// # Errors
    /// As [`Processor::encode_with`].
    pub fn tokens(&self, processor: &Processor) -> Result<TokenSequence> {
        let bare = EncodeOptions { bos: false, open_image: false, eos: false };
        let special = processor.vocabulary().special();
        let mut tokens = TokenSequence { ids: vec![special.bos], loss_mask: vec![false] };
        let mut add = |ids: &[u32], counts: bool| {
            tokens.ids.extend_from_slice(ids);
            tokens.loss_mask.resize(tokens.ids.len(), counts);
        };
        for (segment, &counts) in self.segments.iter().zip(&self.supervised) {
            add(&processor.encode_with(std::slice::from_ref(segment), bare)?, counts);
        }
        add(&[special.eos], self.supervised.last().copied().unwrap_or(false));
        Ok(tokens)
    }

    /// The document's last image alone: the document with its prompt dropped, so that the model
    /// learns to draw without one (classifier-free guidance). `None` if it does not end with an
    /// image.
    pub fn without_prompt(&self) -> Option<Self> {
        match (self.segments.last(), self.supervised.last()) {
            (Some(CodedSegment::Image(codes)), Some(&counts)) => Some(Self {
                segments: vec![CodedSegment::Image(codes.clone())],
                supervised: vec![counts],
            }),
            _ => None,
        }
    }
}
