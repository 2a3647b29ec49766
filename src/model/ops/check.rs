//! Whether a device computes what the CPU does: every operation with its gradients on random numbers.

use burn::tensor::{DType, Device, Distribution, Int, Tensor, TensorData};

use kernels::adamw::AdamW;
use vq_tokenizer::{GroupNormOptions, group_norm, init};

use super::{
    HeadNormOf, Lanes, Muon, NormAndRope, adamw, add_rms_norm, attention, cross_entropy,
    grouped_linear, head_norm_rope, linear, muon, paged_attention, rms_norm, rows, sum_of_squares,
    swiglu,
};
use crate::model::{BLOCK, Lane, Rope, mask};

/// How far an operation on a device is from the same one in f32 on the CPU.
#[derive(Clone, Debug)]
pub struct Difference {
    /// What was computed.
    pub operation: &'static str,
    /// The number format on the device.
    pub dtype: DType,
    /// The largest difference of a result or gradient, relative to the largest magnitude among them.
    pub worst: f32,
    /// What rounding explains.
    pub allowed: f32,
}

impl Difference {
    /// Whether the device computes something else.
    pub fn is_wrong(&self) -> bool {
        self.worst.is_nan() || self.worst > self.allowed
    }
}

/// The differences of all operations on `device` in `dtype`: f32, bfloat16 or f16.
///
/// Matrix products in f32 may be computed with the 11 significant bits of TF32.
pub fn differences(device: &Device, dtype: DType) -> Vec<Difference> {
    let (exact, product) = match dtype {
        DType::F32 => (1e-5, 2e-3),
        DType::F16 => (4e-3, 4e-3),
        _ => (2e-2, 2e-2),
    };
    let check = Check { device, dtype };
    let difference = |operation, worst, allowed| Difference { operation, dtype, worst, allowed };
    vec![
        difference("linear", check.linear(), product),
        difference("linear layers of groups", check.grouped_linear(), product),
        difference(
            "attention",
            check.attention([HEADS, KEYS, WIDTH], SEQ, |at| at * at / 900),
            exact,
        ),
        difference(
            "attention, long rows",
            check.attention([32, 16, 32], 600, |at| at / 500),
            exact,
        ),
        difference("RMSNorm", check.rms_norm(), exact),
        difference("sum and RMSNorm", check.add_rms_norm(), exact),
        difference("head norm and RoPE", check.head_norm(), exact),
        difference("RMSNorm of heads and RoPE", check.rms_of_heads(), exact),
        difference("RoPE", check.rope(), exact),
        difference("SwiGLU", check.swiglu(), exact),
        difference("rows of a matrix", check.rows(), exact),
        difference("gradient of the loss", check.cross_entropy(0), exact),
        difference("statistics of the loss", check.cross_entropy(1), exact),
        difference("paged attention", check.paged_attention(), exact),
        difference("GroupNorm and swish", check.group_norm(), exact),
        difference("AdamW", check.adamw(), exact),
        difference("Muon of a wide matrix", check.muon([24, 130]), product),
        difference("Muon of a tall matrix", check.muon([130, 24]), product),
        difference("gradient norm", check.sum_of_squares(), exact),
    ]
}

/// Rows, tokens of a row, query heads, key heads and elements of a head.
const BATCH: usize = 2;
const SEQ: usize = 150;
const HEADS: usize = 4;
const KEYS: usize = 2;
const WIDTH: usize = 64;
const HIDDEN: usize = HEADS * WIDTH;

struct Check<'a> {
    device: &'a Device,
    dtype: DType,
}

