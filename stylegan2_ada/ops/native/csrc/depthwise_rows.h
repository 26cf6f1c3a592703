// What depthwise convolutions are made of: rows of an image as float, channels in groups of one vector and every group's
// pixels side by side; sums of taps along a row; and the sums of products that are the gradient of the weights.
#pragma once

#include "cpu.h"
#include "lanes.h"
#include "scratch.h"

namespace depthwise {

using sg::groups;
using sg::LANES;
using sg::Vec;

// Channels that are done together: few, so that the rows that a window passes over stay in the first-level cache, and
// a cache line of 16-bit numbers.
constexpr int64_t TOGETHER = 2 * LANES;

// An image's rows of up to TOGETHER of its channels, `count` rows at a time, with zeros before and behind the pixels:
// group g of row(y) begins at g * pitch, its pixel x is at [left + x].
template <typename T>
class Rows {
 public:
  // image: the first of the channels; apart: from a pixel to the next. columns: pixels with the zeros. memory:
  // words(...) vectors.
  Rows(const T* image, int64_t width, int64_t apart, int64_t channels, int64_t left, int64_t columns, int64_t count,
       Vec* memory)
      : pitch(columns), image_(image), width_(width), apart_(apart), channels_(channels), left_(left), count_(count),
        held_(count, -1), memory_(memory) {
    const Vec zero = {};
    for (int64_t g = 0; g < count * groups(channels); ++g) {
      std::fill(memory + g * pitch, memory + g * pitch + left, zero);
      std::fill(memory + g * pitch + left + width, memory + (g + 1) * pitch, zero);
    }
  }

  static int64_t words(int64_t columns, int64_t count) { return count * groups(TOGETHER) * columns; }

  const Vec* row(int64_t y) {
    const int64_t place = y % count_;
    Vec* to = memory_ + place * groups(channels_) * pitch;
    if (held_[place] != y) {
      held_[place] = y;
      read(image_ + y * width_ * apart_, to + left_);
    }
    return to;
  }

  const int64_t pitch;

 private:
  void read(const T* __restrict from, Vec* __restrict to) const {
    if (channels_ == TOGETHER) {
      for (int64_t x = 0; x < width_; ++x, from += apart_) {
        to[x] = sg::load(from);
        to[pitch + x] = sg::load(from + LANES);
      }
      return;
    }
    const int64_t whole = channels_ / LANES, rest = channels_ % LANES;
    for (int64_t x = 0; x < width_; ++x, from += apart_) {
      if (whole) to[x] = sg::load(from);
      if (rest) to[whole * pitch + x] = sg::load_some(from + whole * LANES, rest);
    }
  }

