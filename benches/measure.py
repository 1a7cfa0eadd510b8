#!/usr/bin/env python3
"""Speed and memory of unisys, side by side with the floor: a C loop of posix_spawn + waitpid (peers/rawspawn.c).

    cargo build --release && python3 benches/measure.py [--rounds 5] [--only up,restart,...]

Each figure is taken in at least five rounds; a round of unisys follows a round of the floor. Printed: what is asked, the median,
the spread (least to most), and whether it is reached. Needs gcc and nothing but Python's standard library; no root.
"""
import argparse, json, os, shutil, signal, statistics, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "peers"))
from pb.core import Board, alive, cpu_ns, ctxt, mem_kib, mono, pct

UNISYS = os.environ.get("UNISYS", os.path.join(HERE, "../target/release/unisys"))
UNISYS = os.path.abspath(UNISYS)
BIN = os.path.join(HERE, "peers", "bin")
SVC, RAW = os.path.join(BIN, "svc"), os.path.join(BIN, "rawspawn")
PATIENCE = 60


def family(root):
    """the process and everything below it"""
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as f:
                    children.setdefault(int(f.read().rsplit(")", 1)[1].split()[1]), []).append(int(entry))
            except OSError:
                pass
    found, queue = [], [root]
    while queue:
        pid = queue.pop()
        found.append(pid)
        queue.extend(children.get(pid, []))
    return found


def wait(what, look, poll=0.0005, patience=PATIENCE):
    end = time.monotonic() + patience
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(poll)
    raise SystemExit(f"waited in vain for: {what}")


