// The three passes of a Winograd 3x3 convolution over whole tensors: transform weights, convolve, gradient in the weights.
//
// How the memory hierarchy is used. The products of one frequency are a matrix product [tiles, in] x [in, out], so a
// block of tiles needs all weights once. A block is as large as its transformed input still fits the second-level cache
// (about 50 tiles at 256 channels); the weights stream past it in panels of 64 outputs, from the third level, one panel
// for all 16 frequencies; the products of a panel stay in the second level until its outputs are transformed back.
#pragma once
#include <algorithm>
#include <atomic>
#include <vector>

#include "conv3x3_winograd.h"
#include "cpu.h"

namespace conv3x3 {

constexpr int64_t PANEL = 64;            // outputs of a panel, the width of the micro-kernel
constexpr int64_t BLOCK_BYTES = 640 << 10;  // transformed input and products of a block, in a second-level cache of 1 MB
constexpr int64_t CHUNK_BYTES = 12 << 20;   // transformed tensors of a chunk of the weight gradient, in the third level

// Scratch memory that is kept between calls: allocated anew, its pages would be faulted in and cleared by the kernel
// of the operating system each time, which costs as much as the transforms.
template <typename T>
T* scratch(std::vector<char>& buffer, int64_t count) {
  const size_t bytes = static_cast<size_t>(count) * sizeof(T) + 64;
  if (buffer.size() < bytes) {
    std::vector<char>().swap(buffer);
    buffer.resize(bytes);
  }
  const auto address = reinterpret_cast<uintptr_t>(buffer.data());
  return reinterpret_cast<T*>((address + 63) / 64 * 64);
}

// f(item, thread) for each item; threads take the next one when they are done, so that a disturbed thread is not
// waited for.
template <typename F>
void for_each_item(int64_t items, int64_t threads, const F& f) {
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, std::min(items, threads), 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++)
      for (int64_t i = next++; i < items; i = next++) f(i, t);
  });
}

// Transformed weights: panels of 64 outputs; in each 16 frequencies of [pairs][width] words.
struct WeightLayout {
  int64_t outputs, pairs;
  WeightLayout(int64_t in, int64_t out) : outputs(out), pairs(round_up(in, 32) / 2) {}
  int64_t panels() const { return (outputs + PANEL - 1) / PANEL; }
  int64_t width(int64_t panel) const { return std::min(PANEL, round_up(outputs, 16) - panel * PANEL); }
  int64_t frequency(int64_t panel) const { return pairs * width(panel) + 16; }  // 16: not to all fall on one cache set
  int64_t panel_words() const { return FREQS * (pairs * PANEL + 16); }
  int64_t words() const { return FREQS * (pairs * round_up(outputs, 16) + 16 * panels()); }
};

// 16 outputs x 32 inputs of the weights as stage[input][tap], vectors of 16 outputs. w is [o][i][9]; `transposed` takes
// its i for outputs and its o for inputs, and turns the kernel by 180 degrees.
inline void load_weights(const float* w, int64_t o_count, int64_t i_count, bool transposed, int64_t out0, int64_t in0, __m512* stage) {
  __m512 rows[16];
  if (transposed) {
    for (int64_t k = 0; k < 32; k++) {
      const int64_t o = in0 + k;
      for (int64_t r = 0; r < 16; r++) {
        const bool inside = o < o_count && out0 + r < i_count;
        rows[r] = _mm512_maskz_loadu_ps(inside ? 0x1ff : 0, inside ? w + (o * i_count + out0 + r) * 9 : w);
      }
      transpose16(rows);
      for (int t = 0; t < 9; t++) stage[9 * k + 8 - t] = rows[t];
    }
    return;
  }
  const int64_t have = 9 * std::min<int64_t>(32, i_count - in0);
  for (int64_t b = 0; b < 18; b++) {
    for (int64_t r = 0; r < 16; r++) {
      const bool inside = out0 + r < o_count && 16 * b < have;
      rows[r] = _mm512_maskz_loadu_ps(inside ? mask16(have - 16 * b) : 0, inside ? w + ((out0 + r) * i_count + in0) * 9 + 16 * b : w);
    }
    transpose16(rows);
    for (int r = 0; r < 16; r++) stage[16 * b + r] = rows[r];
  }
}

