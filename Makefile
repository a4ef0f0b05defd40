PYTHON ?= python3
VENV := .venv
RUNNABLE := $(VENV)/.runnable
INSTALLED := $(VENV)/.installed

PREFIX ?= /usr/local
DESTDIR ?=
SYSCONFDIR ?= /etc
BINDIR := $(PREFIX)/bin
LIBDIR := $(PREFIX)/lib/ollad
DOCDIR := $(PREFIX)/share/doc/ollad
ifeq ($(PREFIX),/usr)
UNITDIR ?= /lib/systemd/system
SYSUSERSDIR ?= /usr/lib/sysusers.d
ZSHDIR ?= /usr/share/zsh/vendor-completions
else
UNITDIR ?= $(SYSCONFDIR)/systemd/system
SYSUSERSDIR ?= $(SYSCONFDIR)/sysusers.d
ZSHDIR ?= $(PREFIX)/share/zsh/site-functions
endif
CONFIGDIR := $(SYSCONFDIR)/ollad
CONFIG := $(CONFIGDIR)/ollad.yaml
MANDIR := $(PREFIX)/share/man
BASHDIR := $(PREFIX)/share/bash-completion/completions
TREE := build/tree
# one that a package may depend on, unless another is asked for
DEBIAN_PYTHON := $(if $(filter file,$(origin PYTHON)),/usr/bin/python3,$(PYTHON))

.DEFAULT_GOAL := help
.PHONY: help venv run lint test test-compiled chaos acceptance fuzz bench bench-routing build visible-python install uninstall deb clean FORCE

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(INSTALLED) ## make .venv with ollad and everything for development (PYTHON=python3)

$(INSTALLED): setup.cfg pyproject.toml
	test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --use-pep517 --editable '.[dev]'
	touch $(RUNNABLE) $@

$(RUNNABLE): setup.cfg pyproject.toml
	@echo 'Installing ollad into .venv; this happens once and takes half a minute.'
	@test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

run: $(RUNNABLE) ## try ollad: two simulated backends, ollad in front, one chat; no GPU needed
	@$(VENV)/bin/python etc/demo.py

lint: $(INSTALLED) ## style, format and types
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

test: $(INSTALLED) ## unit and wire tests, branch coverage at least 90 %
	$(VENV)/bin/pytest tests/unit tests/wire tests/fuzz --cov --cov-branch --cov-fail-under=90

chaos: $(INSTALLED) ## two minutes of load while backends are killed, stopped, cut off; docs/chaos.md
	$(VENV)/bin/python -m tests.chaos

FUZZ_MINUTES ?= 10

fuzz: $(INSTALLED) ## fuzz parsers, headers, configuration: FUZZ_MINUTES each, or FUZZ=TARGET alone
	$(VENV)/bin/pip install --quiet --disable-pip-version-check 'atheris>=3'
	$(VENV)/bin/python -m tests.fuzz.run --minutes $(FUZZ_MINUTES) $(FUZZ)

test-compiled: $(INSTALLED) build ## the wire tests with ollad as make install installs it
	PYTHONPATH=$(TREE):. $(VENV)/bin/python -P -c 'from tests.compiled import COMPILED; assert COMPILED'
	PYTHONPATH=$(TREE):. $(VENV)/bin/pytest --import-mode=importlib tests/wire

acceptance: $(INSTALLED) build ## tests with real SGLang servers, a real Prometheus, systemd and clients
	OLLAD_TREE=$(TREE) $(VENV)/bin/pytest tests/system

bench: $(INSTALLED) build ## compare with other proxies and write docs/benchmarks.md, which says how
	$(VENV)/bin/python -m tests.bench.run

bench-routing: $(INSTALLED) ## compare routing policies on a trace and write docs/routing-benchmarks.md
	TRACE='$(TRACE)' $(VENV)/bin/python -m tests.bench.routing.run

build: $(TREE)/.built ## what make install copies: ollad, its libraries, its manual

# The interpreter itself rather than a link or a virtual environment: the libraries' compiled parts
# fit one minor version, and the service must find it when no environment is active.
build/python: FORCE
	@mkdir -p build
	@$(PYTHON) -c 'import os, sys; print(os.path.realpath(sys.executable))' > $@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@

# What is missing to compile: once it is there, what was built without it is built again.
build/lacking: build/python FORCE
	@"$$(cat build/python)" etc/compile.py > $@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@

# setuptools would put modules that are gone since into the tree, out of its own build/lib.
$(TREE)/.built: build/python build/lacking etc/compile.py setup.cfg pyproject.toml $(shell find ollad ! -path '*/__pycache__*')
	rm -rf $(TREE) build/lib build/bdist.*
	"$$(cat build/python)" -m venv --clear build/venv
	build/venv/bin/pip install --quiet --disable-pip-version-check --root-user-action=ignore \
	  --no-compile --target $(TREE) .
	rm -rf $(TREE)/bin
	build/venv/bin/python -B etc/compile.py $(TREE)
	build/venv/bin/pip install --quiet --disable-pip-version-check --root-user-action=ignore \
	  'shtab>=1.7,<2'
	PYTHONPATH=$(TREE) build/venv/bin/python -B -m ollad.cli.manual build/man
	PYTHONPATH=$(TREE) build/venv/bin/python -B -m ollad.cli.completion build/completions
	touch $@

