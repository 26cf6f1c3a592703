// The passes of a convolution by minimal filtering in fixed point (conv_fixed.h): tiles of the images are transformed,
// multiplied with all weights, which stream past them, and transformed back.
#pragma once
#include <algorithm>
#include <tuple>
#include <vector>

#include "conv_fixed.h"
#include "cpu.h"
#include "scratch.h"

namespace conv_fixed {

constexpr int64_t M_BYTES = 900 << 10;  // of products that are transformed back at once
constexpr int64_t FEWEST_TILES = 24;    // for which all weights are read
constexpr int64_t AT_ONCE_BYTES = 7 << 20;  // of tiles that may be met by weights which are just being transformed

// Where a block's transformed numbers lie: [point][row][row_words], of a tile as many rows as the point has copies.
template <typename Way>
struct Rows {
  int64_t tiles, words;
  int64_t at(int64_t point) const { return Way::copies_before(point) * tiles * words + point * 16; }
  int64_t row(int64_t point, int64_t tile, int64_t copy) const {
    return at(point) + (tile * Way::copies(point) + copy) * words;
  }
  int64_t all() const { return conv3x3::round_up(at(Way::POINTS), 16); }
};

// The step of a tile from those of its pixels, [row][column, then zeros].
template <typename Way>
float tile_step(const float (&steps)[Way::Y::SIDE][LANES]) {
  using Y = typename Way::Y;
  using X = typename Way::X;
  static const Magnitudes<Y::SIDE, Y::NUMBERS> of_y([](const auto& d, auto& t) SG_INLINED { Y::input(d, t); });
  static const Magnitudes<X::SIDE, X::NUMBERS> of_x([](const auto& d, auto& t) SG_INLINED { X::input(d, t); });
  vec across[X::SIDE] = {};
  for (int j = 0; j < X::SIDE; j++)
    for (int i = 0; i < X::NUMBERS; i++) across[j][i] = of_x.of[i][j];
  __m512i most = _mm512_setzero_si512();
  for (int i = 0; i < Y::NUMBERS; i++) {
    vec down = {}, sum = {};
    for (int j = 0; j < Y::SIDE; j++) down += load(steps[j]) * of_y.of[i][j];
    for (int j = 0; j < X::SIDE; j++) sum += across[j] * down[j];
    most = _mm512_max_epu32(most, (__m512i)sum);  // NaN is the largest
  }
  const __m512i largest = _mm512_set1_epi32(static_cast<int>(_mm512_reduce_max_epu32(most)));
  return _mm512_cvtss_f32((__m512)largest);
}

// A tile's pixels, transformed, as words of int16 of neighbouring channels. Returns its step.
template <typename Way>
float read_tile(const Grid& grid, const Image s, const bf16* x, const float* steps, const bf16* zeros, int64_t tile,
                int64_t in_block, const Rows<Way> to, uint32_t* v) {
  using Y = typename Way::Y;
  using X = typename Way::X;
  const Grid::Tile at = grid.tile(tile);
  const int64_t y0 = grid.in_y.at(at.row), x0 = grid.in_x.at(at.col);
  const bf16* p[Y::SIDE * X::SIDE];
  float own[Y::SIDE][LANES] = {};
  for (int64_t r = 0; r < Y::SIDE; r++)
    for (int64_t c = 0; c < X::SIDE; c++) {
      const int64_t row = y0 + r, col = x0 + c, pixel = (at.n * s.height + row) * s.width + col;
      const bool inside = row >= 0 && row < s.height && col >= 0 && col < s.width;
      p[r * X::SIDE + c] = inside ? x + pixel * s.channels : zeros;
      if (inside) own[r][c] = steps[pixel];
    }
  const float step = tile_step<Way>(own);
  const vec scale = broadcast(inverse(step)), upper = scale * 65536.f, half = broadcast(32768);
  const __m512i low = _mm512_set1_epi32(0xffff);
  const auto down = [](const auto& d, auto& t) SG_INLINED { Y::input(d, t); };
  const auto across = [](const auto& d, auto& t) SG_INLINED { X::input(d, t); };
  for (int64_t ch = 0; ch < s.channels; ch += 32) {
    const __mmask32 mask = mask32(s.channels - ch);
    uint32_t* dst = v + ch / 2;
    for (int64_t r = 0; r < Y::SIDE; r++)  // the next tile's
      for (int64_t c = std::max<int64_t>(0, X::SIDE - grid.in_x.step); c < X::SIDE; c++)
        __builtin_prefetch(p[r * X::SIDE + c] + grid.in_x.step * s.channels + ch);
    __m512i even[Y::NUMBERS][X::NUMBERS];
    along_both_axes<Y::SIDE, X::SIDE, Y::NUMBERS, X::NUMBERS>(
        [&](auto r, auto c) SG_INLINED {
          return (vec)conv3x3::widen<false>(_mm512_maskz_loadu_epi16(mask, p[r * X::SIDE + c] + ch));
        },
        down, across, [&](auto r, const auto& t) SG_INLINED {
          repeat<X::NUMBERS>([&](auto c) SG_INLINED { even[r][c] = _mm512_cvtps_epi32((__m512)(t[c] * scale)); });
        });
    along_both_axes<Y::SIDE, X::SIDE, Y::NUMBERS, X::NUMBERS>(
        [&](auto r, auto c) SG_INLINED {
          return (vec)conv3x3::widen<true>(_mm512_maskz_loadu_epi16(mask, p[r * X::SIDE + c] + ch));
        },
        down, across, [&](auto r, const auto& t) SG_INLINED {
          repeat<X::NUMBERS>([&](auto c) SG_INLINED {
            constexpr int point = Way::of(r, c), copy = Way::copy(r, c);
            const __m512i odd = _mm512_cvtps_epi32((__m512)(t[c] * upper + half));
            const __m512i word = _mm512_ternarylogic_epi32(low, even[r][c], odd, 0xca);  // bits of even where low
            _mm512_storeu_si512(dst + to.row(point, in_block, copy), word);
          });
        });
  }
  return step;
}

// 16 outputs of a tile's results.
template <typename Way>
void write_tile(const float* m, const Rows<Way> from, int64_t in_block, vec scale, const Grid& grid, const Image s,
                bf16* y, int64_t tile, int64_t channel) {
  using Y = typename Way::Y;
  using X = typename Way::X;
  const Grid::Tile at = grid.tile(tile);
  const int64_t y0 = grid.out_y.at(at.row), x0 = grid.out_x.at(at.col);
  const __mmask16 mask = mask16(s.channels - channel);
  const bool whole = s.channels - channel >= 16;
  along_both_axes<Y::NUMBERS, X::NUMBERS, Y::RESULT, X::RESULT>(
      [&](auto r, auto c) SG_INLINED {
        const void* p = m + from.row(Way::of(r, c), in_block, Way::copy(r, c));
        return (vec)_mm512_cvtepi32_ps(_mm512_loadu_si512(p));
      },
      [](const auto& d, auto& t) SG_INLINED { Y::output(d, t); },
      [](const auto& d, auto& t) SG_INLINED { X::output(d, t); }, [&](auto r, const auto& t) SG_INLINED {
        const int64_t row = y0 + r;
        if (row < 0 || row >= s.height) return;
        bf16* to = y + ((at.n * s.height + row) * s.width + x0) * s.channels + channel;
        repeat<X::RESULT>([&](auto c) SG_INLINED {
          if (x0 + c < 0 || x0 + c >= s.width) return;
          const __m256i v = (__m256i)_mm512_cvtneps_pbh((__m512)(t[c] * scale));
          if (whole)
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + c * s.channels), v);
          else
            _mm256_mask_storeu_epi16(to + c * s.channels, mask, v);
        });
      });
}

