//! Low-rank factors of linear layers and embeddings.

use burn::module::{Initializer, Module, Param};
use burn::nn::{Dropout, DropoutConfig};
use burn::tensor::{DType, Device, Int, Tensor};
use vq_tokenizer::init;

use super::config::{AdapterConfig, InitKind};
use super::plan::Factors;
use crate::model::ops;
use crate::model::product::product;

/// The factors of a linear layer: `W + scale B A`, and with a magnitude `m` for each output
/// `m (W + scale B A) / ||W + scale B A||`, the norm over the inputs.
#[derive(Module, Debug)]
pub struct LowRank {
    /// `[rank, in]`.
    pub a: Param<Tensor<2>>,
    /// `[out, rank]`.
    pub b: Param<Tensor<2>>,
    /// `[out]`; DoRA's, arXiv 2402.09353 equation 5.
    pub magnitude: Option<Param<Tensor<1>>>,
    dropout: Dropout,
    scale: f64,
}

impl LowRank {
    /// The factors at the start of training, for a layer with the weight `weight`.
    ///
    /// # Shapes
    /// `weight` `[out, in]`.
    pub(super) fn new(factors: &Factors, config: &AdapterConfig, weight: &Tensor<2>) -> Self {
        let ([outputs, inputs], device) = (weight.dims(), weight.device());
        let (rank, root) = (factors.rank, (inputs as f64).sqrt().recip());
        let shape = [rank, inputs];
        let a = match config.init_lora_weights {
            InitKind::Uniform | InitKind::Random => init::uniform(root, shape, &device),
            InitKind::Gaussian => init::normal((rank as f64).recip(), shape, &device),
        };
        let b = [outputs, rank];
        let b = match config.init_lora_weights {
            InitKind::Random => init::uniform((rank as f64).sqrt().recip(), b, &device),
            InitKind::Uniform | InitKind::Gaussian => Initializer::Zeros.init(b, &device),
        };
        let mut new = Self::of(factors, config, [a, b]);
        if factors.magnitude {
            let norms = new.norms(weight.clone());
            let norms = if device.is_autodiff() { norms.require_grad() } else { norms };
            new.magnitude = Some(Param::from_tensor(norms));
        }
        new
    }

    fn of(factors: &Factors, config: &AdapterConfig, [a, b]: [Param<Tensor<2>>; 2]) -> Self {
        let dropout = DropoutConfig::new(config.lora_dropout).init();
        Self { a, b, magnitude: None, dropout, scale: factors.scale }
    }

    /// Factors that are known, outside of training.
    ///
    /// # Shapes
    /// `a` `[rank, in]`, `b` `[out, rank]`, `magnitude` `[out]`.
    pub fn known(a: Tensor<2>, b: Tensor<2>, magnitude: Option<Tensor<1>>, scale: f64) -> Self {
        Self {
            a: Param::from_tensor(a),
            b: Param::from_tensor(b),
            magnitude: magnitude.map(Param::from_tensor),
            dropout: DropoutConfig::new(0.0).init(),
            scale,
        }
    }

    /// The layer's output: `x W^T + scale (x A^T) B^T`, scaled by magnitudes if there are any.
    ///
    /// # Shapes
    /// `x` `[batch, seq, in]`, `weight` `[out, in]`; returns `[batch, seq, out]`.
    pub(crate) fn forward(&self, x: Tensor<3>, weight: Tensor<2>) -> Tensor<3> {
        if !self.drops(&x) {
            // The input is not reshaped, so that what computes it again is known.
            let factors = [self.a.val(), self.b.val()];
            let y = ops::low_rank_linear(x, weight.clone(), factors, self.scale);
            return match &self.magnitude {
                Some(magnitude) => scaled(y, self.factor(magnitude, weight)),
                None => y,
            };
        }
        let dropped = self.dropout.forward(x.clone());
        let low = product(dropped.clone(), self.a.val()) * self.scale; // [batch, seq, rank]
        let change = product(low, self.b.val());
        let Some(magnitude) = &self.magnitude else { return product(x, weight) + change };
        let factor = self.factor(magnitude, weight.clone());
        // PEFT computes the change of the base's output from the dropped input too.
        let base = scaled(product(dropped, weight.clone()), factor.clone() - 1.0);
        product(x, weight) + base + scaled(change, factor)
    }

