#!/bin/sh
# Prints the mirror of Debian that this machine is configured to use.
set -eu
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
    grep -v '^ *#' | grep -Eo 'https?://[^ ]+/debian/?( |$)' | head -n 1 | tr -d ' ')
[ -n "$mirror" ] || { echo "No mirror of Debian is configured on this machine." >&2; exit 1; }
echo "$mirror"
