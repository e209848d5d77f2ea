# `make` without a target lists all targets, with the text after `##`.
# CARGO_TARGET_DIR is honoured, by cargo itself and by what is started from its output.

# Another cargo than the one that tests/environment/toolchain finds or installs: `make CARGO=… test`.
CARGO ?=
cargo := $(or $(CARGO),cargo)
rust := $(if $(CARGO),,PATH="$$(tests/environment/toolchain)" && export PATH &&)
# The directory of `make environment`; `make test` and `make bench` use what is up there.
environment := $(or $(MISTRY_TEST_ENVIRONMENT),$(or $(TMPDIR),/tmp)/mistry-environment-$(shell id -u))

# The scripts find by this variable what is up already.
with := $(if $(wildcard $(environment)/environment),MISTRY_TEST_ENVIRONMENT="$(environment)") tests/environment/with

# Where `make screenshots` leaves them.
pictures := $(abspath $(or $(MISTRY_SCREENSHOTS),$(or $(CARGO_TARGET_DIR),target)/screenshots))

.DEFAULT_GOAL := help
.PHONY: help demo check test soak engines bench screenshots environment clean-environment deb

help: ## print this
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 20

demo: ## build an example project on this host: new, cached, incremental
	@CARGO="$(CARGO)" examples/demo

check: ## format, lints and the fast tests: no root, no Docker, under a minute after a build
	$(rust) $(cargo) fmt --check
	$(rust) $(cargo) clippy --all-targets --locked -- -D warnings
	$(rust) $(cargo) test --locked --lib --bins --test it -- --skip slow:: --test-threads 4

test: ## all tests, including the system tests (Docker, Btrfs, sshd, rsync, whole machines): needs root or sudo
	$(with) $(cargo) test --locked
	@echo 'checking that the fuzz targets compile' >&2
	$(rust) RUSTFLAGS='--cfg fuzzing' $(cargo) check --quiet --locked --manifest-path fuzz/Cargo.toml \
		--no-default-features --target-dir "$${CARGO_TARGET_DIR:-target}/fuzz/check"

soak: ## all tests, with many more repetitions; then the fuzz targets, the HTTP contract and all Engines
	MISTRY_SOAK=1 $(with) $(cargo) test --locked -- --include-ignored
	$(rust) CARGO="$(CARGO)" fuzz/run
	CARGO="$(CARGO)" $(with) fuzz/contract
	$(rust) CARGO="$(CARGO)" tests/environment/engines

engines: ## the tests that speak to the Engine, on each Docker and podman that is supported (or ENGINES="docker-26.1 podman-5.4"): needs root or sudo
	@$(rust) CARGO="$(CARGO)" tests/environment/engines $(ENGINES)

bench: ## measure, and compare each figure with a reference
	$(with) $(cargo) bench --locked

screenshots: ## take pictures of all pages into target/screenshots, and from there those in docs/: needs a Docker Engine and a browser
	MISTRY_SCREENSHOTS="$(pictures)" $(with) --few $(cargo) test --locked --test system browser::screenshots
	cd "$(pictures)" && cp $(notdir $(wildcard docs/screenshots/*.png)) "$(CURDIR)/docs/screenshots/"

deb: ## build the Debian packages mistryd and mistry into target/deb/
	@CARGO="$(CARGO)" packaging/build

environment: ## start the environment of the system tests, leave it running, print its variables
	@[ -e "$(environment)/environment" ] || tests/environment/up "$(environment)"
	@cat "$(environment)/environment"

clean-environment: ## stop that environment, and remove the Node base image and the Debian trees of the tests
	@tests/environment/clean "$(environment)"
