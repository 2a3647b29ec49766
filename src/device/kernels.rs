//! Where compiled kernels are kept.

use std::path::PathBuf;

/// Where the kernels that a device's driver or compiler makes at their first use are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelStore {
    /// The device runs what was compiled with the program.
    Nothing,
    /// In memory, so that every process compiles them anew.
    Memory,
    /// On disk, for this very program, driver and compiler.
    Disk {
        /// The directory.
        dir: PathBuf,
        /// The device's own name.
        device: String,
        /// Whether nothing has been kept so far, so that the first use takes seconds.
        is_new: bool,
    },
    /// In memory, as the directory meant for them cannot be used. What it holds already is still read.
    Unusable {
        /// The directory.
        dir: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}
