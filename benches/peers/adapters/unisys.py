import json
import os

from pb.core import *

BINARY = os.environ.get("UNISYS", os.path.abspath(os.path.join(os.path.dirname(__file__), "../../../target/release/unisys")))


class Unisys(Adapter):
    name = "unisys"
    caps = {"restart", "stop_one", "supkill", "chain", "log"}
    ready_mode = "ready-sd"
    note = "keeper and daemon; one file a service; logs captured; without cgroups"

    def configure(self, svcs):
        self.state = self.work + "/state"
        # A set is never empty: an empty directory is taken for a mistake.
        self.write("conf/config.yaml", "{apiVersion: unisys.dev/v1, kind: Config, metadata: {name: bench}, spec: {}}")
        for s in svcs:
            spec = {}
            if s.ready:
                s.mode = "ready-sd"
                spec["probes"] = {"readiness": {"notify": "systemd"}}
            spec["command"] = s.argv()
            if s.after:
                spec["dependsOn"] = [{"name": name, "condition": "Ready" if s.ready else "Started"} for name in s.after]
            if s.restart and (self.tuned or s.name == "healthy"):
                spec["restart"] = {"backoff": {"initial": "0s"}}
                spec["circuitBreaker"] = None
            body = {"apiVersion": "unisys.dev/v1", "kind": "Service", "metadata": {"name": s.name}, "spec": spec}
            self.write(f"conf/{s.name}.json", json.dumps(body))

    def launch_argv(self):
        return [BINARY, "--quiet", "--state-dir", self.state, "up", "-f", self.work + "/conf", "--no-watch"]

    def stop_one(self, svc):
        self.client(BINARY, "--state-dir", self.state, "stop", svc.name)

    def log_files(self, s):
        return [f"{self.state}/logs/services/{s.name}.log"]
