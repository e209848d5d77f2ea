# A bare `make` prints what there is; every target has its line of help after `##`.
# CARGO_TARGET_DIR is honoured, by cargo itself and by what is started from its output.

CARGO ?= cargo
# Where `make worlds` puts them; `make test` and `make bench` use them when they are up.
WORLDS := $(or $(MISTRY_WORLDS),$(or $(TMPDIR),/tmp)/mistry-worlds-$(shell id -u))

# The scripts find what is up already by this.
with := $(if $(wildcard $(WORLDS)/environment),MISTRY_WORLDS="$(WORLDS)") tests/worlds/with

.DEFAULT_GOAL := help
.PHONY: help demo check test soak bench screenshots worlds clean-worlds deb

help: ## print this
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: ## build an example project on this host, twice and once more, and see what happens
	@CARGO="$(CARGO)" examples/demo

check: ## format, lints and the fast tests: no root, no Docker
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings
	$(CARGO) test --locked --lib --bins --test it

test: ## everything, the real worlds included (Docker, Btrfs, sshd, rsync): needs root or sudo
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
	MISTRY_SCREENSHOTS="$(CURDIR)/docs/screenshots" $(with) --few $(CARGO) test --locked --test world browser::screenshots

deb: ## build the Debian packages mistryd and mistry into target/deb/
	@CARGO="$(CARGO)" packaging/build

worlds: ## bring up the real worlds, leave them up, print the environment that tests need
	@[ -e "$(WORLDS)/environment" ] || tests/worlds/up "$(WORLDS)"
	@cat "$(WORLDS)/environment"

clean-worlds: ## take them down again, and remove the Node base image of the tests
	@tests/worlds/clean "$(WORLDS)"
