//! Segments to ids and back: one sequence for text and images.
//!
//! An image is a block of ids in one of three layouts (see [`ImageBlocks`]). Text is encoded literally,
//! so nothing that a user writes can open a block or end a turn.

use vq_tokenizer::Codes;

use super::chat_template::ChatTemplate;
use super::image_block::ImageBlocks;
use super::segment::{CodedSegment, TokenSequence};
use super::text::TextTokenizer;
use super::token::TokenClass;
use super::vocabulary::Vocabulary;
use crate::error::{Error, Result};

/// The grid of images where there are none.
pub const TEXT_GRID: (usize, usize) = (1, 1);

/// Control tokens that [`Processor::encode_with`] adds around the segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Begin-of-text before the first segment.
    pub bos: bool,
    /// Begin-image at the end: an image is to be drawn next.
    pub open_image: bool,
    /// End-of-text at the end: the document is complete.
    pub eos: bool,
}

impl Default for EncodeOptions {
    /// Begin-of-text only: a prompt.
    fn default() -> Self {
        Self { bos: true, open_image: false, eos: false }
    }
}

/// Segments to ids and back, for one text tokenizer and one layout of image blocks.
#[derive(Clone, Debug)]
pub struct Processor {
    text: TextTokenizer,
    vocabulary: Vocabulary,
    blocks: ImageBlocks,
    chat_template: Option<ChatTemplate>,
}

impl Processor {
    /// A processor for images of `grid` codes (rows, columns) in Chameleon's layout.
    ///
    /// # Errors
    /// If the tokenizer's vocabulary is incomplete (see [`Vocabulary::from_names`]) or the grid
    /// is empty.
    pub fn new(text: TextTokenizer, grid: (usize, usize)) -> Result<Self> {
        let vocabulary = text.vocabulary()?;
        if grid.0 == 0 || grid.1 == 0 {
            let message = format!("grid of {}x{} codes is empty", grid.0, grid.1);
            return Err(Error::invalid(message));
        }
        Ok(Self { text, vocabulary, blocks: grid.into(), chat_template: None })
    }

    /// This processor for images of any size, in the layout that the vocabulary has ids for.
    ///
    /// # Errors
    /// As [`ImageBlocks::sized`].
    pub fn sized(self) -> Result<Self> {
        let blocks = ImageBlocks::sized(&self.vocabulary, self.grid())?;
        Ok(Self { blocks, ..self })
    }

    /// This processor with the layout of conversations `template`.
    #[must_use]
    pub fn with_chat_template(self, template: Option<ChatTemplate>) -> Self {
        Self { chat_template: template, ..self }
    }

