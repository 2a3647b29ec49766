//! Training of a byte-level BPE vocabulary with ids for images and control tokens.
//!
//! The layout is the original release's: `<s>`, `<pad>`, `</s>`, `<unk>` are 0 to 3, the codes follow
//! from 4, then `<eoss>`, `<racm3:break>`, reserved names (the separator and `<image>` among them),
//! 256 bytes and the learned tokens. Text is split as is publicly known of the release: runs of
//! blanks, single digits and single punctuation marks are separate, words follow GPT-2's rule.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::normalizer::SplitDelimiterBehavior;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::punctuation::Punctuation;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::template::{SpecialToken, TemplateProcessing, Tokens};
use tokenizers::{
    AddedToken, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
    PreTokenizerWrapper, Tokenizer, Trainer,
};

use super::text::TextTokenizer;
use super::token::{
    BEGIN_IMAGE_TOKEN, BOS_TOKEN, CODE_PREFIX, END_IMAGE_TOKEN, EOS_TOKEN, IMAGE_TOKEN, PAD_TOKEN,
    UNK_TOKEN, code_token,
};
use crate::error::{Error, Result};

/// The number in the first reserved name; the third one is the separator.
pub(super) const FIRST_RESERVED: usize = 8704;
/// The number of the reserved name that `<image>` replaces.
const IMAGE_RESERVED: usize = 8707;
/// Blanks that are split from words.
const BLANKS: &str = "([\\t\\n]|    |  )";

/// The sizes of a vocabulary to be trained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BpeConfig {
    /// The exact number of ids, whatever the corpus yields.
    pub vocab_size: usize,
    /// The number of codes of the image tokenizer; 0 for the tokenizer of a text model, which has neither image marks
    /// nor reserved names.
    pub num_codes: usize,
    /// The number of reserved control names, at least 4; the separator and `<image>` are two of them.
    /// Images of any aspect ratio need 97, and one for every two codes of the longest side.
    pub num_reserved: usize,
    /// How often a pair must occur to be merged.
    pub min_frequency: u64,
    /// The longest learned token in bytes; unlimited if absent.
    pub max_token_length: Option<usize>,
}

impl Default for BpeConfig {
    /// 4096 ids for 1024 codes, 16 reserved names, pairs that occur twice.
    fn default() -> Self {
        Self {
            vocab_size: 4096,
            num_codes: 1024,
            num_reserved: 16,
            min_frequency: 2,
            max_token_length: None,
        }
    }
}

impl BpeConfig {
    /// The number of ids below the first learned token: control, codes, reserved, bytes.
    fn num_fixed(&self) -> usize {
        self.reserved_names().len() + 256
    }

    /// Checks the sizes against each other.
    ///
    /// # Errors
    /// If a field is out of its range.
    pub fn validate(&self) -> Result<()> {
        let invalid = |message: String| Err(Error::invalid(message));
        if self.num_codes > 1 << 20 {
            return invalid(format!("num_codes is {}, allowed are 0 to 1048576", self.num_codes));
        }
        // Reserved names have five digits, those at the end of the vocabulary included.
        if !(4..=1024).contains(&self.num_reserved) {
            return invalid(format!(
                "num_reserved is {}, allowed are 4 to 1024",
                self.num_reserved
            ));
        }
        if self.vocab_size < self.num_fixed() || self.vocab_size > 1 << 22 {
            return invalid(format!(
                "vocab_size is {}, allowed are {} (4 control tokens, {} codes, 2 image marks, {} \
                 reserved names, 256 bytes) to 4194304",
                self.vocab_size,
                self.num_fixed(),
                self.num_codes,
                self.num_reserved
            ));
        }
        if self.max_token_length.is_some_and(|length| length < 2) {
            return invalid("max_token_length is below 2, so nothing could be learned".to_owned());
        }
        Ok(())
    }

    /// The names with fixed ids, in the order of their ids.
    fn reserved_names(&self) -> Vec<String> {
        let mut names = [BOS_TOKEN, PAD_TOKEN, EOS_TOKEN, UNK_TOKEN].map(str::to_owned).to_vec();
        if self.num_codes == 0 {
            return names;
        }
        names.extend((0u32..).take(self.num_codes).map(code_token));
        names.extend([END_IMAGE_TOKEN, BEGIN_IMAGE_TOKEN].map(str::to_owned));
        names.extend((0..self.num_reserved).map(reserved_name));
        names
    }
}

/// The reserved name with this index.
fn reserved_name(index: usize) -> String {
    match FIRST_RESERVED + index {
        IMAGE_RESERVED => IMAGE_TOKEN.to_owned(),
        number => format!("<reserved{number:05}>"),
    }
}

/// Learns a text tokenizer from `texts`.
///
/// The result has exactly `config.vocab_size` ids: if the corpus yields fewer merges, reserved names
/// fill the rest. It prepends `<s>` in [`TextTokenizer::encode_with_specials`] and works in
/// Hugging Face `tokenizers` as well. The same texts give the same tokenizer, byte by byte.
///
/// # Errors
/// If a field of `config` is out of its range.
pub fn train_bpe<T, I>(config: &BpeConfig, texts: I) -> Result<TextTokenizer>
where
    T: AsRef<str> + Send,
    I: IntoIterator<Item = T>,
    I::IntoIter: Send,
{
    config.validate()?;
    learn(config, texts.into_iter())
        .map_err(Error::because("bpe training"))
        .and_then(TextTokenizer::new)
}

