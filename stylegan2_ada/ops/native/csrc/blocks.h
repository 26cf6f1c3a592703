// 16-bit numbers on the CPU are converted to float and back in blocks that stay in the first-level cache, by the
// instructions there are for it. So kernels are written, and compiled, for float and double only.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <utility>

#if defined(__AVX512F__) || defined(__F16C__)
#include <immintrin.h>
#endif

#include "common.h"

namespace sg {

constexpr int64_t BLOCK = 512;

template <typename T>
constexpr bool converted = !std::is_same_v<T, acc_t<T>>;

inline void load_block(const bf16* __restrict x, float* __restrict y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = bf16_to_float(x[i].bits);
}

inline void store_block(const float* __restrict x, bf16* __restrict y, int64_t n) {
  int64_t i = 0;
#if defined(__AVX512BF16__) && defined(__AVX512F__)
  for (; i + 32 <= n; i += 32)
    _mm512_storeu_si512(y + i, (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + i + 16), _mm512_loadu_ps(x + i)));
#endif
  for (; i < n; ++i) y[i].bits = float_to_bf16(x[i]);
}

inline void load_block(const fp16* __restrict x, float* __restrict y, int64_t n) {
  int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= n; i += 8)
    _mm256_storeu_ps(y + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i))));
#endif
  for (; i < n; ++i) y[i] = fp16_to_float(x[i].bits);
}

inline void store_block(const float* __restrict x, fp16* __restrict y, int64_t n) {
  int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= n; i += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(y + i), _mm256_cvtps_ph(_mm256_loadu_ps(x + i), 0));
#endif
  for (; i < n; ++i) y[i].bits = float_to_fp16(x[i]);
}

// Asks for n numbers that will be wanted soon to be brought into the second-level cache.
template <typename T>
SG_INLINE void prefetch(const T* x, int64_t n) {
  for (int64_t i = 0; i < n; i += 64 / sizeof(T)) __builtin_prefetch(x + i, 0, 2);
}

// Calls f(i, m, y', x'...) for consecutive pieces [i, i + m) of n elements, with the elements of x... there as float
// or double, and stores what f has put into y'. A null x is passed on.
template <typename T, typename F, typename... X>
SG_INLINE void by_block(int64_t n, T* y, F&& f, const X*... x) {
  if constexpr (!converted<T>) {
    f(int64_t(0), n, y, x...);
  } else {
    alignas(64) float out[BLOCK + 16];
    // Not a power of two apart: a load waits for an earlier store to an address that differs in the high bits only.
    alignas(64) float in[sizeof...(X)][BLOCK + 48];
    for (int64_t i = 0; i < n; i += BLOCK) {
      int64_t m = std::min(BLOCK, n - i);
      [&]<size_t... K>(std::index_sequence<K...>) {
        ((x ? load_block(x + i, in[K], m) : void()), ...);
        f(i, m, static_cast<float*>(out), static_cast<const float*>(in[K])...);
      }(std::index_sequence_for<X...>{});
      store_block(out, y + i, m);
    }
  }
}

}  // namespace sg
