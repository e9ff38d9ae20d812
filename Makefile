# SPDX-License-Identifier: GPL-2.0-only
#
# make demo       the main job on real traffic, shown and checked
# make test       every test (as root)
# make soak       20 minutes of coming and going: memory, descriptors and maps stay as they are
# make fuzz       the state machine beside its model, and mangled settings, for minutes; SEED=n for
#                 other ones (as root)
# make peers      fetch the programs that the tunnel is tested against
# make bench      measure beside plain UDP (as root): make bench BENCH='--quick'
# make matrix     every sender over every link in every mode, several minutes (as root)
# make check      format, lint, types and unit tests, without root
# make man        the manual pages, in build/man
# make completions
#                 what shells complete, in build/completions
# make deb        a Debian package, in dist/
# make system-test
#                 that package on this machine, under traffic (as root, where systemd runs)
# make install    commands, libraries, bus policy and units, in $(DESTDIR)$(prefix)
# make uninstall  what install put there

prefix = /usr/local
bindir = $(prefix)/bin
sbindir = $(prefix)/sbin
datadir = $(prefix)/share
# A folder of our own, not a site directory: it outlives an upgrade of Python.
pythondir = $(datadir)/mimicd
unitdir = $(prefix)/lib/systemd/system
# The bus reads activation files under /usr/local too, but policies only under /usr and /etc.
policydir = $(if $(filter /usr,$(prefix)),/usr/share,/etc)/dbus-1/system.d
servicedir = $(datadir)/dbus-1/system-services
interfacedir = $(datadir)/dbus-1/interfaces
# polkit reads actions under /usr/share only
actiondir = /usr/share/polkit-1/actions
exampledir = $(datadir)/doc/mimicd/examples
mandir = $(datadir)/man
# Debian has a folder of its own for packages' completions
zshdir = $(if $(filter /usr,$(prefix)),vendor-completions,site-functions)
completions = $(foreach command,mimicctl mimicd,bash-completion/completions/$(command) \
    zsh/$(zshdir)/_$(command) fish/vendor_completions.d/$(command).fish)
python = /usr/bin/python3
# "no" leaves the byte code, or Debian's packages, to a package manager
compile = yes
packages = yes

