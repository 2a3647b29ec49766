//! Operations of sparse layers: products of groups of rows, and the rows of tokens on their way to experts and back. On
//! GPUs all but the products are made of other operations.

use burn::tensor::{Device, Int, Tensor, TensorData};

#[cfg(feature = "cpu")]
use super::cpu;
#[cfg(test)]
use super::forced;
#[cfg(any(feature = "cpu", feature = "gpu"))]
use super::fused;
#[cfg(feature = "gpu")]
use super::gpu;
use super::{Kernels, composed, rows, swiglu};

/// `x_g weight_g^T` for groups of rows that follow each other, `counts` of them. On the CPU outside autodiff a row's
/// result does not depend on the other rows.
///
/// # Shapes
/// `x` `[rows, in]`, `weights` `[groups, out, in]`; returns `[rows, out]`.
pub(crate) fn grouped_linear(x: Tensor<2>, weights: Tensor<3>, counts: &[usize]) -> Tensor<2> {
    match kernels!(grouped_linear on &x; &weights) {
        Kernels::Composed => composed::grouped_linear(x, weights, counts),
        #[cfg(any(feature = "cpu", feature = "gpu"))]
        _ => fused::grouped_linear(x, weights, counts),
    }
}

/// `silu(gate) * up` for rows of a gate and its up, side by side.
///
/// # Shapes
/// `x` `[rows, 2 * intermediate]`; returns `[rows, intermediate]`.
pub(crate) fn swiglu_halves(x: Tensor<2>) -> Tensor<2> {
    match kernels!(swiglu_halves on &x) {
        #[cfg(feature = "cpu")]
        Kernels::Cpu => cpu::swiglu_halves(x),
        _ => {
            let inner = x.dims()[1] / 2;
            let x = x.unsqueeze_dim::<3>(0);
            let [gate, up] = [0, inner].map(|start| x.clone().narrow(2, start, inner));
            swiglu(gate, up).squeeze_dim(0)
        }
    }
}

/// A row for each assignment of a token to an expert: row `places[a]` is that of the token of assignment `a`. Tokens have
/// equally many assignments, which follow each other; every row is one's place. Gradients add up in the order of a token's
/// assignments if their places ascend.
///
/// # Shapes
/// `x` `[tokens, width]`; returns `[places, width]`.
pub(crate) fn dispatch(x: Tensor<2>, places: &[i32]) -> Tensor<2> {
    match kernels!(dispatch on &x) {
        #[cfg(feature = "cpu")]
        Kernels::Cpu => cpu::dispatch(x, places),
        _ => {
            let chosen = places.len() / x.dims()[0];
            let mut tokens = vec![0; places.len()];
            for (assignment, place) in places.iter().enumerate() {
                tokens[*place as usize] = (assignment / chosen) as i32;
            }
            let (tokens, dtype) = (numbers(tokens, &x.device()), x.dtype());
            rows(x, tokens, dtype)
        }
    }
}

/// The weighted sum of the rows of each token's assignments, in their order; `places` as of [`dispatch`].
///
/// # Shapes
/// `x` `[places, width]`, `weights` `[tokens, chosen]`; returns `[tokens, width]`.
pub(crate) fn combine(x: Tensor<2>, weights: Tensor<2>, places: &[i32]) -> Tensor<2> {
    match kernels!(combine on &x, &weights) {
        #[cfg(feature = "cpu")]
        Kernels::Cpu => cpu::combine(x, weights, places),
        _ => {
            let ([tokens, chosen], [_, width]) = (weights.dims(), x.dims());
            let (places, dtype) = (numbers(places.to_vec(), &x.device()), x.dtype());
            let x = rows(x, places, dtype).reshape([tokens, chosen, width]);
            (x * weights.unsqueeze_dim::<3>(2)).sum_dim(1).squeeze_dim(1) // [tokens, width]
        }
    }
}

fn numbers(numbers: Vec<i32>, device: &Device) -> Tensor<1, Int> {
    let len = numbers.len();
    Tensor::from_data(TensorData::new(numbers, [len]), device)
}
