#!/usr/bin/env bash
# Prints the folder of a real kube-apiserver and etcd, for `make test-kube`: KUBEBUILDER_ASSETS if it is set, else what was
# built before, else it builds the API server with Go and takes etcd from the system or from Debian. What cannot be had is
# said, and the exit code is 1.
set -u
cd "$(dirname "$0")/.." || exit 1

# The staging modules k8s.io/api and so on have the same number with a 0 in front.
minor=36.3
assets="$(realpath -m "${CARGO_TARGET_DIR:-target}")/kube/bin"

give_up() { echo "test-kube: $1; set KUBEBUILDER_ASSETS to a folder with kube-apiserver and etcd" >&2; exit 1; }

if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
  for name in kube-apiserver etcd; do
    [ -x "$KUBEBUILDER_ASSETS/$name" ] || give_up "there is no $name in $KUBEBUILDER_ASSETS"
  done
  echo "$KUBEBUILDER_ASSETS"
  exit 0
fi
mkdir -p "$assets" || exit 1

if [ ! -x "$assets/etcd" ]; then
  found=$(command -v etcd)
  if [ -n "$found" ]; then
    ln -sf "$found" "$assets/etcd"
  elif command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then
    echo "test-kube: taking etcd from the Debian package etcd-server" >&2
    work=$(mktemp -d)
    (cd "$work" && apt-get download -qq etcd-server >/dev/null 2>&1 && dpkg-deb -x etcd-server_*.deb . && cp usr/bin/etcd "$assets/etcd")
    rm -rf "$work"
  fi
  [ -x "$assets/etcd" ] || give_up "there is no etcd, and it cannot be installed"
fi

if [ ! -x "$assets/kube-apiserver" ]; then
  command -v go >/dev/null || give_up "there is no kube-apiserver, and no Go to build it"
  echo "test-kube: building kube-apiserver v1.$minor with Go; that takes a while, once" >&2
  work="$(dirname "$assets")/src"
  mkdir -p "$work"
  mod=$(go mod download -json "k8s.io/kubernetes@v1.$minor" | sed -n 's/.*"GoMod": "\(.*\)".*/\1/p')
  [ -n "$mod" ] || give_up "the Go module k8s.io/kubernetes v1.$minor cannot be had"
  {
    echo "module assets"
    grep '^go ' "$mod"
    echo "require k8s.io/kubernetes v1.$minor"
    # Its own replacements point into its repository; outside of it the published modules stand in their place.
    grep '=> ./staging' "$mod" | sed 's/^replace//' | awk -v v="v0.$minor" '{ print "replace " $1 " => " $1 " " v }'
  } >"$work/go.mod"
  printf '//go:build tools\n\npackage assets\n\nimport _ "k8s.io/kubernetes/cmd/kube-apiserver"\n' >"$work/tools.go"
  version=k8s.io/component-base/version
  (
    cd "$work" && export GOFLAGS=-mod=mod CGO_ENABLED=0
    go mod tidy -e >/dev/null 2>&1
    go build -trimpath -o "$assets/kube-apiserver" -ldflags \
      "-s -w -X $version.gitVersion=v1.$minor -X $version.gitMajor=1 -X $version.gitMinor=${minor%%.*}" \
      k8s.io/kubernetes/cmd/kube-apiserver >&2
  ) || give_up "kube-apiserver v1.$minor cannot be built"
fi
echo "$assets"
