"""A small backend for the demo: says its name and what it saw; every second request to /flaky fails."""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Backend(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    name = sys.argv[2]
    flaky = 0

    def do_GET(self):
        status = 200
        if self.path.startswith("/flaky"):
            Backend.flaky += 1
            status = 500 if Backend.flaky % 2 else 200
        body = f"{self.name} saw {self.path}\n".encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Backend).serve_forever()
