// The passes over whole tensors: weights into tiles, a convolution, its gradient in the weights.
//
// A block of x that fits the second-level cache is copied into planes with their borders (conv_taps_plan.h); then all
// weights stream past it. Numbers of float32 become three bfloat16, the nearest one and twice the nearest of what remains,
// which together have all 24 bits; a product becomes the six of them that are not below 2^-24.
#pragma once
#include "conv_taps_plan.h"
#include "conv_taps_product.h"
#include "cpu.h"
#include "scratch.h"

namespace conv_taps {

using conv3x3::round_pair;
using conv3x3::round_words;
using conv3x3::stage_weights;
using conv3x3::transpose16;

constexpr int64_t BLOCK_BYTES = 768 << 10;  // of planes, in a second level of 1 MB or more
constexpr int64_t CHUNK_CELLS = 4096;       // of the gradient in the weights
constexpr int64_t SLACK = 32;               // cells behind a plane that may be read

// At least n numbers that fill an odd number of cache lines, so that 16 rows of them don't fall on the same sets.
constexpr int64_t odd_lines(int64_t n) { return ((n + 31) / 32 | 1) * 32; }

template <typename T>
constexpr int PARTS = sizeof(T) == 4 ? 3 : 1;

// 32 numbers as bfloat16 in parts[0]; of float32 what they lack in parts[1], and those in parts[2].
inline void load32(const bf16* x, __mmask32 m, __m512i parts[1]) { parts[0] = _mm512_maskz_loadu_epi16(m, x); }

inline __m512 rest(__m512 v) {
  return _mm512_sub_ps(
      v, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(v)), 16)));
}

inline void load32(const float* x, __mmask32 m, __m512i parts[3]) {
  __m512 a = _mm512_maskz_loadu_ps(static_cast<__mmask16>(m), x);
  __m512 b = _mm512_maskz_loadu_ps(static_cast<__mmask16>(m >> 16), m >> 16 ? x + 16 : x);
  for (int part = 0; part < 3; part++, a = rest(a), b = rest(b)) parts[part] = round_pair(a, b);
}

// A step; of float32 those of its parts, which lie `a_part` and `b_part` bytes apart, a tile at a time, so that a part of
// A is loaded once.
template <int PARTS_>
inline void add_steps(std::vector<Step>& steps, const Step& s, int64_t a_part, int64_t b_part) {
  if (PARTS_ == 1) return steps.push_back(s);
  for (int64_t k = 0; k < s.depth; k++)
    for (int64_t a = 0; a < PARTS_; a++)
      for (int64_t b = 0; a + b < PARTS_; b++)
        steps.push_back({s.a + 64 * k + a * a_part, s.b + TILE * k + b * b_part, 1, b > 0});
}

