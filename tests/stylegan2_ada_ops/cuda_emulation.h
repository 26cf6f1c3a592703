// CUDA threads on the CPU: the .cu files of the project, compiled by a C++ compiler behind this header, run as they are.
//
// A block's threads are fibers that take turns; a barrier hands over to the next one. They run in ascending or in
// descending order, so that a missing barrier shows as a result that depends on the order. Blocks run one after another
// and `__shared__` variables keep what the last block left. A barrier that not all threads of a block (of a warp) reach
// is reported.
#pragma once

#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__

struct emulated_index {
  unsigned int x, y, z;
};
static emulated_index threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

enum State { READY, AT_BLOCK_BARRIER, AT_WARP_BARRIER, DONE };

struct Fiber {
  ucontext_t context;
  jmp_buf jump;
  bool started;
  std::vector<char> stack;
  void* sanitizer = nullptr;
  State state = READY;
  emulated_index index;
};

static const size_t STACK = 128 << 10;
static std::vector<Fiber> fibers;
static std::vector<double> slots[2];  // what the threads of a warp show each other, by turns
static std::vector<unsigned char> turn;
static ucontext_t scheduler;
static jmp_buf scheduler_jump;
static void* scheduler_sanitizer;
static const void* scheduler_stack;
static size_t scheduler_stack_size;
static size_t current;
static int any, any_result;
static void (*body)(const void*);
static const void* arguments;
static char error[256];

// A fiber starts through <ucontext.h>; after that, jumps are quicker because they leave the signal mask alone. The
// sanitizers want to be told of every switch and follow the slower way only.
#if defined(__SANITIZE_ADDRESS__)
inline void to_scheduler(bool last) {
  Fiber& f = fibers[current];
  __sanitizer_start_switch_fiber(last ? nullptr : &f.sanitizer, scheduler_stack, scheduler_stack_size);
  if (last)
    setcontext(&scheduler);
  else
    swapcontext(&f.context, &scheduler);
  __sanitizer_finish_switch_fiber(f.sanitizer, nullptr, nullptr);
}
#else
inline void to_scheduler(bool last) {
  if (last || _setjmp(fibers[current].jump) == 0) _longjmp(scheduler_jump, 1);
}
#endif

inline void fiber_main() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_size);
#endif
  body(arguments);
  fibers[current].state = DONE;
  to_scheduler(true);
}

inline void wait(State barrier) {
  fibers[current].state = barrier;
  to_scheduler(false);
}

inline void resume(size_t i) {
  current = i;
  Fiber& f = fibers[i];
  threadIdx = f.index;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&scheduler_sanitizer, f.stack.data(), STACK);
  swapcontext(&scheduler, &f.context);
  __sanitizer_finish_switch_fiber(scheduler_sanitizer, nullptr, nullptr);
#else
  if (_setjmp(scheduler_jump) == 0) {
    if (f.started) _longjmp(f.jump, 1);
    f.started = true;
    setcontext(&f.context);
  }
#endif
}

// Lets fibers first ... last - 1 pass a barrier if all of them stand at it; 0: some do not.
inline bool release(size_t first, size_t last, State barrier) {
  for (size_t i = first; i < last; ++i)
    if (fibers[i].state != barrier) return false;
  for (size_t i = first; i < last; ++i) fibers[i].state = READY;
  return true;
}

inline bool run_block(bool descending) {
  const size_t n = size_t(blockDim.x) * blockDim.y * blockDim.z;
  if (fibers.size() < n) fibers.resize(n);
  for (auto& s : slots) s.resize(n);
  turn.assign(n, 0);
  any = 0;
  for (size_t i = 0; i < n; ++i) {
    Fiber& f = fibers[i];
    f.stack.resize(STACK);
    f.state = READY;
    f.started = false;
    f.index = {unsigned(i % blockDim.x), unsigned(i / blockDim.x % blockDim.y), unsigned(i / blockDim.x / blockDim.y)};
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack.data();
    f.context.uc_stack.ss_size = STACK;
    f.context.uc_link = nullptr;
    makecontext(&f.context, fiber_main, 0);
  }
  for (;;) {
    bool ran = false;
    size_t done = 0;
    for (size_t k = 0; k < n; ++k) {
      const size_t i = descending ? n - 1 - k : k;
      if (fibers[i].state == READY) {
        resume(i);
        ran = true;
      }
    }
    for (size_t i = 0; i < n; ++i) done += fibers[i].state == DONE;
    if (done == n) return true;
    const int found = any;
    if (release(0, n, AT_BLOCK_BARRIER)) {
      any_result = found;
      any = 0;
      ran = true;
    }
    for (size_t first = 0; first < n; first += 32)
      ran |= release(first, first + 32 < n ? first + 32 : n, AT_WARP_BARRIER);
    if (!ran) {
      snprintf(error, sizeof error, "threads of block %u wait at a barrier that others do not reach", blockIdx.x);
      return false;
    }
  }
}

// Runs a kernel; the message of an error, or null.
inline const char* launch(void (*kernel)(const void*), const void* args, unsigned grid, unsigned x, unsigned y,
                          unsigned z, bool descending) {
  if (size_t(x) * y * z > 1024 || z > 64 || x == 0 || y == 0 || z == 0 || grid == 0 || grid > 0x7fffffffu)
    return "a grid or block of a size that GPUs do not have";
  body = kernel;
  arguments = args;
  blockDim = {x, y, z};
  gridDim = {grid, 1, 1};
  for (unsigned b = 0; b < grid; ++b) {
    blockIdx = {descending ? grid - 1 - b : b, 0, 0};
    if (!run_block(descending)) return error;
  }
  return nullptr;
}

// One barrier is enough: what this one shows is overwritten two exchanges later, behind the next one's barrier.
template <typename T>
inline T exchange(T value, size_t partner) {
  auto& shown = slots[turn[current] ^= 1];
  memcpy(&shown[current], &value, sizeof value);
  wait(AT_WARP_BARRIER);
  T other;
  memcpy(&other, &shown[partner], sizeof other);
  return other;
}

}  // namespace emulation

inline void __syncthreads() { emulation::wait(emulation::AT_BLOCK_BARRIER); }

inline int __syncthreads_or(int value) {
  emulation::any |= value != 0;
  emulation::wait(emulation::AT_BLOCK_BARRIER);
  return emulation::any_result;
}

inline void __syncwarp(unsigned = 0xffffffffu) { emulation::wait(emulation::AT_WARP_BARRIER); }

template <typename T>
inline T __shfl_xor_sync(unsigned, T value, int lanes) {
  return emulation::exchange(value, emulation::current ^ size_t(lanes));
}