inline void transform_weights(const float* w, int64_t o_count, int64_t i_count, float gain, bool transposed, int64_t threads, uint32_t* u) {
  const int64_t in = transposed ? o_count : i_count;
  const WeightLayout layout(in, transposed ? i_count : o_count);
  alignas(64) static const uint16_t interleave[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  for_each_item(round_up(layout.outputs, 16) / 16, threads, [&](int64_t group, int64_t) {
    const __m512i order = _mm512_load_si512(interleave);
    const __m512 g = _mm512_set1_ps(gain);
    const int64_t panel = group * 16 / PANEL, width = layout.width(panel), stride = layout.frequency(panel);
    uint32_t* base = u + panel * layout.panel_words() + group * 16 % PANEL;
    if (group * 16 % PANEL == 0)
      for (int f = 0; f < FREQS; f++) _mm512_storeu_si512(base + (f + 1) * stride - 16, _mm512_setzero_si512());
    __m512 stage[32 * 9];
    for (int64_t in0 = 0; in0 < in; in0 += 32) {
      load_weights(w, o_count, i_count, transposed, group * 16, in0, stage);
      for (auto& v : stage) v = _mm512_mul_ps(v, g);
      for (int64_t k = 0; k < 16; k++) {
        const __m512 *first = stage + 9 * pair_channel(k), *second = first + 2 * 9;
        uint32_t* dst = base + (in0 / 2 + k) * width;
        for (int r = 0; r < 4; r++) {
          __m512 row[3], a[4], b[4];
          weight_row(first, r, row);
          weight_columns(row, a);
          weight_row(second, r, row);
          weight_columns(row, b);
          for (int c = 0; c < 4; c++)
            _mm512_storeu_si512(dst + (4 * r + c) * stride, _mm512_permutexvar_epi16(order, round_pair(a[c], b[c])));
        }
      }
    }
  });
}

// How a convolution is cut into items of work: blocks of tiles x groups of panels.
struct Cut {
  int64_t tiles, blocks, panels, groups;
};

inline Cut cut(int64_t tiles, const WeightLayout& w, int64_t threads) {
  const int64_t per_tile = FREQS * (4 * w.pairs + 4 * PANEL), panels = w.panels();
  const int64_t most = std::clamp<int64_t>(BLOCK_BYTES / per_tile / 6 * 6, 12, 96);
  const int64_t fewest = (tiles + most - 1) / most;
  Cut best{};
  double best_cost = 0;
  for (int64_t groups = 1; groups <= panels; groups *= 2)
    for (int64_t blocks = fewest; blocks < fewest + threads; blocks++) {
      const Cut c{(tiles + blocks - 1) / blocks, blocks, (panels + groups - 1) / groups, groups};
      // In cycles per pair of channels: products, input transform (about 6 cycles per tile), weights from the third level.
      const double item = c.tiles * (c.panels * 64.0 + 6.0) + c.panels * PANEL * FREQS * 4 / 16.0;
      const double cost = item * ((blocks * groups + threads - 1) / threads);
      if (!best.tiles || cost < best_cost) best = c, best_cost = cost;
    }
  return best;
}

inline void store_outputs(const Image& s, bf16* out, const Tile& t, int64_t channel, const __m512 low[4], const __m512 high[4]) {
  const __mmask32 m = mask32(s.channels - channel);
  for (int r = 0; r < 2; r++)
    for (int c = 0; c < 2; c++)
      if (t.y + r < s.height && t.x + c < s.width) {
        bf16* p = out + ((t.n * s.height + t.y + r) * s.width + t.x + c) * s.channels + channel;
        _mm512_mask_storeu_epi16(p, m, round_pair(low[2 * r + c], high[2 * r + c]));
      }
}

// out = conv(x, w), x as `in` describes, u from transform_weights; out has `layout.outputs` channels.
inline void convolve(const Image& in, const bf16* x, const uint32_t* u, const WeightLayout& layout, bf16* out, int64_t threads) {
  const Image result{in.n, layout.outputs, in.height, in.width};
  const Cut c = cut(in.tiles(), layout, threads);
  const int64_t padded = layout.pairs * 2;                    // channels, bfloat16
  const int64_t v_freq = c.tiles * padded + 32, m_freq = c.tiles * PANEL + 16;  // + one cache line, as above
  const int64_t v_bytes = round_up(FREQS * v_freq * 2, 64), item_bytes = v_bytes + FREQS * m_freq * 4;
  static thread_local std::vector<char> buffer;
  char* memory = scratch<char>(buffer, threads * item_bytes);
  const std::vector<bf16> zeros(padded);

  for_each_item(c.blocks * c.groups, threads, [&](int64_t item, int64_t thread) {
    bf16* v = reinterpret_cast<bf16*>(memory + thread * item_bytes);
    float* m = reinterpret_cast<float*>(memory + thread * item_bytes + v_bytes);
    const int64_t first = item / c.groups * c.tiles, tiles = std::min(c.tiles, in.tiles() - first);
    for (int64_t t = 0; t < tiles; t++) {
      const Tile tile = tile_at(in, first + t);
      const bf16* p[16];
      pixels<4>(in, x, tile.n, tile.y - 1, tile.x - 1, zeros.data(), p);
      for (int64_t ch = 0; ch < in.channels; ch += 32) transform_input(p, ch, mask32(in.channels - ch), v + t * padded + ch, v_freq);
    }
    const int64_t panel0 = item % c.groups * c.panels, panel1 = std::min(panel0 + c.panels, layout.panels());
    for (int64_t panel = panel0; panel < panel1; panel++) {
      const int64_t width = layout.width(panel);
      const uint32_t* panel_u = u + panel * layout.panel_words();
      for (int f = 0; f < FREQS; f++)
        gemm(static_cast<int>(width / 16), tiles, reinterpret_cast<const uint32_t*>(v + f * v_freq), layout.pairs, 1,
             panel_u + f * layout.frequency(panel), layout.pairs, m + f * m_freq, width);
      for (int64_t t = 0; t < tiles; t++) {
        const Tile tile = tile_at(in, first + t);
        for (int64_t j = 0; j < width; j += 32) {
          __m512 low[4], high[4] = {};
          transform_output(m + t * width + j, m_freq, low);
          if (j + 16 < width) transform_output(m + t * width + j + 16, m_freq, high);
          store_outputs(result, out, tile, panel * PANEL + j, low, high);
        }
      }
    }
  });
}

// Two tiles' transforms [even | odd channels] -> words (first, second) of 32 channels in order.
inline void store_words(const bf16* first, const bf16* second, uint32_t* dst) {
  alignas(64) static const uint16_t orders[2][32] = {
      {0, 32, 16, 48, 1, 33, 17, 49, 2, 34, 18, 50, 3, 35, 19, 51, 4, 36, 20, 52, 5, 37, 21, 53, 6, 38, 22, 54, 7, 39, 23, 55},
      {8,  40, 24, 56, 9,  41, 25, 57, 10, 42, 26, 58, 11, 43, 27, 59,
       12, 44, 28, 60, 13, 45, 29, 61, 14, 46, 30, 62, 15, 47, 31, 63}};
  const __m512i a = _mm512_loadu_si512(first), b = _mm512_loadu_si512(second);
  _mm512_storeu_si512(dst, _mm512_permutex2var_epi16(a, _mm512_load_si512(orders[0]), b));
  _mm512_storeu_si512(dst + 16, _mm512_permutex2var_epi16(a, _mm512_load_si512(orders[1]), b));
}

// One operand of the weight gradient's products: for each frequency panels of 64 channels of [pairs of tiles][64] words.
struct TilePairs {
  int64_t channels, pairs;
  int64_t panel_words() const { return pairs * PANEL; }
  int64_t frequency() const { return round_up(channels, PANEL) * pairs + 16; }
  int64_t words() const { return FREQS * frequency(); }
};

// Pair `k` of the chunk from tile `first` on; SIZE 4: transform_input with its border, 2: transform_gradient.
template <int SIZE>
inline void transform_pair(const Image& s, const bf16* x, const bf16* zeros, int64_t first, int64_t k, const TilePairs& to, uint32_t* dst) {
  const bf16* p[2][SIZE * SIZE];
  for (int64_t i = 0; i < 2; i++) {
    const int64_t index = first + 2 * k + i;
    const Tile t = index < s.tiles() ? tile_at(s, index) : Tile{0, -4, -4};  // a tile beyond the last one is all zeros
    pixels<SIZE>(s, x, t.n, t.y - (SIZE == 4), t.x - (SIZE == 4), zeros, p[i]);
  }
  for (int64_t ch = 0; ch < s.channels; ch += 32) {
    alignas(64) bf16 rounded[2][FREQS * 32];
    for (int i = 0; i < 2; i++)
      if constexpr (SIZE == 4)
        transform_input(p[i], ch, mask32(s.channels - ch), rounded[i], 32);
      else
        transform_gradient(p[i], ch, mask32(s.channels - ch), rounded[i], 32);
    uint32_t* at = dst + ch / PANEL * to.panel_words() + k * PANEL + ch % PANEL;
    for (int f = 0; f < FREQS; f++) store_words(rounded[0] + 32 * f, rounded[1] + 32 * f, at + f * to.frequency());
  }
}

// gw[o][i][9] of 16 inputs x 16 outputs from m + f * stride + 64 * input + output; `add` to what is there.
inline void store_weight_gradient(
    const float* m, int64_t stride, float gain, bool add, float* gw, int64_t o_count, int64_t i_count, int64_t o0, int64_t i0) {
  __m512 stage[16 * 9];
  for (int i = 0; i < 16; i++) transform_weight_gradient(m + PANEL * i, stride, _mm512_set1_ps(gain), stage + 9 * i);
  const int64_t have = 9 * (i_count - i0);
  for (int b = 0; b < 9 && 16 * b < have; b++) {
    transpose16(stage + 16 * b);
    const __mmask16 mask = mask16(have - 16 * b);
    for (int64_t r = 0; r < 16 && o0 + r < o_count; r++) {
      float* dst = gw + ((o0 + r) * i_count + i0) * 9 + 16 * b;
      __m512 v = stage[16 * b + r];
      if (add) v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(mask, dst));
      _mm512_mask_storeu_ps(dst, mask, v);
    }
  }
}

