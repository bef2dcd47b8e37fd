//! Memory that this process may use: that of the machine, or less if a control group limits it, as in containers and
//! batch systems.

use std::path::{Path, PathBuf};

const PROC: &str = "/proc";
const GROUPS: &str = "/sys/fs/cgroup";

/// Bytes of memory that this process may use, including the machine's swap space; `None` if the system does not report
/// it.
#[must_use]
pub fn limit() -> Option<u64> {
    limit_of(Path::new(PROC), Path::new(GROUPS))
}

/// Bytes of memory that are free for this process, excluding swap space; `None` if the system does not report it.
/// Cached file contents that the system can drop count as free.
#[must_use]
pub fn available() -> Option<u64> {
    available_of(Path::new(PROC), Path::new(GROUPS))
}

fn limit_of(proc: &Path, groups: &Path) -> Option<u64> {
    let total = || {
        let meminfo = std::fs::read_to_string(proc.join("meminfo")).ok()?;
        Some(bytes_of(&meminfo, "MemTotal:")? + bytes_of(&meminfo, "SwapTotal:").unwrap_or(0))
    };
    let limits = own_groups(proc, groups).into_iter().filter_map(|(group, files)| files.limit(&group));
    total().into_iter().chain(limits).min()
}

fn available_of(proc: &Path, groups: &Path) -> Option<u64> {
    let meminfo = std::fs::read_to_string(proc.join("meminfo")).ok();
    let available = meminfo.and_then(|meminfo| bytes_of(&meminfo, "MemAvailable:"));
    let rooms = own_groups(proc, groups).into_iter().filter_map(|(group, files)| files.room(&group));
    available.into_iter().chain(rooms).min()
}

/// Value in bytes of a line in the text of `/proc/meminfo`.
fn bytes_of(meminfo: &str, name: &str) -> Option<u64> {
    let rest = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    Some(rest.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// Folders of the control groups that limit this process, and the names of their files.
fn own_groups(proc: &Path, groups: &Path) -> Vec<(PathBuf, Files)> {
    let own = std::fs::read_to_string(proc.join("self/cgroup")).unwrap_or_default();
    own.lines().flat_map(|line| groups_of(line, groups)).collect()
}

/// Folders of the control group in a line of `/proc/self/cgroup` (`0::/path`, or `4:memory:/path` in version 1), and of
/// the groups above it, which limit the process as well. A container may see only the last of these.
fn groups_of(line: &str, groups: &Path) -> Vec<(PathBuf, Files)> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { return vec![] };
    let (root, files) = if controllers.is_empty() {
        (groups.to_owned(), VERSION_2)
    } else if controllers.split(',').any(|controller| controller == "memory") {
        (groups.join("memory"), VERSION_1)
    } else {
        return vec![];
    };
    let group = Path::new(path.trim_start_matches('/'));
    group.ancestors().map(|group| (root.join(group), files)).collect()
}

/// Names of the files of a control group.
#[derive(Clone, Copy)]
struct Files {
    limit: &'static str,
    usage: &'static str,
    /// Line of `memory.stat` with the size of cached file contents that were not used recently.
    inactive_file: &'static str,
}

const VERSION_1: Files =
    Files { limit: "memory.limit_in_bytes", usage: "memory.usage_in_bytes", inactive_file: "total_inactive_file " };
const VERSION_2: Files = Files { limit: "memory.max", usage: "memory.current", inactive_file: "inactive_file " };

impl Files {
    /// Limit of `group` in bytes; `None` for a group without a limit, whose file says `max`.
    fn limit(self, group: &Path) -> Option<u64> {
        std::fs::read_to_string(group.join(self.limit)).ok()?.trim().parse().ok()
    }

    /// Bytes left below the limit of `group`.
    fn room(self, group: &Path) -> Option<u64> {
        let limit = self.limit(group)?;
        let usage: u64 = std::fs::read_to_string(group.join(self.usage)).ok()?.trim().parse().ok()?;
        let stat = std::fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
        let inactive = stat.lines().find_map(|line| line.strip_prefix(self.inactive_file));
        let inactive = inactive.and_then(|number| number.trim().parse().ok()).unwrap_or(0);
        Some(limit.saturating_sub(usage.saturating_sub(inactive)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Folder with the files of a process that belongs to the groups in `cgroup`.
    fn system(cgroup: &str, files: &[(&str, &str)]) -> tempfile::TempDir {
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
        dir
    }

    fn check(cgroup: &str, files: &[(&str, &str)], expected: Option<u64>) {
        let dir = system(cgroup, files);
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

    #[test]
    fn free_memory_is_the_least_that_machine_and_groups_leave() {
        let check = |cgroup: &str, files: &[(&str, &str)], expected: Option<u64>| {
            let dir = system(cgroup, files);
            let available = available_of(&dir.path().join("proc"), &dir.path().join("groups"));
            assert_eq!(available, expected, "{cgroup} {files:?}");
        };
        let meminfo = ("proc/meminfo", "MemTotal: 4000 kB\nMemFree: 1 kB\nMemAvailable: 3000 kB\nSwapTotal: 1000 kB\n");
        let [max, current] = [("groups/a/memory.max", "1000\n"), ("groups/a/memory.current", "700\n")];
        check("", &[], None);
        check("", &[MEMINFO], None);
        check("0::/\n", &[meminfo], Some(3000 * 1024));
        check("0::/a/b\n", &[meminfo, max, current], Some(300));
        let stat = ("groups/a/memory.stat", "active_file 100\ninactive_file 250\n");
        check("0::/a/b\n", &[meminfo, max, current, stat], Some(550));
        check("0::/a\n", &[meminfo, max, ("groups/a/memory.current", "1200\n")], Some(0));
        let [limit, usage] =
            [("groups/memory/job/memory.limit_in_bytes", "55\n"), ("groups/memory/job/memory.usage_in_bytes", "40\n")];
        let stat = ("groups/memory/job/memory.stat", "inactive_file 1\ntotal_inactive_file 10\n");
        check("4:cpu,memory:/job\n", &[meminfo, limit, usage, stat], Some(25));
    }
}
