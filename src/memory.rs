//! How much memory this process holds, where the system tells.
//!
//! Linux tells in `/proc/self/status`, see proc_pid_status(5); elsewhere there is no answer.

/// The resident set at this moment, in bytes.
pub fn resident() -> Option<u64> {
    status("VmRSS:")
}

/// The largest resident set since the process began, in bytes.
pub fn peak_resident() -> Option<u64> {
    status("VmHWM:")
}

/// The field `name`, which the kernel gives in KiB, in bytes.
fn status(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(1024 * kib)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_no_less_than_what_is_held() {
        let now = resident();
        assert!(now > Some(1 << 20));
        assert!(peak_resident() >= now);
    }
}
