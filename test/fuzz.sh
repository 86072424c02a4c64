#!/usr/bin/env bash
# Runs every fuzz target of the module, one after the other, for FUZZTIME each
# (10s by default). Targets are found by their names; nobody keeps a list. An
# interesting input is made smaller in a few tries rather than for a minute.
#
# A run whose time is over while a worker is busy ends, now and then, with no
# finding but "context deadline exceeded" (golang.org/issue/75804): no input was
# recorded, so it is run once more, and counts as failed if it fails again.
set -euo pipefail
cd "$(dirname "$0")/.."

GO=${GO:-go}
FUZZTIME=${FUZZTIME:-10s}
status=0
count=0
fuzz() { $GO test -run '^$' -fuzz "^$1\$" -fuzztime "$FUZZTIME" -fuzzminimizetime 10x "$2" 2>&1; }
only_deadline() { grep -q '^ *context deadline exceeded$' <<<"$1" && ! grep -qE 'Failing input|panic:|hung or terminated' <<<"$1"; }
while IFS=: read -r file name; do
	dir=./$(dirname "$file")
	count=$((count + 1))
	printf '%-44s %s\n' "$name" "$dir"
	for again in 1 2 3 4 no; do
		if out=$(fuzz "$name" "$dir"); then continue 2; fi
		only_deadline "$out" && [ $again != no ] || break
		echo "  its time was over in the middle of an input: once more"
	done
	printf '%s\n' "$out" | tail -n 60
	status=1
done < <(git ls-files --cached --others --exclude-standard -- '*_test.go' | xargs -r grep -oE '^func Fuzz[A-Za-z0-9_]*' -H | sed 's/:func /:/' | sort -u)
echo "$count fuzz targets"
exit $status
