//! Measures of routers and experts over some steps, for each sparse layer and in short.

use std::collections::BTreeMap;
use std::ops::Range;

use super::objective::RouterSums;
use crate::model::{ExpertLoads, RouterLoss};
use crate::report::{LayerExperts, Metrics};

/// An expert with less than this share of the mean load is starved.
const STARVED: f64 = 0.1;

/// What the experts of each of `layers`, the numbers of the sparse ones, did. Tokens choose among those of one of
/// `choices`, whose mean load is 1; `biases` are those of the choice, if any.
pub(super) fn by_layer(
    sums: &RouterSums,
    layers: impl Iterator<Item = usize>,
    choices: &[Range<usize>],
    biases: &[Vec<f32>],
) -> Vec<LayerExperts> {
    let of_layer = |(at, layer): (usize, usize)| {
        let counts = sums.loads.layers.get(at)?;
        let images = &sums.image_loads.layers[at];
        let share =
            |(count, image): (&u64, &u64)| (*count > 0).then(|| *image as f64 / *count as f64);
        let in_choice = |choice: &Range<usize>| -> Vec<f64> {
            let counts = &counts[choice.clone()];
            let mean = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
            counts.iter().map(|count| if mean > 0.0 { *count as f64 / mean } else { 0.0 }).collect()
        };
        let by_choice: Vec<Vec<f64>> = choices.iter().map(in_choice).collect();
        let loads = by_choice.concat();
        // Experts of a modality without tokens had nothing to balance.
        let had_tokens = |loads: &Vec<f64>| loads.iter().any(|load| *load > 0.0);
        let mut measures =
            of_loads(&by_choice.into_iter().filter(had_tokens).collect::<Vec<_>>().concat());
        measures.push(("modality_information", information(counts, images)));
        let alone = ExpertLoads { layers: vec![counts.clone()], tokens: sums.loads.tokens };
        let loss = RouterLoss::new(&alone, choices, alone.tokens, None, [1.0, 0.0]);
        measures.push(("balance_loss", loss.value(&sums.layers[at])));
        measures.extend(of_router(&sums.layers[at], counts.len(), sums.loads.tokens));
        measures.extend(biases.get(at).map(|biases| ("bias_range", range(biases))));
        let measures = measures.into_iter().map(|(name, value)| (name.to_owned(), value));
        Some(LayerExperts {
            layer,
            image_shares: counts.iter().zip(images).map(share).collect(),
            loads,
            measures: measures.collect::<BTreeMap<_, _>>(),
        })
    };
    // Without tokens there is nothing to say.
    let layers = layers.enumerate().take_while(|_| sums.loads.tokens > 0);
    layers.filter_map(of_layer).collect()
}

/// The same in short: the largest load of all layers, and means over them.
pub(super) fn overall(layers: &[LayerExperts]) -> Metrics {
    let of = |name: &'static str| {
        layers.iter().filter_map(move |layer| layer.measures.get(name)).copied()
    };
    let mean = |name: &'static str| of(name).sum::<f64>() / layers.len() as f64;
    if layers.is_empty() {
        return Metrics::new();
    }
    vec![
        ("expert_load_max".into(), of("load_max").fold(0.0, f64::max)),
        ("expert_load_entropy".into(), mean("load_entropy")),
        ("expert_modality_information".into(), mean("modality_information")),
        ("router_balance_loss".into(), mean("balance_loss")),
        ("router_z_loss".into(), mean("z_loss")),
    ]
}

/// Measures of `loads`, whose mean is 1.
fn of_loads(loads: &[f64]) -> Vec<(&'static str, f64)> {
    let count = loads.len() as f64;
    let variance = loads.iter().map(|load| (load - 1.0).powi(2)).sum::<f64>() / count;
    let shares = loads.iter().map(|load| load / count).filter(|share| *share > 0.0);
    let entropy = -shares.map(|share| share * share.ln()).sum::<f64>();
    vec![
        ("load_max", loads.iter().copied().fold(0.0, f64::max)),
        ("load_cv", variance.sqrt()),
        ("starved", loads.iter().filter(|load| **load < STARVED).count() as f64),
        // One expert has no choice to make.
        ("load_entropy", if count > 1.0 { entropy / count.ln() } else { 1.0 }),
    ]
}

