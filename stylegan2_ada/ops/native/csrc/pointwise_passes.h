// Products of matrices [pixels, channels] in bfloat16 or float32 with float32 sums (AVX512-BF16), for 1x1 convolutions.
#pragma once

#include <utility>
#include <vector>

#include "blocks.h"
#include "conv3x3_gemm.h"
#include "cpu.h"
#include "scratch.h"

namespace pointwise {

using conv3x3::bf16;  // as a number of 16 bits
using conv3x3::mask16;
using conv3x3::mask32;
using conv3x3::round_up;

constexpr int64_t COLUMNS = 64;               // of a product
constexpr int64_t ROWS = 48;                  // a multiple of those that are made together
constexpr int64_t BLOCK_BYTES = 128 << 10;    // of rows and their results, for which all columns are made together
constexpr int64_t PIXELS = 320;               // whose outer products are summed before they are added to the others'
constexpr int64_t PIECE = 4096, PIECES = 16;  // pixels that are summed by themselves, whatever the number of threads

// How numbers are multiplied, 32 bits at a time: a word is a pair of bfloat16, or a float.
template <typename T>
struct Words : conv3x3::Bf16Pairs {
  static constexpr int64_t NUMBERS = 2;
};

template <>
struct Words<float> {
  using Sum = __m512;
  static constexpr int64_t NUMBERS = 1;
  static Sum zero() { return _mm512_setzero_ps(); }
  static Sum add(Sum s, __m512i a, __m512i b) { return _mm512_fmadd_ps((__m512)a, (__m512)b, s); }
  static void store(float* to, Sum s) { _mm512_storeu_ps(to, s); }
};

template <typename T>
constexpr int64_t NUMBERS = Words<T>::NUMBERS;

// Columns in panels of 1 to 4 vectors of about the same number.
struct Panels {
  int64_t columns;

  int64_t vectors() const { return (columns + 15) / 16; }
  int64_t count() const { return (vectors() + 3) / 4; }
  int64_t first(int64_t panel) const { return vectors() * panel / count(); }
  int64_t width(int64_t panel) const { return first(panel + 1) - first(panel); }
};

// Weights [columns][depth] (`across`: [depth][columns]) in words along the depth: [words][16 width] a panel.
template <typename T>
void pack_weights(const float* w, int64_t depth, const Panels& panels, bool across, uint32_t* to) {
  const int64_t columns = panels.columns;
  for (int64_t p = 0; p < panels.count(); p++) {
    const int64_t row = 16 * panels.width(p);
    for (int64_t c = 16 * panels.first(p), end = 16 * panels.first(p + 1); c < end; c += 16, to += 16) {
      const __mmask16 mask = mask16(columns - c);
      if (across) {
        for (int64_t k = 0; k < depth; k += NUMBERS<T>) {
          const __m512 first = _mm512_maskz_loadu_ps(mask, w + k * columns + c);
          if constexpr (NUMBERS<T> == 1)
            _mm512_storeu_ps(to + k * row, first);
          else
            _mm512_storeu_si512(to + k / 2 * row,
                                conv3x3::round_words(first, _mm512_maskz_loadu_ps(mask, w + (k + 1) * columns + c)));
        }
        continue;
      }
      for (int64_t k = 0; k < depth; k += 16 * NUMBERS<T>) {
        __m512 words[16];
        for (int64_t r = 0; r < 16; r++) {
          const float* from = w + std::min(c + r, columns - 1) * depth + k;
          words[r] = _mm512_maskz_loadu_ps(mask16(depth - k), from);
          if constexpr (NUMBERS<T> == 2)
            words[r] = (__m512)conv3x3::round_pair(words[r], _mm512_maskz_loadu_ps(mask16(depth - k - 16), from + 16));
        }
        conv3x3::transpose16(words);
        for (int64_t i = 0; i < std::min<int64_t>(16, (depth - k) / NUMBERS<T>); i++)
          _mm512_storeu_ps(to + (k / NUMBERS<T> + i) * row, words[i]);
      }
    }
    to += (depth / NUMBERS<T> - 1) * row;
  }
}

// What the rows of a product need: the first row of A and of y, their distances; packed weights of so many words, and
// how many of the last 16 columns there are.
template <typename T>
struct Rows {
  const uint32_t *a, *b;
  T* y;
  int64_t a_row, y_row, words, last;
};

// To nearest, of whose columns there are so many.
inline void store_some(float* to, __m512 v, int64_t columns) { _mm512_mask_storeu_ps(to, mask16(columns), v); }

inline void store_some(bf16* to, __m512 v, int64_t columns) {
  const __m256i rounded = (__m256i)_mm512_cvtneps_pbh(v);
  if (columns >= 16) return _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), rounded);
  _mm256_mask_storeu_epi16(to, mask16(columns), rounded);
}

