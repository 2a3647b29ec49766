use super::super::sampling::softmax;
use super::*;

const HIDDEN: f32 = f32::NEG_INFINITY;

/// Settings that change nothing.
const PLAIN: SamplingConfig = SamplingConfig {
    temperature: 1.0,
    top_p: 1.0,
    top_k: None,
    min_p: 0.0,
    repetition_penalty: 1.0,
    greedy: false,
};

fn processed(values: &[f32], row: &[u32], config: &SamplingConfig) -> Vec<(u32, f32)> {
    Distribution::new(&Logits::new(0, values.to_vec()), row, config).unwrap().iter().collect()
}

/// Ids of normal logits and, with `ties`, of few values.
fn logits(len: usize, spread: f64, ties: bool) -> Vec<f32> {
    let (radius, angle) = (Noise::new(1, len), Noise::new(2, len));
    let normal = |id| {
        let angle = std::f64::consts::TAU * angle.uniform(id);
        (-2.0 * radius.uniform(id).ln()).sqrt() * angle.cos()
    };
    let value = |id| (spread * normal(id)) as f32;
    (0..len as u32)
        .map(|id| if ties { (value(id) * 2.0).round() / 2.0 } else { value(id) })
        .collect()
}

/// The processors as their definitions say, on sorted ids: the ids that stay with their probabilities.
fn by_definition(values: &[f32], config: &SamplingConfig) -> Vec<(u32, f64)> {
    let scaled: Vec<f32> = values.iter().map(|v| v / config.temperature).collect();
    let mut order: Vec<usize> = (0..scaled.len()).filter(|&at| scaled[at] > HIDDEN).collect();
    order.sort_by(|&a, &b| scaled[b].partial_cmp(&scaled[a]).unwrap().then(a.cmp(&b)));
    if let Some(k) = config.top_k.filter(|&k| k < order.len()) {
        let lowest = scaled[order[k - 1]];
        order.retain(|&at| scaled[at] >= lowest);
    }
    let mut kept = vec![HIDDEN; scaled.len()];
    order.iter().for_each(|&at| kept[at] = scaled[at]);
    let probabilities = softmax(&kept);
    if config.top_p < 1.0 {
        let mut tail = 0.0;
        while order.len() > 1 {
            tail += probabilities[order[order.len() - 1]];
            if tail > 1.0 - f64::from(config.top_p) {
                break;
            }
            order.pop();
        }
    }
    let most = probabilities[order[0]];
    order.retain(|&at| probabilities[at] >= f64::from(config.min_p) * most);
    order.sort_unstable();
    let total: f64 = order.iter().map(|&at| probabilities[at]).sum();
    order.into_iter().map(|at| (at as u32, probabilities[at] / total)).collect()
}

#[test]
fn top_k_keeps_ties_and_never_brings_hidden_ids_back() {
    let values = [1.0, 3.0, 2.0, 2.0, HIDDEN];
    for (k, kept) in
        [(1, &[1][..]), (2, &[1, 2, 3]), (3, &[1, 2, 3]), (4, &[0, 1, 2, 3]), (9, &[0, 1, 2, 3])]
    {
        let config = SamplingConfig { top_k: Some(k), ..PLAIN };
        let ids: Vec<u32> = processed(&values, &[], &config).iter().map(|pair| pair.0).collect();
        assert_eq!(ids, kept, "{k}");
    }
}

#[test]
fn top_p_keeps_at_least_one_id_and_of_equal_ones_the_lower() {
    let kept = |values: &[f32], top_p| -> Vec<u32> {
        let config = SamplingConfig { top_p, ..PLAIN };
        processed(values, &[], &config).iter().map(|pair| pair.0).collect()
    };
    assert_eq!(kept(&[0.0, 0.1, HIDDEN, 0.0], 1e-6), [1]);
    assert_eq!(kept(&[0.0], 1e-30), [0]);
    assert_eq!(kept(&[0.0; 10], 0.45), [0, 1, 2, 3, 4]);
    assert_eq!(kept(&[0.0, -0.0, 0.0, -0.0], 0.6), [0, 1, 2]);
    assert_eq!(kept(&[-1e30, 1e30, 0.0], 0.9), [1]);
}

