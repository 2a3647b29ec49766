//! Burn's pure-Rust CPU backend.

use burn::tensor::Device;

use super::{DeviceError, DeviceInfo, DeviceSpec};

pub fn open() -> Result<Device, DeviceError> {
    Ok(Device::flex())
}

pub fn describe() -> DeviceInfo {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let kernels = if has_avx512() { "with AVX-512" } else { "without AVX-512" };
    let note = format!("threads: {threads}, matrix kernels {kernels}");
    DeviceInfo::new(DeviceSpec::Cpu, "CPU", Ok(note))
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx512() -> bool {
    false
}
