//! Stands in for the crates.io package `cubecl-llvm`, without LLVM.
//!
//! `cubecl-cuda` can turn a kernel into machine code in two ways: through CUDA C++ and NVRTC, or
//! through LLVM. It depends on the second even where only the first is used, and the real
//! `cubecl-llvm` downloads a prebuilt LLVM from outside the crate registry while it builds. calumma
//! always takes the first way (the feature `cuda-cpp` of `cubecl`), so the workspace patches the
//! dependency with this crate: the items that `cubecl-cuda` 0.11 names, none of which can be
//! reached as long as that feature is on. Were it off, the first kernel would fail with an error
//! that names it.
//!
//! To try the LLVM compiler, delete the `[patch.crates-io]` entry of the root manifest.

#![deny(missing_docs)]
#![forbid(unsafe_code)]

use core::convert::Infallible;
use core::ffi::c_char;

use cubecl_core::ir::nvidia::SmArch;
use cubecl_core::prelude::KernelDefinition;
use cubecl_environment::backtrace::BackTrace;
use cubecl_server::compiler::CompilationError;
use cubecl_server::kernel::BufferIOAttr;

/// The versions of NVIDIA's assembly language.
pub mod nvptx {
    /// What a driver can load.
    pub mod ptx_version {
        use core::fmt;

        /// A version of PTX. It has no values: only the LLVM compiler would choose one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum PtxVersion {}

        impl PtxVersion {
            /// None, whatever the CUDA version of the `driver`.
            pub fn for_driver(driver: i32) -> Option<Self> {
                let _ = driver;
                None
            }
        }

        impl fmt::Display for PtxVersion {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {}
            }
        }
    }
}

/// What the targets of the LLVM compiler have in common.
pub mod shared {
    /// The features a device keeps under the LLVM compiler.
    pub mod lowered_features {
        use cubecl_core::ir::DeviceProperties;

        /// The kind of GPU that features are kept for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum GpuTarget {
            /// An NVIDIA GPU.
            Nvptx,
        }

        /// Leaves `properties` as they are: there is no compiler that could not honour them.
        pub fn restrict_features(properties: &mut DeviceProperties, target: GpuTarget) {
            let _ = (properties, target);
        }
    }
}

/// What the compiler would emit code for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LlvmTarget {
    /// An NVIDIA GPU.
    #[default]
    Nvptx,
}

/// The options of [`PlironCompiler::compile`], which reads none of them.
#[derive(Clone, Debug, Default)]
pub struct PlironOptions {
    /// The architecture of an AMD GPU: always absent.
    pub arch: Option<Infallible>,
    /// The architecture of an NVIDIA GPU.
    pub sm_arch: Option<SmArch>,
    /// The version of PTX to emit.
    pub ptx_version: Option<nvptx::ptx_version::PtxVersion>,
    /// Whether scalars and metadata travel in the kernel's parameters.
    pub grid_constants: bool,
}

/// A compiled NVIDIA kernel, which is never made.
#[derive(Clone, Debug)]
pub struct NvptxModule {
    /// PTX that ends with a zero byte.
    pub ptx: Vec<c_char>,
    /// The intermediate code, for logs.
    pub ir: String,
    /// The shared memory of a launch, in bytes.
    pub shared_memory_size: usize,
    /// How each buffer is accessed, in the order of binding.
    pub io: Vec<BufferIOAttr>,
}

/// What a compilation would yield.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PlironArtifact {
    /// A kernel for an NVIDIA GPU.
    NvptxCode(NvptxModule),
}

/// The compiler that is not there.
#[derive(Clone, Debug, Default)]
pub struct PlironCompiler {
    /// What it would emit code for.
    pub target: LlvmTarget,
}

impl PlironCompiler {
    /// Compiles nothing.
    ///
    /// # Errors
    ///
    /// Always; the message names the feature that selects the other compiler.
    pub fn compile(
        &mut self,
        kernel: KernelDefinition,
        options: &PlironOptions,
    ) -> Result<PlironArtifact, CompilationError> {
        let _ = (kernel, options);
        Err(CompilationError::Generic {
            reason: "this build has no LLVM compiler for CUDA kernels: enable the feature \
                     `cuda-cpp` of cubecl, which compiles them with NVRTC"
                .to_string(),
            backtrace: BackTrace::capture(),
        })
    }

    /// The name of the language of the kernels it would read.
    pub fn lang_tag(&self) -> &'static str {
        "llvm"
    }
}
