//! Units of the machine: their properties, and waiting until one changes.

use std::io::{BufRead, BufReader};

use super::{Machine, Running};

impl Machine {
    /// A property of a unit, as `systemctl show` prints it.
    #[track_caller]
    pub fn property(&self, unit: &str, name: &str) -> String {
        let said = self.run(&format!("systemctl show --property={name} --value {unit}"));
        said.trim_end_matches('\n').to_owned()
    }

    pub fn active(&self, unit: &str) -> String {
        self.property(unit, "ActiveState")
    }

    /// The main process of the daemon, in the machine's numbers; 0 for none.
    pub fn daemon(&self) -> u32 {
        self.property("mistryd.service", "MainPID").parse().unwrap()
    }

    /// Waits until a property is as wanted; returns it. What the bus tells of the unit is waited
    /// for, so nothing that lasts for some milliseconds only is sure to be seen.
    #[track_caller]
    pub fn wait_for(&self, unit: &str, name: &str, wanted: impl Fn(&str) -> bool) -> String {
        self.watch(unit).until(name, wanted)
    }

    /// Listens from now on to changes of a unit.
    #[track_caller]
    pub fn watch(&self, unit: &str) -> Watch<'_> {
        let path: String = unit
            .chars()
            .map(|c| match c {
                c if c.is_ascii_alphanumeric() => c.to_string(),
                c => format!("_{:02x}", u32::from(c)),
            })
            .collect();
        let mut monitor = self.begin(
            "root",
            &format!(
                "exec stdbuf -oL busctl --system --json=short monitor --match=\"type='signal',\
                interface='org.freedesktop.DBus.Properties',\
                path='/org/freedesktop/systemd1/unit/{path}'\" 2>&1"
            ),
        );
        let mut lines = BufReader::new(monitor.stdout());
        let mut first = String::new();
        lines.read_line(&mut first).unwrap();
        assert!(first.contains("Monitoring bus"), "{first}");
        Watch {
            machine: self,
            unit: unit.to_owned(),
            lines,
            _monitor: monitor,
        }
    }
}

/// A unit that is listened to.
#[derive(Debug)]
pub struct Watch<'a> {
    machine: &'a Machine,
    unit: String,
    lines: BufReader<std::process::ChildStdout>,
    _monitor: Running,
}

impl Watch<'_> {
    /// Waits until a property is as wanted; returns it.
    #[track_caller]
    pub fn until(&mut self, name: &str, wanted: impl Fn(&str) -> bool) -> String {
        loop {
            let value = self.machine.property(&self.unit, name);
            if wanted(&value) {
                return value;
            }
            let mut line = String::new();
            let read = self.lines.read_line(&mut line).unwrap();
            assert!(
                read > 0,
                "{name} of {} is still '{value}'; status: '{}'\n{}",
                self.unit,
                self.machine.property(&self.unit, "StatusText"),
                self.machine.journal_text(&self.unit),
            );
        }
    }
}
