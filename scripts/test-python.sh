#!/bin/sh
# Python stubs made of proto/ with grpcio-tools hold a streamed conversation with a real daemon.
# Needs python3 with venv and a package index; without them it says so and is no failure, except where CI is set.
set -eu
bin=$1
folder=$(mktemp -d)
daemon=""
finish() {
    status=$?
    if [ -n "$daemon" ] && kill -TERM "$daemon" 2>/dev/null; then wait "$daemon" || status=$?; fi
    rm -rf "$folder"
    exit "$status"
}
trap finish EXIT

skip() {
    echo "$1: skipped" >&2
    [ -z "${CI:-}" ]
    exit
}

python3 -m venv "$folder/venv" || skip "python3 has no venv (package python3-venv)"
if ! "$folder/venv/bin/pip" install -q --disable-pip-version-check "grpcio-tools>=1.66,<2"; then
    skip "grpcio-tools cannot be installed here"
fi
mkdir "$folder/stubs"
"$folder/venv/bin/python" -m grpc_tools.protoc -I proto --python_out="$folder/stubs" \
    --grpc_python_out="$folder/stubs" proto/hearth/v1/*.proto
"$bin/hearthd" serve --listen "unix:$folder/hearth.sock" --state "$folder/state" 2>"$folder/log" &
daemon=$!
tries=0
until "$bin/hearth" --endpoint "unix:$folder/hearth.sock" import --demo >/dev/null 2>&1; do
    tries=$((tries + 1)); [ "$tries" -lt 100 ] || { cat "$folder/log"; exit 1; }; sleep 0.1
done
PYTHONPATH="$folder/stubs" "$folder/venv/bin/python" scripts/converse.py "unix:$folder/hearth.sock"
