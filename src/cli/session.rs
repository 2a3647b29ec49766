//! What every verb shares: the global flags, the device, and where words go.

use std::fmt::Display;
use std::io::Write;
use std::path::Path;

use burn::tensor::Device;
use calumma::device::{DeviceError, DeviceSpec, Precision};
use calumma::{Error, Result};
use clap::Args;
use serde::Serialize;

/// How standard output is called in errors.
pub const STDOUT: &str = "standard output";

/// Flags that every verb takes.
#[derive(Args, Debug)]
pub struct GlobalArgs {
    /// Where to compute: cpu, cuda[:N], cuda:A-B or wgpu [default: the best one present]
    #[arg(long, global = true, value_name = "DEVICE", help_heading = "Global options")]
    device: Option<DeviceSpec>,
    /// Number format of the language model, and on a GPU of an image tokenizer's training: f32 or bf16
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        default_value_t,
        help_heading = "Global options"
    )]
    precision: Precision,
    /// Seed of everything that is drawn at random
    #[arg(long, global = true, value_name = "N", help_heading = "Global options")]
    seed: Option<u64>,
    /// Print results as JSON, one object per line, and nothing else
    #[arg(long, global = true, help_heading = "Global options")]
    json: bool,
    /// Say nothing on standard error but errors
    #[arg(long, short, global = true, help_heading = "Global options")]
    quiet: bool,
    /// Say more on standard error; twice for the details of libraries
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

/// The global flags at work.
#[derive(Debug)]
pub struct Session {
    args: GlobalArgs,
}

impl Session {
    /// Takes the flags up and lets libraries log to standard error.
    pub fn new(args: GlobalArgs) -> Self {
        let level = match (args.quiet, args.verbose) {
            (true, _) => "error",
            (_, 0) => "warn",
            (_, 1) => "info",
            _ => "debug",
        };
        let filter = tracing_subscriber::EnvFilter::builder()
            .with_default_directive(level.parse().expect("the four levels are directives"))
            .from_env_lossy();
        let subscriber =
            tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter);
        // Only fails where a subscriber is installed already, which then serves as well.
        let _ = subscriber.try_init();
        Self { args }
    }

    /// Opens the device, and says on standard error which one when none was asked for.
    ///
    /// # Errors
    /// [`Error::Device`] with the reason.
    pub fn device(&self) -> Result<Device> {
        let spec = self.args.device.unwrap_or_else(DeviceSpec::best);
        let device = spec.open()?;
        if self.args.device.is_none() {
            self.note(format_args!("device: {spec}"));
        }
        Ok(device)
    }

    /// Where and with what a run is made, for its report.
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

    /// Whether the device is the CPU.
    pub fn is_cpu(&self) -> bool {
        self.args.device.unwrap_or_else(DeviceSpec::best) == DeviceSpec::Cpu
    }

    /// What the device is called, as in `--device`.
    pub fn device_name(&self) -> String {
        self.args.device.unwrap_or_else(DeviceSpec::best).to_string()
    }

    /// As [`Self::device`], for work that runs in f32 only.
    ///
    /// # Errors
    /// Those of [`Self::device`], and [`Error::Device`] when another format was asked for.
    pub fn device_in_f32(&self, work: &str) -> Result<Device> {
        match self.precision() {
            Precision::F32 => self.device(),
            other => Err(f32_only(work, other, String::new(), "f32")),
        }
    }

    /// As [`Self::device`], with the number format that `work` computes in; its weights are f32.
    ///
    /// # Errors
    /// Those of [`Self::device`], and [`Error::Device`] when the device has no arithmetic in the format.
    pub fn device_that_computes(&self, work: &str) -> Result<(Device, Precision)> {
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

    /// The number format of the language model, and of what [`Self::device_that_computes`] is for.
    pub fn precision(&self) -> Precision {
        self.args.precision
    }

    /// The seed, if one was given.
    pub fn seed(&self) -> Option<u64> {
        self.args.seed
    }

    /// Whether results are JSON.
    pub fn json(&self) -> bool {
        self.args.json
    }

    /// Whether only errors are said.
    pub fn quiet(&self) -> bool {
        self.args.quiet
    }

    /// A line on standard error for people; silent with `--quiet`.
    pub fn note(&self, text: impl Display) {
        if !self.args.quiet {
            // A terminal that is gone must not end the work.
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// A line of results for people; silent with `--json`.
    ///
    /// # Errors
    /// [`Error::Io`] when standard output cannot be written.
    pub fn line(&self, text: impl Display) -> Result<()> {
        if self.args.json { Ok(()) } else { put(format_args!("{text}\n")) }
    }

    /// Text of a result without a line's end, at once; silent with `--json`.
    ///
    /// # Errors
    /// As [`Self::line`].
    pub fn text(&self, text: impl Display) -> Result<()> {
        if self.args.json { Ok(()) } else { put(format_args!("{text}")) }
    }

    /// A result as one line of JSON; silent without `--json`.
    ///
    /// # Errors
    /// As [`Self::line`].
    pub fn object(&self, value: &impl Serialize) -> Result<()> {
        if self.args.json { put_json(value) } else { Ok(()) }
    }
}

/// A path as JSON and messages show it; what is no UTF-8 becomes a replacement character.
pub fn name(path: &Path) -> String {
    path.display().to_string()
}

/// A line of JSON on standard output, whatever the flags are.
///
/// # Errors
/// [`Error::Io`] when standard output cannot be written.
pub fn put_json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(value).map_err(|e| Error::invalid(e.to_string()))?;
    put(format_args!("{text}\n"))
}

fn put(text: std::fmt::Arguments<'_>) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_fmt(text).and_then(|()| stdout.flush()).map_err(Error::io(Path::new(STDOUT)))
}

/// The one message of a failed verb.
pub fn complain(error: &Error) {
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
