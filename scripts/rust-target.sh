#!/bin/sh
# Sees to it that the standard library for a target is there, and prints the folder of the cargo and rustc to use:
#
#     rust-target.sh aarch64-unknown-linux-gnu
#
# rustup brings it. Where it cannot, Debian's package of the library's source, of the same version as this compiler,
# is compiled once.
set -eu
cd "$(dirname "$0")/.."
triple=$1
has() { ls "$("$1" --print target-libdir --target "$triple" 2>/dev/null)"/libstd-*.rlib >/dev/null 2>&1; }

bin=$(rustc --print sysroot)/bin
own=$PWD/target/package/toolchain
if has rustc; then echo "$bin"; exit 0; fi
if [ -z "${HEARTH_STD_FROM_SOURCE:-}" ] && rustup target add "$triple" >&2 && has rustc; then echo "$bin"; exit 0; fi
if [ -x "$own/bin/rustc" ] && has "$own/bin/rustc"; then echo "$own/bin"; exit 0; fi

version=$(rustc --version | cut -d ' ' -f 2)
echo "rustup has no $triple: compiling the standard library of Rust $version from Debian's rust-src" >&2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# Newer suites of the mirror that this machine uses already, in lists of their own.
mirror=$(sh scripts/debian-mirror.sh)
mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial"
for suite in trixie trixie-backports forky sid; do
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main"
done >"$folder/sources.list"
apt() {
    apt-get -qq -o "Dir::Etc::sourcelist=$folder/sources.list" -o Dir::Etc::sourceparts=- \
        -o "Dir::State::lists=$folder/lists" -o "Dir::Cache=$folder/cache" -o APT::Sandbox::User=root "$@" >&2
}
apt update
package=$(apt-cache -o "Dir::Etc::sourcelist=$folder/sources.list" -o Dir::Etc::sourceparts=- \
    -o "Dir::State::lists=$folder/lists" -o "Dir::Cache=$folder/cache" madison rust-src |
    cut -d '|' -f 2 | tr -d ' ' | grep "^$version+" | head -n 1)
[ -n "$package" ] || { echo "Debian has no rust-src of version $version." >&2; exit 1; }
(cd "$folder" && apt download "rust-src=$package" && dpkg-deb -x rust-src_*.deb source)

rm -rf "$own"
mkdir -p "$own"
cp -al "$(rustc --print sysroot)"/bin "$(rustc --print sysroot)"/lib "$own/" 2>/dev/null ||
    cp -a "$(rustc --print sysroot)"/bin "$(rustc --print sysroot)"/lib "$own/"
rm -rf "$own/lib/rustlib/src/rust"
mkdir -p "$own/lib/rustlib/src/rust" "$folder/empty/src"
cp -a "$folder"/source/usr/src/rustc-*/library "$own/lib/rustlib/src/rust/"
printf '[package]\nname = "empty"\nversion = "0.0.0"\nedition = "2024"\n' >"$folder/empty/Cargo.toml"
echo 'fn main() {}' >"$folder/empty/src/main.rs"
# RUSTC_BOOTSTRAP: `build-std` is a nightly flag, of use here for the library alone.
name=$(echo "$triple" | tr 'a-z-' 'A-Z_')
(cd "$folder/empty" && env "CARGO_TARGET_${name}_LINKER=${triple%%-*}-linux-gnu-gcc" RUSTC_BOOTSTRAP=1 \
    PATH="$own/bin:$PATH" CARGO_TARGET_DIR="$folder/target" \
    cargo build --release -Zbuild-std=std,panic_abort,panic_unwind,proc_macro,test --target "$triple" >&2)
to=$own/lib/rustlib/$triple/lib
mkdir -p "$to"
cp "$folder/target/$triple"/release/deps/lib*.rlib "$to/"
rm -f "$to"/libempty-*
has "$own/bin/rustc" || { echo "The standard library did not come out." >&2; exit 1; }
echo "$own/bin"
