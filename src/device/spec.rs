//! Device names, as `--device` takes them.

use std::fmt;
use std::str::FromStr;

use super::error::DeviceError;

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
}
