//! Maintenance of the codebook between steps: initialisation from data, moving averages, revival.

use burn::tensor::{Int, Tensor};
use rand::RngExt;
use rand::seq::index::sample;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::revival::{Revival, RevivalConfig};
use super::rows::{edit_codebook, vectors};
use crate::config::VqConfig;
use crate::model::VqModel;
use crate::quantizer::{EmaState, QuantizerConfig};

/// Rounds of k-means; the means hardly move afterwards.
const ROUNDS: usize = 10;

/// How the codebook is initialised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CodebookStart {
    /// With distinct random latents.
    #[default]
    Data,
    /// With the means of k-means over the latents, started from random ones.
    KMeans,
}

/// Keeps a codebook in use: initialisation, moving averages and revival of unused codes.
///
/// Serialisable, so that a resumed training continues exactly.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CodebookMaintenance {
    revival: Revival,
    /// Moving averages; `None` before the first step, and where gradients move the codebook.
    ema: Option<EmaState>,
}

impl CodebookMaintenance {
    /// Maintenance for the codebook of `config`.
    pub fn new(revival: RevivalConfig, config: &VqConfig) -> Self {
        Self { revival: Revival::new(revival, config.num_embeddings), ema: None }
    }

    /// The number of codes that the last step did not use.
    pub fn unused(&self) -> usize {
        self.revival.unused()
    }

    /// `model` with its codebook initialised from `latents`; unchanged if its quantizer has no
    /// [`codebook`](crate::Quantizer::codebook).
    ///
    /// With fewer latents than codes the other codes are latents with a little noise, so that no two codes
    /// are equal.
    ///
    /// # Shapes
    /// - latents: each `[batch, embed, h, w]`
    pub fn start(
        &mut self,
        model: VqModel,
        latents: Vec<Tensor<4>>,
        start: CodebookStart,
        rng: &mut ChaCha8Rng,
    ) -> VqModel {
        let comparable = |latents| vectors(model.quantize.comparable(latents));
        let vectors: Vec<Vec<f32>> = latents.into_iter().flat_map(comparable).collect();
        edit_codebook(model, |table, embed| {
            draw(table, embed, &vectors, rng);
            if start == CodebookStart::KMeans {
                k_means(table, embed, &vectors);
            }
        })
    }

    /// `model` after one step's `codes` and `latents`: moving averages are updated, then codes unused for too
    /// long are replaced as by [`Revival::step`].
    ///
    /// Also returns the replaced rows of the codebook in ascending order: the caller must reset their
    /// optimizer state.
    ///
    /// # Shapes
    /// - codes: `[batch, h, w]`
    /// - latents: `[batch, embed, h, w]`
    pub fn step(
        &mut self,
        config: &VqConfig,
        model: VqModel,
        codes: Tensor<3, Int>,
        latents: Tensor<4>,
        rng: &mut ChaCha8Rng,
    ) -> (VqModel, Vec<usize>) {
        let QuantizerConfig::Ema { decay, .. } = config.quantizer else {
            return self.revival.step(model, codes, latents, rng);
        };
        let chosen: Vec<usize> =
            codes.clone().into_data().iter::<i64>().map(|c| c as usize).collect();
        let rows = vectors(latents.clone());
        let ema = &mut self.ema;
        let model = edit_codebook(model, |table, embed| {
            let state = || EmaState::new(decay, table, table.len() / embed);
            let mut averages = ema.take().unwrap_or_else(state);
            averages.update(table, &rows, &chosen);
            *ema = Some(averages);
        });
        let (model, revived) = self.revival.step(model, codes, latents, rng);
        if revived.is_empty() {
            return (model, revived);
        }
        let model = edit_codebook(model, |table, embed| {
            for row in &revived {
                let vector = &table[row * embed..][..embed];
                ema.iter_mut().for_each(|averages| averages.restart(*row, vector));
            }
        });
        (model, revived)
    }
}

/// Fills `table` with distinct random `vectors`, then again with noise added until all rows are filled.
fn draw(table: &mut [f32], embed: usize, vectors: &[Vec<f32>], rng: &mut ChaCha8Rng) {
    let noise = 0.05 * spread(vectors);
    let rows = table.len() / embed;
    for first in (0..rows).step_by(vectors.len().max(1)) {
        let count = vectors.len().min(rows - first);
        for (row, pick) in (first..).zip(sample(rng, vectors.len(), count)) {
            for (value, latent) in table[row * embed..][..embed].iter_mut().zip(&vectors[pick]) {
                let offset = if first == 0 { 0.0 } else { rng.random_range(-noise..=noise) };
                *value = latent + offset;
            }
        }
    }
}

/// Moves every row of `table` to the mean of the vectors that are nearest to it, for [`ROUNDS`] rounds; a
/// row that is nearest to none stays.
fn k_means(table: &mut [f32], embed: usize, vectors: &[Vec<f32>]) {
    for _ in 0..ROUNDS {
        let mut sums = vec![0.0; table.len()];
        let mut counts = vec![0; table.len() / embed];
        for vector in vectors {
            let distance = |row: &[f32]| -> f32 {
                row.iter().zip(vector).map(|(a, b)| (a - b) * (a - b)).sum()
            };
            let distances = table.chunks_exact(embed).map(distance).enumerate();
            let nearest = distances.min_by(|a, b| a.1.total_cmp(&b.1));
            let Some((row, _)) = nearest else { return };
            counts[row] += 1;
            let sums = &mut sums[row * embed..][..embed];
            sums.iter_mut().zip(vector).for_each(|(sum, value)| *sum += value);
        }
        let rows = table.chunks_exact_mut(embed).zip(sums.chunks_exact(embed)).zip(&counts);
        for ((row, sums), count) in rows.filter(|(_, count)| **count > 0) {
            row.iter_mut().zip(sums).for_each(|(value, sum)| *value = sum / *count as f32);
        }
    }
}

