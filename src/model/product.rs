//! Products of batches of rows with a weight.

use burn::tensor::Tensor;

use super::ops;

/// `x weight^T`; a weight in another number format is converted to that of `x`.
///
/// # Shapes
/// `x` `[batch, seq, in]`, `weight` `[out, in]`; returns `[batch, seq, out]`.
pub(super) fn product(x: Tensor<3>, weight: Tensor<2>) -> Tensor<3> {
    let [batch, seq, inputs] = x.dims();
    let [outputs, _] = weight.dims();
    // One matrix product over all tokens; a batched one would pack the weight once per row.
    ops::linear(x.reshape([batch * seq, inputs]), weight).reshape([batch, seq, outputs])
}
