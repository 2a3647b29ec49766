//! Where an answer begins in the ids of prompt and answer together.
//!
//! A prompt that ends in a blank, or in half a piece of the tokenizer, is no prefix of the ids of prompt and
//! answer: the ids differ before the prompt ends. The answer then begins with the first id that differs, so
//! that the model learns the ids that it will see.

use crate::error::Result;
use crate::tokenize::TextTokenizer;

/// The number of ids at the start that all of `prompt` and `wholes` have in common: of each of `wholes`, which
/// are ids of the prompt with an answer, the ids before belong to the prompt and those from there on to the
/// answer.
///
/// ```
/// use calumma::data::split_at_common_prefix;
///
/// // The prompt ends in a blank (9), which is part of the answer's first id (20).
/// assert_eq!(split_at_common_prefix(&[0, 5, 9], [&[0, 5, 20, 7][..]]), 2);
/// assert_eq!(split_at_common_prefix(&[0, 5], [&[0, 5, 7][..], &[0, 5, 8]]), 2);
/// ```
pub fn split_at_common_prefix<'a>(
    prompt: &[u32],
    wholes: impl IntoIterator<Item = &'a [u32]>,
) -> usize {
    let common = |whole: &[u32]| prompt.iter().zip(whole).take_while(|(a, b)| a == b).count();
    wholes.into_iter().map(common).min().unwrap_or(prompt.len())
}

/// The ids of `texts` as one text, and for each text the number of ids before its end.
///
/// # Errors
/// If the tokenizer cannot encode a text.
pub(super) fn joint(texts: &[&str], tokenizer: &TextTokenizer) -> Result<(Vec<u32>, Vec<usize>)> {
    let ids = tokenizer.encode_plain(&texts.concat())?;
    let mut ends = Vec::with_capacity(texts.len());
    for number in 1..texts.len() {
        let prompt = tokenizer.encode_plain(&texts[..number].concat())?;
        let end = split_at_common_prefix(&prompt, [ids.as_slice()]);
        ends.push(end.max(ends.last().copied().unwrap_or(0)));
    }
    ends.push(ids.len());
    Ok((ids, ends))
}
