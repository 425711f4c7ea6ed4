#!/bin/sh
# Installs the Debian packages that building needs, where it may; otherwise prints the line to run.
#
#     setup.sh                    to build and test
#     setup.sh package ARCH       to make the package for an architecture as well
#     setup.sh test-package       to test it
#     setup.sh lint-units         to look at its units
#     setup.sh test-image         to build and run the container image
#     setup.sh board              to run the simulated board
set -eu

missing=""
need() { # package, test command
    if ! eval "$2" >/dev/null 2>&1; then missing="$missing $1"; fi
}
need cmake "command -v cmake"
need g++ "command -v g++"
need make "command -v make"
need libclang-dev "find /usr/lib -name 'libclang[.-][0-9s]*' | grep -q ."
# bindgen reads C headers with clang's own resource headers.
need clang "command -v clang"
case ${1:-} in
package)
    need debhelper "command -v dh"
    need dpkg-dev "command -v dpkg-buildpackage"
    if [ "$2" = arm64 ] && [ "$(dpkg --print-architecture)" != arm64 ]; then
        need crossbuild-essential-arm64 "command -v aarch64-linux-gnu-g++"
        need qemu-user-static "command -v qemu-aarch64-static"
    fi
    ;;
test-package)
    need lintian "command -v lintian"
    need mmdebstrap "command -v mmdebstrap"
    need arch-test "command -v arch-test"
    need qemu-user-static "command -v qemu-aarch64-static"
    ;;
lint-units)
    need systemd "command -v systemd-analyze"
    ;;
test-image)
    need mmdebstrap "command -v mmdebstrap"
    need buildah "command -v buildah"
    need crun "command -v crun"
    need golang-github-containers-common "test -f /usr/share/containers/seccomp.json"
    ;;
board)
    need mmdebstrap "command -v mmdebstrap"
    need arch-test "command -v arch-test"
    need qemu-system-arm "command -v qemu-system-aarch64"
    need qemu-user-static "command -v qemu-aarch64-static"
    need e2fsprogs "test -x /sbin/mkfs.ext4"
    ;;
esac

[ -n "$missing" ] || exit 0
line="apt-get install -y --no-install-recommends$missing"
if ! command -v apt-get >/dev/null 2>&1; then
    echo "Missing:$missing. Install them with this system's package manager." >&2
    exit 1
elif [ "$(id -u)" = 0 ]; then
    echo "Installing:$missing"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive $line
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    echo "Installing:$missing"
    sudo apt-get update -qq && sudo DEBIAN_FRONTEND=noninteractive $line
else
    echo "Packages are missing. Run this once, then try again:" >&2
    echo "    sudo apt-get update && sudo $line" >&2
    exit 1
fi
