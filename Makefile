# Everything here works offline once the modules are downloaded, except the
# installation of test peers. `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -s -w -X main.version=$(VERSION)
BUILD   := CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)'

LINT_VERSION := $(shell sed -n 's/.*golangci\/golangci-lint\/v2 \(v[0-9.]*\).*/\1/p' tools/go.mod)
LINT         := bin/tools/golangci-lint-$(LINT_VERSION)
# The linter's cache knows files by their paths, and another clone's paths may be
# gone: each clone has its own.
export GOLANGCI_LINT_CACHE := $(CURDIR)/bin/lint-cache

.PHONY: help build run test test-nat lint gen cross soak fuzz bench bench-receive bench-boundary audio-bench clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1|\2/' | while IFS='|' read -r t d; do printf '  make %-14s %s\n' "$$t" "$$d"; done

build: ## build bin/gateway, one static binary
	@[ -e bin/gateway ] || echo "building bin/gateway; the first time this takes some minutes"
	@$(BUILD) -o bin/gateway ./cmd/gateway

run: build ## build, then start the demo: publish page and two receivers
	@./bin/gateway demo $(ARGS)

test: ## run all tests with the race detector; installs the real peers if it may
	@GO='$(GO)' ./test/run.sh

test-nat: ## run the tests across NATs and firewalls, in network namespaces (needs root, coturn, nftables)
	@HEADGATE_TEST_PEERS=required $(GO) test -count=1 -timeout 10m -v ./test/nat

lint: $(LINT) ## gofmt, go vet and golangci-lint over the whole tree
	@bad=$$(git ls-files --cached --others --exclude-standard -- '*.go' | xargs -r gofmt -l); if [ -n "$$bad" ]; then echo "gofmt -w needed:"; echo "$$bad"; exit 1; fi
	@$(GO) vet ./...
	@$(LINT) run ./...

# The linters have a module of their own, so that the product does not depend on them.
$(LINT): tools/go.mod tools/go.sum
	@echo "building golangci-lint $(LINT_VERSION); this takes some minutes, once"
	@mkdir -p $(@D)
	@$(GO) build -modfile=tools/go.mod -o $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

gen: ## generate the code of sdk/wire/gateway.proto, for Go and for the example in Python (needs protoc: apt-get install protobuf-compiler)
	@command -v protoc >/dev/null || { echo "make gen needs protoc: apt-get install protobuf-compiler"; exit 1; }
	@mkdir -p bin/tools
	@$(GO) build -modfile=tools/go.mod -o bin/tools/ google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc
	@PATH="$(CURDIR)/bin/tools:$$PATH" protoc -I sdk/wire --go_out=sdk/wire --go_opt=paths=source_relative --go-grpc_out=sdk/wire --go-grpc_opt=paths=source_relative --python_out=examples/egress-count gateway.proto

cross: ## build for every platform that we release for
	@for arch in amd64 arm64 arm; do echo "linux/$$arch"; GOOS=linux GOARCH=$$arch $(BUILD) -o bin/gateway-linux-$$arch ./cmd/gateway || exit 1; done

soak: ## repeat the end-to-end tests and long loops for SOAK (default 30m)
	@GO='$(GO)' SOAK='$(or $(SOAK),30m)' ./test/soak.sh

fuzz: ## run every fuzz target for FUZZTIME (default 5m)
	@GO='$(GO)' FUZZTIME='$(or $(FUZZTIME),5m)' ./test/fuzz.sh

bench: build ## measure what the gateway must reach, and print asked beside measured
	@$(GO) run ./test/bench -gateway bin/gateway $(ARGS)
	@echo "answer to an offer, asked: 30 median-ms; depacketizing an 8 KB picture, asked: 2000 ns/op, 1 allocs/op"
	@$(GO) test ./plugins/ingest-webrtc/session ./internal/rtp/depack -run '^$$' -bench 'Post|H264Picture' | grep ^Benchmark
	@echo "packets recovered at 40 ms and 2 % loss, asked: 60 p50-ms, 130 p99-ms, of 200 events"
	@$(GO) test ./plugins/ingest-webrtc/session -run '^$$' -bench Recovery -benchtime 1x | grep ^Benchmark
	@echo "Chromium under a new limit, asked: 2000 under-ms, 5000 back-ms"
	@$(GO) test ./plugins/ingest-webrtc -run '^$$' -bench REMB -benchtime 1x | grep ^Benchmark
	@echo "3 Mb/s over SRT, asked: 4 %core, 2 x-ffmpeg"
	@$(GO) test ./test/e2e -run '^$$' -bench SRTCost -benchtime 1x | grep ^Benchmark

bench-receive: build ## measure what receiving WebRTC costs per packet, beside stock pion
	@$(GO) build -o bin/bench-receive ./test/bench/receive && bin/bench-receive -gateway bin/gateway $(ARGS)

bench-boundary: ## measure what the process boundary alone costs, beside plain protobuf and no boundary
	@echo "wire at 500 streams, asked: egress=1 20 µs-CPU/unit, 0.60 x-stock, 1 ms-p50; egress=3 35 and 0.65; sessions=3 24"
	@$(GO) test ./core/pluginhost -run xxx -bench Boundary -benchtime 1x -timeout 30m $(ARGS)
	@echo "nineteen targets beside a slow one, asked: ms-p99-beside at most 25 more than ms-p99-alone"
	@$(GO) test ./core/session -run xxx -bench SlowTarget -benchtime 1x | grep ^Benchmark

audio-bench: ## compare AAC encoders by measure and by ear; writes a page to listen with
	@$(GO) run ./test/audiobench $(ARGS)

clean: ## remove what the targets above made
	@rm -rf bin dist
