//! The load and the memory of the host.

use super::error::Error;
use super::reading::Reader;

/// What the host has to do, and with what.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Machine {
    /// Processes that ran or waited for the disk, on average of the last minute.
    pub load: Option<f64>,
    /// Processors that the daemon may use.
    pub processors: usize,
    /// Bytes of memory that programs can still get, and of all memory.
    pub memory: Option<(u64, u64)>,
}

impl Reader {
    /// The load and the memory of the host.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub async fn machine(&self) -> Result<Machine, Error> {
        self.read(|| {
            let file = |name| std::fs::read_to_string(name).unwrap_or_default();
            Machine {
                load: load(&file("/proc/loadavg")),
                processors: std::thread::available_parallelism().map_or(1, usize::from),
                memory: memory(&file("/proc/meminfo")),
            }
        })
        .await
    }
}

/// The first number of `/proc/loadavg`.
fn load(text: &str) -> Option<f64> {
    text.split_whitespace().next()?.parse().ok()
}

/// Two lines of `/proc/meminfo`, in bytes.
fn memory(text: &str) -> Option<(u64, u64)> {
    let line = |name: &str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    };
    line("MemAvailable:").zip(line("MemTotal:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_and_memory_are_read_and_may_be_missing() {
        assert_eq!(load("0.52 0.58 0.59 1/467 12345\n"), Some(0.52));
        assert_eq!(load(""), None);
        let text = "MemTotal:        8000 kB\nMemFree: 1 kB\nMemAvailable:    3000 kB\n";
        assert_eq!(memory(text), Some((3000 << 10, 8000 << 10)));
        assert_eq!(memory("MemTotal: 8000 kB\n"), None);
    }
}
