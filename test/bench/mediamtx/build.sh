#!/usr/bin/env bash
# Builds the pinned MediaMTX, which `make bench ARGS='-peer mediamtx'` compares with,
# from the Go module proxy. It is no part of this module: its dependencies would
# move ours.
#
#   build.sh FILE    FILE is left alone if it is there
set -euo pipefail

version=v1.21.0
sum=h1:0Js3+vV0yyaFszram8LvHeRRr5PLGoF5SoCxpXzo31E=

out=$(realpath -m "$1")
[ ! -x "$out" ] || exit 0
echo "building MediaMTX $version; this takes some minutes, once" >&2
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
cd "$work"
go mod init build 2>/dev/null
json=$(go mod download -json github.com/bluenviron/mediamtx@$version)
field() { sed -n "s/^[[:space:]]*\"$1\": \"\(.*\)\",\{0,1\}$/\1/p" <<<"$json"; }
if [ "$(field Sum)" != "$sum" ]; then
	echo "MediaMTX $version is not what it was: $(field Sum), want $sum" >&2
	exit 1
fi
cp -r "$(field Dir)" source
chmod -R u+w source
cd source
# Two files that its own build makes and embeds; the pages of its HLS server are
# not needed.
echo $version >internal/core/VERSION
echo '//none' >internal/servers/hls/hls.min.js
mkdir -p "$(dirname "$out")"
CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$out" .