modules = $(shell find mimicd mimicctl kaminari -name '*.py' -o -name '*.varlink')
sources = $(wildcard bpf/*.c bpf/*.h)
policies = $(wildcard dbus/*.conf)
services = $(wildcard dbus/*.service)
interfaces = $(wildcard dbus/*.xml)
units = $(wildcard systemd/*.service)
actions = $(wildcard dbus/*.policy)
examples = $(wildcard systemd/*.example)
pages = $(foreach page,$(patsubst man/%.in,%,$(wildcard man/*.in)),\
    man$(patsubst .%,%,$(suffix $(page)))/$(page))

# $(call put,FILES,FOLDER): files in the tree name the commands where a distribution has them.
define put
	$(if $(1),install -d '$(DESTDIR)$(2)')
	set -e; for file in $(1); do \
	    sed 's|/usr/sbin/mimicd|$(sbindir)/mimicd|; s|/usr/bin/mimicctl|$(bindir)/mimicctl|' \
	        "$$file" >'$(DESTDIR)$(2)'/"$${file##*/}"; \
	    chmod 644 '$(DESTDIR)$(2)'/"$${file##*/}"; done
endef

# $(call command,FILE,MODULE,FUNCTION)
define command
	install -d '$(DESTDIR)$(dir $(1))'
	printf '%s\n' '#!$(python) -sP' 'import sys' '' 'sys.path.insert(0, "$(pythondir)")' \
	    'from $(2) import $(3)' '' 'sys.exit($(3)())' >'$(DESTDIR)$(1)'
	chmod 755 '$(DESTDIR)$(1)'
endef

# Only an installation on this machine, not one into a folder to be packed, is told to systemd.
define reload_units
	test -n '$(DESTDIR)' || test ! -d /run/systemd/system || systemctl daemon-reload
endef

BENCH = --topology direct,router --family 4,6

.SILENT:
.PHONY: all demo test fuzz matrix peers bench check man completions deb soak system-test install uninstall
all: check

demo:
	./demo.sh

test:
	./test.sh

matrix:
	./setup.sh --dev
	.venv/bin/python -m pytest tests/matrix -m slow

fuzz:
	./setup.sh --dev
	SEED='$(SEED)' .venv/bin/python -m pytest -m slow tests/bpf/test_model.py tests/unit/test_grammar.py

peers:
	sh tests/peers/fetch.sh

bench:
	./setup.sh --dev
	.venv/bin/python -m bench --output build/bench $(BENCH)

check:
	./setup.sh --dev
	.venv/bin/python -m pytest -m 'not slow' tests/unit

man:
	$(python) -B -m man.build build/man

completions:
	$(python) -B -m completions.build build/completions

# Built in a copy, since dpkg writes beside the tree that it builds, and into it.
deb:
	./setup.sh --deb
	rm -rf build/deb
	mkdir -p build/deb/tree dist
	tar -c --exclude=__pycache__ --exclude='./.*' --exclude=./build \
	    --exclude=./dist --exclude=./tests . | tar -x -C build/deb/tree
	# setup.sh installed what is needed; the compiler that dpkg takes for granted is not
	cd build/deb/tree && dpkg-buildpackage --no-check-builddeps --build=binary \
	    --unsigned-changes >../log 2>&1 || { tail -n 20 ../log >&2; exit 1; }
	rm -f dist/mimicd_*.deb
	mv build/deb/mimicd_*.deb dist/
	ls dist/mimicd_*.deb

soak:
	./setup.sh --dev
	.venv/bin/python -B -m tests.netns.soak --minutes 20

system-test: deb
	python3 -B -m tests.system dist/mimicd_*.deb

install:
	test -n '$(DESTDIR)' -o '$(packages)' = no || ./setup.sh --packages
	set -e; for file in $(modules); do \
	    install -D -m 644 "$$file" '$(DESTDIR)$(pythondir)'/"$$file"; done
	$(call put,$(sources),$(pythondir)/mimicd/_bpf)
	test '$(compile)' = no || $(python) -m compileall -q -s '$(DESTDIR)' '$(DESTDIR)$(pythondir)'
	$(call command,$(sbindir)/mimicd,mimicd.__main__,main)
	$(call command,$(bindir)/mimicctl,mimicctl.__main__,main)
	$(call command,$(bindir)/kaminaric,kaminari.command,client_main)
	$(call command,$(bindir)/kaminaris,kaminari.command,server_main)
	$(call put,$(policies),$(policydir))
	$(call put,$(services),$(servicedir))
	$(call put,$(interfaces),$(interfacedir))
	$(call put,$(units),$(unitdir))
	# what bus activation starts; shipped, so that it works before anything is enabled
	ln -sf mimicd.service '$(DESTDIR)$(unitdir)/dbus-org.mimicd1.service'
	$(call put,$(actions),$(actiondir))
	$(call put,$(examples),$(exampledir))
	$(python) -B -m man.build '$(DESTDIR)$(mandir)'
	cd '$(DESTDIR)$(mandir)' && chmod 644 $(pages)
	$(python) -B -m completions.build '$(DESTDIR)$(datadir)' $(zshdir)
	cd '$(DESTDIR)$(datadir)' && chmod 644 $(completions)
	$(reload_units)
	echo 'installed in $(DESTDIR)$(prefix): mimicd, mimicctl, kaminaric, kaminaris'

uninstall:
	rm -rf '$(DESTDIR)$(pythondir)'
	rm -f '$(DESTDIR)$(sbindir)/mimicd' $(foreach name,mimicctl kaminaric kaminaris,\
	    '$(DESTDIR)$(bindir)/$(name)')
	rm -f $(foreach file,$(policies),'$(DESTDIR)$(policydir)/$(notdir $(file))') \
	    $(foreach file,$(services),'$(DESTDIR)$(servicedir)/$(notdir $(file))') \
	    $(foreach file,$(interfaces),'$(DESTDIR)$(interfacedir)/$(notdir $(file))') \
	    $(foreach file,$(units),'$(DESTDIR)$(unitdir)/$(notdir $(file))') \
	    '$(DESTDIR)$(unitdir)/dbus-org.mimicd1.service' \
	    $(foreach file,$(actions),'$(DESTDIR)$(actiondir)/$(notdir $(file))')
	rm -rf '$(DESTDIR)$(exampledir)'
	rmdir '$(DESTDIR)$(datadir)/doc/mimicd' 2>/dev/null || true
	rm -f $(foreach page,$(pages),'$(DESTDIR)$(mandir)/$(page)') \
	    $(foreach file,$(completions),'$(DESTDIR)$(datadir)/$(file)')
	test -n '$(DESTDIR)' || rm -rf /var/cache/mimicd
	$(reload_units)
