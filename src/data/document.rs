//! Token ids and loss mask of a rendered document.

use super::boundary::joint;
use super::render::Rendered;
use crate::Result;
use crate::tokenize::{CodedSegment, EncodeOptions, Processor, TokenSequence};

impl Rendered {
    /// The document as token ids, from begin-of-text to end-of-text. The loss mask follows
    /// `supervised`; end-of-text has the mask of the last segment, begin-of-text is never a target.
    /// Adjacent texts become ids as one text; see
    /// [`split_at_common_prefix`](crate::data::split_at_common_prefix).
    ///
    /// # Errors
    /// As [`Processor::encode_with`].
    pub fn tokens(&self, processor: &Processor) -> Result<TokenSequence> {
        let special = processor.vocabulary().special();
        let mut tokens = TokenSequence::default();
        tokens.extend(special.bos.as_slice(), false);
        self.append_to(&mut tokens, processor)?;
        tokens.extend(&[special.eos], self.supervised.last().copied().unwrap_or(false));
        Ok(tokens)
    }

    /// Appends the ids of the segments to `tokens`, which are not empty.
    fn append_to(&self, tokens: &mut TokenSequence, processor: &Processor) -> Result<()> {
        let bare = EncodeOptions { bos: false, open_image: false, eos: false };
        let mut at = 0;
        while let Some(segment) = self.segments.get(at) {
            let texts: Vec<&str> = self.segments[at..].iter().map_while(text).collect();
            match texts.len() {
                0 | 1 => {
                    let ids = processor.encode_with(std::slice::from_ref(segment), bare)?;
                    tokens.extend(&ids, self.supervised[at]);
                }
                _ => {
                    let (ids, ends) = joint(&texts, processor.text())?;
                    let mut start = 0;
                    for (&end, &counts) in ends.iter().zip(&self.supervised[at..]) {
                        tokens.extend(&ids[start..end], counts);
                        start = end;
                    }
                }
            }
            at += texts.len().max(1);
        }
        Ok(())
    }

    /// Whether a prompt in it is no prefix of the ids of prompt and answer, so that the answer begins with an
    /// id that holds part of the prompt.
    ///
    /// # Errors
    /// As [`Processor::encode_with`].
    pub(super) fn is_cut_within_an_id(&self, processor: &Processor) -> Result<bool> {
        for at in 1..self.segments.len() {
            let texts = (text(&self.segments[at - 1]), text(&self.segments[at]));
            let (Some(before), Some(after)) = texts else { continue };
            let (_, ends) = joint(&[before, after], processor.text())?;
            if ends[0] < processor.text().encode_plain(before)?.len() {
                return Ok(true);
            }
        }
        Ok(false)
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

fn text(segment: &CodedSegment) -> Option<&str> {
    match segment {
        CodedSegment::Text(text) => Some(text),
        _ => None,
    }
}