# ProtectHome= of the unit hides these from the service.
visible-python: build/python
	@case "$$(cat build/python)" in /home/* | /root/* | /run/user/*) \
	  echo "The service could not run $$(cat build/python)." \
	       "Name another Python: make $(MAKECMDGOALS) PYTHON=/usr/bin/python3" >&2; exit 1;; esac

install: visible-python build ## install below PREFIX (/usr/local), staged in DESTDIR if given; see docs/install.md
	install -d $(DESTDIR)$(BINDIR) $(DESTDIR)$(dir $(LIBDIR)) $(DESTDIR)$(DOCDIR)/docs
	rm -rf $(DESTDIR)$(LIBDIR).new $(DESTDIR)$(LIBDIR).old
	cp -R --preserve=timestamps $(TREE) $(DESTDIR)$(LIBDIR).new
	rm $(DESTDIR)$(LIBDIR).new/.built
	"$$(cat build/python)" -m compileall -q -s $(DESTDIR)$(LIBDIR).new -p $(LIBDIR) \
	  $(DESTDIR)$(LIBDIR).new
	chmod -R u=rwX,go=rX $(DESTDIR)$(LIBDIR).new
	test ! -e $(DESTDIR)$(LIBDIR) || mv $(DESTDIR)$(LIBDIR) $(DESTDIR)$(LIBDIR).old
	mv $(DESTDIR)$(LIBDIR).new $(DESTDIR)$(LIBDIR)
	rm -rf $(DESTDIR)$(LIBDIR).old
	sed -e "s|@PYTHON@|$$(cat build/python)|" -e 's|@LIBDIR@|$(LIBDIR)|' etc/launcher.in \
	  > build/launcher
	install -m 0755 build/launcher $(DESTDIR)$(BINDIR)/ollad
	install -m 0644 LICENSE README.md CHANGELOG.md etc/ollad.yaml $(DESTDIR)$(DOCDIR)
	install -m 0644 docs/*.md $(DESTDIR)$(DOCDIR)/docs
	install -D -m 0644 build/man/ollad.8 $(DESTDIR)$(MANDIR)/man8/ollad.8
	install -D -m 0644 build/man/ollad.yaml.5 $(DESTDIR)$(MANDIR)/man5/ollad.yaml.5
	install -D -m 0644 build/completions/ollad $(DESTDIR)$(BASHDIR)/ollad
	install -D -m 0644 build/completions/_ollad $(DESTDIR)$(ZSHDIR)/_ollad
	for unit in ollad.service ollad.socket; do \
	  sed -e 's|@BINDIR@|$(BINDIR)|' -e 's|@DOCDIR@|$(DOCDIR)|' -e 's|@CONFIG@|$(CONFIG)|' \
	    -e 's|@CONFIGDIR@|$(CONFIGDIR)|' systemd/$$unit > build/$$unit && \
	  install -D -m 0644 build/$$unit $(DESTDIR)$(UNITDIR)/$$unit || exit; \
	done
	install -D -m 0644 systemd/ollad.sysusers $(DESTDIR)$(SYSUSERSDIR)/ollad.conf
ifeq ($(DESTDIR),)
	! command -v systemd-sysusers > /dev/null || systemd-sysusers $(SYSUSERSDIR)/ollad.conf
	! test -d /run/systemd/system || systemctl daemon-reload
endif
	install -d $(DESTDIR)$(CONFIGDIR)
	install -d -m 0700 $(DESTDIR)$(CONFIGDIR)/credentials
	test -e $(DESTDIR)$(CONFIG) || install -m 0640 etc/ollad.yaml $(DESTDIR)$(CONFIG)
ifeq ($(DESTDIR),)
	! getent group ollad > /dev/null || chgrp ollad $(CONFIG)
	@printf '\n%s\n' 'ollad is installed. Next:' \
	  '  1. name your SGLang servers in $(CONFIG)' \
	  '  2. $(BINDIR)/ollad check --live' \
	  '  3. systemctl enable --now ollad      (if it ran before: systemctl restart ollad)' \
	  'After a change of the file: systemctl reload ollad'
endif

uninstall: ## take away what make install put there; the configuration stays
ifeq ($(DESTDIR),)
	! test -d /run/systemd/system || ! test -e $(UNITDIR)/ollad.service || \
	  systemctl disable --now ollad.socket ollad.service
endif
	rm -rf $(DESTDIR)$(LIBDIR) $(DESTDIR)$(DOCDIR)
	rm -f $(DESTDIR)$(BINDIR)/ollad $(DESTDIR)$(UNITDIR)/ollad.service
	rm -f $(DESTDIR)$(UNITDIR)/ollad.socket $(DESTDIR)$(SYSUSERSDIR)/ollad.conf
	rm -f $(DESTDIR)$(MANDIR)/man8/ollad.8 $(DESTDIR)$(MANDIR)/man5/ollad.yaml.5
	rm -f $(DESTDIR)$(BASHDIR)/ollad $(DESTDIR)$(ZSHDIR)/_ollad
ifeq ($(DESTDIR),)
	! test -d /run/systemd/system || systemctl daemon-reload
	@echo '$(CONFIGDIR) and the user ollad are still there.'
endif

deb: ## build a Debian package in dist/, for the Debian release and the architecture of this machine
	rm -rf build/deb
	$(MAKE) --no-print-directory install DESTDIR=$(CURDIR)/build/deb PREFIX=/usr SYSCONFDIR=/etc \
	  PYTHON=$(DEBIAN_PYTHON)
	"$$(cat build/python)" etc/debian/make_package.py build/deb dist

clean: ## remove .venv and everything that tools left behind
	rm -rf $(VENV) build dist *.egg-info .coverage .coverage.* htmlcov
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find ollad tests -name __pycache__ -type d -prune -exec rm -rf {} +

FORCE:
