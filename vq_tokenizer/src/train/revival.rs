//! Revival of unused codes.
//!
//! A code without latents gets no gradient and stays unused. After a number of steps without use it is
//! replaced by a random latent of the current batch, as in Jukebox (arXiv 2005.00341, 3.1). Here latents are
//! drawn in proportion to their squared distance from their code (k-means++, Arthur and Vassilvitskii 2007);
//! otherwise images with plain backgrounds would revive code after code for the background.

use burn::tensor::{Int, Tensor};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::rows::{edit_codebook, vectors};
use crate::model::VqModel;

/// When unused codes are replaced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RevivalConfig {
    /// Steps without use after which a code is replaced; 0 replaces none.
    pub after_steps: u32,
    /// The last step that replaces codes, so that the codebook settles at the end of training; `None` for no
    /// limit.
    pub until_step: Option<usize>,
}

impl Default for RevivalConfig {
    fn default() -> Self {
        Self { after_steps: 100, until_step: None }
    }
}

/// Counts the steps since each code was used, and replaces codes unused for too long.
///
/// Serialisable, so that a resumed training replaces the same codes at the same steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Revival {
    config: RevivalConfig,
    steps: usize,
    unused_for: Vec<u32>,
}

impl Revival {
    /// Counters for a codebook of `num_embeddings` codes.
    pub fn new(config: RevivalConfig, num_embeddings: usize) -> Self {
        Self { config, steps: 0, unused_for: vec![0; num_embeddings] }
    }

    /// The number of codes that the last step did not use.
    pub fn unused(&self) -> usize {
        self.unused_for.iter().filter(|steps| **steps > 0).count()
    }

    /// `model` after one step's `codes` and `latents`, with codes unused for too long replaced by distinct
    /// random latents.
    ///
    /// Also returns the replaced rows of the codebook in ascending order: the caller must reset their
    /// optimizer state. At most as many rows are replaced as there are latents.
    ///
    /// # Shapes
    /// - codes: `[batch, h, w]`
    /// - latents: `[batch, embed, h, w]`
    pub fn step(
        &mut self,
        model: VqModel,
        codes: Tensor<3, Int>,
        latents: Tensor<4>,
        rng: &mut ChaCha8Rng,
    ) -> (VqModel, Vec<usize>) {
        // A code is an argmin over the table, so it is never negative.
        let codes: Vec<usize> = codes.into_data().iter::<i64>().map(|code| code as usize).collect();
        self.count(&codes);
        let late = self.config.until_step.is_some_and(|last| self.steps > last);
        let after = self.config.after_steps;
        if after == 0 || late || model.quantize.codebook().is_none() {
            return (model, Vec::new());
        }
        let mut rows: Vec<usize> =
            (0..self.unused_for.len()).filter(|row| self.unused_for[*row] >= after).collect();
        if rows.is_empty() {
            return (model, rows);
        }
        let vectors = vectors(model.quantize.comparable(latents));
        rows.truncate(vectors.len());
        let model = edit_codebook(model, |table, embed| {
            let chosen = draw_distant(&vectors, &codes, table, rows.len(), rng);
            for (row, pick) in rows.iter().zip(chosen) {
                table[row * embed..][..embed].copy_from_slice(&vectors[pick]);
            }
        });
        for row in &rows {
            self.unused_for[*row] = 0;
        }
        (model, rows)
    }

    /// Counts a step that used `codes`.
    fn count(&mut self, codes: &[usize]) {
        self.steps += 1;
        for steps in &mut self.unused_for {
            *steps = steps.saturating_add(1);
        }
        for code in codes {
            self.unused_for[*code] = 0;
        }
    }
}

