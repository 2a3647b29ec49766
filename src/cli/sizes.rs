//! Parameters, memory and work, counted and written for people.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use calumma::model::ModelConfig;
use calumma::train::LanguageRecipe;
use vq_tokenizer::weights::ParamPath;

/// Bytes of an f32.
const FLOAT: f64 = 4.0;

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
#[derive(Clone, Copy, Debug)]
pub struct TrainingCost {
    /// Parameters of the model.
    pub parameters: usize,
    /// Tokens of all batches, padding included.
    pub tokens: usize,
    /// Floating point operations of all steps.
    pub flops: f64,
    /// Memory at the peak of a step.
    pub memory_bytes: f64,
}

impl TrainingCost {
    /// Estimates the cost of `recipe`.
    ///
    /// Operations: 6 per token and weight of a matrix product, 12 per token, layer, channel and
    /// key for attention (PaLM, arXiv 2204.02311, appendix B). Memory: weights, gradients and two
    /// moments in f32; the activations that the backward pass needs of one batch, attention
    /// scores included; and logits with their gradient.
    pub fn of(recipe: &LanguageRecipe, config: &ModelConfig, parts: &Parts) -> Self {
        let parameters: usize = parts.values().sum();
        let batch = recipe.batch.sequences * recipe.batch.seq_len;
        let tokens = batch * recipe.batch.accumulate * recipe.run.steps;
        let (hidden, layers) = (config.hidden_size as f64, config.num_hidden_layers as f64);
        let (vocab, seq) = (config.vocab_size as f64, recipe.batch.seq_len as f64);
        let looked_up = if config.tie_word_embeddings { 0.0 } else { vocab * hidden };
        let multiplied = parameters as f64 - looked_up;
        let flops = tokens as f64 * (6.0 * multiplied + 12.0 * layers * hidden * seq);
        // Per token and layer: about 18 values per channel of the residual stream, 5 per channel
        // of the feed-forward layer, and scores before, in and after the softmax.
        let kept = 18.0 * hidden
            + 5.0 * config.intermediate_size as f64
            + 4.0 * config.num_attention_heads as f64 * seq;
        let activations = batch as f64 * (layers * kept + 4.0 * vocab);
        let memory_bytes = FLOAT * (4.0 * parameters as f64 + activations);
        Self { parameters, tokens, flops, memory_bytes }
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