// How `count` tiles are cut into items of work: `jobs`, all but even, x `groups` of panels of outputs.
struct Cut {
  int64_t count, jobs, groups;
  // The micro-kernel's six rows where a thread has so many that six more or less don't matter.
  int64_t unit() const { return count < 512 ? 2 : 6; }
  int64_t first(int64_t job) const { return std::min(count, (count + unit() - 1) / unit() * job / jobs * unit()); }
  int64_t tiles(int64_t job) const { return first(job + 1) - first(job); }
  int64_t most_tiles() const { return conv3x3::round_up((count + jobs - 1) / jobs, unit()); }
};

template <typename Way>
Cut cut(int64_t count, int64_t panels, int64_t threads) {
  const int64_t most = M_BYTES / (Way::COPIES * WIDE * 4) / 6 * 6;  // 6: rows of the micro-kernel
  const int64_t even = conv3x3::round_up((count + most - 1) / most, threads);
  const int64_t jobs = std::min(even, (count + FEWEST_TILES - 1) / FEWEST_TILES);
  return {count, jobs, std::clamp<int64_t>(threads / jobs, 1, panels)};
}

// The operands of a convolution.
struct Operands {
  Image in;
  const bf16* x;
  const float* steps;  // of the pixels
  const bf16* zeros;
  WeightLayout layout;
  float gain;
  Image out;
  bf16* y;
};

