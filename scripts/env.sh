# Where tests and benchmarks find their peers. To be sourced from the top of the checkout.
top=$(pwd)
export OUTRIDER_PROXY_BIN="${OUTRIDER_PROXY_BIN:-${CARGO_TARGET_DIR:-$top/target}/fast/outrider-proxy}"
if [ -z "${OUTRIDER_TEST_ENVOY:-}" ]; then
  found=$(find "$top/.venv" -path '*envoy/_bin/envoy' -type f 2>/dev/null | head -n 1)
  [ -z "$found" ] || export OUTRIDER_TEST_ENVOY="$found"
fi
export OUTRIDER_CONTROL_BIN="${OUTRIDER_CONTROL_BIN:-${CARGO_TARGET_DIR:-$top/target}/fast/outrider-control}"
if [ -z "${OUTRIDER_TEST_GRPC:-}" ] && "$top/.venv/bin/python" -c 'import grpc' 2>/dev/null; then
  export OUTRIDER_TEST_GRPC="$top/.venv/bin/python"
fi
