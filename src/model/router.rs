//! The router of a sparse feed-forward layer: which experts each token goes through, and with which weights.
//!
//! Logits and scores are in f32. Sources: Hugging Face `modeling_mixtral.py`, `modeling_qwen3_moe.py`,
//! `modeling_olmoe.py`, `modeling_deepseek_v2.py`, `modeling_deepseek_v3.py`.

use std::ops::Range;

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData, activation};
use vq_tokenizer::init;

use super::{ExpertGroups, ExpertsConfig, RouterScores, ops};

/// Added to the sum that divides the weights of sigmoid scores, as in `modeling_deepseek_v3.py`.
const LEAST_SUM: f64 = 1e-20;

/// The logit of an expert that is closed to a token: its probability is 0, and so are the gradients.
const CLOSED: f32 = -1e30;

/// Chooses a few experts for each token.
#[derive(Module, Debug)]
pub struct Router {
    /// `[experts, hidden]`.
    pub weight: Param<Tensor<2>>,
    /// `[experts]`; added to sigmoid scores for the choice alone, so that no gradient reaches it.
    pub e_score_correction_bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    pub(super) config: ExpertsConfig,
}

/// What a router made of some tokens.
#[derive(Clone, Debug)]
pub struct Routing {
    /// `[tokens, experts]`, in f32.
    pub logits: Tensor<2>,
    /// The experts of each token, ascending, token after token.
    pub experts: Vec<u32>,
    /// Their weights, `[tokens, chosen]`, in f32.
    pub weights: Tensor<2>,
}

impl Router {
    pub(crate) fn new(config: &ExpertsConfig, hidden: usize, std: f64, device: &Device) -> Self {
        let experts = config.num_experts;
        let bias = || Initializer::Zeros.init([experts], device).set_require_grad(false);
        Self {
            weight: init::normal(std, [experts, hidden], device),
            e_score_correction_bias: (config.scores == RouterScores::Sigmoid).then(bias),
            config: config.clone(),
        }
    }

    /// The bias for the choice.
    pub(super) fn selection_bias(&self) -> Option<Vec<f32>> {
        self.e_score_correction_bias.as_ref().map(|bias| bias.val().into_data().iter().collect())
    }

    /// Moves the bias of each expert by `speed`: up if fewer tokens than the mean of its modality's experts went through
    /// it by `loads`, down if more. Without a bias nothing happens.
    pub(super) fn balance(&mut self, speed: f64, loads: &[u64]) {
        let moves = |of: Range<usize>| -> Vec<f32> {
            let loads = &loads[of];
            let mean = loads.iter().sum::<u64>() as f64 / loads.len() as f64;
            let by = |missing: f64| if missing == 0.0 { 0.0 } else { speed * missing.signum() };
            loads.iter().map(|load| by(mean - *load as f64) as f32).collect()
        };
        let moves = self.config.choices().into_iter().flat_map(moves).collect();
        let moves = TensorData::new::<f32, _>(moves, [loads.len()]);
        self.e_score_correction_bias = self.e_score_correction_bias.take().map(|bias| {
            bias.map(|bias| {
                let moves = Tensor::from_data(moves, (&bias.device(), bias.dtype()));
                bias.detach() + moves
            })
        });
    }

    /// The experts of each token. Their numbers are read from the device.
    ///
    /// # Shapes
    /// `x` `[tokens, hidden]`; `closed` `[tokens, experts]`, true for experts that a token must not go through.
    pub fn forward(&self, x: Tensor<2>, closed: Option<&Tensor<2, Bool>>) -> Routing {
        let config = &self.config;
        let [tokens, _] = x.dims();
        let mut logits = ops::linear(x.cast(DType::F32), self.weight.val()); // [tokens, experts]
        if let Some(closed) = closed {
            logits = logits.mask_fill(closed.clone(), CLOSED);
        }
        let scores = match config.scores {
            RouterScores::Softmax => activation::softmax(logits.clone(), 1),
            RouterScores::Sigmoid => activation::sigmoid(logits.clone()),
        };
        let mut ranked = scores.clone().detach();
        if let Some(bias) = &self.e_score_correction_bias {
            ranked = ranked + bias.val().detach().cast(DType::F32).unsqueeze();
        }
        if let Some(closed) = closed {
            ranked = ranked.mask_fill(closed.clone(), f32::NEG_INFINITY);
        }
        let experts = choose(&ranked.into_data().iter().collect::<Vec<f32>>(), config);
        let numbers = experts.iter().map(|&expert| expert as i32).collect();
        let numbers = TensorData::new::<i32, _>(numbers, [tokens, config.num_experts_per_tok]);
        let numbers = Tensor::<2, Int>::from_data(numbers, &scores.device());
        let mut weights = scores.gather(1, numbers); // [tokens, chosen]
        if config.norm_topk_prob {
            let sum = weights.clone().sum_dim(1); // [tokens, 1]
            weights = match config.scores {
                RouterScores::Softmax => weights / sum,
                RouterScores::Sigmoid => weights / (sum + LEAST_SUM),
            };
        }
        if config.routed_scaling_factor != 1.0 {
            weights = weights * config.routed_scaling_factor;
        }
        Routing { logits, experts, weights }
    }
}