/// `count` distinct indices of `vectors`, drawn in proportion to the squared distance of each vector from
/// the row of `table` at its code.
fn draw_distant(
    vectors: &[Vec<f32>],
    codes: &[usize],
    table: &[f32],
    count: usize,
    rng: &mut ChaCha8Rng,
) -> Vec<usize> {
    let distance = |vector: &[f32], code: usize| -> f64 {
        let row = &table[code * vector.len()..][..vector.len()];
        vector.iter().zip(row).map(|(a, b)| f64::from(a - b).powi(2)).sum()
    };
    // Weighted sampling without replacement: the smallest exponential times, with the weights as rates.
    let mut times: Vec<(f64, usize)> = vectors
        .iter()
        .zip(codes)
        .enumerate()
        .map(|(i, (vector, code))| {
            let rate = distance(vector, *code).max(1e-12);
            (-(1.0 - rng.random::<f64>()).ln() / rate, i)
        })
        .collect();
    times.sort_by(|a, b| a.0.total_cmp(&b.0));
    times.into_iter().take(count).map(|(_, i)| i).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::{VqConfig, init};
    use burn::tensor::{Device, Distribution};
    use rand::SeedableRng;

    fn model(device: &Device) -> VqModel {
        let config = VqConfig {
            base_channels: 32,
            channel_multiplier: vec![1, 1],
            num_res_blocks: 1,
            resolution: 8,
            latent_channels: 4,
            embed_dim: 3,
            num_embeddings: 10,
            ..VqConfig::default()
        };
        config.init(device)
    }

    fn table(model: &VqModel) -> Vec<Vec<f32>> {
        let table = model.quantize.codebook().unwrap().weight.val();
        table.into_data().try_to_vec::<f32>().unwrap().chunks(3).map(<[f32]>::to_vec).collect()
    }

    #[test]
    fn codes_unused_long_enough_are_replaced_by_latents_and_no_others() {
        let device = Device::flex().autodiff();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let config = RevivalConfig { after_steps: 2, until_step: None };
        let mut revival = Revival::new(config, 10);
        let first = model(&device);
        let id = first.quantize.codebook().unwrap().weight.id;
        let before = table(&first);
        let latents = init::random([1, 3, 4, 4], Distribution::Default, &device);
        let used = Tensor::<1, Int>::arange(0..16, &device).remainder_scalar(7).reshape([1, 4, 4]);
        let (second, rows) = revival.step(first, used.clone(), latents.clone(), &mut rng);
        assert!(rows.is_empty());
        assert_eq!(revival.unused(), 3);
        let (third, rows) = revival.step(second, used, latents.clone(), &mut rng);
        assert_eq!(rows, [7, 8, 9]);
        let after = table(&third);
        assert_eq!(before[..7], after[..7]);
        let candidates = vectors(latents);
        assert!(after[7..].iter().all(|row| candidates.contains(row)));
        assert_ne!(after[7], after[8]);
        assert_eq!(third.quantize.codebook().unwrap().weight.id, id);
        assert!(third.quantize.codebook().unwrap().weight.is_require_grad());
    }

    #[test]
    fn a_latent_far_from_its_code_is_preferred() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let table = [0.5, 0.5, 9.0, 9.0];
        let mut vectors = vec![vec![0.5, 0.5]; 100];
        vectors[42] = vec![0.5, 3.0];
        let chosen = draw_distant(&vectors, &[0; 100], &table, 3, &mut rng);
        assert_eq!(chosen[0], 42);
        assert!(chosen[1] != chosen[2] && chosen.len() == 3);
    }

    #[test]
    fn a_restored_state_continues_identically() {
        let device = Device::flex();
        let config = RevivalConfig { after_steps: 2, until_step: Some(9) };
        let mut revival = Revival::new(config, 10);
        let latents = init::random([1, 3, 4, 4], Distribution::Default, &device);
        let codes = Tensor::<3, Int>::zeros([1, 4, 4], &device);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let (first, _) = revival.step(model(&device), codes.clone(), latents.clone(), &mut rng);
        let text = serde_json::to_string(&revival).unwrap();
        let mut restored: Revival = serde_json::from_str(&text).unwrap();
        let (one, _) =
            revival.step(first.clone(), codes.clone(), latents.clone(), &mut rng.clone());
        let (other, _) = restored.step(first, codes, latents, &mut rng);
        assert_eq!(table(&one), table(&other));
        assert_eq!(revival, restored);
    }

    #[test]
    fn nothing_is_replaced_after_the_last_step() {
        let device = Device::flex();
        let config = RevivalConfig { after_steps: 1, until_step: Some(1) };
        let mut revival = Revival::new(config, 10);
        let latents = init::random([1, 3, 4, 4], Distribution::Default, &device);
        let codes = Tensor::<3, Int>::zeros([1, 4, 4], &device);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let (first, rows) = revival.step(model(&device), codes.clone(), latents.clone(), &mut rng);
        assert_eq!(rows.len(), 9);
        assert!(revival.step(first, codes, latents, &mut rng).1.is_empty());
    }
}
