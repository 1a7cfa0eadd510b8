#!/usr/bin/env python3
"""Replacing programs under load: what clients notice, beside doing it by hand and beside other supervisors.

    cargo build --release && python3 benches/rollouts.py             # everything, about half an hour
    python3 benches/rollouts.py --only rolling --servers python      # a part; results add up in peers/results/rollouts.json
    python3 benches/rollouts.py --table                              # what has been measured so far

Load: servers/load.c, open loop, 600 requests a second on new connections and 600 on kept ones, at once. *By hand* is this script
holding the listening socket itself: it starts the next program, waits until it is ready, and tells the former one to stop. No
supervisor can disturb less. Needs gcc, python3, and of node, nginx, gunicorn, pm2, supervisord and systemd what is there: the rest is
left out and named. GUNICORN and PM2 say where they are when PATH does not.
"""
import argparse, json, os, re, select, shutil, signal, socket, statistics, subprocess, sys, tempfile, threading, time

HERE = os.path.dirname(os.path.abspath(__file__))
PARTS = os.path.join(HERE, "servers")
BIN = os.path.join(HERE, "peers", "bin")
RESULTS = os.path.join(HERE, "peers", "results", "rollouts.json")
UNISYS = os.path.abspath(os.environ.get("UNISYS", os.path.join(HERE, "../target/release/unisys")))
LOAD = os.path.join(BIN, "load")
RATE = 600          # of new connections, and as much again on kept ones
KEPT = 20
PATIENCE = 60


def program(name, fallback=()):
    return os.environ.get(name.upper()) or next(filter(None, map(shutil.which, (name, *fallback))), None)


def wait(what, look, patience=PATIENCE):
    end = time.monotonic() + patience
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.002)
    raise SystemExit(f"waited in vain for: {what}")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def answers(port):
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as s:
            s.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return s.recv(100).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


class Server:
    """A real server: how it is started on a handed socket, says that it is ready, and is told to end."""

    def __init__(self, name, argv, ready, stop=signal.SIGTERM, env=None):
        self.name, self.argv, self.ready, self.stop, self.env = name, argv, ready, stop, env or {}

    def probe(self):
        return {"notify": "systemd"} if self.ready == "notify" else {"log": {"pattern": self.ready}}


def server(name, work, port):
    if name == "python":
        return Server(name, ["python3", os.path.join(PARTS, "server.py")], "notify")
    if name == "node" and program("node"):
        return Server(name, [program("node"), os.path.join(PARTS, "server.js")], "listening")
    if name == "gunicorn" and program("gunicorn"):
        argv = [program("gunicorn"), "--chdir", PARTS, "--worker-class", "gthread", "--threads", "8", "--backlog", "4096", "wsgi:app"]
        return Server(name, argv, "notify")
    if name == "nginx" and program("nginx", ("/usr/sbin/nginx",)):
        # nginx does not know LISTEN_FDS; it takes inherited sockets by a variable of its own.
        return Server(name, [program("nginx", ("/usr/sbin/nginx",)), "-p", work, "-c", nginx_conf(work, port)], "start worker process [0-9]",
                      signal.SIGQUIT, {"NGINX": "3;"})
    return None


def is_here(name):
    with tempfile.TemporaryDirectory() as work:
        found = server(name, work, 0) is not None
    if not found:
        print(f"{name} is not here", file=sys.stderr)
    return found


def nginx_conf(work, port):
    path = os.path.join(work, "nginx.conf")
    with open(os.path.join(PARTS, "nginx.conf")) as f, open(path, "w") as out:
        out.write(f.read().replace("@PORT@", str(port)))
    return path


class Load:
    def __init__(self, port):
        self.runs = [subprocess.Popen([LOAD, str(port), str(RATE), mode, str(KEPT)], stdout=subprocess.PIPE, text=True) for mode in ("new", "keep")]

    def end(self):
        for run in self.runs:
            run.terminate()
        new, kept = (json.loads(run.communicate(timeout=PATIENCE)[0]) for run in self.runs)
        whole = {key: new[key] + kept[key] for key in ("asked", "failed", "retried", "reopened", "refused", "reset", "early_end", "status", "timeout", "other")}
        whole |= {"seconds": new["seconds"], "rate": whole["asked"] / new["seconds"],
                  "p99_ms": {"new": new["p99_us"] / 1000, "kept": kept["p99_us"] / 1000},
                  "max_ms": max(new["max_us"], kept["max_us"]) / 1000}
        return whole


class Subject:
    def __init__(self):
        self.work = tempfile.mkdtemp(prefix="unisys-rollouts-")
        os.chmod(self.work, 0o755)      # nginx' worker is of another user
        self.port = free_port()
        self.stopped = os.path.join(self.work, "stopped")
        self.pids = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
        shutil.rmtree(self.work, ignore_errors=True)

    def client(self, argv, **more):
        return subprocess.run(argv, capture_output=True, text=True, cwd=self.work, timeout=PATIENCE, **more)


