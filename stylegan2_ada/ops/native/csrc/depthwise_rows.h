// What depthwise convolutions are made of: rows of an image as tables of pointers to their pixels, those beside the
// image to zeros; sums of taps along a row; and the sums of products that are the gradient of the weights.
#pragma once

#include "blocks.h"
#include "cpu.h"
#include "pairs.h"

namespace depthwise {

using sg::PAIR;
using sg::Pair;
using sg::Vec;

// Channels are done in groups of PAIR. The last one begins where it ends with the channels, and does some again. A group
// of fewer than PAIR, where there are no more, is loaded and stored in part.
struct Groups {
  int64_t channels;

  bool narrow() const { return channels < PAIR; }
  int64_t count() const { return (channels + PAIR - 1) / PAIR; }
  int64_t first(int64_t group) const { return narrow() ? 0 : std::min(group * PAIR, channels - PAIR); }
};

template <bool NARROW, typename T>
SG_INLINE Pair load_group(const T* x, int64_t channels) {
  return NARROW ? sg::load_pair_some(x, channels) : sg::load_pair(x);
}

template <bool NARROW, typename T>
SG_INLINE void store_group(Pair y, T* x, int64_t channels) {
  NARROW ? sg::store_pair_some(y, x, channels) : sg::store_pair(y, x);
}

// Pointers to the pixels of an image's rows: row(y)[left + x] is pixel x. Some rows are remembered.
template <typename T>
class Rows {
 public:
  // zeros: as many as there are channels. columns: pixels with those beside the image. ahead: how many rows below a new
  // one the next new one is.
  Rows(const T* image, int64_t width, int64_t channels, int64_t left, int64_t columns, int64_t remembered, int64_t ahead,
       const T* zeros)
      : image_(image), width_(width), channels_(channels), left_(left), columns_(columns), ahead_(ahead),
        held_(remembered, -1), pixels_(remembered * columns, zeros) {}

  const T* const* row(int64_t y) {
    const int64_t place = y % static_cast<int64_t>(held_.size());
    const T** to = pixels_.data() + place * columns_;
    if (held_[place] != y) {
      held_[place] = y;
      const T* from = image_ + y * width_ * channels_;
      if (y > seen_) seen_ = y, sg::prefetch(from + ahead_ * width_ * channels_, width_ * channels_);
      for (int64_t x = 0; x < width_; ++x) to[left_ + x] = from + x * channels_;
    }
    return to;
  }

 private:
  const T* image_;
  const int64_t width_, channels_, left_, columns_, ahead_;
  int64_t seen_ = -1;
  std::vector<int64_t> held_;
  std::vector<const T*> pixels_;
};

// Pixels of a row, and the weights that they meet: those of the first group.
template <typename T>
struct Line {
  const T* const* x;
  const Pair* w;
};

// Groups from `begin` to `end`; from one to the next it is `apart` weights. start: what sums begin with, or null. ahead:
// from a number of the result to the one below it, whose place in memory is asked for early.
struct Block {
  Groups groups;
  int64_t begin, end, apart, ahead;
  const Pair* start;

