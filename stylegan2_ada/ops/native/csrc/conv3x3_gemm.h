// Matrix products in bfloat16 pairs with float32 sums, and the small vector pieces around them (AVX512-BF16 only).
#pragma once
#include <immintrin.h>

#include <algorithm>
#include <cstdint>

#define SG_FORCE_INLINE inline __attribute__((always_inline))

namespace conv3x3 {

using bf16 = uint16_t;

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// How pairs of numbers (a 32-bit word each) are multiplied and added to a sum: of bfloat16 as float32, of int16 as int32.
struct Bf16Pairs {
  using Sum = __m512;
  static Sum zero() { return _mm512_setzero_ps(); }
  static Sum add(Sum s, __m512i a, __m512i b) { return _mm512_dpbf16_ps(s, (__m512bh)a, (__m512bh)b); }
  static void store(float* to, Sum s) { _mm512_storeu_ps(to, s); }
};

#if defined(__AVX512VNNI__)
struct IntPairs {
  using Sum = __m512i;
  static Sum zero() { return _mm512_setzero_si512(); }
  static Sum add(Sum s, __m512i a, __m512i b) { return _mm512_dpwssd_epi32(s, a, b); }
  static void store(float* to, Sum s) { _mm512_storeu_si512(to, s); }
};
#endif

// C[r, j] = sum over k of A[r, k] . B[k, j], where each element of A and B is a pair of numbers and `.` adds the two
// products (`Pairs`). Row r of A starts at a + r * a_row and its words lie a_k apart; row k of B starts at
// b + k * b_k and is 16 * COLS words long; C is of 32 bits. ROWS * COLS accumulators, COLS words of B and one broadcast of
// A live in registers: 6 x 4 uses 29 of 32, and needs 4 loads and 6 broadcasts for 24 multiply-adds, so B may stream
// from the second-level cache.
template <typename Pairs, int ROWS, int COLS>
SG_FORCE_INLINE void micro_sums(const uint32_t* a, int64_t a_row, int64_t a_k, const uint32_t* b, int64_t b_k, int64_t k,
                                typename Pairs::Sum (&acc)[ROWS][COLS]) {
#pragma GCC unroll 12
  for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
    for (int j = 0; j < COLS; j++) acc[r][j] = Pairs::zero();
  for (int64_t p = 0; p < k; p++) {
    __m512i bv[COLS];
#pragma GCC unroll 4
    for (int j = 0; j < COLS; j++) {
      bv[j] = _mm512_loadu_si512(b + 16 * j);
      _mm_prefetch(reinterpret_cast<const char*>(b + 8 * b_k + 16 * j), _MM_HINT_T0);
    }
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; r++) {
      const __m512i av = _mm512_set1_epi32(static_cast<int>(a[r * a_row]));
#pragma GCC unroll 4
      for (int j = 0; j < COLS; j++) acc[r][j] = Pairs::add(acc[r][j], av, bv[j]);
    }
    a += a_k;
    b += b_k;
  }
}

template <typename Pairs, int ROWS, int COLS>
inline void micro_kernel(const uint32_t* a, int64_t a_row, int64_t a_k, const uint32_t* b, int64_t b_k, int64_t k,
                         float* c, int64_t c_row) {
  typename Pairs::Sum acc[ROWS][COLS];
  micro_sums<Pairs>(a, a_row, a_k, b, b_k, k, acc);
#pragma GCC unroll 12
  for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
    for (int j = 0; j < COLS; j++) Pairs::store(c + r * c_row + 16 * j, acc[r][j]);
}

template <typename Pairs, int COLS>
inline void gemm_columns(int64_t rows, const uint32_t* a, int64_t a_row, int64_t a_k, const uint32_t* b, int64_t b_k,
                         int64_t k, float* c, int64_t c_row) {
  int64_t r = 0;
  const auto call = [&](auto kernel, int64_t n) {
    kernel(a + r * a_row, a_row, a_k, b, b_k, k, c + r * c_row, c_row);
    r += n;
  };
  while (rows - r >= 9 || rows - r == 6) call(micro_kernel<Pairs, 6, COLS>, 6);
  if (rows - r >= 7) call(micro_kernel<Pairs, 4, COLS>, 4);  // 7 = 4 + 3 and 8 = 4 + 4: a lone row would wait for its own sums
  switch (rows - r) {
    case 1:
      return call(micro_kernel<Pairs, 1, COLS>, 1);
    case 2:
      return call(micro_kernel<Pairs, 2, COLS>, 2);
    case 3:
      return call(micro_kernel<Pairs, 3, COLS>, 3);
    case 4:
      return call(micro_kernel<Pairs, 4, COLS>, 4);
    case 5:
      return call(micro_kernel<Pairs, 5, COLS>, 5);
    default:
      return;
  }
}