    /// The magnitude of each output divided by the norm of its weights, which is a constant of the backward pass; in f32.
    fn factor(&self, magnitude: &Param<Tensor<1>>, weight: Tensor<2>) -> Tensor<3> {
        (magnitude.val() / self.norms(weight)).reshape([1, 1, -1])
    }

    /// The norm of every row of `W + scale B A`. It is computed outside autodiff, which would keep whole matrices.
    fn norms(&self, weight: Tensor<2>) -> Tensor<1> {
        let on_tape = weight.device().is_autodiff();
        let [a, b] = [self.a.val(), self.b.val()].map(off_tape);
        let norms = row_norms(&(off_tape(weight).cast(DType::F32) + b.matmul(a * self.scale)));
        if on_tape { Tensor::from_inner(norms) } else { norms }
    }

    /// The layer's weight with the factors merged into it, in f32.
    ///
    /// # Shapes
    /// `weight` `[out, in]`; returns the same.
    pub fn merge(&self, weight: Tensor<2>) -> Tensor<2> {
        let sum = self.sum(weight.clone());
        match &self.magnitude {
            Some(magnitude) => {
                let factor = magnitude.val() / self.norms(weight);
                sum * factor.unsqueeze_dim::<2>(1)
            }
            None => sum,
        }
    }

    /// `W + scale B A` in f32.
    fn sum(&self, weight: Tensor<2>) -> Tensor<2> {
        let product = self.b.val().matmul(self.a.val() * self.scale);
        weight.cast(DType::F32) + product
    }

    /// Whether training drops entries of the input at random.
    pub(crate) fn has_dropout(&self) -> bool {
        self.dropout.prob > 0.0
    }

    /// Whether entries of `x` are dropped.
    fn drops(&self, x: &Tensor<3>) -> bool {
        self.has_dropout() && x.device().is_autodiff()
    }
}

/// The tensor outside autodiff.
fn off_tape(tensor: Tensor<2>) -> Tensor<2> {
    if tensor.device().is_autodiff() { tensor.inner() } else { tensor }
}

/// `y` in its number format, multiplied by a factor for each output in f32.
fn scaled(y: Tensor<3>, factor: Tensor<3>) -> Tensor<3> {
    let dtype = y.dtype();
    (y.cast(DType::F32) * factor).cast(dtype)
}

/// The norm of every row.
fn row_norms(matrix: &Tensor<2>) -> Tensor<1> {
    let rows = matrix.dims()[0];
    (matrix.clone() * matrix.clone()).sum_dim(1).sqrt().reshape([rows])
}

/// The factors of an embedding `E`: `E + scale (B A)^T`.
#[derive(Module, Debug)]
pub struct LowRankEmbedding {
    /// `[rank, vocab]`.
    pub a: Param<Tensor<2>>,
    /// `[hidden, rank]`.
    pub b: Param<Tensor<2>>,
    scale: f64,
}

impl LowRankEmbedding {
    /// The factors at the start of training.
    pub(super) fn new(factors: &Factors, config: &AdapterConfig, device: &Device) -> Self {
        let [vocab, hidden] = factors.shape;
        let a = [factors.rank, vocab];
        let a = match config.init_lora_weights {
            InitKind::Random => init::normal(1.0, a, device),
            InitKind::Uniform | InitKind::Gaussian => Initializer::Zeros.init(a, device),
        };
        Self { a, b: init::normal(1.0, [hidden, factors.rank], device), scale: factors.scale }
    }

    /// Factors that are known, outside of training.
    ///
    /// # Shapes
    /// `a` `[rank, vocab]`, `b` `[hidden, rank]`.
    pub fn known(a: Tensor<2>, b: Tensor<2>, scale: f64) -> Self {
        Self { a: Param::from_tensor(a), b: Param::from_tensor(b), scale }
    }

    /// What is added to the rows of `ids`, in `dtype`.
    ///
    /// # Shapes
    /// `ids` `[len]`; returns `[len, hidden]`.
    pub(crate) fn rows(&self, ids: Tensor<1, Int>, dtype: DType) -> Tensor<2> {
        let low = ops::rows(self.a.val().transpose(), ids, dtype); // [len, rank]
        ops::linear(low * self.scale, self.b.val())
    }

    /// The embedding with the factors merged into it, in f32.
    ///
    /// # Shapes
    /// `weight` `[vocab, hidden]`; returns the same.
    pub fn merge(&self, weight: Tensor<2>) -> Tensor<2> {
        let product = self.b.val().matmul(self.a.val() * self.scale);
        weight.cast(DType::F32) + product.transpose()
    }
}
