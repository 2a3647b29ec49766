//! Descriptions of devices for people.

use serde::Serialize;

use super::error::DeviceError;
use super::spec::DeviceSpec;

/// A device of this machine, described for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceInfo {
    /// The name that `--device` takes; it parses as a [`DeviceSpec`].
    pub spec: String,
    /// The device's own name, or its kind if none was found.
    pub name: String,
    /// Whether [`DeviceSpec::open`] would succeed.
    pub available: bool,
    /// Details, or why it is not available.
    pub note: String,
}

impl DeviceInfo {
    pub(super) fn new(
        spec: DeviceSpec,
        name: impl Into<String>,
        opened: Result<String, DeviceError>,
    ) -> Self {
        let available = opened.is_ok();
        let note = opened.unwrap_or_else(|error| error.to_string());
        Self { spec: spec.to_string(), name: name.into(), available, note }
    }
}
