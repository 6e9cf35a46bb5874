/* Which sanitizer this is compiled for, and what the CUDA shim asks of it; nothing without one. */
#ifndef TESTS_CUDA_HOST_SANITIZER_H
#define TESTS_CUDA_HOST_SANITIZER_H

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SHIM_ASAN 1
#elif __has_feature(thread_sanitizer)
#define SHIM_TSAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) && !defined(SHIM_ASAN)
#define SHIM_ASAN 1
#elif defined(__SANITIZE_THREAD__) && !defined(SHIM_TSAN)
#define SHIM_TSAN 1
#endif

#ifdef SHIM_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define shim_forbid(at, bytes) __asan_poison_memory_region((at), (bytes))
#define shim_permit(at, bytes) __asan_unpoison_memory_region((at), (bytes))
#else
#define shim_forbid(at, bytes) ((void)(at), (void)(bytes))
#define shim_permit(at, bytes) ((void)(at), (void)(bytes))
#endif
#ifdef SHIM_TSAN
#include <sanitizer/tsan_interface.h>
#endif

#endif