/// The standard deviation of all entries of all vectors.
fn spread(vectors: &[Vec<f32>]) -> f32 {
    let values = || vectors.iter().flatten().map(|v| f64::from(*v));
    let count = values().count() as f64;
    let mean = values().sum::<f64>() / count;
    (values().map(|v| (v - mean).powi(2)).sum::<f64>() / count).sqrt() as f32
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::init;
    use crate::quantizer::Estimator;
    use burn::tensor::{Device, Distribution};
    use rand::SeedableRng;

    fn config(quantizer: QuantizerConfig) -> VqConfig {
        VqConfig {
            base_channels: 32,
            channel_multiplier: vec![1, 1],
            num_res_blocks: 1,
            resolution: 8,
            latent_channels: 4,
            embed_dim: 3,
            num_embeddings: 10,
            quantizer,
            ..VqConfig::default()
        }
    }

    fn table(model: &VqModel) -> Vec<Vec<f32>> {
        let table = model.quantize.codebook().unwrap().weight.val();
        table.into_data().try_to_vec::<f32>().unwrap().chunks(3).map(<[f32]>::to_vec).collect()
    }

    #[test]
    fn initial_codes_are_distinct_and_latents_come_first() {
        let device = Device::flex();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let config = config(QuantizerConfig::default());
        let latents = init::random([1, 3, 2, 3], Distribution::Default, &device);
        let mut maintenance = CodebookMaintenance::new(RevivalConfig::default(), &config);
        let model = config.init(&device);
        let model = maintenance.start(model, vec![latents.clone()], CodebookStart::Data, &mut rng);
        let (rows, candidates) = (table(&model), vectors(latents));
        assert!(rows[..6].iter().all(|row| candidates.contains(row)));
        for (i, row) in rows.iter().enumerate() {
            assert!(!rows[..i].contains(row), "row {i} repeats");
        }
    }

    #[test]
    fn k_means_finds_the_centres_of_clusters() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let centres = [[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]];
        let near = |c: [f32; 2], rng: &mut ChaCha8Rng| c.map(|v| v + rng.random_range(-0.5..0.5));
        let vectors: Vec<Vec<f32>> =
            (0..300).map(|i| near(centres[i % 3], &mut rng).to_vec()).collect();
        let mut table: Vec<f32> = vectors[..3].concat();
        k_means(&mut table, 2, &vectors);
        for (row, centre) in table.chunks(2).zip(centres) {
            assert!(row.iter().zip(centre).all(|(a, b)| (a - b).abs() < 0.1), "{row:?}");
        }
    }

    /// Collapsed: every row is the same vector, far from the latents.
    #[test]
    fn revival_brings_a_collapsed_codebook_back_into_use() {
        for quantizer in [
            QuantizerConfig::default(),
            QuantizerConfig::Ema { decay: 0.9, gradient: Estimator::default() },
            QuantizerConfig::L2 { gradient: Estimator::default() },
        ] {
            let device = Device::flex();
            let config = VqConfig { num_embeddings: 64, ..config(quantizer) };
            let model = config.init(&device);
            let mut model = edit_codebook(model, |table, _| table.fill(5.0));
            let mut rng = ChaCha8Rng::seed_from_u64(1);
            let revival = RevivalConfig { after_steps: 10, until_step: None };
            let mut maintenance = CodebookMaintenance::new(revival, &config);
            let mut used = [false; 64];
            for step in 0..200 {
                let normal = Distribution::Normal(0.0, 1.0);
                let latents = init::random([8, 3, 8, 8], normal, &device);
                let codes = model.codes(latents.clone());
                if step >= 190 {
                    codes.clone().into_data().iter::<i64>().for_each(|c| used[c as usize] = true);
                }
                (model, _) = maintenance.step(&config, model, codes, latents, &mut rng);
            }
            let share = used.iter().filter(|used| **used).count() as f64 / 64.0;
            assert!(share > 0.95, "{:?}: {share}", config.quantizer);
        }
    }

    #[test]
    fn a_restored_state_continues_identically() {
        let device = Device::flex();
        let config = config(QuantizerConfig::Ema { decay: 0.9, gradient: Estimator::default() });
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut maintenance = CodebookMaintenance::new(RevivalConfig::default(), &config);
        let latents = init::random([1, 3, 4, 4], Distribution::Default, &device);
        let model = config.init(&device);
        let codes = model.codes(latents.clone());
        let (model, _) = maintenance.step(&config, model, codes.clone(), latents.clone(), &mut rng);
        let text = serde_json::to_string(&maintenance).unwrap();
        let mut restored: CodebookMaintenance = serde_json::from_str(&text).unwrap();
        assert_eq!(restored, maintenance);
        let (one, _) = maintenance.step(
            &config,
            model.clone(),
            codes.clone(),
            latents.clone(),
            &mut rng.clone(),
        );
        let (other, _) = restored.step(&config, model, codes, latents, &mut rng);
        assert_eq!(table(&one), table(&other));
    }
}
