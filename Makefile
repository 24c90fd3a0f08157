# `make test` installs what it needs and runs everything; each step is a target of its own.
# Works as root or with sudo, on Debian and Ubuntu. Nothing is skipped because a tool is missing.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:

export CARGO_TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))
# Tests drive the system's browsers; no package may download its own.
export PUPPETEER_SKIP_DOWNLOAD := 1
export PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD := 1

CARGO_FUZZ_VERSION := 0.13.2
# The sanitizers' flags are unstable; this lets the stable toolchain take them.
FUZZ := RUSTC_BOOTSTRAP=1 cargo fuzz
FUZZ_DIR := $(CARGO_TARGET_DIR)/fuzz
FUZZ_TARGETS := signaling session sdp stun rtp rtcp payload uplink downlink
TARGET ?= signaling
SECONDS ?= 600

LOGS := $(CARGO_TARGET_DIR)/test-logs
APT_PACKAGES := chromium firefox-esr iproute2 util-linux ca-certificates fonts-liberation g++
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: test all fmt lint docs unit lab bench-build fuzz-build fuzz-seeds fuzz fuzz-all web browser summary
.PHONY: deps deps-apt deps-npm deps-fuzz bench run clean-logs

## Everything, in the order in which mistakes are cheapest to find.
test: deps clean-logs fmt web lint unit docs browser bench-build fuzz-build fuzz-seeds summary

all: test

# --- what the steps need -----------------------------------------------------------------------

deps: deps-apt deps-npm deps-fuzz

deps-apt:
	if ! command -v chromium || ! command -v firefox-esr || ! command -v ip || ! command -v unshare || ! command -v g++ \
	    || [ ! -e /etc/ssl/certs/ca-certificates.crt ] || ! dpkg -s fonts-liberation; then
	  $(SUDO) apt-get update
	  DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y --no-upgrade --no-install-recommends $(APT_PACKAGES)
	fi >&2
	if ! command -v node || ! command -v npm || ! node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)'; then
	  echo "Node.js 20 or newer with npm is needed: https://nodejs.org" >&2
	  exit 1
	fi

deps-npm:
	for dir in web tests/browser; do
	  if [ ! -e $$dir/package-lock.json ]; then continue; fi
	  if [ ! -e $$dir/node_modules/.package-lock.json ] \
	      || [ $$dir/package-lock.json -nt $$dir/node_modules/.package-lock.json ]; then
	    (cd $$dir && npm ci)
	    touch $$dir/node_modules/.package-lock.json
	  fi
	done

deps-fuzz:
	cargo fuzz --version || cargo install cargo-fuzz --version $(CARGO_FUZZ_VERSION) --locked

# --- the steps ---------------------------------------------------------------------------------

fmt:
	cargo fmt --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml

lint:
	cargo clippy --locked --all-targets -- -D warnings

docs:
	RUSTDOCFLAGS=-Dwarnings cargo doc --locked --no-deps

## Unit tests, architecture, simulation, loopback, allocation counts.
unit:
	mkdir -p $(LOGS)
	cargo test --locked 2>&1 | tee $(LOGS)/cargo.log

## The impairment lab: a table and a graph for each scenario in target/lab/index.html.
lab:
	cargo test --locked --test lab -- --nocapture | grep -E '^[a-z-]+: (pass|FAIL)|^test result'
	echo "$(CARGO_TARGET_DIR)/lab/index.html"

web: deps-npm
	cd web && npm run check

## Chromium and Firefox against the release binary.
browser: deps-apt deps-npm
	mkdir -p $(LOGS)
	cargo build --locked --release
	cd tests/browser && SHARDCAST_BIN=$(CARGO_TARGET_DIR)/release/shardcast \
	  node run.js --test-reporter=tap 2>&1 | tee $(LOGS)/browser.log

bench-build:
	cargo bench --locked --no-run

bench:
	cargo bench --locked

fuzz-build: deps-fuzz
	$(FUZZ) build --target-dir $(FUZZ_DIR)

## Each target once over its seeds.
fuzz-seeds: fuzz-build
	mkdir -p $(LOGS)
	for target in $(FUZZ_TARGETS); do
	  $(FUZZ) run --target-dir $(FUZZ_DIR) $$target fuzz/seeds/$$target -- -runs=0 2>&1 | tail -n 3
	  echo "fuzz target $$target ran over $$(ls fuzz/seeds/$$target | wc -l) seeds" | tee -a $(LOGS)/fuzz.log
	done

## make fuzz TARGET=sdp SECONDS=600
fuzz: deps-fuzz
	mkdir -p fuzz/corpus/$(TARGET)
	dict=fuzz/dictionaries/$(TARGET).dict
	$(FUZZ) run --target-dir $(FUZZ_DIR) $(TARGET) fuzz/corpus/$(TARGET) fuzz/seeds/$(TARGET) -- \
	  -max_total_time=$(SECONDS) -timeout=10 -rss_limit_mb=2048 -max_len=16384 -len_control=0 \
	  $$([ ! -e $$dict ] || echo -dict=$$dict)

## make fuzz-all SECONDS=600: every target, one after another.
fuzz-all:
	for target in $(FUZZ_TARGETS); do $(MAKE) fuzz TARGET=$$target SECONDS=$(SECONDS); done

run:
	cargo run --locked --release

clean-logs:
	rm -rf $(LOGS)

## How many tests ran, as the last thing on the screen. Fails if a step left no count.
summary:
	rust=$$(awk '/^test result: ok/ { sum += $$4 } END { print sum + 0 }' $(LOGS)/cargo.log)
	browser=$$(awk '/^# pass/ { sum += $$3 } END { print sum + 0 }' $(LOGS)/browser.log)
	skipped=$$(awk '/^test result: ok/ { sum += $$8 } /^# (skipped|todo)/ { sum += $$3 } END { print sum + 0 }' $(LOGS)/*.log)
	seeds=$$(awk '/^fuzz target/ { sum += $$6 } END { print sum + 0 }' $(LOGS)/fuzz.log)
	echo "Rust tests passed: $$rust"
	echo "Browser tests passed: $$browser"
	echo "Fuzz seeds run: $$seeds"
	echo "Tests skipped: $$skipped"
	[ "$$rust" -gt 0 ] && [ "$$browser" -gt 0 ]

.ONESHELL:
