"""A small service for the demo: PORT NAME [NEXT]. It says its name and what the next one says; /flaky fails every second time."""

import sys
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT, NAME, NEXT = int(sys.argv[1]), sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else ""


class Service(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    flaky = 0

    def do_GET(self):
        status, text = 200, NAME
        if self.path.startswith("/flaky"):
            Service.flaky += 1
            status = 500 if Service.flaky % 2 else 200
        elif NEXT:
            try:
                with urllib.request.urlopen(f"http://{NEXT}{self.path}", timeout=5) as answer:
                    text += " <- " + answer.read().decode().strip()
            except (urllib.error.URLError, OSError) as error:
                text += f" <- ({error})"
        body = (text + "\n").encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", PORT), Service).serve_forever()
