//! What NVIDIA's libraries say about themselves, before Burn opens a device.

#![allow(unsafe_code, reason = "the versions are asked through C interfaces without safe wrappers")]

use std::ffi::c_int;

use cudarc::{driver, nvrtc};

/// The names of the visible devices, in order; none without a driver.
pub fn device_names() -> Vec<String> {
    // SAFETY: this only tries to load the library, as every call of the driver does.
    if !unsafe { driver::sys::is_culib_present() } {
        return Vec::new();
    }
    let name =
        |index| driver::result::device::get(index).and_then(driver::result::device::get_name);
    let all = || -> Result<Vec<String>, driver::DriverError> {
        driver::result::init()?;
        (0..driver::result::device::get_count()?).map(name).collect()
    };
    all().unwrap_or_default()
}

/// The version of CUDA that the driver supports; `None` if it does not say. A driver must be there.
pub fn driver_version() -> Option<c_int> {
    let mut version = 0;
    // SAFETY: the driver's library is loaded, and writes one number to a valid address.
    unsafe { driver::sys::cuDriverGetVersion(&raw mut version) }.result().ok()?;
    Some(version)
}

/// The version of the compiler of kernels; `None` if it is not found.
pub fn compiler_version() -> Option<(c_int, c_int)> {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the library is called only if it can be loaded, and writes two numbers to valid addresses.
    unsafe {
        if !nvrtc::sys::is_culib_present() {
            return None;
        }
        nvrtc::sys::nvrtcVersion(&raw mut major, &raw mut minor).result().ok()?;
    }
    Some((major, minor))
}
