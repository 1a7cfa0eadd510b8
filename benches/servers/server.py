"""An asyncio HTTP server on the socket that it is handed. It ends once everything that it has accepted is answered.

FATE: `exits`, `hangs` before it is ready, or `sick`: answers its probe with 503.
"""
import asyncio, os, signal, socket, sys, time

FATE = os.environ.get("FATE", "")
STOPPED = os.environ.get("STOPPED")      # a file that learns when SIGTERM came
conns, stopping = set(), asyncio.Event()


def tell(text):
    path = os.environ.get("NOTIFY_SOCKET")
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.sendto(text, "\0" + path[1:] if path[0] == "@" else path)


class Conn(asyncio.Protocol):
    status = b"200 OK"

    def connection_made(self, transport):
        self.transport, self.buffer, self.served = transport, b"", 0
        conns.add(self)

    def data_received(self, data):
        self.buffer += data
        while b"\r\n\r\n" in self.buffer:
            head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
            last = stopping.is_set() or b"connection: close" in head.lower()
            self.served += 1
            self.transport.write(b"HTTP/1.1 %s\r\nContent-Length: 2\r\n%s\r\nok" % (self.status, b"Connection: close\r\n" if last else b""))
            if last:
                self.transport.close()

    def connection_lost(self, error):
        conns.discard(self)


class Probe(Conn):
    status = b"503 Sick" if FATE == "sick" else b"200 OK"


async def main():
    loop = asyncio.get_running_loop()
    names = os.environ.get("LISTEN_FDNAMES", "http").split(":") if os.environ.get("LISTEN_FDS") else []
    sockets = [socket.socket(fileno=3 + i) for i in range(len(names))] or [socket.create_server(("127.0.0.1", int(os.environ["PORT"])), backlog=4096)]
    for s in sockets:
        s.setblocking(False)
    def on_stop():
        if STOPPED:
            with open(STOPPED, "a") as f:
                f.write(f"{time.monotonic_ns()}\n")
        stopping.set()
    loop.add_signal_handler(signal.SIGTERM, on_stop)
    if FATE == "hangs":
        await stopping.wait()
        return
    servers = [await loop.create_server(Probe if name == "probe" else Conn, sock=s, backlog=4096) for name, s in zip(names or ["http"], sockets)]
    tell(b"READY=1")
    await stopping.wait()
    tell(b"STOPPING=1")
    # What the loop has accepted becomes a Conn only in its next turn, so accepting ends before the servers are closed. Whether this is
    # what resets a few requests by hand is not known: they came with it as well.
    for s in sockets:
        loop.remove_reader(s)
    await asyncio.sleep(0.01)
    for server in servers:
        server.close()
    end = time.monotonic() + 5
    while conns and time.monotonic() < end:
        for conn in [c for c in conns if c.served and not c.buffer]:
            conn.transport.close()      # idle: its client may send again elsewhere
        await asyncio.sleep(0.005)


if FATE == "exits":
    sys.exit("no good")
asyncio.run(main())