// gw[o][i][9] = gain * sum over images and pixels of gy[o] x[i, shifted].
inline void weight_gradient(const Image& in, const bf16* x, const Image& result, const bf16* gy, float gain, float* gw, int64_t threads) {
  const int64_t per_pair = FREQS * 4 * (round_up(in.channels, PANEL) + round_up(result.channels, PANEL));
  const int64_t all = (in.tiles() + 1) / 2, most = std::max<int64_t>(CHUNK_BYTES / per_pair, 32);
  const int64_t chunks = (all + most - 1) / most, pairs = (all + chunks - 1) / chunks;
  const TilePairs a{in.channels, pairs}, b{result.channels, pairs};
  const int64_t o_panels = (result.channels + PANEL - 1) / PANEL;
  // Rows of an item: 64 inputs, fewer where that would leave threads without work.
  int64_t rows = PANEL;
  while (rows > 16 && (in.channels + rows - 1) / rows * o_panels < 4 * threads) rows /= 2;
  const int64_t i_groups = (in.channels + rows - 1) / rows, m_freq = rows * PANEL + 16;

  static thread_local std::vector<char> buffer;
  uint32_t* va = scratch<uint32_t>(buffer, a.words() + b.words() + threads * FREQS * m_freq);
  uint32_t* vb = va + a.words();
  float* products = reinterpret_cast<float*>(vb + b.words());
  const std::vector<bf16> zeros(round_up(std::max(in.channels, result.channels), 32));

  for (int64_t chunk = 0; chunk < chunks; chunk++) {
    const int64_t first = 2 * chunk * pairs, count = std::min(pairs, all - chunk * pairs);
    const int64_t step = 8;
    for_each_item((count + step - 1) / step, threads, [&](int64_t item, int64_t) {
      for (int64_t k = item * step; k < std::min(count, (item + 1) * step); k++) {
        transform_pair<4>(in, x, zeros.data(), first, k, a, va);
        transform_pair<2>(result, gy, zeros.data(), first, k, b, vb);
      }
    });
    for_each_item(i_groups * o_panels, threads, [&](int64_t item, int64_t thread) {
      const int64_t i0 = item % i_groups * rows, panel = item / i_groups;
      const int64_t here = std::min(rows, round_up(in.channels - i0, 16));
      float* m = products + thread * FREQS * m_freq;
      for (int f = 0; f < FREQS; f++)
        gemm(4, here, va + f * a.frequency() + i0 / PANEL * a.panel_words() + i0 % PANEL, 1, PANEL,
             vb + f * b.frequency() + panel * b.panel_words(), count, m + f * m_freq, PANEL);
      for (int64_t i = 0; i < here; i += 16)
        for (int64_t j = 0; j < PANEL && panel * PANEL + j < result.channels; j += 16)
          store_weight_gradient(m + i * PANEL + j, m_freq, gain, chunk > 0, gw, result.channels, in.channels, panel * PANEL + j, i0 + i);
    });
  }
}

}  // namespace conv3x3
