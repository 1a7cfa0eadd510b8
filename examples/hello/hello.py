"""A server that can be replaced under load: it takes the socket that unisys holds, says when it is ready, and ends well."""
import http.server
import os
import signal
import socket
import threading


class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = os.environ["GREETING"].encode() + b"\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("", 0), Hello, bind_and_activate=False)
server.socket.close()
server.socket = socket.socket(fileno=3)     # LISTEN_FDS: the first socket handed over is descriptor 3
server.socket.setblocking(False)            # the next version may accept first: then this one must not wait in accept()
server.daemon_threads = False               # server_close() waits until everything accepted is answered

signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1))    # `@`: an abstract address
server.serve_forever(poll_interval=0.05)
server.server_close()
