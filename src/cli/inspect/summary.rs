//! The summary of a language model, for files in any layout.

use std::path::Path;

use calumma::Result;
use calumma::model::ModelConfig;
use calumma::tokenize::Vocabulary;
use serde_json::{Value, json};

use super::tensors::{self, Tensor};
use crate::cli::session::{Session, name};
use crate::cli::sizes;

/// Bytes of an f32.
const FLOAT: usize = 4;

/// The properties of a language model.
pub struct Summary<'a> {
    /// `checkpoint` or `release`.
    pub kind: &'a str,
    /// The layout of its files, as text.
    pub layout: &'a str,
    /// The sizes of the model.
    pub config: &'a ModelConfig,
    /// The vocabulary of its tokenizer.
    pub vocabulary: Vocabulary,
    /// The file of its chat template, if it has one.
    pub chat_template: Option<String>,
    /// Tensors of the language model.
    pub lm_tensors: Vec<Tensor>,
    /// Tensors of the image tokenizer; empty without one.
    pub vq_tensors: Vec<Tensor>,
    /// Number and state of its files, as text.
    pub files: &'a str,
    /// A line to print last.
    pub more: Option<&'a str>,
}

impl Summary<'_> {
    /// Prints the summary of the model in `dir`.
    ///
    /// # Errors
    /// Those of the output.
    pub fn show(&self, dir: &Path, resumable: bool, session: &Session) -> Result<()> {
        self.print(dir, session)?;
        session.object(&self.json(dir, resumable))
    }

    fn reads_images(&self) -> bool {
        !self.vq_tensors.is_empty()
    }

    fn draws(&self) -> bool {
        self.vq_tensors.iter().any(|tensor| tensor.name.contains("decoder."))
    }

    /// Bytes of the weights and of the cache of a full context, with values of `value_bytes`. The image
    /// tokenizer is always f32.
    fn memory(&self, value_bytes: usize) -> (usize, usize) {
        let num_values = |tensors: &[Tensor]| tensors.iter().map(Tensor::len).sum::<usize>();
        let weights =
            value_bytes * num_values(&self.lm_tensors) + FLOAT * num_values(&self.vq_tensors);
        let (of_token, _) = sizes::cache_of_token(self.config, value_bytes);
        (weights, of_token * self.config.max_position_embeddings)
    }

    fn print(&self, dir: &Path, session: &Session) -> Result<()> {
        let modalities = match (self.reads_images(), self.draws()) {
            (true, true) => "text and images, in and out",
            (true, false) => {
                "text in and out, images in; `import --vqgan` adds the decoder that draws"
            }
            (false, _) => "text only: there is no image tokenizer",
        };
        session.line(format_args!("{}: {}", dir.display(), self.kind))?;
        session.line(format_args!("  layout     {}", self.layout))?;
        session.line(format_args!("  modalities {modalities}"))?;
        session.line(sizes_in_words(self.config))?;
        let (ids, codes) = (self.vocabulary.len(), self.vocabulary.num_codes());
        session.line(format_args!("  vocabulary {ids} ids, {codes} of them image codes"))?;
        let chat = match &self.chat_template {
            Some(file) => format!("by the template in {file}"),
            None => "in the layout of training, without a template".to_owned(),
        };
        session.line(format_args!("  chat       {chat}"))?;
        tensors::show_parameters(&self.lm_tensors, session)?;
        if self.reads_images() {
            session.line("  and of the image tokenizer")?;
            tensors::show_parameters(&self.vq_tensors, session)?;
        }
        for (precision, value_bytes) in [("f32", FLOAT), ("bf16", FLOAT / 2)] {
            let (weights, cache) = self.memory(value_bytes);
            let (weights, cache) = (sizes::bytes(weights as f64), sizes::bytes(cache as f64));
            session.line(format_args!(
                "  memory     {weights} of weights in {precision}, {cache} for a full context"
            ))?;
        }
        let cache = sizes::cache_in_words(self.config, FLOAT);
        session.line(format_args!("  cache      {cache} in f32"))?;
        session.line(format_args!("  files      {}", self.files))?;
        self.more.map_or(Ok(()), |more| session.line(format_args!("  {more}")))
    }

    fn json(&self, dir: &Path, resumable: bool) -> Value {
        let (weights_bytes, cache_bytes) = self.memory(FLOAT);
        json!({
            "kind": self.kind,
            "path": name(dir),
            "layout": self.layout,
            "config": self.config,
            "modalities": if self.reads_images() { vec!["text", "image"] } else { vec!["text"] },
            "draws": self.draws(),
            "vocabulary": self.vocabulary.len(),
            "codes": self.vocabulary.num_codes(),
            "chat_template": self.chat_template,
            "parameters": tensors::parts(&self.lm_tensors),
            "vq_parameters": tensors::parts(&self.vq_tensors),
            "dtype": tensors::dtypes(&self.lm_tensors),
            "vq_dtype": tensors::dtypes(&self.vq_tensors),
            "weights_bytes": weights_bytes,
            "weights_bytes_bf16": self.memory(FLOAT / 2).0,
            "cache_bytes": cache_bytes,
            "cache": sizes::cache_as_json(self.config, FLOAT),
            "files": self.files,
            "resumable": resumable,
        })
    }
}

fn sizes_in_words(config: &ModelConfig) -> String {
    let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
    let heads = match &config.latent {
        Some(latent) => format!("{heads} heads over a latent of {}", latent.kv_lora_rank),
        None if heads == kv_heads => format!("{heads} heads"),
        None => format!("{heads} heads over {kv_heads} keys and values"),
    };
    format!(
        "  sizes      {} layers of {} channels, {heads}, feed-forward {}, context {}",
        config.num_hidden_layers,
        config.hidden_size,
        config.intermediate_size,
        config.max_position_embeddings
    )
}
