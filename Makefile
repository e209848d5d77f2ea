# A bare `make` prints what there is; every target has its line of help after `##`.
# CARGO_TARGET_DIR is honoured, by cargo itself and by what is started from its output.

CARGO ?= cargo
# The directory of `make environment`; `make test` and `make bench` use what is up there.
environment := $(or $(MISTRY_TEST_ENVIRONMENT),$(or $(TMPDIR),/tmp)/mistry-environment-$(shell id -u))

# The scripts find by this variable what is up already.
with := $(if $(wildcard $(environment)/environment),MISTRY_TEST_ENVIRONMENT="$(environment)") tests/environment/with

.DEFAULT_GOAL := help
.PHONY: help demo check test soak bench screenshots environment clean-environment deb

help: ## print this
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 20

demo: ## build an example project on this host, twice and once more, and see what happens
	@CARGO="$(CARGO)" examples/demo

check: ## format, lints and the fast tests: no root, no Docker, under a minute after a build
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings
	$(CARGO) test --locked --lib --bins --test it -- --skip slow:: --test-threads 8

test: ## everything, the system tests included (Docker, Btrfs, sshd, rsync): needs root or sudo
	$(with) $(CARGO) test --locked
	@echo 'checking that the fuzz targets compile' >&2
	RUSTFLAGS='--cfg fuzzing' $(CARGO) check --quiet --locked --manifest-path fuzz/Cargo.toml \
		--no-default-features --target-dir "$${CARGO_TARGET_DIR:-target}/fuzz/check"

soak: ## the same, with what is repeated repeated many more times; then the fuzz targets and the HTTP contract
	MISTRY_SOAK=1 $(with) $(CARGO) test --locked -- --include-ignored
	CARGO="$(CARGO)" fuzz/run
	CARGO="$(CARGO)" $(with) fuzz/contract

bench: ## measure, each figure against its yardstick
	$(with) $(CARGO) bench --locked

screenshots: ## take the pictures in docs/screenshots/ anew: needs a Docker Engine and a browser
	MISTRY_SCREENSHOTS="$(CURDIR)/docs/screenshots" $(with) --few $(CARGO) test --locked --test system browser::screenshots

deb: ## build the Debian packages mistryd and mistry into target/deb/
	@CARGO="$(CARGO)" packaging/build

environment: ## bring up what the system tests need, leave it up, print its variables
	@[ -e "$(environment)/environment" ] || tests/environment/up "$(environment)"
	@cat "$(environment)/environment"

clean-environment: ## take it down again, and remove the Node base image of the tests
	@tests/environment/clean "$(environment)"
