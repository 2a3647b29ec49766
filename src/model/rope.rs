//! Rotary position embedding in Hugging Face's half-split order (arXiv 2104.09864).

use burn::tensor::{DType, Int, Tensor, TensorData};

use super::{ModelConfig, RopeScaling};

/// What the angles of all positions follow from.
#[derive(Clone, Debug)]
pub(super) struct Rotary {
    /// Angles of position 1, `[head_dim / 2]`.
    frequencies: Vec<f32>,
    /// On cosines and sines.
    factor: f64,
}

impl Rotary {
    /// Of a model with the sizes `config`.
    pub(super) fn of(config: &ModelConfig) -> Self {
        Self::new(&config.rope_scaling, config.head_dim(), config.rope_theta)
    }

    fn new(scaling: &RopeScaling, head_dim: usize, theta: f64) -> Self {
        let frequencies = scaling.frequencies(head_dim, theta).into_iter();
        Self { frequencies: frequencies.map(|f| f as f32).collect(), factor: scaling.factor() }
    }
}

/// Cosines and sines of every token's angles, computed once per forward pass.
#[derive(Clone, Debug)]
pub struct Rope {
    cos: Tensor<4>, // [batch, seq, 1, head_dim / 2]
    sin: Tensor<4>, // [batch, seq, 1, head_dim / 2]
}

impl Rope {
    /// The tables of angles `position * theta^(-2 i / head_dim)`, computed in f32 and cast to `dtype`, as
    /// the reference does.
    ///
    /// # Shapes
    /// `positions` `[batch, seq]`.
    pub fn new(positions: Tensor<2, Int>, head_dim: usize, theta: f64, dtype: DType) -> Self {
        Self::of(positions, &Rotary::new(&RopeScaling::Default, head_dim, theta), dtype)
    }

    /// As [`Self::new`], for the angles of `rotary`.
    ///
    /// # Shapes
    /// `positions` `[batch, seq]`.
    pub(super) fn of(positions: Tensor<2, Int>, rotary: &Rotary, dtype: DType) -> Self {
        let [batch, seq] = positions.dims();
        let device = positions.device();
        let half = rotary.frequencies.len();
        let frequencies = TensorData::new(rotary.frequencies.clone(), [half]);
        let frequencies = Tensor::<1>::from_data(frequencies, &device).cast(DType::F32);
        let positions = positions.float().cast(DType::F32).reshape([batch, seq, 1, 1]);
        let angles = positions * frequencies.reshape([1, 1, 1, half]); // [batch, seq, 1, half]
        let scaled = |table: Tensor<4>| {
            let table = if rotary.factor == 1.0 { table } else { table * rotary.factor };
            table.cast(dtype)
        };
        Self { cos: scaled(angles.clone().cos()), sin: scaled(angles.sin()) }
    }

    /// Cosines and sines, `[batch, seq, 1, head_dim / 2]`.
    pub(super) fn tables(&self) -> [Tensor<4>; 2] {
        [self.cos.clone(), self.sin.clone()]
    }
}