#[test]
fn min_p_is_a_share_of_the_highest_probability() {
    let values = [0.5_f32.ln(), 0.3_f32.ln(), 0.15_f32.ln(), 0.05_f32.ln()];
    for (min_p, kept) in [(0.0, 4), (0.09, 4), (0.11, 3), (0.29, 3), (0.31, 2), (0.7, 1), (1.0, 1)]
    {
        let config = SamplingConfig { min_p, ..PLAIN };
        assert_eq!(processed(&values, &[], &config).len(), kept, "{min_p}");
    }
}

#[test]
fn the_repetition_penalty_applies_once_and_to_ids_of_the_row_only() {
    let config = SamplingConfig { repetition_penalty: 2.0, ..PLAIN };
    let row = [0, 1, 1, 0, 77];
    assert_eq!(processed(&[2.0, -2.0, 2.0], &row, &config), [(0, 1.0), (1, -4.0), (2, 2.0)]);
    let columns = Logits::new(76, vec![2.0, 2.0]);
    let found: Vec<_> = Distribution::new(&columns, &row, &config).unwrap().iter().collect();
    assert_eq!(found, [(76, 2.0), (77, 1.0)]);
    let greedy = SamplingConfig { greedy: true, ..config };
    assert_eq!(processed(&[2.0, -2.0, 1.5], &row, &greedy), [(2, 1.5)]);
}

#[test]
fn greedy_takes_the_highest_logit_and_the_lowest_of_equals() {
    let greedy = SamplingConfig { greedy: true, temperature: 5.0, ..PLAIN };
    assert_eq!(processed(&[HIDDEN, 1.0, 3.0, 3.0], &[], &greedy), [(2, 3.0)]);
}

#[test]
fn counting_in_buckets_keeps_what_sorting_keeps() {
    for len in [1, 2, 15, 100, 3000] {
        for spread in [1e-30, 0.01, 1.0, 8.0, 1e4] {
            for ties in [false, true] {
                let mut values = logits(len, spread, ties);
                // Hidden and extreme ids among them.
                if len > 20 {
                    (values[3], values[7], values[11]) = (HIDDEN, -1e30, values[12] + 20.0);
                }
                for (top_k, top_p, min_p) in [
                    (None, 0.9, 0.0),
                    (Some(40), 1.0, 0.0),
                    (Some(200), 0.95, 0.02),
                    (None, 0.5, 0.0),
                    (None, 0.9999, 0.001),
                    (Some(1), 0.3, 0.0),
                ] {
                    let config = SamplingConfig { top_k, top_p, min_p, temperature: 0.7, ..PLAIN };
                    let found: Vec<u32> =
                        processed(&values, &[], &config).iter().map(|pair| pair.0).collect();
                    let expected: Vec<u32> =
                        by_definition(&values, &config).iter().map(|pair| pair.0).collect();
                    // Where two sums meet the limit within rounding, one id may differ.
                    let differ = found.len().abs_diff(expected.len());
                    assert!(
                        found == expected || (differ == 1 && len == 3000),
                        "{len} ids of spread {spread}, ties {ties}, {config:?}: {} and {}",
                        found.len(),
                        expected.len()
                    );
                }
            }
        }
    }
}

#[test]
fn the_draw_is_the_highest_sum_of_logit_and_noise() {
    for (len, spread) in [(3, 1.0), (1000, 1.0), (1000, 60.0), (1000, 1e-3), (400, 1e4)] {
        let values = logits(len, spread, false);
        let distribution = Distribution::new(&Logits::new(0, values), &[], &PLAIN).unwrap();
        for position in 0..200 {
            let noise = Noise::new(9, position);
            let sum = |(id, logit): (u32, f32)| f64::from(logit) + noise.gumbel(id);
            let best = distribution.iter().max_by(|a, b| sum(*a).total_cmp(&sum(*b))).unwrap();
            assert_eq!(distribution.draw(9, position), best.0, "{len} ids, {position}");
        }
    }
}

