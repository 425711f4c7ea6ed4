#!/usr/bin/env python3
"""The whole life of a board, simulated: QEMU boots Debian for arm64 on a Cortex-A76, the package is installed, models
are imported and asked, engines and the daemon are stopped, memory is made small, and the power is cut again and again.

    board.py FOLDER [--cuts N]

FOLDER has disk.img and vmlinuz (image.sh). What was done, with times, goes to standard output; the console of the board
to FOLDER/console.log. The exit status is 0 only where every step came out as it should.
"""

import argparse
import json
import os
import random
import selectors
import signal
import subprocess
import sys
import time

BOOT_LIMIT = 600
# By itself the demo model says little: an answer of this form takes seconds on any machine.
LONG_CHAT = "hearth chat demo --regex '[a-z ]{1800}' --max-tokens 2000 -p 'Tell me a story'"
CHAT = "hearth --wait 120s chat {} --json --temperature 0 --max-tokens 24 -p 'Hello'"

# MiB. The daemon counts for 24, the demo model for 30: one model fits, then none.
ROOM_FOR_ONE = 64
ROOM_FOR_NONE = 40


class Fault(Exception):
    """Something did not come out as it should."""


class Board:
    """One board from power-on to power-off. Its disk outlives it."""

    def __init__(self, folder):
        self.folder = folder
        self.begun = time.monotonic()
        self.pending = b""
        self.console = open(os.path.join(folder, "console.log"), "ab")
        disk = os.path.join(folder, "disk.img")
        self.qemu = subprocess.Popen(
            ["qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a76", "-smp", "2", "-m", "2G",
             "-accel", "tcg,thread=multi", "-nographic", "-nodefaults", "-no-reboot", "-serial", "stdio",
             "-kernel", os.path.join(folder, "vmlinuz"),
             "-append", "root=/dev/nvme0n1 rw console=ttyAMA0 quiet loglevel=3 psi=1 "
                        "systemd.show_status=0 systemd.log_target=journal",
             "-drive", f"file={disk},format=raw,if=none,id=d,cache=writeback", "-device", "nvme,drive=d,serial=1"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0)
        try:
            self.wait_for(b"@@READY", BOOT_LIMIT)
        except Fault:
            self.cut()
            raise
        self.boot_seconds = time.monotonic() - self.begun

    def wait_for(self, mark, limit):
        """What the console says up to a line that begins with the mark, and that line."""
        end = time.monotonic() + limit
        selector = selectors.DefaultSelector()
        selector.register(self.qemu.stdout, selectors.EVENT_READ)
        said = []
        while True:
            while b"\n" in self.pending:
                line, self.pending = self.pending.split(b"\n", 1)
                line = line.rstrip(b"\r")
                # The kernel may have said something without an end of line before it.
                at = line.find(mark)
                if at >= 0:
                    return said, line[at:]
                said.append(line)
            left = end - time.monotonic()
            if left <= 0 or not selector.select(left):
                raise Fault(f"the board did not say {mark.decode()} in {limit} s; last: {said[-5:]}")
            chunk = os.read(self.qemu.stdout.fileno(), 65536)
            if not chunk:
                raise Fault(f"the board ended; last: {said[-10:]}")
            self.console.write(chunk)
            self.console.flush()
            self.pending += chunk

    def send(self, command):
        assert "\n" not in command and len(command) < 4000, command
        self.qemu.stdin.write(command.encode() + b"\n")

    def run(self, command, limit=240):
        """Exit status and output of a command."""
        self.send(command)
        self.wait_for(b"@@BEGIN", 60)
        said, end = self.wait_for(b"@@END", limit)
        return int(end.split()[1]), b"\n".join(said).decode(errors="replace")

    def ok(self, command, limit=240):
        status, said = self.run(command, limit)
        if status != 0:
            raise Fault(f"`{command}` ended with {status}: {said[-2000:]}")
        return said

    def lines(self, command, limit=240):
        """JSON lines of a command that succeeds."""
        return [json.loads(line) for line in self.ok(command, limit).splitlines() if line.startswith("{")]

    def until(self, what, test, limit=240):
        end = time.monotonic() + limit
        while True:
            found = test()
            if found:
                return found
            if time.monotonic() > end:
                raise Fault(f"not within {limit} s: {what}")
            time.sleep(1)

    def has_power(self):
        return self.qemu.poll() is None

    def cut(self):
        """No more power, at once."""
        self.qemu.send_signal(signal.SIGKILL)
        self.qemu.wait()

    def off(self):
        """Shut down as one should."""
        self.send("systemctl poweroff")
        try:
            self.qemu.wait(240)
        except subprocess.TimeoutExpired as error:
            self.cut()
            raise Fault("the board did not shut down") from error

    # What is asked of it.

    def status(self):
        return self.lines("hearth --wait 120s status --json")[-1]

    def engine(self, model="demo:latest"):
        return next((engine for engine in self.status()["engines"] if engine.get("model") == model), None)

    def show(self, key):
        return self.ok(f"systemctl show hearthd -P {key}").strip()

    def chat(self, model="demo"):
        lines = self.lines(CHAT.format(model))
        if lines[-1]["type"] != "finished":
            raise Fault(f"the answer ended with {lines[-1]}")
        return "".join(line["text"] for line in lines if line["type"] == "text")

    def models(self):
        return sorted(line["name"] for line in self.lines("hearth --wait 120s models --json") if "name" in line)

    def is_whole(self):
        """The store has what its names say, and nothing else."""
        self.ok("cd /var/lib/hearth/models/blobs/ && find . -type f -name '*.gguf' -o -type f -size +1M | while read -r f; do "
                "want=$(basename \"$f\" | grep -oE '[0-9a-f]{64}') && "
                "have=$(sha256sum \"$f\" | cut -c1-64) && [ \"$want\" = \"$have\" ] || { echo \"$f\"; exit 1; }; done")
        left = self.ok("ls -A /var/lib/hearth/models/tmp")
        if left.strip():
            raise Fault(f"left in tmp: {left}")


class Story:
    """What is told."""

    def __init__(self):
        self.begun = time.monotonic()
        self.faults = 0

    def step(self, title, work):
        started = time.monotonic()
        try:
            said = work()
            word = "ok"
        except Fault as fault:
            self.faults += 1
            said, word = str(fault), "FAILED"
        took = time.monotonic() - started
        print(f"{started - self.begun:7.1f} s  {word:6}  {title} ({took:.1f} s){': ' + str(said) if said else ''}",
              flush=True)
        return word == "ok"


def check(is_so, otherwise):
    if not is_so:
        raise Fault(otherwise)


def install(board):
    said = board.ok("dpkg -i /root/hearth.deb", 600)
    check("has no model yet" in said and "hearth import" in said, f"install does not say what to do next: {said}")
    board.until("the service is active", lambda: board.run("systemctl is-active -q hearthd")[0] == 0)
    check(board.models() == [], "there are models")
    return f"Type={board.show('Type')}, systemd {board.ok('SYSTEMD_COLORS=0 systemctl --version').split()[1]}"


def first_chat(board):
    board.ok("hearth import --demo")
    text = board.chat()
    level = board.engine()["cpu_level"]
    check(level == "dotprod", f"the engine's level is {level}")
    check(text.strip() != "", "no answer")
    return f"{text!r} at level {level}"


def sandbox(board):
    pid = board.engine()["pid"]
    status = dict(line.split(":", 1) for line in board.ok(f"cat /proc/{pid}/status").splitlines() if ":" in line)
    check(status["NoNewPrivs"].strip() == "1", "new privileges")
    check(status["Seccomp"].strip() == "2", f"seccomp: {status['Seccomp']}")
    said = board.ok("systemctl show hearthd -P MemoryMax -P OOMPolicy; cat /proc/pressure/memory; "
                    "cat /sys/kernel/security/lsm 2>/dev/null; echo").split()
    return " ".join(said)


def journal(board):
    fields = [json.loads(line) for line in
              board.ok("journalctl -u hearthd -o json --no-pager -q HEARTH_MODEL=demo:latest | tail -n 50").splitlines()]
    check(fields, "no line of the journal has HEARTH_MODEL")
    names = sorted({name for line in fields for name in line if name.startswith("HEARTH_")})
    return f"{len(fields)} lines, with {', '.join(names)}"


def stopped_engine(board):
    before = board.engine()["pid"]
    # That it hangs shows while it has something to do.
    board.ok(f"({LONG_CHAT} >/root/story.txt 2>&1 &) ; sleep 1; kill -STOP {before}")
    board.until("the stopped engine is gone", lambda: board.run(f"kill -0 {before}")[0] != 0)
    board.chat()
    after = board.engine()["pid"]
    check(after != before, "it is the same engine")
    return f"process {before} is replaced by {after}"


def stopped_front(board):
    before = board.show("MainPID")
    board.ok(f"kill -STOP {before}")
    board.until("the watchdog has fired", lambda: board.show("MainPID") not in (before, "0"))
    board.until("the service is active", lambda: board.run("systemctl is-active -q hearthd")[0] == 0)
    board.chat()
    return f"{board.show('NRestarts')} restarts, result of the last: {board.ok('journalctl -u hearthd -o cat -q | grep -i watchdog | tail -n 1').strip()}"


def limit_memory(board, mib):
    board.ok(f"systemctl set-property --runtime hearthd MemoryMax={mib}M; systemctl restart hearthd")
    board.models()
    memory = board.status()["memory"]
    source, budget = memory["budget_source"], memory["budget_bytes"] >> 20
    check(budget <= mib, f"the budget is {budget} MiB, from {source}")
    return f"budget {budget} MiB ({source})"


def not_killed(board):
    """The kernel took nothing of the service since it was started."""
    group = "/sys/fs/cgroup" + board.show("ControlGroup")
    events = dict(line.split() for line in board.ok(f"cat {group}/memory.events").splitlines())
    check(events["oom_kill"] == "0", f"memory.events: {events}")
    return f"peak {int(board.ok(f'cat {group}/memory.peak')) >> 20} MiB, {events['max']} times at the limit, none killed"


def small_memory(board):
    """Two models where there is room for one, and then for none."""
    board.ok("hearth import /root/small.gguf --name twin")
    said = [limit_memory(board, ROOM_FOR_ONE)]
    for model in ["demo", "twin"] * 5:
        board.chat(model)
        loaded = [engine["model"] for engine in board.status()["engines"] if engine["state"] == "ready"]
        check(loaded == [f"{model}:latest"], f"in memory: {loaded}")
    said.append("10 answers of two models in turn, " + not_killed(board))
    said.append(limit_memory(board, ROOM_FOR_NONE))
    status, refusal = board.run(CHAT.format("demo"))
    check(status != 0 and "NEVER_FITS" in refusal, f"the answer is {status}, {refusal}")
    said.append("refused with NEVER_FITS, " + not_killed(board))
    board.ok("systemctl set-property --runtime hearthd MemoryMax=90%; systemctl restart hearthd; "
             "hearth --wait 120s rm twin")
    board.chat()
    return "; ".join(said)


def who_may(board):
    """Another user is let in by the configuration, at a reload; and a second socket has its place beside the first."""
    other = "setpriv --reuid nobody --regid nogroup --clear-groups hearth status"
    put = "printf '[{}]\\n{}\\n' >>/etc/hearth/config.toml"
    check(board.run(other)[0] != 0, "any user may ask for the status")
    board.ok(put.format("access", 'use = ["group:hearth", "user:nobody"]'))
    board.ok("systemctl reload hearthd")
    board.until("the other user is let in", lambda: board.run(other)[0] == 0, 60)
    board.ok(put.format("metrics", 'listen = "unix:/run/hearth/metrics.sock"'))
    board.ok("hearthd check-config >/dev/null && systemctl restart hearthd")
    board.ok(other)
    return board.ok("stat -c '%n %U:%G %a' /run/hearth/*.sock").strip().replace("\n", ", ")


def upgrade(board):
    before = board.models()
    board.ok("echo '# mine' >>/etc/hearth/config.toml; dpkg -i /root/hearth.deb", 600)
    check(board.models() == before, "other models than before")
    board.ok("grep -q '# mine' /etc/hearth/config.toml")
    board.chat()


def power_cut(holder, boot, number, known, chance):
    """Cuts the power in the middle of something and boots again."""
    board = holder["board"]
    importing = number % 2 == 0
    name = f"cut{number}"
    if importing:
        file = "large" if number % 4 == 0 else "small"
        board.send(f"hearth import /root/{file}.gguf --name {name} >/dev/null 2>&1")
        # Up to the time that one takes, and a little more: some are cut once they are done.
        time.sleep(chance.uniform(0.3, 25 if file == "large" else 8))
    else:
        board.send(f"{LONG_CHAT} >/dev/null 2>&1")
        time.sleep(chance.uniform(0.3, 6))
    board.cut()
    boot()
    board = holder["board"]
    board.until("the service is active", lambda: board.run("systemctl is-active -q hearthd")[0] == 0)
    now = set(board.models())
    new = now - known
    if not (known <= now and new <= ({f"{name}:latest"} if importing else set())):
        raise Fault(f"models were {sorted(known)}, are {sorted(now)}")
    board.is_whole()
    board.chat()
    for model in new:
        board.ok(f"hearth rm {model}")
    # All that is known is the demo model.
    blobs = board.ok("find /var/lib/hearth/models/blobs -type f -size +1M").split()
    check(len(blobs) == len(known), f"files of models: {blobs}")
    what = f"import of {file}: {'kept' if new else 'not there'}" if importing else "generation"
    return f"{what}, up again in {board.boot_seconds:.0f} s"


def main():
    holder = {}
    try:
        return tell(holder)
    finally:
        if "board" in holder and holder["board"].has_power():
            holder["board"].cut()


def tell(holder):
    """The story; the board that it has come to is in the holder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    story, chance = Story(), random.Random(args.seed)

    def boot():
        holder["board"] = Board(args.folder)
        return f"{holder['board'].boot_seconds:.0f} s to the agent; " + holder["board"].ok("uname -r").strip()

    if not story.step("boot", boot):
        return 1
    board = holder["board"]
    story.step("install the package", lambda: install(board))
    # Short times, so that hanging things are found while somebody watches.
    board.ok("mkdir -p /etc/systemd/system/hearthd.service.d; "
             "printf '[Service]\\nWatchdogSec=20s\\n' >/etc/systemd/system/hearthd.service.d/test.conf; "
             "printf '[engine]\\nheartbeat_timeout = \"5s\"\\n' >>/etc/hearth/config.toml; "
             "systemctl daemon-reload; systemctl restart hearthd")
    story.step("import the demo model and ask it", lambda: first_chat(board))
    story.step("sandbox and limits", lambda: sandbox(board))
    story.step("fields of the journal", lambda: journal(board))
    story.step("a stopped engine is replaced", lambda: stopped_engine(board))
    story.step("a stopped daemon is restarted", lambda: stopped_front(board))
    story.step("a small MemoryMax", lambda: small_memory(board))
    story.step("another user, and a reload", lambda: who_may(board))
    story.step("upgrade", lambda: upgrade(board))
    story.step("shut down", board.off)
    if not story.step("boot again", boot):
        return 1
    known = set(holder["board"].models())
    clean = 0
    for number in range(1, args.cuts + 1):
        if story.step(f"power cut {number}", lambda: power_cut(holder, boot, number, known, chance)):
            clean += 1
        elif not holder["board"].has_power() and not story.step("boot again", boot):
            break
    print(f"{clean} of {args.cuts} power cuts were followed by a clean start; {story.faults} faults", flush=True)
    if holder["board"].has_power():
        story.step("shut down", holder["board"].off)
    return 1 if story.faults else 0


if __name__ == "__main__":
    sys.exit(main())
