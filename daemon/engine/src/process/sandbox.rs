//! The sandbox: what a hostile model file can do once it has taken the engine over.
//!
//! ```text
//!  limits ──► Surroundings (what is to be known of the machine) ──► sandbox ──► threads ──► model file
//! ```
//!
//! Two layers, each of which holds where the other is missing:
//!
//! - **Landlock** (`landlock`): the model file can be read; no other file can be opened, none written, made, renamed
//!   or removed, no folder listed.
//! - **seccomp** (`seccomp`): only system calls that an engine makes. No socket, no program, no process, no signal to
//!   others, nothing opened for writing, no new executable memory, nothing that administers a system.
//!
//! There is no exception for a build without GPU: what such an engine must know of the machine is looked up before
//! ([`Surroundings`](super::Surroundings)), and the link and standard error are open already. What remains: the link;
//! memory and processor time, which the front watches; the names, sizes and times of files, which `stat` tells and
//! neither layer can part from the model's own.
//!
//! Both layers hold for the calling thread and every thread that it makes, so this comes before all others. Nothing
//! undoes them. Where the kernel has a layer not at all or not whole, the engine says so once and runs all the same: a
//! board with an old kernel is better served unguarded than not.

mod landlock;
mod seccomp;

use std::fmt;

use super::Spec;

/// What became of the sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What each layer that holds calls itself.
    holds: Vec<String>,
    /// Why each other layer does not.
    missing: Vec<String>,
    /// What is open that the layers of a newer kernel would close.
    open: Vec<&'static str>,
}

/// A layer that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    /// As people know it, with its version where it has one.
    name: String,
    /// What this kernel's version of it leaves open.
    open: Vec<&'static str>,
}

/// What became of a layer; the error is why it does not hold.
type Outcome = Result<Held, String>;

/// Locks the process down to the model file and its link, as far as the kernel can, and says in the log where that is
/// not far enough.
pub fn enter(spec: &Spec) -> Report {
    // The first needs system calls that the second denies.
    let landlock = landlock::restrict(&spec.model);
    let seccomp = seccomp::restrict();
    let report = Report::of(landlock, seccomp);
    report.log();
    report
}

impl Report {
    /// System calls are the outer layer: what Landlock leaves open they deny, so that it counts only without them.
    fn of(landlock: Outcome, seccomp: Outcome) -> Self {
        let mut report = Self { holds: Vec::new(), missing: Vec::new(), open: Vec::new() };
        let alone = seccomp.is_err();
        for (layer, outcome) in [("landlock", landlock), ("seccomp", seccomp)] {
            match outcome {
                Ok(Held { name, open }) => {
                    report.holds.push(name);
                    report.open.extend(open.into_iter().filter(|_| alone));
                }
                Err(why) => report.missing.push(format!("no {layer}: {why}")),
            }
        }
        report
    }

    /// Whether both layers hold.
    pub fn is_whole(&self) -> bool {
        self.missing.is_empty()
    }

    fn log(&self) {
        if self.is_whole() {
            tracing::debug!(sandbox = %self, "Sandbox is closed");
        } else {
            let (missing, open) = (self.missing.join("; "), self.open.join(", "));
            tracing::warn!(missing, open, "Sandbox has a gap: this kernel does not offer all of it");
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.holds.is_empty() { "none" } else { "" })?;
        f.write_str(&self.holds.join(", "))?;
        if self.is_whole() { Ok(()) } else { write!(f, " ({})", self.missing.join("; ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(name: &str, open: &[&'static str]) -> Outcome {
        Ok(Held { name: name.to_owned(), open: open.to_vec() })
    }

    fn absent(why: &str) -> Outcome {
        Err(why.to_owned())
    }

    #[test]
    fn a_whole_sandbox_names_its_layers() {
        let report = Report::of(held("landlock 7", &[]), held("seccomp", &[]));
        assert!(report.is_whole());
        assert_eq!(report.to_string(), "landlock 7, seccomp");
    }

    #[test]
    fn what_is_missing_is_said_with_its_reason() {
        let report = Report::of(absent("not in this kernel"), held("seccomp", &[]));
        assert!(!report.is_whole());
        assert_eq!(report.to_string(), "seccomp (no landlock: not in this kernel)");
        let report = Report::of(absent("not in this kernel"), absent("emulated"));
        assert_eq!(report.to_string(), "none (no landlock: not in this kernel; no seccomp: emulated)");
    }

    #[test]
    fn what_an_old_landlock_leaves_open_counts_only_where_system_calls_are_free() {
        let old = || held("landlock 3", &["TCP", "signals"]);
        assert!(Report::of(old(), held("seccomp", &[])).open.is_empty());
        assert_eq!(Report::of(old(), absent("emulated")).open, ["TCP", "signals"]);
    }
}
