"""The backend: a small JSON API on PORT_BACKEND. Only the standard library."""

import json
import logging
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

logging.basicConfig(
    level=os.environ.get("LOG_LEVEL", "INFO").upper(),
    format="%(levelname)s %(message)s",
    stream=sys.stdout,
)
log = logging.getLogger("backend")
started = time.monotonic()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/health":
            return self.answer(200, {"status": "ok", "uptime": round(time.monotonic() - started, 1)})
        if self.path == "/price":
            # A price that moves, without a market behind it.
            return self.answer(200, {"symbol": "DEMO", "price": round(100 + 5 * ((time.time() / 30) % 1), 2)})
        return self.answer(404, {"error": "not found"})

    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, form, *args):
        log.debug(form, *args)


port = int(os.environ.get("PORT_BACKEND", "8000"))
server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
# shutdown() waits for serve_forever(), which runs in this very thread.
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
log.info("backend listens on %s, log level %s", port, logging.getLevelName(log.getEffectiveLevel()))
server.serve_forever()
log.info("backend stopped")
