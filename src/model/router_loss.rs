//! Losses of routers: load balancing (arXiv 2101.03961 equation 4, as Hugging Face's `load_balancing_loss_func`) and the
//! router z-loss (arXiv 2202.08906 equation 5).

use std::ops::Range;

use burn::tensor::{Tensor, TensorData, activation};

use super::loads::ExpertLoads;
use super::router::Routing;

/// `balance E sum_e f_e P_e + z mean(logsumexp(logits)^2)` over the tokens of several layers together: `f_e` is how many
/// tokens of one go through expert `e`, `P_e` its mean probability. If all experts are equal, the first sum is the
/// number of experts of a token. With experts of modalities there is such a sum for each, with the number `E` of its
/// experts and `f_e` of its tokens; equal experts give the same value, whatever the share of a modality.
///
/// Gradients do not go through `f_e`, so the loss is a sum of one part for each layer, and each part one over
/// [`Self::sums`] times factors. `f_e` may be of more tokens than `P_e`.
#[derive(Clone, Debug)]
pub struct RouterLoss {
    /// On each of the sums of a layer.
    factors: Vec<f32>,
    /// 1 for tokens that count, else 0.
    mask: Option<Vec<f32>>,
}

impl RouterLoss {
    /// The load-balancing loss of `layers`, whose tokens may choose any expert, over those for which `counted` is true,
    /// `None` for all.
    pub fn balance(layers: &[Routing], counted: Option<&[bool]>) -> Self {
        let loads = ExpertLoads::of(layers, counted);
        let all = Range { start: 0, end: loads.layers.first().map_or(0, Vec::len) };
        Self::new(&loads, &[all], loads.tokens, counted, [1.0, 0.0])
    }

    /// The part of the tokens for which `counted` is true, `None` for all, in the losses over `tokens` tokens, with `f_e`
    /// of `loads`; `balance` and `z` are factors, `choices` those of the configuration.
    pub fn new(
        loads: &ExpertLoads,
        choices: &[Range<usize>],
        tokens: usize,
        counted: Option<&[bool]>,
        [balance, z]: [f64; 2],
    ) -> Self {
        let layers = loads.layers.len();
        let [counts, summed] = [loads.tokens, tokens].map(|of| (of * layers).max(1) as f64);
        let load = |of: Range<usize>| -> f64 {
            loads.layers.iter().flat_map(|loads| &loads[of.clone()]).sum::<u64>() as f64
        };
        let chosen = choices.iter().cloned().map(load).sum::<f64>() / counts; // experts of a token
        let of_choice = |choice: &Range<usize>| {
            let tokens = load(choice.clone()) / chosen;
            let scale = balance * choice.len() as f64 / summed;
            choice.clone().map(move |expert| match tokens > 0.0 {
                true => (scale * load(Range { start: expert, end: expert + 1 }) / tokens) as f32,
                false => 0.0,
            })
        };
        let factors = choices.iter().flat_map(of_choice);
        let factors = factors.chain([0.0, (z / summed) as f32, 0.0]).collect();
        let mask = |counted: &[bool]| counted.iter().map(|&counted| f32::from(counted)).collect();
        Self { factors, mask: counted.map(mask) }
    }

    /// Sums over the counted tokens of one of the layers: of each expert's probability, of `logsumexp(logits)`, of its
    /// square, and of the largest weight. The last is off the tape, and so are all if the loss has no factor.
    ///
    /// # Shapes
    /// Returns `[experts + 3]`.
    pub fn sums(&self, layer: &Routing) -> Tensor<1> {
        let device = layer.logits.device();
        let column = |mask: &Vec<f32>| {
            Tensor::<2>::from_data(TensorData::new(mask.clone(), [mask.len(), 1]), &device)
        };
        let mask = self.mask.as_ref().map(column);
        let logits = layer.logits.clone();
        let logits = if self.is_zero() { logits.detach() } else { logits };
        sums(logits, layer.weights.clone().detach(), mask)
    }

    /// Whether it adds nothing.
    pub fn is_zero(&self) -> bool {
        self.factors.iter().all(|factor| *factor == 0.0)
    }

