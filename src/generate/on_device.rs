//! The draws of a pass as the table that a device's kernels read.

use std::collections::HashMap;
use std::sync::Arc;

use super::draw::Draw;
use super::guidance::Guidance;
use super::noise::Noise;
use crate::model::ops::{Distribution, Draws, Place};

/// A wanted row: its row in the pass, its span, and its place among the span's wanted rows.
pub(super) type Wanted = (usize, usize, usize);

/// Those of `draws` whose logits are among the rows `wanted`, whose first column is id `first`; also the number of the
/// draw that each drawn id belongs to.
pub(super) fn table(draws: &[Draw], first: u32, wanted: &[Wanted]) -> (Vec<usize>, Draws) {
    let rows: HashMap<(usize, usize), usize> =
        wanted.iter().enumerate().map(|(at, &(_, span, place))| ((span, place), at)).collect();
    let mut table = Draws { first, ..Draws::default() };
    let (mut numbers, mut sets) = (Vec::new(), HashMap::new());
    for (number, draw) in draws.iter().enumerate() {
        let row = |branch: usize| rows.get(&(draw.spans[branch], draw.row)).copied();
        let Some(full) = row(0) else { continue };
        let other = |branch| row(branch).expect("all lanes of a request have the same columns");
        let nothing = other(draw.spans.len() - 1);
        let images = if draw.spans.len() == 3 { other(1) } else { nothing };
        let allowed = *sets.entry(Arc::as_ptr(&draw.allowed)).or_insert_with(|| {
            table.sets.extend(&*draw.allowed);
            table.sets.len() - draw.allowed.len()
        });
        let penalty = (!draw.seen.is_empty()).then(|| {
            let start = table.sets.len();
            table.sets.resize(start + draw.allowed.len(), 0);
            for &id in &draw.seen {
                let at = id.wrapping_sub(first) as usize;
                if let Some(word) = table.sets[start..].get_mut(at / 32) {
                    *word |= 1 << (at % 32);
                }
            }
            (draw.sampling.repetition_penalty, start)
        });
        let sampling = &draw.sampling;
        let distribution = table.distributions.len();
        table.distributions.push(Distribution {
            rows: [full, images, nothing],
            scales: match draw.guidance {
                Guidance::Off => [1.0, 1.0],
                Guidance::TwoWay { scale } => [scale, 1.0],
                Guidance::ThreeWay { text, image } => [text, image],
            },
            temperature: if sampling.greedy { 1.0 } else { sampling.temperature },
            top_k: sampling.top_k.unwrap_or(0),
            rest: (1.0 - f64::from(sampling.top_p)) as f32,
            reach: sampling.min_p.ln(),
            greedy: sampling.greedy,
            allowed,
            penalty,
        });
        for position in draw.positions.clone() {
            numbers.push(number);
            let guess = draw.guess.filter(|_| position == draw.positions.start);
            table.places.push(Place {
                distribution,
                noise: Noise::new(draw.seed, position).key(),
                guess: guess.map(|(id, slack)| (id.wrapping_sub(first) as usize, slack)),
            });
        }
    }
    (numbers, table)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Tensor, TensorData};

    use super::*;
    use crate::generate::SamplingConfig;
    use crate::model::ops::{self, forced};

    const COLUMNS: usize = 701;
    const FIRST: u32 = 40;
    const ROWS: usize = 9;

    /// Numbers from 0 to 1 that look random.
    fn random(seed: u64) -> impl FnMut() -> f32 {
        let mut position = 0;
        move || {
            position += 1;
            Noise::new(seed, position).uniform(0) as f32
        }
    }

    /// Settings that leave few ids and many, and bring every processor to bear alone and with others.
    fn settings() -> Vec<SamplingConfig> {
        let plain = SamplingConfig { temperature: 1.0, top_p: 1.0, ..SamplingConfig::IMAGE };
        let mut all = vec![plain, SamplingConfig { greedy: true, ..plain }];
        for temperature in [0.3, 1.7] {
            all.push(SamplingConfig { temperature, top_p: 0.9, ..plain });
            all.push(SamplingConfig { temperature, top_k: Some(7), ..plain });
            all.push(SamplingConfig { temperature, min_p: 0.2, ..plain });
            all.push(SamplingConfig { temperature, repetition_penalty: 1.3, ..plain });
            all.push(SamplingConfig {
                temperature,
                top_p: 0.8,
                top_k: Some(50),
                min_p: 0.02,
                repetition_penalty: 0.8,
                greedy: false,
            });
        }
        all.push(SamplingConfig { top_p: 1e-6, ..plain });
        all.push(SamplingConfig { top_k: Some(COLUMNS + 1), ..plain });
        all
    }

    /// Draws of all kinds from `ROWS` rows that stand in any order of spans.
    fn draws() -> Vec<Draw> {
        let mut next = random(3);
        let mut found = Vec::new();
        for (number, sampling) in settings().into_iter().enumerate() {
            for guidance in [
                Guidance::Off,
                Guidance::TwoWay { scale: 3.0 },
                Guidance::ThreeWay { text: 2.0, image: 1.2 },
            ] {
                let share = if number % 3 == 0 { 1.1 } else { 0.3 };
                let mut allowed = vec![0_u32; COLUMNS.div_ceil(32)];
                for column in 0..COLUMNS {
                    allowed[column / 32] |= u32::from(next() < share) << (column % 32);
                }
                let seen: Vec<u32> = (0..90).map(|_| (next() * 800.0) as u32).collect();
                let position = found.len() * 5;
                found.push(Draw {
                    spans: (0..guidance.branches().len()).map(|b| (number + b) % 3).collect(),
                    row: number % 3,
                    guidance,
                    allowed: allowed.into(),
                    seen: if sampling.repetition_penalty == 1.0 { Vec::new() } else { seen },
                    sampling,
                    seed: number as u64,
                    positions: position..position + 40,
                    guess: (number % 2 == 0).then(|| (FIRST + number as u32 * 20, 1.5)),
                });
            }
        }
        found
    }

    /// Rows with ties, as half formats have them.
    fn logits() -> Vec<f32> {
        let mut next = random(9);
        let value = |at: usize| {
            let value = 8.0 * next() - 4.0;
            if (at / COLUMNS).is_multiple_of(2) { (value * 4.0).round() / 4.0 } else { value }
        };
        (0..ROWS * COLUMNS).map(value).collect()
    }

    /// Runs on Vulkan, in builds with the feature `wgpu`.
    #[test]
    fn kernels_agree_with_draws_on_the_host() {
        let Some((kernels, device)) = forced::gpu() else { return };
        let wanted: Vec<Wanted> = (0..ROWS).map(|row| (row, row / 3, row % 3)).collect();
        let (values, draws) = (logits(), draws());
        let (numbers, table) = table(&draws, FIRST, &wanted);
        let tensor = TensorData::new(values.clone(), [ROWS, COLUMNS]);
        let tensor = Tensor::<2>::from_data(tensor, &device);
        let (drawn, _) = forced::on(kernels, || ops::draw(tensor, &table));
        let drawn = ops::fetch(drawn).expect("the device answers");
        let expected: Vec<_> = draws
            .iter()
            .flat_map(|draw| {
                let row = |&span: &usize| &values[(span * 3 + draw.row) * COLUMNS..][..COLUMNS];
                let rows: Vec<&[f32]> = draw.spans.iter().map(row).collect();
                draw.on_host(FIRST, &rows)
            })
            .collect();
        assert_eq!(drawn.len(), expected.len());
        let other: Vec<_> = (0..drawn.len())
            .filter(|&at| drawn[at] != expected[at])
            .map(|at| (drawn[at], expected[at], &draws[numbers[at]]))
            .collect();
        // Two sums may differ by less than the rounding of f32.
        assert!(other.len() <= expected.len() / 1000, "{}: {:?}", other.len(), &other[..1]);
    }

    #[test]
    fn kernels_agree_that_nothing_can_be_drawn() {
        let Some((kernels, device)) = forced::gpu() else { return };
        let draw = Draw { positions: 0..1, guess: None, ..draws().remove(3) };
        let only = |column: usize| -> Arc<[u32]> {
            (0..COLUMNS.div_ceil(32))
                .map(|w| u32::from(w == column / 32) << (column % 32))
                .collect()
        };
        let mut values = vec![0.0; COLUMNS];
        (values[1], values[2], values[3]) = (f32::NAN, f32::NEG_INFINITY, f32::INFINITY);
        let sets = [vec![0; COLUMNS.div_ceil(32)].into(), only(1), only(2), only(3), only(4)];
        let draws: Vec<Draw> = sets
            .into_iter()
            .map(|allowed| Draw {
                allowed,
                spans: vec![0],
                row: 0,
                guidance: Guidance::Off,
                ..draw.clone()
            })
            .collect();
        let (_, table) = table(&draws, FIRST, &[(0, 0, 0)]);
        let tensor = Tensor::<2>::from_data(TensorData::new(values.clone(), [1, COLUMNS]), &device);
        let (drawn, _) = forced::on(kernels, || ops::draw(tensor, &table));
        let expected: Vec<_> =
            draws.iter().flat_map(|draw| draw.on_host(FIRST, &[&values])).collect();
        assert_eq!(ops::fetch(drawn).expect("the device answers"), expected);
        assert_eq!(expected.iter().filter(|drawn| drawn.is_err()).count(), 4);
    }
}
