# holdfast: `make run` to try it, `make test` to check it. See `make help`.
SHELL     := /bin/bash
BIN       := bin/holdfast
VERSION   := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GOFLAGS   := -trimpath
LDFLAGS   := -s -w -X main.version=$(VERSION)
export CGO_ENABLED ?= 0
unexport AWS_CA_BUNDLE # tests use loopback only, with certificates of their own

.PHONY: help build run test check unit clients crash sim chaos fuzz race bench generate setup clean

help: ## show the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

build: ## build bin/holdfast
	go build $(GOFLAGS) -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/holdfast

run: build ## build, then keep real files in ./holdfast-data and show them at ./mnt
	$(BIN) up --mount ./mnt

test: setup check unit clients ## everything that must hold before a change lands (≤ 20 minutes on 2 cores)

setup:
	@tests/setup.sh

check: ## gofmt, go vet, staticcheck, and the laws of the tree
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); exit 1; }
	go vet ./...
	go tool staticcheck ./...
	go test -count=1 ./tests

unit: build ## the packages' own tests
	go test -timeout 10m $$(go list ./... | grep -v /tests)

clients: build ## the running binary: real clients, mounts, kill -9, moved drives
	HOLDFAST_BIN=$(CURDIR)/$(BIN) go test -count=1 -p 2 -timeout 15m ./tests/...

crash: build ## the long forms of tests: 50 kills, 1000 power cuts, all 793 sets of lost drives … (about 20 minutes)
	HOLDFAST_LONG=1 HOLDFAST_BIN=$(CURDIR)/$(BIN) go test -count=1 -p 1 -timeout 60m ./chunkstore/... ./cluster/... ./multipart ./tests/crash

sim: ## clusters in simulated time under SIM_SEEDS=2000 seeds of faults (about an hour)
	cd tests/sim && SIM_SEEDS=$(or $(SIM_SEEDS),2000) go test -count=1 -timeout 4h

chaos: build ## the long runs of clusters of real processes (an hour on 2 cores)
	HOLDFAST_LONG=1 HOLDFAST_BIN=$(CURDIR)/$(BIN) go test -v -count=1 -p 1 -timeout 90m ./tests/cluster

race: ## the packages' own tests under the race detector (needs gcc)
	CGO_ENABLED=1 go test -race -timeout 30m $$(go list ./... | grep -v /tests)

fuzz: ## every fuzz target for a while (FUZZTIME=25s)
	@tests/fuzz.sh $(or $(FUZZTIME),25s)

bench: build ## speed and memory beside the machine's own limits, measured in the same run
	@tests/bench.sh

generate: ## protobuf code (needs protoc)
	go generate ./...

clean: ## remove what was built
	rm -rf bin
