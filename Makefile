# Orch needs Go, make, git and, to run containers, a Docker engine. Everything
# else is a Go module of a pinned version. `make help` lists what can be made.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

# The tools' versions are pinned in a module of their own, so that what they
# depend on never enters the product's. The first use of each compiles it.
TOOL := go tool -modfile=$(CURDIR)/tools/go.mod

# Each module that holds code of ours. What the conformance tests compare with
# stays out of the product's module in the same way.
MODULES := $(patsubst %/,%,$(dir $(wildcard go.mod test/*/go.mod)))

# What the test targets run, and with which further flags:
# make test PKG=./pkg/store/... TESTFLAGS='-v -run Watch'
PKG       ?= ./...
TESTFLAGS ?=

# How long a package's tests may take: it is there to end a hang. go test's own ten
# minutes are fewer than the slowest package needs on a machine a fifth as fast.
TIMEOUT ?= 40m

.DEFAULT_GOAL := help

# -- Build and run -----------------------------------------------------------

.PHONY: build
build: ## Put static binaries of apiserver, nodeagent and orchctl into bin/.
	@CGO_ENABLED=0 go build -trimpath -buildvcs=false \
		-ldflags '-X main.version=$(VERSION)' -o bin/ ./cmd/apiserver ./cmd/nodeagent ./cmd/orchctl
	@echo "ok    build  bin/apiserver bin/nodeagent bin/orchctl  $(VERSION)"

.PHONY: demo
demo: build ## Watch a cluster heal, scale and roll. KEEP=1 leaves it running; RUNTIME=fake needs no Docker.
	@go run ./examples/webflix/demo $(if $(KEEP),--keep) $(if $(RUNTIME),--runtime=$(RUNTIME))

.PHONY: images
images: ## Make the images of all examples on the Docker engine, from this repository's code.
	@go run ./examples/image/cmd

# -- Test --------------------------------------------------------------------

# go test hides what passing tests print, so the one line that says that the
# Docker tests will be skipped comes before it.
.PHONY: test
test: ## Run every test, those on a real Docker engine included.
	@go run ./internal/testdocker/probe
	@status=0; for module in $(if $(filter ./...,$(PKG)),$(MODULES),.); do \
		(cd $$module && go test -timeout=$(TIMEOUT) $(TESTFLAGS) $(PKG)) || status=1; \
	done; exit $$status

# -short leaves out what is slow on a real engine or a real disk: make test has
# run it, and the code under it does not change. go vet has a target of its own.
.PHONY: race
race: ## Run the tests that are not slow with the race detector.
	@if command -v "$$(go env CC)" >/dev/null; then \
		CGO_ENABLED=1 go test -race -short -vet=off -timeout=$(TIMEOUT) $(TESTFLAGS) $(PKG) && echo "ok    race"; \
	elif [ "$$CI" = true ]; then \
		echo "FAIL  race  the race detector needs a C compiler: install gcc"; exit 1; \
	else \
		echo "SKIP  race  the race detector needs a C compiler: install gcc"; \
	fi

COUNT ?= 50

.PHONY: soak
soak: ## Run the tests that are not slow again and again, shuffled, until one fails. COUNT=50
	@go test -short -shuffle=on -failfast -count=$(COUNT) -timeout=0 $(TESTFLAGS) $(PKG)

.PHONY: netem
netem: ## Test delayed packets under Debian's kernel, in a virtual machine. ACCEL=kvm is faster.
	@test/netem/run.sh

FUZZTIME ?= 20s

.PHONY: fuzz
fuzz: ## Run each fuzz target for FUZZTIME=20s.
	@set -e; for package in $$(go list $(PKG)); do \
		targets=$$(go test -list '^Fuzz' $$package) || { echo "$$targets"; exit 1; }; \
		for target in $$(echo "$$targets" | grep '^Fuzz'); do \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$package; \
		done; \
	done

BENCHFLAGS ?=

.PHONY: bench
bench: build ## Measure Orch beside its peers and print the ratios.
	@go run ./bench $(BENCHFLAGS)

# -- Check -------------------------------------------------------------------

# One failure does not hide the next.
.PHONY: check
check: ## Check everything that needs no running cluster: all of the targets below, and race.
	@$(MAKE) --no-print-directory --keep-going format vet lint proto generated layers tidy race

.PHONY: format
format: ## Check that gofumpt would change nothing.
	@files=$$($(TOOL) gofumpt -l .) || exit 1; \
	if [ -n "$$files" ]; then echo "FAIL  format  run make fmt; it will change:"; echo "$$files"; exit 1; fi
	@echo "ok    format"

.PHONY: vet
vet: ## Run go vet.
	@set -e; for module in $(MODULES); do (cd $$module && go vet ./...); done
	@echo "ok    vet"

.PHONY: lint
lint: ## Run golangci-lint; .golangci.yml gives a reason for each rule.
	@set -e; for module in $(MODULES); do (cd $$module && $(TOOL) golangci-lint run ./...); done
	@echo "ok    lint"

.PHONY: proto
proto: ## Lint the API's .proto files.
	@$(TOOL) buf lint
	@echo "ok    proto"

.PHONY: generated
generated: ## Check that generated code is what the .proto files and Kubernetes' types say.
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && $(TOOL) buf generate -o "$$fresh" && \
	for file in $$(cd "$$fresh" && find . -type f) $$(find . -path ./.git -prune -o -name '*.pb.go' -print); do \
		cmp -s "$$file" "$$fresh/$$file" || { echo "FAIL  generated  $$file is not what its .proto says: run make generate and commit it"; exit 1; }; \
	done
	@cd test/conformance && go test -run Generated .
	@echo "ok    generated"

.PHONY: layers
layers: ## Check layers, import walls, package comments, size and links.
	@go test ./internal/archtest >/dev/null || go test ./internal/archtest
	@echo "ok    layers"

.PHONY: tidy
tidy: ## Check that go mod tidy would change nothing.
	@for module in $(MODULES) tools; do \
		(cd $$module && go mod tidy -diff) || { echo "FAIL  tidy  run go mod tidy in $$module"; exit 1; }; \
	done
	@echo "ok    tidy"

# -- Change ------------------------------------------------------------------

.PHONY: fmt
fmt: ## Format the Go code.
	@$(TOOL) gofumpt -w .
	@echo "ok    fmt"

.PHONY: generate
generate: ## Generate Go code from proto/v1/*.proto and from Kubernetes' types.
	@$(TOOL) buf generate
	@cd test/conformance && go test -run Generated -update . >/dev/null
	@echo "ok    generate"

.PHONY: clean
clean: ## Remove bin/.
	@rm -rf bin
	@echo "ok    clean"

.PHONY: help
help: ## Print this list.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