// The weights in tiles: for each 16 outputs, tap and 32 inputs one of 16 pairs of inputs x 16 outputs; further parts,
// if any, behind all of it.
struct Weights {
  int64_t outputs, inputs, taps;
  int64_t columns() const { return (outputs + 15) / 16; }
  int64_t depth() const { return (inputs + 31) / 32; }
  int64_t tap_bytes() const { return depth() * TILE; }
  int64_t column_bytes() const { return taps * tap_bytes(); }
  int64_t part_bytes() const { return columns() * column_bytes(); }
};

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
          __m512 a = _mm512_mul_ps(g, stage[2 * k * layout.taps + t]);
          __m512 b = _mm512_mul_ps(g, stage[(2 * k + 1) * layout.taps + t]);
          for (int part = 0; part < PARTS_; part++, a = rest(a), b = rest(b))
            _mm512_storeu_si512(tile + part * layout.part_bytes() + 64 * k, round_words(a, b));
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
  const int64_t padded = layout.padded(), part_at = layout.part_bytes() / 2;
  for (int64_t j = 0; j < plan.pitch(); j++, to += layout.pitch()) {
    const int64_t x = plan.x.source(plane, j);
    if (!row || x < 0 || x >= c.width) {
      for (int part = 0; part < PARTS<T>; part++) std::memset(to + part * part_at, 0, 2 * padded);
      continue;
    }
    for (int64_t ch = 0; ch < padded; ch += 32) {
      __m512i parts[PARTS<T>];
      load32(row + x * c.in + ch, mask32(c.in - ch), parts);
      for (int part = 0; part < PARTS<T>; part++) _mm512_storeu_si512(to + part * part_at + ch, parts[part]);
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

// The steps of products: some channels of every tap, since taps meet the same pixels, which stay in the first level
// meanwhile; and the parts that make up float32.
template <int PARTS_>
inline std::vector<Step> steps_of(const Plan& plan, int64_t target, const Planes& a, const Weights& b) {
  constexpr int64_t TOGETHER = 4;
  std::vector<Step> steps;
  for (int64_t k = 0; k < b.depth(); k += TOGETHER)
    for (const Tap& t : plan.taps(target))
      add_steps<PARTS_>(steps,
                        {t.plane * a.plane_bytes() + (t.dy * plan.pitch() + t.dx) * a.pitch() * 2 + 64 * k,
                         t.index * b.tap_bytes() + TILE * k, std::min(TOGETHER, b.depth() - k)},
                        a.part_bytes(), b.part_bytes());
  return steps;
}

// Where the sums of tiles of cells belong, in numbers of y from its beginning; -1: nowhere.
inline std::vector<int64_t> places_of(const Plan& plan, int64_t target, const std::vector<Cells>& tiles) {
  const Conv& v = plan.conv;
  const int64_t py = target / plan.x.targets(), px = target % plan.x.targets();
  std::vector<int64_t> places;
  places.reserve(16 * tiles.size());
  for (const Cells& t : tiles)
    for (int r = 0; r < 16; r++) {
      const int64_t y = plan.y.target(py, t.row[r]), x = plan.x.target(px, t.column[r]);
      const bool inside = t.row[r] >= 0 && y >= 0 && y < v.out_height && x >= 0 && x < v.out_width;
      places.push_back(inside ? ((t.image * v.out_height + y) * v.out_width + x) * v.out : -1);
    }
  return places;
}

inline void store_sums(const int64_t places[16], const float* c, int64_t out0, int64_t outputs, int columns, bf16* y) {
  for (int r = 0; r < 16; r++, c += C_ROW) {
    if (places[r] < 0) continue;
    for (int j = 0; j < columns; j += 2) {  // what is behind the last column is not written
      const __m512i both = round_pair(_mm512_loadu_ps(c + 16 * j), _mm512_loadu_ps(c + 16 * j + 16));
      _mm512_mask_storeu_epi16(y + places[r] + out0 + 16 * j, mask32(outputs - out0 - 16 * j), both);
    }
  }
}

inline void store_sums(const int64_t places[16], const float* c, int64_t out0, int64_t outputs, int columns, float* y) {
  for (int r = 0; r < 16; r++, c += C_ROW)
    for (int j = 0; j < columns && places[r] >= 0; j++)
      _mm512_mask_storeu_ps(y + places[r] + out0 + 16 * j, mask16(outputs - out0 - 16 * j), _mm512_loadu_ps(c + 16 * j));
}

// One block of positions by the columns of outputs from `begin` to `end`.
template <typename T>
inline void convolve_block(const Plan& plan, const Block& block, const char* a, const Planes& planes,
                           const Weights& layout, const char* u, int64_t begin, int64_t end, T* y) {
  const std::vector<Cells> tiles = tiles_of(plan, block);
  const Tiles registers(tiles_allowed());
  alignas(64) float c[40 * C_ROW] = {};
  for (int64_t target = 0; target < plan.targets(); target++) {
    const std::vector<Step> steps = steps_of<PARTS<T>>(plan, target, planes, layout);
    const std::vector<int64_t> places = places_of(plan, target, tiles);
    Product p{{}, {}, planes.pitch() * 2, steps.data(), static_cast<int64_t>(steps.size()), nullptr,
              layout.column_bytes(), 0, c, false};
    for (int64_t column = begin; column < end; column += p.columns) {
      p.b = u + column * layout.column_bytes();
      p.columns = static_cast<int>(std::min<int64_t>(columns_at_once(), end - column));
      for (size_t t = 0; t < tiles.size(); t += 2) {
        const bool two = t + 1 < tiles.size();
        p.a[0] = a + tiles[t].cell * p.a_row, p.rows[0] = tiles[t].count;
        p.a[1] = two ? a + tiles[t + 1].cell * p.a_row : p.a[0], p.rows[1] = two ? tiles[t + 1].count : 0;
        multiply(p);
        store_sums(&places[16 * t], c, 16 * column, plan.conv.out, p.columns, y);
        if (two) store_sums(&places[16 * t + 16], c + 16 * C_ROW, 16 * column, plan.conv.out, p.columns, y);
      }
    }
  }
}

template <typename T>
inline void convolve(const Plan& plan, const T* x, const Weights& layout, const char* u, T* y, int64_t threads) {
  const int64_t cell_bytes = odd_lines(plan.conv.in) * 2 * plan.planes() * PARTS<T>;
  const std::vector<Block> blocks = blocks_of(plan, std::max<int64_t>(1, BLOCK_BYTES / cell_bytes), threads);
  int64_t most = 0, groups = 1;
  for (const Block& b : blocks) most = std::max(most, b.cells);
  const int64_t item_bytes = round_up(Planes{plan.conv.in, most, plan.planes()}.part_bytes() * PARTS<T>, 4096);
  const int64_t wide = (layout.columns() + COLUMNS - 1) / COLUMNS;
  if (threads > 1) groups = std::clamp<int64_t>(2 * threads / static_cast<int64_t>(blocks.size()), 1, wide);
  static thread_local sg::Scratch scratch;
  char* memory = scratch.get<char>(threads * item_bytes);
  sg::for_each_item(blocks.size() * groups, threads, [&](int64_t item, int64_t thread) {
    const Block& block = blocks[item / groups];
    const Planes planes{plan.conv.in, block.cells, plan.planes()};
    char* a = memory + thread * item_bytes;
    fill_planes(x, plan, block, planes, a);
    const int64_t begin = wide * (item % groups) / groups * COLUMNS, end = wide * (item % groups + 1) / groups * COLUMNS;
    convolve_block(plan, block, a, planes, layout, u, begin, std::min(end, layout.columns()), y);
  });
}

// ---- the gradient in the weights: products of [channels of y, cells] and [cells, channels of x] ----------------------
//
// A tap shifts x, by whole pairs of cells; odd shifts find their pairs in a second copy.

// Whether rows of y fill tiles by themselves: then they lie without the cells between them, and are met one by one.
inline bool by_rows(const Plan& plan) { return plan.conv.out_width % 32 == 0; }

// Addresses of the cells of a block, null where there is nothing: of a plane of x, or of y where there are positions.
template <typename T>
inline void find_x(const Plan& plan, const Block& block, const T* data, int64_t plane, const T** found) {
  const Conv& c = plan.conv;
  const int64_t pitch = plan.pitch(), py = plane / plan.x.planes(), px = plane % plan.x.planes();
  for (const Segment& s : block.segments)
    for (int64_t i = 0; i < s.rows + plan.y.reach(); i++)
      for (int64_t j = 0; j < pitch; j++) {
        const int64_t y = plan.y.source(py, s.first + i), x = plan.x.source(px, j);
        if (y >= 0 && y < c.height && x >= 0 && x < c.width)
          found[s.cell + i * pitch + j] = data + ((s.image * c.height + y) * c.width + x) * c.in;
      }
}

template <typename T>
inline void find_y(const Plan& plan, const Block& block, const T* data, const T** found) {
  const Conv& c = plan.conv;
  int64_t row = 0;
  for (const Segment& s : block.segments)
    for (int64_t i = 0; i < s.rows; i++, row++)
      for (int64_t j = 0; j < c.out_width; j++)
        found[(by_rows(plan) ? row * c.out_width : s.cell + i * plan.pitch()) + j] =
            data + ((s.image * c.out_height + s.first + i) * c.out_width + j) * c.out;
}

// 32 channels of 32 cells as rows of channels: to[channel * pitch + cell].
template <typename T>
inline void turn32(const T* const* cells, int64_t channel, __mmask32 m, bf16* to, int64_t pitch, int64_t part_at) {
  alignas(64) static const uint16_t order[64] = {0,  2,  4,  6,  8,  10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30,
                                                 32, 34, 36, 38, 40, 42, 44, 46, 48, 50, 52, 54, 56, 58, 60, 62,
                                                 1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                                 33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
  __m512 rows[PARTS<T>][2][16];
  for (int half = 0; half < 2; half++)
    for (int i = 0; i < 16; i++) {
      const T* cell = cells[16 * half + i];
      __m512i parts[PARTS<T>] = {};
      if (cell) load32(cell + channel, m, parts);
      for (int part = 0; part < PARTS<T>; part++) rows[part][half][i] = _mm512_castsi512_ps(parts[part]);
    }
  const __m512i even = _mm512_load_si512(order), odd = _mm512_load_si512(order + 32);
  for (int part = 0; part < PARTS<T>; part++) {
    transpose16(rows[part][0]);
    transpose16(rows[part][1]);
    for (int i = 0; i < 16; i++) {
      const __m512i first = _mm512_castps_si512(rows[part][0][i]), second = _mm512_castps_si512(rows[part][1][i]);
      bf16* dst = to + part * part_at + 2 * i * pitch;
      _mm512_storeu_si512(dst, _mm512_permutex2var_epi16(first, even, second));
      _mm512_storeu_si512(dst + pitch, _mm512_permutex2var_epi16(first, odd, second));
    }
  }
}

// 32 channels of 32 cells as two tiles of pairs of cells.
template <typename T>
inline void pair32(const T* const* cells, int64_t channel, __mmask32 m, char* first, int64_t column_bytes,
                   int64_t part_at) {
  alignas(64) static const uint16_t order[64] = {0,  32, 1,  33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                 8,  40, 9,  41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47,
                                                 16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
                                                 24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63};
  const __m512i low16 = _mm512_load_si512(order), high16 = _mm512_load_si512(order + 32);
  for (int k = 0; k < 16; k++) {
    __m512i v[2][PARTS<T>] = {};
    for (int i = 0; i < 2; i++)
      if (const T* cell = cells[2 * k + i]) load32(cell + channel, m, v[i]);
    for (int part = 0; part < PARTS<T>; part++) {
      char* dst = first + part * part_at + 64 * k;
      _mm512_storeu_si512(dst, _mm512_permutex2var_epi16(v[0][part], low16, v[1][part]));
      _mm512_storeu_si512(dst + column_bytes, _mm512_permutex2var_epi16(v[0][part], high16, v[1][part]));
    }
  }
}

// gw[o][i][taps] of the sums [tap][32][64] of 32 channels of y from y0 on by 64 of x from x0 on; the o are channels of y,
// or (`by_large`) of x.
struct Sums {
  int64_t in, out, taps;
  int64_t rows() const { return (out + 31) / 32; }
  int64_t columns() const { return (in + C_ROW - 1) / C_ROW; }
  int64_t tap() const { return 32 * C_ROW + 16; }
  int64_t floats() const { return taps * tap(); }

  void store(const float* c, int64_t y0, int64_t x0, bool by_large, float gain, float* gw) const {
    for (int64_t q = 0; q < COLUMNS && x0 + 16 * q < in; q++)
      by_large ? by_x(c + 16 * q, y0, x0 + 16 * q, gain, gw) : by_y(c + 16 * q, y0, x0 + 16 * q, gain, gw);
  }

 private:
  void by_y(const float* c, int64_t y0, int64_t x0, float gain, float* gw) const {
    for (int64_t r = 0; r < 32 && y0 + r < out; r++, c += C_ROW) {
      __m512 rows[16];
      for (int64_t t = 0; t < 16; t++)
        rows[t] = t < taps ? _mm512_mul_ps(_mm512_set1_ps(gain), _mm512_loadu_ps(c + t * tap())) : _mm512_setzero_ps();
      transpose16(rows);
      for (int64_t l = 0; l < 16 && x0 + l < in; l++)
        _mm512_mask_storeu_ps(gw + ((y0 + r) * in + x0 + l) * taps, mask16(taps), rows[l]);
    }
  }
  void by_x(const float* c, int64_t y0, int64_t x0, float gain, float* gw) const {
    const int64_t have = taps * std::min<int64_t>(32, out - y0);
    __m512 stage[32 * 16];
    for (int64_t r = 0; r < 32; r++)
      for (int64_t t = 0; t < taps; t++)
        stage[r * taps + t] = _mm512_mul_ps(_mm512_set1_ps(gain), _mm512_loadu_ps(c + t * tap() + r * C_ROW));
    for (int64_t b = 0; b < 2 * taps && 16 * b < have; b++) {
      transpose16(stage + 16 * b);
      for (int64_t l = 0; l < 16 && x0 + l < in; l++)
        _mm512_mask_storeu_ps(gw + ((x0 + l) * out + y0) * taps + 16 * b, mask16(have - 16 * b), stage[16 * b + l]);
    }
  }
};

// A chunk's two operands: rows of channels of y, and tiles of pairs of cells of x in each of its images: the planes, and
// those again that are shifted by odd numbers of cells.
struct Chunk {
  int64_t in, out, cells, reach, of_y;  // reach: cells that a tap may reach beyond; of_y: cells of y
  int64_t depth() const { return (of_y + 31) / 32; }
  int64_t pitch() const { return odd_lines(32 * depth()); }
  int64_t a_part() const { return round_up(out, 32) * pitch() * 2; }
  int64_t tiles() const { return (cells + reach + 31) / 32 + 1; }
  int64_t column_bytes() const { return tiles() * TILE; }
  int64_t image_bytes() const { return round_up(in, 32) / 16 * column_bytes(); }
};

inline Chunk chunk_of(const Plan& plan, const Block& block) {
  int64_t rows = 0;
  for (const Segment& s : block.segments) rows += s.rows;
  const int64_t reach = plan.y.reach() * plan.pitch() + plan.x.reach();
  return {plan.conv.in, plan.conv.out, block.cells, reach, by_rows(plan) ? rows * plan.conv.out_width : block.cells};
}

// The steps of a chunk's products, but for the shift.
template <int PARTS_>
inline std::vector<Step> steps_of(const Plan& plan, const Block& block, const Chunk& k, int64_t b_part) {
  std::vector<Step> steps;
  const auto add = [&](int64_t of_y, int64_t cell, int64_t depth) {
    add_steps<PARTS_>(steps, {2 * of_y, 32 * cell, depth}, k.a_part(), b_part);
  };
  if (!by_rows(plan)) {
    add(0, 0, k.depth());
    return steps;
  }
  int64_t row = 0;
  for (const Segment& s : block.segments)
    for (int64_t i = 0; i < s.rows; i++, row++)
      add(row * plan.conv.out_width, s.cell + i * plan.pitch(), plan.conv.out_width / 32);
  return steps;
}

struct Shift {  // of a tap
  int64_t image, from, index;
};

// The images [plane, odd] that taps need, and each tap's.
inline std::vector<Shift> shifts_of(const Plan& plan, std::vector<std::pair<int64_t, int64_t>>& images) {
  std::vector<Shift> shifts;
  for (const Tap& t : plan.taps(0)) {
    const int64_t by = t.dy * plan.pitch() + t.dx;
    const std::pair<int64_t, int64_t> image(t.plane, by % 2);
    const auto at = std::find(images.begin(), images.end(), image);
    shifts.push_back({at - images.begin(), by / 2 * 64, t.index});
    if (at == images.end()) images.push_back(image);
  }
  return shifts;
}

template <typename T>
inline void fill_chunk(const Plan& plan, const Block& block, const Chunk& k,
                       const std::vector<std::pair<int64_t, int64_t>>& images, const T* x, const T* y, int64_t threads,
                       char* a, char* b) {
  const int64_t b_part = images.size() * k.image_bytes();
  std::vector<std::vector<const T*>> cells(plan.planes(), std::vector<const T*>(32 * k.tiles() + 2, nullptr));
  std::vector<const T*> of_y(k.pitch(), nullptr);
  for (int64_t p = 0; p < plan.planes(); p++) find_x(plan, block, x, p, cells[p].data());
  find_y(plan, block, y, of_y.data());
  const int64_t y_groups = (k.out + 31) / 32, x_groups = (k.in + 31) / 32;
  sg::for_each_item(y_groups + images.size() * x_groups, threads, [&](int64_t item, int64_t) {
    if (item < y_groups) {
      bf16* to = reinterpret_cast<bf16*>(a) + 32 * item * k.pitch();
      for (int64_t m = 0; m < k.depth(); m++)
        turn32(of_y.data() + 32 * m, 32 * item, mask32(k.out - 32 * item), to + 32 * m, k.pitch(), k.a_part() / 2);
      return;
    }
    const int64_t image = (item - y_groups) / x_groups, ch = (item - y_groups) % x_groups * 32;
    char* to = b + image * k.image_bytes() + ch / 16 * k.column_bytes();
    const T* const* from = cells[images[image].first].data() + images[image].second;
    for (int64_t m = 0; m < k.tiles(); m++)
      pair32(from + 32 * m, ch, mask32(k.in - ch), to + m * TILE, k.column_bytes(), b_part);
  });
}

// gw[o][i][tap] = gain * sum over images and positions of y[o] x[i, shifted by the tap]; `plan` gathers, with even rows.
// by_large: the o are the channels of x.
template <typename T>
inline void weight_gradient(const Plan& plan, const T* x, const T* y, float gain, bool by_large, float* gw,
                            int64_t threads) {
  const Conv& v = plan.conv;
  const std::vector<Block> blocks = blocks_of(plan, CHUNK_CELLS, 1);
  std::vector<std::pair<int64_t, int64_t>> images;
  const std::vector<Shift> shifts = shifts_of(plan, images);
  const Sums sums{v.in, v.out, v.taps()};
  const int64_t items = sums.rows() * sums.columns();
  int64_t a_bytes = 0, b_bytes = 0;
  for (const Block& block : blocks) {
    const Chunk k = chunk_of(plan, block);
    a_bytes = std::max(a_bytes, round_up(k.a_part() * PARTS<T>, 64));
    b_bytes = std::max<int64_t>(b_bytes, k.image_bytes() * images.size() * PARTS<T>);
  }
  const bool one = blocks.size() == 1;  // then sums needn't be kept
  static thread_local sg::Scratch scratch;
  char* a = scratch.get<char>(a_bytes + b_bytes + (one ? threads : items) * sums.floats() * sizeof(float));
  char* b = a + a_bytes;
  float* c = reinterpret_cast<float*>(b + b_bytes);

  for (size_t n = 0; n < blocks.size(); n++) {
    const Chunk k = chunk_of(plan, blocks[n]);
    const int64_t b_part = k.image_bytes() * images.size();
    const std::vector<Step> steps = steps_of<PARTS<T>>(plan, blocks[n], k, b_part);
    fill_chunk(plan, blocks[n], k, images, x, y, threads, a, b);
    sg::for_each_item(items, threads, [&](int64_t item, int64_t thread) {
      const int64_t row = item % sums.rows(), column = item / sums.rows() * COLUMNS;
      const Tiles registers(tiles_allowed());
      float* mine = c + (one ? thread : item) * sums.floats();
      const char* first = a + 32 * row * k.pitch() * 2;
      const int columns = static_cast<int>(std::min<int64_t>(COLUMNS, (v.in + 15) / 16 - column));
      for (const Shift& s : shifts) {
        multiply({{first, first + 16 * k.pitch() * 2}, {16, 16}, k.pitch() * 2, steps.data(),
                  static_cast<int64_t>(steps.size()), b + column * k.column_bytes() + s.image * k.image_bytes() + s.from,
                  k.column_bytes(), columns, mine + s.index * sums.tap(), n > 0});
      }
      if (n + 1 == blocks.size()) sums.store(mine, 32 * row, 16 * column, by_large, gain, gw);
    });
  }
}

}  // namespace conv_taps
