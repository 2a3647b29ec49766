//! The parts of prompts and documents, before and after their images are encoded.

use image::RgbImage;
use vq_tokenizer::Codes;

use super::token::SEP_TOKEN;

/// A part of a document with images as pixels.
#[derive(Clone, Debug, PartialEq)]
pub enum Segment {
    /// Text, taken literally: names of tokens in it stay text.
    Text(String),
    /// An image.
    Image(RgbImage),
}

/// A part of a document with images as codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CodedSegment {
    /// Text, taken literally: names of tokens in it stay text.
    Text(String),
    /// An image.
    Image(Codes),
    /// A control token by its name, such as [`SEP_TOKEN`].
    Special(String),
}

impl CodedSegment {
    /// A text segment.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// The separator between a prompt and its answer.
    pub fn sep() -> Self {
        Self::Special(SEP_TOKEN.to_owned())
    }
}

/// Token ids, and for each whether it is a target of the training loss.
///
/// `loss_mask[i]` is for the prediction *of* `ids[i]` from the ids before it; the first one is always
/// `false`, because nothing predicts the first id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenSequence {
    /// Vocabulary ids.
    pub ids: Vec<u32>,
    /// For each id, whether it is a target.
    pub loss_mask: Vec<bool>,
}

impl TokenSequence {
    /// A sequence in which every id after the first is a target.
    pub fn supervised(ids: Vec<u32>) -> Self {
        let loss_mask = (0..ids.len()).map(|position| position > 0).collect();
        Self { ids, loss_mask }
    }

    /// The number of ids.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no ids.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Appends `ids`, all targets or none; the first id of a sequence never is.
    pub(crate) fn extend(&mut self, ids: &[u32], supervised: bool) {
        let first = usize::from(self.ids.is_empty() && !ids.is_empty());
        self.ids.extend_from_slice(ids);
        self.loss_mask.extend(std::iter::repeat_n(false, first));
        self.loss_mask.extend(std::iter::repeat_n(supervised, ids.len() - first));
    }
}

impl std::fmt::Display for CodedSegment {
    /// Text as it is, an image as `[image 8x8]`, a control token by its name.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Image(codes) => write!(f, "[image {}x{}]", codes.height, codes.width),
            Self::Special(name) => f.write_str(name),
        }
    }
}
