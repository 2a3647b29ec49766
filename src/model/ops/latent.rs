//! Operations of latent attention: products with a weight of every head, and attention to latents in a paged cache.

use std::ops::Range;

use burn::tensor::Tensor;

#[cfg(feature = "cpu")]
use super::cpu;
#[cfg(test)]
use super::forced;
#[cfg(feature = "gpu")]
use super::gpu;
use super::{Kernels, Lanes, composed, paged};

/// `x W` with the rows `part` of every head's weight, outside autodiff. On the CPU in f32 a row's result does not depend on
/// the other rows.
///
/// # Shapes
/// `x` `[rows, heads, part]`, `weight` `[heads, out, in]`; returns `[rows, heads, in]`.
pub(crate) fn head_product(x: Tensor<3>, weight: Tensor<3>, part: Range<usize>) -> Tensor<3> {
    match kernels!(head_product on &x; &weight) {
        #[cfg(feature = "cpu")]
        Kernels::Cpu => cpu::head_product(x, weight, part),
        _ => composed::head_product(x, weight, part),
    }
}

/// `x W^T` with the rows `part` of every head's weight, outside autodiff. On the CPU in f32 a row's result does not depend
/// on the other rows.
///
/// # Shapes
/// `x` `[rows, heads, in]`, `weight` `[heads, out, in]`; returns `[rows, heads, part]`.
pub(crate) fn head_linear(x: Tensor<3>, weight: Tensor<3>, part: Range<usize>) -> Tensor<3> {
    match kernels!(head_linear on &x; &weight) {
        #[cfg(feature = "cpu")]
        Kernels::Cpu => cpu::head_linear(x, weight, part),
        _ => composed::head_linear(x, weight, part),
    }
}

/// Lets new queries attend to their lanes' keys in a paged cache, to which those of the new tokens are written first;
/// outside autodiff. A key of all heads is a latent and a rotated key, and its value is the latent. A token sees its lane's
/// tokens up to itself. The buffers are written in place if they share their memory with no other tensor.
///
/// On the CPU in f32 a row's result does not depend on the other rows and lanes of the pass.
///
/// # Shapes
/// For latents and for rotated keys: scaled queries `q` `[rows, heads, width]` and `[heads, rows, width]`, `new` parts
/// `[rows, width]`, in the cache `[blocks, 1, BLOCK, width]`. Returns `[1, rows, heads * latent width]` and the cache.
pub(crate) fn latent_attention(
    q: [Tensor<3>; 2],
    new: [Tensor<2>; 2],
    cache: [Tensor<4>; 2],
    lanes: &Lanes<'_>,
) -> (Tensor<3>, [Tensor<4>; 2]) {
    match kernels!(latent_attention on &q[0], &cache[0]) {
        #[cfg(feature = "cpu")]
        Kernels::Cpu => cpu::latent_attention(q, new, cache, lanes.lanes),
        _ => paged::latent_attention(q, new, cache, lanes),
    }
}

/// `attention` of values as wide as the keys, which the kernels of a GPU want: narrower ones are filled up with zeros, and
/// the result is cut.
#[cfg(feature = "gpu")]
pub(super) fn with_wide_values(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    attention: impl FnOnce(Tensor<4>, Tensor<4>, Tensor<4>) -> Tensor<4>,
) -> Tensor<4> {
    let ([_, _, _, head_dim], [batch, kv_heads, seq, value_dim]) = (q.dims(), v.dims());
    if value_dim == head_dim {
        return attention(q, k, v);
    }
    let shape = [batch, kv_heads, seq, head_dim - value_dim];
    let zeros = Tensor::zeros(shape, (&v.device(), v.dtype()));
    attention(q, k, Tensor::cat(vec![v, zeros], 3)).narrow(3, 0, value_dim)
}
