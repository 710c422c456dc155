//! CPU memory that this process may still take: what the system has, or the container lets it have.

/// Bytes of CPU memory that are free for this process, where that can be told.
pub fn host_memory_bytes() -> Option<u64> {
    #[cfg(target_os = "linux")]
    return linux::room(std::path::Path::new("/"));
    #[cfg(any(target_os = "macos", target_os = "windows"))]
    return {
        let mut system = sysinfo::System::new();
        system.refresh_memory();
        Some(system.available_memory()).filter(|&bytes| bytes > 0)
    };
    #[cfg(not(any(target_os = "linux", target_os = "macos", target_os = "windows")))]
    return None;
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs::read_to_string;
    use std::path::Path;

    /// The least of what the system has available and what each control group that this process is in has left.
    pub fn room(root: &Path) -> Option<u64> {
        [available(root), of_groups(root)].into_iter().flatten().min()
    }

    fn available(root: &Path) -> Option<u64> {
        let text = read_to_string(root.join("proc/meminfo")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
    }

    /// Where control groups lie below the root, and what their files are called.
    struct Hierarchy {
        mount: &'static str,
        limits: &'static [&'static str],
        used: &'static str,
        /// In `memory.stat`: cache that the kernel gives back when memory is short.
        cache: &'static str,
    }

    const V2: Hierarchy = Hierarchy {
        mount: "sys/fs/cgroup",
        limits: &["memory.max", "memory.high"],
        used: "memory.current",
        cache: "inactive_file",
    };
    const V1: Hierarchy = Hierarchy {
        mount: "sys/fs/cgroup/memory",
        limits: &["memory.limit_in_bytes"],
        used: "memory.usage_in_bytes",
        cache: "total_inactive_file",
    };

    fn of_groups(root: &Path) -> Option<u64> {
        let groups = read_to_string(root.join("proc/self/cgroup")).ok()?;
        let rooms = groups.lines().filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let is_v1 = controllers.split(',').any(|name| name == "memory");
            let hierarchy = match (is_v1, controllers) {
                (true, _) => V1,
                (false, "") => V2,
                _ => return None,
            };
            hierarchy.room(root, path)
        });
        rooms.min()
    }

    impl Hierarchy {
        // A group is held to the limits of those around it too. In a container the path may be that of the host, where
        // nothing is: what is mounted is the container's own group then.
        fn room(&self, root: &Path, path: &str) -> Option<u64> {
            let path = Path::new(path.trim_start_matches('/'));
            path.ancestors().filter_map(|group| self.of(&root.join(self.mount).join(group))).min()
        }

        fn of(&self, group: &Path) -> Option<u64> {
            let number = |name: &str| read_to_string(group.join(name)).ok()?.trim().parse().ok();
            let limit: u64 = self.limits.iter().filter_map(|name| number(name)).min()?;
            let used: u64 = number(self.used)?;
            let stat = read_to_string(group.join("memory.stat")).unwrap_or_default();
            let cache =
                stat.lines().find_map(|line| line.strip_prefix(self.cache)?.strip_prefix(' '));
            let cache: u64 = cache.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0);
            Some(limit.saturating_sub(used.saturating_sub(cache)))
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use std::fs;

        fn machine(files: &[(&str, &str)]) -> Option<u64> {
            let root = tempfile::tempdir().expect("a folder");
            for (name, text) in files {
                let path = root.path().join(name);
                fs::create_dir_all(path.parent().expect("a folder")).expect("made");
                fs::write(path, text).expect("written");
            }
            room(root.path())
        }

        const MEMORY: (&str, &str) =
            ("proc/meminfo", "MemTotal: 2000 kB\nMemFree: 7 kB\nMemAvailable:   1000 kB\n");

        #[test]
        fn without_groups_it_is_what_the_system_has() {
            assert_eq!(machine(&[]), None);
            assert_eq!(machine(&[MEMORY]), Some(1_024_000));
            let unlimited = [
                MEMORY,
                ("proc/self/cgroup", "0::/user.slice\n"),
                ("sys/fs/cgroup/user.slice/memory.max", "max\n"),
                ("sys/fs/cgroup/user.slice/memory.current", "5\n"),
            ];
            assert_eq!(machine(&unlimited), Some(1_024_000));
        }

        #[test]
        fn a_container_has_what_its_group_has_left() {
            let group = [
                MEMORY,
                ("proc/self/cgroup", "0::/\n"),
                ("sys/fs/cgroup/memory.max", "300000\n"),
                ("sys/fs/cgroup/memory.high", "max\n"),
                ("sys/fs/cgroup/memory.current", "120000\n"),
                ("sys/fs/cgroup/memory.stat", "anon 5\ninactive_file 20000\nfile 99\n"),
            ];
            assert_eq!(machine(&group), Some(200_000));
            let mut throttled = group;
            throttled[3].1 = "150000\n";
            assert_eq!(machine(&throttled), Some(50_000));
            // More was taken than is allowed now.
            throttled[3].1 = "1000\n";
            assert_eq!(machine(&throttled), Some(0));
        }

        #[test]
        fn groups_around_it_count_too() {
            let nested = [
                MEMORY,
                ("proc/self/cgroup", "0::/outer/inner\n"),
                ("sys/fs/cgroup/outer/memory.max", "90000\n"),
                ("sys/fs/cgroup/outer/memory.current", "60000\n"),
                ("sys/fs/cgroup/outer/inner/memory.max", "80000\n"),
                ("sys/fs/cgroup/outer/inner/memory.current", "10000\n"),
            ];
            assert_eq!(machine(&nested), Some(30_000));
        }

        #[test]
        fn the_older_hierarchy_is_read_and_a_path_of_the_host_s() {
            let files = [
                MEMORY,
                ("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n1:name=systemd:/\n"),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", "400000\n"),
                ("sys/fs/cgroup/memory/memory.usage_in_bytes", "100000\n"),
                ("sys/fs/cgroup/memory/memory.stat", "total_inactive_file 1000\n"),
            ];
            assert_eq!(machine(&files), Some(301_000));
            let mut unlimited = files;
            unlimited[2].1 = "9223372036854771712\n";
            assert_eq!(machine(&unlimited), Some(1_024_000));
        }
    }
}
