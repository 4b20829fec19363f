#!/usr/bin/env bash
# Builds the images of deploy/Dockerfile as they stand, without a registry, for `make test-image`, and prints where they are
# kept. What cannot be had without one is put in its place: the base images are put together out of Debian packages (that is
# what they are made of), and the stage that compiles is the binaries of this checkout. As root on Debian, with buildah. What
# cannot be had is said, and the exit code is 1.
set -u
cd "$(dirname "$0")/.." || exit 1

give_up() { echo "test-image: $1" >&2; exit 1; }

target="$(realpath -m "${CARGO_TARGET_DIR:-target}")"
work="$target/image"
built="$target/fast"
[ "$(id -u)" = 0 ] || give_up "only root can build and run images here"
need=""
for pair in buildah:buildah podman:podman runc:runc debootstrap:debootstrap jq:jq; do
  command -v "${pair%%:*}" >/dev/null 2>&1 || [ -x "/usr/sbin/${pair%%:*}" ] || need="$need ${pair##*:}"
done
if [ -n "$need" ]; then
  command -v apt-get >/dev/null || give_up "missing$need, and no apt-get"
  echo "test-image: installing$need" >&2
  export DEBIAN_FRONTEND=noninteractive
  # shellcheck disable=SC2086
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends $need; } >/dev/null 2>&1 || give_up "could not install$need"
fi
mkdir -p "$work" || exit 1
store=(--root "$work/root" --runroot "$work/run" --storage-driver vfs)

# Name, Dockerfile's last line, and the folder that is the image.
base() {
  tar -C "$3" -cf "$work/$1.tar" . || return 1
  printf 'FROM scratch\nADD %s.tar /\n%s\n' "$1" "$2" >"$work/$1.dockerfile"
  buildah "${store[@]}" bud -q --isolation chroot -f "$work/$1.dockerfile" -t "$1" "$work" >/dev/null
}

if ! buildah "${store[@]}" images -q localhost/slim 2>/dev/null | grep -q .; then
  echo "test-image: putting debian:bookworm-slim together, once" >&2
  rm -rf "$work/slim"
  { debootstrap --variant=minbase bookworm "$work/slim" >/dev/null && base slim '' "$work/slim"; } >&2 \
    || give_up "debian:bookworm-slim cannot be put together"
fi
if ! buildah "${store[@]}" images -q localhost/cc 2>/dev/null | grep -q .; then
  # https://github.com/GoogleContainerTools/distroless: the packages of cc-debian12, without what installs packages.
  echo "test-image: putting gcr.io/distroless/cc-debian12 together, once" >&2
  rm -rf "$work/deb" "$work/cc" && mkdir -p "$work/deb" "$work/cc" || exit 1
  (
    cd "$work/deb" || exit 1
    apt-get download -qq base-files netbase tzdata ca-certificates libc6 libssl3 libgcc-s1 libgomp1 libstdc++6 gcc-12-base || exit 1
    for package in *.deb; do dpkg-deb -x "$package" "$work/cc" || exit 1; done
  ) >&2 || give_up "the packages of gcr.io/distroless/cc-debian12 cannot be had"
  printf 'root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n' >"$work/cc/etc/passwd"
  printf 'root:x:0:\nnonroot:x:65532:\n' >"$work/cc/etc/group"
  base cc 'USER 65532' "$work/cc" >&2 || give_up "gcr.io/distroless/cc-debian12 cannot be put together"
fi

# What the stage that compiles leaves.
rm -rf "$work/build" && mkdir -p "$work/build/out" "$work/build/licences" || exit 1
cp "$built/outrider-proxy" "$built/outrider-control" "$built/outrider" "$work/build/out/" || give_up "the binaries are not built"
cp LICENSE "$work/build/licences/"
cargo metadata --locked --format-version 1 --filter-platform "$(rustc -vV | sed -n 's/^host: //p')" >"$work/metadata.json" \
  || give_up "cargo metadata fails"
for root in outrider-proxy outrider-control; do
  jq --arg root "$root" -f deploy/sbom.jq "$work/metadata.json" >"$work/build/licences/$root.cdx.json" || give_up "deploy/sbom.jq fails"
done

for image in proxy control; do
  buildah "${store[@]}" bud -q --isolation chroot -f deploy/Dockerfile --target "$image" -t "outrider-$image:test" \
    --build-context "build=$work/build" \
    --build-context debian:bookworm-slim=container-image://localhost/slim \
    --build-context gcr.io/distroless/cc-debian12:nonroot=container-image://localhost/cc \
    "$work/build" >"$work/$image.log" 2>&1 || { tail -n 20 "$work/$image.log" >&2; give_up "outrider-$image cannot be built"; }
done
echo "$work"
