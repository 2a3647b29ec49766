//! Parameter counts, and numbers formatted for people.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use calumma::model::ModelConfig;
use serde_json::{Value, json};
use tensor_files::ParamPath;

/// The part of a model that the tensor called `name` belongs to.
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

/// Parameter counts by part.
pub type Parts = BTreeMap<&'static str, usize>;

/// The parameter counts of `module` by part.
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

/// Bytes of the cache for a token in values of `value_bytes`; with latent attention beside the key and value heads of
/// grouped queries and the bytes that those would take.
pub fn cache_of_token(config: &ModelConfig, value_bytes: usize) -> (usize, Option<(usize, usize)>) {
    let bytes = |numbers: usize| config.num_hidden_layers * numbers * value_bytes;
    let grouped = config.latent.as_ref().map(|latent| {
        let (kv_heads, numbers) = latent.grouped(config.num_attention_heads);
        (kv_heads, bytes(numbers))
    });
    (bytes(config.cached()), grouped)
}

/// [`cache_of_token`] in words.
pub fn cache_in_words(config: &ModelConfig, value_bytes: usize) -> String {
    let (of_token, grouped) = cache_of_token(config, value_bytes);
    let beside = grouped.map_or(String::new(), |(kv_heads, of_grouped)| {
        format!(
            "; {heads} heads over {kv_heads} keys and values would take {}",
            bytes(of_grouped as f64),
            heads = config.num_attention_heads
        )
    });
    format!("{} for a token{beside}", bytes(of_token as f64))
}

/// [`cache_of_token`] as JSON.
pub fn cache_as_json(config: &ModelConfig, value_bytes: usize) -> Value {
    let (of_token, grouped) = cache_of_token(config, value_bytes);
    let grouped = grouped.map(|(kv_heads, of_grouped)| {
        json!({ "num_key_value_heads": kv_heads, "token_bytes": of_grouped })
    });
    json!({ "token_bytes": of_token, "grouped_queries": grouped })
}

/// A count in thousands, millions and so on, such as `5.4 million`.
pub fn count(number: f64) -> String {
    scaled(number, 1000.0, &["", " thousand", " million", " billion", " trillion"])
}

/// A size in KiB, MiB and so on, such as `1.5 KiB`.
pub fn bytes(number: f64) -> String {
    scaled(number, 1024.0, &[" bytes", " KiB", " MiB", " GiB", " TiB"])
}

/// Parses a size: a number of bytes, or a number with KB, MB or GB (powers of 1000, as in Hugging Face).
///
/// # Errors
/// A description of the format, if `text` is not a size.
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

/// A duration in seconds, minutes, hours or days.
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
    use calumma::model::LatentConfig;

    use super::*;

    /// DeepSeek-V3 (arXiv 2412.19437 section 4.2), and Chameleon 7B.
    #[test]
    fn a_latent_is_compared_with_grouped_queries() {
        let latent = LatentConfig {
            q_lora_rank: Some(1536),
            kv_lora_rank: 512,
            qk_nope_head_dim: 128,
            qk_rope_head_dim: 64,
            v_head_dim: 128,
        };
        let of = |heads, latent: Option<&LatentConfig>| ModelConfig {
            num_hidden_layers: 61,
            num_attention_heads: heads,
            latent: latent.cloned(),
            ..ModelConfig::default()
        };
        let found = cache_of_token(&of(128, Some(&latent)), 2);
        assert_eq!(found, (61 * 576 * 2, Some((8, 61 * 2048 * 2))));
        let words = cache_in_words(&of(128, Some(&latent)), 2);
        let want = "68.6 KiB for a token; 128 heads over 8 keys and values would take 244.0 KiB";
        assert_eq!(words, want);
        for (heads, kv_heads) in [(16, 4), (6, 1), (2, 1)] {
            let (_, grouped) = cache_of_token(&of(heads, Some(&latent)), 4);
            assert_eq!(grouped, Some((kv_heads, 61 * kv_heads * 256 * 4)));
        }
        assert_eq!(cache_of_token(&ModelConfig::default(), 4), (32 * 2 * 4096 * 4, None));
    }

    #[test]
    fn numbers_get_the_largest_unit_that_fits() {
        assert_eq!(count(999.0), "999");
        assert_eq!(count(5_430_000.0), "5.4 million");
        assert_eq!(bytes(512.0), "512 bytes");
        assert_eq!(bytes(1536.0), "1.5 KiB");
    }

    #[test]
    fn sizes_are_parsed_and_other_text_is_refused() {
        for (text, size) in [("5GB", 5_000_000_000), ("1.5 kb", 1500), ("77", 77)] {
            assert_eq!(parse_bytes(text), Ok(size));
        }
        for text in ["", "GB", "0", "-3GB", "5 GiB", "1.2.3MB"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_name_of_a_tensor_gives_its_part() {
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
