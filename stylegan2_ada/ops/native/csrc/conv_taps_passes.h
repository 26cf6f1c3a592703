// The passes over whole tensors: weights into tiles, a convolution, its gradient in the weights.
//
// A block of x that fits the second-level cache is copied into planes with their borders (conv_taps_plan.h); then all
// weights stream past it. Numbers of float32 become two bfloat16, the nearest one and the nearest of what remains, and a
// product becomes three: high x high + low x high + high x low, which leaves an error of about 2^-16.
#pragma once
#include "conv_taps_plan.h"
#include "conv_taps_product.h"
#include "cpu.h"
#include "scratch.h"

namespace conv_taps {

using conv3x3::round_pair;
using conv3x3::round_words;
using conv3x3::transpose16;

constexpr int64_t BLOCK_BYTES = 768 << 10;  // of planes, in a second level of 1 MB or more
constexpr int64_t CHUNK_CELLS = 4096;       // of the gradient in the weights
constexpr int64_t SLACK = 32;               // cells behind a plane that may be read

// At least n numbers that fill an odd number of cache lines, so that 16 rows of them don't fall on the same sets.
constexpr int64_t odd_lines(int64_t n) { return ((n + 31) / 32 | 1) * 32; }

template <typename T>
constexpr int PARTS = sizeof(T) == 4 ? 2 : 1;

// 32 numbers as bfloat16; of float32 the nearest ones, and in `low` what they lack.
inline __m512i load32(const bf16* x, __mmask32 m, __m512i*) { return _mm512_maskz_loadu_epi16(m, x); }

inline __m512 widened(__m256bh v) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)v), 16)); }

inline __m512i split(__m512 a, __m512 b, __m512i* low) {
  const __m256bh ha = _mm512_cvtneps_pbh(a), hb = _mm512_cvtneps_pbh(b);
  *low = round_pair(_mm512_sub_ps(a, widened(ha)), _mm512_sub_ps(b, widened(hb)));
  return _mm512_inserti64x4(_mm512_castsi256_si512((__m256i)ha), (__m256i)hb, 1);
}

inline __m512i load32(const float* x, __mmask32 m, __m512i* low) {
  return split(_mm512_maskz_loadu_ps(static_cast<__mmask16>(m), x),
               _mm512_maskz_loadu_ps(static_cast<__mmask16>(m >> 16), m >> 16 ? x + 16 : x), low);
}

// The weights in tiles: for each 16 outputs, tap and 32 inputs one of 16 pairs of inputs x 16 outputs; the second part,
// if any, behind all of the first.
struct Weights {
  int64_t outputs, inputs, taps;
  int64_t columns() const { return (outputs + 15) / 16; }
  int64_t depth() const { return (inputs + 31) / 32; }
  int64_t tap_bytes() const { return depth() * TILE; }
  int64_t column_bytes() const { return taps * tap_bytes(); }
  int64_t part_bytes() const { return columns() * column_bytes(); }
};

