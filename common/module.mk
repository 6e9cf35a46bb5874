MODULES      += common
common_SRCS  := $(sort $(wildcard common/*.c))
common_LIBS  := -lyaml -lhwloc
