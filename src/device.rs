//! Where tensors live: device names, their precision, and what this machine offers.
//!
//! This file and the folder of its name are the only ones in the library that name a Burn backend;
//! everything else receives a [`Device`]. Nothing here calls `Device::default()`, which prefers CUDA in every build that has
//! it, also on machines without a GPU.

#[cfg(not(all(feature = "cpu", feature = "cuda", feature = "wgpu")))]
mod absent;
#[cfg(feature = "cpu")]
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod speed;
#[cfg(feature = "wgpu")]
mod wgpu;

pub use self::speed::matmul_flops;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use burn::tensor::{Device, FloatDType};
use serde::{Deserialize, Serialize};
use thiserror::Error;

#[cfg(not(feature = "cpu"))]
use self::absent::cpu;
#[cfg(not(feature = "cuda"))]
use self::absent::cuda;
#[cfg(not(feature = "wgpu"))]
use self::absent::wgpu;

/// A device by name, as `--device` takes it.
///
/// ```
/// use calumma::device::DeviceSpec;
///
/// let spec: DeviceSpec = "cuda:0-3".parse()?;
/// assert_eq!(spec, DeviceSpec::CudaRange(0, 3));
/// assert_eq!(DeviceSpec::Cuda(0).to_string(), "cuda:0");
/// # Ok::<(), calumma::device::DeviceError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceSpec {
    /// `cpu`: Burn's pure-Rust CPU backend.
    Cpu,
    /// `cuda` or `cuda:N`: the NVIDIA GPU of that index.
    Cuda(usize),
    /// `cuda:FIRST-LAST`: several NVIDIA GPUs, both ends included.
    CudaRange(usize, usize),
    /// `wgpu`: the best GPU that Vulkan, Metal, DirectX or OpenGL reaches.
    Wgpu,
}

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
    /// Burn opens a device at its first use and panics on a thread of its own if that fails; the
    /// checks made here turn the usual reasons into errors before that. No tensor is created, so
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

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
            Self::CudaRange(first, last) => write!(f, "cuda:{first}-{last}"),
            Self::Wgpu => f.write_str("wgpu"),
        }
    }
}

impl FromStr for DeviceSpec {
    type Err = DeviceError;

    fn from_str(spec: &str) -> Result<Self, DeviceError> {
        let indices = match spec {
            "cpu" => return Ok(Self::Cpu),
            "wgpu" => return Ok(Self::Wgpu),
            "cuda" => Some((0, 0)),
            _ => spec.strip_prefix("cuda:").and_then(parse_indices),
        };
        match indices {
            Some((first, last)) if first == last => Ok(Self::Cuda(first)),
            Some((first, last)) if first < last => Ok(Self::CudaRange(first, last)),
            _ => Err(DeviceError::UnknownSpec { spec: spec.to_string() }),
        }
    }
}

/// Both ends of `3` or `0-3`; only digits count, so that `+1` is refused.
fn parse_indices(text: &str) -> Option<(usize, usize)> {
    let index = |part: &str| {
        let digits = part.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| part.parse().ok()).flatten()
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some((index(first)?, index(last)?))
}

/// The number format that matrix products and convolutions run in; parameters and statistics stay in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// 16-bit floats with the exponent range of f32. On the CPU that is the format of the weights alone:
    /// they take half the memory, and the activations stay f32.
    Bf16,
}

impl Precision {
    /// The Burn type of the format.
    pub fn float_dtype(self) -> FloatDType {
        match self {
            Self::F32 => FloatDType::F32,
            Self::Bf16 => FloatDType::BF16,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        })
    }
}

impl FromStr for Precision {
    type Err = DeviceError;

    fn from_str(name: &str) -> Result<Self, DeviceError> {
        match name {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            _ => Err(DeviceError::UnknownPrecision { name: name.to_string() }),
        }
    }
}

/// What one device of this machine is, for a report to a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceInfo {
    /// The name that `--device` takes; it parses as a [`DeviceSpec`].
    pub spec: String,
    /// What the device calls itself, or the kind of device if none was found.
    pub name: String,
    /// Whether [`DeviceSpec::open`] would succeed.
    pub available: bool,
    /// What is worth knowing about it, or why it is not available.
    pub note: String,
}

