//! `calumma doctor`: this build, this machine, its devices, and what they can do.

use std::path::Path;

use calumma::Result;
use calumma::device::{DeviceError, DeviceSpec, describe};
use clap::Args;
use serde_json::json;

use super::session::Session;
use super::sizes;

/// Processor features that the CPU kernels use if present.
#[cfg(target_arch = "x86_64")]
fn processor_features() -> Vec<(&'static str, bool)> {
    vec![
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
    ]
}

#[cfg(target_arch = "aarch64")]
fn processor_features() -> Vec<(&'static str, bool)> {
    vec![("neon", std::arch::is_aarch64_feature_detected!("neon"))]
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn processor_features() -> Vec<(&'static str, bool)> {
    Vec::new()
}

/// Total and available memory in bytes; `None` if the system does not report it.
fn memory() -> Option<(f64, f64)> {
    let text = std::fs::read_to_string(Path::new("/proc/meminfo")).ok()?;
    let value = |key: &str| -> Option<f64> {
        let line = text.lines().find(|line| line.starts_with(key))?;
        let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(1024.0 * kib)
    };
    Some((value("MemTotal:")?, value("MemAvailable:")?))
}

/// Cargo features of this build.
fn build_features() -> Vec<&'static str> {
    let all = [
        ("cpu", cfg!(feature = "cpu")),
        ("cuda", cfg!(feature = "cuda")),
        ("wgpu", cfg!(feature = "wgpu")),
        ("grammar", cfg!(feature = "grammar")),
        ("object_store", cfg!(feature = "object_store")),
    ];
    all.into_iter().filter(|(_, on)| *on).map(|(name, _)| name).collect()
}

/// What can be done on the default device.
fn outlook(best: DeviceSpec) -> Vec<&'static str> {
    match best {
        DeviceSpec::Cpu => vec![
            "demo, generate, caption, draw, ask, score: work; models up to some 100 million \
             parameters answer in seconds",
            "train: practical for models of a few million parameters; larger ones need a GPU",
            "--precision bf16: halves the memory of weights; generating with large models is faster, \
             reading long prompts a little slower",
        ],
        _ => vec![
            "demo, generate, caption, draw, ask, score: work",
            "train: works within the memory of the device (see train --dry-run)",
        ],
    }
}

/// Arguments of `calumma doctor`.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// Compute every operation with its gradients on the device and compare with the CPU
    #[arg(long)]
    check: bool,
}

/// Prints the report, or what a check of a device found.
///
/// # Errors
/// If standard output cannot be written; those of [`check`].
pub fn run(args: &DoctorArgs, session: &Session) -> Result<()> {
    if args.check {
        return check(session);
    }
    let devices = describe();
    let best = DeviceSpec::best();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let features = processor_features();
    let memory = memory();
    session.line(format_args!("calumma {}", env!("CARGO_PKG_VERSION")))?;
    let system = format!("{} on {}", std::env::consts::OS, std::env::consts::ARCH);
    session.line(format_args!("  system   {system}"))?;
    session.line(format_args!("  built with {}", build_features().join(", ")))?;
    session.line(format_args!("  threads  {threads}"))?;
    let named: Vec<String> = features
        .iter()
        .map(|(name, present)| format!("{name} {}", if *present { "yes" } else { "no" }))
        .collect();
    session.line(format_args!("  processor {}", named.join(", ")))?;
    if let Some((total, available)) = memory {
        let (total, available) = (sizes::bytes(total), sizes::bytes(available));
        session.line(format_args!("  memory   {total}, {available} available"))?;
    }
    session.line("devices")?;
    for device in &devices {
        let mark = if device.available { "yes" } else { "no " };
        session
            .line(format_args!("  {mark} {:<8} {}: {}", device.spec, device.name, device.note))?;
    }
    session.line(format_args!("default device: {best}"))?;
    outlook(best).iter().try_for_each(|text| session.line(format_args!("  {text}")))?;
    session.object(&json!({
        "version": env!("CARGO_PKG_VERSION"),
        "system": system,
        "features": build_features(),
        "threads": threads,
        "processor": features.iter().copied().collect::<std::collections::BTreeMap<_, _>>(),
        "memory_bytes": memory.map(|(total, _)| total),
        "memory_available_bytes": memory.map(|(_, available)| available),
        "devices": devices,
        "default_device": best.to_string(),
        "outlook": outlook(best),
    }))
}

/// Compares the operations of `--device` with the CPU's, in f32 and in the half format that the device has.
///
/// # Errors
/// [`DeviceError::Wrong`] if a result is further off than rounding explains.
#[cfg(feature = "cpu")]
fn check(session: &Session) -> Result<()> {
    use burn::tensor::DType;
    use calumma::model::ops::{Difference, differences};

    let device = session.device()?;
    let half = [DType::BF16, DType::F16].into_iter().find(|half| device.supports_dtype(*half));
    let mut wrong = Vec::new();
    let half = half.filter(|_| session.device_spec() != DeviceSpec::Cpu);
    for dtype in std::iter::once(DType::F32).chain(half) {
        for difference in differences(&device, dtype) {
            let Difference { operation, worst, allowed, .. } = difference;
            let verdict = if difference.is_wrong() { "WRONG" } else { "ok" };
            let format = dtype.name();
            session.line(format_args!(
                "  {verdict:<5} {format:<4} {operation:<20} off by {worst:.1e} of {allowed:.0e}"
            ))?;
            session.object(&json!({
                "operation": operation, "dtype": format, "off_by": worst, "allowed": allowed,
                "ok": !difference.is_wrong(),
            }))?;
            if difference.is_wrong() {
                wrong.push(format!("{operation} in {format}"));
            }
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(DeviceError::Wrong { operations: wrong.join(", ") }.into())
}

/// The check compares with the CPU.
#[cfg(not(feature = "cpu"))]
fn check(_: &Session) -> Result<()> {
    Err(DeviceError::NotBuilt { feature: "cpu" }.into())
}
