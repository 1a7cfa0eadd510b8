"""Other ways to replace a program: pm2 reload, systemd socket activation and restart, nginx' own reload, supervisord restart."""
import os, shutil, signal, subprocess, sys, time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, "peers"))

from pb.systemd_box import scripts
from bench import PARTS, PATIENCE, Subject, Unisys, alive, answers, nginx_conf, program, server, wait

NGINX = program("nginx", ("/usr/sbin/nginx",))


class Pm2(Subject):
    what = "pm2 reload (cluster, 2 × Node.js, wait_ready)"

    def missing(self):
        return None if program("pm2") and program("node") else "pm2 or node is not here"

    def pm2(self, *args):
        env = os.environ | {"PM2_HOME": self.work + "/pm2", "PORT": str(self.port)}
        done = self.client([program("pm2"), *args], env=env)
        if done.returncode:
            raise SystemExit(f"pm2 {args}: {done.stdout} {done.stderr}")

    def up(self):
        self.pm2("start", os.path.join(PARTS, "server.js"), "--name", "web", "-i", "2", "--wait-ready", "--kill-timeout", "10000")

    def replace(self, _):
        self.pm2("reload", "web")

    def close(self):
        self.pm2("kill")


class Nginx(Subject):
    what = "nginx -s reload (1 worker)"

    def missing(self):
        return None if NGINX else "nginx is not here"

    def up(self):
        self.conf = nginx_conf(self.work, self.port)
        out = open(self.work + "/out", "ab")
        self.process = subprocess.Popen([NGINX, "-p", self.work, "-c", self.conf], stdout=out, stderr=out, cwd=self.work)

    def workers(self):
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children") as f:
            return {int(pid) for pid in f.read().split()}

    def replace(self, _):
        before = self.workers()
        self.process.send_signal(signal.SIGHUP)
        wait("other workers", lambda: not any(map(alive, before)) and self.workers())

    def close(self):
        self.process.terminate()
        self.process.wait(PATIENCE)


class Supervisord(Subject):
    what = "supervisorctl restart (asyncio server that binds its port)"

    def missing(self):
        return None if program("supervisord") else "supervisord is not here"

    def up(self):
        text = f"""[supervisord]
nodaemon=true
logfile=/dev/null
logfile_maxbytes=0
pidfile={self.work}/pid
[unix_http_server]
file={self.work}/sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://{self.work}/sock
[program:web]
command=python3 {PARTS}/server.py
environment=PORT="{self.port}"
startsecs=0
"""
        with open(self.work + "/conf", "w") as f:
            f.write(text)
        self.process = subprocess.Popen([program("supervisord"), "-c", self.work + "/conf"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def replace(self, _):
        done = self.client([program("supervisorctl"), "-c", self.work + "/conf", "restart", "web"])
        if done.returncode:
            raise SystemExit(f"supervisorctl: {done.stdout}")
        wait("its next answer", lambda: answers(self.port))

    def close(self):
        self.process.terminate()
        self.process.wait(PATIENCE)


class Systemd(Subject):
    """systemd as PID 1 of namespaces of its own, as peers/adapters/systemd.py runs it."""
    what = "systemd socket activation, systemctl restart (asyncio server)"

    def missing(self):
        if os.getuid() or not os.path.exists("/lib/systemd/systemd"):
            return "systemd is not here, or not root"
        return None

    def up(self):
        self.tag = os.path.basename(self.work)
        os.makedirs(self.work + "/units/pb.target.wants")
        units = {
            "pb.target": "[Unit]\nDefaultDependencies=no\nAllowIsolate=yes\n",
            "web.socket": f"[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=127.0.0.1:{self.port}\nBacklog=4096\n",
            "web.service": f"[Unit]\nDefaultDependencies=no\nRequires=web.socket\nAfter=web.socket\nStartLimitIntervalSec=0\n[Service]\nType=notify\nNotifyAccess=all\n"
                           f"ExecStart={shutil.which('python3')} {PARTS}/server.py\nStandardOutput=null\nStandardError=null\n",
        }
        for name, text in units.items():
            with open(f"{self.work}/units/{name}", "w") as f:
                f.write(text)
        for name in ("web.socket", "web.service"):
            os.symlink(f"../{name}", f"{self.work}/units/pb.target.wants/{name}")
        inside, run = scripts(self.work, self.tag)
        with open(self.work + "/sd.sh", "w") as f:
            f.write(inside)
        out = open(self.work + "/out", "ab")
        self.process = subprocess.Popen(["sh", "-c", run], stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)

        def init():
            with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children") as f:
                return next(iter(f.read().split()), None)
        self.init = wait("systemd", init)

    def replace(self, _):
        done = self.client(["nsenter", "-t", self.init, "-a", "systemctl", "restart", "web.service"])
        if done.returncode:
            raise SystemExit(f"systemctl: {done.stderr}")

    def close(self):
        os.kill(int(self.init), signal.SIGRTMIN + 3)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for h in ("systemd", "unified"):
            for d, _, _ in sorted(os.walk(f"/sys/fs/cgroup/{h}/{self.tag}"), reverse=True):
                try:
                    os.rmdir(d)
                except OSError:
                    pass


def ours(name, replicas):
    class Own(Unisys):
        what = f"unisys apply ({replicas} × {name}, listen: true)"

        def missing(self):
            return None if server(name, self.work, self.port) else f"{name} is not here"

        def up(self):
            super().up(server(name, self.work, self.port), replicas)

    return Own


OTHERS = {
    "pm2": Pm2, "unisys node": ours("node", 2),
    "nginx": Nginx, "unisys nginx": ours("nginx", 1),
    "systemd": Systemd, "supervisord": Supervisord, "unisys python": ours("python", 1),
}
