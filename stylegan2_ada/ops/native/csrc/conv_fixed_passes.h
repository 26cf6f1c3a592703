// The passes of a convolution by minimal filtering in fixed point (conv_fixed.h): tiles of the images are transformed,
// multiplied with all weights, which stream past them, and transformed back.
#pragma once
#include <algorithm>
#include <vector>

#include "conv_fixed.h"
#include "cpu.h"
#include "scratch.h"

namespace conv_fixed {

constexpr int64_t M_BYTES = 900 << 10;  // of products that are transformed back at once
constexpr int64_t FEWEST_TILES = 24;    // for which all weights are read

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
float tile_step(const float (&steps)[Way::SIDE][LANES]) {
  static const Magnitudes<Way::SIDE, Way::NUMBERS> factors([](const auto& d, auto& t) SG_INLINED { Way::input(d, t); });
  vec across[Way::SIDE] = {};
  for (int j = 0; j < Way::SIDE; j++)
    for (int i = 0; i < Way::NUMBERS; i++) across[j][i] = factors.of[i][j];
  __m512i most = _mm512_setzero_si512();
  for (int i = 0; i < Way::NUMBERS; i++) {
    vec down = {}, sum = {};
    for (int j = 0; j < Way::SIDE; j++) down += load(steps[j]) * factors.of[i][j];
    for (int j = 0; j < Way::SIDE; j++) sum += across[j] * down[j];
    most = _mm512_max_epu32(most, (__m512i)sum);  // NaN is the largest
  }
  const __m512i largest = _mm512_set1_epi32(static_cast<int>(_mm512_reduce_max_epu32(most)));
  return _mm512_cvtss_f32((__m512)largest);
}

// A tile's pixels, transformed, as words of int16 of neighbouring channels. Returns its step.
template <typename Way>
float read_tile(const Grid& grid, const Image& s, const bf16* x, const float* steps, const bf16* zeros, int64_t tile,
                int64_t in_block, const Rows<Way>& to, uint32_t* v) {
  const Grid::Tile at = grid.tile(tile);
  const int64_t y0 = grid.in_y.at(at.row), x0 = grid.in_x.at(at.col);
  const bf16* p[Way::SIDE * Way::SIDE];
  float own[Way::SIDE][LANES] = {};
  for (int64_t r = 0; r < Way::SIDE; r++)
    for (int64_t c = 0; c < Way::SIDE; c++) {
      const int64_t row = y0 + r, col = x0 + c, pixel = (at.n * s.height + row) * s.width + col;
      const bool inside = row >= 0 && row < s.height && col >= 0 && col < s.width;
      p[r * Way::SIDE + c] = inside ? x + pixel * s.channels : zeros;
      if (inside) own[r][c] = steps[pixel];
    }
  const float step = tile_step<Way>(own);
  const vec scale = broadcast(inverse(step)), upper = scale * 65536.f, half = broadcast(32768);
  const __m512i low = _mm512_set1_epi32(0xffff);
  const auto transform = [](const auto& d, auto& t) SG_INLINED { Way::input(d, t); };
  for (int64_t ch = 0; ch < s.channels; ch += 32) {
    const __mmask32 mask = mask32(s.channels - ch);
    uint32_t* dst = v + ch / 2;
    for (int64_t r = 0; r < Way::SIDE; r++)  // the next tile's
      for (int64_t c = Way::SIDE - grid.in_x.step; c < Way::SIDE; c++)
        __builtin_prefetch(p[r * Way::SIDE + c] + grid.in_x.step * s.channels + ch);
    __m512i even[Way::NUMBERS][Way::NUMBERS];
    along_both_axes<Way::SIDE, Way::SIDE, Way::NUMBERS, Way::NUMBERS>(
        [&](auto r, auto c) SG_INLINED {
          return (vec)conv3x3::widen<false>(_mm512_maskz_loadu_epi16(mask, p[r * Way::SIDE + c] + ch));
        },
        transform, transform, [&](auto r, const auto& t) SG_INLINED {
          repeat<Way::NUMBERS>([&](auto c) SG_INLINED { even[r][c] = _mm512_cvtps_epi32((__m512)(t[c] * scale)); });
        });
    along_both_axes<Way::SIDE, Way::SIDE, Way::NUMBERS, Way::NUMBERS>(
        [&](auto r, auto c) SG_INLINED {
          return (vec)conv3x3::widen<true>(_mm512_maskz_loadu_epi16(mask, p[r * Way::SIDE + c] + ch));
        },
        transform, transform, [&](auto r, const auto& t) SG_INLINED {
          repeat<Way::NUMBERS>([&](auto c) SG_INLINED {
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
void write_tile(const float* m, const Rows<Way>& from, int64_t in_block, vec scale, const Grid& grid, const Image& s,
                bf16* y, int64_t tile, int64_t channel) {
  const Grid::Tile at = grid.tile(tile);
  const int64_t y0 = grid.out_y.at(at.row), x0 = grid.out_x.at(at.col);
  const __mmask16 mask = mask16(s.channels - channel);
  const bool whole = s.channels - channel >= 16;
  const auto transform = [](const auto& d, auto& t) SG_INLINED { Way::output(d, t); };
  along_both_axes<Way::NUMBERS, Way::NUMBERS, Way::RESULT, Way::RESULT>(
      [&](auto r, auto c) SG_INLINED {
        const void* p = m + from.row(Way::of(r, c), in_block, Way::copy(r, c));
        return (vec)_mm512_cvtepi32_ps(_mm512_loadu_si512(p));
      },
      transform, transform, [&](auto r, const auto& t) SG_INLINED {
        const int64_t row = y0 + r;
        if (row < 0 || row >= s.height) return;
        bf16* to = y + ((at.n * s.height + row) * s.width + x0) * s.channels + channel;
        repeat<Way::RESULT>([&](auto c) SG_INLINED {
          if (x0 + c < 0 || x0 + c >= s.width) return;
          const __m256i v = (__m256i)_mm512_cvtneps_pbh((__m512)(t[c] * scale));
          if (whole)
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + c * s.channels), v);
          else
            _mm256_mask_storeu_epi16(to + c * s.channels, mask, v);
        });
      });
}

// How a convolution is cut into items of work: `jobs` of `tiles` tiles x `groups` of panels of outputs.
struct Cut {
  int64_t tiles, jobs, groups;
};

template <typename Way>
Cut cut(int64_t count, int64_t panels, int64_t threads) {
  const int64_t most = M_BYTES / (Way::COPIES * WIDE * 4) / 6 * 6;  // 6: rows of the micro-kernel
  const int64_t even = conv3x3::round_up((count + most - 1) / most, threads);
  const int64_t wanted = std::min(even, (count + FEWEST_TILES - 1) / FEWEST_TILES);
  const int64_t tiles = conv3x3::round_up((count + wanted - 1) / wanted, 6), jobs = (count + tiles - 1) / tiles;
  return {tiles, jobs, std::clamp<int64_t>(threads / jobs, 1, panels)};
}

template <typename Way>
void convolve(const Grid& grid, const Image& in, const bf16* x, const Weights& w, float gain, const Image& out, bf16* y,
              int64_t threads) {
  const WeightLayout layout(Way::POINTS, in.channels, out.channels);
  const int64_t count = grid.tiles(), words = layout.pairs;
  const Cut c = cut<Way>(count, layout.panels(), threads);
  const Rows<Way> of_v{c.tiles, words}, of_m{c.tiles, WIDE};
  const int64_t item_words = of_v.all() + of_m.all(), u_words = conv3x3::round_up(layout.words(), 16);
  const int64_t pixels = conv3x3::round_up(in.n * in.height * in.width, 16);
  static thread_local sg::Scratch scratch;
  uint32_t* u = scratch.get<uint32_t>(u_words + layout.padded() + pixels + threads * item_words);
  float *columns = reinterpret_cast<float*>(u + u_words), *steps = columns + layout.padded();
  uint32_t* memory = u + u_words + layout.padded() + pixels;
  transform_weights<Way>(w, threads, u, columns);
  find_steps(in, x, threads, steps);
  const std::vector<bf16> zeros(conv3x3::round_up(in.channels, 32));

  sg::for_each_item(c.jobs * c.groups, threads, [&](int64_t item, int64_t thread) {
    uint32_t* v = memory + thread * item_words;
    float* m = reinterpret_cast<float*>(v + of_v.all());
    const int64_t first = item / c.groups * c.tiles, tiles = std::min(count - first, c.tiles);
    std::vector<float> scales(tiles);
    for (int64_t t = 0; t < tiles; t++)
      scales[t] = gain * read_tile<Way>(grid, in, x, steps, zeros.data(), first + t, t, of_v, v);
    const int64_t group = item % c.groups, end = layout.panels() * (group + 1) / c.groups;
    for (int64_t panel = layout.panels() * group / c.groups; panel < end; panel++) {
      const int64_t width = layout.width(panel), channel = panel * WIDE;
      const uint32_t* panel_u = u + panel * layout.panel_words();
      for (int64_t p = 0; p < Way::POINTS; p++)
        conv3x3::gemm<conv3x3::IntPairs>(static_cast<int>(width / 16), tiles * Way::copies(p), v + of_v.at(p), words, 1,
                                         panel_u + p * layout.point(panel), width, words, m + of_m.at(p), WIDE);
      for (int64_t t = 0; t < tiles; t++)
        for (int64_t j = 0; j < width; j += 16)
          write_tile<Way>(m + j, of_m, t, load(columns + channel + j) * scales[t], grid, out, y, first + t, channel + j);
    }
  });
}

}  // namespace conv_fixed
