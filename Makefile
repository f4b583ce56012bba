# Every target works on a fresh clone of a bare Debian 12 with only Rust and make; the second run is quick.
SHELL := /bin/bash

# Through the environment: a password is no part of a command line.
export SOURCE

# Most tests wait: for a Postgres, for the disk, for the network. One more than two processors can run at a time.
export RUST_TEST_THREADS ?= $(shell n=$$(nproc); echo $$((n > 3 ? n : 3)))

.PHONY: demo test bench bench-store bench-replication bench-proxy lint setup

demo: setup              ## set up what is missing, build, and show the main job; SOURCE=postgresql://... on your own server
	cargo build --release --locked
	$(if $(SOURCE),scripts/demo-source.sh,scripts/demo.sh)

test: setup              ## set up what is missing, build, and run every test
	cargo test --release --workspace --locked

bench: setup             ## what a branch costs in time, beside the ordinary ways to copy a database
	cargo bench --locked --bench branch_create

bench-store: setup       ## forks, Postgres on a branch beside the host's file system, space, memory
	cargo bench --locked --bench store

bench-replication: setup ## what following a source costs, beside Postgres' own subscription, dump and restore
	cargo bench --locked --bench replication

bench-proxy: setup       ## what the front door costs, beside a direct connection and beside pgbouncer
	cargo bench --locked --bench proxy

lint:                    ## formatting and lints, warnings denied
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

setup:                   ## install the Debian packages and drivers that are missing
	scripts/setup.sh
