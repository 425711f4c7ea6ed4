#!/bin/sh
# Makes the Debian package for an architecture, cross-compiled where it is not this machine's:
#
#     package.sh [arm64|amd64]        target/package/hearth_VERSION_ARCH.deb
#
# LEVELS="dotprod armv8-a" builds these engines only; see deploy/package/cpu-level.cmake. STAGE_ONLY=1 stops before the
# package: what it would install lies in target/package/ARCH/. CUDA=87 builds engines that use NVIDIA GPUs of this
# architecture (87: Jetson Orin), on a machine that has CUDA; one level is enough there.
set -eu
cd "$(dirname "$0")/.."
root=$PWD
host=$(dpkg --print-architecture)
arch=${1:-$host}
case $arch in
arm64) triple=aarch64-unknown-linux-gnu gnu=aarch64-linux-gnu all="i8mm dotprod armv8-a" ;;
amd64) triple=x86_64-unknown-linux-gnu gnu=x86_64-linux-gnu all="avx512vnni avx2 sse42" ;;
*) echo "No such architecture: $arch. arm64 or amd64." >&2; exit 2 ;;
esac
features=
if [ -n "${CUDA:-}" ]; then
    [ "$arch" = "$host" ] || { echo "CUDA=$CUDA: build it on the board itself." >&2; exit 2; }
    command -v nvcc >/dev/null || PATH=$PATH:/usr/local/cuda/bin
    command -v nvcc >/dev/null || { echo "CUDA=$CUDA: there is no nvcc in PATH or /usr/local/cuda/bin." >&2; exit 1; }
    export HEARTH_CUDA_ARCHITECTURES="$CUDA"
    features="--features hearth-engine/cuda"
    # Boards with such a GPU: Orin's processor, and any PC of the last ten years.
    case $arch in arm64) all=dotprod ;; amd64) all=avx2 ;; esac
fi
levels=${LEVELS:-$all}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
# llama.cpp is compiled anew for each level, so that this has a folder of its own beside the developers'.
work=$root/target/package${CUDA:+-cuda}
built=$work/$triple/release
stage=$work/$arch
mkdir -p "$work"

sh scripts/setup.sh package "$arch"
PATH=$(sh scripts/rust-target.sh "$triple"):$PATH
export PATH
if [ "$arch" != "$host" ]; then
    name=$(echo "$triple" | tr 'a-z-' 'A-Z_')
    export "CARGO_TARGET_${name}_LINKER=$gnu-gcc"
fi

# Runs a program of the target, an emulated one if need be.
run() {
    if [ "$arch" = "$host" ]; then "$@"; else qemu-aarch64-static -L "/usr/$gnu" "$@"; fi
}

# Whether a program has the instructions of its level, and none of a higher one: what it says of itself is not what was
# linked into it.
check_kernels() {
    case $HEARTH_CPU_LEVEL in
    armv8-a) has= lacks='sdot|udot|smmla' ;;
    dotprod) has=sdot lacks=smmla ;;
    i8mm) has=smmla lacks= ;;
    sse42) has= lacks='vfmadd|vpdpbusd' ;;
    avx2) has=vfmadd lacks=vpdpbusd ;;
    avx512vnni) has=vpdpbusd lacks= ;;
    esac
    "$gnu-objdump" -d "$1" | awk -v has="$has" -v lacks="$lacks" '
        has != "" && $0 ~ has { found++ }
        lacks != "" && $0 ~ lacks { wrong++ }
        END { exit NR < 100000 || wrong > 0 || (has != "" && found == 0) }' || {
        echo "The engine for $HEARTH_CPU_LEVEL has other kernels: $1" >&2
        exit 1
    }
}

