#!/usr/bin/env python3
"""CPU microseconds per request of the proxy process, beside Envoy, HAProxy and nginx in one interleaved run.

Each proxy runs with one worker on one core, wrk and the nginx backend on another; what is printed is user and system
time of the proxy process from /proc, divided by the requests that wrk counted: the figure that holds on a noisy
machine. Medians over the rounds, and the ratio to ours.
"""

import argparse
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
TICK = os.sysconf("SC_CLK_TCK")


def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def envoy_config(listen, backend, admin):
    hcm = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    return f"""
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}
static_resources:
  listeners:
  - name: l
    address: {{socket_address: {{address: 127.0.0.1, port_value: {listen}}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/{hcm}
          stat_prefix: i
          codec_type: AUTO
          generate_request_id: false
          route_config: {{name: r, virtual_hosts: [{{name: v, domains: ["*"], routes: [{{match: {{prefix: "/"}}, route: {{cluster: c, timeout: 15s}}}}]}}]}}
          http_filters: [{{name: router, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]
  clusters:
  - name: c
    type: STATIC
    connect_timeout: 5s
    circuit_breakers: {{thresholds: [{{max_connections: 10000, max_pending_requests: 10000, max_requests: 10000}}]}}
    load_assignment: {{cluster_name: c, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {backend}}}}}}}}}]}}]}}
"""


def haproxy_config(listen, backend):
    return f"""
global
  nbthread 1
  maxconn 9000
defaults
  mode http
  timeout connect 5s
  timeout client 300s
  timeout server 300s
  http-reuse always
frontend f
  bind 127.0.0.1:{listen}
  default_backend b
backend b
  server s1 127.0.0.1:{backend} pool-max-conn 2000
"""


def nginx_config(scratch, server, extra=""):
    return f"""
worker_processes 1; daemon off; pid {scratch}/{server[0]}.pid; error_log {scratch}/{server[0]}.err;
events {{ worker_connections 20000; }}
http {{ access_log off; keepalive_requests 100000000; keepalive_timeout 3600; client_body_temp_path {scratch}/b;
 proxy_temp_path {scratch}/p; {extra} server {{ listen 127.0.0.1:{server[1]} backlog=4096; {server[2]} }} }}
"""


def wait_for(number):
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", number)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f"bench: nobody listens on {number}")


def family(pid):
    children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()
    return [pid, *(int(child) for child in children)]


def cpu_seconds(pid):
    total = 0
    for one in family(pid):
        fields = Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICK


def rss_mb(pid):
    total = 0
    for one in family(pid):
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{one}/status").read_text())
        total += int(found.group(1)) if found else 0
    return total / 1024


def start(command, core, **env):
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(["taskset", "-c", str(core), *map(str, command)], env={**os.environ, **env}, **quiet)


def subjects(scratch, backend):
    found = {}

    def add(name, binary, command, listen, **env):
        if not binary or not Path(binary).exists():
            print(f"bench: {name} is missing and left out")
            return
        found[name] = (start([binary, *command], 0, **env), listen)

    listen = port()
    (scratch / "outrider.yaml").write_text(envoy_config(listen, backend, port()))
    ours = Path(os.environ.get("CARGO_TARGET_DIR", TOP / "target")) / "release/outrider-proxy"
    add("outrider", ours, ["--config", scratch / "outrider.yaml"], listen, OUTRIDER_WORKERS="1", OUTRIDER_LOG="error")
    listen = port()
    (scratch / "haproxy.cfg").write_text(haproxy_config(listen, backend))
    add("haproxy", shutil.which("haproxy"), ["-db", "-f", scratch / "haproxy.cfg"], listen)
    listen = port()
    upstream = f"upstream be {{ server 127.0.0.1:{backend}; keepalive 2000; keepalive_requests 100000000; }}"
    location = 'location / { proxy_pass http://be; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffers 16 32k; proxy_max_temp_file_size 0; }'
    (scratch / "nginx.conf").write_text(nginx_config(scratch, ("px", listen, location), upstream))
    add("nginx", shutil.which("nginx"), ["-c", scratch / "nginx.conf"], listen)
    listen = port()
    (scratch / "envoy.yaml").write_text(envoy_config(listen, backend, port()))
    envoy = os.environ.get("OUTRIDER_TEST_ENVOY")
    add("envoy", envoy, ["-c", scratch / "envoy.yaml", "--concurrency", "1", "-l", "error", "--use-dynamic-base-id"], listen)
    return found


