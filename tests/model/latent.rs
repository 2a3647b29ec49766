//! Latent attention: the folded form over the cache against the expanded one, and what is cached.

use burn::tensor::DType;
use calumma::model::{LatentConfig, QkNorm};

use super::*;

/// A small model with latent attention, its queries products of vectors of `q_lora_rank` numbers or of the input.
pub fn latent(q_lora_rank: Option<usize>) -> ModelConfig {
    let latent = LatentConfig {
        q_lora_rank,
        kv_lora_rank: 9,
        qk_nope_head_dim: 5,
        qk_rope_head_dim: 4,
        v_head_dim: 6,
    };
    ModelConfig {
        num_key_value_heads: 4,
        qk_norm: QkNorm::None,
        latent: Some(latent),
        ..tiny(false)
    }
}

#[test]
fn cached_decoding_matches_the_full_forward() {
    for (q_lora_rank, biases) in [(None, false), (Some(10), false), (Some(10), true)] {
        let config = ModelConfig {
            max_position_embeddings: 150,
            qkv_bias: biases,
            o_bias: biases,
            ..latent(q_lora_rank)
        };
        let serving = serving(&config);
        let row = some_ids(140, 0);
        let full = serving.all_logits(&row).unwrap();
        for chunk in [1, 5, 64, 140] {
            let mut lane = Alone::new(&serving, row.len());
            let stepped: Vec<_> = row.chunks(chunk).flat_map(|ids| lane.extend(ids)).collect();
            let off = excess(&data(&stepped), &data(&full), 1e-5, 1e-5);
            assert!(off <= 1.0, "chunks of {chunk} with {q_lora_rank:?}: {off}");
        }
    }
}

#[test]
fn the_cache_holds_latents_and_rotated_keys_and_nothing_else() {
    let config = latent(None);
    // Two layers, a latent of 9 and a rotated key of 4 numbers.
    assert_eq!(PagedCache::block_bytes(&config, DType::F32), 2 * BLOCK * (9 + 4) * 4);
    assert_eq!(PagedCache::block_bytes(&config, DType::BF16), 2 * BLOCK * (9 + 4) * 2);
    assert_eq!(serving(&config).block_bytes(), 2 * BLOCK * (9 + 4) * 4);
}

#[test]
fn modules_are_listed_with_their_shapes_and_counted() {
    for (q_lora_rank, biases) in [(None, true), (Some(10), false), (Some(10), true)] {
        let config = ModelConfig { qkv_bias: biases, o_bias: biases, ..latent(q_lora_rank) };
        let model = config.init(&cpu()).unwrap();
        let found = tensor_files::shapes(&model);
        let values: usize = found.values().map(|shape| shape.iter().product::<usize>()).sum();
        assert_eq!(config.num_parameters(), values);
        let listed = calumma::model::adapter::modules(&config).into_iter().flat_map(|module| {
            let parameters = module.parameters().into_iter();
            let name = module.name.clone();
            parameters.map(move |(end, shape)| (format!("{name}.{end}"), shape)).collect::<Vec<_>>()
        });
        assert_eq!(listed.collect::<BTreeMap<_, _>>(), found);
    }
}
