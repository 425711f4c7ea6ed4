#!/bin/sh
# The units that the package installs: do they parse, and how far is the service shut in? systemd's own score must be at
# most 1.5 (0 is best), with each of the drop-ins that the package brings as an example as well.
set -eu
cd "$(dirname "$0")/../../deploy/systemd"
most=15 # in tenths
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cp hearthd.service hearthd.socket "$folder/"
# What the units name must be there to be verified.
sed -i "s|/usr/bin/hearthd|/bin/true|" "$folder/hearthd.service"
# That systemd knows a type only from 253 on is no fault of the units; anything else that it says is one, and so is a
# failure without a word.
verify() {
    status=0
    SYSTEMD_UNIT_PATH="$folder:" systemd-analyze verify --man=no --recursive-errors=no \
        "$folder/hearthd.service" "$folder/hearthd.socket" >"$folder/said" 2>&1 || status=$?
    faults=$(grep -v 'service type, ignoring: notify-reload' "$folder/said" || true)
    if [ -n "$faults" ] || { [ "$status" != 0 ] && [ ! -s "$folder/said" ]; }; then
        echo "systemd-analyze verify ended with $status: $faults" >&2
        exit 1
    fi
}
for dropin in "" tcp.conf cuda.conf; do
    rm -rf "$folder/hearthd.service.d"
    if [ -n "$dropin" ]; then
        mkdir "$folder/hearthd.service.d"
        cp "$dropin" "$folder/hearthd.service.d/"
    fi
    said=$(SYSTEMD_UNIT_PATH="$folder:" systemd-analyze security --offline=true --threshold="$most" --no-pager \
        hearthd.service 2>&1) || { echo "$said" >&2; exit 1; }
    verify
    echo "hearthd.service${dropin:+ with $dropin}: $(echo "$said" | grep -o 'exposure level.*' | cut -d : -f 2)"
done
