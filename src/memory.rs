//! Resident memory of this process.
//!
//! Read from `/proc/self/status` on Linux, see proc_pid_status(5); `None` on other systems.

/// The current resident set size in bytes.
pub fn resident() -> Option<u64> {
    status("VmRSS:")
}

/// The peak resident set size in bytes.
pub fn peak_resident() -> Option<u64> {
    status("VmHWM:")
}

/// The field `name` in bytes; the kernel reports KiB.
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
    fn the_peak_is_at_least_the_current_size() {
        let now = resident();
        assert!(now > Some(1 << 20));
        assert!(peak_resident() >= now);
    }
}
