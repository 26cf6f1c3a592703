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

// Tiles are worked on in pairs of horizontal neighbours, which share two of their four columns. Channels are worked on
// in groups of 32, first the 16 even-numbered ones, then the odd-numbered; they stay in this order, which the other
// operand follows: `pair_channel` for the weights, `channel_of` for the weights' gradient.

struct Image {  // channels-last: [n][height][width][channels]
  int64_t n, channels, height, width;
  int64_t pair_cols() const { return (width + 3) / 4; }
  int64_t pairs() const { return n * ((height + 1) / 2) * pair_cols(); }
};

struct Corner {  // the first pixel of a pair of tiles
  int64_t n, y, x;
};

inline Corner corner(const Image& s, int64_t pair) {
  const int64_t row = pair / s.pair_cols(), rows = (s.height + 1) / 2;
  return {row / rows, 2 * (row % rows), 4 * (pair % s.pair_cols())};
}

// Addresses of ROWS x COLS pixels from (y0, x0) on; outside of the image `zeros`.
template <int ROWS, int COLS>
inline void pixels(const Image& s, const bf16* x, int64_t n, int64_t y0, int64_t x0, const bf16* zeros,
                   const bf16* p[]) {
  for (int64_t r = 0; r < ROWS; r++) {
    const bool row_inside = y0 + r >= 0 && y0 + r < s.height;
    const bf16* row = x + ((n * s.height + y0 + r) * s.width + x0) * s.channels;
    for (int64_t c = 0; c < COLS; c++)
      p[COLS * r + c] = row_inside && x0 + c >= 0 && x0 + c < s.width ? row + c * s.channels : zeros;
  }
}

template <bool ODD, int N>
inline void load_row(const bf16* const* p, int64_t channel, __mmask32 m, __m512 out[N]) {
#pragma GCC unroll 8
  for (int c = 0; c < N; c++) out[c] = widen<ODD>(_mm512_maskz_loadu_epi16(m, p[c] + channel));
}

// B^T d B of two tiles, for half of the 32 channels from `channel` on; to(frequency, first tile's, second tile's).
template <bool ODD, typename To>
SG_FORCE_INLINE void transform_input(const bf16* const p[24], int64_t channel, __mmask32 m, const To to) {
  __m512 d[4][6];
#pragma GCC unroll 4
  for (int r = 0; r < 4; r++) load_row<ODD, 6>(p + 6 * r, channel, m, d[r]);
#pragma GCC unroll 8
  for (int c = 0; c < 6; c++) {
    const __m512 b = d[1][c], e = d[2][c];
    d[0][c] = _mm512_sub_ps(d[0][c], e);
    d[1][c] = _mm512_add_ps(b, e);
    d[2][c] = _mm512_sub_ps(e, b);
    d[3][c] = _mm512_sub_ps(b, d[3][c]);
  }
#pragma GCC unroll 4
  for (int r = 0; r < 4; r++) {
    to(4 * r + 0, _mm512_sub_ps(d[r][0], d[r][2]), _mm512_sub_ps(d[r][2], d[r][4]));
    to(4 * r + 1, _mm512_add_ps(d[r][1], d[r][2]), _mm512_add_ps(d[r][3], d[r][4]));
    to(4 * r + 2, _mm512_sub_ps(d[r][2], d[r][1]), _mm512_sub_ps(d[r][4], d[r][3]));
    to(4 * r + 3, _mm512_sub_ps(d[r][1], d[r][3]), _mm512_sub_ps(d[r][3], d[r][5]));
  }
}

// A gY A^T of the 2x2 gradients of two tiles, as above, with the opposite sign for frequencies whose row or column
// (but not both) is 3: transform_weight_gradient makes up for it.
template <bool ODD, typename To>
SG_FORCE_INLINE void transform_gradient(const bf16* const p[8], int64_t channel, __mmask32 m, const To to) {
  __m512 d[4][4];
  load_row<ODD, 4>(p, channel, m, d[0]);
  load_row<ODD, 4>(p + 4, channel, m, d[3]);
#pragma GCC unroll 4
  for (int c = 0; c < 4; c++) {
    d[1][c] = _mm512_add_ps(d[0][c], d[3][c]);
    d[2][c] = _mm512_sub_ps(d[0][c], d[3][c]);
  }
#pragma GCC unroll 4
  for (int r = 0; r < 4; r++) {
    to(4 * r + 0, d[r][0], d[r][2]);
    to(4 * r + 1, _mm512_add_ps(d[r][0], d[r][1]), _mm512_add_ps(d[r][2], d[r][3]));
    to(4 * r + 2, _mm512_sub_ps(d[r][0], d[r][1]), _mm512_sub_ps(d[r][2], d[r][3]));
    to(4 * r + 3, d[r][1], d[r][3]);
  }
}

// The first channel of pair `k` in this order; the second is two further.
inline int64_t pair_channel(int64_t k) { return channel_of(2 * k); }

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

// Row `r` of G g: g is [3][3] vectors, `out` three of them.
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

// gain * G^T m G: 16 frequencies at m + f * stride, with the signs of transform_gradient -> nine vectors.
inline void transform_weight_gradient(const float* m, int64_t stride, __m512 gain, __m512 out[9]) {
  const __m512 half = _mm512_set1_ps(0.5f);
  __m512 s[3][4];
#pragma GCC unroll 4
  for (int c = 0; c < 4; c++) {
    const __m512 m1 = _mm512_loadu_ps(m + (4 + c) * stride), m2 = _mm512_loadu_ps(m + (8 + c) * stride);
    const __m512 mean = _mm512_mul_ps(half, _mm512_add_ps(m1, m2));
    s[0][c] = _mm512_add_ps(_mm512_loadu_ps(m + c * stride), mean);
    s[1][c] = _mm512_mul_ps(half, _mm512_sub_ps(m1, m2));
    s[2][c] = _mm512_sub_ps(mean, _mm512_loadu_ps(m + (12 + c) * stride));
  }
#pragma GCC unroll 3
  for (int r = 0; r < 3; r++) {
    const __m512 mean = _mm512_mul_ps(half, _mm512_add_ps(s[r][1], s[r][2]));
    out[3 * r] = _mm512_mul_ps(gain, _mm512_add_ps(s[r][0], mean));
    out[3 * r + 1] = _mm512_mul_ps(gain, _mm512_mul_ps(half, _mm512_sub_ps(s[r][1], s[r][2])));
    out[3 * r + 2] = _mm512_mul_ps(gain, _mm512_sub_ps(mean, s[r][3]));
  }
}

}  // namespace conv3x3
