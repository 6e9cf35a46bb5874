#!/bin/sh
# Usage: config-table.sh NVCC SYSTEMD MPICC. What of the optional parts this build found; an empty
# argument is a part that is left out whole.
row() {
	printf '  %-10s %-7s %s\n' "$1" "$([ -n "$2" ] && echo found || echo absent)" "$3"
}
echo 'optional part'
row CUDA "$1" "${1:-no nvcc below CUDA_HOME: no device of type cuda}"
row MPI "$3" "${3:-no mpicc.mpich: CPU workers stay on one host}"
row systemd "$2" "$([ -n "$2" ] && echo "libsystemd" || echo "no libsystemd: dsoffloadd does not notify")"
