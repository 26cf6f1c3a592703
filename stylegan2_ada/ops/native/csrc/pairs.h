// Two vectors of neighbouring channels at once. Of 16-bit numbers they are the even and the odd ones: a shift and a mask
// then make floats of them where channels in order would take two shuffles more.
#pragma once

#include "lanes.h"

namespace sg {

constexpr int PAIR = 2 * LANES;  // channels

struct Pair {
  Vec a, b;
};

typedef u32 Bits __attribute__((vector_size(VECTOR_BYTES)));

// Which of PAIR channels lies at place i, the lanes of `a` before those of `b`.
template <typename T>
constexpr int channel_at(int i) {
  return std::is_same_v<T, float> ? i : i < LANES ? 2 * i : 2 * (i - LANES) + 1;
}

SG_INLINE Pair pair_of(Bits v) { return {(Vec)(v << 16), (Vec)(v & 0xffff0000u)}; }

// To nearest, ties to even, in the upper half of each number; NaN stays NaN.
SG_INLINE Bits rounded_to_bf16(Vec x) {
  const Bits u = (Bits)x, r = u + 0x7fffu + ((u >> 16) & 1u);
  return (u & 0x7fffffffu) > 0x7f800000u ? (u | 0x400000u) : r;
}

SG_INLINE Bits bits_of(Pair y) {
#if defined(__AVX512BW__) && defined(__AVX512BF16__)
  alignas(64) static const u16 order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                            8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i v = (__m512i)_mm512_cvtne2ps_pbh((__m512)y.b, (__m512)y.a);
  return (Bits)_mm512_permutexvar_epi16(_mm512_load_si512(order), v);
#else
  return (rounded_to_bf16(y.a) >> 16) | (rounded_to_bf16(y.b) & 0xffff0000u);
#endif
}

template <typename T>
SG_INLINE Pair load_pair(const T* x) {
  if constexpr (std::is_same_v<T, float>) {
    return {load(x), load(x + LANES)};
  } else {
    static_assert(std::is_same_v<T, bf16>);
    Bits v;
    std::memcpy(&v, x, sizeof v);
    return pair_of(v);
  }
}

template <typename T>
SG_INLINE void store_pair(Pair y, T* x) {
  if constexpr (std::is_same_v<T, float>) {
    store(y.a, x);
    store(y.b, x + LANES);
  } else {
    static_assert(std::is_same_v<T, bf16>);
    const Bits v = bits_of(y);
    std::memcpy(x, &v, sizeof v);
  }
}

// The first n of a pair, zeros behind them; n < PAIR.
template <typename T>
SG_INLINE Pair load_pair_some(const T* x, int64_t n) {
#if defined(__AVX512BW__)
  const u32 mask = (1u << n) - 1;
  if constexpr (std::is_same_v<T, float>)
    return {(Vec)_mm512_maskz_loadu_ps(mask, x), (Vec)_mm512_maskz_loadu_ps(mask >> LANES, x + LANES)};
  else
    return pair_of((Bits)_mm512_maskz_loadu_epi16(mask, x));
#else
  T all[PAIR] = {};
  std::memcpy(all, x, n * sizeof(T));
  return load_pair(all);
#endif
}

template <typename T>
SG_INLINE void store_pair_some(Pair y, T* x, int64_t n) {
#if defined(__AVX512BW__)
  const u32 mask = (1u << n) - 1;
  if constexpr (std::is_same_v<T, float>) {
    _mm512_mask_storeu_ps(x, mask, (__m512)y.a);
    _mm512_mask_storeu_ps(x + LANES, mask >> LANES, (__m512)y.b);
  } else {
    _mm512_mask_storeu_epi16(x, mask, (__m512i)bits_of(y));
  }
#else
  T all[PAIR];
  store_pair(y, all);
  std::memcpy(x, all, n * sizeof(T));
#endif
}

}  // namespace sg