  Pair start_of(int64_t group) const { return start ? start[group] : Pair{}; }
};

SG_INLINE void add_product(Pair& sum, const Pair& x, const Pair& w) {
  sum.a += x.a * w.a;
  sum.b += x.b * w.b;
}

template <typename T, int TAPS, int STEP, int TILE>
SG_INLINE void sum_tile(const Line<T>* lines, int64_t count, int64_t at, const Block& block, T* out, int64_t apart) {
  for (int64_t group = block.begin; group < block.end; ++group) {
    const int64_t channel = block.groups.first(group);
    const Pair start = block.start_of(group);
    Pair sum[TILE];
#pragma GCC unroll 8
    for (int i = 0; i < TILE; ++i) sum[i] = start;
    for (int64_t l = 0; l < count; ++l) {
      const T* const* x = lines[l].x + at * STEP;
      const Pair* w = lines[l].w + group * block.apart;
#pragma GCC unroll 32
      for (int j = 0; j < (TILE - 1) * STEP + TAPS; ++j) {
        const Pair v = sg::load_pair(x[j] + channel);
#pragma GCC unroll 8
        for (int i = 0; i < TILE; ++i)
          if (j - i * STEP >= 0 && j - i * STEP < TAPS) add_product(sum[i], v, w[j - i * STEP]);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < TILE; ++i) {
      T* to = out + (at + i) * apart + channel;
      sg::store_pair(sum[i], to);
      __builtin_prefetch(to + block.ahead, 1, 3);
    }
  }
}

// For the groups of a block: out[x * apart] = start + sum over lines and taps of line.x[x * STEP + tap] line.w[tap], x
// in [0, n).
template <typename T>
using SumRow = void (*)(const Line<T>* lines, int64_t count, int64_t n, const Block& block, T* out, int64_t apart);

template <typename T, int TAPS, int STEP>
void sum_row(const Line<T>* lines, int64_t count, int64_t n, const Block& block, T* out, int64_t apart) {
  constexpr int MOST = sg::LANES < 16 ? 4 : 6;  // as many as there are registers for
  int64_t x = 0;
  for (; x + MOST <= n; x += MOST) sum_tile<T, TAPS, STEP, MOST>(lines, count, x, block, out, apart);
  if (MOST > 4 && x + 4 <= n) sum_tile<T, TAPS, STEP, 4>(lines, count, x, block, out, apart), x += 4;
  if (x + 2 <= n) sum_tile<T, TAPS, STEP, 2>(lines, count, x, block, out, apart), x += 2;
  if (x < n) sum_tile<T, TAPS, STEP, 1>(lines, count, x, block, out, apart);
}

// The same for any window, and for narrow groups.
template <bool NARROW, int TILE, typename T>
SG_INLINE void sum_tile_of_any(int64_t taps, int64_t step, const Line<T>* lines, int64_t count, int64_t at,
                               const Block& block, T* out, int64_t apart) {
  for (int64_t group = block.begin; group < block.end; ++group) {
    const int64_t channel = block.groups.first(group), channels = block.groups.channels;
    const Pair start = block.start_of(group);
    Pair sum[TILE];
    for (int i = 0; i < TILE; ++i) sum[i] = start;
    for (int64_t l = 0; l < count; ++l)
      for (int64_t j = 0; j < taps; ++j)
#pragma GCC unroll 4
        for (int i = 0; i < TILE; ++i)
          add_product(sum[i], load_group<NARROW>(lines[l].x[(at + i) * step + j] + channel, channels),
                      lines[l].w[group * block.apart + j]);
    for (int i = 0; i < TILE; ++i) store_group<NARROW>(sum[i], out + (at + i) * apart + channel, channels);
  }
}

template <bool NARROW, typename T>
void sum_row_of_any(int64_t taps, int64_t step, const Line<T>* lines, int64_t count, int64_t n, const Block& block,
                    T* out, int64_t apart) {
  int64_t x = 0;
  for (; x + 4 <= n; x += 4) sum_tile_of_any<NARROW, 4>(taps, step, lines, count, x, block, out, apart);
  for (; x < n; ++x) sum_tile_of_any<NARROW, 1>(taps, step, lines, count, x, block, out, apart);
}

template <typename T>
void sum_row(int64_t taps, int64_t step, const Line<T>* lines, int64_t count, int64_t n, const Block& block, T* out,
             int64_t apart) {
  if (block.groups.narrow()) return sum_row_of_any<true>(taps, step, lines, count, n, block, out, apart);
#define DW_CASE(TAPS, STEP) \
  if (taps == TAPS && step == STEP) return sum_row<T, TAPS, STEP>(lines, count, n, block, out, apart);
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
  sum_row_of_any<false>(taps, step, lines, count, n, block, out, apart);
}

SG_INLINE void add_product(Vec& sum, Vec x, Vec w) { sum += x * w; }

// s[l][tap]: sum over x in [0, n) of g[x * apart] lines[l][x * STEP + tap], for LINES lines of what `load` loads
template <int STEP, int LINES, int TAPS, typename V, typename T, typename Load>
SG_INLINE void products(const T* const* const* lines, int64_t channel, const T* g, int64_t apart, int64_t n,
                        const Load& load, V (&s)[LINES][TAPS]) {
  V v[LINES][TAPS];  // the pixels under the window, which moves along
#pragma GCC unroll 8
  for (int l = 0; l < LINES; ++l)
#pragma GCC unroll 8
    for (int j = 0; j < TAPS; ++j) {
      s[l][j] = V{};
      if (j < TAPS - STEP) v[l][j] = load(lines[l][j] + channel);
    }
  for (int64_t x = 0; x < n; ++x) {
    const V of = load(g + x * apart + channel);
#pragma GCC unroll 8
    for (int l = 0; l < LINES; ++l) {
#pragma GCC unroll 8
      for (int j = TAPS - STEP; j < TAPS; ++j) v[l][j] = load(lines[l][x * STEP + j] + channel);
#pragma GCC unroll 8
      for (int j = 0; j < TAPS; ++j) add_product(s[l][j], of, v[l][j]);
#pragma GCC unroll 8
      for (int j = 0; j + STEP < TAPS; ++j) v[l][j] = v[l][j + STEP];
    }
  }
}

// Adds to sums[l][tap]. As much at once as there are registers for.
template <int TAPS, int STEP, int LINES, typename T>
SG_INLINE void add_products(const T* const* const* lines, int64_t channel, const T* g, int64_t apart, int64_t n,
                            Pair* const* sums) {
  if constexpr (sg::LANES >= 16 || TAPS <= 3) {
    Pair s[LINES][TAPS];
    products<STEP>(lines, channel, g, apart, n, [](const T* x) { return sg::load_pair(x); }, s);
#pragma GCC unroll 8
    for (int l = 0; l < LINES; ++l)
#pragma GCC unroll 8
      for (int j = 0; j < TAPS; ++j) sums[l][j].a += s[l][j].a, sums[l][j].b += s[l][j].b;
  } else {
    Vec s[1][TAPS];
    products<STEP>(lines, channel, g, apart, n, [](const T* x) { return sg::load_pair(x).a; }, s);
    for (int j = 0; j < TAPS; ++j) sums[0][j].a += s[0][j];
    products<STEP>(lines, channel, g, apart, n, [](const T* x) { return sg::load_pair(x).b; }, s);
    for (int j = 0; j < TAPS; ++j) sums[0][j].b += s[0][j];
  }
}

template <typename T, int TAPS, int STEP>
void product_rows(const T* const* const* lines, int64_t count, int64_t channel, const T* g, int64_t apart, int64_t n,
                  Pair* const* sums) {
  constexpr int AT_ONCE = sg::LANES >= 16 && TAPS <= 3 ? 2 : 1;
  int64_t l = 0;
  for (; l + AT_ONCE <= count; l += AT_ONCE)
    add_products<TAPS, STEP, AT_ONCE>(lines + l, channel, g, apart, n, sums + l);
  for (; l < count; ++l) add_products<TAPS, STEP, 1>(lines + l, channel, g, apart, n, sums + l);
}

template <bool NARROW, typename T>
void product_rows_of_any(int64_t taps, int64_t step, const T* const* const* lines, int64_t count, const Groups& groups,
                         int64_t channel, const T* g, int64_t apart, int64_t n, Pair* const* sums) {
  constexpr int TILE = 4;
  const auto load = [&](const T* x) { return load_group<NARROW>(x + channel, groups.channels); };
  for (int64_t l = 0; l < count; ++l)
    for (int64_t j = 0; j < taps; ++j) {
      Pair s[TILE] = {};
      int64_t x = 0;
      for (; x + TILE <= n; x += TILE)
#pragma GCC unroll 4
        for (int i = 0; i < TILE; ++i)
          add_product(s[i], load(g + (x + i) * apart), load(lines[l][(x + i) * step + j]));
      for (; x < n; ++x) add_product(s[0], load(g + x * apart), load(lines[l][x * step + j]));
      for (int i = 0; i < TILE; ++i) sums[l][j].a += s[i].a, sums[l][j].b += s[i].b;
    }
}

template <typename T>
void product_rows(int64_t taps, int64_t step, const T* const* const* lines, int64_t count, const Groups& groups,
                  int64_t channel, const T* g, int64_t apart, int64_t n, Pair* const* sums) {
  if (groups.narrow())
    return product_rows_of_any<true>(taps, step, lines, count, groups, channel, g, apart, n, sums);
#define DW_CASE(TAPS, STEP) \
  if (taps == TAPS && step == STEP) return product_rows<T, TAPS, STEP>(lines, count, channel, g, apart, n, sums);
  DW_CASE(3, 1)
  DW_CASE(5, 1)
  DW_CASE(7, 1)
  DW_CASE(3, 2)
  DW_CASE(5, 2)
  DW_CASE(7, 2)
#undef DW_CASE
  product_rows_of_any<false>(taps, step, lines, count, groups, channel, g, apart, n, sums);
}

}  // namespace depthwise
