//! Devices: their names, their number formats, and what this machine offers.
//!
//! Only this module names a Burn backend; everything else receives a [`Device`](burn::tensor::Device).
//! Nothing here calls `Device::default()`, which prefers CUDA in every build that has it, also on
//! machines without a GPU.

#[cfg(not(all(feature = "cpu", feature = "cuda", feature = "wgpu")))]
mod absent;
#[cfg(feature = "cpu")]
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
mod cuda_kernels;
#[cfg(feature = "cuda")]
mod cuda_versions;
mod each;
mod error;
mod info;
mod kernels;
mod open;
mod precision;
mod random;
mod spec;
mod speed;
#[cfg(feature = "wgpu")]
mod wgpu;

pub(crate) use self::each::{each, is_cpu};
pub use self::error::DeviceError;
pub use self::info::DeviceInfo;
pub use self::kernels::KernelStore;
pub use self::open::{describe, kernels_on_disk};
pub use self::precision::Precision;
pub use self::random::seeded;
pub use self::spec::DeviceSpec;
pub use self::speed::matmul_flops;
