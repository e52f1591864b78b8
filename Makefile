# ha_ext. `make help` lists the targets.

CARGO ?= cargo
PREFIX ?= /usr/local
PG_CONFIG ?= /usr/lib/postgresql/15/bin/pg_config
export CARGO PREFIX PG_CONFIG
export PGRX_PG_CONFIG_PATH ?= $(PG_CONFIG)
# ha_ext is built for the major that PG_CONFIG belongs to. Asked for late: setup may install that server.
PG_MAJOR = $(or $(shell $(PG_CONFIG) --version 2>/dev/null | sed -n 's/^PostgreSQL \([0-9]*\).*/\1/p'),15)
FEATURES = $(if $(filter-out 15,$(PG_MAJOR)),--no-default-features --features ha_ext/pg$(PG_MAJOR))

.DEFAULT_GOAL := help

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## Install what is needed on Debian 12, tests included (as root)
	@scripts/setup.sh

.PHONY: setup-build
setup-build: ## Install what building for the server of PG_CONFIG needs, and nothing else (as root)
	@scripts/setup.sh build

.PHONY: build
build: setup ## Build the extension and the supervisor
	$(CARGO) build --workspace $(FEATURES)

.PHONY: install
install: setup-build ## Build with optimisation; install the extension into PostgreSQL, ha_bootstrap into PREFIX/bin
	$(CARGO) build --release -p ha_ext -p ha_bootstrap $(FEATURES)
	scripts/install.sh target/release/libha_ext.so

.PHONY: install-tested
install-tested: build ## Install the build that the tests and the demo use
	scripts/install.sh

.PHONY: test
test: ## Everything CI runs
	@scripts/test.sh

.PHONY: lint
lint: setup ## Formatting, clippy and documentation, all warnings denied
	@scripts/test.sh lint

.PHONY: postgres-all
postgres-all: setup ## Get the servers of 16, 17 and 18 for the tests (17 is built: some minutes, once)
	@for major in 16 17 18; do scripts/postgres.sh $$major || exit 1; done

.PHONY: test-pg
test-pg: setup ## What runs on every major, on one: make test-pg MAJOR=17 [SCENARIOS="fence rejoin"]
	scripts/major.sh $(or $(MAJOR),$(error MAJOR=16, 17 or 18)) $(SCENARIOS)

.PHONY: fence-mutants
fence-mutants: install-tested ## Show of each guard of the fence that a test fails without it (opt-in, about 10 min)
	scripts/fence-mutants.sh $(GUARDS)

.PHONY: soak
soak: ## Run the simulator for hours: make soak HOURS=8 [FIRST=1000000] [THREADS=2]; writes what breaks to core/tests/regressions
	$(CARGO) run --profile simulator -p ha_core --features sim --example soak -- $(or $(HOURS),1) $(or $(FIRST),1000000) $(THREADS)

.PHONY: sim-speed
sim-speed: ## How many failovers a minute the simulator makes on one core
	$(CARGO) run --profile simulator -p ha_core --features sim --example failovers -- 200

.PHONY: fix
fix: ## Format the code
	$(CARGO) fmt --all

.PHONY: demo
demo: install-tested ## Three nodes in a live table: one switchover, one lost leader
	target/debug/demo

.PHONY: bench
bench: setup install ## Measure beside Patroni and rewrite docs/benchmarks.md (BENCH_FLAGS="--runs 3 --only switchover")
	$(CARGO) build -p ha_tests --bin bench
	scripts/patroni.sh
	scripts/clean-tests.sh
	target/debug/bench --out docs/benchmarks.md $(BENCH_FLAGS)

.PHONY: chaos
chaos: install-tested ## Faults by seed on real nodes, judged for lost appends and stale reads (MINUTES=5 NODES=3 SEED=n ROUND=n ONLY="disk full")
	scripts/clean-tests.sh
	target/debug/chaos --minutes $(or $(MINUTES),5) --nodes $(or $(NODES),3) $(if $(SEED),--seed $(SEED)) $(if $(ROUND),--round $(ROUND)) \
		$(if $(ONLY),--only "$(ONLY)")

.PHONY: qemu-pause
qemu-pause: install-tested ## Measure a leader whose virtual machine is paused (needs root; some minutes; QEMU_FLAGS="--runs 5 --ttl 30")
	scripts/clean-tests.sh
	target/debug/qemu_pause "$$(scripts/qemu.sh)" $(QEMU_FLAGS)

.PHONY: qemu-watchdog
qemu-watchdog: install-tested ## Have the watchdog of a virtual machine reset it while its node's processes hang (needs root; some minutes; QEMU_FLAGS="--nowayout yes")
	scripts/clean-tests.sh
	target/debug/qemu_watchdog "$$(scripts/qemu.sh)" $(QEMU_FLAGS)

.PHONY: clean-tests
clean-tests: ## Remove what interrupted tests left behind
	scripts/clean-tests.sh

.PHONY: clean-patroni
clean-patroni: ## Remove the virtual environment with Patroni
	rm -rf target/patroni

.PHONY: clean-build
clean-build: ## Remove everything that was built
	$(CARGO) clean