    /// The part of a layer with these sums.
    ///
    /// # Shapes
    /// Returns `[1]`.
    pub fn part(&self, sums: Tensor<1>) -> Tensor<1> {
        let factors = TensorData::new(self.factors.clone(), [self.factors.len()]);
        let factors = Tensor::from_data(factors, &sums.device());
        (sums * factors).sum()
    }

    /// The loss over `layers`, of which it is.
    ///
    /// # Shapes
    /// Returns `[1]`.
    ///
    /// # Panics
    /// Without layers.
    pub fn total(&self, layers: &[Routing]) -> Tensor<1> {
        let parts = layers.iter().map(|layer| self.part(self.sums(layer)));
        parts.reduce(|sum, part| sum + part).expect("a sparse layer")
    }

    /// The value of a part from the numbers of [`Self::sums`].
    pub fn value(&self, sums: &[f64]) -> f64 {
        self.factors.iter().zip(sums).map(|(factor, sum)| f64::from(*factor) * sum).sum()
    }
}

/// [`RouterLoss::sums`] of tokens with these logits and weights, each times its entry of `mask` if there is one.
///
/// # Shapes
/// `logits` `[tokens, experts]`, `weights` `[tokens, chosen]`, `mask` `[tokens, 1]`; returns `[experts + 3]`.
fn sums(logits: Tensor<2>, weights: Tensor<2>, mask: Option<Tensor<2>>) -> Tensor<1> {
    let highest = logits.clone().detach().max_dim(1); // [tokens, 1]
    let log_sum_exp = (logits.clone() - highest.clone()).exp().sum_dim(1).log() + highest;
    let probabilities = activation::softmax(logits, 1);
    let columns = [probabilities, log_sum_exp.clone(), log_sum_exp.square(), weights.max_dim(1)];
    let mut columns = Tensor::cat(columns.into(), 1); // [tokens, experts + 3]
    if let Some(mask) = mask {
        columns = columns * mask;
    }
    columns.sum_dim(0).squeeze_dim(0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use burn::tensor::Device;

    use super::*;

    /// Any of four experts.
    const ALL: [Range<usize>; 1] = [Range { start: 0, end: 4 }];

    fn routing(logits: Vec<f32>, experts: Vec<u32>, device: &Device) -> Routing {
        let tokens = experts.len() / 2;
        let shape = [tokens, logits.len() / tokens];
        let logits = Tensor::from_data(TensorData::new(logits, shape), device);
        Routing { logits, experts, weights: Tensor::ones([tokens, 2], device) }
    }

    fn numbers(x: Tensor<1>) -> Vec<f64> {
        x.into_data().iter().collect()
    }

    #[test]
    fn the_loss_of_equal_experts_is_the_number_of_experts_of_a_token() {
        let device = Device::flex();
        let layer = routing(vec![0.0; 16], vec![0, 1, 2, 3, 0, 2, 1, 3], &device);
        let loss = |layers: &[Routing], counted: Option<&[bool]>| {
            RouterLoss::balance(layers, counted).total(layers).into_scalar::<f32>()
        };
        assert!((loss(&[layer.clone(), layer.clone()], None) - 2.0).abs() < 1e-6);
        let logits = [2.0, 0.0, 0.0, 0.0].repeat(4);
        let skewed = routing(logits, vec![0, 1, 0, 1, 0, 1, 2, 3], &device);
        let counted = [true, true, true, false];
        let exp = 2f32.exp();
        let [first, other] = [exp, 1.0].map(|exp_of| exp_of / (exp + 3.0));
        assert!((loss(&[skewed], Some(&counted)) - 4.0 * (first + other)).abs() < 1e-6);
    }

    /// Logits of four tokens and four experts, and the choices.
    fn tokens() -> (Vec<f32>, Vec<u32>) {
        let logits = (0..16).map(|at| ((at * 7 % 16) as f32 * 0.3).sin() * 2.0).collect();
        (logits, vec![0, 1, 0, 3, 1, 2, 0, 2])
    }

    #[test]
    fn losses_and_gradients_are_those_of_a_plain_computation() {
        let device = Device::flex().autodiff();
        let (logits, experts) = tokens();
        let counted = [true, false, true, true];
        let plain = |logits: &[f64]| {
            let rows = logits.chunks(4).zip(counted).filter(|(_, counted)| *counted);
            // Loads of the tokens that count: two of the first three experts, none of the fourth.
            let (loads, mut sum) = ([2.0, 2.0, 2.0, 0.0], 0.0);
            for (row, _) in rows {
                let all: f64 = row.iter().map(|x| x.exp()).sum();
                let mean = |expert: usize| row[expert].exp() / all / 3.0;
                let balance: f64 = (0..4).map(|at| 4.0 * loads[at] / 3.0 * mean(at)).sum();
                sum += 0.5 * balance + 0.25 * all.ln() * all.ln() / 3.0;
            }
            sum
        };
        let mut layer = routing(logits.clone(), experts, &device);
        layer.logits = layer.logits.require_grad();
        let layers = [layer];
        let loads = ExpertLoads::of(&layers, Some(&counted));
        assert_eq!((loads.layers[0].as_slice(), loads.tokens), (&[2, 2, 2, 0][..], 3));
        let loss = RouterLoss::new(&loads, &ALL, 3, Some(&counted), [0.5, 0.25]);
        let total = loss.total(&layers);
        let at: Vec<f64> = logits.iter().map(|x| f64::from(*x)).collect();
        let sums = numbers(loss.sums(&layers[0]));
        for got in [f64::from(total.clone().into_scalar::<f32>()), loss.value(&sums)] {
            assert!((got - plain(&at)).abs() < 1e-6, "{got} {}", plain(&at));
        }
        let found = layers[0].logits.grad(&total.backward()).unwrap();
        for (place, got) in found.into_data().iter::<f64>().enumerate() {
            let moved = |step: f64| {
                let mut moved = at.clone();
                moved[place] += step;
                plain(&moved)
            };
            let want = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            assert!((got - want).abs() < 1e-6, "{place}: {got} {want}");
        }
    }

    /// Two halves of a batch: the second with the loads of both has the gradients of the whole; the first, whose loads
    /// are its own, has others; the z-loss and the probabilities of the halves add up.
    #[test]
    fn halves_with_the_loads_so_far_end_in_the_loss_of_the_whole() {
        let device = Device::flex().autodiff();
        let (logits, experts) = tokens();
        let of = |range: std::ops::Range<usize>| {
            let logits = logits[range.start * 4..range.end * 4].to_vec();
            let mut layer =
                routing(logits, experts[range.start * 2..range.end * 2].into(), &device);
            layer.logits = layer.logits.require_grad();
            [layer]
        };
        let gradient = |layers: &[Routing], loads: &ExpertLoads, factors| {
            let total = RouterLoss::new(loads, &ALL, 4, None, factors).total(layers);
            let value = f64::from(total.clone().into_scalar::<f32>());
            let found = layers[0].logits.grad(&total.backward()).unwrap();
            (value, found.into_data().iter::<f32>().collect::<Vec<f32>>())
        };
        let (whole, first, second) = (of(0..4), of(0..2), of(2..4));
        let all = ExpertLoads::of(&whole, None);
        let mut so_far = ExpertLoads::of(&first, None);
        let early = so_far.clone();
        so_far += &ExpertLoads::of(&second, None);
        assert_eq!(so_far, all, "loads add up");

        let (value, want) = gradient(&whole, &all, [1.0, 0.0]);
        let (_, last) = gradient(&second, &so_far, [1.0, 0.0]);
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(close(&last, &want[8..]), "{last:?} {want:?}");
        let (_, begun) = gradient(&first, &early, [1.0, 0.0]);
        assert!(!close(&begun, &want[..8]), "the first half knows its own loads only");
        let with_all = [&first, &second].map(|half| gradient(half, &all, [1.0, 0.0]));
        assert!((with_all[0].0 + with_all[1].0 - value).abs() < 1e-6);

        let (value, want) = gradient(&whole, &all, [0.0, 1.0]);
        let parts = [(&first, &early), (&second, &so_far)];
        let parts = parts.map(|(half, loads)| gradient(half, loads, [0.0, 1.0]));
        assert!((parts[0].0 + parts[1].0 - value).abs() < 1e-6);
        assert!(close(&[parts[0].1.clone(), parts[1].1.clone()].concat(), &want));
    }
}