class Subject:
    def __init__(self):
        self.work = tempfile.mkdtemp(prefix="unisys-bench-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        self.board = Board(os.path.join(self.work, "board"), 40_000)
        self.begun = 0
        self.process = None

    def launch(self, argv):
        out = open(os.path.join(self.work, "out"), "ab")
        self.begun = mono()
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=self.work, start_new_session=True)

    def starts(self, count, start=0):
        """the start reports of ids 0..count"""
        if not count:
            return {}
        got = self.board.wait_ids(range(count), PATIENCE, start=start)
        if not got:
            raise SystemExit(f"{type(self).__name__}: not all of {count} started; see {self.work}/out")
        return got

    def stop(self):
        """seconds from SIGTERM until every service is gone, and until the supervisor is"""
        services = list({r[1] for r in self.board.recs(kind=1)})

        def ended():
            # Each is looked at until it is gone, and then no more: looking must not cost what is measured.
            while services and not alive(services[-1]):
                services.pop()
            return not services

        t0 = mono()
        self.process.terminate()
        wait("the services to end", ended)
        gone = mono()
        self.process.wait(PATIENCE)
        return (gone - t0) / 1e9, (mono() - t0) / 1e9

    def close(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(PATIENCE)
        self.board.close()
        shutil.rmtree(self.work, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Floor(Subject):
    def up(self, n):
        self.launch([RAW, str(n), SVC, self.board.path, "run"])
        return self


class Unisys(Subject):
    def service(self, name, number, mode="run", args=(), **spec):
        spec = {"command": [SVC, mode, self.board.path, str(number), *map(str, args)], **spec}
        body = {"apiVersion": "unisys.dev/v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}
        path = os.path.join(self.work, "conf", name + ".json")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path + "~", "w") as f:
            json.dump(body, f)
        os.rename(path + "~", path)

    def services(self, n, **spec):
        # A set is never empty: an empty directory is taken for a mistake.
        os.makedirs(os.path.join(self.work, "conf"), exist_ok=True)
        with open(os.path.join(self.work, "conf", "config.yaml"), "w") as f:
            f.write("{apiVersion: unisys.dev/v1, kind: Config, metadata: {name: bench}, spec: {}}")
        for i in range(n):
            self.service(f"s{i}", i, **spec)
        return self

    def up(self, watch=False):
        more = [] if watch else ["--no-watch"]
        self.launch([UNISYS, "--quiet", "--state-dir", self.work + "/state", "up", "-f", self.work + "/conf", *more])
        return self

    def client(self, *args, codes=(0,)):
        done = subprocess.run([UNISYS, "--state-dir", self.work + "/state", *args], capture_output=True, text=True, cwd=self.work)
        if done.returncode not in codes:
            raise SystemExit(f"unisys {args}: {done.returncode}: {done.stderr}")
        return done.stdout

    def answers(self):
        wait("the daemon", lambda: os.path.exists(self.work + "/state/unisys.sock"))
        return self.client("get", "system", "-o", "json")

    def daemon(self):
        return json.loads(self.answers())["status"]["daemonPid"]

    def pair(self):
        return [self.process.pid, self.daemon()]


# Memory is looked at after this many seconds without a question: unisys gives back what the last one touched after one.
REST = 3


class Table:
    def __init__(self):
        self.rows = []

    def add(self, what, asked, values, limit, unit, scale=1):
        """limit: a number in the unit of the values, or None when there is nothing to compare with"""
        median = statistics.median(values)
        spread = f"{min(values):.3g} to {max(values):.3g}"
        verdict = "" if limit is None else ("yes" if median <= limit else "**no**")
        row = f"| {what} | {asked} | {median:.3g} {unit} ({spread}) | {verdict} |"
        self.rows.append(row)
        print(row, flush=True)


def at_rest(subject):
    """MiB (PSS) of keeper and daemon when nobody has asked them anything for a while."""
    pids = subject.pair()
    time.sleep(REST)
    return sum(mem_kib(pid)[1] for pid in pids) / 1024


def up_and_stop(table, rounds):
    n = 1000
    wall, cpu, stop = {Floor: [], Unisys: []}, {Floor: [], Unisys: []}, {Floor: [], Unisys: []}
    memory, ended = [], []
    for _ in range(rounds):
        for kind in (Floor, Unisys):
            with kind() as subject:
                if kind is Unisys:
                    subject.services(n).up()
                else:
                    subject.up(n)
                last = max(r[2] for r in subject.starts(n).values())
                wall[kind].append((last - subject.begun) / 1e9)
                time.sleep(0.5)  # what is still done after the last start belongs to it
                cpu[kind].append(sum(cpu_ns(pid) for pid in family(subject.process.pid)) / 1e9)
                if kind is Unisys:
                    memory.append(at_rest(subject))
                gone, end = subject.stop()
                stop[kind].append(gone)
                if kind is Unisys:
                    ended.append(end)
    ratio = lambda of: [a / b for a, b in zip(of[Unisys], of[Floor])]
    table.add("floor: start of 1,000", "", wall[Floor], None, "s")
    table.add("`up` of 1,000, launch to the last one's own start report", "≤ 0.85 × floor", ratio(wall), 0.85, "× floor")
    table.add("the same, in seconds", "", wall[Unisys], None, "s")
    table.add("CPU of the whole group for it", "≤ 2.2 × floor", ratio(cpu), 2.2, "× floor")
    table.add("memory (PSS of keeper + daemon), 1,000 services", "≤ 16 MiB", memory, 16, "MiB")
    table.add("stop of 1,000, SIGTERM to the last one's end", "≤ 1.5 × floor", ratio(stop), 1.5, "× floor")
    table.add("the same, in seconds (floor beside it: %.3g)" % statistics.median(stop[Floor]), "", stop[Unisys], None, "s")
    table.add("… to the keeper's own end", "", ended, None, "s")


def memory_small(table, rounds):
    for n, limit in ((0, 8), (100, 9)):
        values = []
        for _ in range(rounds):
            with Unisys().services(n).up() as subject:
                subject.starts(n)
                values.append(at_rest(subject))
        table.add(f"memory (PSS of keeper + daemon), {n} services", f"≤ {limit} MiB", values, limit, "MiB")


def ticks(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def idle(table, _):
    with Unisys().services(1000).up() as subject:
        subject.starts(1000)
        pair = subject.pair()
        time.sleep(5)
        before = [(ticks(pid), ctxt(pid)) for pid in pair]
        time.sleep(30)
        after = [(ticks(pid), ctxt(pid)) for pid in pair]
        table.add("idle with 1,000 services, 30 s: CPU", "0 ticks", [sum(a[0] - b[0] for a, b in zip(after, before))], 0, "ticks")
        table.add("idle with 1,000 services, 30 s: wake-ups", "none", [sum(a[1] - b[1] for a, b in zip(after, before))], 0, "wake-ups")


def restart(table, rounds):
    n, times = 100, {Floor: [], Unisys: []}
    medians, p99s = [], []
    with Floor().up(n) as floor, Unisys().services(n, restart={"backoff": {"initial": "0s"}}, circuitBreaker=None).up() as ours:
        for subject in (floor, ours):
            subject.starts(n)
        time.sleep(2)
        for _ in range(max(rounds, 5)):
            batch = {Floor: [], Unisys: []}
            for i in range(n):
                for subject in (floor, ours):
                    pid = [r for r in subject.board.recs(kind=1) if r[0] == i][-1][1]
                    seen = subject.board.count()
                    t0 = mono()
                    os.kill(pid, signal.SIGKILL)
                    started = subject.board.wait_ids([i], PATIENCE, start=seen, poll=0.0005)
                    batch[type(subject)].append((started[i][2] - t0) / 1e6)
                    time.sleep(0.004)
            medians.append(statistics.median(batch[Unisys]) / statistics.median(batch[Floor]))
            for kind in times:
                times[kind] += batch[kind]
    p99s = [pct(times[Unisys], 0.99) / pct(times[Floor], 0.99)]
    table.add("kill -9 → the replacement's own start report, median", "≤ 1.4 × floor", medians, 1.4, "× floor")
    table.add("the same, in ms (floor beside it: %.3g)" % statistics.median(times[Floor]), "", times[Unisys], None, "ms")
    table.add("the same, p99 (%.3g ms; floor: %.3g ms)" % (pct(times[Unisys], 0.99), pct(times[Floor], 0.99)), "≤ 2 × floor's", p99s, 2, "× floor")


NOTIFY = {"readiness": {"notify": "systemd"}}


def last_ready(subject, n):
    got = subject.board.wait_ids(range(n), PATIENCE, kind=4)
    if not got:
        raise SystemExit(f"not all of {n} became ready; see {subject.work}/out")
    return max(r[2] for r in got.values())


def levels(table, rounds):
    for how, limit in (("notify", 1.56), ("http", 1.65)):
        values = []
        for _ in range(rounds):
            with Unisys() as subject:
                for i in range(10):
                    spec = {"dependsOn": [f"s{j}" for j in range(i // 2 * 2 - 2, i // 2 * 2)] if i > 1 else []}
                    if how == "notify":
                        subject.service(f"s{i}", i, "ready-sd", (300,), probes=NOTIFY, **spec)
                    else:
                        port = 21700 + i
                        probes = {"readiness": {"http": {"path": "/", "port": port}}}
                        subject.service(f"s{i}", i, "http", (port, 300), probes=probes, ports=[{"name": "p", "port": port}], **spec)
                subject.up()
                values.append((last_ready(subject, 10) - subject.begun) / 1e9)
        table.add(f"10 services in 5 levels, 0.3 s each, by {how}", f"≤ {limit} s", values, limit, "s")


def chain(table, rounds):
    values, links = [], []
    for _ in range(rounds):
        with Unisys() as subject:
            for i in range(50):
                subject.service(f"s{i}", i, "ready-sd", probes=NOTIFY, dependsOn=[f"s{i-1}"] if i else [])
            subject.up()
            last = last_ready(subject, 50)
            first = min(r[2] for r in subject.board.recs(kind=1))
            starts = {r[0]: r[2] for r in subject.board.recs(kind=1)}
            ready = {r[0]: r[2] for r in subject.board.recs(kind=4)}
            values.append((last - first) / 1e9)
            links += [(starts[i] - ready[i - 1]) / 1e6 for i in range(1, 50)]
    table.add("chain of 50, ready at once by READY=1: first start → last READY", "≤ 0.06 s", values, 0.06, "s")
    table.add("READY=1 → seen, and the next one spawned and reporting", "≤ 1 ms (seen)", links, 1, "ms")


def port(table, rounds):
    values = []
    for round_ in range(max(rounds, 5)):
        with Unisys() as subject:
            number = 21800 + round_
            probes = {"readiness": {"http": {"path": "/", "port": number}}}
            subject.service("s0", 0, "http", (number, 150), probes=probes, ports=[{"name": "p", "port": number}])
            subject.service("s1", 1, dependsOn=["s0"])
            subject.up()
            started = subject.starts(2)[1][2]
            ready = [r[2] for r in subject.board.recs(kind=4)][0]
            values.append((started - ready) / 1e6)
    table.add("its port answers → seen, and a dependent spawned and reporting", "≤ 10 ms (seen)", values, 10, "ms")


def save(table, rounds):
    decided, replaced = [], []
    with Unisys().services(1000).up(watch=True) as subject:
        subject.starts(1000)
        time.sleep(3)
        for round_ in range(max(rounds, 5)):
            seen = subject.board.count()
            wall, t0 = time.time(), mono()
            subject.service("s500", 500, env={"ROUND": str(round_)})
            started = subject.board.wait_ids([500], PATIENCE, start=seen)
            replaced.append((started[500][2] - t0) / 1e6 - 200)
            time.sleep(1)
            change = json.loads(subject.client("changes", "-o", "json"))[0]
            at = change["at"]
            import datetime
            at = datetime.datetime.fromisoformat(at.replace("Z", "+00:00")).timestamp()
            decided.append((at - wall) * 1000 - 200)
    table.add("save a file → plan decided, 1,000 units, after the debounce", "≤ 20 ms", decided, 20, "ms")
    table.add("… → the replacement's own start report", "", replaced, None, "ms")


def apply(table, rounds):
    values = []
    with Unisys().services(1000).up() as subject:
        subject.starts(1000)
        time.sleep(2)
        for _ in range(max(rounds, 5) + 1):
            seen, t0 = subject.board.count(), mono()
            subject.client("apply", "-f", subject.work + "/conf")
            values.append((mono() - t0) / 1e6)
            if subject.board.count() != seen:
                raise SystemExit("a no-op apply started something")
        table.add("no-op `apply` of 1,000 units, the command from start to end (0 actions)", "≤ 50 ms", values[1:], 50, "ms")


def adoption(table, rounds):
    values = []
    # A system of its own each time: a daemon that dies again and again is started ever later, on purpose.
    for _ in range(max(rounds, 5)):
        with Unisys().services(1000).up() as subject:
            subject.starts(1000)
            time.sleep(2)
            old, seen = subject.daemon(), subject.board.count()
            t0 = mono()
            os.kill(old, signal.SIGKILL)

            def answered():
                argv = [UNISYS, "--state-dir", subject.work + "/state", "get", "system", "-o", "json"]
                done = subprocess.run(argv, capture_output=True, text=True)
                return done.returncode == 0 and json.loads(done.stdout)["status"]["daemonPid"] != old

            wait("a new daemon", answered, poll=0.002)
            values.append((mono() - t0) / 1e6)
            rows = json.loads(subject.client("get", "service", "-o", "json"))["items"]
            if len(rows) != 1000 or subject.board.count() != seen or not all(r["status"]["readyReplicas"] == 1 for r in rows):
                raise SystemExit("a service was not adopted")
    table.add("adoption of 1,000: kill -9 of the daemon → the new one answers", "≤ 300 ms", values, 300, "ms")


def validate(table, rounds):
    values = []
    with Unisys().services(1000) as subject:
        for _ in range(max(rounds, 5)):
            t0 = mono()
            subject.client("validate", subject.work + "/conf")
            values.append((mono() - t0) / 1e6)
    table.add("`validate` of 1,000 objects", "≤ 100 ms", values, 100, "ms")


ALL = [up_and_stop, memory_small, idle, restart, levels, chain, port, save, apply, adoption, validate]


def main():
    names = [part.__name__ for part in ALL]
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--only", default="", help="some of: " + ",".join(names))
    options = options.parse_args()
    os.makedirs(BIN, exist_ok=True)
    for name in ("svc", "rawspawn"):
        subprocess.run(["gcc", "-O2", "-o", os.path.join(BIN, name), os.path.join(HERE, "peers", name + ".c")], check=True)
    wanted = [name for name in options.only.split(",") if name]
    print(f"load before: {os.getloadavg()[0]:.2f}; {os.cpu_count()} processors; {options.rounds} rounds\n")
    print("| what | asked | median (least to most) | reached |\n| --- | --- | --- | --- |")
    table = Table()
    for part in ALL:
        if not wanted or part.__name__ in wanted:
            part(table, options.rounds)
            print(f"<!-- load after {part.__name__}: {os.getloadavg()[0]:.1f} -->", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