// Some tiles.
template <typename Way>
struct Block {
  const Operands& o;
  Grid grid;
  int64_t first, tiles;
  Rows<Way> of_v, of_m;
  std::vector<float> scales;
  uint32_t* v = nullptr;

  Block(const Operands& o, const Grid& grid, int64_t first, int64_t tiles, int64_t most)
      : o(o), grid(grid), first(first), tiles(tiles), of_v{most, o.layout.pairs}, of_m{most, WIDE}, scales(tiles) {}
  static int64_t words(int64_t tiles, const WeightLayout& layout) {
    return Rows<Way>{tiles, layout.pairs}.all() + Rows<Way>{tiles, WIDE}.all();
  }

  uint32_t* read(uint32_t* memory) {  // returns what is behind it
    v = memory;
    for (int64_t t = 0; t < tiles; t++)
      scales[t] = o.gain * read_tile<Way>(grid, o.in, o.x, o.steps, o.zeros, first + t, t, of_v, v);
    return memory + words(of_v.tiles, o.layout);
  }

  // By the weights u of a panel, whose outputs have the steps `columns`.
  void multiply(int64_t panel, const uint32_t* u, const float* columns) const {
    const int64_t width = o.layout.width(panel), words = o.layout.pairs;
    float* m = reinterpret_cast<float*>(v + of_v.all());
    for (int64_t p = 0; p < Way::POINTS; p++)
      conv3x3::gemm<conv3x3::IntPairs>(static_cast<int>(width / 16), tiles * Way::copies(p), v + of_v.at(p), words, 1,
                                       u + Way::weights(p) * o.layout.point(panel), width, words, m + of_m.at(p), WIDE);
    for (int64_t t = 0; t < tiles; t++)
      for (int64_t j = 0; j < width; j += 16)
        write_tile<Way>(m + j, of_m, t, load(columns + j) * scales[t], grid, o.out, o.y, first + t, panel * WIDE + j);
  }
};

inline sg::Scratch& scratch_of_weights() {
  static thread_local sg::Scratch scratch;
  return scratch;
}
inline sg::Scratch& scratch_of_tiles() {
  static thread_local sg::Scratch scratch;
  return scratch;
}

