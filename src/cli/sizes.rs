//! Parameters, memory and work, counted and written for people.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use calumma::model::ModelConfig;
use calumma::train::LanguageRecipe;
use tensor_files::ParamPath;

/// Bytes of an f32.
const FLOAT: f64 = 4.0;
/// Rows of logits that exist at one time.
const LOGIT_ROWS: usize = 1024;

/// The part of a model that a tensor belongs to, by its name.
pub fn part_of(name: &str) -> &'static str {
    const PARTS: [(&str, &str); 15] = [
        ("vqmodel.", "image tokenizer"),
        ("embed_tokens", "embedding"),
        ("lm_head", "output"),
        // The original release's names.
        ("tok_embeddings", "embedding"),
        ("output.", "output"),
        ("attention_norm", "norms"),
        ("attention.", "attention"),
        ("feed_forward", "feed-forward"),
        ("self_attn", "attention"),
        ("mlp", "feed-forward"),
        ("quantize.", "codebook"),
        ("quant_conv", "projections"),
        ("encoder.", "encoder"),
        ("decoder.", "decoder"),
        ("norm", "norms"),
    ];
    PARTS.iter().find(|(mark, _)| name.contains(mark)).map_or("other", |(_, part)| part)
}

/// Numbers of parameters by part.
pub type Parts = BTreeMap<&'static str, usize>;

/// The float parameters of `module` by part.
pub fn parameters<M: Module>(module: &M) -> Parts {
    let mut counter = Counter::default();
    module.visit(&mut counter);
    counter.parts
}

#[derive(Default)]
struct Counter {
    parts: Parts,
    path: ParamPath,
}

impl ModuleVisitor for Counter {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.path.exit(container_type);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let number: usize = param.val().dims().iter().product();
        *self.parts.entry(part_of(&self.path.name())).or_insert(0) += number;
    }
}

/// What a training run takes.
#[derive(Clone, Debug)]
pub struct TrainingCost {
    /// Parameters of the model.
    pub parameters: usize,
    /// Tokens of all batches, padding included.
    pub tokens: usize,
    /// Floating point operations of all steps.
    pub flops: f64,
    /// Memory at the peak of a step in bytes, by what it holds.
    pub memory: Vec<(&'static str, f64)>,
}

impl TrainingCost {
    /// Estimates the cost of `recipe` for a model of `parameters` weights, with matrix products on values
    /// of `value_bytes`.
    ///
    /// Operations: see [`ModelConfig::training_flops`], and one more forward pass with activation
    /// checkpointing. Memory: weights, gradients and two moments in f32; the activations that the
    /// backward pass needs of one batch, for each layer and token about 18 values per channel of the
    /// residual stream and 5 per channel of the feed-forward layer (scores are computed again), or with
    /// activation checkpointing one value per channel and those of one layer; 1,024 rows of logits with
    /// their gradient.
    pub fn of(
        recipe: &LanguageRecipe,
        config: &ModelConfig,
        parameters: usize,
        value_bytes: f64,
    ) -> Self {
        let seq = recipe.batch.seq_len;
        let batch = recipe.batch.sequences * seq;
        let tokens = batch * recipe.batch.accumulate * recipe.run.steps;
        let recomputed = recipe.batch.activation_checkpointing;
        let passes = if recomputed { 4.0 / 3.0 } else { 1.0 };
        let flops = tokens as f64 * config.training_flops(seq) * passes;
        let hidden = config.hidden_size as f64;
        let of_layer = 18.0 * hidden + 5.0 * config.intermediate_size as f64;
        let layers = config.num_hidden_layers as f64;
        let kept = if recomputed { layers * hidden + of_layer } else { layers * of_layer };
        let weights = FLOAT * parameters as f64;
        let rows = batch.min(LOGIT_ROWS) as f64;
        let averages = if recipe.average.decay > 0.0 { weights } else { 0.0 };
        let memory = vec![
            ("weights", weights),
            ("gradients", weights),
            ("optimizer", 2.0 * weights),
            ("averages", averages),
            ("activations", value_bytes * batch as f64 * kept),
            ("logits", 2.0 * FLOAT * rows * config.vocab_size as f64),
        ];
        Self { parameters, tokens, flops, memory }
    }

    /// All of the memory in bytes.
    pub fn memory_bytes(&self) -> f64 {
        self.memory.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// A count in thousands, millions and so on.
pub fn count(number: f64) -> String {
    scaled(number, 1000.0, &["", " thousand", " million", " billion", " trillion"])
}

/// A size in KiB, MiB and so on.
pub fn bytes(number: f64) -> String {
    scaled(number, 1024.0, &[" bytes", " KiB", " MiB", " GiB", " TiB"])
}

/// Reads a number of bytes: a number, then nothing, KB, MB or GB (thousands, as Hugging Face counts).
///
/// # Errors
/// What is allowed, when `text` is none.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let unit = match text[at..].trim().to_ascii_uppercase().as_str() {
        "" | "B" => 1.0,
        "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        _ => f64::NAN,
    };
    let bytes = text[..at].parse::<f64>().unwrap_or(f64::NAN) * unit;
    match bytes >= 1.0 && bytes < u64::MAX as f64 {
        true => Ok(bytes as u64),
        false => Err("expected a size such as 5GB, 900MB or 100000".to_owned()),
    }
}

/// A length of time in seconds, minutes, hours or days.
pub fn time(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.1} seconds"),
        s if s < 7200.0 => format!("{:.1} minutes", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} hours", s / 3600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}

fn scaled(mut number: f64, base: f64, units: &[&str]) -> String {
    let mut unit = 0;
    while number >= base && unit + 1 < units.len() {
        number /= base;
        unit += 1;
    }
    if unit == 0 {
        format!("{number:.0}{}", units[0])
    } else {
        format!("{number:.1}{}", units[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_scaled_for_reading() {
        assert_eq!(count(999.0), "999");
        assert_eq!(count(5_430_000.0), "5.4 million");
        assert_eq!(bytes(512.0), "512 bytes");
        assert_eq!(bytes(1536.0), "1.5 KiB");
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, size) in [("5GB", 5_000_000_000), ("1.5 kb", 1500), ("77", 77)] {
            assert_eq!(parse_bytes(text), Ok(size));
        }
        for text in ["", "GB", "0", "-3GB", "5 GiB", "1.2.3MB"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn tensors_belong_to_the_part_that_their_name_says() {
        for (name, part) in [
            ("model.embed_tokens.weight", "embedding"),
            ("model.layers.0.self_attn.q_norm.weight", "attention"),
            ("model.layers.3.mlp.up_proj.weight", "feed-forward"),
            ("model.layers.3.input_layernorm.weight", "norms"),
            ("model.norm.weight", "norms"),
            ("lm_head.weight", "output"),
            ("encoder.down.0.block.0.norm1.weight", "encoder"),
            ("quantize.embedding.weight", "codebook"),
            ("post_quant_conv.bias", "projections"),
        ] {
            assert_eq!(part_of(name), part, "{name}");
        }
    }
}
