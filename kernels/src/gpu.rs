//! What the kernels for GPUs of all crates share: which tensors they take, memory for results, numbers of cubes, sums
//! over a cube.
#![allow(missing_docs, reason = "`cube` makes modules without documentation of their own")]

use burn::backend::cubecl::dtype_to_storage_type;
use burn::backend::{DispatchDevice, TensorMetadata};
use burn::tensor::{DType, Shape, Tensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems};
use cubek::matmul::launch::launch_ref;
use cubek::matmul::multi_level::Strategy as MultiLevel;
use cubek::matmul::routine::BlueprintStrategy;
use cubek::matmul::strategy::Strategy;
use cubek::std::InputBinding;

/// Units per cube of the kernels that have no reason for another number.
pub const UNITS: usize = 128;

/// The most cubes along one axis that every device launches.
const AXIS: u32 = 1 << 15;

/// Whether the kernels take `x`: floats of at most 32 bits on a GPU, with or without autodiff.
pub fn takes<const D: usize>(x: &Tensor<D>) -> bool {
    matches!(x.dtype(), DType::F32 | DType::BF16 | DType::F16)
        && matches!(x.device().inner().as_dispatch(), DispatchDevice::Cube(_))
}

/// A grid of at least `count` cubes; a kernel that may have more than 32,768 returns where `CUBE_POS` is `count` or more.
pub fn cubes(count: usize) -> CubeCount {
    let count = count as u32;
    let y = count.div_ceil(AXIS).max(1);
    CubeCount::Static(count.div_ceil(y).max(1), y, 1)
}

/// A grid of one unit per element, in cubes of [`UNITS`].
pub fn elementwise(elements: usize) -> (CubeCount, CubeDim) {
    (cubes(elements.div_ceil(UNITS)), CubeDim::new_1d(UNITS as u32))
}

/// Memory for a result on the device of `tensor`.
pub fn empty<const D: usize>(tensor: &CubeTensor, shape: [usize; D], dtype: DType) -> CubeTensor {
    let (client, device) = (tensor.client.clone(), tensor.device.clone());
    empty_device_contiguous_dtype(client, device, Shape::from(shape), dtype)
}

/// Memory for a result like `tensor`.
pub fn empty_like(tensor: &CubeTensor) -> CubeTensor {
    let (client, device) = (tensor.client.clone(), tensor.device.clone());
    empty_device_contiguous_dtype(client, device, tensor.shape(), tensor.dtype)
}

/// A tensor that a kernel may write in place: `tensor` if it is contiguous and shares its memory with no other one,
/// otherwise a copy. Burn's own copy has gaps behind rows of some lengths on CUDA.
pub fn owned(tensor: CubeTensor) -> CubeTensor {
    let tensor = into_contiguous(tensor);
    if tensor.can_mut() { tensor } else { into_contiguous(tensor.copy()) }
}

/// The element type of `tensor`, for a kernel's `#[define]`.
pub fn element(tensor: &CubeTensor) -> ElemType {
    element_of(tensor.dtype)
}

/// The element type of a number format.
pub fn element_of(dtype: DType) -> ElemType {
    dtype_to_storage_type(dtype)
}

/// The element types of `tensors`, for a kernel's `#[define]`.
pub fn elements<const N: usize>(tensors: [&CubeTensor; N]) -> [ElemType; N] {
    tensors.map(element)
}

/// The number of elements.
pub fn count(tensor: &CubeTensor) -> usize {
    tensor.shape().num_elements()
}

/// `tensor` as an argument of a kernel, which then sees a slice that ends with the tensor's last element: memory may go on
/// behind it, in a view of a larger tensor, and on CUDA where Burn rounds up the bytes of a row, and a kernel's access
/// behind a slice's end goes to its last element.
pub fn argument(mut tensor: CubeTensor) -> BufferArg {
    let sizes = tensor.meta.shape().iter().zip(tensor.meta.strides().iter());
    let elements = 1 + sizes.map(|(len, stride)| len.saturating_sub(1) * stride).sum::<usize>();
    let behind = tensor.handle.size_in_used() - (elements * tensor.dtype.size()) as u64;
    tensor.handle = tensor.handle.offset_end(behind);
    tensor.into_buffer_arg()
}

