//! Conversion between images, text and token ids; the only module that knows what an id means.
//!
//! Text becomes ids by byte-level BPE ([`TextTokenizer`]), codes of images become ids by the names
//! of their tokens ([`Vocabulary`]), and [`Processor`] joins both into one sequence: `<s> text
//! <racm3:break> codes <eoss> text </s>` (Chameleon, arXiv 2405.09818, section 2). The [`template`]
//! language places images, values and separators in a text.

mod byte_level;
mod chat;
mod chat_template;
mod image_block;
mod processor;
mod segment;
mod stream;
pub mod template;
mod text;
mod token;
mod token_bytes;
mod train_bpe;
mod vocabulary;

pub use chat::{Role, Turn};
pub use chat_template::{Answers, ChatDocuments, ChatTemplate, Encoded, GUARD, MarkedIds};
pub(crate) use chat_template::{CallForm, ContentForm, Conversation};
pub use image_block::{CODES_PER_UNIT, ImageBlocks, PartialSize, SizeStep};
pub use processor::{EncodeOptions, Processor, TEXT_GRID};
pub use segment::{CodedSegment, Segment, TokenSequence};
pub use stream::{StreamDecoder, Utf8Stream};
pub use template::{PromptTemplates, Template};
pub use text::{RoleNames, TextTokenizer};
pub use token::{
    BEGIN_IMAGE_TOKEN, BOS_TOKEN, END_IMAGE_TOKEN, EOS_TOKEN, IMAGE_TOKEN, PAD_TOKEN, SEP_TOKEN,
    TokenClass, UNK_TOKEN, code_token, visual_token,
};
pub use token_bytes::TokenBytes;
pub use train_bpe::{BpeConfig, train_bpe};
pub use vocabulary::{SpecialIds, Vocabulary};
