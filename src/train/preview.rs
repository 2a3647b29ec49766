//! Packed documents as text, with brackets around what is learnt.

use crate::error::Result;
use crate::tokenize::{Processor, TokenSequence};

/// Begins what the loss counts; no text of a data set is likely to hold it.
const OPEN: char = '⟦';
/// Ends it.
const CLOSE: char = '⟧';

/// `document` as text: images as `[image 8x8]`, control tokens by their names, and targets of the loss in
/// brackets `⟦…⟧`.
///
/// # Errors
/// If an image in it is damaged.
pub(super) fn bracketed(document: &TokenSequence, processor: &Processor) -> Result<String> {
    let (ids, mut mask) = (&document.ids, document.loss_mask.clone());
    // Nothing predicts the first id, but what it begins may be a target.
    if let [first, second, ..] = &mut mask[..]
        && Some(ids[0]) != processor.vocabulary().special().bos
    {
        *first = *second;
    }
    let mut text = String::new();
    let mut start = 0;
    for run in mask.chunk_by(|a, b| a == b) {
        let end = start + run.len();
        let segments = processor.decode(&ids[start..end])?;
        let shown: String = segments.iter().map(ToString::to_string).collect();
        match run[0] {
            true => text.push_str(&format!("{OPEN}{shown}{CLOSE}")),
            false => text.push_str(&shown),
        }
        start = end;
    }
    Ok(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::tokenize::{BpeConfig, CodedSegment, EncodeOptions, Turn, train_bpe};
    use vq_tokenizer::Codes;

    #[test]
    fn what_is_learnt_is_in_brackets() {
        let config = BpeConfig { num_codes: 16, vocab_size: 300, ..BpeConfig::default() };
        let processor = Processor::new(train_bpe(&config, ["yes"]).unwrap(), (1, 2)).unwrap();
        let image = CodedSegment::Image(Codes { ids: vec![1, 2], height: 1, width: 2 });
        let show = |ids: Vec<u32>, mask: Vec<bool>| {
            bracketed(&TokenSequence { ids, loss_mask: mask }, &processor).unwrap()
        };
        let chat = processor.chat(&[
            Turn::user(vec![image.clone(), CodedSegment::text("what?")]),
            Turn::assistant(vec![CodedSegment::text("red")]),
        ]);
        let chat = chat.unwrap();
        assert_eq!(show(chat.ids, chat.loss_mask), "[image 1x2]what?<reserved08706>⟦red</s>⟧");
        let bare = EncodeOptions { bos: false, ..EncodeOptions::default() };
        let ids = processor.encode_with(&[image], bare).unwrap();
        let mask = (0..ids.len()).map(|at| at > 0).collect();
        assert_eq!(show(ids, mask), "⟦[image 1x2]⟧");
    }
}