fn learn<T: AsRef<str> + Send>(
    config: &BpeConfig,
    texts: impl Iterator<Item = T> + Send,
) -> tokenizers::Result<Tokenizer> {
    let splitting = splitting()?;
    let control: Vec<AddedToken> = config.reserved_names().into_iter().map(control).collect();
    let mut trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(config.vocab_size)
        .min_frequency(config.min_frequency)
        .max_token_length(config.max_token_length)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect::<HashSet<char>>())
        .special_tokens(control.clone())
        .build();
    trainer.feed(texts, |text| words(&splitting, text))?;
    let mut model = BPE::default();
    trainer.train(&mut model)?;
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(splitting));
    tokenizer.with_decoder(Some(ByteLevel::new(true, true, true)));
    tokenizer.with_post_processor(Some(bos_template()?));
    let learned = tokenizer.get_vocab_size(false);
    let filling = config.num_reserved..config.num_reserved + (config.vocab_size - learned);
    let filling = filling.map(reserved_name).map(self::control);
    tokenizer.add_special_tokens(control.into_iter().chain(filling))?;
    Ok(tokenizer)
}

fn control(name: String) -> AddedToken {
    AddedToken::from(name, true)
}

/// How text is split before merging; merges never cross a split.
fn splitting() -> tokenizers::Result<PreTokenizerWrapper> {
    let blanks = SplitPattern::Regex(BLANKS.to_owned());
    Ok(Sequence::new(vec![
        Split::new(blanks, SplitDelimiterBehavior::Isolated, false)?.into(),
        Digits::new(true).into(),
        Punctuation::new(SplitDelimiterBehavior::Isolated).into(),
        ByteLevel::new(false, true, true).into(),
    ])
    .into())
}

/// The words of `text` that merges are learned from, in byte-level characters. Words that contain
/// the name of an image token are skipped: a merge that spelled it would take that token's id.
/// Names of control tokens cannot be learned, as their brackets are split off.
fn words(splitting: &PreTokenizerWrapper, text: &str) -> tokenizers::Result<Vec<String>> {
    let mut pieces = PreTokenizedString::from(text);
    splitting.pre_tokenize(&mut pieces)?;
    let pieces = pieces.get_splits(OffsetReferential::Normalized, OffsetType::None);
    Ok(pieces
        .into_iter()
        .map(|(piece, _, _)| piece)
        .filter(|piece| !piece.contains(CODE_PREFIX))
        .map(str::to_owned)
        .collect())
}

/// `<s>` before the text.
fn bos_template() -> tokenizers::Result<TemplateProcessing> {
    let bos = SpecialToken::new(BOS_TOKEN.to_owned(), vec![0], vec![BOS_TOKEN.to_owned()])?;
    let template = TemplateProcessing::builder()
        .try_single(format!("{BOS_TOKEN} $A"))?
        .try_pair(format!("{BOS_TOKEN} $A {BOS_TOKEN} $B"))?
        .special_tokens(Tokens::from(vec![bos]))
        .build()?;
    Ok(template)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::tokenize::RoleNames;

    #[test]
    fn names_with_fixed_ids_follow_the_release() {
        let config = BpeConfig { num_codes: 3, ..BpeConfig::default() };
        let names = config.reserved_names();
        let expected = ["<s>", "<pad>", "</s>", "<unk>", "IMGIMGAZ", "IMGIMGBZ", "IMGIMGCZ"];
        assert_eq!(names[..7], expected);
        let expected = ["<eoss>", "<racm3:break>", "<reserved08704>", "<reserved08705>"];
        assert_eq!(names[7..11], expected);
        assert_eq!(names[11..14], ["<reserved08706>", "<image>", "<reserved08708>"]);
        assert_eq!(names.len() + 256, config.num_fixed());
    }

    #[test]
    fn a_tokenizer_without_codes_is_that_of_a_text_model() {
        let config = BpeConfig { num_codes: 0, vocab_size: 300, ..BpeConfig::default() };
        let text = train_bpe(&config, ["a red circle", "a red square"]).unwrap();
        assert_eq!((text.vocab_size(), text.has_images()), (300, false));
        let names = RoleNames {
            eos: EOS_TOKEN.to_owned(),
            pad: Some(PAD_TOKEN.to_owned()),
            ..RoleNames::default()
        };
        let text = text.with_roles(&names).unwrap();
        let special = *text.vocabulary().unwrap().special();
        assert_eq!((special.bos, special.eos, special.pad), (Some(0), 2, 1));
        let ids = text.encode_plain("a red <s>").unwrap();
        assert_eq!(text.decode(&ids).unwrap(), "a red <s>");
    }

    #[test]
    fn sizes_out_of_range_are_errors() {
        let ok = BpeConfig { num_codes: 16, vocab_size: 294, ..BpeConfig::default() };
        ok.validate().unwrap();
        let error = BpeConfig { vocab_size: 293, ..ok.clone() }.validate().unwrap_err();
        assert!(error.to_string().starts_with("vocab_size is 293, allowed are 294 ("));
        assert!(BpeConfig { num_codes: 2 << 20, ..ok.clone() }.validate().is_err());
        assert!(BpeConfig { num_reserved: 3, ..ok.clone() }.validate().is_err());
        assert!(BpeConfig { max_token_length: Some(1), ..ok }.validate().is_err());
        assert!(serde_json::from_str::<BpeConfig>(r#"{"vocab": 5}"#).is_err());
    }
}