class ByHand(Subject):
    def up(self, server, replicas):
        self.server, self.killed = server, 0
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(("127.0.0.1", self.port))
        self.socket.listen(4096)
        self.running = [self.begin() for _ in range(replicas)]
        return self

    def begin(self):
        ours, path = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), os.path.join(self.work, f"n{time.monotonic_ns()}")
        ours.bind(path)
        out_read, out_write = os.pipe()
        begun = time.monotonic_ns()
        pid = os.fork()
        if not pid:
            os.setsid()     # as a supervisor does: it decides how the kernel shares the processors (sched(7), autogroup)
            os.dup2(self.socket.fileno(), 3)
            os.set_inheritable(3, True)     # dup2 to its own number changes nothing
            os.dup2(out_write, 1)
            os.dup2(out_write, 2)
            os.closerange(4, 64)
            os.chdir(self.work)
            env = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TZ") if name in os.environ}
            env |= self.server.env | {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "http",
                                                  "NOTIFY_SOCKET": path, "STOPPED": self.stopped}
            os.execvpe(self.server.argv[0], self.server.argv, env)
        os.close(out_write)
        said = b""
        while True:
            readable, _, _ = select.select([ours, out_read], [], [], PATIENCE)
            if not readable:
                raise SystemExit(f"{self.server.name} does not get ready by hand: {said}")
            if ours in readable and b"READY=1" in ours.recv(4096) and self.server.ready == "notify":
                break
            if out_read in readable:
                got = os.read(out_read, 65536)
                said += got
                if not got or (self.server.ready != "notify" and re.search(self.server.ready.encode(), said)):
                    break
        ours.close()
        os.unlink(path)
        threading.Thread(target=self.drain, args=(out_read,), daemon=True).start()
        self.took = time.monotonic_ns() - begun
        return pid

    @staticmethod
    def drain(fd):
        while os.read(fd, 65536):
            pass
        os.close(fd)

    def replace(self, _):
        for index, former in enumerate(self.running):
            self.running[index] = self.begin()
            self.end(former)

    def end(self, pid):
        """as unisys does: a signal, and after a grace of 10 s a kill of all that is left"""
        os.kill(pid, self.server.stop)
        end = time.monotonic() + 10
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > end:
                self.killed += 1
                os.killpg(pid, signal.SIGKILL)
            time.sleep(0.001)

    def close(self):
        for pid in self.running:
            self.end(pid)
        self.socket.close()


