//! Memory that this process may use: that of the machine, or less where a control group limits it, as containers and
//! batch systems do.

use std::path::Path;

/// Bytes of memory that this process may use, swap space of the machine included; `None` where the system does not tell.
#[must_use]
pub fn limit() -> Option<u64> {
    limit_of(Path::new("/proc"), Path::new("/sys/fs/cgroup"))
}

fn limit_of(proc: &Path, groups: &Path) -> Option<u64> {
    let total = std::fs::read_to_string(proc.join("meminfo")).ok().and_then(|text| total_of(&text));
    let own = std::fs::read_to_string(proc.join("self/cgroup")).unwrap_or_default();
    let limits = own.lines().flat_map(|line| limits_of_group(line, groups));
    total.into_iter().chain(limits).min()
}

/// Bytes of memory and swap space in the text of `/proc/meminfo`.
fn total_of(meminfo: &str) -> Option<u64> {
    let kib = |name: &str| {
        let rest = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        rest.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some((kib("MemTotal:")? + kib("SwapTotal:").unwrap_or(0)) * 1024)
}

/// Limits of the group of a line of `/proc/self/cgroup` (`0::/path`, or `4:memory:/path` of version 1) and of the groups
/// above it, which limit it as well. A container may see only the last of these.
fn limits_of_group(line: &str, groups: &Path) -> Vec<u64> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { return vec![] };
    let (root, file) = if controllers.is_empty() {
        (groups.to_owned(), "memory.max")
    } else if controllers.split(',').any(|controller| controller == "memory") {
        (groups.join("memory"), "memory.limit_in_bytes")
    } else {
        return vec![];
    };
    let group = Path::new(path.trim_start_matches('/'));
    // A group without a limit says `max`.
    let limit = |group: &Path| std::fs::read_to_string(root.join(group).join(file)).ok()?.trim().parse::<u64>().ok();
    group.ancestors().filter_map(limit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(cgroup: &str, files: &[(&str, &str)], expected: Option<u64>) {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("proc/self/cgroup", cgroup);
        for (path, text) in files {
            write(path, text);
        }
        assert_eq!(limit_of(&dir.path().join("proc"), &dir.path().join("groups")), expected, "{cgroup} {files:?}");
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:  4000 kB\nMemFree: 1 kB\nSwapTotal:  1000 kB\n");

    #[test]
    fn smallest_limit_of_machine_and_groups_counts() {
        check("", &[], None);
        check("0::/\n", &[MEMINFO], Some(5000 * 1024));
        check("0::/a/b\n", &[MEMINFO, ("groups/a/b/memory.max", "max\n"), ("groups/a/memory.max", "77\n")], Some(77));
        check("0::/gone\n", &[MEMINFO, ("groups/memory.max", "99\n")], Some(99));
        let unlimited = ("groups/memory/memory.limit_in_bytes", "9223372036854771712\n");
        check("5:cpu:/x\n4:memory:/job\n", &[MEMINFO, unlimited], Some(5000 * 1024));
        let job = ("groups/memory/job/memory.limit_in_bytes", "55\n");
        check("5:cpu:/x\n4:cpu,memory:/job\n", &[MEMINFO, unlimited, job], Some(55));
        check("4:memory:/job\n", &[job], Some(55));
    }
}
