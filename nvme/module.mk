MODULES      += nvme
nvme_SRCS    := $(sort $(wildcard nvme/*.c))
nvme_USES    := common
nvme_LIBS    := -luring -laio
nvme_CFLAGS  := -DNVME_FIGURES_PATH='"$(sysconfdir)/dsoffload.tuned.yaml"'
