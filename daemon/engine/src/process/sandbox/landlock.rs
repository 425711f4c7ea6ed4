//! Files: the model can be read, and that is all.

use std::path::{Path, PathBuf};

use ::landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, PathFd, RestrictionStatus,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use super::{Held, Outcome};
use crate::prompt::chain;

/// Everything that this version can deny is denied; a kernel that knows less denies what it knows. All of it is of no
/// use to an engine, so a newer one can be named as soon as the crate knows it.
const NEWEST: ABI = ABI::V10;

/// What versions before the named one do not deny.
const GAPS: [(ABI, &str); 6] = [
    (ABI::V3, "truncating files"),
    (ABI::V4, "TCP"),
    (ABI::V5, "control of devices"),
    (ABI::V6, "signals and abstract Unix sockets"),
    (ABI::V9, "Unix sockets with a path"),
    (ABI::V10, "UDP"),
];

/// What CUDA opens after the sandbox has closed, below these folders: libraries that its driver loads when it is first
/// asked for a device, and what the driver and they read to find out about devices and the machine.
const CUDA_READS: [&str; 8] = [
    // Libraries of the driver and of CUDA, and the linker's list of them.
    "/usr/lib",
    "/usr/lib64",
    "/lib",
    "/usr/local",
    "/etc/ld.so.cache",
    // Which devices there are, their NUMA nodes, and on Tegra which chip it is.
    "/sys",
    // The driver's parameters, memory maps of the process itself, memory and processors of the machine.
    "/proc",
    // How Tegra's libraries are set up.
    "/etc/nv_tegra_release",
];

/// Device nodes of NVIDIA's drivers begin with one of these: nvidia0, nvidiactl, nvidia-uvm; nvhost-*, nvmap and nvgpu,
/// host1x-fence on Tegra.
const CUDA_DEVICES: [&str; 2] = ["nv", "host1x"];

/// Restricts this thread and those that it makes.
pub(super) fn restrict(model: &Path) -> Outcome {
    match enforce(model) {
        Ok(status) => outcome(&status),
        Err(error) => Err(chain(&error)),
    }
}

fn enforce(model: &Path) -> Result<RestrictionStatus, RulesetError> {
    let read = BitFlags::from(AccessFs::ReadFile);
    let ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    let mut ruleset = allow(ruleset, model, read)?;
    if cfg!(feature = "cuda") {
        for path in CUDA_READS {
            ruleset = allow(ruleset, Path::new(path), read | AccessFs::ReadDir)?;
        }
        for path in cuda_devices() {
            ruleset = allow(ruleset, &path, read | AccessFs::WriteFile | AccessFs::IoctlDev)?;
        }
    }
    ruleset.restrict_self()
}

/// A path that cannot be opened now cannot be opened later either, and whoever tries then says why.
fn allow(
    ruleset: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    match PathFd::new(path) {
        Ok(file) => ruleset.add_rule(PathBeneath::new(file, access)),
        Err(_) => Ok(ruleset),
    }
}

fn cuda_devices() -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/dev").into_iter().flatten().flatten();
    let is_cuda = |name: &str| CUDA_DEVICES.iter().any(|prefix| name.starts_with(prefix));
    entries
        .filter(|entry| entry.file_name().to_str().is_some_and(is_cuda))
        .map(|entry| entry.path())
        .collect()
}

fn outcome(status: &RestrictionStatus) -> Outcome {
    match status.landlock {
        LandlockStatus::NotImplemented => Err("this kernel has none".to_owned()),
        LandlockStatus::NotEnabled => Err("this kernel was started without it".to_owned()),
        _ if status.ruleset == RulesetStatus::NotEnforced => Err("this kernel enforced nothing".to_owned()),
        LandlockStatus::Available { effective_abi, .. } => {
            Ok(Held { name: format!("landlock {effective_abi}"), open: gaps(effective_abi) })
        }
    }
}

fn gaps(version: ABI) -> Vec<&'static str> {
    GAPS.iter().filter(|(since, _)| version < *since).map(|(_, what)| *what).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_versions_leave_more_open() {
        assert!(gaps(NEWEST).is_empty());
        assert_eq!(gaps(ABI::V6), ["Unix sockets with a path", "UDP"]);
        assert_eq!(gaps(ABI::V1).len(), GAPS.len());
    }
}