impl Check<'_> {
    fn linear(&self) -> f32 {
        let shapes = [BATCH * SEQ * HIDDEN, 300 * HIDDEN];
        self.compare(&shapes, true, |inputs| {
            let x = inputs[0].clone().reshape([BATCH * SEQ, HIDDEN]) * 0.06;
            linear(x, inputs[1].clone().reshape([300, HIDDEN]))
        })
    }

    fn grouped_linear(&self) -> f32 {
        let counts = [7, 0, 150, 143];
        let shapes = [BATCH * SEQ * HIDDEN, counts.len() * 64 * HIDDEN];
        self.compare(&shapes, true, |inputs| {
            let x = inputs[0].clone().reshape([BATCH * SEQ, HIDDEN]) * 0.06;
            grouped_linear(x, inputs[1].clone().reshape([counts.len(), 64, HIDDEN]), &counts)
        })
    }

    /// Of query heads, key heads and elements of a head; `document` is that of a token.
    fn attention(
        &self,
        [heads, keys, width]: [usize; 3],
        seq: usize,
        document: impl Fn(u32) -> u32,
    ) -> f32 {
        let documents: Vec<u32> = (0..(BATCH * seq) as u32).map(document).collect();
        let sizes = [heads, keys, keys].map(|heads| BATCH * heads * seq * width);
        self.compare(&sizes, true, |inputs| {
            let of = |at: usize, heads| inputs[at].clone().reshape([BATCH, heads, seq, width]);
            let v = inputs[2].clone().reshape([BATCH, seq, keys, width]).swap_dims(1, 2);
            let mask = mask::packed(&documents, BATCH, &inputs[0].device());
            attention(of(0, heads) * 0.125, of(1, keys), v, &mask)
        })
    }

    fn rms_norm(&self) -> f32 {
        self.compare(&[BATCH * SEQ * HIDDEN, HIDDEN], true, |inputs| {
            let x = inputs[0].clone().reshape([BATCH, SEQ, HIDDEN]);
            rms_norm(x, inputs[1].clone(), 1e-5)
        })
    }

    fn add_rms_norm(&self) -> f32 {
        let size = BATCH * SEQ * HIDDEN;
        self.compare(&[size, size, HIDDEN], false, |inputs| {
            let of = |at: usize| inputs[at].clone().reshape([BATCH, SEQ, HIDDEN]);
            Tensor::cat(add_rms_norm(of(0), of(1), inputs[2].clone(), 1e-5).to_vec(), 0)
        })
    }

    fn head_norm(&self) -> f32 {
        self.norm_of_heads(&[HIDDEN, HIDDEN], |weights| layer_norm([&weights[0], &weights[1]]))
    }

    fn rms_of_heads(&self) -> f32 {
        self.norm_of_heads(&[WIDTH], |weights| HeadNormOf::Rms { weight: weights[0].clone() })
    }

    fn rope(&self) -> f32 {
        self.norm_of_heads(&[], |_| HeadNormOf::None)
    }

    /// Of a norm with weights of `sizes`.
    fn norm_of_heads(&self, sizes: &[usize], norm: impl Fn(&[Tensor<1>]) -> HeadNormOf) -> f32 {
        let sizes = [&[BATCH * SEQ * HIDDEN], sizes].concat();
        self.compare(&sizes, true, |inputs| {
            let positions = Tensor::<1, Int>::arange(0..(BATCH * SEQ) as i64, &inputs[0].device());
            let positions = positions.reshape([BATCH, SEQ]);
            let rope = Rope::new(positions, WIDTH, 10_000.0, inputs[0].dtype());
            let x = inputs[0].clone().reshape([BATCH, SEQ, HEADS, WIDTH]);
            head_norm_rope(x, norm_and_rope(norm(&inputs[1..]), &rope))
        })
    }

    fn swiglu(&self) -> f32 {
        self.compare(&[BATCH * SEQ * HIDDEN; 2], true, |inputs| {
            let of = |at: usize| inputs[at].clone().reshape([BATCH, SEQ, HIDDEN]);
            swiglu(of(0), of(1))
        })
    }

    fn group_norm(&self) -> f32 {
        let options = GroupNormOptions { groups: 8, epsilon: 1e-6, swish: true };
        self.compare(&[2 * 40 * 23 * 31, 40, 40], true, |inputs| {
            let x = inputs[0].clone().reshape([2, 40, 23, 31]);
            // Both are in f32 in every tokenizer.
            let of = |at: usize| inputs[at].clone().cast(DType::F32);
            group_norm(x, of(1), of(2), options)
        })
    }

    fn rows(&self) -> f32 {
        let numbers: Vec<i32> = (0..SEQ as i32).map(|at| at * at % 90).collect();
        self.compare(&[90 * HIDDEN], true, |inputs| {
            let numbers = indices(&numbers, &inputs[0].device());
            rows(inputs[0].clone().reshape([90, HIDDEN]), numbers, inputs[0].dtype())
        })
    }

    /// The gradient, or the statistics.
    fn cross_entropy(&self, place: usize) -> f32 {
        let targets: Vec<i32> = (0..SEQ as i32).map(|at| at * 7 % 999).collect();
        self.compare(&[SEQ * 999], false, |inputs| {
            let device = inputs[0].device();
            let weights = Tensor::from_data([1.0f32; SEQ], (&device, DType::F32));
            let logits = inputs[0].clone().reshape([SEQ, 999]);
            let (gradient, stats) = cross_entropy(logits, indices(&targets, &device), weights, 0.1);
            [gradient.cast(DType::F32), stats][place].clone()
        })
    }

    /// Two lanes, whose tokens begin in the midst of a block.
    fn paged_attention(&self) -> f32 {
        let lanes = [
            Lane { blocks: &[3, 1], start: 70, rows: 2 },
            Lane { blocks: &[0, 2], start: 1, rows: 80 },
        ];
        let page = KEYS * WIDTH * BLOCK;
        let (q, k) = (HEADS * WIDTH, KEYS * WIDTH);
        let sizes = [82 * q, 82 * k, 82 * k, 4 * page, 4 * page, q, q, k, k];
        self.compare(&sizes, false, |inputs| {
            let of = |at: usize, shape: [usize; 4]| inputs[at].clone().reshape(shape);
            let q = of(0, [1, 82, HEADS, WIDTH]);
            let kv = [1, 2].map(|at| of(at, [1, 82, KEYS, WIDTH]));
            let keys = of(3, [4, KEYS, WIDTH, BLOCK]);
            let values = of(4, [4, KEYS, BLOCK, WIDTH]);
            let positions = (70..72).chain(1..81).collect::<Vec<i32>>();
            let positions = indices(&positions, &inputs[0].device()).reshape([1, 82]);
            let rope = Rope::new(positions, WIDTH, 10_000.0, inputs[0].dtype());
            let norms =
                [5, 7].map(|at| norm_and_rope(layer_norm([&inputs[at], &inputs[at + 1]]), &rope));
            let [k, v] = kv;
            paged_attention([q, k, v], norms, [keys, values], &Lanes::new(&lanes)).0
        })
    }

    /// Of a weight that another tensor shares, with rows that are no multiple of a cache line.
    fn adamw(&self) -> f32 {
        let update = AdamW {
            betas: [0.9, 0.95],
            eps: 1e-5,
            gradient_scale: 0.5,
            corrections: [0.19, 0.0975],
            lr: 0.1,
            decay: 0.1,
        };
        self.compare(&[33 * 31; 4], false, |inputs| {
            let of = |at: usize| inputs[at].clone().cast(DType::F32);
            let moments = [of(1), of(2).square()];
            let (weight, moments) = adamw(update, of(0).reshape([33, 31]), moments, of(3));
            Tensor::cat([vec![weight.reshape([33 * 31])], moments.to_vec()].concat(), 0)
        })
    }

    /// Of a weight that another tensor shares.
    fn muon(&self, shape: [usize; 2]) -> f32 {
        let (size, update) = (24 * 130, Muon { gradient_scale: 0.5, lr: 1.0, decay: 0.1 });
        self.compare(&[size; 3], false, |inputs| {
            let of = |at: usize| inputs[at].clone().cast(DType::F32);
            let (weight, momentum) = muon(update, of(0).reshape(shape), of(1), of(2));
            Tensor::cat(vec![weight.reshape([size]), momentum], 0)
        })
    }

    fn sum_of_squares(&self) -> f32 {
        self.compare(&[5, 70_000], false, |inputs| {
            sum_of_squares(inputs.to_vec()).expect("there are tensors").cast(DType::F32)
        })
    }

    /// The largest difference of what `run` makes of random inputs of `sizes`, and of its gradients if it has any.
    fn compare<const D: usize>(
        &self,
        sizes: &[usize],
        is_differentiable: bool,
        run: impl Fn(&[Tensor<1>]) -> Tensor<D>,
    ) -> f32 {
        let flex = Device::flex();
        // As the device's number format holds them.
        let random = |len: usize| {
            let numbers = init::random([len], Distribution::Normal(0.0, 1.0), &flex);
            numbers.cast(self.dtype).cast(DType::F32)
        };
        let inputs: Vec<_> = sizes.iter().map(|len| random(*len)).collect();
        let mut weights = None;
        let mut found = |device: &Device, dtype: DType| -> Vec<Vec<f32>> {
            let device = if is_differentiable { device.clone().autodiff() } else { device.clone() };
            let leaf = |x: &Tensor<1>| {
                let leaf = Tensor::<1>::from_data(x.to_data(), (&device, dtype));
                if is_differentiable { leaf.require_grad() } else { leaf }
            };
            let leaves: Vec<_> = inputs.iter().map(leaf).collect();
            let y = run(&leaves);
            let mut results = vec![host(&y)];
            if is_differentiable {
                let weights = weights.get_or_insert_with(|| random(y.shape().num_elements()));
                let weights = Tensor::<1>::from_data(weights.to_data(), (&device, dtype));
                let weighted = y.clone() * weights.reshape(y.dims());
                let gradients = weighted.cast(DType::F32).sum().backward();
                let of = |leaf: &Tensor<1>| leaf.grad(&gradients).map_or(Vec::new(), |g| host(&g));
                results.extend(leaves.iter().map(of));
            }
            results
        };
        let (want, got) = (found(&flex, DType::F32), found(self.device, self.dtype));
        let errors = got.iter().zip(&want).map(|(got, want)| error(got, want));
        errors.fold(0.0, |worst, error| if error.is_nan() { error } else { worst.max(error) })
    }
}

