MODULES         += daemon
daemon_NOTIFY   := daemon/notify_$(if $(SYSTEMD),systemd,none).c
daemon_SRCS     := $(filter-out daemon/notify_% daemon/dsoffloadd.c daemon/dsctl% daemon/endurance.c,\
                     $(sort $(wildcard daemon/*.c))) $(daemon_NOTIFY)
daemon_USES     := nvme kernels common
daemon_CFLAGS   := -DDSRUN_VERSION='"$(DSRUN_VERSION)"' \
                     -DDAEMON_CONF_PATH='"$(sysconfdir)/dsoffload.conf"'
daemon_LIBS     := $(if $(SYSTEMD),-lsystemd)
PROGS           += dsoffloadd dsctl
dsoffloadd_SRCS := daemon/dsoffloadd.c
dsoffloadd_USES := daemon nvme kernels common
# Of kernels' libraries the daemon needs none: without this it would load a BLAS and its threads.
dsoffloadd_LIBS   := -Wl,--as-needed
dsctl_SRCS      := $(sort $(wildcard daemon/dsctl*.c)) daemon/endurance.c
dsctl_USES      := offload comm nvme kernels common
dsctl_LIBS      := -Wl,--as-needed

# Without libsystemd there is nobody to say READY=1 or to pet a watchdog.
$(B)/dsoffloadd.service: etc/dsoffloadd.service.in
	$(Q)mkdir -p $(@D); sed -e 's|@sbindir@|$(sbindir)|g' -e 's|@sysconfdir@|$(sysconfdir)|g' \
	    -e 's|@type@|$(if $(SYSTEMD),notify,exec)|' $(if $(SYSTEMD),,-e '/^WatchdogSec=/d') $< > $@
