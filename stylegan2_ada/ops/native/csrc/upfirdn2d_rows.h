// Sums of scaled rows in vector registers: what both passes of the CPU kernel of upfirdn2d consist of.
//
// The vectors are GCC's and clang's own, as wide as the machine's registers, so the same text serves AVX-512, AVX2, SSE
// and NEON.
#pragma once

#include <cstddef>
#include <cstring>

#include "common.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace sg {

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32;
#else
constexpr int VECTOR_BYTES = 16;
#endif

typedef float FloatVector __attribute__((vector_size(VECTOR_BYTES)));
typedef double DoubleVector __attribute__((vector_size(VECTOR_BYTES)));
typedef u32 WordVector __attribute__((vector_size(VECTOR_BYTES)));
typedef u16 HalfVector __attribute__((vector_size(VECTOR_BYTES / 2)));

template <typename A>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef FloatVector type;
};
template <>
struct VectorOf<double> {
  typedef DoubleVector type;
};
template <typename A>
using vector_t = typename VectorOf<A>::type;

template <typename To, typename From>
SG_INLINE To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "another view of the same bits");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

SG_INLINE FloatVector load_vector(const float* p) {
  FloatVector v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
SG_INLINE DoubleVector load_vector(const double* p) {
  DoubleVector v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
SG_INLINE FloatVector load_vector(const bf16* p) {
  HalfVector v;
  std::memcpy(&v, p, sizeof v);
  return bits_as<FloatVector>(__builtin_convertvector(v, WordVector) << 16);
}

SG_INLINE void store_vector(float* p, FloatVector v) { std::memcpy(p, &v, sizeof v); }
SG_INLINE void store_vector(double* p, DoubleVector v) { std::memcpy(p, &v, sizeof v); }
SG_INLINE void store_vector(bf16* p, FloatVector v) {  // as float_to_bf16
  WordVector u = bits_as<WordVector>(v);
  WordVector rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  WordVector nan = (u >> 16) | 0x40;
  WordVector is_nan = (WordVector)(v != v);
  HalfVector h = __builtin_convertvector((nan & is_nan) | (rounded & ~is_nan), HalfVector);
  std::memcpy(p, &h, sizeof h);
}

#if defined(__AVX512F__)
SG_INLINE FloatVector load_vector(const fp16* p) {
  __m256i v;
  std::memcpy(&v, p, sizeof v);
  return (FloatVector)_mm512_cvtph_ps(v);
}
SG_INLINE void store_vector(fp16* p, FloatVector v) {
  __m256i h = _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  std::memcpy(p, &h, sizeof h);
}
#elif defined(__F16C__)
SG_INLINE FloatVector load_vector(const fp16* p) {
  __m128i v;
  std::memcpy(&v, p, sizeof v);
  return (FloatVector)_mm256_cvtph_ps(v);
}
SG_INLINE void store_vector(fp16* p, FloatVector v) {
  __m128i h = _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT);
  std::memcpy(p, &h, sizeof h);
}
#else
SG_INLINE FloatVector load_vector(const fp16* p) {
  FloatVector v;
  for (size_t i = 0; i < sizeof v / sizeof(float); i++) v[i] = fp16_to_float(p[i].bits);
  return v;
}
SG_INLINE void store_vector(fp16* p, FloatVector v) {
  for (size_t i = 0; i < sizeof v / sizeof(float); i++) p[i].bits = float_to_fp16(v[i]);
}
#endif

// out[k] = sum over t of g[t] * in[offset[t] + k], for k in [0, n). TAPS is `taps` where the compiler should know it,
// else 0. `out` must not overlap `in`.
template <int TAPS, typename Out, typename In, typename A>
void weighted_sum(Out* __restrict out, const In* __restrict in, const ptrdiff_t* offset, const A* g, int taps, long n) {
  typedef vector_t<A> V;
  constexpr int L = sizeof(V) / sizeof(A), BLOCK = 4;
  const int count = TAPS ? TAPS : taps;
  if (n < L) {
    for (long k = 0; k < n; k++) {
      A sum = 0;
      for (int t = 0; t < count; t++) sum += g[t] * Num<In>::load(in[offset[t] + k]);
      out[k] = Num<Out>::store(sum);
    }
    return;
  }
  long k = 0;
  if constexpr (TAPS > 0) {
    const In* p[TAPS];
    V w[TAPS];
#pragma GCC unroll 8
    for (int t = 0; t < TAPS; t++) {
      p[t] = in + offset[t];
      w[t] = g[t] - V{};
    }
    auto at = [&](long i) {
      V sum = w[0] * load_vector(p[0] + i);
#pragma GCC unroll 8
      for (int t = 1; t < TAPS; t++) sum += w[t] * load_vector(p[t] + i);
      store_vector(out + i, sum);
    };
    for (; k + L <= n; k += L) at(k);
    if (k < n) at(n - L);  // overlaps the one before
  } else {
    for (; k + BLOCK * L <= n; k += BLOCK * L) {
      V sum[BLOCK] = {};
      for (int t = 0; t < count; t++) {
        const In* p = in + offset[t] + k;
        const V w = g[t] - V{};
#pragma GCC unroll 4
        for (int b = 0; b < BLOCK; b++) sum[b] += w * load_vector(p + b * L);
      }
#pragma GCC unroll 4
      for (int b = 0; b < BLOCK; b++) store_vector(out + k + b * L, sum[b]);
    }
    auto at = [&](long i) {
      V sum = {};
      for (int t = 0; t < count; t++) sum += g[t] * load_vector(in + offset[t] + i);
      store_vector(out + i, sum);
    };
    for (; k + L <= n; k += L) at(k);
    if (k < n) at(n - L);
  }
}

// The same, with the usual numbers of taps known to the compiler.
template <typename Out, typename In, typename A>
SG_INLINE void sum_rows(Out* out, const In* in, const ptrdiff_t* offset, const A* g, int taps, long n) {
  if (taps == 4)
    weighted_sum<4>(out, in, offset, g, taps, n);
  else if (taps == 2)
    weighted_sum<2>(out, in, offset, g, taps, n);
  else if (taps == 6)
    weighted_sum<6>(out, in, offset, g, taps, n);
  else
    weighted_sum<0>(out, in, offset, g, taps, n);
}

}  // namespace sg
