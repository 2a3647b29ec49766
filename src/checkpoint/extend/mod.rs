//! Extending a text model by ids of images: new rows of embedding and output layer, and their names in the tokenizer.
//!
//! The ids follow all rows of the model, whose files may have more rows than names (Qwen3). Every old row and every
//! other tensor keeps its bytes, so the logits of the old ids keep their bits. Rows at the mean of the old ones raise the
//! loss of text by at most `ln(1 + new / named)` before any training, where `named` old rows have names, as the mean of
//! exponentials is at least the exponential of the mean. Source of the mean: FoundationVision/Liquid, `expand_vocabulary.py`.

mod plan;
mod rows;

use std::path::Path;

use serde_json::{Map, Value, json};
use vq_tokenizer::preprocess::PreprocessorConfig;

pub use plan::{Marker, MarkerNames, Plan};
pub use rows::RowInit;
use rows::{Offsets, extended};

use super::chat_template::TOKENIZER;
use super::config::config_from_json;
use super::convert::COPIED;
use super::directory::{require_directory, write_directory};
use super::manifest::{DOCUMENTS, Manifest};
use super::names::{GENERATION, VQ_DIR};
use super::source::{CODEBOOK, ImageTokenizer};
use super::stored::StoredTensors;
use super::tensors::{EMBEDDING, HEAD, is_of_transformer};
use super::text_model::{stop_ids, text_tokenizer};
use super::weight_files::{SHARD_SIZE, write_weights};
use crate::error::{Error, Result};
use crate::files::{copy, read_json, write_json};
use crate::generate::Preset;

/// How a text model is extended.
#[derive(Clone, Debug, Default)]
pub struct Extension {
    /// The names of the tokens around and for images; by default those that the tokenizer has, else new ones.
    pub markers: MarkerNames,
    /// Where the new rows begin.
    pub init: RowInit,
    /// Seed of the projection.
    pub seed: u64,
}

impl Extension {
    /// Writes the text model in `source`, extended by the image tokenizer in `vq`, to `dest`. One tensor is in memory
    /// at a time. Returns the new ids.
    ///
    /// # Errors
    /// Those of the files; [`Error::File`] if the model has codes of images already, and if the tokenizer cannot name
    /// the new ids; [`Error::Exists`]. Nothing is left behind then.
    pub fn run(&self, source: &Path, vq: &Path, dest: &Path) -> Result<Plan> {
        require_directory(source)?;
        if Manifest::read(source)?.is_some() {
            Manifest::verify(source)?;
        }
        let path = source.join("config.json");
        let mut config: Value = read_json(&path)?;
        let sizes = config_from_json(&config).map_err(Error::in_file(&path))?;
        let text = text_tokenizer(source, &config)?;
        if text.has_images() {
            return Err(Error::file(source, "has codes of images already"));
        }
        if sizes.qk_norm_share < 1.0 {
            let message =
                "norms of queries and keys are still being blended in; take a later checkpoint";
            return Err(Error::file(source, message));
        }
        let files = StoredTensors::open(source)?;
        let (image, image_files) = ImageTokenizer::open(vq)?;
        check_fits(&image, sizes.max_position_embeddings).map_err(Error::in_file(vq))?;
        let codes = image.config.num_embeddings;
        let plan = Plan::new(&text, sizes.vocab_size, codes, &self.markers)?;
        let tokenizer_path = source.join("tokenizer.json");
        let tokenizer = plan.tokenizer(read_json(&tokenizer_path)?);
        let tokenizer = tokenizer.map_err(Error::in_file(&tokenizer_path))?;
        let offsets = match self.init {
            RowInit::Mean => None,
            RowInit::Projected => {
                let codebook = image.codebook(&image_files).map_err(Error::in_file(vq))?;
                Some(Offsets::new(&codebook, sizes.hidden_size, self.seed)?)
            }
        };
        config["vocab_size"] = json!(plan.num_rows());
        write_directory(dest, |dir| {
            for name in COPIED.iter().chain(&DOCUMENTS) {
                let from = source.join(name);
                if from.is_file() {
                    copy(&from, &dir.join(name))?;
                }
            }
            write_json(&dir.join("config.json"), &config)?;
            write_json(&dir.join(GENERATION), &generation(source, &config)?)?;
            write_json(&dir.join("tokenizer.json"), &tokenizer)?;
            let path = source.join(TOKENIZER);
            let settings = if path.exists() { read_json(&path)? } else { Map::default() };
            write_json(&dir.join(TOKENIZER), &plan.with_roles(settings))?;
            image.write(&dir.join(VQ_DIR), &image_files, None)?;
            write_rows(dir, &files, &plan, offsets.as_ref())
        })?;
        Ok(plan)
    }
}

/// Checks that the images of `vq` have one size and as many codes as it says, and that the ids of one fit a context of
/// `context` ids.
fn check_fits(vq: &ImageTokenizer, context: usize) -> Result<()> {
    if vq.preprocessor.rule.has_sizes() {
        return Err(Error::invalid(
            "its images have any size; allowed: image tokenizers of one size",
        ));
    }
    let codes = vq.config.num_embeddings;
    let codebook = vq.tensors.iter().find(|(name, ..)| name == CODEBOOK);
    if let Some((_, _, shape)) = codebook.filter(|(_, _, shape)| shape.first() != Some(&codes)) {
        let message = format!("{CODEBOOK} has shape {shape:?}; its config.json says {codes} codes");
        return Err(Error::invalid(message));
    }
    let factor = vq.config.downsampling();
    let PreprocessorConfig { crop_height, crop_width, .. } = vq.preprocessor;
    let block = (crop_height / factor).saturating_mul(crop_width / factor).saturating_add(2);
    if block > context {
        let message = format!("an image takes {block} ids; the model's context has {context}");
        return Err(Error::invalid(message));
    }
    Ok(())
}

/// The content of the new `generation_config.json`: what that in `source` says, the prompts of an extended model, and
/// the ids that end an answer, which may be in `config`.
fn generation(source: &Path, config: &Value) -> Result<Map<String, Value>> {
    let path = source.join(GENERATION);
    let mut keys: Map<String, Value> =
        if path.exists() { read_json(&path)? } else { Map::default() };
    let stop = stop_ids(&Value::Object(keys.clone()), config);
    let extended = Preset::Extended.config();
    let mut own = extended.clone().changed_by_file(&keys).map_err(Error::in_file(&path))?;
    own.mode = extended.mode;
    keys.extend(Preset::Extended.to_json_with(&own));
    if !stop.is_empty() {
        keys.insert("eos_token_id".to_owned(), json!(stop));
    }
    Ok(keys)
}

/// Writes the tensors in `files` into `dir`, with the new rows of `plan`.
fn write_rows(
    dir: &Path,
    files: &StoredTensors,
    plan: &Plan,
    offsets: Option<&Offsets>,
) -> Result<()> {
    let has_rows = |name: &str| [EMBEDDING, HEAD].contains(&name);
    let mut infos = files.infos();
    infos.retain(|(name, ..)| is_of_transformer(name));
    for (name, _, shape) in &mut infos {
        if has_rows(name) {
            shape[0] = plan.num_rows();
        }
    }
    write_weights(dir, &infos, SHARD_SIZE, |name| {
        let tensor = files.stored(name)?;
        let tensor = match has_rows(name) {
            true => extended(tensor, plan, offsets)
                .map_err(Error::because(format_args!("tensor {name}")))?,
            false => tensor,
        };
        Ok(tensor.bytes)
    })
}
