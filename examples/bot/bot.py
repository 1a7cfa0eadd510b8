"""The trading bot, in paper mode: it asks the backend for a price and writes down what it would do. Health on PORT_BOT."""

import json
import logging
import os
import re
import signal
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

logging.basicConfig(
    level=os.environ.get("LOG_LEVEL", "INFO").upper(),
    format="%(levelname)s %(message)s",
    stream=sys.stdout,
)
log = logging.getLogger("bot")

MODE = os.environ.get("TRADING_MODE", "paper")
UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
PARTS = re.findall(r"([\d.]+)(ms|s|m|h)", os.environ.get("HEALTH_CHECK_INTERVAL", "10s"))
INTERVAL = sum(float(number) * UNITS[unit] for number, unit in PARTS)
BACKEND = f"http://127.0.0.1:{os.environ.get('PORT_BACKEND', '8000')}"
stop = threading.Event()
seen = {"prices": 0, "errors": 0}


class Health(BaseHTTPRequestHandler):
    def do_GET(self):
        data = json.dumps({"status": "ok", "mode": MODE, **seen}).encode()
        self.send_response(200 if self.path == "/health" else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, form, *args):
        log.debug(form, *args)


def trade():
    try:
        with urllib.request.urlopen(f"{BACKEND}/price", timeout=2) as answer:
            price = json.load(answer)["price"]
        seen["prices"] += 1
        log.info("%s: would %s at %s", MODE, "buy" if price < 102.5 else "sell", price)
    except OSError as error:
        seen["errors"] += 1
        log.warning("no price: %s", error)


if MODE != "paper":
    sys.exit("this demo only trades on paper")
port = int(os.environ.get("PORT_BOT", "9000"))
server = ThreadingHTTPServer(("127.0.0.1", port), Health)
threading.Thread(target=server.serve_forever, daemon=True).start()
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: stop.set())
log.info("bot in %s mode, every %s s, health on %s", MODE, INTERVAL, port)
while not stop.is_set():
    trade()
    stop.wait(INTERVAL)
log.info("bot stopped")
