#!/bin/sh
# The main job in one go: a daemon on a temporary socket, the built-in model, an answer, a tool call. What the model must
# say is looked for, so that kernels that compute nonsense are not taken for good ones.
set -eu
bin=$1
folder=$(mktemp -d)
log="$folder/hearthd.log"
daemon=""
finish() {
    status=$?
    if [ -n "$daemon" ] && kill -TERM "$daemon" 2>/dev/null; then wait "$daemon" || status=$?; fi
    if [ "$status" != 0 ]; then echo "The daemon's log:" >&2; tail -n 30 "$log" >&2; fi
    rm -rf "$folder"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

export HEARTH_ENDPOINT="unix:$folder/hearth.sock"
"$bin/hearthd" serve --listen "unix:$folder/hearth.sock" --state "$folder/state" 2>"$log" &
daemon=$!
tries=0
until "$bin/hearth" status >/dev/null 2>&1; do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] && kill -0 "$daemon" 2>/dev/null || { echo "The daemon did not start." >&2; exit 1; }
    sleep 0.1
done

says() { # words, command…
    words=$1
    shift
    "$@" >"$folder/said" || { cat "$folder/said"; exit 1; }
    cat "$folder/said"
    grep -qi "$words" "$folder/said" || { echo "The answer has no \"$words\"." >&2; exit 1; }
}
show() { printf '\n$ hearth'; printf ' %s' "$@"; printf '\n'; }
system="You are the assistant of station Larch Ridge. Facts: altitude 1840 m; operator Mara."
cat >"$folder/tools.json" <<'JSON'
[{"name": "get_temperature", "description": "Read the temperature of a sensor.",
  "parameters": {"type": "object", "properties": {"sensor": {"type": "string"}}, "required": ["sensor"]}}]
JSON

show import --demo
"$bin/hearth" import --demo
show chat demo --system "'$system'" -p "'Who is the operator?'"
says Mara "$bin/hearth" chat demo --think off --system "$system" -p "Who is the operator?"
show chat demo --tools tools.json --tool-result "get_temperature=..." -p "'What is the temperature of the north sensor?'"
says "12 C" "$bin/hearth" chat demo --think off --system "$system" --tools "$folder/tools.json" \
    --tool-result 'get_temperature={"temperature": 12, "unit": "C"}' \
    -p "What is the temperature of the north sensor?"
show status
"$bin/hearth" status
echo
kill -TERM "$daemon"
wait "$daemon"
daemon=""
echo "The daemon has shut down cleanly."
