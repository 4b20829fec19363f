#!/usr/bin/env bash
# Prints the folder of the example pods that Kubernetes publishes for the Pod Security Standards, good and bad, from a Go
# module. What cannot be had is said, and the exit code is 1.
set -u
module=k8s.io/pod-security-admission@v0.36.3
command -v go >/dev/null || { echo "pod-security: there is no Go to fetch $module with" >&2; exit 1; }
# Outside of any module, so that nothing of this checkout changes.
folder=$(cd / && go mod download -json "$module" 2>/dev/null | sed -n 's/^\t"Dir": "\(.*\)".*/\1/p')
[ -d "$folder/test/testdata" ] || { echo "pod-security: $module cannot be had" >&2; exit 1; }
echo "$folder/test/testdata"