// As micro_kernel, for any number of rows and 1 to 4 columns of 16.
template <typename Pairs = Bf16Pairs>
inline void gemm(int cols, int64_t rows, const uint32_t* a, int64_t a_row, int64_t a_k, const uint32_t* b, int64_t b_k,
                 int64_t k, float* c, int64_t c_row) {
  switch (cols) {
    case 1:
      return gemm_columns<Pairs, 1>(rows, a, a_row, a_k, b, b_k, k, c, c_row);
    case 2:
      return gemm_columns<Pairs, 2>(rows, a, a_row, a_k, b, b_k, k, c, c_row);
    case 3:
      return gemm_columns<Pairs, 3>(rows, a, a_row, a_k, b, b_k, k, c, c_row);
    default:
      return gemm_columns<Pairs, 4>(rows, a, a_row, a_k, b, b_k, k, c, c_row);
  }
}

// 16 rows of 16 words, transposed in place.
inline void transpose16(__m512 r[16]) {
  __m512 t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
    t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    const __m512d a = _mm512_castps_pd(t[4 * i]), b = _mm512_castps_pd(t[4 * i + 1]);
    const __m512d c = _mm512_castps_pd(t[4 * i + 2]), d = _mm512_castps_pd(t[4 * i + 3]);
    r[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
    r[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
    r[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
    r[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    t[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    r[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd);
    r[i + 4] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

// Half of 32 neighbouring bfloat16 as float32: the even-numbered or the odd-numbered ones. One shift or one mask, where
// widening in order would take a shuffle more.
template <bool ODD>
inline __m512 widen(__m512i v) {
  if (ODD) return _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
  return _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
}

// Which channel is the i-th in the order of even-numbered, then odd-numbered of each 32.
inline int64_t channel_of(int64_t i) { return i / 32 * 32 + (i % 16) * 2 + i % 32 / 16; }

// [low | high], each rounded to nearest even.
inline __m512i round_pair(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

// 16 words of (low, high).
inline __m512i round_words(__m512 low, __m512 high) {
  alignas(64) static const uint16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return _mm512_permutexvar_epi16(_mm512_load_si512(order), round_pair(low, high));
}

inline __mmask32 mask32(int64_t n) { return n >= 32 ? 0xffffffffu : n <= 0 ? 0u : (1u << n) - 1u; }
inline __mmask16 mask16(int64_t n) { return n >= 16 ? 0xffffu : n <= 0 ? 0u : static_cast<__mmask16>((1u << n) - 1u); }

// stage[input * taps + tap], vectors of 16 outputs, of 32 inputs; w is [o][i][taps], `by_input` takes its i for outputs.
inline void stage_weights(const float* w, int64_t o_count, int64_t i_count, int64_t taps, bool by_input, int64_t out0,
                          int64_t in0, __m512* stage) {
  __m512 rows[16];
  if (by_input) {
    for (int64_t k = 0; k < 32; k++) {
      const int64_t o = in0 + k;
      for (int64_t b = 0; b < taps; b++)
        __builtin_prefetch(w + ((o + 8) * i_count + out0) * taps + 16 * b);
      for (int64_t r = 0; r < 16; r++) {
        const bool inside = o < o_count && out0 + r < i_count;
        rows[r] = _mm512_maskz_loadu_ps(inside ? mask16(taps) : 0, inside ? w + (o * i_count + out0 + r) * taps : w);
      }
      transpose16(rows);
      for (int64_t t = 0; t < taps; t++) stage[taps * k + t] = rows[t];
    }
    return;
  }
  const int64_t have = taps * std::min<int64_t>(32, i_count - in0);
  for (int64_t b = 0; b < 2 * taps; b++) {
    for (int64_t r = 0; r < 16; r++) {
      const bool inside = out0 + r < o_count && 16 * b < have;
      rows[r] = _mm512_maskz_loadu_ps(inside ? mask16(have - 16 * b) : 0,
                                      inside ? w + ((out0 + r) * i_count + in0) * taps + 16 * b : w);
    }
    transpose16(rows);
    for (int r = 0; r < 16; r++) stage[16 * b + r] = rows[r];
  }
}

// Weight gradients of 16 outputs o0, o0 + 2, … and 32 inputs from i0 on, stage[input * 9 + tap] in vectors of outputs, into
// gw [o][i][9]; `add`: to what is there. The stage is turned on the way.
inline void write_stage(__m512* stage, bool add, float* gw, int64_t o_count, int64_t i_count, int64_t o0, int64_t i0) {
  const int64_t have = 9 * (i_count - i0);
  for (int b = 0; b < 18 && 16 * b < have; b++) {
    transpose16(stage + 16 * b);
    const __mmask16 mask = mask16(have - 16 * b);
    for (int64_t r = 0; r < 16 && o0 + 2 * r < o_count; r++) {
      float* dst = gw + ((o0 + 2 * r) * i_count + i0) * 9 + 16 * b;
      __m512 v = stage[16 * b + r];
      if (add) v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(mask, dst));
      _mm512_mask_storeu_ps(dst, mask, v);
    }
  }
}

}  // namespace conv3x3