// Weights are transformed as they are met, a panel at a time, which stays in the second and third levels: they become
// twice as large, and are not written to memory and read again.
template <typename Way, typename... Edges, typename G>
void convolve_at_once(const G& grid, const Operands& o, const Weights& w, int64_t threads) {
  const int64_t panels = o.layout.panels(), groups = std::min(threads, panels);
  const int64_t u_words = conv3x3::round_up(o.layout.panel_words(), 16);
  const int64_t item_words = u_words + Block<Way>::words(grid(Way()).tiles(), o.layout) +
                             (Block<Edges>::words(grid(Edges()).tiles(), o.layout) + ... + 0);
  uint32_t* memory = scratch_of_tiles().get<uint32_t>(threads * item_words);
  sg::for_each_item(groups, threads, [&](int64_t group, int64_t thread) {
    const auto all = [&](auto way) {
      const Grid of_way = grid(way);
      return Block<decltype(way)>(o, of_way, 0, of_way.tiles(), of_way.tiles());
    };
    std::tuple blocks{all(Way()), all(Edges())...};
    uint32_t *u = memory + thread * item_words, *free = u + u_words;
    const auto each = [&](const auto& f) { std::apply([&](auto&... block) { (f(block), ...); }, blocks); };
    each([&](auto& block) { free = block.read(free); });
    for (int64_t panel = panels * group / groups; panel < panels * (group + 1) / groups; panel++) {
      float columns[WIDE];
      for (int64_t j = 0; j < o.layout.width(panel); j += 16)
        transform_weights<Way>(w, o.layout, panel * WIDE + j, u, columns + j);
      each([&](auto& block) { block.multiply(panel, u, columns); });
    }
  });
}

template <typename Way>
void convolve_tiles(const Grid& grid, const Operands& o, const uint32_t* u, const float* columns, int64_t threads) {
  const int64_t count = grid.tiles(), panels = o.layout.panels();
  if (count == 0) return;  // no edge
  const Cut c = cut<Way>(count, panels, threads);
  const int64_t most = c.most_tiles(), item_words = Block<Way>::words(most, o.layout);
  uint32_t* memory = scratch_of_tiles().get<uint32_t>(threads * item_words);
  sg::for_each_item(c.jobs * c.groups, threads, [&](int64_t item, int64_t thread) {
    const int64_t job = item / c.groups, group = item % c.groups;
    Block<Way> block(o, grid, c.first(job), c.tiles(job), most);
    block.read(memory + thread * item_words);
    for (int64_t panel = panels * group / c.groups; panel < panels * (group + 1) / c.groups; panel++)
      block.multiply(panel, u + panel * o.layout.panel_words(), columns + panel * WIDE);
  });
}

// By `Way`, whose weights those of its edges are parts of; grid(way) says where the tiles of each are.
template <typename Way, typename... Edges, typename G>
void convolve(const G& grid, const Image& in, const bf16* x, const Weights& w, float gain, const Image& out, bf16* y,
              int64_t threads) {
  const WeightLayout layout(Way::POINTS, in.channels, out.channels);
  const int64_t tiles = grid(Way()).tiles();
  // Every thread transforms all tiles for itself, which has to pay.
  const bool few = tiles <= 2 * FEWEST_TILES || layout.panels() >= 2 * threads;
  const bool at_once = few && Block<Way>::words(tiles, layout) * 4 <= AT_ONCE_BYTES;
  const int64_t u_words = at_once ? 0 : conv3x3::round_up(layout.words(), 16) + layout.padded();
  const int64_t pixels = conv3x3::round_up(in.n * in.height * in.width, 16);
  float* steps = scratch_of_weights().get<float>(pixels + u_words);
  find_steps(in, x, threads, steps);
  const std::vector<bf16> zeros(conv3x3::round_up(in.channels, 32));
  const Operands o{in, x, steps, zeros.data(), layout, gain, out, y};
  if (at_once) return convolve_at_once<Way, Edges...>(grid, o, w, threads);
  float* columns = steps + pixels;
  uint32_t* u = reinterpret_cast<uint32_t*>(columns + layout.padded());
  const int64_t once = layout.panels() >= 2 * threads ? WIDE : 16;  // outputs of an item; panels are one piece of memory
  sg::for_each_item((layout.padded() + once - 1) / once, threads, [&](int64_t item, int64_t) {
    for (int64_t out0 = once * item; out0 < std::min(layout.padded(), once * item + once); out0 += 16)
      transform_weights<Way>(w, layout, out0, u + out0 / WIDE * layout.panel_words(), columns + out0);
  });
  convolve_tiles<Way>(grid(Way()), o, u, columns, threads);
  (convolve_tiles<Edges>(grid(Edges()), o, u, columns, threads), ...);
}

}  // namespace conv_fixed
