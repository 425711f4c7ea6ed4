#!/bin/sh
# Builds the container image from the package and runs it as deploy/k3s/hearth.yaml does, under an OCI runtime: the demo
# model is imported and asked, others come to the socket through a read-only mount, SIGTERM drains. Needs root.
#
#     image.sh PACKAGE.deb FOLDER
#
# The base image comes from no registry: it is a Debian made here, kept as FOLDER/bookworm.tar.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
package=$1
arch=$(dpkg-deb --field "$package" Architecture)
[ "$arch" = "$(dpkg --print-architecture)" ] || { echo "The image can be run for this machine's architecture only." >&2; exit 2; }
mkdir -p "$2"
folder=$(cd "$2" && pwd)
images() { buildah --storage-driver vfs --root "$folder/images" --runroot "$folder/images-run" "$@"; }

if [ ! -f "$folder/bookworm.tar" ]; then
    mmdebstrap --mode=root --variant=minbase --aptopt='APT::Sandbox::User "root"' bookworm "$folder/part.tar" \
        "deb $(sh "$here/../../scripts/debian-mirror.sh") bookworm main"
    mv "$folder/part.tar" "$folder/bookworm.tar"
fi
base=docker.io/library/debian:bookworm-slim
if ! images inspect --type image "$base" >/dev/null 2>&1; then
    container=$(images from scratch)
    images add -q "$container" "$folder/bookworm.tar" / >/dev/null
    images commit -q "$container" "$base" >/dev/null
    images rm "$container" >/dev/null
fi

context=$(mktemp -d)
run=$(mktemp -d)
daemon=""
finish() {
    status=$?
    if [ -n "$daemon" ]; then kill -KILL "$daemon" 2>/dev/null || true; wait "$daemon" 2>/dev/null || true; fi
    [ "$status" = 0 ] || tail -n 30 "$folder/hearthd.log" >&2 || true
    images rm --all >/dev/null 2>&1 || true
    images rmi --force hearth:test >/dev/null 2>&1 || true
    if mountpoint -q "$run/clients"; then umount "$run/clients"; fi
    rm -rf "$context" "$run"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM
: >"$folder/hearthd.log"
check() { # what, command…
    what=$1
    shift
    if "$@"; then echo "ok: $what"; else echo "NOT SO: $what" >&2; exit 1; fi
}

cp "$package" "$context/"
images bud --isolation chroot --format docker --pull-never --platform "linux/$arch" \
    -f "$here/../../deploy/oci/Containerfile" -t hearth:test "$context" >"$folder/build.log" 2>&1 ||
    { tail -n 30 "$folder/build.log" >&2; exit 1; }
container=$(images from --pull-never hearth:test)
root=$(images mount "$container")
images inspect --type image hearth:test >"$folder/image.json"
check "the image says who runs it and how to ask for its health" python3 -c '
import json, sys
config = json.load(open(sys.argv[1]))["Docker"]["config"]
sys.exit(config["User"] != "7450:7450" or config["Healthcheck"]["Test"] != ["CMD", "/usr/bin/hearth", "status"])
' "$folder/image.json"

# The folders as a kubelet makes them and the manifest's first container gives them away.
mkdir "$run/state" "$run/sockets" "$run/clients" "$run/bundle"
chmod 755 "$run"
chown 7450:7450 "$run/state" "$run/sockets"
python3 "$here/bundle.py" "$run/bundle" "$root" "$run/state" "$run/sockets" \
    /usr/bin/hearthd serve --config /etc/hearth/config.toml
# In a mount namespace of its own, where control groups of the second version are not mounted beside the first: crun
# takes only one of them. Groups are left alone.
unshare --mount sh -euc '
    if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi
    exec crun --root "$1/crun" --cgroup-manager=disabled run --bundle "$1/bundle" --pid-file "$1/pid" hearth-test
' sh "$run" >"$folder/hearthd.log" 2>&1 &
daemon=$!

# Programs of other containers: the same socket, through a mount that is read-only.
mount --bind "$run/sockets" "$run/clients"
mount -o remount,bind,ro "$run/clients"
install -m 755 "$root/usr/bin/hearth" "$run/hearth"
as() { # user group others command…
    user=$1 group=$2 others=$3
    shift 3
    setpriv --reuid "$user" --regid "$group" --groups "$others" \
        env HEARTH_ENDPOINT="unix:$run/clients/hearth.sock" "$run/hearth" "$@"
}
tries=0
until as 0 0 0 status >/dev/null 2>&1; do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] && kill -0 "$daemon" 2>/dev/null || { echo "The daemon did not start." >&2; exit 1; }
    sleep 0.1
done
within() { nsenter --all --target "$(cat "$run/pid")" --setuid 7450 --setgid 7450 "$@"; }
check "it is process 1 of its container" grep -Eq '^NSpid:.*[[:space:]]1$' "/proc/$(cat "$run/pid")/status"
check "without capabilities and under a list of system calls" \
    sh -c 'grep -q "^CapEff:.0*$" "$1" && grep -q "^Seccomp:.2$" "$1"' sh "/proc/$(cat "$run/pid")/status"
check "its root is read-only" sh -c '! touch "$1/usr/x" 2>/dev/null' sh "/proc/$(cat "$run/pid")/root" 2>/dev/null
check "the health check is happy" within /usr/bin/hearth status
check "group 7451 may import" as 1234 7451 7450 import --demo
check "and group 7450 may ask" as 1234 7450 7450 chat demo --think off -p Hello
check "but not load" sh -c '! "$@" 2>/dev/null' sh setpriv --reuid 1234 --regid 7450 --clear-groups \
    env HEARTH_ENDPOINT="unix:$run/clients/hearth.sock" "$run/hearth" load demo
check "nor may others ask" sh -c '! "$@" 2>/dev/null' sh setpriv --reuid 1234 --regid 1234 --clear-groups \
    env HEARTH_ENDPOINT="unix:$run/clients/hearth.sock" "$run/hearth" status
as 0 0 0 status --json >"$folder/status.json"
sandbox=$(grep -o '"sandbox":"[^"]*"' "$folder/status.json")
check "the engine's own sandbox closes inside of the container's: $sandbox" \
    sh -c 'case $1 in *"(no "* | *none*) exit 1 ;; esac' sh "$sandbox"

as 1234 7450 7450 chat demo --think off --regex '[a-z ]{600}' --max-tokens 1000 -p Hello >"$run/answer" 2>"$run/complaint" &
answer=$!
while kill -0 "$answer" 2>/dev/null && ! [ -s "$run/answer" ]; do sleep 0.02; done
kill -TERM "$(cat "$run/pid")"
check "the answer was still being written when SIGTERM came" kill -0 "$answer"
check "which lets it finish" wait "$answer"
check "all of it" test "$(wc -c <"$run/answer")" -ge 600
wait "$daemon"
daemon=""
check "and the daemon ends in peace" grep -q Drained "$folder/hearthd.log"
echo "The image is built, runs and ends as it should."
