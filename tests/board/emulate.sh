#!/bin/sh
# Runs a command where programs for arm64 run as if they were this machine's: in namespaces of their own, so that this
# machine stays as it is. Needs root, Linux 6.7 or later, and qemu-user-static.
#
#     emulate.sh COMMAND…                     for systems of their own (chroot)
#     QEMU_CPU=cortex-a72 emulate.sh COMMAND… on that processor, with the libraries of the cross compiler
set -eu
qemu=$(command -v qemu-aarch64-static)
[ "$(id -u)" = 0 ] || { echo "emulate.sh needs root: it maps users and mounts binfmt_misc." >&2; exit 1; }

folder=$(mktemp -d)
unshare --user sleep infinity &
holder=$!
trap 'kill "$holder" 2>/dev/null; rm -rf "$folder"' EXIT
while [ "$(readlink "/proc/$holder/ns/user")" = "$(readlink /proc/self/ns/user)" ]; do sleep 0.05; done
echo "0 0 65536" >"/proc/$holder/uid_map"
echo "0 0 65536" >"/proc/$holder/gid_map"

# The kernel keeps the emulator open (F), so that it is found within a chroot too.
interpreter=$qemu
flags=OCFP
if [ -n "${QEMU_CPU:-}" ]; then
    # Programs clear their children's environment: the processor is named where nobody can lose it.
    interpreter=$folder/qemu
    flags=
    printf '#!/bin/sh\nexec %s -cpu %s "$@"\n' "$qemu" "$QEMU_CPU" >"$interpreter"
    mkdir -p "$folder/usr/lib"
    ln -s /usr/aarch64-linux-gnu/lib/ld-linux-aarch64.so.1 "$folder/usr/lib/"
    ln -s /usr/aarch64-linux-gnu/lib "$folder/usr/lib/aarch64-linux-gnu"
    chmod -R a+rx "$folder"
fi

# The header of a 64-bit little-endian ELF file for aarch64, and which bits of it count.
# shellcheck disable=SC2016
nsenter --user --target "$holder" --setuid 0 --setgid 0 \
    unshare --mount --pid --fork --kill-child --mount-proc sh -euc '
interpreter=$1 flags=$2 libraries=$3
shift 3
[ ! -d "$libraries" ] || mount -t overlay -o "lowerdir=$libraries:/usr" overlay /usr
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
head='"'"'\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'"'"'
mask='"'"'\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'"'"'
printf %s ":qemu-aarch64:M::$head:$mask:$interpreter:$flags" >/proc/sys/fs/binfmt_misc/register
"$@"
' sh "$interpreter" "$flags" "$folder/usr" "$@"