#[test]
fn draws_follow_the_exact_distribution() {
    const DRAWS: usize = 20_000;
    let values = logits(60, 1.5, false);
    for config in [
        PLAIN,
        SamplingConfig { temperature: 0.7, ..PLAIN },
        SamplingConfig { temperature: 2.0, ..PLAIN },
        SamplingConfig { top_k: Some(10), ..PLAIN },
        SamplingConfig { top_p: 0.8, ..PLAIN },
        SamplingConfig { min_p: 0.1, ..PLAIN },
        SamplingConfig { temperature: 1.3, top_k: Some(30), top_p: 0.9, min_p: 0.05, ..PLAIN },
    ] {
        let expected = by_definition(&values, &config);
        let distribution =
            Distribution::new(&Logits::new(0, values.clone()), &[], &config).unwrap();
        let mut counts = vec![0.0; values.len()];
        // A few positions of many requests, with neighbouring seeds.
        for draw in 0..DRAWS {
            counts[distribution.draw((draw / 40) as u64, draw % 40) as usize] += 1.0;
        }
        assert!(expected.iter().map(|&(id, _)| counts[id as usize]).sum::<f64>() == DRAWS as f64);
        // Rare ids together, so that every cell has enough draws.
        let (mut chi2, mut cells, mut rare) = (0.0, 0, (0.0, 0.0));
        for (id, probability) in expected {
            let (count, mean) = (counts[id as usize], probability * DRAWS as f64);
            if mean < 10.0 {
                rare = (rare.0 + count, rare.1 + mean);
            } else {
                chi2 += (count - mean).powi(2) / mean;
                cells += 1;
            }
        }
        if rare.1 > 0.0 {
            chi2 += (rare.0 - rare.1).powi(2) / rare.1;
            cells += 1;
        }
        let degrees = f64::from(cells - 1);
        // Four standard deviations of chi-square.
        assert!(chi2 < degrees + 4.0 * (2.0 * degrees).sqrt(), "{config:?}: {chi2} of {degrees}");
    }
}

#[test]
fn the_weights_are_the_same_in_every_build() {
    let bits = |x: f32| kernels::math::exp(x).to_bits();
    assert_eq!(
        [-0.1, -1.0, -7.25, -60.0].map(bits),
        [1_063_756_653, 1_052_531_378, 976_890_623, 338_522_313]
    );
}

#[test]
fn log_probabilities_are_those_of_all_ids_whatever_is_hidden_later() {
    for (len, spread) in [(1, 1.0), (7, 2.0), (1000, 5.0), (1000, 40.0)] {
        for ties in [false, true] {
            let values = logits(len, spread, ties);
            let sum = values.iter().map(|&v| f64::from(v).exp()).sum::<f64>();
            let of = |id: u32| f64::from(values[id as usize]) - sum.ln();
            let mut order: Vec<u32> = (0..len as u32).collect();
            order.sort_by(|a, b| of(*b).partial_cmp(&of(*a)).unwrap().then(a.cmp(b)));
            let mut shifted = Logits::new(3, values.clone());
            for most in [0, 1, 5, 2000] {
                let id = len as u32 / 2;
                let told = shifted.logprobs(3 + id, most);
                assert!((f64::from(told.of_id) - of(id)).abs() < 1e-4, "{told:?}");
                let ids: Vec<u32> = told.top.iter().map(|(id, _)| id - 3).collect();
                assert_eq!(ids, order[..most.min(len)]);
                let near = |(id, told): &(u32, f32)| (f64::from(*told) - of(id - 3)).abs() < 1e-4;
                assert!(told.top.iter().all(near), "{told:?}");
            }
            // A hidden id has none.
            shifted.allow_only(|id| id == 3);
            assert_eq!(shifted.logprobs(3, 1).of_id, 0.0);
        }
    }
}
