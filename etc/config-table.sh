#!/bin/sh
# Usage: config-table.sh NVCC SYSTEMD MPICC CUDA_SOURCES MPI_SOURCES NCCL_HEADER
# What of the optional parts this build found and has in it. An empty argument: not found, or no
# source of ours that would use it.
row() { # name, what was found, our sources for it, what its absence means
	if [ -z "$3" ]; then
		set -- "$1" "$2" no "this source has nothing for it yet"
	elif [ -n "$2" ]; then
		set -- "$1" "$2" yes ''
	else
		set -- "$1" "$2" no "$4"
	fi
	printf '  %-10s %-7s %-9s %s\n' "$1" "$([ -n "$2" ] && echo yes || echo no)" "$3" "$4"
}
printf '  %-10s %-7s %-9s\n' optional found 'built in'
row CUDA "$1" "$4" 'no nvcc below CUDA_HOME: no device of type cuda'
row NCCL "$6" yes 'no nccl.h: a job has at most one device of type cuda'
row MPI "$3" "$5" 'no mpicc.mpich: CPU workers stay on one host'
row systemd "$2" yes 'no libsystemd: dsoffloadd does not notify'
