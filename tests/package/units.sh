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
for dropin in "" tcp.conf cuda.conf; do
    rm -rf "$folder/hearthd.service.d"
    if [ -n "$dropin" ]; then
        mkdir "$folder/hearthd.service.d"
        cp "$dropin" "$folder/hearthd.service.d/"
    fi
    said=$(SYSTEMD_UNIT_PATH="$folder:" systemd-analyze security --offline=true --threshold="$most" --no-pager \
        hearthd.service 2>&1) || { echo "$said" >&2; exit 1; }
    echo "hearthd.service${dropin:+ with $dropin}: $(echo "$said" | grep -o 'exposure level.*' | cut -d : -f 2)"
done
rm -rf "$folder/hearthd.service.d"
# A manual page that is not installed here, and a type that systemd knows from 253 on, are no faults of the units.
faults=$(SYSTEMD_UNIT_PATH="$folder:" systemd-analyze verify --man=no "$folder/hearthd.service" "$folder/hearthd.socket" 2>&1 |
    grep "^$folder" | grep -v 'service type, ignoring: notify-reload' || true)
[ -z "$faults" ] || { echo "$faults" >&2; exit 1; }
