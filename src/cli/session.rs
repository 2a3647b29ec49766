//! Shared by all commands: the global flags, the device, and output.

use std::fmt::Display;
use std::io::Write;
use std::path::Path;

use burn::tensor::Device;
use calumma::device::{DeviceError, DeviceSpec, KernelStore, Precision, matmul_flops};
use calumma::lock::DirectoryLock;
use calumma::report::{Omission, Reporter};
use calumma::{Error, Result};
use clap::Args;
use serde::Serialize;
use tracing_subscriber::EnvFilter;

/// Modules that warn of every compiled kernel that could not be kept, be it because another process kept the same one
/// before; shown with `-v`.
const UNTOLD: &str = "cubecl_environment=error,cubecl_server::compiler=error";
/// The name of standard output in errors.
pub const STDOUT: &str = "standard output";

/// Flags that every verb takes.
#[derive(Args, Debug)]
pub struct GlobalArgs {
    /// Device to compute on: cpu, cuda[:N], cuda:A-B or wgpu [default: the best available]
    #[arg(long, global = true, value_name = "DEVICE", help_heading = "Global options")]
    device: Option<DeviceSpec>,
    /// Number format of the language model, and on a GPU of image tokenizer training: f32 or bf16
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        default_value_t,
        help_heading = "Global options"
    )]
    precision: Precision,
    /// Random seed, instead of the one in the recipe or checkpoint
    #[arg(long, global = true, value_name = "N", help_heading = "Global options")]
    seed: Option<u64>,
    /// Print results to standard output as JSON, one object per line
    #[arg(long, global = true, help_heading = "Global options")]
    json: bool,
    /// Print nothing but errors to standard error
    #[arg(long, short, global = true, help_heading = "Global options")]
    quiet: bool,
    /// Log info messages of the compute and network libraries to standard error; -vv also debug messages
    #[arg(
        long,
        short,
        global = true,
        action = clap::ArgAction::Count,
        conflicts_with = "quiet",
        help_heading = "Global options"
    )]
    verbose: u8,
}

/// The global flags and the settings that they determine.
#[derive(Debug)]
pub struct Session {
    args: GlobalArgs,
}

