#!/usr/bin/env bash
# The main job on one machine: a control server, small services with a sidecar each, mutual TLS between them, policies, a
# canary, and a page of what happens. Ctrl-C ends it; so does DEMO_ONCE=1 after the show.
set -eu
cd "$(dirname "$0")/.."
for tool in cargo curl python3 openssl; do
  command -v "$tool" >/dev/null 2>&1 && continue
  if [ "$tool" != cargo ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$tool"; } >/dev/null 2>&1
  else
    echo "demo: $tool is needed and missing"; exit 1
  fi
done

echo "== building the proxy and the control server"
cargo build --quiet --locked --profile fast -p outrider-proxy -p outrider-control
bin="${CARGO_TARGET_DIR:-target}/fast"
work=$(mktemp -d)
mkdir "$work/mesh"
cp scripts/demo/mesh.yaml "$work/mesh/"

pids=()
finish() {
  trap - INT TERM EXIT
  echo; echo "== ending"
  for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$work"
}
trap 'finish; exit 0' INT TERM
trap finish EXIT

api=127.0.0.1:20080 domain=(--state-dir "$work/state" --trust-domain demo.test)
until_answers() {
  for _ in $(seq 200); do curl -sf -o /dev/null --max-time 5 "$1" && return; sleep 0.1; done
  echo "demo: $1 does not answer; logs:"; tail -n 5 "$work"/*.log; exit 1
}

"$bin/outrider-control" --config-dir "$work/mesh" "${domain[@]}" --address 127.0.0.1:20010 --api-address $api \
  >"$work/control.log" 2>&1 & pids+=($!)
until_answers "http://$api/readyz"

# NAME ACCOUNT ADMIN: the sidecar of a workload, with a token that says who it is.
sidecar() {
  "$bin/outrider-control" token "${domain[@]}" --namespace shop --service-account "$2" >"$work/$1.token"
  sed -e "s|@NAME@|$1|g; s|@ADMIN@|$3|; s|@WORK@|$work|g" scripts/demo/sidecar.yaml >"$work/$1.yaml"
  OUTRIDER_WORKERS=1 "$bin/outrider-proxy" --config "$work/$1.yaml" >"$work/$1.log" 2>&1 & pids+=($!)
}
sidecar front-1 front 20090
sidecar reviews-1 reviews 20091
sidecar reviews-2 reviews 20092
sidecar ratings-1 ratings 20093
python3 scripts/demo/service.py 20111 reviews-v1 127.0.0.1:20021 & pids+=($!)
python3 scripts/demo/service.py 20112 reviews-v2 127.0.0.1:20022 & pids+=($!)
python3 scripts/demo/service.py 20113 ratings & pids+=($!)
python3 scripts/demo/page.py 20000 $api front-1=127.0.0.1:20090 reviews-1=127.0.0.1:20091 reviews-2=127.0.0.1:20092 \
  ratings-1=127.0.0.1:20093 & pids+=($!)
for port in 20090 20091 20092 20093; do until_answers http://127.0.0.1:$port/ready; done
until_answers http://127.0.0.1:20001/
until_answers http://127.0.0.1:20000/
# All of the way: reviews answers before ratings does.
for _ in $(seq 100); do [[ $(curl -s http://127.0.0.1:20001/) == *'<- ratings' ]] && break; sleep 0.1; done

show() { echo; echo "\$ curl $*"; curl -s "$@"; }
split() { for _ in $(seq 200); do curl -s http://127.0.0.1:20001/; done | sed 's/ .*//' | sort | uniq -c; }
echo; echo "== front asks reviews, and reviews asks ratings; each leg between two sidecars is mutual TLS"
show http://127.0.0.1:20001/
echo; echo "== what others see of reviews: a SPIFFE ID, and nothing without a certificate"
openssl s_client -connect 127.0.0.1:20011 </dev/null 2>/dev/null | openssl x509 -noout -ext subjectAltName | tail -1
curl -sk -o /dev/null https://127.0.0.1:20011/ || echo "curl without a certificate: refused (exit code $?)"
echo; echo "== front may GET from reviews and nothing else; ratings is for reviews alone"
show -X POST -o /dev/null -w '%{http_code} %header{outrider-error}\n' http://127.0.0.1:20001/
show -o /dev/null -w '%{http_code} %header{outrider-error}\n' http://127.0.0.1:20002/
echo; echo "== 200 requests: the canary gets 10 %"
split
echo; echo "== the route is edited to give it half"
sed -i 's/weight: 90/weight: 50/; s/weight: 10}/weight: 50}/' "$work/mesh/mesh.yaml"
before=$(curl -s http://$api/api/v1/proxies/front-1 | grep -o '"config_hash":"[^"]*"')
for _ in $(seq 100); do
  # Told of something new, and everything acknowledged.
  now=$(curl -s http://$api/api/v1/proxies/front-1)
  [[ $now == *"$before"* || $now != *'"settled":true'* ]] || break
  sleep 0.1
done
split
echo; echo "== every second answer of /flaky is a 500, and retries hide it"
for _ in $(seq 20); do curl -s -o /dev/null -w '%{http_code}\n' http://127.0.0.1:20001/flaky; done | sort | uniq -c
echo; echo "== what the control server says of the route"
curl -s http://$api/api/v1/status/HTTPRoute/shop/reviews; echo
[ -z "${DEMO_ONCE:-}" ] || exit 0
echo; echo "== running; the page of what happens is http://127.0.0.1:20000/ and Ctrl-C ends it"
# Somebody uses the shop, so that there is something to see.
while sleep 0.2; do curl -s -o /dev/null --max-time 5 http://127.0.0.1:20001/ || true; done
