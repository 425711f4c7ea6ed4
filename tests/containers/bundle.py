#!/usr/bin/env python3
"""Writes what an OCI runtime needs to run the image as deploy/k3s/hearth.yaml does: the root read-only, no capabilities,
no new privileges, the runtime's default list of system calls, the state and the socket's folder from outside.

    bundle.py FOLDER ROOT STATE SOCKETS COMMAND…       FOLDER/config.json; ROOT is the image's file system
"""

import json
import os
import platform
import sys

# What podman, buildah and CRI-O give a container; containerd's and Docker's lists allow what matters here as well.
PROFILE = "/usr/share/containers/seccomp.json"
USER = 7450


def seccomp():
    """The profile for a container without capabilities, in the form of the runtime."""
    with open(PROFILE, encoding="utf-8") as file:
        profile = json.load(file)
    machine = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}[platform.machine()]
    names = {"x86_64": {"amd64"}, "aarch64": {"arm64"}}[platform.machine()]
    rules = []
    for rule in profile["syscalls"]:
        includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
        if includes.get("caps") or names & set(excludes.get("arches") or ()):
            continue
        if includes.get("arches") and not names & set(includes["arches"]):
            continue
        kept = {key: rule[key] for key in ("names", "action", "args", "errnoRet") if rule.get(key) is not None}
        rules.append(kept)
    default = {key: profile[key] for key in ("defaultAction", "defaultErrnoRet") if key in profile}
    return {**default, "architectures": [machine], "syscalls": rules}


def mount(source, at, kind="bind", options=("rbind", "rw")):
    return {"source": source, "destination": at, "type": kind, "options": list(options)}


def main():
    folder, root, state, sockets, *command = sys.argv[1:]
    config = {
        "ociVersion": "1.0.2",
        "root": {"path": os.path.abspath(root), "readonly": True},
        "process": {
            "user": {"uid": USER, "gid": USER},
            "args": command,
            "env": ["PATH=/usr/bin:/bin"],
            "cwd": "/",
            "capabilities": {},
            "noNewPrivileges": True,
        },
        "mounts": [
            mount("proc", "/proc", "proc", ("nosuid", "noexec", "nodev")),
            mount("tmpfs", "/dev", "tmpfs", ("nosuid", "mode=755", "size=64k")),
            mount("/sys", "/sys", options=("rbind", "ro")),
            mount(os.path.abspath(state), "/var/lib/hearth"),
            mount(os.path.abspath(sockets), "/run/hearth"),
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network")],
            "seccomp": seccomp(),
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file, indent=1)


if __name__ == "__main__":
    main()
