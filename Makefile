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
else
UNITDIR ?= $(SYSCONFDIR)/systemd/system
SYSUSERSDIR ?= $(SYSCONFDIR)/sysusers.d
endif
CONFIG := $(SYSCONFDIR)/ollad/ollad.yaml
TREE := build/tree

.DEFAULT_GOAL := help
.PHONY: help venv run lint test acceptance bench build visible-python install uninstall clean FORCE

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
	$(VENV)/bin/pytest tests/unit tests/wire --cov --cov-branch --cov-fail-under=90

acceptance: $(INSTALLED) ## tests with real SGLang servers, a real Prometheus, systemd and clients
	$(VENV)/bin/pytest tests/system

bench: $(INSTALLED) ## compare with other proxies and write docs/benchmarks.md, which says how
	$(VENV)/bin/python -m tests.bench.run

build: $(TREE)/.built ## what make install copies: ollad and its libraries

# The interpreter itself rather than a link or a virtual environment: the libraries' compiled parts
# fit one minor version, and the service must find it when no environment is active.
build/python: FORCE
	@mkdir -p build
	@$(PYTHON) -c 'import os, sys; print(os.path.realpath(sys.executable))' > $@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@

# setuptools would put modules that are gone since into the tree, out of its own build/lib.
$(TREE)/.built: build/python setup.cfg pyproject.toml $(shell find ollad ! -path '*/__pycache__*')
	rm -rf $(TREE) build/lib build/bdist.*
	"$$(cat build/python)" -m venv --clear build/venv
	build/venv/bin/pip install --quiet --disable-pip-version-check --root-user-action=ignore \
	  --no-compile --target $(TREE) .
	rm -rf $(TREE)/bin
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
	sed -e 's|@BINDIR@|$(BINDIR)|' -e 's|@DOCDIR@|$(DOCDIR)|' -e 's|@CONFIG@|$(CONFIG)|' \
	  systemd/ollad.service > build/ollad.service
	install -D -m 0644 build/ollad.service $(DESTDIR)$(UNITDIR)/ollad.service
	install -D -m 0644 systemd/ollad.sysusers $(DESTDIR)$(SYSUSERSDIR)/ollad.conf
ifeq ($(DESTDIR),)
	! command -v systemd-sysusers > /dev/null || systemd-sysusers $(SYSUSERSDIR)/ollad.conf
	! test -d /run/systemd/system || systemctl daemon-reload
endif
	install -d $(DESTDIR)$(dir $(CONFIG))
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
	  systemctl disable --now ollad.service
endif
	rm -rf $(DESTDIR)$(LIBDIR) $(DESTDIR)$(DOCDIR)
	rm -f $(DESTDIR)$(BINDIR)/ollad $(DESTDIR)$(UNITDIR)/ollad.service
	rm -f $(DESTDIR)$(SYSUSERSDIR)/ollad.conf
ifeq ($(DESTDIR),)
	! test -d /run/systemd/system || systemctl daemon-reload
	@echo '$(dir $(CONFIG)) and the user ollad are still there.'
endif

clean: ## remove .venv and everything that tools left behind
	rm -rf $(VENV) build dist *.egg-info .coverage .coverage.* htmlcov
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find ollad tests -name __pycache__ -type d -prune -exec rm -rf {} +

FORCE:
