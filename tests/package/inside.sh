# Runs inside the fresh system, as root.
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
check() { # what, command…
    what=$1
    shift
    if "$@"; then echo "ok: $what"; else echo "NOT SO: $what" >&2; exit 1; fi
}
chat() {
    mkdir -p /run/hearth
    chown hearth:hearth /run/hearth
    setpriv --reuid hearth --regid hearth --init-groups hearthd serve --config /etc/hearth/config.toml 2>/root/log &
    daemon=$!
    # Within a condition a shell goes on after a failure.
    { [ "$1" != first ] || hearth --wait 120s import --demo; } &&
        hearth --wait 120s chat demo --think off --temperature 0 -p 'Hello' >/root/answer &&
        hearth status && kill -TERM "$daemon" && wait "$daemon" && test -s /root/answer || {
        tail /root/log >&2
        return 1
    }
}

dpkg -i /root/first.deb >/root/said 2>&1 || { cat /root/said >&2; exit 1; }
check "installing says what to do next" grep -q "hearth import" /root/said
check "there is a user" id hearth
check "and a group for who manages" getent group hearth-admin
check "the state belongs to it" test "$(stat -c %U:%a /var/lib/hearth)" = hearth:750
check "units are there" test -f /lib/systemd/system/hearthd.service -o -f /usr/lib/systemd/system/hearthd.service
check "the service is enabled" test -L /etc/systemd/system/multi-user.target.wants/hearthd.service
check "the socket is enabled" test -L /etc/systemd/system/sockets.target.wants/hearthd.socket
check "the configuration has no fault" hearthd check-config
check "manual, and completions of three shells" ls /usr/share/man/man1/hearth.1.gz /usr/share/man/man1/hearthd.1.gz \
    /usr/share/bash-completion/completions/hearth /usr/share/zsh/vendor-completions/_hearth \
    /usr/share/fish/vendor_completions.d/hearth.fish
check "it runs with what the package depends on, and answers" chat first

echo '# Mine.' >>/etc/hearth/config.toml
dpkg --force-confold -i /root/next.deb
check "an upgrade keeps the configuration" grep -q '# Mine.' /etc/hearth/config.toml
check "and the models" chat again

dpkg -r hearth
check "removal takes the programs" test ! -e /usr/bin/hearthd
check "and keeps the models" sh -c 'ls /var/lib/hearth/models/blobs/* >/dev/null'
check "and the configuration" grep -q '# Mine.' /etc/hearth/config.toml

dpkg -P hearth
check "purging takes the models" test ! -e /var/lib/hearth
check "and the configuration" test ! -e /etc/hearth

dpkg -i /root/first.deb >/root/said 2>&1 || { cat /root/said >&2; exit 1; }
mount -t tmpfs none /var/lib/hearth
touch /var/lib/hearth/model
check "purging with a disk of its own for models" dpkg -P hearth
check "empties the disk" test -z "$(ls -A /var/lib/hearth)"
echo "The package lives and dies as it should."