SG_FORCE_INLINE void store_two(float* to, __m512 a, __m512 b) { _mm512_storeu_ps(to, a), _mm512_storeu_ps(to + 16, b); }
SG_FORCE_INLINE void store_two(bf16* to, __m512 a, __m512 b) { _mm512_storeu_si512(to, conv3x3::round_pair(a, b)); }

// ROWS rows of y by 16 * COLS columns, rounded
template <typename T, int ROWS, int COLS>
void product_rows(const Rows<T>& p) {
  __m512 acc[ROWS][COLS];
  conv3x3::micro_sums<Words<T>>(p.a, p.a_row, 1, p.b, 16 * COLS, p.words, acc);
#pragma GCC unroll 12
  for (int r = 0; r < ROWS; r++) {
    T* to = p.y + r * p.y_row;
#pragma GCC unroll 2
    for (int j = 0; j + 2 < COLS; j += 2) store_two(to + 16 * j, acc[r][j], acc[r][j + 1]);
    if constexpr (COLS % 2 == 0) {
      if (p.last == 16)
        store_two(to + 16 * (COLS - 2), acc[r][COLS - 2], acc[r][COLS - 1]);
      else
        store_some(to + 16 * (COLS - 2), acc[r][COLS - 2], 16), store_some(to + 16 * (COLS - 1), acc[r][COLS - 1], p.last);
    } else {
      store_some(to + 16 * (COLS - 1), acc[r][COLS - 1], p.last);
    }
  }
}

constexpr int rows_at_once(int cols) { return cols <= 2 ? 12 : 24 / cols; }  // as many as there are registers for

// The kernels for 1 to rows_at_once(COLS) rows.
template <int COLS, typename T>
void product_of(int64_t rows, Rows<T> p) {
  static constexpr auto table = []<int... R>(std::integer_sequence<int, R...>) {
    struct {
      void (*of[sizeof...(R)])(const Rows<T>&);
    } t{{product_rows<T, R + 1, COLS>...}};
    return t;
  }(std::make_integer_sequence<int, rows_at_once(COLS)>{});
  for (int64_t groups = (rows + rows_at_once(COLS) - 1) / rows_at_once(COLS); groups > 0; groups--) {
    const int64_t here = groups == 1 ? rows : std::min<int64_t>(rows_at_once(COLS), (rows + groups - 1) / groups);
    table.of[here - 1](p);
    rows -= here, p.a += here * p.a_row, p.y += here * p.y_row;
  }
}

// y [pixels, columns] = x [pixels, depth] times packed weights.
template <typename T>
void multiply(const T* x, const uint32_t* w, int64_t pixels, int64_t depth, const Panels& panels, T* y, int64_t threads) {
  const int64_t columns = panels.columns, words = depth / NUMBERS<T>, of_block = BLOCK_BYTES / (sizeof(T) * (depth + columns));
  const int64_t block = std::max(ROWS, of_block / ROWS * ROWS), blocks = (pixels + block - 1) / block;
  sg::for_each_item(blocks, threads, [&](int64_t item, int64_t) {
    const int64_t begin = item * block, rows = std::min(block, pixels - begin);
    for (int64_t p = 0; p < panels.count(); p++) {
      const int64_t first = 16 * panels.first(p), width = panels.width(p);
      const Rows<T> of{reinterpret_cast<const uint32_t*>(x + begin * depth), w + first * words,
                       y + begin * columns + first, words, columns, words,
                       std::min<int64_t>(16, columns - first - 16 * (width - 1))};
      switch (width) {
        case 1:
          product_of<1>(rows, of);
          break;
        case 2:
          product_of<2>(rows, of);
          break;
        case 3:
          product_of<3>(rows, of);
          break;
        default:
          product_of<4>(rows, of);
      }
    }
  });
}

