#!/usr/bin/env bash
# Builds MediaMTX, a modern RTMP, RTSP, SRT and WebRTC server, from the Go module
# proxy into bin/tools: the pinned peer of tests and benchmarks. It has a module of
# its own, so that nothing of it gets into ours. Does nothing where it is built.
set -euo pipefail
cd "$(dirname "$0")/../.."

version=v1.21.0
sum=h1:0Js3+vV0yyaFszram8LvHeRRr5PLGoF5SoCxpXzo31E=
out=$PWD/bin/tools/mediamtx-$version
[ -x "$out" ] && exit 0

go=${GO:-go}
work=$(mktemp -d)
trap 'chmod -R u+w "$work" && rm -rf "$work"' EXIT
info=$(cd "$work" && GOFLAGS=-mod=mod $go mod download -json github.com/bluenviron/mediamtx@$version)
field() { sed -n "s/^[[:space:]]*\"$1\": \"\(.*\)\",\{0,1\}\$/\1/p" <<<"$info"; }
if [ "$(field Sum)" != "$sum" ]; then
	echo "peers: mediamtx $version has the checksum $(field Sum), want $sum" >&2
	exit 1
fi
cp -r "$(field Dir)" "$work/src"
chmod -R u+w "$work/src"
echo "$version" >"$work/src/internal/core/VERSION"            # go generate makes these two upstream;
echo '//none' >"$work/src/internal/servers/hls/hls.min.js"    # the page of HLS is not needed
mkdir -p "${out%/*}"
(cd "$work/src" && CGO_ENABLED=0 $go build -trimpath -ldflags '-s -w' -o "$out.tmp" .)
mv "$out.tmp" "$out"
echo "peers: built mediamtx $version"
