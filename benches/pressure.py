#!/usr/bin/env python3
"""A flood of messages: programs that tell the daemon of themselves (`STATUS=`, sd_notify(3)) as fast as it listens, while questions
are asked and a healthy service is killed every half second.

    cargo build --release && python3 benches/pressure.py [--seconds 20] [--senders 4]

Printed: messages a second that were taken in, how long `get` took, kill -9 to the replacement's own start report, and memory.
"""
import argparse, os, signal, statistics, sys, time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from measure import Unisys, mono, mem_kib, pct

SENDER = """
import os, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
name = os.environ["NOTIFY_SOCKET"]
s.connect("\\0" + name[1:] if name[0] == "@" else name)
s.send(b"READY=1")
count = open(sys.argv[1], "r+b")
n = 0
while True:
    s.send(b"STATUS=%d" % n)
    n += 1
    if n % 100 == 0:
        os.pwrite(count.fileno(), b"%d" % n, 0)
"""


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seconds", type=float, default=20)
    options.add_argument("--senders", type=int, default=4)
    options = options.parse_args()
    with Unisys() as subject:
        subject.service("healthy", 0, restart={"backoff": {"initial": "0s"}}, circuitBreaker=None)
        program = os.path.join(subject.work, "sender.py")
        with open(program, "w") as file:
            file.write(SENDER)
        counts = [os.path.join(subject.work, f"count{i}") for i in range(options.senders)]
        for i, path in enumerate(counts):
            with open(path, "w") as file:
                file.write("0")
            probes = {"readiness": {"notify": "systemd"}}
            subject.service(f"sender{i}", i + 1, command=[sys.executable, program, path], probes=probes)
        subject.up()
        subject.starts(1)
        subject.client("wait", "--for", "condition=Ready", "--timeout", "20s")
        said = lambda: sum(int(open(path).read()) for path in counts)
        pids = subject.pair()
        asked, restarts, memory = [], [], []
        begun, before = time.monotonic(), said()
        while time.monotonic() - begun < options.seconds:
            t0 = mono()
            subject.client("get")
            asked.append((mono() - t0) / 1e6)
            pid = [r for r in subject.board.recs(kind=1) if r[0] == 0][-1][1]
            seen, t0 = subject.board.count(), mono()
            os.kill(pid, signal.SIGKILL)
            started = subject.board.wait_ids([0], 30, start=seen, poll=0.001)
            restarts.append((started[0][2] - t0) / 1e6)
            memory.append(sum(mem_kib(pid)[1] for pid in pids) / 1024)
            time.sleep(0.5)
        rate = (said() - before) / (time.monotonic() - begun)
    print(f"load: {os.getloadavg()[0]:.1f}; {os.cpu_count()} processors; {options.senders} programs that say something all the time\n")
    print("| messages a second | `get`, ms | kill -9 → start report of a healthy one, ms | memory (PSS), MiB |\n| --- | --- | --- | --- |")
    spread = lambda of: f"{statistics.median(of):.3g} (p99 {pct(of, 0.99):.3g})"
    print(f"| {rate:,.0f} | {spread(asked)} | {spread(restarts)} | {statistics.median(memory):.3g} (most {max(memory):.3g}) |")


if __name__ == "__main__":
    main()