  const T* image_;
  const int64_t width_, apart_, channels_, left_, count_;
  std::vector<int64_t> held_;
  Vec* memory_;
};

// A row of pixels and the weights that it meets.
struct Line {
  const Vec *x, *w;
};

template <int TAPS, int STEP, int TILE>
SG_INLINE void sum_tile(const Line* lines, int64_t count, Vec start, int64_t at, Vec* out, int64_t apart) {
  Vec sum[TILE];
  for (int i = 0; i < TILE; ++i) sum[i] = start;
  for (int64_t l = 0; l < count; ++l) {
    const Vec *x = lines[l].x + at * STEP, *w = lines[l].w;
#pragma GCC unroll 16
    for (int j = 0; j < (TILE - 1) * STEP + TAPS; ++j) {
      const Vec v = x[j];
#pragma GCC unroll 8
      for (int i = 0; i < TILE; ++i)
        if (j - i * STEP >= 0 && j - i * STEP < TAPS) sum[i] += v * w[j - i * STEP];
    }
  }
  for (int i = 0; i < TILE; ++i) out[(at + i) * apart] = sum[i];
}

// out[x * apart] = start + sum over lines and taps of line.x[x * STEP + tap] * line.w[tap], x in [0, n)
template <int TAPS, int STEP>
void sum_row(const Line* lines, int64_t count, Vec start, int64_t n, Vec* __restrict out, int64_t apart) {
  int64_t x = 0;
  for (; x + 4 <= n; x += 4) sum_tile<TAPS, STEP, 4>(lines, count, start, x, out, apart);
  for (; x + 2 <= n; x += 2) sum_tile<TAPS, STEP, 2>(lines, count, start, x, out, apart);
  for (; x < n; ++x) sum_tile<TAPS, STEP, 1>(lines, count, start, x, out, apart);
}

inline void sum_row_of_any(int64_t taps, int64_t step, const Line* lines, int64_t count, Vec start, int64_t n,
                           Vec* out, int64_t apart) {
  for (int64_t x = 0; x < n; ++x) {
    Vec sum = start;
    for (int64_t l = 0; l < count; ++l)
      for (int64_t j = 0; j < taps; ++j) sum += lines[l].x[x * step + j] * lines[l].w[j];
    out[x * apart] = sum;
  }
}

inline void sum_row(int64_t taps, int64_t step, const Line* lines, int64_t count, Vec start, int64_t n, Vec* out,
                    int64_t apart) {
#define DW_CASE(TAPS, STEP) \
  if (taps == TAPS && step == STEP) return sum_row<TAPS, STEP>(lines, count, start, n, out, apart);
  DW_CASE(3, 1)
  DW_CASE(5, 1)
  DW_CASE(7, 1)
  DW_CASE(3, 2)
  DW_CASE(5, 2)
  DW_CASE(7, 2)
  DW_CASE(1, 1)  // these are what the gradient of a stride of two has in even and odd columns
  DW_CASE(2, 1)
  DW_CASE(4, 1)
#undef DW_CASE
  sum_row_of_any(taps, step, lines, count, start, n, out, apart);
}

// sums[l][tap] += sum over x in [0, n) of g[x] * lines[l][x * STEP + tap], for LINES lines
template <int TAPS, int STEP, int LINES>
SG_INLINE void products(const Vec* const* lines, const Vec* __restrict g, int64_t n, Vec* const* sums) {
  Vec s[LINES][TAPS] = {};
  for (int64_t x = 0; x < n; ++x) {
    const Vec v = g[x];
#pragma GCC unroll 8
    for (int l = 0; l < LINES; ++l)
#pragma GCC unroll 8
      for (int j = 0; j < TAPS; ++j) s[l][j] += v * lines[l][x * STEP + j];
  }
  for (int l = 0; l < LINES; ++l)
    for (int j = 0; j < TAPS; ++j) sums[l][j] += s[l][j];
}

template <int TAPS, int STEP>
void product_rows(const Vec* const* lines, int64_t count, const Vec* g, int64_t n, Vec* const* sums) {
  constexpr int AT_ONCE = LANES < 16 ? 1 : TAPS <= 3 ? 3 : TAPS <= 5 ? 5 : 3;  // as many as there are registers for
  int64_t l = 0;
  for (; l + AT_ONCE <= count; l += AT_ONCE) products<TAPS, STEP, AT_ONCE>(lines + l, g, n, sums + l);
  for (; l < count; ++l) products<TAPS, STEP, 1>(lines + l, g, n, sums + l);
}

inline void product_rows(int64_t taps, int64_t step, const Vec* const* lines, int64_t count, const Vec* g, int64_t n,
                         Vec* const* sums) {
#define DW_CASE(TAPS, STEP) \
  if (taps == TAPS && step == STEP) return product_rows<TAPS, STEP>(lines, count, g, n, sums);
  DW_CASE(3, 1)
  DW_CASE(5, 1)
  DW_CASE(7, 1)
  DW_CASE(3, 2)
  DW_CASE(5, 2)
  DW_CASE(7, 2)
#undef DW_CASE
  for (int64_t l = 0; l < count; ++l)
    for (int64_t j = 0; j < taps; ++j) {
      Vec s = {};
      for (int64_t x = 0; x < n; ++x) s += g[x] * lines[l][x * step + j];
      sums[l][j] += s;
    }
}

}  // namespace depthwise
