#!/usr/bin/env bash
# Prints where Helm is, for `make test-kube`: HELM if it is set, else that of the system, else it is built with Go, once. What
# cannot be had is said, and the exit code is 1.
set -u
cd "$(dirname "$0")/.." || exit 1

version=v3.22.0
bin="$(realpath -m "${CARGO_TARGET_DIR:-target}")/helm/bin"

if [ -n "${HELM:-}" ]; then
  [ -x "$HELM" ] || { echo "helm: there is no $HELM" >&2; exit 1; }
  echo "$HELM"
elif command -v helm; then
  :
else
  if [ ! -x "$bin/helm" ]; then
    command -v go >/dev/null || { echo "helm: there is none, and no Go to build it; set HELM" >&2; exit 1; }
    echo "helm: building Helm $version with Go; that takes a while, once" >&2
    GOBIN="$bin" go install -trimpath "helm.sh/helm/v3/cmd/helm@$version" >&2 \
      || { echo "helm: Helm $version cannot be built; set HELM" >&2; exit 1; }
  fi
  echo "$bin/helm"
fi
