// Sums of scaled rows, what both passes of the CPU kernel of upfirdn2d consist of, and the ways between planes of
// single channels and pixels of many.
#pragma once

#include "upfirdn2d_vectors.h"

namespace sg {

// out[k] = sum over t of g[t] * in[offset[t] + k], for k in [0, n). TAPS is `taps` where the compiler should know it,
// else 0. `out` must not overlap `in`.
template <int TAPS, typename Out, typename In, typename A>
__attribute__((noinline)) void weighted_sum(Out* __restrict out, const In* __restrict in, const ptrdiff_t* offset,
                                            const A* g, int taps, long n) {
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

// Whether the compiler is told the usual numbers of taps: in the dtypes of training.
template <typename... T>
constexpr bool SPECIALISED = ((std::is_same_v<T, float> || std::is_same_v<T, bf16>) && ...);

// The same for any number of taps.
template <typename Out, typename In, typename A>
__attribute__((noinline)) void sum_rows(Out* out, const In* in, const ptrdiff_t* offset, const A* g, int taps, long n) {
  if constexpr (SPECIALISED<Out, In>) {
    if (taps == 4) return weighted_sum<4>(out, in, offset, g, taps, n);
    if (taps == 2) return weighted_sum<2>(out, in, offset, g, taps, n);
    if (taps == 6) return weighted_sum<6>(out, in, offset, g, taps, n);
  }
  weighted_sum<0>(out, in, offset, g, taps, n);
}

// Two sums by turns: out[2 * m] = sum over t of g[t] * in[at[t] + m], out[2 * m + 1] the same of odd_g and odd_at.
template <int TAPS, typename Out, typename A>
__attribute__((noinline)) void zipped_sums_of(Out* __restrict out, const A* __restrict in, const ptrdiff_t* at,
                                              const A* g, int taps, const ptrdiff_t* odd_at, const A* odd_g,
                                              int odd_taps, ptrdiff_t n) {
  typedef vector_t<A> V;
  constexpr int L = sizeof(V) / sizeof(A);
  const int count = TAPS ? TAPS : taps, odd_count = TAPS ? TAPS : odd_taps;
  const ptrdiff_t pairs = n / 2;
  ptrdiff_t m = 0;
  auto two = [&](ptrdiff_t i) __attribute__((always_inline)) {
    V even = {}, odd = {};
#pragma GCC unroll 8
    for (int t = 0; t < count; t++) even += g[t] * load_vector(in + at[t] + i);
#pragma GCC unroll 8
    for (int t = 0; t < odd_count; t++) odd += odd_g[t] * load_vector(in + odd_at[t] + i);
    store_zipped(out + 2 * i, even, odd);
  };
  for (; m + L <= pairs; m += L) two(m);
  if (m > 0 && m < pairs) two(pairs - L);
  for (ptrdiff_t o = m > 0 ? 2 * pairs : 0; o < n; o++) {
    const ptrdiff_t* places = o % 2 ? odd_at : at;
    const A* weights = o % 2 ? odd_g : g;
    A sum = 0;
    for (int t = 0; t < (o % 2 ? odd_count : count); t++) sum += weights[t] * in[places[t] + o / 2];
    out[o] = Num<Out>::store(sum);
  }
}

template <typename Out, typename A>
void zipped_sums(Out* out, const A* in, const ptrdiff_t* at, const A* g, int taps, const ptrdiff_t* odd_at,
                 const A* odd_g, int odd_taps, ptrdiff_t n) {
  if constexpr (SPECIALISED<Out>)
    if (taps == odd_taps) {
      if (taps == 2) return zipped_sums_of<2>(out, in, at, g, taps, odd_at, odd_g, odd_taps, n);
      if (taps == 6) return zipped_sums_of<6>(out, in, at, g, taps, odd_at, odd_g, odd_taps, n);
    }
  zipped_sums_of<0>(out, in, at, g, taps, odd_at, odd_g, odd_taps, n);
}

// pixels[i * GROUP + k] = planes[k * pitch + i] for n pixels and all k < count.
template <int GROUP, typename A, typename T>
void interleave_planes(A* pixels, const T* planes, ptrdiff_t pitch, ptrdiff_t count, ptrdiff_t n) {
  ptrdiff_t k = 0;
  if constexpr (sizeof(A) == 4)
    for (; k + 4 <= count; k += 4) {
      const T* p = planes + k * pitch;
      ptrdiff_t i = 0;
      for (; i + 4 <= n; i += 4) {
        FloatQuad q[4] = {load_quad(p + i), load_quad(p + pitch + i), load_quad(p + 2 * pitch + i),
                          load_quad(p + 3 * pitch + i)};
        transpose(q);
        for (int j = 0; j < 4; j++) std::memcpy(pixels + (i + j) * GROUP + k, &q[j], sizeof q[j]);
      }
      for (; i < n; i++)
        for (int j = 0; j < 4; j++) pixels[i * GROUP + k + j] = Num<T>::load(p[j * pitch + i]);
    }
  for (; k < count; k++)
    for (ptrdiff_t i = 0; i < n; i++) pixels[i * GROUP + k] = Num<T>::load(planes[k * pitch + i]);
}

// The way back.
template <int GROUP, typename A, typename T>
void part_planes(T* planes, const A* pixels, ptrdiff_t pitch, ptrdiff_t count, ptrdiff_t n) {
  ptrdiff_t k = 0;
  if constexpr (sizeof(A) == 4)
    for (; k + 4 <= count; k += 4) {
      T* p = planes + k * pitch;
      ptrdiff_t i = 0;
      for (; i + 4 <= n; i += 4) {
        FloatQuad q[4];
        for (int j = 0; j < 4; j++) std::memcpy(&q[j], pixels + (i + j) * GROUP + k, sizeof q[j]);
        transpose(q);
        for (int j = 0; j < 4; j++) store_quad(p + j * pitch + i, q[j]);
      }
      for (; i < n; i++)
        for (int j = 0; j < 4; j++) p[j * pitch + i] = Num<T>::store(pixels[i * GROUP + k + j]);
    }
  for (; k < count; k++)
    for (ptrdiff_t i = 0; i < n; i++) planes[k * pitch + i] = Num<T>::store(pixels[i * GROUP + k]);
}

}  // namespace sg
