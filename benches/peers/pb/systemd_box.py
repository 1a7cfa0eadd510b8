"""A systemd of its own, in namespaces, from the units in WORK/units (`pb.target` is what it begins with)."""


def scripts(work, tag):
    """what the first process does inside, and what starts it; `inside` belongs into WORK/sd.sh"""
    inside = f"""mount --make-rprivate /
mount -t tmpfs tmpfs /run; mkdir -p /run/lock /run/systemd
cp -r {work}/units /run/systemd/system
mount -t tmpfs tmpfs /sys/fs/cgroup; mkdir /sys/fs/cgroup/systemd /sys/fs/cgroup/unified
mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd; mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
for u in /etc/systemd/system /lib/systemd/system-generators; do mount -t tmpfs tmpfs $u; done
export container=other
exec /lib/systemd/systemd --system --unit=pb.target --log-target=null --show-status=0
"""
    outside = f"""for h in systemd unified; do mkdir -p /sys/fs/cgroup/$h/{tag}; echo 0 > /sys/fs/cgroup/$h/{tag}/cgroup.procs; done
exec unshare --cgroup --pid --fork --kill-child --mount --mount-proc --uts --ipc sh {work}/sd.sh
"""
    return inside, outside
