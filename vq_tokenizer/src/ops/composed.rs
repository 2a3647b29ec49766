//! The operations composed of stock Burn operations: for every device and dtype, and the reference for
//! every kernel.

use burn::tensor::activation::silu;
use burn::tensor::module::{conv2d as stock_conv2d, interpolate};
use burn::tensor::ops::{ConvOptions, InterpolateMode, InterpolateOptions};
use burn::tensor::{DType, Tensor};

use super::options::{Geometry, GroupNormOptions};

/// See [`super::conv2d`].
pub(super) fn conv2d(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Tensor<1>,
    geometry: Geometry,
) -> Tensor<4> {
    let padding = weight.dims()[2] / 2;
    match geometry {
        Geometry::Same => conv2d_strided(x, weight, bias, 1, padding),
        Geometry::Down => {
            let options = ConvOptions::new_with_padding([2, 2], [(0, 1), (0, 1)], [1, 1], 1);
            convolve(x, weight, bias, options)
        }
        Geometry::Up => conv2d_strided(doubled(x), weight, bias, 1, padding),
    }
}

/// `x` at twice its height and width by nearest neighbour.
///
/// # Shapes
/// - x: `[batch, channels, height, width]`
/// - result: `[batch, channels, 2 height, 2 width]`
pub(crate) fn doubled(x: Tensor<4>) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    let nearest = InterpolateOptions::new(InterpolateMode::Nearest);
    interpolate(x, nearest.with_output_size([2 * height, 2 * width]))
}

/// A 2-d convolution with a kernel of any side and `padding` zeros on every side; it has no kernels.
///
/// # Shapes
/// - x: `[batch, inputs, height, width]`
/// - weight: `[outputs, inputs, side, side]`
/// - bias: `[outputs]`
/// - result: `[batch, outputs, h, w]` with `h = (height + 2 padding - side) / stride + 1`, and likewise `w`
pub(crate) fn conv2d_strided(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Tensor<1>,
    stride: usize,
    padding: usize,
) -> Tensor<4> {
    convolve(x, weight, bias, ConvOptions::new([stride; 2], [padding; 2], [1, 1], 1))
}

fn convolve(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Tensor<1>,
    options: ConvOptions<2>,
) -> Tensor<4> {
    let dtype = x.dtype();
    stock_conv2d(x, cast(weight, dtype), Some(cast(bias, dtype)), options)
}

/// See [`super::group_norm`].
pub(super) fn group_norm(
    x: Tensor<4>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    GroupNormOptions { groups, epsilon, swish }: GroupNormOptions,
) -> Tensor<4> {
    let dtype = x.dtype();
    let [batch, channels, height, width] = x.dims();
    let x = cast(x, DType::F32).reshape([batch, groups, channels / groups * height * width]);
    let centred = x.clone() - x.mean_dim(2); // [batch, groups, values]
    let variance = centred.clone().square().mean_dim(2); // [batch, groups, 1]
    let scale = (variance + epsilon).sqrt().recip();
    // Scale per channel first: one pass over the large tensor instead of two.
    let scale =
        scale.reshape([batch, groups, 1, 1]) * weight.reshape([1, groups, channels / groups, 1]);
    let centred = centred.reshape([batch, channels, height * width]);
    let y = centred * scale.reshape([batch, channels, 1]) + bias.reshape([1, channels, 1]);
    let y = y.reshape([batch, channels, height, width]);
    cast(if swish { silu(y) } else { y }, dtype)
}

/// `x` in `dtype`; its gradient comes back in the dtype of `x`.
///
/// # Shapes
/// - x and result: any
pub(crate) fn cast<const D: usize>(x: Tensor<D>, dtype: DType) -> Tensor<D> {
    if x.dtype() == dtype { x } else { x.cast(dtype) }
}
