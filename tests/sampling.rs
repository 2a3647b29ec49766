//! The logits processors and the mix of guidance against the reference's numbers.

use calumma::generate::{Distribution, Guidance, Logits, SamplingConfig, sampling};

use crate::common::Expected;

/// The rows of a tensor of the fixture, which `write_sampling` of `make_hf_fixtures.py` wrote.
fn rows(name: &str) -> Vec<Vec<f32>> {
    let values = Expected::open("sampling/expected.safetensors").floats(name);
    let width = values.shape()[1];
    values.iter::<f32>().collect::<Vec<_>>().chunks(width).map(<[f32]>::to_vec).collect()
}

fn ids(name: &str) -> Vec<Vec<u32>> {
    let expected = Expected::open("sampling/expected.safetensors");
    let width = *expected.ints(name).1.last().unwrap();
    expected.ids(name).chunks(width).map(<[u32]>::to_vec).collect()
}

/// Asserts equality to 1e-5 (the order of summation differs), with infinities in the same places.
fn assert_close(actual: &[f32], expected: &[f32]) {
    assert_eq!(actual.len(), expected.len());
    for (id, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        let close = actual == expected || (actual - expected).abs() <= 1e-5;
        assert!(close, "id {id}: {actual} instead of {expected}");
    }
}

/// Settings that change nothing.
const PLAIN: SamplingConfig = SamplingConfig {
    temperature: 1.0,
    top_p: 1.0,
    repetition_penalty: 1.0,
    ..SamplingConfig::TEXT
};

/// The logits after the processors of `config`, with the ids in `allowed` or all; -inf for hidden ids.
fn processed(
    values: Vec<f32>,
    row: &[u32],
    allowed: Option<&[u32]>,
    config: &SamplingConfig,
) -> Vec<f32> {
    let mut after = vec![f32::NEG_INFINITY; values.len()];
    let mut logits = Logits::new(0, values);
    if let Some(allowed) = allowed {
        logits.allow_only(|id| allowed.contains(&id));
    }
    for (id, logit) in Distribution::new(&logits, row, config).unwrap().iter() {
        after[id as usize] = logit;
    }
    after
}

fn assert_processed(name: &str, allowed: Option<&[u32]>, config: SamplingConfig) {
    let given = rows("logits").into_iter().zip(ids("input_ids"));
    for ((logits, row), expected) in given.zip(rows(name)) {
        assert_close(&processed(logits, &row, allowed, &config), &expected);
    }
}

#[test]
fn each_processor_matches_the_reference() {
    for repetition_penalty in [1.2, 1.7] {
        let name = format!("repetition_penalty_{repetition_penalty}");
        assert_processed(&name, None, SamplingConfig { repetition_penalty, ..PLAIN });
    }
    for temperature in [0.7, 1.3] {
        let name = format!("temperature_{temperature}");
        assert_processed(&name, None, SamplingConfig { temperature, ..PLAIN });
    }
    for top_p in [0.5, 0.9, 0.999] {
        assert_processed(&format!("top_p_{top_p}"), None, SamplingConfig { top_p, ..PLAIN });
    }
}

#[test]
fn the_chain_for_text_matches_the_reference() {
    let allowed = ids("allowed_ids").remove(0);
    assert_processed("allow_only", Some(&allowed), PLAIN);
    assert_processed("text_chain", Some(&allowed), SamplingConfig::TEXT);
    let given = rows("logits").into_iter().zip(ids("input_ids"));
    for ((logits, row), expected) in given.zip(rows("text_chain_probs")) {
        let logits = processed(logits, &row, Some(&allowed), &SamplingConfig::TEXT);
        let probabilities: Vec<f32> =
            sampling::softmax(&logits).into_iter().map(|probability| probability as f32).collect();
        assert_close(&probabilities, &expected);
    }
}

#[test]
fn the_three_way_mix_matches_the_reference() {
    let [mut full, images, nothing] = ["cfg.full", "cfg.image", "cfg.none"].map(rows);
    for (row, expected) in rows("cfg.mixed_3.0_1.2").iter().enumerate() {
        Guidance::new(3.0, Some(1.2)).mix(&mut full[row], &[&images[row], &nothing[row]]);
        assert_close(&full[row], expected);
    }
}
