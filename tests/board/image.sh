#!/bin/sh
# Makes the disk and the kernel of the simulated board: Debian for arm64 with systemd, the package, and an agent that
# takes commands on the serial console.
#
#     image.sh PACKAGE.deb FOLDER       FOLDER/disk.img, FOLDER/vmlinuz
#
# The system is fetched and set up once and kept as FOLDER/system.tar.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
package=$(realpath "$1")
mkdir -p "$2"
folder=$(cd "$2" && pwd)
cd "$here"

if [ ! -f "$folder/system.tar" ]; then
    mirror=$(sh ../../scripts/debian-mirror.sh)
    # The kernel's package is unpacked only: its file system and disk are built in, so that it needs no initial disk.
    sh emulate.sh mmdebstrap --mode=root --architectures=arm64 --variant=essential \
        --include=systemd-sysv,dbus,udev,kmod,libgomp1,libstdc++6,procps \
        --aptopt='APT::Sandbox::User "root"' \
        --essential-hook='printf "#!/bin/sh\nexit 101\n" >"$1/usr/sbin/policy-rc.d"; chmod +x "$1/usr/sbin/policy-rc.d"' \
        --customize-hook='rm "$1/usr/sbin/policy-rc.d"' \
        --customize-hook='export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"; cd "$1/root" && apt-get download \
            "$(apt-cache depends linux-image-cloud-arm64 | sed -n "s/.*Depends: //p" | head -n 1)"' \
        trixie "$folder/system.part.tar" "deb $mirror trixie main"
    mv "$folder/system.part.tar" "$folder/system.tar"
fi

root=$folder/root
rm -rf "$root"
mkdir -p "$root"
tar -xf "$folder/system.tar" -C "$root"
kernel=$(mktemp -d)
dpkg-deb -x "$root"/root/linux-image-*.deb "$kernel"
cp "$kernel"/boot/vmlinuz-* "$folder/vmlinuz"
rm -rf "$kernel" "$root"/root/linux-image-*.deb

cp "$package" "$root/root/hearth.deb"
install -m 755 agent.sh "$root/usr/local/sbin/board-agent"
install -m 644 agent.service "$root/etc/systemd/system/board-agent.service"
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -s ../board-agent.service "$root/etc/systemd/system/multi-user.target.wants/board-agent.service"
ln -s /dev/null "$root/etc/systemd/system/serial-getty@ttyAMA0.service"
ln -s /dev/null "$root/etc/systemd/system/getty@tty1.service"
echo board >"$root/etc/hostname"
echo '/dev/nvme0n1 / ext4 defaults 0 1' >"$root/etc/fstab"
mkdir -p "$root/var/log/journal"
# A model, and one of some size, whose import takes long enough to be cut: the same with zeros behind it.
cp ../../client/demo/hearth-demo.gguf "$root/root/small.gguf"
cp ../../client/demo/hearth-demo.gguf "$root/root/large.gguf"
truncate -s 200M "$root/root/large.gguf"
rm -f "$folder/disk.img"
mkfs.ext4 -q -F -d "$root" "$folder/disk.img" 2G
rm -rf "$root"
