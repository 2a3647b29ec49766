//! Stand-ins for backends that this build lacks: errors that name the feature to build with.

#[cfg(not(feature = "cpu"))]
pub mod cpu {
    use burn::tensor::Device;

    use crate::device::{DeviceError, DeviceInfo, DeviceSpec};

    const MISSING: DeviceError = DeviceError::NotBuilt { feature: "cpu" };

    pub fn open() -> Result<Device, DeviceError> {
        Err(MISSING)
    }

    pub fn describe() -> DeviceInfo {
        DeviceInfo::new(DeviceSpec::Cpu, "CPU", Err(MISSING))
    }
}

#[cfg(not(feature = "cuda"))]
pub mod cuda {
    use burn::tensor::Device;

    use crate::device::{DeviceError, DeviceInfo, DeviceSpec, KernelStore};

    const MISSING: DeviceError = DeviceError::NotBuilt { feature: "cuda" };

    pub fn devices() -> Vec<Device> {
        Vec::new()
    }

    pub fn open(_first: usize, _last: usize) -> Result<Vec<Device>, DeviceError> {
        Err(MISSING)
    }

    pub fn describe() -> Vec<DeviceInfo> {
        vec![DeviceInfo::new(DeviceSpec::Cuda(0), "NVIDIA GPU", Err(MISSING))]
    }

    pub fn kernels(_index: usize) -> KernelStore {
        KernelStore::Memory
    }

    pub fn kernels_on_disk() -> u64 {
        0
    }
}

#[cfg(not(feature = "wgpu"))]
pub mod wgpu {
    use burn::tensor::Device;

    use crate::device::{DeviceError, DeviceInfo, DeviceSpec};

    const MISSING: DeviceError = DeviceError::NotBuilt { feature: "wgpu" };

    pub fn has_hardware() -> bool {
        false
    }

    pub fn open() -> Result<Device, DeviceError> {
        Err(MISSING)
    }

    pub fn describe() -> DeviceInfo {
        DeviceInfo::new(DeviceSpec::Wgpu, "GPU through wgpu", Err(MISSING))
    }
}