def measure(process, listen, path, connections, seconds):
    before = cpu_seconds(process.pid)
    command = ["taskset", "-c", "1", "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"]
    out = subprocess.run([*command, f"http://127.0.0.1:{listen}{path}"], capture_output=True, text=True).stdout
    spent = cpu_seconds(process.pid) - before
    requests = int(re.search(r"(\d+) requests in", out).group(1))
    errors = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", out)
    scale = {"us": 0.001, "ms": 1, "s": 1000}
    return {
        "us": spent / max(requests, 1) * 1e6,
        "rps": requests / seconds,
        "p99_ms": float(p99.group(1)) * scale[p99.group(2)] if p99 else 0.0,
        "errors": int(errors.group(1)) if errors else 0,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5)
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 2, 2
    for tool in ("wrk", "nginx", "taskset"):
        if not shutil.which(tool):
            raise SystemExit(f"bench: {tool} is needed; `make tools` installs it as root")
    scratch = Path(tempfile.mkdtemp(prefix="outrider-bench-"))
    scratch.chmod(0o755)
    (scratch / "www").mkdir(mode=0o755)
    for name, size in (("1k", 1024), ("64k", 65536), ("1m", 1 << 20)):
        (scratch / "www" / name).write_bytes(b"x" * size)
    backend = port()
    body = f'sendfile on; location = / {{ return 200 "hello world!"; }} location / {{ root {scratch}/www; }}'
    (scratch / "be.conf").write_text(nginx_config(scratch, ("be", backend, body)))
    processes = [start([shutil.which("nginx"), "-c", scratch / "be.conf"], 1)]
    try:
        wait_for(backend)
        proxies = subjects(scratch, backend)
        processes += [process for process, _ in proxies.values()]
        for _, listen in proxies.values():
            wait_for(listen)
        time.sleep(1)
        print("idle RSS MB: " + ", ".join(f"{name} {rss_mb(process.pid):.1f}" for name, (process, _) in proxies.items()))
        rows = [("12 B, 64 conns", "/", 64), ("12 B, 1 conn", "/", 1), ("12 B, 512 conns", "/", 512)]
        rows += [("1 KiB, 64 conns", "/1k", 64), ("64 KiB, 64 conns", "/64k", 64), ("1 MiB, 64 conns", "/1m", 64)]
        print("\n| CPU us per request (p99 ms) | " + " | ".join(proxies) + " | ours / HAProxy |")
        print("|---" * (len(proxies) + 2) + "|")
        for title, path, connections in rows:
            samples = {name: [] for name in proxies}
            for _ in range(options.rounds):
                for name, (process, listen) in proxies.items():
                    samples[name].append(measure(process, listen, path, connections, options.seconds))
            medians = {name: statistics.median(one["us"] for one in found) for name, found in samples.items()}
            cells = []
            for name, found in samples.items():
                spread = max(one["us"] for one in found) - min(one["us"] for one in found)
                p99 = statistics.median(one["p99_ms"] for one in found)
                errors = sum(one["errors"] for one in found)
                cells.append(f"{medians[name]:.1f} ±{spread / 2:.1f} ({p99:.1f})" + (f" {errors} ERRORS" if errors else ""))
            ratio = f"{medians['outrider'] / medians['haproxy']:.2f}" if {"outrider", "haproxy"} <= set(medians) else "-"
            print(f"| {title} | " + " | ".join(cells) + f" | {ratio} |", flush=True)
        print("\nRSS MB after: " + ", ".join(f"{name} {rss_mb(process.pid):.1f}" for name, (process, _) in proxies.items()))
    finally:
        for process in processes:
            for one in family(process.pid):
                try:
                    os.kill(one, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
