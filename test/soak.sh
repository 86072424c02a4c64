#!/usr/bin/env bash
# Hours of sound at the speed of the machine; then repeats the end-to-end tests, in
# random order, until SOAK is over (30m by default; whole minutes or hours). Ends at
# the first failure.
set -euo pipefail
cd "$(dirname "$0")/.."

GO=${GO:-go}
SOAK=${SOAK:-30m}
case $SOAK in
*h) limit=$((${SOAK%h} * 3600)) ;;
*m) limit=$((${SOAK%m} * 60)) ;;
*) echo "SOAK: want minutes or hours such as 30m or 2h, got '$SOAK'" >&2; exit 2 ;;
esac
./test/peers/install.sh
# Ten hours of sound, decoded by three decoders, and an hour of a troubled publisher.
AUDIO_SOAK=10h $GO test -count=1 -timeout 2h -run '^(TestSoak|TestHour)$' ./sdk/transcode/...
round=0
while [ $SECONDS -lt $limit ]; do
	round=$((round + 1))
	echo "== round $round, after $((SECONDS / 60)) of $((limit / 60)) minutes"
	SOAK_CYCLES=500 SOAK_KILLS=100 $GO test -race -count=1 -shuffle=on -p 1 -timeout 60m ./test/e2e
	SOAK_SESSIONS=2000 $GO test -count=1 -timeout 60m -run TestManySessions ./plugins/ingest-webrtc/session
	$GO test -race -count=20 -shuffle=on -timeout 60m ./core/... ./sdk/... ./internal/... ./plugins/...
done
echo "$round rounds, no failure"
