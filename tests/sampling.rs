//! The logits processors and the mix of guidance against the reference's numbers.

use calumma::generate::{Guidance, SamplingConfig, sampling};

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

fn assert_processed(name: &str, process: impl Fn(&mut [f32], &[u32])) {
    let given = rows("logits").into_iter().zip(ids("input_ids"));
    for ((mut logits, row), expected) in given.zip(rows(name)) {
        process(&mut logits, &row);
        assert_close(&logits, &expected);
    }
}

#[test]
fn each_processor_matches_the_reference() {
    for penalty in [1.2, 1.7] {
        assert_processed(&format!("repetition_penalty_{penalty}"), |logits, row| {
            sampling::repetition_penalty(logits, row, penalty);
        });
    }
    for temperature in [0.7, 1.3] {
        assert_processed(&format!("temperature_{temperature}"), |logits, _| {
            sampling::temperature(logits, temperature);
        });
    }
    for p in [0.5, 0.9, 0.999] {
        assert_processed(&format!("top_p_{p}"), |logits, _| sampling::top_p(logits, p));
    }
}

#[test]
fn the_chain_for_text_matches_the_reference() {
    let allowed = ids("allowed_ids").remove(0);
    let allow = |logits: &mut [f32]| sampling::allow_only(logits, |id| allowed.contains(&id));
    assert_processed("allow_only", |logits, _| allow(logits));
    let config = SamplingConfig::TEXT;
    let chain = |logits: &mut [f32], row: &[u32]| {
        allow(logits);
        sampling::process(logits, row, &config);
    };
    assert_processed("text_chain", chain);
    assert_processed("text_chain_probs", |logits, row| {
        chain(logits, row);
        let probabilities = sampling::softmax(logits);
        for (logit, probability) in logits.iter_mut().zip(probabilities) {
            *logit = probability as f32;
        }
    });
}

#[test]
fn the_three_way_mix_matches_the_reference() {
    let branches = ["cfg.full", "cfg.image", "cfg.none"].map(rows);
    for (row, expected) in rows("cfg.mixed_3.0_1.2").iter().enumerate() {
        let mut logits = branches.clone().map(|branch| branch[row].clone());
        Guidance::new(3.0, Some(1.2)).mix(&mut logits);
        assert_close(&logits[0], expected);
    }
}
