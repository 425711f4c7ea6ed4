//! Which engine program runs: a package brings one for each level of the processor, and the best that this one can run
//! is taken.

use std::io;
use std::path::{Path, PathBuf};

/// What the plain name of an engine is; one for a level has the level behind it.
const NAME: &str = "hearth-engine";

/// An engine program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The executable.
    pub path: PathBuf,
    /// What tells it from the other programs of the same build: its file's name, which has the CPU level. What models
    /// take in memory is kept under it.
    pub key: String,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum NoProgram {
    /// The system does not tell where the daemon's own program is.
    #[error("find the daemon's own executable")]
    Own(#[source] io::Error),
    /// It is not where it should be.
    #[error("there is no engine executable at {}", .0.display())]
    Missing(PathBuf),
    /// There are some, for better processors.
    #[error("this processor can run none of the engines in {}: {built}", folder.display())]
    Unfit {
        /// Where they lie.
        folder: PathBuf,
        /// What they need, the least first.
        built: String,
    },
}

/// One level of a processor, and what it takes.
struct Level {
    name: &'static str,
    needs: &'static str,
    is_met: fn() -> bool,
}

/// The best first. What the kernels of each are compiled for stands in `deploy/package/cpu-level.cmake`.
#[cfg(target_arch = "aarch64")]
const LEVELS: [Level; 3] = [
    Level {
        name: "i8mm",
        needs: "i8mm, dotprod and fp16",
        is_met: || {
            use std::arch::is_aarch64_feature_detected as has;
            has!("i8mm") && has!("dotprod") && has!("fp16")
        },
    },
    // Cortex-A76 (Raspberry Pi 5), Cortex-A78AE (Jetson Orin).
    Level {
        name: "dotprod",
        needs: "dotprod and fp16",
        is_met: || {
            use std::arch::is_aarch64_feature_detected as has;
            has!("dotprod") && has!("fp16")
        },
    },
    // Cortex-A53, Cortex-A72 (Raspberry Pi 3 and 4).
    Level { name: "armv8-a", needs: "nothing more", is_met: || true },
];

/// The best first. What the kernels of each are compiled for stands in `deploy/package/cpu-level.cmake`.
#[cfg(target_arch = "x86_64")]
const LEVELS: [Level; 3] = [
    Level {
        name: "avx512vnni",
        needs: "AVX-512 (F, CD, VL, DQ, BW, VNNI), AVX2, FMA, F16C and BMI2",
        is_met: || {
            let is_wide = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512cd")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512bw");
            is_wide && is_x86_feature_detected!("avx512vnni") && has_avx2()
        },
    },
    Level { name: "avx2", needs: "AVX2, FMA, F16C and BMI2", is_met: has_avx2 },
    Level { name: "sse42", needs: "SSE 4.2", is_met: || is_x86_feature_detected!("sse4.2") },
];

#[cfg(not(any(target_arch = "aarch64", target_arch = "x86_64")))]
const LEVELS: [Level; 0] = [];

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("bmi2")
}

impl Program {
    /// The configured one, or the best that came with this daemon: beside its own executable, else in
    /// `../libexec/hearth`.
    ///
    /// # Errors
    /// There is none that this processor can run.
    pub fn find(configured: Option<&Path>) -> Result<Self, NoProgram> {
        if let Some(path) = configured {
            return Self::at(path.to_owned());
        }
        let own = std::env::current_exe().map_err(NoProgram::Own)?;
        let beside = own.parent().unwrap_or(Path::new("/"));
        let plain = beside.join(NAME);
        if plain.is_file() {
            return Self::at(plain);
        }
        let folder = beside.parent().unwrap_or(beside).join("libexec/hearth");
        match Self::best_in(&folder, &LEVELS)? {
            Some(program) => Ok(program),
            None => Err(NoProgram::Missing(plain)),
        }
    }

    fn at(path: PathBuf) -> Result<Self, NoProgram> {
        if !path.is_file() {
            return Err(NoProgram::Missing(path));
        }
        let key = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { path, key })
    }

    /// One that nobody has looked for, for tests.
    #[cfg(test)]
    pub(crate) fn plain(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), key: NAME.to_owned() }
    }

    /// `levels`, the best first.
    fn best_in(folder: &Path, levels: &[Level]) -> Result<Option<Self>, NoProgram> {
        let path = |level: &Level| folder.join(format!("{NAME}-{}", level.name));
        let built: Vec<_> = levels.iter().filter(|level| path(level).is_file()).collect();
        if let Some(best) = built.iter().find(|level| (level.is_met)()) {
            return Self::at(path(best)).map(Some);
        }
        if built.is_empty() {
            return Ok(None);
        }
        let needs = |level: &&Level| format!("{} needs {}", level.name, level.needs);
        let built = built.iter().rev().map(needs).collect::<Vec<_>>().join("; ");
        Err(NoProgram::Unfit { folder: folder.to_owned(), built })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEST: Level = Level { name: "best", needs: "the best", is_met: || false };
    const GOOD: Level = Level { name: "good", needs: "a good one", is_met: || true };
    const PLAIN: Level = Level { name: "plain", needs: "nothing", is_met: || true };

    fn folder(levels: &[&Level]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for level in levels {
            std::fs::write(folder.path().join(format!("{NAME}-{}", level.name)), "").unwrap();
        }
        folder
    }

    fn key_of(levels: &[&Level]) -> Option<String> {
        let folder = folder(levels);
        Program::best_in(folder.path(), &[BEST, GOOD, PLAIN]).unwrap().map(|program| program.key)
    }

    #[test]
    fn the_best_that_the_processor_runs_is_taken() {
        assert_eq!(key_of(&[&BEST, &GOOD, &PLAIN]).as_deref(), Some("hearth-engine-good"));
        assert_eq!(key_of(&[&BEST, &PLAIN]).as_deref(), Some("hearth-engine-plain"));
        assert_eq!(key_of(&[]), None);
    }

    #[test]
    fn where_it_runs_none_the_error_says_what_each_needs() {
        let folder = folder(&[&BEST]);
        let error = Program::best_in(folder.path(), &[BEST, GOOD]).unwrap_err().to_string();
        assert!(error.ends_with(": best needs the best"), "{error}");
    }

    #[test]
    fn a_configured_one_must_be_there() {
        let error = Program::find(Some(Path::new("/nowhere/engine"))).unwrap_err().to_string();
        assert_eq!(error, "there is no engine executable at /nowhere/engine");
    }

    #[test]
    fn every_level_of_this_processor_s_kind_is_in_the_build_s_table() {
        let table = include_str!("../../../deploy/package/cpu-level.cmake");
        for level in LEVELS {
            assert!(table.contains(&format!("STREQUAL \"{}\"", level.name)), "{}", level.name);
        }
    }
}
