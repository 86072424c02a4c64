#!/usr/bin/env bash
# Runs every fuzz target of the module, one after the other, for FUZZTIME each
# (10s by default). Targets are found by their names; nobody keeps a list. An
# interesting input is made smaller in a few tries rather than for a minute.
set -euo pipefail
cd "$(dirname "$0")/.."

GO=${GO:-go}
FUZZTIME=${FUZZTIME:-10s}
status=0
count=0
while IFS=: read -r file name; do
	dir=./$(dirname "$file")
	count=$((count + 1))
	printf '%-44s %s\n' "$name" "$dir"
	if ! out=$($GO test -run '^$' -fuzz "^$name\$" -fuzztime "$FUZZTIME" -fuzzminimizetime 10x "$dir" 2>&1); then
		printf '%s\n' "$out" | tail -n 60
		status=1
	fi
done < <(git ls-files --cached --others --exclude-standard -- '*_test.go' | xargs -r grep -oE '^func Fuzz[A-Za-z0-9_]*' -H | sed 's/:func /:/' | sort -u)
echo "$count fuzz targets"
exit $status
