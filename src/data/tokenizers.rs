//! The tokenizers that a recipe names.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use vq_tokenizer::VqTokenizer;
use vq_tokenizer::preprocess::Rule;

use crate::checkpoint::{Manifest, VQ_DIR, chat_template, image_tokenizer, processor};
use crate::error::{Error, Result};
use crate::files::hex;
use crate::tokenize::{ImageBlocks, Processor, TEXT_GRID, TextTokenizer};

/// The tokenizers that turn documents into ids.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerConfig {
    /// Directory of an image tokenizer, or of a checkpoint that has one, also among its model's tensors.
    pub checkpoint: PathBuf,
    /// A `tokenizer.json` of `bpe train`; the one in `checkpoint` if absent.
    pub text: Option<PathBuf>,
}

impl TokenizerConfig {
    /// The directory of the image tokenizer.
    pub fn image_dir(&self) -> PathBuf {
        image_dir(&self.checkpoint)
    }

    /// The file of the text tokenizer.
    pub fn text_path(&self) -> PathBuf {
        self.text.clone().unwrap_or_else(|| self.checkpoint.join("tokenizer.json"))
    }

    /// The processor, with the chat template beside the text tokenizer if there is one, the image tokenizer on `device`,
    /// and a digest of the image tokenizer; neither for a text model.
    ///
    /// # Errors
    /// Those of the files; if the number of image tokens is not the number of codes, or sizes of flexible
    /// images have no tokens.
    pub fn open(&self, device: &Device) -> Result<(Processor, Option<VqTokenizer>, String)> {
        let text = TextTokenizer::load(&self.text_path())?;
        match &self.text {
            Some(path) if !text.names_tell_roles() => {
                let message = "does not name the roles of its tokens; name the directory of its model as checkpoint";
                return Err(Error::file(path, message));
            }
            None if !text.has_images() => {
                let processor = processor(&self.checkpoint, TEXT_GRID)?;
                return Ok((processor, None, "text".to_owned()));
            }
            _ => {}
        }
        let (vq, digest) = self.open_images(device)?;
        let processor = match &self.text {
            None => processor(&self.checkpoint, vq.grid())?,
            Some(path) => {
                let template = path.parent().map_or(Ok(None), chat_template)?;
                Processor::new(text, vq.grid())?.with_chat_template(template)
            }
        };
        let (names, codes) = (processor.vocabulary().num_codes(), vq.config().num_embeddings);
        if names != codes {
            let message =
                format!("{names} image tokens, but the image tokenizer has {codes} codes");
            return Err(Error::file(&self.text_path(), message));
        }
        match vq.preprocessor().rule {
            Rule::Flexible => Ok((self.sized(processor, &vq)?, Some(vq), digest)),
            Rule::Emu3 if !processor.text().sizes_images_in_digits() => {
                let message = "lacks Emu3's tokens for images of any size, as <|image token|>";
                Err(Error::file(&self.text_path(), message))
            }
            Rule::Emu3 => Ok((processor.sized()?, Some(vq), digest)),
            Rule::HuggingFace | Rule::Original => Ok((processor, Some(vq), digest)),
        }
    }

    /// The image tokenizer on `device`, and a digest of what it consists of.
    fn open_images(&self, device: &Device) -> Result<(VqTokenizer, String)> {
        let dir = self.image_dir();
        if dir.join("tokenizer.json").exists() {
            // A published model has both among its tensors; else this is an image tokenizer with a text tokenizer beside it.
            if let Some(vq) = image_tokenizer(&dir, device)? {
                let digest = digest(&vq);
                return Ok((vq, digest));
            }
        }
        let vq = VqTokenizer::load(&dir, device)?;
        Ok((vq, Manifest::of(&dir)?.digest()))
    }

    /// `processor` for the images of `vq`, which have any aspect ratio and a header with their size.
    fn sized(&self, processor: Processor, vq: &VqTokenizer) -> Result<Processor> {
        let longest = vq.preprocessor().longest_side() / vq.config().downsampling();
        let processor = processor.sized();
        let found = processor.as_ref().map_or(0, |processor| processor.blocks().longest_side());
        if found >= longest {
            return processor;
        }
        let needed = ImageBlocks::reserved_for(longest);
        Err(Error::file(
            &self.text_path(),
            format!(
                "can name sides of images up to {found} codes, the image tokenizer's images have up to \
                 {longest}; train it with a bpe.num_reserved of at least {needed}"
            ),
        ))
    }
}

/// A digest of settings and weights of `vq`.
fn digest(vq: &VqTokenizer) -> String {
    let mut digest = Sha256::new();
    digest.update(json!([vq.config(), vq.preprocessor()]).to_string());
    for (name, tensor) in tensor_files::collect(vq.model()) {
        digest.update(name);
        digest.update(&tensor.bytes()[..]);
    }
    hex(&digest.finalize())
}

/// The directory of the image tokenizer in the checkpoint `dir`, or `dir` itself if it is one.
pub(crate) fn image_dir(dir: &Path) -> PathBuf {
    let nested = dir.join(VQ_DIR);
    if nested.is_dir() { nested } else { dir.to_owned() }
}