rm -rf "$stage"
mkdir -p "$stage/usr/bin" "$stage/usr/libexec/hearth"
export CMAKE_PROJECT_INCLUDE_BEFORE="$root/deploy/package/cpu-level.cmake"
# The one that was built last needs the least.
last=$(cat "$work/$triple/level" 2>/dev/null || true)
for HEARTH_CPU_LEVEL in $(for level in $levels; do [ "$level" = "$last" ] && echo "0 $level" || echo "1 $level"; done |
    sort -s -k 1,1 | cut -d ' ' -f 2); do
    export HEARTH_CPU_LEVEL
    echo "Building for $arch, level $HEARTH_CPU_LEVEL"
    if [ "$last" != "$HEARTH_CPU_LEVEL" ]; then
        # CMake is configured once, and Cargo does not see what it is told here, nor that the archive is another one that
        # it packs into the Rust library. With these gone only ggml's kernels are compiled again, and packed.
        rm -f "$work/$triple/level" "$built"/build/llama-cpp-sys-2-*/out/build/CMakeCache.txt
        rm -rf "$built"/.fingerprint/llama-cpp-sys-2-*/run-build-script-* "$built"/.fingerprint/llama-cpp-sys-2-*/lib-*
    fi
    # shellcheck disable=SC2086
    CARGO_TARGET_DIR=$work cargo build --workspace --exclude hearth-tests --bins --release --locked \
        --target "$triple" $features
    echo "$HEARTH_CPU_LEVEL" >"$work/$triple/level"
    last=$HEARTH_CPU_LEVEL
    engine=$stage/usr/libexec/hearth/hearth-engine-$HEARTH_CPU_LEVEL
    install -m 755 "$built/hearth-engine" "$engine"
    said=$(run "$engine" --version)
    [ "$said" = "hearth-engine $version ($HEARTH_CPU_LEVEL)" ] || {
        echo "The engine for $HEARTH_CPU_LEVEL says: $said" >&2
        exit 1
    }
    check_kernels "$engine"
done
install -m 755 "$built/hearth" "$built/hearthd" "$stage/usr/bin/"
[ -z "${STAGE_ONLY:-}" ] || exit 0

complete() { # program
    mkdir -p "$stage/usr/share/bash-completion/completions" "$stage/usr/share/zsh/vendor-completions" \
        "$stage/usr/share/fish/vendor_completions.d"
    run "$built/$1" completions bash >"$stage/usr/share/bash-completion/completions/$1"
    run "$built/$1" completions zsh >"$stage/usr/share/zsh/vendor-completions/_$1"
    run "$built/$1" completions fish >"$stage/usr/share/fish/vendor_completions.d/$1.fish"
    run "$built/$1" man --out "$stage/man" >/dev/null
}
complete hearth
complete hearthd
install -D -m 644 deploy/config.toml "$stage/etc/hearth/config.toml"
examples=$stage/usr/share/doc/hearth/examples
# A board without a network has its manual with it.
install -D -m 644 -t "$stage/usr/share/doc/hearth" docs/*.md
install -D -m 644 -t "$stage/usr/share/doc/hearth/models" docs/models/*.md
install -D -m 644 -t "$examples" deploy/systemd/tcp.conf deploy/systemd/cuda.conf deploy/grafana/hearth.json

# What debhelper works on.
rm -rf "$work/debian-$arch"
mkdir -p "$work/debian-$arch"
cp -R deploy/debian "$work/debian-$arch/debian"
cd "$work/debian-$arch"
cp -R "$stage/usr" "$stage/etc" "$stage/man" .
for unit in service socket; do cp "$root/deploy/systemd/hearthd.$unit" "debian/hearth.hearthd.$unit"; done
cp "$root/deploy/systemd/hearth.sysusers" "$root/deploy/systemd/hearth.tmpfiles" debian/
ls man/* >debian/manpages
time=$(git -C "$root" log -1 --format=%ct 2>/dev/null || date +%s)
export SOURCE_DATE_EPOCH="$time"
{
    echo "hearth ($version) unstable; urgency=medium"
    echo
    echo "  * See CHANGELOG.md of the project."
    echo
    echo " -- $(sed -n 's/^Maintainer: //p' debian/control)  $(date -u -R -d "@$time")"
} >debian/changelog
GLIBC=$("$gnu-objdump" -T "$stage"/usr/bin/* "$stage"/usr/libexec/hearth/* | grep -Eo 'GLIBC_[0-9.]+' | sort -Vu |
    tail -n 1 | cut -d _ -f 2)
export GLIBC
if [ "$arch" != "$host" ]; then
    export CROSS_LIBRARIES="/usr/$gnu/lib"
fi
DEB_BUILD_OPTIONS=nocheck dpkg-buildpackage -b -us -uc -d -a "$arch" >"$work/debian-$arch.log" 2>&1 || {
    cat "$work/debian-$arch.log" >&2
    exit 1
}
dpkg-deb --field "$work/hearth_${version}_$arch.deb" Package Version Architecture Depends Installed-Size
echo "$work/hearth_${version}_$arch.deb"
