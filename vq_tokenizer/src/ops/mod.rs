//! The operations that have dedicated kernels, and the choice between kernels.
//!
//! Each operation is one function; its callers know no feature, device or dtype. A body of stock
//! Burn operations (`composed`) runs everywhere. Kernels for one kind of device are in a separate
//! directory and run where they support the input:
//!
//! - `cpu/`: f32 on Burn's CPU backend, with hand-written gradients. The convolution builds no column
//!   matrix and covers stride 2 and upsampling; the normalisation is fused with its swish.
//! - `gpu/`: floats on GPUs. The normalisation, fused with its swish; the convolution is Burn's.
//!
//! `fused.rs` makes the normalisation of either differentiable.

mod composed;
#[cfg(feature = "cpu")]
mod cpu;
#[cfg(any(feature = "cpu", feature = "gpu"))]
mod fused;
#[cfg(feature = "gpu")]
mod gpu;
mod options;
#[cfg(all(test, feature = "cpu"))]
mod whole_tests;

use burn::tensor::Tensor;

pub(crate) use composed::{cast, conv2d_strided, doubled};
pub(crate) use options::Geometry;
pub use options::GroupNormOptions;

/// The implementations of the operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernels {
    /// Stock Burn operations, for every device and dtype.
    Composed,
    /// Fused kernels for f32 on the CPU.
    #[cfg(feature = "cpu")]
    Cpu,
    /// Fused kernels for floats on a GPU.
    #[cfg(feature = "gpu")]
    Gpu,
}

impl Kernels {
    /// The fastest implementation that supports `x`, or the one that a test forces.
    fn of(x: &Tensor<4>) -> Self {
        let (kernels, _) = (Self::Composed, x);
        #[cfg(feature = "gpu")]
        let kernels = if kernels::gpu::takes(x) { Self::Gpu } else { kernels };
        #[cfg(feature = "cpu")]
        let kernels = if cpu::supports(x) { Self::Cpu } else { kernels };
        #[cfg(test)]
        let kernels = forced::instead_of(kernels);
        kernels
    }
}

/// A 2-d convolution with bias: a kernel of side 3, or of side 1 for [`Geometry::Same`].
///
/// The result has the dtype of `x`.
///
/// # Shapes
/// - x: `[batch, inputs, height, width]`
/// - weight: `[outputs, inputs, side, side]`
/// - bias: `[outputs]`
/// - result: `[batch, outputs, h, w]` with `[h, w]` of [`Geometry::output`]
pub(crate) fn conv2d(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Tensor<1>,
    geometry: Geometry,
) -> Tensor<4> {
    match Kernels::of(&x) {
        Kernels::Composed => composed::conv2d(x, weight, bias, geometry),
        #[cfg(feature = "cpu")]
        Kernels::Cpu => cpu::conv2d(x, weight, bias, geometry),
        #[cfg(feature = "gpu")]
        Kernels::Gpu => composed::conv2d(x, weight, bias, geometry),
    }
}

/// Group normalisation with a weight and a bias per channel, then swish where `options` ask for it.
///
/// Computed in f32; the result has the dtype of `x`.
///
/// # Shapes
/// - x and result: `[batch, channels, height, width]`
/// - weight, bias: `[channels]`
pub fn group_norm(
    x: Tensor<4>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    options: GroupNormOptions,
) -> Tensor<4> {
    match Kernels::of(&x) {
        Kernels::Composed => composed::group_norm(x, weight, bias, options),
        #[cfg(feature = "cpu")]
        Kernels::Cpu => fused::group_norm(x, weight, bias, options),
        #[cfg(feature = "gpu")]
        Kernels::Gpu => fused::group_norm(x, weight, bias, options),
    }
}

/// `lhs rhs` without a gradient, with products in f32 also where a GPU has faster ones of fewer bits: the nearest of many
/// codes may not depend on them.
///
/// # Shapes
/// `[m, k]` and `[k, n]` to `[m, n]`.
pub(crate) fn exact_product(lhs: Tensor<2>, rhs: Tensor<2>) -> Tensor<2> {
    #[cfg(feature = "gpu")]
    if kernels::gpu::takes(&lhs) {
        return match lhs.device().is_autodiff() {
            true => Tensor::from_inner(kernels::gpu::exact_product(lhs.inner(), rhs.inner())),
            false => kernels::gpu::exact_product(lhs, rhs),
        };
    }
    lhs.matmul(rhs)
}

/// `work` done with each of `parts`, on the CPU by all threads at once: Burn's own operations there run on the
/// thread that calls them.
pub(crate) fn each<const D: usize, T: Send>(
    parts: Vec<Tensor<D>>,
    work: impl Fn(Tensor<D>) -> T + Send + Sync,
) -> Vec<T> {
    #[cfg(feature = "cpu")]
    if parts.len() > 1 && cpu::is_cpu(&parts[0].device()) {
        return cpu::each(parts, work);
    }
    parts.into_iter().map(work).collect()
}

/// Forces an implementation in unit tests, on the calling thread only.
#[cfg(test)]
pub(crate) mod forced {
    use std::cell::Cell;

    use burn::tensor::Device;

    use super::Kernels;

    thread_local! {
        static FORCED: Cell<Option<Kernels>> = const { Cell::new(None) };
        static RUNS: Cell<usize> = const { Cell::new(0) };
    }

    /// The result of `work` with all its operations on `kernels`, and how many operations ran on them.
    ///
    /// # Panics
    /// If an operation gets a tensor that `kernels` do not support.
    pub(crate) fn on<T>(kernels: Kernels, work: impl FnOnce() -> T) -> (T, usize) {
        /// Ends the forcing even if `work` panics.
        struct Reset;
        impl Drop for Reset {
            fn drop(&mut self) {
                FORCED.set(None);
            }
        }
        let _reset = Reset;
        FORCED.set(Some(kernels));
        RUNS.set(0);
        let result = work();
        (result, RUNS.take())
    }

    /// The kernels of a GPU and one to test them on, in builds with the feature `wgpu`.
    ///
    /// # Panics
    /// If there is no driver; lavapipe is one in software.
    #[cfg(feature = "wgpu")]
    pub(crate) fn gpu() -> Option<(Kernels, Device)> {
        let found = Device::enumerate(burn::tensor::DeviceType::Wgpu);
        Some((Kernels::Gpu, found.first().expect("a Vulkan driver").clone()))
    }

    /// No GPU.
    #[cfg(not(feature = "wgpu"))]
    pub(crate) fn gpu() -> Option<(Kernels, Device)> {
        None
    }

    /// The forced kernels if there are any, otherwise `chosen`.
    pub(super) fn instead_of(chosen: Kernels) -> Kernels {
        let Some(forced) = FORCED.get() else { return chosen };
        let possible = forced == Kernels::Composed || forced == chosen;
        assert!(possible, "{forced:?} is forced on a tensor for {chosen:?}");
        RUNS.set(RUNS.get() + 1);
        forced
    }
}