impl Session {
    /// Keeps the flags and sends the log of libraries to standard error. `RUST_LOG` overrides the level.
    pub fn new(args: GlobalArgs) -> Self {
        let level = match (args.quiet, args.verbose) {
            (true, _) => "error",
            (_, 0) => "warn",
            (_, 1) => "info",
            _ => "debug",
        };
        let own = if level == "warn" { UNTOLD } else { "" };
        let filter = EnvFilter::builder()
            .with_default_directive(level.parse().expect("the four levels are directives"))
            .parse_lossy(std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_else(|_| own.to_owned()));
        let subscriber =
            tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter);
        // Fails only if a subscriber is already installed, which is used then.
        let _ = subscriber.try_init();
        Self { args }
    }

    /// Opens the device; without `--device`, notes which one was chosen, and notes if its kernels are to be compiled.
    ///
    /// # Errors
    /// [`Error::Device`] with the reason.
    pub fn device(&self) -> Result<Device> {
        let spec = self.device_spec();
        let device = spec.open()?;
        if self.args.device.is_none() {
            self.note(format_args!("device: {spec}"));
        }
        match spec.kernels() {
            KernelStore::Disk { device, is_new: true, .. } => {
                self.note(format_args!("compiling kernels for {device}: first start only"));
            }
            KernelStore::Unusable { dir, reason } => {
                let dir = dir.display();
                self.note(format_args!("compiled kernels are not kept: {dir}: {reason}"));
            }
            _ => {}
        }
        Ok(device)
    }

    /// Version, device and system, for the report of a run.
    pub fn environment(&self, seed: u64) -> serde_json::Value {
        serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "commit": option_env!("CALUMMA_COMMIT"),
            "device": self.device_name(),
            "precision": self.precision().to_string(),
            "seed": seed,
            "threads": std::thread::available_parallelism().map_or(1, usize::from),
            "system": format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        })
    }

    /// The peak rate of `device` in FLOP/s for matrix products in the format of `--precision`.
    pub fn peak_flops(&self, device: &Device) -> f64 {
        matmul_flops(device, self.precision().float_dtype().into())
    }

    /// A reporter with a progress bar of `len` steps; silent with `--quiet`.
    pub fn progress(&self, len: usize, unit: &'static str) -> Reporter {
        match self.quiet() {
            true => Reporter::silent(),
            false => Reporter::bar(len as u64, unit),
        }
    }

    pub fn device_spec(&self) -> DeviceSpec {
        self.args.device.unwrap_or_else(DeviceSpec::best)
    }

    fn is_cpu(&self) -> bool {
        self.device_spec() == DeviceSpec::Cpu
    }

    /// The name of the device, as in `--device`.
    pub fn device_name(&self) -> String {
        self.device_spec().to_string()
    }

    /// The device, for work that runs in f32 only.
    ///
    /// # Errors
    /// Those of [`Self::device`], and [`Error::Device`] if `--precision` is another format.
    pub fn device_in_f32(&self, work: &str) -> Result<Device> {
        match self.precision() {
            Precision::F32 => self.device(),
            other => Err(f32_only(work, other, String::new(), "f32")),
        }
    }

    /// The device and the number format that `work` computes in; its weights are f32.
    ///
    /// # Errors
    /// Those of [`Self::device`], and [`Error::Device`] if the device does not support the format.
    pub fn device_and_precision(&self, work: &str) -> Result<(Device, Precision)> {
        let precision = self.precision();
        let refused = || {
            let device = self.device_name();
            let allowed = "f32, or bf16 with a --device that computes in it, such as cuda";
            Err(f32_only(work, precision, format!(" on {device}"), allowed))
        };
        if precision != Precision::F32 && self.is_cpu() {
            return refused();
        }
        let device = self.device()?;
        match precision == Precision::F32 || device.supports_dtype(precision.float_dtype()) {
            true => Ok((device, precision)),
            false => refused(),
        }
    }

    /// The value of `--precision`.
    pub fn precision(&self) -> Precision {
        self.args.precision
    }

    /// The value of `--seed`.
    pub fn seed(&self) -> Option<u64> {
        self.args.seed
    }

    /// Whether results are printed as JSON.
    pub fn json(&self) -> bool {
        self.args.json
    }

    /// Whether only errors go to standard error.
    pub fn quiet(&self) -> bool {
        self.args.quiet
    }

    /// Prints a line to standard error, unless `--quiet`.
    pub fn note(&self, text: impl Display) {
        if !self.args.quiet {
            // A closed standard error must not end the work.
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// `lock`, with a note if the file system cannot lock.
    pub fn hold(&self, lock: DirectoryLock) -> DirectoryLock {
        if !lock.is_held() {
            self.note(
                "the file system cannot lock files: do not start a second run in this directory",
            );
        }
        lock
    }

    /// Prints a line of results for people, unless `--json`.
    ///
    /// # Errors
    /// [`Error::Io`] if standard output cannot be written.
    pub fn line(&self, text: impl Display) -> Result<()> {
        if self.args.json { Ok(()) } else { put(format_args!("{text}\n")) }
    }

    /// Prints what was left out of data, as lines of results.
    ///
    /// # Errors
    /// As [`Self::line`].
    pub fn left_out(&self, left_out: &[Omission]) -> Result<()> {
        left_out.iter().try_for_each(|omission| self.line(format_args!("left out: {omission}")))
    }

    /// Prints a part of a line of results, flushed at once, unless `--json`.
    ///
    /// # Errors
    /// As [`Self::line`].
    pub fn text(&self, text: impl Display) -> Result<()> {
        if self.args.json { Ok(()) } else { put(format_args!("{text}")) }
    }

    /// Prints a result as a line of JSON, if `--json`.
    ///
    /// # Errors
    /// As [`Self::line`].
    pub fn object(&self, value: &impl Serialize) -> Result<()> {
        if self.args.json { put_json(value) } else { Ok(()) }
    }
}

/// A path as text for JSON; invalid UTF-8 becomes a replacement character.
pub fn name(path: &Path) -> String {
    path.display().to_string()
}

/// Prints a line of JSON to standard output, regardless of flags.
///
/// # Errors
/// [`Error::Io`] if standard output cannot be written.
pub fn put_json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(value)
        .map_err(Error::because("the result cannot be written as JSON"))?;
    put(format_args!("{text}\n"))
}

fn put(text: std::fmt::Arguments<'_>) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_fmt(text).and_then(|()| stdout.flush()).map_err(Error::io(Path::new(STDOUT)))
}

/// Prints the message of a failed command to standard error.
pub fn print_error(error: &Error) {
    let _ = writeln!(std::io::stderr(), "calumma: error: {error}");
}

fn f32_only(work: &str, precision: Precision, place: String, allowed: &'static str) -> Error {
    Error::Device(DeviceError::Precision {
        precision: precision.to_string(),
        work: work.to_owned(),
        place,
        allowed,
    })
}