/// The experts of each token, ascending, from the numbers that they are ranked by, `[tokens, experts]`.
fn choose(ranked: &[f32], config: &ExpertsConfig) -> Vec<u32> {
    let tokens = ranked.chunks_exact(config.num_experts);
    let of_token = |ranked: &[f32]| {
        best(candidates(ranked, config.groups), ranked, config.num_experts_per_tok)
    };
    tokens.flat_map(of_token).collect()
}

/// The experts of the best groups.
fn candidates(ranked: &[f32], groups: Option<ExpertGroups>) -> Vec<u32> {
    let Some(ExpertGroups { n_group, topk_group, by_two_best }) = groups else {
        return (0..ranked.len() as u32).collect();
    };
    let size = ranked.len() / n_group;
    let of_group = |group: &[f32]| -> f32 {
        let mut group = group.to_vec();
        group.sort_unstable_by(|a, b| b.total_cmp(a));
        group.iter().take(if by_two_best { 2 } else { 1 }).sum()
    };
    let of_groups: Vec<f32> = ranked.chunks_exact(size).map(of_group).collect();
    let chosen = best((0..n_group as u32).collect(), &of_groups, topk_group);
    chosen.into_iter().flat_map(|group| group * size as u32..(group + 1) * size as u32).collect()
}

/// The `count` highest of `candidates`, ascending by number; of equals the first ones.
fn best(mut candidates: Vec<u32>, ranked: &[f32], count: usize) -> Vec<u32> {
    if count < candidates.len() {
        candidates.select_nth_unstable_by(count, |&a, &b| {
            ranked[b as usize].total_cmp(&ranked[a as usize]).then(a.cmp(&b))
        });
        candidates.truncate(count);
    }
    candidates.sort_unstable();
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ExpertLoads;

    fn config(num_experts: usize, num_experts_per_tok: usize) -> ExpertsConfig {
        ExpertsConfig {
            norm_topk_prob: false,
            ..ExpertsConfig::new(num_experts, num_experts_per_tok, 1)
        }
    }

    fn router(experts: &ExpertsConfig, device: &Device) -> Router {
        init::seed(1);
        Router::new(experts, 4, 0.5, device)
    }

    #[test]
    fn a_bias_moves_by_its_speed_against_the_load() {
        let sigmoid = ExpertsConfig { scores: RouterScores::Sigmoid, ..config(4, 2) };
        let mut router = router(&sigmoid, &Device::flex().autodiff());
        router.balance(0.25, &[4, 0, 2, 2]);
        router.balance(0.25, &[1, 0, 0, 3]);
        assert_eq!(router.selection_bias(), Some(vec![-0.25, 0.5, 0.25, -0.25]));
        let bias = router.e_score_correction_bias.as_ref().map(|bias| bias.val());
        assert!(bias.is_some_and(|bias| !bias.is_require_grad() && bias.device().is_autodiff()));
    }

    #[test]
    fn moving_biases_balances_experts_and_leaves_weights_alone() {
        let sigmoid = ExpertsConfig { scores: RouterScores::Sigmoid, ..config(8, 2) };
        let device = Device::flex();
        let mut router = router(&sigmoid, &device);
        // Tokens of one direction, and some noise.
        let noise = |at: usize| ((at * at * 7 + at * 3) % 101) as f32 / 101.0 - 0.5;
        let values = (0..4 * 256).map(|at| 1.0 - (at % 4) as f32 * 0.5 + noise(at)).collect();
        let x = Tensor::<2>::from_data(TensorData::new::<f32, _>(values, [256, 4]), &device);
        let loads = |router: &Router| {
            let routing = [router.forward(x.clone(), None)];
            ExpertLoads::of(&routing, None).layers.remove(0)
        };
        let before = loads(&router);
        let weight = router.weight.val().into_data();
        for _ in 0..200 {
            let loads = loads(&router);
            router.balance(0.005, &loads);
        }
        // The mean is 64.
        let after = loads(&router);
        assert!(before.contains(&0) && before.iter().any(|load| *load > 128), "{before:?}");
        assert!(after.iter().all(|load| (45..84).contains(load)), "{before:?} {after:?}");
        router.weight.val().into_data().assert_eq(&weight, true);
    }

    #[test]
    fn experts_are_the_best_of_the_best_groups() {
        let scores = [0.1, 0.9, 0.5, 0.6, 0.2, 0.2, 0.0, 0.3];
        let chosen = |groups, count| choose(&scores, &ExpertsConfig { groups, ..config(8, count) });
        let groups = |n_group, topk_group, by_two_best| {
            Some(ExpertGroups { n_group, topk_group, by_two_best })
        };
        assert_eq!(chosen(None, 3), [1, 2, 3]);
        assert_eq!(chosen(groups(4, 1, false), 2), [0, 1]);
        assert_eq!(chosen(groups(4, 1, true), 2), [2, 3], "1.1 in place of 1.0");
        assert_eq!(chosen(groups(4, 3, true), 4), [1, 2, 3, 4], "of equals the first");
        assert_eq!(chosen(groups(2, 1, true), 3), [1, 2, 3]);
        let numbers = [f32::NAN, 0.5, f32::NEG_INFINITY, 0.5];
        assert_eq!(choose(&numbers, &config(4, 2)), [0, 1], "anything is chosen without a panic");
    }
}
