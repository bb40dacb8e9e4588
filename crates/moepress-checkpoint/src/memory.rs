//! What the system says about memory. Not through [`crate::Files`]: these are no files of ours.

use std::fs::read_to_string;
use std::path::Path;

/// Bytes of memory that can be had without swapping, within the limits of the control groups (containers, jobs) that this
/// process is in; `None` where the system does not say.
pub fn available_memory() -> Option<u64> {
    let system = field(&read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    let groups = read_to_string("/proc/self/cgroup").unwrap_or_default();
    Some(within_groups(&groups, Path::new("/sys/fs/cgroup")).map_or(system, |left| left.min(system)))
}

/// Bytes that the groups of `/proc/self/cgroup`, mounted at `root`, and those around them leave; `None` where none has a limit.
fn within_groups(groups: &str, root: &Path) -> Option<u64> {
    let left_in = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let (mount, limit, usage) = match controllers {
            "" => (root.to_owned(), "memory.max", "memory.current"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes", "memory.usage_in_bytes")
            }
            _ => return None,
        };
        let around = Path::new(path).ancestors();
        let left = around.filter_map(|group| {
            let group = mount.join(group.strip_prefix("/").unwrap_or(group));
            let number = |name: &str| read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
            // Version 2 writes `max` for none.
            let limit = number(limit)?;
            let cached = read_to_string(group.join("memory.stat")).map_or(0, |stat| cached(&stat));
            Some(limit.saturating_sub(number(usage)?.saturating_sub(cached)))
        });
        left.min()
    };
    groups.lines().filter_map(left_in).min()
}

/// Bytes of files in the page cache, which goes when memory is needed, in a `memory.stat`.
fn cached(stat: &str) -> u64 {
    let of = |name: &str| {
        stat.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    // Version 1 counts groups within only in totals.
    (of("total_inactive_file ") + of("total_active_file ")).max(of("inactive_file ") + of("active_file "))
}

/// The resident memory of this process now, in bytes; `None` where the system does not say.
pub fn used_memory() -> Option<u64> {
    field(&read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// The largest resident memory of this process so far, in bytes; `None` where the system does not say.
pub fn peak_memory() -> Option<u64> {
    field(&read_to_string("/proc/self/status").ok()?, "VmHWM:")
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

    #[test]
    fn the_tightest_group_counts() {
        let root = tempfile::tempdir().unwrap();
        let put = |group: &str, files: &[(&str, &str)]| {
            let group = root.path().join(group);
            std::fs::create_dir_all(&group).unwrap();
            files.iter().for_each(|(name, text)| std::fs::write(group.join(name), text).unwrap());
        };
        let left = |groups: &str| super::within_groups(groups, root.path());
        assert_eq!(left("0::/a/b\n"), None);
        put("a/b", &[("memory.max", "max\n"), ("memory.current", "10\n")]);
        assert_eq!(left("0::/a/b\n"), None);
        put("a", &[("memory.max", "1000\n"), ("memory.current", "700\n")]);
        assert_eq!(left("0::/a/b\n"), Some(300));
        put("a", &[("memory.stat", "anon 5\nfile 250\ninactive_file 150\nactive_file 100\n")]);
        assert_eq!(left("0::/a/b\n"), Some(550));
        put("memory/c", &[("memory.limit_in_bytes", "500\n"), ("memory.usage_in_bytes", "600\n")]);
        assert_eq!(left("3:cpu:/x\n4:memory:/c\n0::/a/b\n"), Some(0));
        put(
            "memory/c",
            &[("memory.stat", "inactive_file 0\ntotal_inactive_file 200\ntotal_active_file 1\n")],
        );
        assert_eq!(left("4:memory,hugetlb:/c\n"), Some(101));
        assert_eq!(left("nonsense\n4:memory:/not/there\n"), None);
    }
}
