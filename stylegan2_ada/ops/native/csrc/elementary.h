// exp, expm1, tanh and log1p. For float on the CPU they are polynomials without branches, which compilers turn into
// vector code; errors are a few units in the last place.
#pragma once

#include "common.h"

namespace sg {

SG_INLINE float abs_(float x) { return as_float(as_bits(x) & 0x7fffffffu); }
SG_INLINE double abs_(double x) { return x < 0.0 ? -x : x; }

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)

SG_INLINE float exp_(float x) { return expf(x); }
SG_INLINE double exp_(double x) { return exp(x); }
SG_INLINE float expm1_(float x) { return expm1f(x); }
SG_INLINE double expm1_(double x) { return expm1(x); }
SG_INLINE float log1p_(float x) { return log1pf(x); }
SG_INLINE double log1p_(double x) { return log1p(x); }
SG_INLINE float tanh_(float x) { return tanhf(x); }
SG_INLINE double tanh_(double x) { return tanh(x); }

#else

SG_INLINE double exp_(double x) { return __builtin_exp(x); }
SG_INLINE double expm1_(double x) { return __builtin_expm1(x); }
SG_INLINE double log1p_(double x) { return __builtin_log1p(x); }
SG_INLINE double tanh_(double x) { return __builtin_tanh(x); }

// exp(x) = scale + scale * rest, scale a power of two and |rest| < 0.42: neither exp nor expm1 loses digits then.
struct SplitExp {
  float scale, rest;
};

SG_INLINE SplitExp split_exp(float x) {
  x = x > 88.3f ? 88.3f : x;  // beyond, the result is held at about 1e38, and below at 1e-38
  x = x < -87.3f ? -87.3f : x;
  const float round = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  float shifted = x * 1.44269504088896341f + round;
  float n = shifted - round;
  float r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  float p = 1.9841270e-4f;  // sum of r^k / k!, k = 2 ... 7, for |r| <= log(2) / 2
  p = p * r + 1.3888889e-3f;
  p = p * r + 8.3333333e-3f;
  p = p * r + 4.1666667e-2f;
  p = p * r + 1.6666667e-1f;
  p = p * r + 0.5f;
  p = p * r * r + r;
  return {as_float((as_bits(shifted) << 23) + 0x3f800000u), p};
}

SG_INLINE float exp_(float x) {
  SplitExp e = split_exp(x);
  return e.scale + e.scale * e.rest;
}

SG_INLINE float expm1_(float x) {
  SplitExp e = split_exp(x);
  return (e.scale - 1.0f) + e.scale * e.rest;
}

SG_INLINE float tanh_(float x) {
  float e = expm1_(-2.0f * abs_(x));
  float t = -e / (2.0f + e);
  return x < 0.0f ? -t : t;
}

SG_INLINE float log1p_(float x) {  // for 0 <= x <= 1: 2 artanh(x / (2 + x)), the argument of which is at most 1/3
  float s = x / (2.0f + x), q = s * s;
  float p = 1.0f / 15;
  p = p * q + 1.0f / 13;
  p = p * q + 1.0f / 11;
  p = p * q + 1.0f / 9;
  p = p * q + 1.0f / 7;
  p = p * q + 1.0f / 5;
  p = p * q + 1.0f / 3;
  p = p * q + 1.0f;
  return 2.0f * s * p;
}

#endif

}  // namespace sg
