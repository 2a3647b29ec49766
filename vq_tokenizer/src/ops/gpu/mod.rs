//! Kernels for every GPU that Burn runs on, in f32, bfloat16 and f16 with sums in f32.

mod group_norm;
mod group_norm_backward;
#[cfg(test)]
mod tests;

use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

use super::fused::NormKernels;
use super::options::GroupNormOptions;

impl NormKernels for CubeBackend {
    type Moments = CubeTensor;

    fn group_norm_forward(
        [x, weight, bias]: [CubeTensor; 3],
        options: GroupNormOptions,
    ) -> (CubeTensor, CubeTensor) {
        let [y, moments] = group_norm::forward(x, weight, bias, options);
        (y, moments)
    }

    fn group_norm_backward(
        tensors: [CubeTensor; 4],
        moments: CubeTensor,
        options: GroupNormOptions,
    ) -> [CubeTensor; 3] {
        group_norm_backward::backward(tensors, moments, options)
    }
}
