// Where the samples and taps of upfirdn2d meet: the arithmetic that the CPU and the CUDA kernels share.
//
// Along one axis, with g the filter in the order of a correlation,
//
//     y[o] = sum_j g[j] * u[o * down + j - pad],      u[i * up] = x[i], all other samples of u zero.
//
// Only every up-th tap meets a sample. No headers of torch or of the standard library: NVRTC reads this file, too.
#pragma once

#include "common.h"

namespace sg {

// One axis: `size` samples in, `out` samples out, a filter of `taps` taps.
struct Axis {
  long long size, up, down, pad, out, taps;
};

// What meets at one output: x[sample + k] with g[tap + k * up], for k in [0, count).
struct Span {
  long long sample, tap, count;
};

// a / b rounded towards minus infinity, b > 0.
SG_INLINE long long floor_div(long long a, long long b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }

// All taps of output `o`, whether their sample lies inside the image or not.
SG_INLINE Span span_unbounded(const Axis& a, long long o) {
  const long long start = o * a.down - a.pad;  // where tap 0 lies in u
  const long long sample = -floor_div(-start, a.up);
  const long long tap = sample * a.up - start;
  return {sample, tap, tap < a.taps ? (a.taps - 1 - tap) / a.up + 1 : 0};
}

// The taps of output `o` that meet a sample of the image; `count` may be 0.
SG_INLINE Span span(const Axis& a, long long o) {
  Span s = span_unbounded(a, o);
  if (s.sample < 0) {
    s.tap -= s.sample * a.up;
    s.count += s.sample;
    s.sample = 0;
  }
  if (s.count > a.size - s.sample) s.count = a.size - s.sample;
  if (s.count < 0) s.count = 0;
  return s;
}

// Where tap j of the correlation lies in a stored filter; a true convolution (flip = false) turns the filter round.
SG_INLINE long long stored_tap(long long j, long long taps, bool flip) { return flip ? j : taps - 1 - j; }

}  // namespace sg
