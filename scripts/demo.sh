#!/usr/bin/env bash
# Builds the proxy, starts two small backends and the proxy before them, and shows requests and metrics. Ctrl-C
# ends it; so does DEMO_ONCE=1 after the show.
set -eu
cd "$(dirname "$0")/.."
for tool in cargo curl python3; do
  command -v "$tool" >/dev/null 2>&1 && continue
  if [ "$tool" != cargo ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$tool"; } >/dev/null 2>&1
  else
    echo "demo: $tool is needed and missing"; exit 1
  fi
done

echo "== building the proxy"
cargo build --quiet --locked --profile fast -p outrider-proxy
proxy="${CARGO_TARGET_DIR:-target}/fast/outrider-proxy"

pids=()
finish() {
  trap - INT TERM EXIT
  echo; echo "== ending"
  for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
}
trap 'finish; exit 0' INT TERM
trap finish EXIT

python3 scripts/demo_backend.py 10001 stable & pids+=($!)
python3 scripts/demo_backend.py 10002 canary & pids+=($!)
OUTRIDER_LOG=warn "$proxy" --config scripts/demo.yaml & pids+=($!)
for url in 127.0.0.1:10001/ 127.0.0.1:10002/ 127.0.0.1:15000/ready; do
  for _ in $(seq 100); do curl -sf -o /dev/null "http://$url" && break; sleep 0.1; done
done

show() { echo; echo "\$ curl $*"; curl -s "$@"; }
web=http://127.0.0.1:10000
echo; echo "== a request, and one over HTTP/2"
show "$web/hello"
show --http2-prior-knowledge "$web/hello"
echo; echo "== 100 requests to a route that gives 20 % to a canary"
for _ in $(seq 100); do curl -s "$web/split"; done | sort | uniq -c
echo; echo "== every second answer of /flaky is a 500, and retries hide it"
for _ in $(seq 20); do curl -s -o /dev/null -w '%{http_code}\n' "$web/flaky"; done | sort | uniq -c
echo; echo "== a rewrite, a redirect, and a path that two servers would read differently"
show "$web/old/page"
show -o /dev/null -w '%{http_code} to %{redirect_url}\n' "$web/moved"
show -w '%{http_code}\n' --path-as-is "$web/x/..%2fadmin"
echo; echo "== metrics (http://127.0.0.1:15000/ has the rest)"
curl -s http://127.0.0.1:15000/metrics | grep -E '^outrider_(requests|retries|local_replies)_total|^process_resident'
[ -z "${DEMO_ONCE:-}" ] || exit 0
echo; echo "== running on $web; Ctrl-C ends it"
wait
