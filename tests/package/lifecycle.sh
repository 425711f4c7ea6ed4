#!/bin/sh
# The life of the package on a fresh Debian: install, first model and answer, upgrade, removal, purge; and lintian over
# it. Needs root. For arm64 on another machine all of it is emulated.
#
#     lifecycle.sh PACKAGE.deb FOLDER [SUITE]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
package=$1
arch=$(dpkg-deb --field "$package" Architecture)
suite=${3:-bookworm}
mkdir -p "$2"
folder=$(cd "$2" && pwd)
emulated=""
[ "$arch" = "$(dpkg --print-architecture)" ] || emulated="sh $here/../board/emulate.sh"

lintian --fail-on error "$package"

system=$folder/$suite-$arch.tar
if [ ! -f "$system" ]; then
    $emulated mmdebstrap --mode=root --architectures="$arch" --variant=essential --include=systemd,libgomp1,libstdc++6 \
        --aptopt='APT::Sandbox::User "root"' "$suite" "$folder/part.tar" \
        "deb $(sh "$here/../../scripts/debian-mirror.sh") $suite main"
    mv "$folder/part.tar" "$system"
fi
root=$folder/root-$arch
rm -rf "$root"
mkdir -p "$root"
tar -xf "$system" -C "$root"
cp "$package" "$root/root/first.deb"

# The same, as the next version: with another default in its configuration.
next=$(mktemp -d)
trap 'rm -rf "$next"' EXIT
dpkg-deb -R "$package" "$next"
version=$(dpkg-deb --field "$package" Version)
sed -i "s/^Version: .*/Version: $version+next/" "$next/DEBIAN/control"
echo "# A default of the next version." >>"$next/etc/hearth/config.toml"
dpkg-deb --root-owner-group -b -Znone "$next" "$root/root/next.deb" >/dev/null

cp "$here/inside.sh" "$root/root/inside.sh"
${emulated:-unshare --mount --pid --fork --kill-child} sh -euc '
    mount -t proc proc "$1/proc"
    exec chroot "$1" sh -eu /root/inside.sh
' sh "$root"
rm -rf "$root"
