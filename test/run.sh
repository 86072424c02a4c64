#!/usr/bin/env bash
# All that `make test` does: the peers, every Go test with the race detector, and
# every fuzz target for a short while.
#
# Real processes on a busy machine are late now and then. Two failed tests at most
# are run once more, alone; what passes then is named in the summary. A data race, a
# panic or a leak is never tried again.
#
#   HEADGATE_TEST_PEERS auto (default): install the peers if possible, skip and
#                       name what could not run; required: a missing peer is a
#                       failure; none: install nothing
#   FUZZTIME            how long each fuzz target runs; 0 leaves them out
#   PACKAGES            packages under test; everything by default
set -euo pipefail
cd "$(dirname "$0")/.."

GO=${GO:-go}
FUZZTIME=${FUZZTIME:-10s}
export HEADGATE_TEST_PEERS=${HEADGATE_TEST_PEERS:-auto}
started=$SECONDS
step() { printf '\n== %s (%dm%02ds)\n' "$1" $(((SECONDS - started) / 60)) $(((SECONDS - started) % 60)); }

step "peers"
./test/peers/install.sh
[ "$HEADGATE_TEST_PEERS" = none ] || GO=$GO ./test/peers/mediamtx.sh || [ "$HEADGATE_TEST_PEERS" != required ]

race=-race
if ! command -v gcc >/dev/null 2>&1 && ! command -v cc >/dev/null 2>&1; then
	race=
	echo "no C compiler: the tests run WITHOUT the race detector (sudo apt-get install gcc libc6-dev)"
fi

mkdir -p bin
$GO build -o bin/testreport ./test/report
skipped=$(mktemp) again=$(mktemp)
trap 'rm -f "$skipped" "$again"' EXIT
failed=() chance=()
report() { bin/testreport -skipped "$skipped" "$@"; }

# run NAME RACE ARGUMENTS... runs go test; RACE is -race or nothing.
run() {
	local name=$1 race=$2 pkg test
	shift 2
	: >"$again"
	if $GO test $race -json "$@" | report -again "$again"; then return; fi
	if [ "$(wc -l <"$again")" -gt 2 ]; then : >"$again"; fi
	if [ ! -s "$again" ]; then failed+=("$name"); fi
	while read -r pkg test <&3; do
		echo "once more, alone: $test"
		if $GO test $race -count=1 -timeout 10m -json -run "^$test\$" "$pkg" | report; then chance+=("$pkg $test"); else failed+=("$name"); fi
	done 3<"$again"
}

# The tests with real processes measure time: they run after the others and one
# package at a time.
step "tests"
mapfile -t all < <($GO list ${PACKAGES:-./...})
near=() far=()
for p in "${all[@]}"; do
	case $p in
	*/test/e2e | */test/peers | */test/bench | */test/nat) far+=("$p") ;;
	*) near+=("$p") ;;
	esac
done
if [ ${#near[@]} -gt 0 ]; then
	run "tests" "$race" -shuffle=on -timeout 10m "${near[@]}"
fi
# What is built otherwise with the race detector is tested without it, too, and so is
# what is shorter with it.
if [ -n "$race" ] && [ -z "${PACKAGES:-}" ]; then
	step "tests without the race detector"
	run "tests without the race detector" "" -timeout 5m ./sdk/quickio ./internal/rtmp ./sdk ./sdk/transcode/...
fi
if [ ${#far[@]} -gt 0 ]; then
	step "tests with real peers"
	run "tests with real peers" "$race" -count=1 -p 1 -timeout 25m "${far[@]}"
fi

if [ "$FUZZTIME" != 0 ]; then
	step "fuzz targets, $FUZZTIME each"
	FUZZTIME=$FUZZTIME PACKAGES=${PACKAGES:-} GO=$GO ./test/fuzz.sh || failed+=("fuzz")
fi

step "summary"
if [ -s "$skipped" ]; then
	echo "NOT RUN on this machine:"
	sort -u "$skipped" | sed 's/^/  /'
else
	echo "nothing was skipped"
fi
if [ ${#chance[@]} -gt 0 ]; then
	echo "FAILED ONCE, passed when run again (make soak looks for why):"
	printf '  %s\n' "${chance[@]}"
fi
if [ ${#failed[@]} -gt 0 ]; then
	printf 'FAILED: %s\n' "${failed[@]}"
	exit 1
fi
printf 'all passed%s in %dm%02ds\n' "${chance:+, ${#chance[@]} at the second try}" $(((SECONDS - started) / 60)) $(((SECONDS - started) % 60))