// stage[input * taps + tap], vectors of 16 outputs, of 32 inputs; w is [o][i][taps], `by_input` takes its i for outputs.
inline void stage_weights(const float* w, int64_t o_count, int64_t i_count, int64_t taps, bool by_input, int64_t out0,
                          int64_t in0, __m512* stage) {
  __m512 rows[16];
  if (by_input) {
    for (int64_t k = 0; k < 32; k++) {
      const int64_t o = in0 + k;
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

template <int PARTS_>
inline void pack_weights(const float* w, int64_t o_count, int64_t i_count, const Weights& layout, float gain,
                         bool by_input, int64_t threads, char* u) {
  sg::for_each_item(layout.columns(), threads, [&](int64_t column, int64_t) {
    const __m512 g = _mm512_set1_ps(gain);
    __m512 stage[32 * 16];
    for (int64_t kb = 0; kb < layout.depth(); kb++) {
      stage_weights(w, o_count, i_count, layout.taps, by_input, 16 * column, 32 * kb, stage);
      for (int64_t t = 0; t < layout.taps; t++) {
        char* tile = u + column * layout.column_bytes() + t * layout.tap_bytes() + kb * TILE;
        for (int64_t k = 0; k < 16; k++) {
          const __m512 a = _mm512_mul_ps(g, stage[2 * k * layout.taps + t]);
          const __m512 b = _mm512_mul_ps(g, stage[(2 * k + 1) * layout.taps + t]);
          _mm512_storeu_si512(tile + 64 * k, round_words(a, b));
          if constexpr (PARTS_ == 2) {
            const __m512 la = _mm512_sub_ps(a, widened(_mm512_cvtneps_pbh(a)));
            const __m512 lb = _mm512_sub_ps(b, widened(_mm512_cvtneps_pbh(b)));
            _mm512_storeu_si512(tile + layout.part_bytes() + 64 * k, round_words(la, lb));
          }
        }
      }
    }
  });
}

// A block of x as planes of [cells][pitch] bfloat16, whose first channels are those of x and then zeros up to a
// multiple of 32.
struct Planes {
  int64_t channels, cells, planes;
  int64_t padded() const { return round_up(channels, 32); }
  int64_t pitch() const { return odd_lines(padded()); }
  int64_t plane_bytes() const { return (cells + SLACK) * pitch() * 2; }
  int64_t part_bytes() const { return planes * plane_bytes(); }
};

template <typename T>
inline void fill_row(const T* row, int64_t plane, const Plan& plan, const Planes& layout, bf16* to) {
  const Conv& c = plan.conv;
  const int64_t padded = layout.padded(), low_at = layout.part_bytes() / 2;
  for (int64_t j = 0; j < plan.pitch(); j++, to += layout.pitch()) {
    const int64_t x = plan.x.source(plane, j);
    if (!row || x < 0 || x >= c.width) {
      for (int part = 0; part < PARTS<T>; part++) std::memset(to + part * low_at, 0, 2 * padded);
      continue;
    }
    for (int64_t ch = 0; ch < padded; ch += 32) {
      __m512i low;
      _mm512_storeu_si512(to + ch, load32(row + x * c.in + ch, mask32(c.in - ch), &low));
      if constexpr (PARTS<T> == 2) _mm512_storeu_si512(to + low_at + ch, low);
    }
  }
}

template <typename T>
inline void fill_planes(const T* x, const Plan& plan, const Block& block, const Planes& layout, char* memory) {
  const Conv& c = plan.conv;
  for (const Segment& s : block.segments)
    for (int64_t i = 0; i < s.rows + plan.y.reach(); i++)
      for (int64_t py = 0; py < plan.y.planes(); py++) {
        const int64_t y = plan.y.source(py, s.first + i);
        const T* row = y < 0 || y >= c.height ? nullptr : x + (s.image * c.height + y) * c.width * c.in;
        for (int64_t px = 0; px < plan.x.planes(); px++) {
          char* plane = memory + (py * plan.x.planes() + px) * layout.plane_bytes();
          fill_row(row, px, plan, layout, reinterpret_cast<bf16*>(plane) + (s.cell + i * plan.pitch()) * layout.pitch());
        }
      }
}

// The steps of products: of every tap, and of the parts that make up float32.
template <int PARTS_>
inline std::vector<Step> steps_of(const Plan& plan, int64_t target, const Planes& a, const Weights& b) {
  std::vector<Step> steps;
  for (const Tap& t : plan.taps(target)) {
    const Step s{t.plane * a.plane_bytes() + (t.dy * plan.pitch() + t.dx) * a.pitch() * 2, t.index * b.tap_bytes()};
    steps.push_back(s);
    if (PARTS_ == 2) {
      steps.push_back({s.a + a.part_bytes(), s.b});
      steps.push_back({s.a, s.b + b.part_bytes()});
    }
  }
  return steps;
}

inline void store16(bf16* y, __mmask16 m, __m512 v) { _mm256_mask_storeu_epi16(y, m, (__m256i)_mm512_cvtneps_pbh(v)); }
inline void store16(float* y, __mmask16 m, __m512 v) { _mm512_mask_storeu_ps(y, m, v); }

// 16 cells' sums of `columns` tiles to where they belong.
template <typename T>
inline void store_cells(const Plan& plan, int64_t target, const Cells& cells, const float* c, int64_t out0, int columns,
                        T* y) {
  const Conv& v = plan.conv;
  const int64_t py = target / plan.x.targets(), px = target % plan.x.targets();
  for (int r = 0; r < cells.count; r++) {
    if (cells.row[r] < 0) continue;
    const int64_t oy = plan.y.target(py, cells.row[r]), ox = plan.x.target(px, cells.column[r]);
    if (oy < 0 || oy >= v.out_height || ox < 0 || ox >= v.out_width) continue;
    T* to = y + ((cells.image * v.out_height + oy) * v.out_width + ox) * v.out + out0;
    for (int j = 0; j < columns; j++)
      store16(to + 16 * j, mask16(v.out - out0 - 16 * j), _mm512_loadu_ps(c + r * C_ROW + 16 * j));
  }
}

template <typename T>
inline void convolve(const Plan& plan, const T* x, const Weights& layout, const char* u, T* y, int64_t threads) {
  const int64_t cell_bytes = odd_lines(plan.conv.in) * 2 * plan.planes() * PARTS<T>;
  const std::vector<Block> blocks = blocks_of(plan, std::max<int64_t>(1, BLOCK_BYTES / cell_bytes), threads);
  int64_t most = 0;
  for (const Block& b : blocks) most = std::max(most, b.cells);
  const int64_t item_bytes = round_up(Planes{plan.conv.in, most, plan.planes()}.part_bytes() * PARTS<T>, 4096);
  const int64_t wide = (layout.columns() + COLUMNS - 1) / COLUMNS;
  const int64_t groups = std::min(wide, std::max<int64_t>(1, 2 * threads / static_cast<int64_t>(blocks.size())));
  static thread_local sg::Scratch scratch;
  char* memory = scratch.get<char>(threads * item_bytes);

  sg::for_each_item(blocks.size() * (threads > 1 ? groups : 1), threads, [&](int64_t item, int64_t thread) {
    const int64_t parts = threads > 1 ? groups : 1;
    const Block& block = blocks[item / parts];
    const Planes planes{plan.conv.in, block.cells, plan.planes()};
    char* a = memory + thread * item_bytes;
    fill_planes(x, plan, block, planes, a);
    const std::vector<Cells> tiles = tiles_of(plan, block);
    const int64_t begin = wide * (item % parts) / parts, end = wide * (item % parts + 1) / parts;
    const Tiles registers(tiles_allowed());
    alignas(64) float c[40 * C_ROW];
    for (int64_t target = 0; target < plan.targets(); target++) {
      const std::vector<Step> steps = steps_of<PARTS<T>>(plan, target, planes, layout);
      Product p{{}, {}, planes.pitch() * 2, steps.data(), static_cast<int64_t>(steps.size()), layout.depth(), nullptr,
                layout.column_bytes(), 0, c, false};
      for (int64_t w = begin; w < end; w++) {
        p.b = u + w * COLUMNS * layout.column_bytes();
        p.columns = static_cast<int>(std::min<int64_t>(COLUMNS, layout.columns() - w * COLUMNS));
        for (size_t t = 0; t < tiles.size(); t += 2) {
          const bool two = t + 1 < tiles.size();
          p.a[0] = a + tiles[t].cell * p.a_row, p.rows[0] = tiles[t].count;
          p.a[1] = two ? a + tiles[t + 1].cell * p.a_row : p.a[0], p.rows[1] = two ? tiles[t + 1].count : 0;
          multiply(p);
          store_cells(plan, target, tiles[t], c, 16 * COLUMNS * w, p.columns, y);
          if (two) store_cells(plan, target, tiles[t + 1], c + 16 * C_ROW, 16 * COLUMNS * w, p.columns, y);
        }
      }
    }
  });
}

// ---- the gradient in the weights: products of [channels of x, cells] and [cells, channels of y] ----------------------

// Addresses of the cells of a block: of x in each plane, or (`of_y`) of y, null where there is nothing.
template <typename T>
inline void find_cells(const Plan& plan, const Block& block, const T* data, bool of_y, int64_t plane, const T** found) {
  const Conv& c = plan.conv;
  const int64_t pitch = plan.pitch(), py = plane / plan.x.planes(), px = plane % plan.x.planes();
  for (const Segment& s : block.segments)
    for (int64_t i = 0; i < s.rows + plan.y.reach(); i++)
      for (int64_t j = 0; j < pitch; j++) {
        const int64_t y = of_y ? s.first + i : plan.y.source(py, s.first + i), x = of_y ? j : plan.x.source(px, j);
        const bool inside = of_y ? i < s.rows && x < c.out_width : y >= 0 && y < c.height && x >= 0 && x < c.width;
        const int64_t high = of_y ? c.out_height : c.height, wide = of_y ? c.out_width : c.width;
        found[s.cell + i * pitch + j] =
            inside ? data + ((s.image * high + y) * wide + x) * (of_y ? c.out : c.in) : nullptr;
      }
}

// 32 channels of 32 cells as rows of channels: to[channel * pitch + cell].
template <typename T>
inline void turn32(const T* const* cells, int64_t channel, __mmask32 m, bf16* to, int64_t pitch, int64_t low_at) {
  alignas(64) static const uint16_t order[64] = {0,  2,  4,  6,  8,  10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30,
                                                 32, 34, 36, 38, 40, 42, 44, 46, 48, 50, 52, 54, 56, 58, 60, 62,
                                                 1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                                 33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
  __m512 rows[PARTS<T>][2][16];
  for (int half = 0; half < 2; half++)
    for (int i = 0; i < 16; i++) {
      const T* cell = cells[16 * half + i];
      __m512i low = _mm512_setzero_si512(), high = low;
      if (cell) high = load32(cell + channel, m, &low);
      rows[0][half][i] = _mm512_castsi512_ps(high);
      if constexpr (PARTS<T> == 2) rows[1][half][i] = _mm512_castsi512_ps(low);
    }
  const __m512i even = _mm512_load_si512(order), odd = _mm512_load_si512(order + 32);
  for (int part = 0; part < PARTS<T>; part++) {
    transpose16(rows[part][0]);
    transpose16(rows[part][1]);
    for (int i = 0; i < 16; i++) {
      const __m512i first = _mm512_castps_si512(rows[part][0][i]), second = _mm512_castps_si512(rows[part][1][i]);
      bf16* dst = to + part * low_at + 2 * i * pitch;
      _mm512_storeu_si512(dst, _mm512_permutex2var_epi16(first, even, second));
      _mm512_storeu_si512(dst + pitch, _mm512_permutex2var_epi16(first, odd, second));
    }
  }
}

// 32 channels of 32 cells as two tiles of pairs of cells.
template <typename T>
inline void pair32(const T* const* cells, int64_t channel, __mmask32 m, char* first, int64_t column_bytes, int64_t low_at) {
  alignas(64) static const uint16_t order[64] = {0,  32, 1,  33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                 8,  40, 9,  41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47,
                                                 16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
                                                 24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63};
  const __m512i low16 = _mm512_load_si512(order), high16 = _mm512_load_si512(order + 32);
  for (int k = 0; k < 16; k++) {
    __m512i v[2][2] = {};
    for (int i = 0; i < 2; i++)
      if (const T* cell = cells[2 * k + i]) v[0][i] = load32(cell + channel, m, &v[1][i]);
    for (int part = 0; part < PARTS<T>; part++) {
      char* dst = first + part * low_at + 64 * k;
      _mm512_storeu_si512(dst, _mm512_permutex2var_epi16(v[part][0], low16, v[part][1]));
      _mm512_storeu_si512(dst + column_bytes, _mm512_permutex2var_epi16(v[part][0], high16, v[part][1]));
    }
  }
}

// The sums of 32 channels of x by 64 of y, for every tap, as they stand in memory between chunks: [tap][32][64].
struct Sums {
  int64_t in, out, taps;
  int64_t rows() const { return (in + 31) / 32; }
  int64_t columns() const { return (out + 16 * COLUMNS - 1) / (16 * COLUMNS); }
  int64_t tap() const { return 34 * C_ROW; }
  int64_t floats() const { return rows() * columns() * taps * tap(); }
  int64_t at(int64_t row, int64_t column) const { return (column * rows() + row) * taps * tap(); }
};

// gw[o][i][taps] of one of those: the o are channels of y, or (`by_input`) of x.
inline void store_sums(const Sums& s, const float* c, int64_t in0, int64_t out0, bool by_input, float gain, float* gw) {
  const __m512 g = _mm512_set1_ps(gain);
  const int64_t o_count = by_input ? s.in : s.out, i_count = by_input ? s.out : s.in;
  for (int64_t q = 0; q < COLUMNS && out0 + 16 * q < s.out; q++) {
    if (by_input) {
      for (int64_t r = 0; r < 32 && in0 + r < s.in; r++) {
        __m512 rows[16] = {};
        for (int64_t t = 0; t < s.taps; t++) rows[t] = _mm512_mul_ps(g, _mm512_loadu_ps(c + t * s.tap() + r * C_ROW + 16 * q));
        transpose16(rows);
        for (int64_t l = 0; l < 16 && out0 + 16 * q + l < s.out; l++)
          _mm512_mask_storeu_ps(gw + ((in0 + r) * i_count + out0 + 16 * q + l) * s.taps, mask16(s.taps), rows[l]);
      }
      continue;
    }
    const int64_t have = s.taps * std::min<int64_t>(32, s.in - in0);
    __m512 stage[32 * 16];
    for (int64_t r = 0; r < 32; r++)
      for (int64_t t = 0; t < s.taps; t++)
        stage[r * s.taps + t] = _mm512_mul_ps(g, _mm512_loadu_ps(c + t * s.tap() + r * C_ROW + 16 * q));
    for (int64_t b = 0; b < 2 * s.taps && 16 * b < have; b++) {
      transpose16(stage + 16 * b);
      for (int64_t l = 0; l < 16 && out0 + 16 * q + l < o_count; l++)
        _mm512_mask_storeu_ps(gw + ((out0 + 16 * q + l) * i_count + in0) * s.taps + 16 * b, mask16(have - 16 * b),
                              stage[16 * b + l]);
    }
  }
}

// A chunk's two operands: rows of channels of x in every plane, and tiles of pairs of cells of y.
struct Chunk {
  int64_t in, out, planes, cells, extra;  // extra: cells that a tap may reach beyond the last
  int64_t depth() const { return (cells + 31) / 32; }
  int64_t pitch() const { return odd_lines(32 * depth() + extra); }
  int64_t plane_bytes() const { return round_up(in, 32) * pitch() * 2; }
  int64_t a_part() const { return planes * plane_bytes(); }
  int64_t column_bytes() const { return depth() * TILE; }
  int64_t b_part() const { return round_up(out, 32) / 16 * column_bytes(); }
};

template <typename T>
inline void fill_chunk(const Plan& plan, const Block& block, const Chunk& k, const T* x, const T* y, int64_t threads,
                       char* a, char* b) {
  const int64_t count = k.pitch();
  std::vector<std::vector<const T*>> cells(k.planes + 1, std::vector<const T*>(count + 32, nullptr));
  for (int64_t p = 0; p < k.planes; p++) find_cells(plan, block, x, false, p, cells[p].data());
  find_cells(plan, block, y, true, 0, cells[k.planes].data());
  const int64_t groups = (k.in + 31) / 32, all = k.planes * groups;
  sg::for_each_item(all + (k.out + 31) / 32, threads, [&](int64_t item, int64_t) {
    if (item < all) {
      const int64_t plane = item / groups, ch = item % groups * 32;
      bf16* to = reinterpret_cast<bf16*>(a + plane * k.plane_bytes()) + ch * k.pitch();
      for (int64_t m = 0; m < k.pitch(); m += 32)
        turn32(cells[plane].data() + m, ch, mask32(k.in - ch), to + m, k.pitch(), k.a_part() / 2);
    } else {
      const int64_t ch = (item - all) * 32;
      for (int64_t m = 0; m < k.depth(); m++)
        pair32(cells[k.planes].data() + 32 * m, ch, mask32(k.out - ch), b + ch / 16 * k.column_bytes() + m * TILE,
               k.column_bytes(), k.b_part());
    }
  });
}

// gw[o][i][tap] = gain * sum over images and positions of y[o] x[i, shifted by the tap]; `plan` gathers. by_input: the
// o are the channels of x.
template <typename T>
inline void weight_gradient(const Plan& plan, const T* x, const T* y, float gain, bool by_input, float* gw,
                            int64_t threads) {
  const Conv& v = plan.conv;
  const std::vector<Block> blocks = blocks_of(plan, CHUNK_CELLS, 1);
  const std::vector<Tap> taps = plan.taps(0);
  const Sums sums{v.in, v.out, v.taps()};
  int64_t most = 0;
  for (const Block& b : blocks) most = std::max(most, b.cells);
  const int64_t extra = plan.y.reach() * plan.pitch() + plan.x.reach();
  const Chunk largest{v.in, v.out, plan.planes(), most, extra};
  const int64_t a_bytes = round_up(largest.a_part() * PARTS<T>, 64), b_bytes = largest.b_part() * PARTS<T>;
  static thread_local sg::Scratch scratch;
  char* a = scratch.get<char>(a_bytes + b_bytes + sums.floats() * sizeof(float));
  char* b = a + a_bytes;
  float* c = reinterpret_cast<float*>(b + b_bytes);

  for (size_t n = 0; n < blocks.size(); n++) {
    const Chunk k{v.in, v.out, plan.planes(), blocks[n].cells, extra};
    fill_chunk(plan, blocks[n], k, x, y, threads, a, b);
    sg::for_each_item(sums.rows() * sums.columns(), threads, [&](int64_t item, int64_t) {
      const int64_t row = item % sums.rows(), column = item / sums.rows();
      const Tiles registers(tiles_allowed());
      float* mine = c + sums.at(row, column);
      for (const Tap& t : taps) {
        const int64_t from = t.plane * k.plane_bytes() + (t.dy * plan.pitch() + t.dx) * 2;
        const Step steps[3] = {{from, 0}, {from + k.a_part(), 0}, {from, k.b_part()}};
        const char* first = a + 32 * row * k.pitch() * 2;
        multiply({{first, first + 16 * k.pitch() * 2}, {16, 16}, k.pitch() * 2, steps, PARTS<T> == 2 ? 3 : 1, k.depth(),
                  b + column * COLUMNS * k.column_bytes(), k.column_bytes(),
                  static_cast<int>(std::min<int64_t>(COLUMNS, (v.out + 15) / 16 - column * COLUMNS)),
                  mine + t.index * sums.tap(), n > 0});
      }
      if (n + 1 == blocks.size())
        store_sums(sums, mine, 32 * row, 16 * COLUMNS * column, by_input, gain, gw);
    });
  }
}

}  // namespace conv_taps