/// Measures of a router from its sums, the last three of which are those of logsumexp, its square and the largest
/// weight of a token, after one of probabilities for each expert.
fn of_router(sums: &[f64], experts: usize, tokens: usize) -> [(&'static str, f64); 3] {
    let last = |at: usize| sums.get(experts + at).map_or(0.0, |sum| sum / tokens as f64);
    [("log_sum_exp", last(0)), ("z_loss", last(1)), ("top_weight", last(2))]
}

/// The mutual information, in nats, of an assignment's expert and whether its token is an image code.
fn information(counts: &[u64], images: &[u64]) -> f64 {
    let [all, image] = [counts, images].map(|counts| counts.iter().sum::<u64>() as f64);
    let of_cell = |joint: f64, expert: f64, modality: f64| match joint > 0.0 {
        true => joint / all * (joint * all / (expert * modality)).ln(),
        false => 0.0,
    };
    let cells = counts.iter().zip(images).map(|(&count, &images)| (count as f64, images as f64));
    let of_expert = |(count, images): (f64, f64)| {
        of_cell(images, count, image) + of_cell(count - images, count, all - image)
    };
    cells.map(of_expert).sum::<f64>().max(0.0)
}

fn range(values: &[f32]) -> f64 {
    let (low, high) = (values.iter().copied().fold(f32::MAX, f32::min), values.iter().copied());
    f64::from(high.fold(f32::MIN, f32::max) - low)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any of four experts.
    const ALL: [Range<usize>; 1] = [Range { start: 0, end: 4 }];

    #[test]
    fn measures_are_those_of_their_definitions() {
        let loads = |counts: [u64; 4]| ExpertLoads { layers: vec![counts.to_vec()], tokens: 8 };
        let sums = RouterSums {
            loads: loads([8, 4, 4, 0]),
            image_loads: loads([0, 4, 4, 0]),
            layers: vec![vec![4.0, 2.0, 2.0, 0.0, 16.0, 40.0, 6.0]],
        };
        let layers = by_layer(&sums, [3].into_iter(), &ALL, &[vec![-0.5, 0.25, 0.0, 0.0]]);
        let LayerExperts { layer, loads, image_shares, measures } = &layers[0];
        assert_eq!((*layer, &loads[..]), (3, &[2.0, 1.0, 1.0, 0.0][..]));
        assert_eq!(image_shares[..], [Some(0.0), Some(1.0), Some(1.0), None]);
        let ln2 = std::f64::consts::LN_2;
        for (name, want) in [
            ("load_max", 2.0),
            ("load_cv", 0.5_f64.sqrt()),
            ("starved", 1.0),
            ("load_entropy", 0.75),        // 1.5 of 2 bits
            ("modality_information", ln2), // the expert tells the modality
            ("balance_loss", 4.0 * (8.0 * 4.0 + 2.0 * 8.0) / 64.0),
            ("log_sum_exp", 2.0),
            ("z_loss", 5.0),
            ("top_weight", 0.75),
            ("bias_range", 0.75),
        ] {
            assert!((measures[name] - want).abs() < 1e-12, "{name}: {} {want}", measures[name]);
        }
        assert_eq!(measures.len(), 10);
        assert_eq!(overall(&layers)[0], ("expert_load_max".into(), 2.0));
        assert!(information(&[4, 4], &[2, 2]).abs() < 1e-12, "the expert tells nothing");
        assert!(overall(&by_layer(&RouterSums::default(), 0..2, &ALL, &[])).is_empty());
    }

    #[test]
    fn experts_of_modalities_that_are_equal_among_themselves_are_balanced() {
        // One token in ten is text; two of four experts for each token.
        let loads = |layer: Vec<u64>| ExpertLoads { layers: vec![layer], tokens: 20 };
        let mut probabilities = [vec![0.5; 4], vec![4.5; 4]].concat();
        probabilities.extend([0.0; 3]);
        let sums = RouterSums {
            loads: loads([[1; 4], [9; 4]].concat()),
            image_loads: loads([[0; 4], [9; 4]].concat()),
            layers: vec![probabilities],
        };
        let of = |choices: &[Range<usize>]| {
            let layers = by_layer(&sums, std::iter::once(0), choices, &[]);
            ["load_max", "load_cv", "load_entropy", "balance_loss"]
                .map(|name| layers[0].measures[name])
        };
        let near = |got: [f64; 4], want: [f64; 4]| {
            assert!(got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{got:?} {want:?}");
        };
        near(of(&[0..4, 4..8]), [1.0, 0.0, 1.0, 2.0]);
        let all = of(&[Range { start: 0, end: 8 }]);
        assert!(all[0] > 1.5 && all[3] > 3.0, "the mix of modalities: {all:?}");
    }
}
