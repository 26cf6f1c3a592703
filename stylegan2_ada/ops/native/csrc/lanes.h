// One vector of channels: as many numbers as the widest registers hold, loaded from float or 16-bit numbers.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "common.h"
#include "vector_width.h"

namespace sg {

constexpr int LANES = VECTOR_BYTES / sizeof(float);
typedef float Vec __attribute__((vector_size(VECTOR_BYTES)));

inline int64_t groups(int64_t channels) { return (channels + LANES - 1) / LANES; }

SG_INLINE Vec all_lanes(float v) { return Vec{} + v; }

template <typename T>
SG_INLINE Vec load(const T* x) {
  Vec y;
  if constexpr (std::is_same_v<T, float>) {
    std::memcpy(&y, x, sizeof y);
#if defined(__AVX512F__)
  } else if constexpr (std::is_same_v<T, bf16>) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
    y = (Vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16);
#endif
  } else {
    float v[LANES];
    for (int l = 0; l < LANES; ++l) v[l] = Num<T>::load(x[l]);
    std::memcpy(&y, v, sizeof y);
  }
  return y;
}

template <typename T>
SG_INLINE Vec load_some(const T* x, int64_t lanes) {  // zeros behind them
  float v[LANES] = {};
  for (int64_t l = 0; l < lanes; ++l) v[l] = Num<T>::load(x[l]);
  Vec y;
  std::memcpy(&y, v, sizeof y);
  return y;
}

template <typename T>
SG_INLINE void store(Vec y, T* x) {
  if constexpr (std::is_same_v<T, float>) {
    std::memcpy(x, &y, sizeof y);
#if defined(__AVX512F__) && defined(__AVX512BF16__)
  } else if constexpr (std::is_same_v<T, bf16>) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(x), (__m256i)_mm512_cvtneps_pbh((__m512)y));
#endif
  } else {
    float v[LANES];
    std::memcpy(v, &y, sizeof y);
    for (int l = 0; l < LANES; ++l) x[l] = Num<T>::store(v[l]);
  }
}

// Two vectors side by side.
template <typename T>
SG_INLINE void store_two(Vec a, Vec b, T* x) {
#if defined(__AVX512F__) && defined(__AVX512BF16__)
  if constexpr (std::is_same_v<T, bf16>) {
    _mm512_storeu_si512(x, (__m512i)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a));
    return;
  }
#endif
  store(a, x);
  store(b, x + LANES);
}

template <typename T>
SG_INLINE void store_some(Vec y, T* x, int64_t lanes) {
  T all[LANES];
  store(y, all);
  for (int64_t l = 0; l < lanes; ++l) x[l] = all[l];
}

}  // namespace sg
