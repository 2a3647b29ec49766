//! Why a device cannot be used.

use std::path::PathBuf;

use thiserror::Error;

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
    /// No NVIDIA GPU has this index.
    #[error("no CUDA device found at cuda:{index}: this machine has cuda:0 to cuda:{last}")]
    NoCudaIndex {
        /// The requested index.
        index: usize,
        /// The highest available index.
        last: usize,
    },
    /// No CUDA installation with the headers that kernels include was found.
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
    /// A range of devices was given for work that runs on one.
    #[error(
        "{spec} names several devices, and this work runs on one; name one of them, such as cuda:0"
    )]
    SeveralDevices {
        /// The range.
        spec: String,
    },
    /// The work runs in one number format only, or the device does not support the requested one.
    #[error("--precision is {precision}, but {work} runs in f32 only{place}; allowed: {allowed}")]
    Precision {
        /// The requested format.
        precision: String,
        /// The work.
        work: String,
        /// ` on DEVICE`, or empty if no device supports it.
        place: String,
        /// What to request instead.
        allowed: &'static str,
    },
    /// wgpu reaches no adapter.
    #[error(
        "no wgpu device found: no Vulkan, Metal, DirectX or OpenGL driver lists an adapter; \
         on Linux, vulkaninfo must list one"
    )]
    NoWgpu,
    /// The device does not compute what the CPU does.
    #[error(
        "the device computes something else than the CPU does: {operations}; its driver or this program has a fault, \
         and results on it cannot be trusted"
    )]
    Wrong {
        /// The operations and number formats.
        operations: String,
    },
    /// Compiled kernels cannot be kept on disk, and the work is to keep them.
    #[error("{}: compiled kernels cannot be kept there: {reason}", dir.display())]
    KernelsNotKept {
        /// The directory.
        dir: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The device failed during its work, such as by running out of memory.
    #[error("the device failed: {reason}; what was being computed is lost{}", hint(reason))]
    Failed {
        /// What its driver says.
        reason: String,
    },
}

/// What helps against a failure.
fn hint(reason: &str) -> &'static str {
    match reason.contains("memory") {
        true => {
            "; smaller batches or --precision bf16 need less memory, and train --dry-run says how much"
        }
        false => "",
    }
}
