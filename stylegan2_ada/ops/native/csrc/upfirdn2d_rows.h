// Sums of scaled rows in vector registers: what both passes of the CPU kernel of upfirdn2d consist of.
//
// The vectors are GCC's and clang's own, as wide as the machine's registers, so the same text serves AVX-512, AVX2, SSE
// and NEON.
#pragma once

#include <cstddef>
#include <cstring>
#include <type_traits>
#include <utility>

#include "common.h"

#if defined(__F16C__) || defined(__AVX512BF16__)
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
// Bits of bfloat16 in the upper half of every word, rounded as by float_to_bf16. Words: as many as there are numbers.
template <typename Words, typename Numbers>
SG_INLINE Words round_to_bf16(Numbers v) {
  Words u = bits_as<Words>(v), is_nan = (Words)(v != v);
  return ((u | 0x400000) & is_nan) | ((u + 0x7fff + ((u >> 16) & 1)) & ~is_nan);
}
SG_INLINE void store_vector(bf16* p, FloatVector v) {
#if defined(__AVX512BF16__)
  auto h = _mm512_cvtneps_pbh((__m512)v);
#else
  auto h = __builtin_convertvector(round_to_bf16<WordVector>(v) >> 16, HalfVector);
#endif
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

// {a0, b0, a1, b1, ...}, the first half of it in a, the second in b.
template <typename V, size_t... I>
SG_INLINE void zip_by_index(V& a, V& b, std::index_sequence<I...>) {
  constexpr int L = sizeof...(I);
#if defined(__clang__)
  const V low = __builtin_shufflevector(a, b, (I / 2 + I % 2 * L)...);
  const V high = __builtin_shufflevector(a, b, (L / 2 + I / 2 + I % 2 * L)...);
#else
  typedef decltype(a != b) Order;
  const V low = __builtin_shuffle(a, b, Order{(I / 2 + I % 2 * L)...});
  const V high = __builtin_shuffle(a, b, Order{(L / 2 + I / 2 + I % 2 * L)...});
#endif
  a = low;
  b = high;
}
template <typename V>
SG_INLINE void zip(V& a, V& b) {
  zip_by_index(a, b, std::make_index_sequence<sizeof(V) / sizeof(a[0])>{});
}

// Neighbouring numbers, the even ones in one register and the odd ones in the other.
template <typename T, typename V>
SG_INLINE void store_zipped(T* p, V even, V odd) {
  zip(even, odd);
  store_vector(p, even);
  store_vector(p + sizeof(V) / sizeof(even[0]), odd);
}

SG_INLINE void store_zipped(bf16* p, FloatVector even, FloatVector odd) {
#if defined(__AVX512BF16__)
  const __m512i order = {0x0011000100100000, 0x0013000300120002, 0x0015000500140004, 0x0017000700160006,
                         0x0019000900180008, 0x001b000b001a000a, 0x001d000d001c000c, 0x001f000f001e000e};
  auto both = _mm512_cvtne2ps_pbh((__m512)odd, (__m512)even);  // takes subnormal numbers for zero
  auto u = _mm512_permutexvar_epi16(order, (__m512i)both);
#else
  auto u = (round_to_bf16<WordVector>(even) >> 16) | (round_to_bf16<WordVector>(odd) & 0xffff0000u);
#endif
  std::memcpy(p, &u, sizeof u);
}

// Neighbouring elements held in N registers, in an order of their own. Of bfloat16 the even ones are in the first
// register and the odd ones in the second, which saves moving them about.
template <typename T>
struct Block {
  typedef vector_t<acc_t<T>> V;
  static constexpr int N = sizeof(T) < 4 ? 2 : 1, LANES = sizeof(V) / sizeof(acc_t<T>), SIZE = N * LANES;
  V v[N];

  static SG_INLINE Block zero() { return {}; }
  static SG_INLINE Block load(const T* p) {
    Block b;
    if constexpr (sizeof(T) >= 4) {
      b.v[0] = load_vector(p);
    } else {
      b.v[0] = load_vector(p);
      b.v[1] = load_vector(p + LANES);
    }
    return b;
  }
  SG_INLINE void store(T* p) const {
    for (int i = 0; i < N; i++) store_vector(p + i * LANES, v[i]);
  }
  // this + g * b
  SG_INLINE void add(acc_t<T> g, const Block& b) {
    for (int i = 0; i < N; i++) v[i] += g * b.v[i];
  }
  SG_INLINE static Block scaled(acc_t<T> g, const Block& b) {
    Block r;
    for (int i = 0; i < N; i++) r.v[i] = g * b.v[i];
    return r;
  }
};

template <>
SG_INLINE Block<bf16> Block<bf16>::load(const bf16* p) {
  WordVector u;
  std::memcpy(&u, p, sizeof u);
  return {{bits_as<FloatVector>(u << 16), bits_as<FloatVector>(u & 0xffff0000u)}};
}

template <>
SG_INLINE void Block<bf16>::store(bf16* p) const {
  store_zipped(p, v[0], v[1]);
}

// out[k] = sum over t of g[t] * in[offset[t] + k], for k in [0, n). TAPS is `taps` where the compiler should know it,
// else 0. `out` must not overlap `in`.
template <int TAPS, typename Out, typename In, typename A>
__attribute__((noinline)) void weighted_sum(Out* __restrict out, const In* __restrict in, const ptrdiff_t* offset, const A* g, int taps, long n) {
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
__attribute__((noinline)) void zipped_sums_of(Out* __restrict out, const A* __restrict in, const ptrdiff_t* at, const A* g,
                                           int taps, const ptrdiff_t* odd_at, const A* odd_g, int odd_taps,
                                           ptrdiff_t n) {
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

// Four at a time, for the transposition of planes.
typedef float FloatQuad __attribute__((vector_size(16)));
typedef u32 WordQuad __attribute__((vector_size(16)));
typedef u16 HalfQuad __attribute__((vector_size(8)));

SG_INLINE void transpose(FloatQuad (&q)[4]) {
  zip(q[0], q[2]);
  zip(q[1], q[3]);
  zip(q[0], q[1]);
  zip(q[2], q[3]);
}

template <typename T>
SG_INLINE FloatQuad load_quad(const T* p) {
  FloatQuad q;
  if constexpr (sizeof(T) == 4) {
    std::memcpy(&q, p, sizeof q);
  } else if constexpr (std::is_same_v<T, bf16>) {
    HalfQuad h;
    std::memcpy(&h, p, sizeof h);
    q = bits_as<FloatQuad>(__builtin_convertvector(h, WordQuad) << 16);
  } else {
    for (int i = 0; i < 4; i++) q[i] = Num<T>::load(p[i]);
  }
  return q;
}
template <typename T>
SG_INLINE void store_quad(T* p, FloatQuad q) {
  if constexpr (sizeof(T) == 4) {
    std::memcpy(p, &q, sizeof q);
  } else if constexpr (std::is_same_v<T, bf16>) {
    const HalfQuad h = __builtin_convertvector(round_to_bf16<WordQuad>(q) >> 16, HalfQuad);
    std::memcpy(p, &h, sizeof h);
  } else {
    for (int i = 0; i < 4; i++) p[i] = Num<T>::store(q[i]);
  }
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