/// Writes `lhs rhs` to `to` by one of Burn's kernels.
///
/// # Shapes
/// `[m, k]`, `[k, n]` and `[m, n]`; operands may be transposed.
///
/// # Errors
/// What the kernel says if it cannot be launched for these matrices.
pub fn multiply(
    kernel: &Strategy,
    lhs: &CubeTensor,
    rhs: &CubeTensor,
    to: &CubeTensor,
) -> Result<(), String> {
    let [of_lhs, of_rhs, out] = [lhs, rhs, to].map(element);
    let mut formats =
        MatmulElems::from_globals(&MatmulGlobalElems { lhs: of_lhs, rhs: of_rhs, out });
    launch_ref(
        kernel,
        &to.client,
        InputBinding::new(lhs.clone().binding(), of_lhs),
        InputBinding::new(rhs.clone().binding(), of_rhs),
        to.clone().binding(),
        &mut formats,
    )
    .map_err(|error| format!("{error:?}"))
}

/// `lhs rhs` outside autodiff, with products in the operands' format: in f32 Burn's default kernel rounds factors to the 11
/// significant bits of TF32 on NVIDIA's tensor cores.
///
/// # Shapes
/// `[m, k]` and `[k, n]` to `[m, n]`.
///
/// # Panics
/// If a matrix is not one that [`takes`] is true for.
pub fn exact_product(lhs: Tensor<2>, rhs: Tensor<2>) -> Tensor<2> {
    let [lhs, rhs] = [lhs, rhs].map(|matrix| {
        let matrix = matrix.try_into_primitive::<CubeBackend>();
        into_contiguous(matrix.expect("the caller checks for a GPU"))
    });
    let to = empty(&lhs, [lhs.shape()[0], rhs.shape()[1]], lhs.dtype);
    let kernels = [MultiLevel::SimpleUnit(BlueprintStrategy::default()), MultiLevel::Naive];
    let done = kernels
        .map(Strategy::MultiLevel)
        .iter()
        .any(|kernel| multiply(kernel, &lhs, &rhs, &to).is_ok());
    assert!(done, "the last kernel multiplies any two matrices of floats");
    Tensor::from_primitive::<CubeBackend>(to)
}

/// `tensor` with the middle ones of its four axes exchanged.
pub fn swap_heads(tensor: CubeTensor) -> CubeTensor {
    burn_cubecl::ops::permute(tensor, &[0, 2, 1, 3])
}

/// The sum of `value` over the first `units` units of a line of the cube along x, a power of two; all units of the
/// cube call it.
#[cube]
pub fn sum(value: f32, #[comptime] units: usize, #[comptime] lines: usize) -> f32 {
    let mut partial = Shared::<[f32]>::new_slice(units * lines);
    let start = UNIT_POS_Y as usize * units;
    let unit = UNIT_POS_X as usize;
    partial[start + unit] = value;
    sync_cube();
    let mut half = CUBE_DIM_X as usize / 2; // not a constant, which could not change
    while half > 0 {
        if unit < half {
            let other = partial[start + unit + half];
            partial[start + unit] += other;
        }
        sync_cube();
        half /= 2;
    }
    let total = partial[start];
    sync_cube();
    total
}

/// The largest `value` over a line of the cube, as [`sum`].
#[cube]
pub fn largest(value: f32, #[comptime] units: usize) -> f32 {
    let mut partial = Shared::<[f32]>::new_slice(units);
    let unit = UNIT_POS_X as usize;
    partial[unit] = value;
    sync_cube();
    let mut half = CUBE_DIM_X as usize / 2; // not a constant, which could not change
    while half > 0 {
        if unit < half {
            let other = partial[unit + half];
            partial[unit] = max(partial[unit], other);
        }
        sync_cube();
        half /= 2;
    }
    let top = partial[0];
    sync_cube();
    top
}

/// The sums over the rows of `partial`.
#[cube(launch)]
fn column_sums_kernel<F: Float>(
    partial: &[f32],
    total: &mut [F],
    rows: usize,
    columns: usize,
    #[define(F)] _element: ElemType,
) {
    let column = ABSOLUTE_POS;
    if column < columns {
        let mut sum = 0.0f32;
        for row in 0..rows {
            sum += partial[row * columns + column];
        }
        total[column] = F::cast_from(sum);
    }
}

/// Writes the sums over the rows of `partial` `[rows, columns]` to `total`.
pub fn column_sums(partial: CubeTensor, total: &CubeTensor) {
    let (columns, types) = (count(total), element(total));
    let rows = count(&partial) / columns;
    let (cubes, units) = elementwise(columns);
    let (client, partial) = (partial.client.clone(), argument(partial));
    let total = argument(total.clone());
    column_sums_kernel::launch(&client, cubes, units, partial, total, rows, columns, types);
}
