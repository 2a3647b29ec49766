//! Operations of latent attention: products with a weight of every head, and attention to latents in a paged cache.

use burn::tensor::Tensor;

#[cfg(test)]
use super::forced;
#[cfg(feature = "gpu")]
use super::gpu;
use super::{Kernels, Lanes, paged};
#[cfg(feature = "cpu")]
use super::{cpu, fused};

/// `x W^T` of every head with a weight of its own, outside autodiff. On the CPU in f32 a row's result does not depend on
/// the other rows.
///
/// # Shapes
/// `x` `[heads, rows, in]`, `weight` `[heads, out, in]`; returns `[heads, rows, out]`.
pub(crate) fn head_linear(x: Tensor<3>, weight: Tensor<3>) -> Tensor<3> {
    match kernels!(head_linear on &x) {
        #[cfg(feature = "cpu")]
        Kernels::Cpu => by_heads(&x, &weight),
        _ => x.clone().matmul(weight.cast(x.dtype()).swap_dims(1, 2)),
    }
}

/// A linear operation for each head: a product of all would sum in an order that depends on the number of rows.
#[cfg(feature = "cpu")]
fn by_heads(x: &Tensor<3>, weight: &Tensor<3>) -> Tensor<3> {
    let [heads, rows, inputs] = x.dims();
    let [_, outputs, _] = weight.dims();
    let of_head = |head: usize| {
        let x = x.clone().narrow(0, head, 1).reshape([rows, inputs]);
        let weight = weight.clone().narrow(0, head, 1).reshape([outputs, inputs]);
        fused::linear(x, weight).unsqueeze::<3>()
    };
    Tensor::cat((0..heads).map(of_head).collect(), 0)
}

/// Lets new queries attend to their lanes' keys in a paged cache, to which those of the new tokens are written first;
/// outside autodiff. A key of all heads is a latent and a rotated key, and its value is the latent. A token sees its lane's
/// tokens up to itself. The buffers are written in place if they share their memory with no other tensor.
///
/// On the CPU in f32 a row's result does not depend on the other rows and lanes of the pass.
///
/// # Shapes
/// For latents and for rotated keys: queries `q` `[heads, rows, width]`, scaled, `new` parts `[rows, width]`, in the cache
/// `[blocks, 1, BLOCK, width]`. Returns `[1, rows, heads * latent width]` and the cache.
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
