// The transforms of Winograd's minimal filtering F(2x2, 3x3) (Lavin & Gray 2015, arXiv 1509.09308, section 4.1):
//
//     Y = A^T [ (G g G^T) * (B^T d B) ] A        one 4x4 tile d of the input -> 2x2 outputs, 16 products for 36
//
// and of its gradient in g, which by transposition is G^T [ sum over tiles of (B^T d B) * (A gY A^T) ] G. A component
// of the 4x4 array is called a frequency here and numbered 4 * row + column. Every transform is linear and is summed in
// float32; a value is rounded to bfloat16 once, when it becomes an operand of the products.
#pragma once
#include "conv3x3_gemm.h"

namespace conv3x3 {

constexpr int FREQS = 16;

struct Image {  // channels-last: [n][height][width][channels]
  int64_t n, channels, height, width;
  int64_t tile_rows() const { return (height + 1) / 2; }
  int64_t tile_cols() const { return (width + 1) / 2; }
  int64_t tiles() const { return n * tile_rows() * tile_cols(); }
};

struct Tile {  // position of the first of its 2x2 pixels
  int64_t n, y, x;
};

inline Tile tile_at(const Image& s, int64_t index) {
  const int64_t row = index / s.tile_cols();
  return {row / s.tile_rows(), 2 * (row % s.tile_rows()), 2 * (index % s.tile_cols())};
}

// Addresses of SIZE x SIZE pixels from (y0, x0) on; outside of the image `zeros`.
template <int SIZE>
inline void pixels(const Image& s, const bf16* x, int64_t n, int64_t y0, int64_t x0, const bf16* zeros, const bf16* p[]) {
  for (int r = 0; r < SIZE; r++)
    for (int c = 0; c < SIZE; c++) {
      const int64_t i = y0 + r, j = x0 + c;
      const bool inside = i >= 0 && i < s.height && j >= 0 && j < s.width;
      p[SIZE * r + c] = inside ? x + ((n * s.height + i) * s.width + j) * s.channels : zeros;
    }
}

inline EvenOdd load_split(const bf16* p, __mmask32 m) { return split(_mm512_maskz_loadu_epi16(m, p)); }
inline EvenOdd operator+(EvenOdd a, EvenOdd b) { return {_mm512_add_ps(a.even, b.even), _mm512_add_ps(a.odd, b.odd)}; }
inline EvenOdd operator-(EvenOdd a, EvenOdd b) { return {_mm512_sub_ps(a.even, b.even), _mm512_sub_ps(a.odd, b.odd)}; }

inline void store_rounded(bf16* p, EvenOdd v) { _mm512_storeu_si512(p, round_pair(v.even, v.odd)); }

// B^T d B of 32 channels, frequency f at dst + f * stride. The channels come out as 16 even-numbered, then 16
// odd-numbered ones; `pair_channel` tells the weights' side.
inline void transform_input(const bf16* const p[16], int64_t channel, __mmask32 m, bf16* dst, int64_t stride) {
  EvenOdd d[4][4];
#pragma GCC unroll 4
  for (int c = 0; c < 4; c++) {
    const EvenOdd a = load_split(p[c] + channel, m), b = load_split(p[4 + c] + channel, m);
    const EvenOdd e = load_split(p[8 + c] + channel, m), g = load_split(p[12 + c] + channel, m);
    d[0][c] = a - e;
    d[1][c] = b + e;
    d[2][c] = e - b;
    d[3][c] = b - g;
  }
#pragma GCC unroll 4
  for (int r = 0; r < 4; r++) {
    store_rounded(dst + (4 * r + 0) * stride, d[r][0] - d[r][2]);
    store_rounded(dst + (4 * r + 1) * stride, d[r][1] + d[r][2]);
    store_rounded(dst + (4 * r + 2) * stride, d[r][2] - d[r][1]);
    store_rounded(dst + (4 * r + 3) * stride, d[r][1] - d[r][3]);
  }
}

// The first channel of pair `k` (a word of the transformed input) in the order of `transform_input`; the second is
// two further.
inline int64_t pair_channel(int64_t k) {
  const int64_t q = k % 16;
  return k / 16 * 32 + (q < 8 ? 4 * q : 4 * (q - 8) + 1);
}

// A gY A^T of 32 channels of a 2x2 gradient, as transform_input.
inline void transform_gradient(const bf16* const p[4], int64_t channel, __mmask32 m, bf16* dst, int64_t stride) {
  const EvenOdd zero{_mm512_setzero_ps(), _mm512_setzero_ps()};
  EvenOdd d[4][2];
#pragma GCC unroll 2
  for (int c = 0; c < 2; c++) {
    const EvenOdd a = load_split(p[c] + channel, m), b = load_split(p[2 + c] + channel, m);
    d[0][c] = a;
    d[1][c] = a + b;
    d[2][c] = a - b;
    d[3][c] = zero - b;
  }
#pragma GCC unroll 4
  for (int r = 0; r < 4; r++) {
    store_rounded(dst + (4 * r + 0) * stride, d[r][0]);
    store_rounded(dst + (4 * r + 1) * stride, d[r][0] + d[r][1]);
    store_rounded(dst + (4 * r + 2) * stride, d[r][0] - d[r][1]);
    store_rounded(dst + (4 * r + 3) * stride, zero - d[r][1]);
  }
}

// A^T M A for 16 output channels: y[2 * row + column] from m + f * stride.
inline void transform_output(const float* m, int64_t stride, __m512 y[4]) {
  __m512 s[2][4];
#pragma GCC unroll 4
  for (int c = 0; c < 4; c++) {
    const __m512 m0 = _mm512_loadu_ps(m + c * stride), m1 = _mm512_loadu_ps(m + (4 + c) * stride);
    const __m512 m2 = _mm512_loadu_ps(m + (8 + c) * stride), m3 = _mm512_loadu_ps(m + (12 + c) * stride);
    s[0][c] = _mm512_add_ps(m0, _mm512_add_ps(m1, m2));
    s[1][c] = _mm512_sub_ps(_mm512_sub_ps(m1, m2), m3);
  }
#pragma GCC unroll 2
  for (int r = 0; r < 2; r++) {
    y[2 * r] = _mm512_add_ps(s[r][0], _mm512_add_ps(s[r][1], s[r][2]));
    y[2 * r + 1] = _mm512_sub_ps(_mm512_sub_ps(s[r][1], s[r][2]), s[r][3]);
  }
}

// Row `r` of G g, times 1: g is [3][3] vectors, `out` three of them.
inline void weight_row(const __m512 g[9], int r, __m512 out[3]) {
  const __m512 half = _mm512_set1_ps(0.5f);
#pragma GCC unroll 3
  for (int c = 0; c < 3; c++) {
    if (r == 0) out[c] = g[c];
    if (r == 1) out[c] = _mm512_mul_ps(half, _mm512_add_ps(_mm512_add_ps(g[c], g[6 + c]), g[3 + c]));
    if (r == 2) out[c] = _mm512_mul_ps(half, _mm512_sub_ps(_mm512_add_ps(g[c], g[6 + c]), g[3 + c]));
    if (r == 3) out[c] = g[6 + c];
  }
}

// (row) G^T: three vectors -> four.
inline void weight_columns(const __m512 g[3], __m512 out[4]) {
  const __m512 half = _mm512_set1_ps(0.5f), sum = _mm512_add_ps(g[0], g[2]);
  out[0] = g[0];
  out[1] = _mm512_mul_ps(half, _mm512_add_ps(sum, g[1]));
  out[2] = _mm512_mul_ps(half, _mm512_sub_ps(sum, g[1]));
  out[3] = g[2];
}

// gain * G^T m G: 16 frequencies at m + f * stride -> nine vectors.
inline void transform_weight_gradient(const float* m, int64_t stride, __m512 gain, __m512 out[9]) {
  const __m512 half = _mm512_set1_ps(0.5f);
  __m512 s[3][4];
#pragma GCC unroll 4
  for (int c = 0; c < 4; c++) {
    const __m512 m1 = _mm512_loadu_ps(m + (4 + c) * stride), m2 = _mm512_loadu_ps(m + (8 + c) * stride);
    const __m512 mean = _mm512_mul_ps(half, _mm512_add_ps(m1, m2));
    s[0][c] = _mm512_add_ps(_mm512_loadu_ps(m + c * stride), mean);
    s[1][c] = _mm512_mul_ps(half, _mm512_sub_ps(m1, m2));
    s[2][c] = _mm512_add_ps(mean, _mm512_loadu_ps(m + (12 + c) * stride));
  }
#pragma GCC unroll 3
  for (int r = 0; r < 3; r++) {
    const __m512 mean = _mm512_mul_ps(half, _mm512_add_ps(s[r][1], s[r][2]));
    out[3 * r] = _mm512_mul_ps(gain, _mm512_add_ps(s[r][0], mean));
    out[3 * r + 1] = _mm512_mul_ps(gain, _mm512_mul_ps(half, _mm512_sub_ps(s[r][1], s[r][2])));
    out[3 * r + 2] = _mm512_mul_ps(gain, _mm512_add_ps(mean, s[r][3]));
  }
}

}  // namespace conv3x3
