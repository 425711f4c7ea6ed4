#!/bin/sh
# Which engine the daemon takes on which processor, emulated: a Cortex-A72 must get the plain one, a Cortex-A76 the one
# with dot products, and both must say the same. As a check that the emulator would notice, the engine with dot products
# must die of an illegal instruction on the Cortex-A72.
#
#     levels.sh FOLDER       FOLDER/usr is what the package installs (scripts/package.sh)
set -eu
bin=$(cd "$1/usr/bin" && pwd)
engines=$(cd "$1/usr/libexec/hearth" && pwd)
cd "$(dirname "$0")"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# ask CPU NAME [ENGINE]: the answer goes to NAME.txt, the level to NAME.level, the log to NAME.log.
ask() {
    if [ -n "${3:-}" ]; then
        printf '[engine]\nexecutable = "%s"\n' "$3" >"$folder/$2.toml"
    else
        : >"$folder/$2.toml"
    fi
    QEMU_CPU=$1 sh emulate.sh sh -euc '
        bin=$1 to=$2
        socket="unix:$to.sock"
        "$bin/hearthd" serve --config "$to.toml" --listen "$socket" --state "$to.state" 2>"$to.log" &
        daemon=$!
        HEARTH_ENDPOINT=$socket
        export HEARTH_ENDPOINT
        "$bin/hearth" --wait 60s import --demo >/dev/null || true
        "$bin/hearth" chat demo --temperature 0 --max-tokens 20 -p "Hello" >"$to.txt" 2>"$to.err" || echo failed >>"$to.err"
        "$bin/hearth" status --json | grep -o "\"cpu_level\":\"[^\"]*\"" >"$to.level" || true
        kill -TERM "$daemon"
        wait "$daemon" || true
    ' sh "$bin" "$folder/$2"
}

ask cortex-a72 a72
ask cortex-a76 a76
ask cortex-a72 wrong "$engines/hearth-engine-dotprod"
for name in a72 a76 wrong; do
    echo "$name: $(cat "$folder/$name.level" 2>/dev/null) $(cat "$folder/$name.txt" 2>/dev/null)"
done
fail() { echo "$1" >&2; for name in a72 a76 wrong; do echo "== $name" && tail -n 15 "$folder/$name.log" "$folder/$name.err"; done >&2; exit 1; }
[ "$(cat "$folder/a72.level")" = '"cpu_level":"armv8-a"' ] || fail "The Cortex-A72 did not get the plain engine."
[ "$(cat "$folder/a76.level")" = '"cpu_level":"dotprod"' ] || fail "The Cortex-A76 did not get the engine with dot products."
[ -s "$folder/a72.txt" ] || fail "No answer on the Cortex-A72."
cmp -s "$folder/a72.txt" "$folder/a76.txt" || fail "The two processors gave different answers."
grep -q SIGILL "$folder/wrong.log" "$folder/wrong.err" ||
    fail "The engine with dot products ran on a Cortex-A72: the emulator shows nothing."
echo "Right on both, and the wrong engine was killed by an illegal instruction."
