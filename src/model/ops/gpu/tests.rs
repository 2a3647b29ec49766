//! Tensors behind which memory goes on: views of larger ones here, on CUDA also those whose rows Burn rounds up.

#![allow(clippy::unwrap_used, reason = "tests")]

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

use super::{optimizer, rows};
use crate::model::ops::forced;

/// The tensor of the first `rows` rows of `values` `[rows of all, width]`.
fn view(values: &[f32], width: usize, rows: usize, device: &Device) -> CubeTensor {
    let data = TensorData::new(values.to_vec(), [values.len() / width, width]);
    let tensor = Tensor::<2>::from_data(data, (device, DType::F32));
    shortened(tensor.try_into_primitive::<CubeBackend>().unwrap(), rows)
}

fn shortened(mut tensor: CubeTensor, rows: usize) -> CubeTensor {
    tensor.meta.shape_mut()[0] = rows;
    tensor
}

fn host(tensor: CubeTensor) -> Vec<f32> {
    Tensor::<2>::from_primitive::<CubeBackend>(tensor).into_data().iter().collect()
}

/// Runs on Vulkan, in builds with the feature `wgpu`.
#[test]
fn kernels_read_and_write_nothing_behind_a_view() {
    let Some((_, device)) = forced::gpu() else { return };
    // The numbers behind the five are equal, so that a list of equal ones never ends.
    let numbers = [vec![3, 1, 3, 0, 3], vec![2; 60]].concat();
    let numbers =
        Tensor::<1, Int>::from_data(TensorData::new(numbers, [65]), (&device, DType::I32));
    let numbers = shortened(numbers.try_into_primitive::<CubeBackend>().unwrap(), 5);
    let values: Vec<f32> = (0..21).map(|at| at as f32).collect();
    let dy = view(&values, 3, 5, &device);
    let sums = host(rows::backward(numbers, dy.clone(), 4, DType::F32));
    assert_eq!(sums, [9.0, 10.0, 11.0, 3.0, 4.0, 5.0, 0.0, 0.0, 0.0, 18.0, 21.0, 24.0]);

    let squares = optimizer::sum_of_squares(vec![dy]);
    let squares = Tensor::<1>::from_primitive::<CubeBackend>(squares).into_scalar::<f32>();
    assert_eq!(squares, (0..15).map(|at| (at * at) as f32).sum::<f32>());
}
