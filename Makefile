# `make demo` runs the main job, `make test` passes the tests; each installs what it lacks.
SHELL := /bin/bash
.DEFAULT_GOAL := help
CARGO ?= cargo
FUZZ_SECONDS ?= 60

.PHONY: help demo test test-kube test-image lint bench bench-setup bench-check fuzz tools

help: ## what can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

demo: ## control server, workloads with sidecars, mutual TLS, policies, a canary; Ctrl-C ends it
	@scripts/demo.sh

tools: ## what tests and benchmarks need: Debian packages (as root) and a Python environment
	@scripts/tools.sh

test: tools ## all tests: unit, property, end to end, against Envoy
	$(CARGO) build --locked --profile fast -p outrider-proxy -p outrider-control
	$(CARGO) test --locked --workspace --exclude outrider-tests
	. scripts/env.sh && $(CARGO) test --locked -p outrider-tests --no-fail-fast -- --test-threads=4

test-kube: tools ## the control server in Kubernetes: a real API server, found or built with Go
	$(CARGO) build --locked --profile fast -p outrider-proxy -p outrider-control
	@assets=$$(scripts/kube.sh) || { [ -z "$$CI" ]; exit; }; \
	. scripts/env.sh && export OUTRIDER_TEST_POD_SECURITY="$$(scripts/pod-security.sh)"; \
	if helm=$$(scripts/helm.sh); then export OUTRIDER_TEST_HELM="$$helm"; else [ -z "$$CI" ] || exit 1; fi; \
	KUBEBUILDER_ASSETS="$$assets" $(CARGO) test --locked -p outrider-tests --test kube --test kube_webhook --test standards --test deploy -- --nocapture

test-image: tools ## the images of deploy/Dockerfile, built and run without a registry (Debian, as root)
	$(CARGO) build --locked --profile fast -p outrider-proxy -p outrider-control
	@images=$$(scripts/image.sh) || { [ -z "$$CI" ]; exit; }; \
	. scripts/env.sh && OUTRIDER_TEST_IMAGES="$$images" $(CARGO) test --locked -p outrider-tests --test image -- --nocapture

lint: ## formatting, clippy, licences and bans, documentation
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --document-private-items
	@scripts/deny.sh

bench: bench-setup ## what a request, a connection and a service cost, beside others; ARGS=--quick for two minutes
	$(CARGO) build --locked --release -p outrider-proxy
	$(CARGO) build --locked --profile harness -p outrider-bench
	@. scripts/env.sh && "$${CARGO_TARGET_DIR:-target}"/harness/outrider-bench run $(ARGS)

bench-setup: tools ## installs what the benchmarks compare with

bench-check: bench-setup ## the load generator beside wrk and h2load
	$(CARGO) test --locked --profile harness -p outrider-bench -- --ignored crosscheck --nocapture

fuzz: ## every fuzz target for FUZZ_SECONDS (60)
	@FUZZ_SECONDS=$(FUZZ_SECONDS) scripts/fuzz.sh