impl DeviceInfo {
    fn new(spec: DeviceSpec, name: impl Into<String>, opened: Result<String, DeviceError>) -> Self {
        let available = opened.is_ok();
        let note = opened.unwrap_or_else(|error| error.to_string());
        Self { spec: spec.to_string(), name: name.into(), available, note }
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

/// Why a device or a precision cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DeviceError {
    /// The text names no device.
    #[error("unknown device {spec:?}: expected cpu, cuda, cuda:N, cuda:FIRST-LAST or wgpu")]
    UnknownSpec {
        /// The text.
        spec: String,
    },
    /// The text names no precision.
    #[error("unknown precision {name:?}: expected f32 or bf16")]
    UnknownPrecision {
        /// The text.
        name: String,
    },
    /// The backend was not compiled in.
    #[error("this build has no {feature}; build with --features {feature}")]
    NotBuilt {
        /// The cargo feature that adds it.
        feature: &'static str,
    },
    /// There is no NVIDIA driver, or it lists no GPU.
    #[error(
        "no CUDA device found: the NVIDIA driver library could not be loaded or lists no GPU; \
         nvidia-smi must list one"
    )]
    NoCuda,
    /// There are NVIDIA GPUs, but not that many.
    #[error("no CUDA device found at cuda:{index}: this machine has cuda:0 to cuda:{last}")]
    NoCudaIndex {
        /// The index asked for.
        index: usize,
        /// The highest index there is.
        last: usize,
    },
    /// There is no CUDA installation where kernels could find their headers.
    #[error(
        "no CUDA headers found: set CUDA_PATH to a folder that holds include/{header} (a CUDA \
         toolkit, or the folder of NVIDIA's runtime headers)"
    )]
    NoCudaPath {
        /// A header that kernels include.
        header: &'static str,
    },
    /// The CUDA installation lacks the headers.
    #[error(
        "no CUDA headers found: {path} does not exist; set CUDA_PATH to a folder that holds \
         include/{header}"
    )]
    NoCudaHeaders {
        /// Where the header should be.
        path: PathBuf,
        /// A header that kernels include.
        header: &'static str,
    },
    /// A range was given where one device does the work.
    #[error(
        "{spec} names several devices, and this work runs on one; name one of them, such as cuda:0"
    )]
    SeveralDevices {
        /// The range.
        spec: String,
    },
    /// The work is done in one number format only, or the device has no arithmetic in the one asked for.
    #[error("--precision is {precision}, but {work} runs in f32 only{place}; allowed: {allowed}")]
    Precision {
        /// What was asked for.
        precision: Precision,
        /// The work.
        work: String,
        /// ` on DEVICE`, or nothing where no device would do.
        place: String,
        /// What to ask for instead.
        allowed: &'static str,
    },
    /// wgpu reaches no adapter.
    #[error(
        "no wgpu device found: no Vulkan, Metal, DirectX or OpenGL driver lists an adapter; \
         on Linux, vulkaninfo must list one"
    )]
    NoWgpu,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spec_survives_its_own_text() {
        for text in ["cpu", "cuda:0", "cuda:7", "cuda:0-3", "wgpu"] {
            assert_eq!(text.parse::<DeviceSpec>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn short_forms_mean_one_device() {
        assert_eq!("cuda".parse(), Ok(DeviceSpec::Cuda(0)));
        assert_eq!("cuda:2-2".parse(), Ok(DeviceSpec::Cuda(2)));
    }

    #[test]
    fn malformed_specs_are_refused_with_the_allowed_forms() {
        for text in [
            "",
            "CPU",
            "gpu",
            "cuda:",
            "cuda:-1",
            "cuda:+1",
            "cuda:3-0",
            "cuda:0-",
            "cuda:0-1-2",
            "cuda: 1",
            "cuda:99999999999999999999",
            "cuda0",
            "wgpu:0",
        ] {
            let error = text.parse::<DeviceSpec>().unwrap_err();
            assert_eq!(error, DeviceError::UnknownSpec { spec: text.to_string() });
            assert!(error.to_string().contains("cuda:FIRST-LAST"), "{error}");
        }
    }

    #[test]
    fn every_precision_survives_its_own_text() {
        for precision in [Precision::F32, Precision::Bf16] {
            let text = precision.to_string();
            assert_eq!(text.parse(), Ok(precision));
            assert_eq!(serde_json::to_string(&precision).unwrap(), format!("{text:?}"));
        }
        assert_eq!(Precision::Bf16.float_dtype(), FloatDType::BF16);
        assert!("f16".parse::<Precision>().is_err());
    }

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
