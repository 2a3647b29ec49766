//! Opening devices by name.

use burn::tensor::Device;

#[cfg(not(feature = "cpu"))]
use super::absent::cpu;
#[cfg(not(feature = "cuda"))]
use super::absent::cuda;
#[cfg(not(feature = "wgpu"))]
use super::absent::wgpu;
#[cfg(feature = "cpu")]
use super::cpu;
#[cfg(feature = "cuda")]
use super::cuda;
use super::error::DeviceError;
use super::info::DeviceInfo;
use super::kernels::KernelStore;
use super::spec::DeviceSpec;
#[cfg(feature = "wgpu")]
use super::wgpu;

impl DeviceSpec {
    /// The best device of this machine that this build can use: an NVIDIA GPU, else a discrete or
    /// integrated GPU through wgpu, else the CPU. A software adapter of wgpu never wins.
    pub fn best() -> Self {
        if !cuda::devices().is_empty() {
            Self::Cuda(0)
        } else if wgpu::has_hardware() {
            Self::Wgpu
        } else {
            Self::Cpu
        }
    }

    /// The device, ready for tensors.
    ///
    /// Burn opens a device on first use and panics on one of its own threads if that fails; the
    /// checks made here turn the common reasons into errors before that. No tensor is created, so
    /// `Device::configure` can still be called.
    ///
    /// # Errors
    ///
    /// If the build lacks the backend, the machine lacks the device, the files that CUDA kernels
    /// are compiled with are missing, or the name stands for several devices.
    ///
    /// ```
    /// use calumma::device::DeviceSpec;
    ///
    /// match DeviceSpec::Cuda(0).open() {
    ///     Ok(device) => println!("training on {device:?}"),
    ///     Err(error) => println!("{error}"), // e.g. "this build has no cuda; ..."
    /// }
    /// ```
    pub fn open(&self) -> Result<Device, DeviceError> {
        match *self {
            Self::Cpu => cpu::open(),
            Self::Cuda(index) => cuda::open(index, index).map(|mut devices| devices.remove(0)),
            Self::CudaRange(..) => Err(DeviceError::SeveralDevices { spec: self.to_string() }),
            Self::Wgpu => wgpu::open(),
        }
    }

    /// Where the kernels that the device compiles are kept; of a range, the first device's.
    pub fn kernels(&self) -> KernelStore {
        match *self {
            Self::Cpu => KernelStore::Nothing,
            Self::Cuda(index) | Self::CudaRange(index, _) => cuda::kernels(index),
            Self::Wgpu => KernelStore::Memory,
        }
    }

    /// Every device of a range, in order; of any other name, its one device.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open), for any device of the range.
    pub fn open_all(&self) -> Result<Vec<Device>, DeviceError> {
        match *self {
            Self::CudaRange(first, last) => cuda::open(first, last),
            _ => Ok(vec![self.open()?]),
        }
    }
}

/// Every kind of device, found or not, and every NVIDIA GPU found. Opens those GPUs to ask for
/// their names.
pub fn describe() -> Vec<DeviceInfo> {
    let mut devices = vec![cpu::describe()];
    devices.extend(cuda::describe());
    devices.push(wgpu::describe());
    devices
}

/// The number of compiled kernels that are on disk for this program and the NVIDIA GPUs of this machine, of which one
/// must have been opened.
pub fn kernels_on_disk() -> u64 {
    cuda::kernels_on_disk()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_device_opens_or_says_what_is_missing() {
        match DeviceSpec::best().open() {
            Ok(device) => assert!(!device.is_autodiff()),
            // Only these: `best` has seen the device, or no backend was compiled in.
            Err(DeviceError::NoCudaPath { .. } | DeviceError::NoCudaHeaders { .. }) => {}
            Err(error) => assert_eq!(error, DeviceError::NotBuilt { feature: "cpu" }),
        }
    }

    #[test]
    fn a_range_never_stands_for_its_first_device() {
        let error = DeviceSpec::CudaRange(1, 3).open().unwrap_err();
        assert!(error.to_string().contains("cuda:1-3 names several devices"), "{error}");
    }

    #[test]
    fn opening_agrees_with_the_description() {
        for info in describe() {
            let spec: DeviceSpec = info.spec.parse().unwrap();
            assert_eq!(spec.open().is_ok(), info.available, "{info:?}");
            assert!(!info.name.is_empty() && !info.note.is_empty(), "{info:?}");
        }
    }

    #[cfg(feature = "cpu")]
    #[test]
    fn the_cpu_multiplies_matrices() {
        let device = DeviceSpec::Cpu.open().unwrap();
        let x = burn::Tensor::<2>::from_floats([[1.0, 2.0], [3.0, 4.0]], &device);
        let squared = x.clone().matmul(x).into_data();
        squared.assert_eq(&burn::tensor::TensorData::from([[7.0f32, 10.0], [15.0, 22.0]]), true);
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_missing_backend_names_the_feature_to_build_with() {
        let error = DeviceSpec::CudaRange(0, 3).open_all().unwrap_err();
        assert_eq!(error.to_string(), "this build has no cuda; build with --features cuda");
    }
}