// Rows of two neighbouring pixels as words of both, or of one of float: 16 channels of `pixels` pixels, to rows `apart`
// words apart. The rest of an odd number, and of channels, are zeros.
inline void pack_pixels(const float* x, int64_t channels, int64_t wanted, int64_t pixels, uint32_t* to, int64_t apart) {
  const __mmask16 mask = mask16(wanted);
  for (int64_t m = 0; m < pixels; m++, x += channels, to += apart) _mm512_storeu_ps(to, _mm512_maskz_loadu_ps(mask, x));
}

inline void pack_pixels(const bf16* x, int64_t channels, int64_t wanted, int64_t pixels, uint32_t* to, int64_t apart) {
  const __mmask16 mask = mask16(wanted);
  for (int64_t m = 0; m < pixels; m += 2, x += 2 * channels, to += apart) {
    const __m512i a = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, x));
    const __m512i b = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m + 1 < pixels ? mask : 0, x + channels));
    _mm512_storeu_si512(to, _mm512_or_si512(a, _mm512_slli_epi32(b, 16)));
  }
}

// out [rows, columns]: the sum over pixels of g [pixels, rows] times x [pixels, columns], of panels from `first` to `last`
template <typename T>
void outer_products(const T* g, const T* x, int64_t pixels, int64_t rows, const Panels& panels,
                           int64_t first, int64_t last, float* out) {
  static thread_local sg::Scratch scratch;
  alignas(64) float c[16 * COLUMNS];
  const int64_t columns = panels.columns, blocks = (pixels + PIXELS - 1) / PIXELS;
  const int64_t block = round_up((pixels + blocks - 1) / blocks, 2), words = block / NUMBERS<T>;
  uint32_t* of_g = scratch.get<uint32_t>(words * (round_up(rows, 16) + COLUMNS));
  uint32_t* of_x = of_g + words * round_up(rows, 16);
  sg::prefetch(x, std::min(block, pixels) * columns);
  for (int64_t m = 0; m < pixels; m += block) {
    const int64_t here = std::min(block, pixels - m), next = std::min(block, pixels - m - here);
    const int64_t of_here = (here + NUMBERS<T> - 1) / NUMBERS<T>;
    sg::prefetch(x + (m + here) * columns, next * columns);
    sg::prefetch(g + (m + here) * rows, next * rows);
    for (int64_t r = 0; r < rows; r += 16) pack_pixels(g + m * rows + r, rows, rows - r, here, of_g + r * words, 16);
    for (int64_t p = first; p < last; p++) {
      const int64_t width = panels.width(p), from = 16 * panels.first(p);
      for (int64_t j = 0; j < width; j++)
        pack_pixels(x + m * columns + from + 16 * j, columns, columns - from - 16 * j, here, of_x + 16 * j, 16 * width);
      for (int64_t r = 0; r < rows; r += 16) {
        const int64_t many = std::min<int64_t>(16, rows - r);
        conv3x3::gemm<Words<T>>(width, many, of_g + r * words, 1, 16, of_x, 16 * width, of_here, c, COLUMNS);
        for (int64_t i = 0; i < many; i++)
          for (int64_t j = 0; j < width; j++) {
            const __mmask16 mask = mask16(columns - from - 16 * j);
            float* to = out + (r + i) * columns + from + 16 * j;
            __m512 v = _mm512_load_ps(c + i * COLUMNS + 16 * j);
            if (m) v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(mask, to));
            _mm512_mask_storeu_ps(to, mask, v);
          }
      }
    }
  }
}

}  // namespace pointwise
