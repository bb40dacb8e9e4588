//! What the system says about memory. Not through [`crate::Files`]: these are no files of ours.

/// Bytes of memory that can be had without swapping; `None` where the system does not say.
pub fn available_memory() -> Option<u64> {
    field(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

/// The resident memory of this process now, in bytes; `None` where the system does not say.
pub fn used_memory() -> Option<u64> {
    field(&std::fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// The largest resident memory of this process so far, in bytes; `None` where the system does not say.
pub fn peak_memory() -> Option<u64> {
    field(&std::fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    #[test]
    fn reads_the_field_asked_for() {
        let text = "MemTotal:  10 kB\nMemAvailable:    7 kB\n";
        assert_eq!(super::field(text, "MemAvailable:"), Some(7168));
        assert_eq!(super::field(text, "VmHWM:"), None);
    }
}
