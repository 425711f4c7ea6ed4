# Hearth's tasks. Every cargo command uses one profile and one package selection, so that llama.cpp is
# compiled once: `--all-targets` makes `build`, `lint` and `test` agree on the features of everything.
CARGO_FLAGS := --workspace --release --locked
BIN := target/release

.PHONY: help setup build demo test test-python conformance bench bench-forms bench-memory fmt lint deny doc proto ci

help: ## Show the tasks
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /  \1\t/'

setup: ## Install the system packages that are missing (or say which)
	@sh scripts/setup.sh

build: setup ## Build everything
	cargo build $(CARGO_FLAGS) --all-targets

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

deny: ## Licences, bans and sources of the dependencies, where cargo-deny is installed
	@if cargo deny --version >/dev/null 2>&1; then cargo deny check bans licenses sources; \
	else echo "cargo-deny is not installed: skipped"; fi

doc: setup ## Documentation, warnings denied
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc $(CARGO_FLAGS) --no-deps --document-private-items

proto: ## Generate proto/src/gen anew
	HEARTH_UPDATE_PROTO=1 cargo test $(CARGO_FLAGS) --test fresh

ci: ## What CI runs
	@bash .ci/run
