# `make` lists the targets.

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
COMMIT  ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)

# Pinned, so that a new release of the linter is a change of ours.
GOLANGCI_LINT := $(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

# Seconds, no server: these go first. All other packages follow.
FAST_PACKAGES := ./decoder/... ./checkpoint/... ./internal/fault/...

# What runs the tests: another runner takes the same flags behind its own.
GOTEST    ?= $(GO) test
TESTFLAGS ?=
FUZZTIME  ?= 30s
SEEDS     ?= 10000
SOAK      ?= 10m

.DEFAULT_GOAL := help
.PHONY: help demo build test test-long soak soak-servers fuzz lint lint-tool clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: build ## Show the relay at work with throw-away servers; EVENTS=n stops after n events
	@exec bin/outbox-cdc demo $(if $(EVENTS),--events $(EVENTS))

build: ## Build the static binary bin/outbox-cdc
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/outbox-cdc ./cmd/outbox-cdc

test: ## Vet and test everything, with real servers where they matter
	$(GO) vet ./...
	$(GO) vet -tags nodevenv ./cmd/...
	$(GOTEST) -race -shuffle=on $(TESTFLAGS) $(FAST_PACKAGES)
	$(GOTEST) -run Alloc $(TESTFLAGS) ./decoder ./checkpoint ./sink
	$(GOTEST) -race -shuffle=on -timeout 30m $(TESTFLAGS) $$($(GO) list ./... | grep -vxF "$$($(GO) list $(FAST_PACKAGES))")

test-long: fuzz ## Test what takes minutes: fuzzing, crash runs, every supported Postgres
	$(GOTEST) -race -shuffle=on -timeout 90m -tags long -run '^TestLong' $(TESTFLAGS) ./...

soak: ## Simulate the relay under faults, SEEDS=n times (10000); the first run that fails ends it
	OUTBOX_CDC_SEEDS=$(SEEDS) $(GO) test -timeout 0 -count=1 -v -run '^TestSim$$' $(TESTFLAGS) ./internal/sim

soak-servers: ## Play random faults on real servers for SOAK=time (10m), under load
	OUTBOX_CDC_SOAK=$(SOAK) $(GO) test -timeout 0 -count=1 -v -tags long -run '^TestLongSoak$$' $(TESTFLAGS) ./e2e

fuzz: ## Fuzz each target for FUZZTIME
	@set -e; for package in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
			echo "$$package $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s $$package; \
		done; \
	done

lint: ## Run the linters
	$(GOLANGCI_LINT) run ./...

lint-tool:
	$(GOLANGCI_LINT) version

clean: ## Remove what was built
	rm -rf bin dist
