# install and uninstall. Every installed file is in one list, which both read, so that uninstall
# removes exactly what install put there. PREFIX, DESTDIR and the GNU directories are the Makefile's.

bashcompdir ?= $(PREFIX)/share/bash-completion/completions
sysusersdir ?= $(PREFIX)/lib/sysusers.d
tmpfilesdir ?= $(PREFIX)/lib/tmpfiles.d

install_bin     := $(filter dsrun dsctl dsprep,$(PROGS))
install_sbin    := $(filter dsoffloadd,$(PROGS))
install_libexec := $(filter dsworker,$(PROGS))
install_man     := $(wildcard man/*.1 man/*.5 man/*.8)
install_units   := $(patsubst etc/%.in,%,$(wildcard etc/*.service.in etc/*.socket.in))
install_users   := $(wildcard etc/sysusers.d/*.conf)
install_tmp     := $(wildcard etc/tmpfiles.d/*.conf)
install_comp    := $(wildcard etc/completion/*)
install_doc     := $(wildcard README.md ARCHITECTURE.md LICENSE etc/*.conf examples/*.yaml)
man_section      = $(patsubst .%,%,$(suffix $(1)))

# SOURCE:TARGET:MODE, one word each.
install_list := \
	$(foreach p,$(install_bin),$(B)/bin/$p:$(bindir)/$p:755) \
	$(foreach p,$(install_sbin),$(B)/bin/$p:$(sbindir)/$p:755) \
	$(foreach p,$(install_libexec),$(B)/bin/$p:$(libexecdir)/$p:755) \
	$(foreach m,$(install_man),$m:$(mandir)/man$(call man_section,$m)/$(notdir $m):644) \
	$(foreach u,$(install_units),$(B)/$u:$(unitdir)/$u:644) \
	$(foreach f,$(install_users),$f:$(sysusersdir)/$(notdir $f):644) \
	$(foreach f,$(install_tmp),$f:$(tmpfilesdir)/$(notdir $f):644) \
	$(foreach f,$(install_comp),$f:$(bashcompdir)/$(notdir $f):644) \
	$(foreach d,$(install_doc),$d:$(docdir)/$(notdir $d):644)

$(B)/%.service: etc/%.service.in
	$(Q)mkdir -p $(@D); sed -e 's|@sbindir@|$(sbindir)|g' -e 's|@bindir@|$(bindir)|g' \
	    -e 's|@libexecdir@|$(libexecdir)|g' -e 's|@sysconfdir@|$(sysconfdir)|g' $< > $@
$(B)/%.socket: etc/%.socket.in
	$(Q)mkdir -p $(@D); sed -e 's|@sysconfdir@|$(sysconfdir)|g' $< > $@

install: all $(install_units:%=$(B)/%)
	$(Q)set -e; for f in $(install_list); do \
	    source=$${f%%:*} rest=$${f#*:}; target="$(DESTDIR)$${rest%%:*}"; \
	    install -D -m "$${rest#*:}" "$$source" "$$target"; done
	@echo "installed $(words $(install_list)) files below $(DESTDIR)$(PREFIX)"

# Directories go when they are empty and ours: the private ones, then what DESTDIR alone created.
uninstall:
	$(Q)set -e; for f in $(install_list); do \
	    rest=$${f#*:}; rm -f "$(DESTDIR)$${rest%%:*}"; done
	$(Q)for d in "$(DESTDIR)$(libexecdir)" "$(DESTDIR)$(docdir)"; do \
	    [ ! -d "$$d" ] || rmdir "$$d"; done
	@echo "removed $(words $(install_list)) files below $(DESTDIR)$(PREFIX)"
.PHONY: install uninstall
