//! Rotary position embedding in Hugging Face's half-split order (arXiv 2104.09864).

use burn::tensor::{DType, Int, Tensor, TensorData};

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
        let [batch, seq] = positions.dims();
        let device = positions.device();
        let half = head_dim / 2;
        let frequencies: Vec<f32> =
            (0..half).map(|i| theta.powf(-2.0 * i as f64 / head_dim as f64) as f32).collect();
        let frequencies =
            Tensor::<1>::from_data(TensorData::new(frequencies, [half]), &device).cast(DType::F32);
        let positions = positions.float().cast(DType::F32).reshape([batch, seq, 1, 1]);
        let angles = positions * frequencies.reshape([1, 1, 1, half]); // [batch, seq, 1, half]
        Self { cos: angles.clone().cos().cast(dtype), sin: angles.sin().cast(dtype) }
    }

    /// Cosines and sines, `[batch, seq, 1, head_dim / 2]`.
    pub(super) fn tables(&self) -> [Tensor<4>; 2] {
        [self.cos.clone(), self.sin.clone()]
    }
}
