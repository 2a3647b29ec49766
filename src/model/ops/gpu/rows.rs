//! Rows of a matrix by their numbers, and the sums that are their gradient.

use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::{cast, into_contiguous};
use burn_cubecl::ops::numeric::zeros;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use kernels::gpu::{UNITS, argument, count, cubes, elements, elementwise, empty};

#[cube(launch)]
fn forward_kernel<F: Float, W: Float>(
    matrix: &[W],
    numbers: &[i32],
    y: &mut [F],
    width: usize,
    #[define(F, W)] _elements: [ElemType; 2],
) {
    if ABSOLUTE_POS < y.len() {
        let row = numbers[ABSOLUTE_POS / width] as usize;
        y[ABSOLUTE_POS] = F::cast_from(matrix[row * width + ABSOLUTE_POS % width]);
    }
}

/// The rows of `matrix` `[rows, width]` that `numbers` name, in `dtype`: `[numbers, width]`.
pub(super) fn forward(matrix: CubeTensor, numbers: CubeTensor, dtype: DType) -> CubeTensor {
    let (matrix, numbers) = (into_contiguous(matrix), into_contiguous(numbers));
    let [_, width] = matrix.shape().dims();
    let y = empty(&matrix, [count(&numbers), width], dtype);
    let (client, types) = (matrix.client.clone(), elements([&y, &matrix]));
    let (grid, units) = elementwise(count(&y));
    let [matrix, numbers, to] = [matrix, numbers, y.clone()].map(argument);
    forward_kernel::launch(&client, grid, units, matrix, numbers, to, width, types);
    y
}

/// For every place in `numbers` the next one with the same number, or `numbers.len()`, and whether it is the first.
#[cube(launch)]
fn links_kernel(numbers: &[i32], next: &mut [i32], is_first: &mut [i32]) {
    let at = ABSOLUTE_POS;
    if at < numbers.len() {
        let number = numbers[at];
        let mut behind = at + 1;
        while behind < numbers.len() && numbers[behind] != number {
            behind += 1;
        }
        next[at] = behind as i32;
        let mut before = at;
        while before > 0 && numbers[before - 1] != number {
            before -= 1;
        }
        is_first[at] = 0;
        if before == 0 {
            is_first[at] = 1;
        }
    }
}

/// A line of cubes per place: those of the first place of a number add up the rows of `dy` of all its places in order.
#[cube(launch)]
fn backward_kernel<F: Float, W: Float>(
    numbers: &[i32],
    next: &[i32],
    is_first: &[i32],
    dy: &[F],
    d_matrix: &mut [W],
    width: usize,
    #[define(F, W)] _elements: [ElemType; 2],
) {
    let blocks = width.div_ceil(UNITS);
    let (place, block) = (CUBE_POS / blocks, CUBE_POS % blocks);
    if place >= numbers.len() || is_first[place] == 0 {
        terminate!();
    }
    let column = block * UNITS + UNIT_POS_X as usize;
    if column < width {
        let mut total = 0.0f32;
        let mut at = place;
        while at < numbers.len() {
            total += f32::cast_from(dy[at * width + column]);
            at = next[at] as usize;
        }
        d_matrix[numbers[place] as usize * width + column] = W::cast_from(total);
    }
}

/// The gradient of a matrix of `rows` rows, in `dtype`.
pub(super) fn backward(
    numbers: CubeTensor,
    dy: CubeTensor,
    rows: usize,
    dtype: DType,
) -> CubeTensor {
    let (numbers, dy) = (into_contiguous(numbers), into_contiguous(dy));
    let ([_, width], len) = (dy.shape().dims(), count(&numbers));
    let d_matrix = zeros(dy.device.clone(), Shape::from([rows, width]), dtype);
    let d_matrix = into_contiguous(d_matrix);
    let [next, is_first] = [(); 2].map(|()| empty(&numbers, [len], DType::I32));
    let client = dy.client.clone();
    let inputs = || [&numbers, &next, &is_first].map(|tensor| argument(tensor.clone()));
    let ((grid, units), [a, b, c]) = (elementwise(len), inputs());
    links_kernel::launch(&client, grid, units, a, b, c);
    let types = elements([&dy, &d_matrix]);
    let ([a, b, c], dy) = (inputs(), argument(dy));
    let (grid, units) = (cubes(len * width.div_ceil(UNITS)), CubeDim::new_1d(UNITS as u32));
    let to = argument(d_matrix.clone());
    backward_kernel::launch(&client, grid, units, a, b, c, dy, to, width, types);
    d_matrix
}

/// `numbers` in i32 and one axis.
pub(super) fn flat(numbers: CubeTensor) -> CubeTensor {
    let len = count(&numbers);
    burn_cubecl::ops::reshape(cast(numbers, DType::I32), Shape::from([len]))
}