class Unisys(Subject):
    def up(self, server, replicas, deadline="30s", probe_port=False):
        self.server, self.replicas, self.deadline, self.probe_port = server, replicas, deadline, probe_port
        os.makedirs(self.work + "/conf")
        self.write(0)
        out = open(self.work + "/out", "ab")
        argv = [UNISYS, "--quiet", "--state-dir", self.work + "/state", "up", "-f", "conf", "--no-watch"]
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=self.work)
        wait("the daemon", lambda: self.unisys("get", "system").returncode == 0)
        wait("its first deployment", lambda: self.status()["state"] == "Complete")
        return self

    def write(self, number, **more):
        service = self.server
        env = {**service.env, "STOPPED": self.stopped, "ROUND": str(number), **more.get("env", {})}
        ports = [{"name": "http", "port": self.port, "listen": True}]
        probes = {"readiness": service.probe()}
        if self.probe_port:
            ports.append({"name": "probe", "port": "auto", "listen": True})
            probes = {"readiness": {"http": {"path": "/", "port": "probe"}}}
        spec = {"command": more.get("command", service.argv), "workingDir": self.work, "replicas": self.replicas, "env": env, "ports": ports,
                "probes": probes, "stop": {"signal": signal.Signals(service.stop).name},
                "update": {"minReady": "0s", "progressDeadline": self.deadline}}
        body = {"apiVersion": "unisys.dev/v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec}
        with open(self.work + "/conf/web.json~", "w") as f:
            json.dump(body, f)
        os.rename(self.work + "/conf/web.json~", self.work + "/conf/web.json")

    def unisys(self, *args):
        return self.client([UNISYS, "--state-dir", self.work + "/state", *args])

    def json(self, *args):
        def once():
            done = self.unisys(*args, "-o", "json")
            return json.loads(done.stdout) if done.returncode == 0 else None
        return wait(f"an answer to {args}", once)

    def status(self):
        return self.json("rollout", "status", "web")

    def history(self):
        return self.json("rollout", "history", "web")

    def replace(self, number):
        self.write(number)
        done = self.unisys("apply", "-f", "conf", "--wait=30s")
        if done.returncode != 0:
            raise SystemExit(f"rollout {number}: {done.returncode}: {done.stderr}")

    def daemon(self):
        return self.json("get", "system")["status"]["daemonPid"]

    def close(self):
        self.process.terminate()
        self.process.wait(PATIENCE)


# ------------------------------------------------------------------------------------------------ what is measured


def rolling(keep, args):
    """consecutive rollouts, unisys beside by hand"""
    for name in args.servers:
        for replicas in args.replicas:
            pair = {}
            # Which of the two comes first alternates: a machine that gets slower favours neither.
            order = [("by hand", ByHand), ("unisys", Unisys)]
            for who, kind in order if replicas == 1 else order[::-1]:
                with kind() as subject:
                    subject.up(server(name, subject.work, subject.port), replicas)
                    wait("its first answer", lambda: answers(subject.port))
                    load = Load(subject.port)
                    time.sleep(0.5)
                    for number in range(1, args.rounds + 1):
                        subject.replace(number)
                    pair[who] = load.end()
            keep(f"rolling {name} {replicas}", {**pair, "rounds": args.rounds})


def bad(keep, args):
    """revisions that do not run, one after the other"""
    for fate in args.fates:
        with Unisys() as subject:
            subject.up(server("python", subject.work, subject.port), 1, deadline="1s", probe_port=True)
            wait("its first answer", lambda: answers(subject.port))
            load = Load(subject.port)
            pid = subject.json("get", "service", "web")["status"]["instances"][0]["pid"]
            took, untouched, codes = [], True, {}
            for number in range(1, args.rounds + 1):
                more = {"command": ["./no-such-program"]} if fate == "cannot" else {"env": {"FATE": fate}}
                subject.write(number, **more)
                code = subject.unisys("apply", "-f", "conf", "--wait=30s").returncode
                codes[code] = codes.get(code, 0) + 1
                last = subject.history()[-1]
                if last["outcome"] == "RolledBack":
                    took.append(last["durationMs"])
                untouched &= subject.json("get", "service", "web")["status"]["instances"][0]["pid"] == pid
            keep(f"bad {fate}", {**load.end(), "rounds": args.rounds, "rolled_back": len(took), "codes": codes, "untouched": untouched,
                                 "deadline_ms": 1000, "took_ms": {"median": statistics.median(took or [0]), "most": max(took or [0])}})


def killed(keep, args):
    """the daemon is killed in the middle of a rollout"""
    rounds = min(args.rounds, 20)
    with Unisys() as subject:
        subject.up(server("python", subject.work, subject.port), 2)
        wait("its first answer", lambda: answers(subject.port))
        load = Load(subject.port)
        for number in range(1, rounds + 1):
            daemon = subject.daemon()
            subject.write(number)
            if subject.unisys("apply", "-f", "conf").returncode:
                raise SystemExit("apply")
            time.sleep(0.02 * (number % 10))        # at another place of the rollout each time
            os.kill(daemon, signal.SIGKILL)
            wait("another daemon", lambda: subject.daemon() != daemon)
            def done():
                instances = subject.json("get", "service", "web")["status"]["instances"]
                return subject.status()["state"] == "Complete" and len({i["generation"] for i in instances}) == 1 and len(instances) == 2
            wait(f"the rollout goes on under the next daemon ({number})", done)
        keep("killed", {**load.end(), "rounds": rounds})


def overhead(keep, args):
    """without load: from launching `apply` until the former program got its signal, less what the program itself takes to be ready"""
    for name in [name for name in args.servers if name in ("python", "node")]:
        last = {}
        for who, kind in (("by hand", ByHand), ("unisys", Unisys)):
            with kind() as subject:
                subject.up(server(name, subject.work, subject.port), 1)
                took = []
                for number in range(1, 31):
                    begun = time.monotonic_ns()
                    subject.replace(number)
                    with open(subject.stopped) as f:
                        took.append((int(f.read().split()[-1]) - begun) / 1e6)
                last[who] = statistics.median(took)
        keep(f"overhead {name}", last)


def peers(keep, args):
    """other ways to replace a program, each under the same load"""
    from servers.others import OTHERS
    rounds = args.rounds
    for name, kind in OTHERS.items():
        if args.peers and name not in args.peers:
            continue
        with kind() as subject:
            why = subject.missing()
            if why:
                keep(f"peer {name}", {"missing": why})
                continue
            subject.up()
            wait(f"{name} answers", lambda: answers(subject.port))
            load = Load(subject.port)
            time.sleep(0.5)
            for number in range(rounds):
                subject.replace(number)
            keep(f"peer {name}", {**load.end(), "rounds": rounds, "what": kind.what})


CONCERNS = {"rolling": rolling, "bad": bad, "killed": killed, "overhead": overhead, "peers": peers}


# ------------------------------------------------------------------------------------------------ what is told


def verdict(good):
    return "yes" if good else "**no**"


def table(found):
    print("| what | asked | measured | reached |\n| --- | --- | --- | --- |")
    for key, got in found.items():
        what, *rest = key.split(" ", 1)
        rest = rest[0] if rest else ""
        if what == "rolling":
            name, replicas = rest.split()
            hand, own = got["by hand"], got["unisys"]
            print(f"| {name}, {replicas} replica{'s' * (replicas != '1')}, {got['rounds']} rollouts at {own['rate']:.0f} req/s: failed of {own['asked']:,} | 0 | {own['failed']} "
                  f"(by hand: {hand['failed']} of {hand['asked']:,}) | {verdict(own['failed'] == 0)} |")
            for mode in ("new", "kept"):
                ratio = own["p99_ms"][mode] / hand["p99_ms"][mode]
                print(f"| … p99, {mode} connections, against by hand | ≤ 1.2 × | {ratio:.2f} × ({own['p99_ms'][mode]:.1f} ms, {hand['p99_ms'][mode]:.1f} ms) | {verdict(ratio <= 1.2)} |")
        elif what == "bad":
            ok = got["failed"] == 0 and got["rolled_back"] == got["rounds"] and got["untouched"]
            print(f"| a revision that {rest}, {got['rounds']} times: failed of {got['asked']:,} | 0, each rolled back | {got['failed']}; {got['rolled_back']} rolled back, "
                  f"the good process {'untouched' if got['untouched'] else '**replaced**'} | {verdict(ok)} |")
            limit = got["deadline_ms"] + 100
            print(f"| … from the edit to the decision (progressDeadline 1 s) | ≤ {limit} ms | {got['took_ms']['median']:.0f} ms, at most {got['took_ms']['most']} | {verdict(got['took_ms']['most'] <= limit)} |")
        elif what == "killed":
            print(f"| the daemon killed with -9 in the middle of {got['rounds']} rollouts: failed of {got['asked']:,} | 0 | {got['failed']} | {verdict(got['failed'] == 0)} |")
        elif what == "overhead":
            more = got["unisys"] - got["by hand"]
            print(f"| overhead of a rollout, {rest} ({got['unisys']:.0f} ms; by hand {got['by hand']:.0f} ms) | ≤ 20 ms | {more:.1f} ms | {verdict(more <= 20)} |")
    print("\n| replaced by | replacements | requests | failed | retried | p99 new | p99 kept | longest |\n| --- | --- | --- | --- | --- | --- | --- | --- |")
    for key, got in found.items():
        if not key.startswith("peer "):
            continue
        if "missing" in got:
            print(f"| {key[5:]} | not measured: {got['missing']} | | | | | | |")
            continue
        kinds = ", ".join(f"{got[kind]} {kind.replace('_', ' ')}" for kind in ("refused", "reset", "early_end", "status", "timeout", "other") if got[kind])
        print(f"| {got['what']} | {got['rounds']} | {got['asked']:,} | {got['failed']}{f' ({kinds})' if kinds else ''} | {got['retried']} | {got['p99_ms']['new']:.1f} ms | {got['p99_ms']['kept']:.1f} ms | {got['max_ms']:.0f} ms |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    listed = lambda text: text.split(",")
    parser.add_argument("--only", type=listed, default=list(CONCERNS))
    parser.add_argument("--servers", type=listed, default=["python", "node", "gunicorn", "nginx"])
    parser.add_argument("--replicas", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2])
    parser.add_argument("--fates", type=listed, default=["exits", "hangs", "sick", "cannot"])
    parser.add_argument("--peers", type=listed, default=[])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    args.servers = [name for name in args.servers if args.table or is_here(name)]
    # Everything is started with the environment that unisys gives to services: what else is set here costs a Node.js start 30 ms.
    for name in [name for name in os.environ if name not in ("PATH", "HOME", "LANG", "TZ", "GUNICORN", "PM2")]:
        del os.environ[name]
    os.makedirs(os.path.dirname(RESULTS), exist_ok=True)
    found = json.load(open(RESULTS)) if os.path.exists(RESULTS) else {}
    fresh = {}

    def keep(key, value):
        found[key] = fresh[key] = value
        with open(RESULTS, "w") as f:
            json.dump(found, f, indent=1)
        print(key, json.dumps(value), file=sys.stderr)

    if not args.table:
        os.makedirs(BIN, exist_ok=True)
        subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-o", LOAD, os.path.join(PARTS, "load.c")], check=True)
        for name in args.only:
            CONCERNS[name](keep, args)
    table(found if args.table else fresh)


if __name__ == "__main__":
    sys.modules["bench"] = sys.modules["__main__"]
    main()