    /// The layout of conversations, if the checkpoint has a template of its own.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.chat_template.as_ref()
    }

    /// The text tokenizer.
    pub fn text(&self) -> &TextTokenizer {
        &self.text
    }

    /// The meaning of every id.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// The layout of image blocks.
    pub fn blocks(&self) -> &ImageBlocks {
        &self.blocks
    }

    /// Rows and columns of codes in an image; the usual ones if images may have any size.
    pub fn grid(&self) -> (usize, usize) {
        self.blocks.grid()
    }

    /// Refuses images where the ids have none for their codes, as those of a text model.
    ///
    /// # Errors
    /// [`Error::NoImageTokenizer`] if `count` is more than 0 there.
    pub fn check_images(&self, count: usize) -> Result<()> {
        match count > 0 && !self.vocabulary.has_images() {
            true => Err(Error::NoImageTokenizer),
            false => Ok(()),
        }
    }

    /// The ids of a prompt: begin-of-text, then the segments.
    ///
    /// # Errors
    /// As [`Processor::encode_with`].
    pub fn encode(&self, segments: &[CodedSegment]) -> Result<Vec<u32>> {
        self.encode_with(segments, EncodeOptions::default())
    }

    /// The ids of `segments`.
    ///
    /// # Errors
    /// If the layout has no images of an image's grid, a code is beyond the codebook, or a special
    /// segment names no control token or one of images.
    pub fn encode_with(
        &self,
        segments: &[CodedSegment],
        options: EncodeOptions,
    ) -> Result<Vec<u32>> {
        let special = self.vocabulary.special();
        let mut ids = Vec::new();
        if options.bos {
            ids.extend(special.bos);
        }
        for segment in segments {
            match segment {
                CodedSegment::Text(text) => ids.extend(self.text.encode_plain(text)?),
                CodedSegment::Image(codes) => self.encode_image(codes, &mut ids)?,
                CodedSegment::Special(name) => ids.push(self.special_id(name)?),
            }
        }
        if options.open_image {
            ids.push(special.begin_image.ok_or(Error::NoImageTokenizer)?);
        }
        if options.eos {
            ids.push(special.eos);
        }
        Ok(ids)
    }

    /// A training document, begin-of-text to end-of-text, every id a target.
    ///
    /// # Errors
    /// As [`Processor::encode_with`].
    pub fn document(&self, segments: &[CodedSegment]) -> Result<TokenSequence> {
        let options = EncodeOptions { eos: true, ..EncodeOptions::default() };
        Ok(TokenSequence::supervised(self.encode_with(segments, options)?))
    }

    /// The first `len` ids of `tokens`; an image of which they hold only a part is left out.
    pub fn truncated(&self, mut tokens: TokenSequence, len: usize) -> TokenSequence {
        let is = |class: TokenClass| move |id: &u32| self.vocabulary.class(*id) == class;
        let kept = &tokens.ids[..len.min(tokens.len())];
        let begun = kept.iter().rposition(is(TokenClass::BeginImage));
        let ended = kept.iter().rposition(is(TokenClass::EndImage));
        let len = begun.filter(|begun| ended < Some(*begun)).unwrap_or(kept.len());
        tokens.ids.truncate(len);
        tokens.loss_mask.truncate(len);
        tokens
    }

    fn encode_image(&self, codes: &Codes, ids: &mut Vec<u32>) -> Result<()> {
        let image_ids =
            codes.ids.iter().map(|code| self.image_id(*code)).collect::<Result<Vec<_>>>()?;
        let special = self.vocabulary.special();
        ids.extend(special.begin_image);
        ids.extend(self.blocks.write(codes, &image_ids)?);
        ids.extend(special.end_image);
        Ok(())
    }

    fn image_id(&self, code: u32) -> Result<u32> {
        self.vocabulary.image_id(code).ok_or_else(|| {
            let codes = self.vocabulary.num_codes();
            Error::invalid(format!("code {code} is beyond the vocabulary's {codes} codes"))
        })
    }

    fn special_id(&self, name: &str) -> Result<u32> {
        let id = self.vocabulary.control_id(name);
        id.filter(|id| self.vocabulary.class(*id) == TokenClass::Special).ok_or_else(|| {
            Error::invalid(format!("{name} is not the name of a control token outside images"))
        })
    }

    /// The segments of `ids`: the inverse of [`Processor::encode`], except that adjacent texts are
    /// joined and empty ones omitted.
    ///
    /// Padding and begin-of-text at the start are dropped; any other control token becomes a
    /// special segment. At the end, an image without end-image is accepted if it has all its codes,
    /// as generation may leave it.
    ///
    /// # Errors
    /// If an image block is too short, too long or has something else in it, an image token is
    /// outside a block, or an id is beyond the vocabulary. [`Processor::decode_until_fault`] returns
    /// what comes before the fault.
    pub fn decode(&self, ids: &[u32]) -> Result<Vec<CodedSegment>> {
        match self.decode_until_fault(ids) {
            (segments, None) => Ok(segments),
            (_, Some(fault)) => Err(fault),
        }
    }

    /// The complete segments before the first fault, and that fault; see [`Processor::decode`].
    pub fn decode_until_fault(&self, ids: &[u32]) -> (Vec<CodedSegment>, Option<Error>) {
        let mut segments = Vec::new();
        let mut position = self.prefix_len(ids);
        while position < ids.len() {
            let (segment, len) = match self.next_segment(ids, position) {
                Ok(next) => next,
                Err(fault) => return (segments, Some(fault)),
            };
            segments.push(segment);
            position += len;
        }
        (segments, None)
    }

    /// The number of ids to drop at the start of `ids`: padding, then one begin-of-text.
    fn prefix_len(&self, ids: &[u32]) -> usize {
        let special = self.vocabulary.special();
        let pads = ids.iter().take_while(|id| **id == special.pad).count();
        pads + usize::from(special.bos.is_some() && ids.get(pads).copied() == special.bos)
    }

    /// The segment that starts at `position`, and its length in ids.
    fn next_segment(&self, ids: &[u32], position: usize) -> Result<(CodedSegment, usize)> {
        let id = ids[position];
        let rest = &ids[position..];
        let stray = |what| Err(Error::invalid(format!("{what} outside an image at {position}")));
        match self.vocabulary.class(id) {
            TokenClass::Text => {
                let is_text = |id: &&u32| self.vocabulary.class(**id) == TokenClass::Text;
                let len = rest.iter().take_while(is_text).count();
                Ok((CodedSegment::Text(self.text.decode(&rest[..len])?), len))
            }
            TokenClass::BeginImage => {
                let (codes, len) = self.decode_image(rest, position)?;
                Ok((CodedSegment::Image(codes), len))
            }
            TokenClass::Image => stray("image token"),
            TokenClass::EndImage => stray("end of an image"),
            TokenClass::Special => match self.vocabulary.name(id) {
                Some(name) => Ok((CodedSegment::Special(name.to_owned()), 1)),
                None => Err(Error::invalid(format!(
                    "id {id} at {position} is beyond the vocabulary of {} tokens",
                    self.vocabulary.len()
                ))),
            },
        }
    }

    /// The codes of the block at the start of `block`, and its length in ids.
    fn decode_image(&self, block: &[u32], position: usize) -> Result<(Codes, usize)> {
        let ((height, width), size_len) = self.blocks.read_size(&block[1..]).ok_or_else(|| {
            Error::invalid(format!("image at {position} does not begin with its height and width"))
        })?;
        let needed = height * width;
        let mut codes = Vec::with_capacity(needed);
        let mut len = 1 + size_len;
        let fault = |what: &str, found: usize| {
            Err(Error::invalid(format!(
                "image at {position} {what} after {found} of its {needed} codes"
            )))
        };
        let end = self.vocabulary.special().end_image;
        while len < self.blocks.block_len((height, width)) - 1 {
            let left = self.blocks.block_len((height, width)) - 1 - len;
            let mark = self.blocks.mark_at(left, (height, width));
            let code = block.get(len).and_then(|id| self.vocabulary.image_code(*id));
            match (block.get(len), code) {
                (Some(id), _) if Some(*id) == mark => {}
                (Some(_), Some(code)) if mark.is_none() => codes.push(code),
                (None, _) => return fault("is cut off", codes.len()),
                (Some(id), _) if Some(*id) == end => return fault("is closed", codes.len()),
                (Some(_), _) => return fault("holds a token that is no code", codes.len()),
            }
            len += 1;
        }
        match block.get(len) {
            Some(id) if Some(*id) == end => len += 1,
            Some(_) => return fault("goes on", codes.len()),
            None => {}
        }
        Ok((Codes { ids: codes, height, width }, len))
    }
}
