//! Temperatures of the board.

use std::path::PathBuf;

/// Reads the thermal zones below a root folder.
#[derive(Clone, Debug)]
pub struct SensorReader {
    root: PathBuf,
}

/// A temperature.
#[derive(Clone, Debug, PartialEq)]
pub struct Temperature {
    /// As the board calls it.
    pub name: String,
    /// Degrees Celsius.
    pub celsius: f64,
}

impl SensorReader {
    /// A reader of the board whose file system is at `root`, `/` for the real one.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Each zone that can be read, by its number.
    pub fn read(&self) -> Vec<Temperature> {
        let zones = std::fs::read_dir(self.root.join("sys/class/thermal")).into_iter().flatten().flatten();
        let mut zones: Vec<(u32, PathBuf)> = zones
            .filter_map(|zone| {
                let number = zone.file_name().to_str()?.strip_prefix("thermal_zone")?.parse().ok()?;
                Some((number, zone.path()))
            })
            .collect();
        zones.sort();
        let read = |(_, zone): &(u32, PathBuf)| {
            let text = |file: &str| std::fs::read_to_string(zone.join(file)).ok();
            let thousandths: i32 = text("temp")?.trim().parse().ok()?;
            let name = text("type")?.trim().to_owned();
            Some(Temperature { name, celsius: f64::from(thousandths) / 1000.0 })
        };
        zones.iter().filter_map(read).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_that_cannot_be_read_are_left_out() {
        let root = tempfile::tempdir().expect("a temporary folder");
        assert!(SensorReader::new(root.path()).read().is_empty());
        let write = |zone: &str, file: &str, text: &str| {
            let folder = root.path().join("sys/class/thermal").join(zone);
            std::fs::create_dir_all(&folder).expect("make folders");
            std::fs::write(folder.join(file), text).expect("write a file");
        };
        write("thermal_zone10", "type", "gpu\n");
        write("thermal_zone10", "temp", "41000\n");
        write("thermal_zone2", "type", "cpu-thermal\n");
        write("thermal_zone2", "temp", "61234\n");
        write("thermal_zone3", "type", "broken\n");
        write("cooling_device0", "type", "fan\n");
        let found = SensorReader::new(root.path()).read();
        assert_eq!(
            found,
            [
                Temperature { name: "cpu-thermal".to_owned(), celsius: 61.234 },
                Temperature { name: "gpu".to_owned(), celsius: 41.0 }
            ]
        );
    }
}
