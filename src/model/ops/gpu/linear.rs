//! Matrix products, which are Burn's, with their operands as they lie in memory.

use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::kernel::cast;
use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};
use burn_cubecl::tensor::CubeTensor;

use kernels::gpu::empty;

use super::products;

/// `lhs rhs` in `dtype`, whatever that of the operands. Burn's own choice of memory leaves gaps behind rows of some
/// lengths, which later operations would have to copy.
pub(super) fn product(lhs: CubeTensor, rhs: CubeTensor, dtype: DType) -> CubeTensor {
    let to = empty(&lhs, [lhs.shape()[0], rhs.shape()[1]], dtype);
    products::launch(&lhs, &rhs, &to);
    to
}

/// Writes the products of matrices to `to`, in its number format; returns `to`.
///
/// # Shapes
/// `lhs` `[matrices, m, k]`, `rhs` `[matrices, k, n]`, `to` `[matrices, m, n]`. Operands may be
/// transposed, and have gaps between rows and between matrices, as may `to`.
pub(super) fn product_to(lhs: CubeTensor, rhs: CubeTensor, to: CubeTensor) -> CubeTensor {
    let dtype = to.dtype;
    let product = matmul(lhs, rhs, Some(to), MatmulStrategy::default(), dtype);
    product.expect("Burn multiplies any two matrices of floats")
}

/// `x weight^T`; a weight in another number format is converted to that of `x`.
pub(super) fn forward(x: CubeTensor, weight: CubeTensor) -> CubeTensor {
    let (dtype, weight) = (x.dtype, converted(weight, x.dtype));
    product(x, transposed(weight), dtype)
}

/// The gradients of `x` and weight, as far as they are wanted, the weight's in its number format.
pub(super) fn backward(
    x: Option<CubeTensor>,
    weight: CubeTensor,
    dy: CubeTensor,
    of_x: bool,
) -> [Option<CubeTensor>; 2] {
    let (dtype, stored) = (dy.dtype, weight.dtype);
    let d_weight = x.map(|x| product(transposed(dy.clone()), x, stored));
    let dx = of_x.then(|| product(dy, converted(weight, dtype), dtype));
    [dx, d_weight]
}

fn converted(weight: CubeTensor, dtype: DType) -> CubeTensor {
    if weight.dtype == dtype { weight } else { cast(weight, dtype) }
}

/// `matrix` with its axes exchanged, in the same memory.
pub(super) fn transposed(matrix: CubeTensor) -> CubeTensor {
    burn_cubecl::ops::permute(matrix, &[1, 0])
}
