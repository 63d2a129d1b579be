# The commands we type. On 2 cores, with nothing built yet, `run` and `bench` build everything with optimisation (about ten minutes), `check` and
# `test` without it (about fifteen). In a fresh clone beside an earlier build `check` takes two minutes and `test` about forty: eight to build what is
# ours, seventeen for the tests of all crates (four of them the shop as nine processes), seven for the shop once more on PostgreSQL and with four
# shards, and eight for the simulation, the fuzzing and the deployment files. `kill`, `cluster` and the benches take minutes each, as they say below.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
MAKEFLAGS += --no-builtin-rules --no-print-directory

CACHE := $(or $(JANGBU_CACHE),$(HOME)/.cache/jangbu)
LISTEN ?= 127.0.0.1:8080
DATA ?= ./data
FUZZ_SECONDS ?= 5
KILLS ?= 500
# The tests of a whole shop over HTTP, which hold for any number of shards. Those that kill it do both by themselves.
OF_A_SHOP := attack bad_input defects load ops races serve ways_back
# Those of them that look at a log through the port alone, wherever it is kept.
OF_ANY_LOG := attack defects kill load races ways_back

# CI builds beside the clone, so that a fresh clone finds what the one before it built.
ifeq ($(CI),true)
export CARGO_TARGET_DIR ?= $(CACHE)/target
endif
TARGET := $(or $(CARGO_TARGET_DIR),target)
export PATH := $(CACHE)/cargo-deny/bin:$(PATH)

# Tests and checks build all there is; `make run` needs no Kafka, and so no more than Rust and a C compiler.
ALL := --features jangbu/kafka
ORDERS ?= 20000

heading = @printf '\n==> %s\n' '$(1)'

