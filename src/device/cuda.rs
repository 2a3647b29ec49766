//! NVIDIA GPUs: the checks before Burn opens one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use burn::tensor::{Device, DeviceType};

use super::{DeviceError, DeviceInfo, DeviceSpec, KernelStore, cuda_kernels};

/// Any CUDA installation that can compile half-precision kernels has it.
const HEADER: &str = "cuda_fp16.h";

pub fn devices() -> Vec<Device> {
    Device::enumerate(DeviceType::Cuda).to_vec()
}

pub fn open(first: usize, last: usize) -> Result<Vec<Device>, DeviceError> {
    let devices = devices();
    check_range(first, last, devices.len())?;
    check_headers(cubecl::cuda::install::cuda_path())?;
    // Before a device opens, which reads CubeCL's configuration.
    cuda_kernels::store(first);
    Ok((first..=last).map(Device::cuda).collect())
}

/// An error if the range is empty or exceeds the `found` devices.
fn check_range(first: usize, last: usize, found: usize) -> Result<(), DeviceError> {
    let highest = found.checked_sub(1).ok_or(DeviceError::NoCuda)?;
    if last < first {
        let spec = DeviceSpec::CudaRange(first, last).to_string();
        return Err(DeviceError::UnknownSpec { spec });
    }
    if last > highest {
        return Err(DeviceError::NoCudaIndex { index: first.max(found), last: highest });
    }
    Ok(())
}

/// An error unless NVRTC would find its headers below `cuda_path`: it is given that directory only
/// when the first kernel is compiled, too late for an error that names it.
fn check_headers(cuda_path: Option<PathBuf>) -> Result<(), DeviceError> {
    let cuda_path = cuda_path.ok_or(DeviceError::NoCudaPath { header: HEADER })?;
    let path = cuda_path.join("include").join(HEADER);
    if !path.is_file() {
        return Err(DeviceError::NoCudaHeaders { path, header: HEADER });
    }
    Ok(())
}

pub fn describe() -> Vec<DeviceInfo> {
    let devices = devices();
    if devices.is_empty() {
        let missing = Err(DeviceError::NoCuda);
        return vec![DeviceInfo::new(DeviceSpec::Cuda(0), "NVIDIA GPU", missing)];
    }
    let kept = match cuda_kernels::store(0) {
        KernelStore::Disk { dir, .. } => format!(" and kept in {}", dir.display()),
        _ => String::new(),
    };
    let describe_one = |(index, device): (usize, &Device)| {
        let headers = check_headers(cubecl::cuda::install::cuda_path());
        let note = headers.map(|()| format!("kernels are compiled at first use{kept}"));
        // A driver that refuses the device panics in there; a report has to survive that.
        let identity = catch_unwind(AssertUnwindSafe(|| device.identity())).ok().flatten();
        let name = identity.map_or("NVIDIA GPU that does not open".to_string(), |id| id.name);
        DeviceInfo::new(DeviceSpec::Cuda(index), name, note)
    };
    devices.iter().enumerate().map(describe_one).collect()
}

pub fn kernels(index: usize) -> KernelStore {
    cuda_kernels::store(index)
}

pub fn kernels_on_disk() -> u64 {
    cuda_kernels::count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_must_lie_within_the_devices_found() {
        assert_eq!(check_range(0, 0, 0), Err(DeviceError::NoCuda));
        assert_eq!(check_range(0, 3, 4), Ok(()));
        let beyond = |index| Err(DeviceError::NoCudaIndex { index, last: 1 });
        assert_eq!(check_range(0, 3, 2), beyond(2));
        assert_eq!(check_range(5, 6, 2), beyond(5));
        assert!(matches!(check_range(1, 0, 2), Err(DeviceError::UnknownSpec { .. })));
    }

    #[test]
    fn missing_headers_are_named_with_their_path() {
        let error = check_headers(None).unwrap_err();
        assert!(error.to_string().contains("CUDA_PATH"), "{error}");

        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_path_buf();
        let error = check_headers(Some(root.clone())).unwrap_err();
        assert!(error.to_string().contains("cuda_fp16.h does not exist"), "{error}");

        std::fs::create_dir(root.join("include")).unwrap();
        std::fs::write(root.join("include").join(HEADER), "").unwrap();
        assert_eq!(check_headers(Some(root)), Ok(()));
    }
}
