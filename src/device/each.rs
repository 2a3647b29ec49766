//! Independent parts of a computation, at once where that is faster.

#[cfg(feature = "cpu")]
use burn::backend::DispatchDevice;
use burn::tensor::Device;
use rayon::prelude::*;

/// Whether tensors on `device` are computed by the CPU.
pub(crate) fn is_cpu(device: &Device) -> bool {
    #[cfg(feature = "cpu")]
    return matches!(device.as_dispatch(), DispatchDevice::Flex(_));
    #[cfg(not(feature = "cpu"))]
    {
        let _ = device;
        false
    }
}

/// `work` done with each of `parts`; on the CPU by all threads at once, as Burn's own operations there run on the
/// thread that calls them.
pub(crate) fn each<P: Send, T: Send>(
    device: &Device,
    parts: Vec<P>,
    work: impl Fn(P) -> T + Send + Sync,
) -> Vec<T> {
    if is_cpu(device) {
        parts.into_par_iter().map(work).collect()
    } else {
        parts.into_iter().map(work).collect()
    }
}
