//! What the classes of `transformers` ask of a checkpoint beyond this project's own reader.
//!
//! Source: `models/chameleon/modeling_chameleon.py` and `configuration_chameleon.py` of version 5.24.

use std::path::Path;

use serde_json::{Map, Value, json};
use vq_tokenizer::{Architecture, NORM_GROUPS, VqConfig};

use super::emu3::is_emu3;
use super::names::VQ_DIR;
use super::source::ImageTokenizer;
use super::text_model::text_tokenizer;
use crate::error::{Error, Result};
use crate::tokenize::Vocabulary;

/// Warning for image tokenizers that transformers does not support.
const OTHER_CODES: &str = "this image tokenizer has other norm_groups, attention or another quantizer than \
    the releases; transformers ignores them and gives images other codes, text is the same";

/// Warning for checkpoints without an image tokenizer.
const NO_CODES: &str = "the checkpoint has no image tokenizer; transformers makes one with random weights, \
    text is the same";

/// Checks that the class of the `config.json` `json` can be built with the image tokenizer `vq` of the checkpoint in
/// `source`.
///
/// # Errors
/// [`Error::File`] if the channels of a level are not a multiple of the 32 groups of its norms, or the tokenizer is
/// Emu3's and the checkpoint none of its releases: the layers for videos are lost then.
pub(super) fn check_opens(source: &Path, json: &Value, vq: &ImageTokenizer) -> Result<()> {
    let is_whole = vq.tensors.iter().any(|(name, ..)| name == "quant_conv.conv.weight");
    if vq.config.architecture == Architecture::Emu3 && !(is_whole && is_emu3(json)) {
        let message = "the image tokenizer is Emu3's without its layers for videos, or beside a model of another \
            model_type; transformers opens neither; export it without --layout hf";
        return Err(Error::file(source, message));
    }
    check_groups(source, &vq.config)
}

fn check_groups(source: &Path, config: &VqConfig) -> Result<()> {
    let base = config.base_channels;
    let levels = config
        .channel_multiplier
        .iter()
        .map(|multiplier| (multiplier, multiplier.saturating_mul(base)));
    let mut levels = std::iter::once((&1, base)).chain(levels);
    let Some((multiplier, width)) = levels.find(|(_, width)| !width.is_multiple_of(NORM_GROUPS))
    else {
        return Ok(());
    };
    let own = source.join(VQ_DIR).join("config.json");
    let path = if own.is_file() { own } else { source.join("config.json") };
    let message = format!(
        "base_channels {base} times channel_multiplier {multiplier} is {width} channels; transformers \
         normalises {NORM_GROUPS} groups of them and opens image tokenizers with a multiple of {NORM_GROUPS} \
         channels in every level only; export it without --layout hf"
    );
    Err(Error::file(&path, message))
}

/// What transformers will compute otherwise with the image tokenizer `config`; `None` if nothing.
pub(super) fn difference(config: Option<&VqConfig>) -> Option<&'static str> {
    let Some(config) = config else { return Some(NO_CODES) };
    let attends = config.attn_resolutions.as_ref().is_some_and(|sides| !sides.is_empty());
    let differs = config.norm_groups != NORM_GROUPS
        || !config.quantizer.is_default()
        // Only vanilla attention is built in the levels there.
        || attends && config.attn_type != "vanilla";
    differs.then_some(OTHER_CODES)
}

/// Adds to `config`, the `config.json` of the checkpoint in `source`, the names of the ids, without which
/// transformers builds no model.
///
/// # Errors
/// Those of `tokenizer.json`, if it is needed.
pub(super) fn add_vocabulary(config: &mut Value, source: &Path) -> Result<()> {
    let whole = config.clone();
    if let Some(keys) = config.as_object_mut()
        && keys.get("vocabulary_map").is_none_or(Value::is_null)
    {
        let text = text_tokenizer(source, &whole)?;
        keys.insert("vocabulary_map".to_owned(), vocabulary_map(&text.vocabulary()?));
    }
    Ok(())
}

/// The ids by name.
pub(super) fn vocabulary_map(vocabulary: &Vocabulary) -> Value {
    let ids = vocabulary.names().iter().zip(0_u32..);
    Value::Object(ids.map(|(name, id)| (name.clone(), json!(id))).collect::<Map<_, _>>())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn image_tokenizers_that_transformers_cannot_build_are_refused_with_the_reason() {
        let source = Path::new("checkpoint");
        for (base, multipliers, refused) in [
            (128, vec![1, 1, 2, 2, 4], None),
            (32, vec![1], None),
            (64, vec![1, 3], None),
            (16, vec![1, 2], Some("channel_multiplier 1 is 16 channels")),
            // The first convolution has the base's channels, whatever the first level's are.
            (16, vec![2, 4], Some("channel_multiplier 1 is 16 channels")),
            (48, vec![2], Some("channel_multiplier 1 is 48 channels")),
        ] {
            let config = VqConfig {
                base_channels: base,
                channel_multiplier: multipliers,
                norm_groups: 4,
                ..VqConfig::default()
            };
            let message = check_groups(source, &config).err().map(|error| error.to_string());
            assert_eq!(message.is_some(), refused.is_some(), "{message:?}");
            if let (Some(message), Some(refused)) = (message, refused) {
                assert!(message.contains(refused), "{message}");
                assert!(message.contains("multiple of 32") && message.contains("config.json"));
            }
        }
    }

    #[test]
    fn what_transformers_computes_otherwise_is_said() {
        let release = VqConfig { attn_resolutions: Some(vec![16]), ..VqConfig::default() };
        assert_eq!(difference(Some(&release)), None);
        assert_eq!(difference(None), Some(NO_CODES));
        let without = VqConfig { attn_type: "none".to_owned(), ..release.clone() };
        assert_eq!(difference(Some(&without)), Some(OTHER_CODES));
        assert_eq!(difference(Some(&VqConfig { norm_groups: 16, ..release })), Some(OTHER_CODES));
    }
}