fn indices(values: &[i32], device: &Device) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), (device, DType::I32))
}

fn host<const D: usize>(x: &Tensor<D>) -> Vec<f32> {
    x.to_data().iter().collect()
}

/// Largest difference relative to the largest magnitude of `want`; NaN if there is one, or values are missing.
fn error(got: &[f32], want: &[f32]) -> f32 {
    if got.len() != want.len() || got.iter().any(|value| value.is_nan()) {
        return f32::NAN;
    }
    let largest = want.iter().map(|w| w.abs()).fold(f32::MIN_POSITIVE, f32::max);
    got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0.0, f32::max) / largest
}

fn norm_and_rope(norm: HeadNormOf, rope: &Rope) -> NormAndRope {
    NormAndRope { norm, cos_and_sin: rope.tables(), scale: 0.125, eps: 1e-5 }
}

/// Of a weight and bias, each `[heads * WIDTH]`.
fn layer_norm(weight_and_bias: [&Tensor<1>; 2]) -> HeadNormOf {
    let rows = |x: &Tensor<1>| x.clone().reshape([x.dims()[0] / WIDTH, WIDTH]);
    let [weight, bias] = weight_and_bias.map(rows);
    HeadNormOf::LayerNorm { weight, bias }
}

#[cfg(test)]
mod tests {
    use super::super::forced;
    use super::*;

    #[test]
    fn every_device_at_hand_computes_what_the_cpu_does() {
        let gpu = forced::gpu()
            .into_iter()
            .flat_map(|(_, gpu)| [DType::F32, DType::F16].map(|dtype| (gpu.clone(), dtype)));
        for (device, dtype) in std::iter::once((Device::flex(), DType::F32)).chain(gpu) {
            for difference in differences(&device, dtype) {
                assert!(!difference.is_wrong(), "{difference:?}");
            }
        }
    }

    #[test]
    fn a_difference_shows_and_so_does_a_missing_number() {
        let difference =
            |worst| Difference { operation: "", dtype: DType::F32, worst, allowed: 1e-5 };
        assert!(!difference(1e-6).is_wrong() && difference(1e-3).is_wrong());
        assert!(difference(error(&[1.0, f32::NAN], &[1.0, 2.0])).is_wrong());
        assert!(difference(error(&[1.0], &[1.0, 2.0])).is_wrong());
        assert!((error(&[1.0, 2.2], &[1.0, 2.0]) - 0.1).abs() < 1e-6);
    }
}
