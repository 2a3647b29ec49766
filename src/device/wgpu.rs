//! GPUs through Vulkan, Metal, DirectX or OpenGL.

use burn::tensor::{Device, DeviceKind, DeviceType};

use super::{DeviceError, DeviceInfo, DeviceSpec};

/// The kinds of adapters, best first, each with its name and whether it is a GPU of this machine.
const KINDS: [(DeviceKind, &str, bool); 4] = [
    (DeviceKind::DiscreteGpu(0), "discrete GPU", true),
    (DeviceKind::IntegratedGpu(0), "integrated GPU", true),
    (DeviceKind::VirtualGpu(0), "virtual GPU", false),
    (DeviceKind::Cpu, "software adapter, slower than cpu", false),
];

struct Adapter {
    device: Device,
    name: &'static str,
    is_hardware: bool,
}

fn best() -> Option<Adapter> {
    let found = Device::enumerate(DeviceType::Wgpu);
    let known = KINDS.into_iter().find_map(|(kind, name, is_hardware)| {
        let device = Device::wgpu(kind);
        found.contains(&device).then_some(Adapter { device, name, is_hardware })
    });
    known.or_else(|| {
        let device = found.first()?.clone();
        Some(Adapter { device, name: "adapter of unknown kind", is_hardware: false })
    })
}

pub fn has_hardware() -> bool {
    best().is_some_and(|adapter| adapter.is_hardware)
}

pub fn open() -> Result<Device, DeviceError> {
    best().map(|adapter| adapter.device).ok_or(DeviceError::NoWgpu)
}

pub fn describe() -> DeviceInfo {
    let note = best().map(|adapter| adapter.name.to_string()).ok_or(DeviceError::NoWgpu);
    DeviceInfo::new(DeviceSpec::Wgpu, "GPU through wgpu", note)
}