.PHONY: help run test simulate mutants fuzz kill cluster esdb-tests check format bench bench-shards bench-postgres audit clean-data services setup-build setup-test setup-servers

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: setup-build ## build the shop and serve the demo on http://127.0.0.1:8080, data in ./data (LISTEN=, DATA=)
	$(call heading,Building jangbu)
	cargo build --release --locked -p jangbu
	$(call heading,Serving the demo shop on http://$(LISTEN) with data in $(DATA))
	exec '$(TARGET)/release/jangbu' serve --demo --listen '$(LISTEN)' --data '$(DATA)'

test: check setup-servers ## what CI runs: check, every test on real servers, 10,000 simulated seeds, fuzzing, the purchase of the README
	cargo build --quiet --locked -p test-servers
	$(call heading,Tests)
	'$(TARGET)/debug/test-servers' with postgres redis kafka -- cargo test --workspace --locked $(ALL)
	$(call heading,The shop once more with its log in PostgreSQL)
	'$(TARGET)/debug/test-servers' with postgres -- env JANGBU_TEST_STORE=postgres cargo test --workspace --locked $(ALL) $(foreach test,$(OF_ANY_LOG),--test $(test))
	$(call heading,The shop once more with four shards)
	JANGBU_TEST_SHARDS=4 cargo test --workspace --locked $(ALL) $(foreach test,$(OF_A_SHOP),--test $(test))
	$(call heading,The simulation: 10000 seeds with one shard and with four and every pair of crashes of every story)
	cargo build --release --locked -p simulation
	'$(TARGET)/release/simulation' --seeds 10000
	'$(TARGET)/release/simulation' --seeds 10000 --shards 4
	'$(TARGET)/release/simulation' --scenarios
	'$(TARGET)/release/simulation' --scenarios --shards 2 --singles
	$(call heading,Fuzzing of what is read from outside)
	tools/fuzz.sh $(FUZZ_SECONDS)
	$(call heading,Fuzzing of the two APIs)
	tools/api-fuzz.sh '$(TARGET)/debug/jangbu'
	$(call heading,Compose HAProxy and Kubernetes files)
	tools/check-deployment.sh self-test
	tools/check-deployment.sh
	$(call heading,The purchase of the README)
	tools/readme-test.sh '$(TARGET)/debug/jangbu'

simulate: setup-build ## the whole engine under seeded faults: SEED=n that one again, SEEDS=n so many (from SEED), SHARDS=n; a million takes about an hour
	cargo build --release --locked -p simulation
	'$(TARGET)/release/simulation' $(if $(SEEDS),--seeds '$(SEEDS)' $(if $(SEED),--from '$(SEED)'),$(if $(SEED),--seed '$(SEED)')) $(if $(SHARDS),--shards '$(SHARDS)') $(ARGS)

mutants: setup-build ## break the engine in small ways, and see which seed of the simulation notices (about fifteen minutes)
	simulation/mutants/run.sh $(ARGS)

fuzz: setup-test ## fuzz each decoder for FUZZ_SECONDS (5)
	tools/fuzz.sh $(FUZZ_SECONDS)

kill: setup-build ## kill the shop 500 times while it works, and look for what it acknowledged (KILLS=; about seven minutes, and the build)
	$(call heading,$(KILLS) kills)
	JANGBU_TEST_KILLS='$(KILLS)' cargo test --locked -p jangbu --test kill -- --nocapture

cluster: setup-servers ## the shop as nine processes on real servers while each of them fails in turn, until 20,000 orders are placed (ORDERS=; some minutes)
	$(call heading,$(ORDERS) orders)
	JANGBU_TEST_ORDERS='$(ORDERS)' cargo test --locked -p jangbu $(ALL) --test cluster -- whatever_fails --nocapture

esdb-tests: setup-build ## build the tests for a machine with EventStoreDB or KurrentDB into one file, and say where it is
	$(call heading,The tests for EventStoreDB)
	@built=$$(cargo test --locked -p jangbu --features esdb-tests --test esdb --no-run --message-format=json-render-diagnostics \
		| sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | grep '/esdb-' | tail -1); \
	cp "$$built" '$(TARGET)/esdb-tests'
	@printf '%s\n' 'Carry $(abspath $(TARGET)/esdb-tests) to a machine with a server that may be thrown away, and run there:' \
		'  JANGBU_TEST_ESDB="esdb://localhost:2113?tls=false" ./esdb-tests'

check: setup-test ## format, clippy with warnings as errors, documentation, licences and layers
	$(call heading,Format)
	cargo fmt --all -- --check
	cargo fmt --manifest-path fuzz/Cargo.toml -- --check
	$(call heading,Clippy)
	cargo clippy --workspace --all-targets --locked $(ALL),jangbu/esdb-tests -- -D warnings
	cargo clippy -p jangbu --lib --locked -- -D warnings
	$(call heading,Documentation)
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked $(ALL)
	$(call heading,Licences and layers)
	cargo deny --log-level error --locked check bans licenses sources

format: ## format all Rust code
	cargo fmt --all
	cargo fmt --manifest-path fuzz/Cargo.toml

bench: setup-build ## measure purchases over HTTP, eight runs; ARGS="--orders 50000" (several minutes; needs gcc and jq)
	$(call heading,Building jangbu)
	cargo build --release --locked -p jangbu
	$(call heading,Purchases on this disk and on one with 1 ms per fsync)
	benches/purchase.sh '$(TARGET)/release/jangbu' $(ARGS)

bench-shards: setup-build ## measure purchases with 1, 2 and 4 shards, twelve runs; ARGS="--orders 50000" (several minutes; needs jq)
	$(call heading,Building jangbu)
	cargo build --release --locked -p jangbu
	$(call heading,Purchases with 1 2 and 4 shards)
	benches/shards.sh '$(TARGET)/release/jangbu' $(ARGS)

bench-postgres: setup-build setup-servers ## measure purchases with the log in PostgreSQL, nine runs; ARGS="--orders 50000" (some minutes; needs gcc, jq and psql)
	$(call heading,Building jangbu)
	cargo build --release --locked -p jangbu -p test-servers
	$(call heading,Purchases on PostgreSQL)
	benches/postgres.sh '$(TARGET)/release/jangbu' '$(TARGET)/release/test-servers' $(ARGS)

audit: setup-test ## known vulnerabilities in the dependencies; needs the network
	$(call heading,Advisories)
	cargo deny check advisories

clean-data: ## delete the demo shop: its log, views and keys in ./data (DATA=)
	@case '$(DATA)' in ''|/|.|..) echo 'DATA names no data directory' >&2; exit 2;; esac
	@if [ -e '$(DATA)' ] && [ ! -e '$(DATA)/log.db' ]; then echo '$(DATA) holds no log.db: not deleted' >&2; exit 2; fi
	rm -rf -- '$(DATA)'

services: setup-servers ## PostgreSQL, Redis and Kafka on free ports, for a shell: prints their addresses, stays until Ctrl-C
	@cargo build --quiet --locked -p test-servers
	@exec '$(TARGET)/debug/test-servers' hold postgres redis kafka

setup-build:
	@tools/setup.sh build

setup-test:
	@tools/setup.sh test

setup-servers:
	@tools/setup.sh servers
