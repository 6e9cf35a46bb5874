#!/bin/bash
# Usage: B=BUILD_DIR bundle.sh FOLDER TEST... Makes FOLDER: programs, tests and scripts of check-gpu and
# bench-gpu with the libraries they load, so that it runs on a machine with a GPU, its driver, the CUDA
# libraries and a C library no older than this one's, and nothing else:
#
#	FOLDER/gpu/check.sh, FOLDER/gpu/bench.sh
#
# and FOLDER.tar.gz of it, for the way. The C library and CUDA's libraries stay out: they belong to the machine.
set -eu
B=${B:-build}
out=$1
shift
rm -rf "$out"
mkdir -p "$out/bin" "$out/tests" "$out/lib" "$out/gpu"
for program in dsrun dsworker dsoffloadd dsctl dsprep; do
	cp "$B/bin/$program" "$out/bin/"
done
cp "$@" "$out/tests/"
cp tests/gpu/*.sh tests/gpu/*.py "$out/gpu/"
git describe --always --dirty 2>/dev/null > "$out/commit" || echo unknown > "$out/commit"

# The libraries of a file that are not every machine's own.
libraries() {
	ldd "$1" | awk '$3 ~ "^/" { print $3 }' |
		grep -vE '/(libc|libm|libdl|librt|libpthread|libstdc\+\+|libgcc_s|libcuda|libcudart|libcublas.*|libnccl|libcudnn.*)\.so'
}

copy_libraries() {
	local lib
	for lib in $(libraries "$1"); do
		[ -e "$out/lib/$(basename "$lib")" ] || cp -L "$lib" "$out/lib/"
	done
}

for file in "$out"/bin/* "$out"/tests/*; do
	copy_libraries "$file"
done
# Loaded at run time by workers on the cpu device.
blas=$(ldconfig -p | awk '/libopenblas\.so\.0 / { print $NF; exit }')
if [ -n "$blas" ]; then
	cp -L "$blas" "$out/lib/libopenblas.so.0"
	copy_libraries "$blas"
fi
strip --strip-debug "$out"/bin/* "$out"/tests/* "$out"/lib/* 2>/dev/null || true
tar -C "$(dirname "$out")" -czf "$out.tar.gz" "$(basename "$out")"
echo "$out: $(du -sm "$out" | cut -f1) MiB; $out.tar.gz: $(du -m "$out.tar.gz" | cut -f1) MiB"
