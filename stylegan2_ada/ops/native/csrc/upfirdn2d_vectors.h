// Vector registers for the CPU kernel of upfirdn2d: loads, stores and rearrangements for every dtype.
//
// The vectors are GCC's and clang's own, as wide as the machine's registers, so the same text serves AVX-512, AVX2, SSE
// and NEON. Sixteen-bit numbers are float in registers.
#pragma once

#include <cstddef>
#include <cstring>
#include <type_traits>
#include <utility>

#include "common.h"
#include "vector_width.h"

#if defined(__F16C__) || defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace sg {

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
  SG_INLINE static Block sum(const Block& a, const Block& b) {
    Block r;
    for (int i = 0; i < N; i++) r.v[i] = a.v[i] + b.v[i];
    return r;
  }
  SG_INLINE static Block scaled(acc_t<T> g, const Block& b) {
    Block r;
    for (int i = 0; i < N; i++) r.v[i] = g * b.v[i];
    return r;
  }
};

// Whether `stream_line` goes past the caches.
#if defined(__AVX512F__)
constexpr bool STREAMS = true;
#else
constexpr bool STREAMS = false;
#endif

// Stores a block that is one cache line, at a multiple of its size, in memory and not in the caches: the line is not
// read before, and what the caches hold stays there. For results that are larger than the caches.
template <typename T>
SG_INLINE void stream_line(T* p, const Block<T>& b) {
#if defined(__AVX512F__)
  alignas(64) T line[Block<T>::SIZE];
  b.store(line);
  __m512i bits;
  std::memcpy(&bits, line, sizeof bits);
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), bits);
#else
  b.store(p);
#endif
}

// To be called by a thread when it has stored its last line.
SG_INLINE void end_of_stream() {
#if defined(__AVX512F__)
  _mm_sfence();
#endif
}

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

}  // namespace sg
