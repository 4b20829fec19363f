"""The page of the demo: PORT CONTROL_API NAME=ADMIN...: who is connected, what is in force, what happens now."""

import html
import json
import re
import sys
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT, API = int(sys.argv[1]), sys.argv[2]
SIDECARS = dict(pair.split("=") for pair in sys.argv[3:])
SERIES = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
STYLE = """body{font:15px system-ui;margin:2em auto;max-width:70em;color:#222}table{border-collapse:collapse;margin:.5em 0 1.5em}
td,th{border-bottom:1px solid #ddd;padding:.3em .8em;text-align:left}td.n{text-align:right;font-variant-numeric:tabular-nums}
.bar{background:#2a7;height:.8em;display:inline-block}.no{color:#b22}small{color:#777}"""


def get(url):
    with urllib.request.urlopen(url, timeout=2) as answer:
        return answer.read().decode()


def metrics(admin):
    """(name, labels, value) of each series."""
    for line in get(f"http://{admin}/metrics").splitlines():
        if found := SERIES.match(line):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', found[2] or ""))
            yield found[1], labels, float(found[3])


def table(head, rows):
    cells = lambda row: "".join(
        f"<td class=n>{cell:,.0f}</td>" if isinstance(cell, float) else f"<td>{cell}</td>" for cell in row
    )
    return (
        "<table><tr>" + "".join(f"<th>{name}</th>" for name in head) + "</tr>"
        + "".join(f"<tr>{cells(row)}</tr>" for row in rows) + "</table>"
    )


def page():
    text = html.escape
    proxies = json.loads(get(f"http://{API}/api/v1/proxies"))
    objects = json.loads(get(f"http://{API}/api/v1/status"))
    requests, memory, refused, handshakes = {}, {}, [], []
    for name, admin in SIDECARS.items():
        for series, labels, value in metrics(admin):
            if series == "outrider_requests_total":
                key = (name, labels["direction"], labels["destination_service"] or "-", labels["response_code"])
                requests[key] = requests.get(key, 0.0) + value
            elif series == "process_resident_memory_bytes":
                memory[name] = value / 1e6
            elif series == "outrider_authz_denied_total" and labels["mode"] == "enforce":
                refused.append((name, text(labels["policy"]) or "no policy allows it", value))
            elif series == "outrider_tls_handshakes_total":
                handshakes.append((name, labels["side"], labels["outcome"], value))
    most = max(requests.values(), default=1.0)
    rows = [
        (*map(text, key), value, f"<span class=bar style='width:{max(1, 300 * value / most):.0f}px'></span>")
        for key, value in sorted(requests.items())
    ]
    return "".join([
        f"<!doctype html><meta charset=utf-8><meta http-equiv=refresh content=2><title>Outrider demo</title><style>{STYLE}</style>",
        "<h1>What happens in the mesh</h1><h2>Sidecars</h2>",
        table(
            ["workload", "identity", "MB resident"],
            [
                (text(p["id"]), text(p.get("identity") or "-"), memory.get(p["id"], 0.0))
                for p in sorted(proxies["proxies"], key=lambda p: p["id"])
            ],
        ),
        "<h2>Requests</h2>", table(["sidecar", "direction", "to", "status", "count", ""], rows),
        "<h2>Refused by policy</h2>", table(["sidecar", "policy", "count"], refused),
        "<h2>TLS handshakes</h2>", table(["sidecar", "side", "outcome", "count"], handshakes),
        "<h2>Objects</h2>",
        table(
            ["object", "conditions"],
            [
                (
                    text(o["key"]),
                    "<br>".join(
                        f"<span class={'ok' if c['status'] == 'True' else 'no'}>{text(c['type'])}: {text(c['status'])}</span> "
                        f"<small>{text(c.get('message') or '')}</small>"
                        for c in o["conditions"]
                    ),
                )
                for o in objects["objects"]
            ],
        ),
    ])


class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            status, body = 200, page()
        except (OSError, KeyError, ValueError) as error:
            status, body = 503, f"<meta http-equiv=refresh content=2>The mesh does not answer yet: {html.escape(repr(error))}"
        self.send_response(status)
        self.send_header("content-type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", PORT), Page).serve_forever()
