# Hearth's tasks. Every cargo command uses one profile and one package selection, so that llama.cpp is
# compiled once: `--all-targets` makes `build`, `lint` and `test` agree on the features of everything.
CARGO_FLAGS := --workspace --release --locked
BIN := target/release
# Building is for the developer; namespaces, file systems of other machines and containers are root's.
AS_ROOT := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: help setup build package demo-arm64 levels-arm64 test-package board lint-containers test-image demo test test-python conformance bench bench-forms bench-memory fmt lint lint-units deny doc proto ci

help: ## Show the tasks
	@grep -E '^[a-z0-9-]+:.*## ' Makefile | sed -E 's/^([a-z0-9-]+):.*## /  \1\t/'

setup: ## Install the system packages that are missing (or say which)
	@sh scripts/setup.sh

build: setup ## Build everything
	cargo build $(CARGO_FLAGS) --all-targets

package: ## Make the Debian package; ARCH=arm64 or amd64, cross-compiled where that is not this machine's; CUDA=87 for a Jetson, on it
	@sh scripts/package.sh $(ARCH)

demo-arm64: ## The demo as on a board: cross-compiled, run under user-mode emulation of a Cortex-A72
	@STAGE_ONLY=1 LEVELS=armv8-a sh scripts/package.sh arm64
	@$(AS_ROOT) env QEMU_CPU=cortex-a72 \
	  sh tests/board/emulate.sh sh scripts/demo.sh target/package/arm64/usr/bin

levels-arm64: ## Is the right engine chosen on a Cortex-A72 and on a Cortex-A76, and are the answers the same
	@STAGE_ONLY=1 LEVELS="dotprod armv8-a" sh scripts/package.sh arm64
	@$(AS_ROOT) sh tests/board/levels.sh target/package/arm64

test-package: package ## Install, upgrade, remove and purge the package on a fresh Debian
	@sh scripts/setup.sh test-package
	@$(AS_ROOT) sh tests/package/lifecycle.sh \
	  target/package/hearth_*_$(or $(ARCH),$(shell dpkg --print-architecture)).deb target/package/systems

board: ## A whole board under QEMU: install, models, hanging parts, little memory, CUTS=20 power cuts
	@sh scripts/setup.sh board
	@sh scripts/package.sh arm64
	@$(AS_ROOT) sh tests/board/image.sh target/package/hearth_*_arm64.deb target/board
	@$(AS_ROOT) python3 tests/board/board.py target/board $(if $(CUTS),--cuts $(CUTS))

lint-containers: build ## Check the recipe of the container image and the manifests for k3s
	@sh tests/containers/lint.sh $(CURDIR)/target/lint-containers $(BIN)

test-image: package ## Build the container image from this machine's package and run it as a container runtime does
	@sh scripts/setup.sh test-image
	@$(AS_ROOT) sh tests/containers/image.sh target/package/hearth_*_$(shell dpkg --print-architecture).deb target/image

demo: build ## Start a daemon with the demo model, ask it, make a tool call
	@sh scripts/demo.sh $(BIN)

test: build ## Run every test
	cargo test $(CARGO_FLAGS)

test-python: build ## Hold a conversation through stubs that grpcio-tools makes of proto/
	@sh scripts/test-python.sh $(BIN)

conformance: build ## Run golden vectors: the project's own, and those in VECTORS=folder
	@for folder in daemon/engine/vectors $(if $(VECTORS),$(VECTORS),$(wildcard ../shared/vectors)); do \
	  echo "$$folder" && $(BIN)/hearthd conformance "$$folder" || exit 1; done

bench: build ## Measure beside a bare llama.cpp loop; MODEL=file.gguf, ARGS="--quick --rounds 3"
	cargo test $(CARGO_FLAGS) --bench board -- $(if $(MODEL),$(abspath $(MODEL))) --out $(CURDIR)/target/bench $(ARGS)

bench-forms: build ## Tool calls and structured output at length; MODELS="a.gguf b.gguf" RUNS=1000 SPEED=half.gguf
	cargo test $(CARGO_FLAGS) --bench forms -- $(abspath $(MODELS)) $(if $(RUNS),--runs $(RUNS)) $(if $(SPEED),--speed $(abspath $(SPEED)))

bench-memory: build ## Is the budget kept, are estimates true; RUN="estimates a.gguf b.gguf" or swap, group, refusal
	cargo test $(CARGO_FLAGS) --bench memory -- $(RUN)

fmt: ## Check the formatting
	cargo fmt --all --check

lint: setup ## Clippy, warnings denied
	cargo clippy $(CARGO_FLAGS) --all-targets -- -D warnings

lint-units: ## The package's systemd units: do they parse, is the service shut in
	@sh scripts/setup.sh lint-units
	@sh tests/package/units.sh

deny: ## Licences, bans and sources of the dependencies, where cargo-deny is installed
	@if cargo deny --version >/dev/null 2>&1; then cargo deny check bans licenses sources; \
	else echo "cargo-deny is not installed: skipped"; fi

doc: setup ## Documentation, warnings denied
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc $(CARGO_FLAGS) --no-deps --document-private-items

proto: ## Generate proto/src/gen anew
	HEARTH_UPDATE_PROTO=1 cargo test $(CARGO_FLAGS) --test fresh

ci: ## What CI runs
	@bash .ci/run
