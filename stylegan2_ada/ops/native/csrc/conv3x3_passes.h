// The three passes of a Winograd 3x3 convolution over whole tensors: transform weights, convolve, gradient in the
// weights.
//
// How the memory hierarchy is used. The products of one frequency are a matrix product [tiles, in] x [in, out], so a
// block of tiles needs all weights once. A block is as large as its transformed input still fits the second-level cache
// (about 50 tiles at 256 channels); the weights stream past it in panels of 64 outputs, from the third level, one panel
// for all 16 frequencies; the products of a panel stay in the second level until its outputs are transformed back.
//
// The weight gradient's products are [in, tiles] x [tiles, out] for each frequency. Chunks of tiles whose transforms
// fit the third level are summed in registers from end to end; 64 x 64 channels at a time, all 16 frequencies, so that
// the sums go from the second level straight through the back transform into the result.
#pragma once
#include <algorithm>
#include <vector>

#include "conv3x3_winograd.h"
#include "cpu.h"
#include "scratch.h"

namespace conv3x3 {

constexpr int64_t PANEL = 64;               // outputs of a panel, the width of the micro-kernel
constexpr int64_t BLOCK_BYTES = 640 << 10;  // transformed input and products of a block, in a second level of 1 MB
constexpr int64_t CHUNK_BYTES = 12 << 20;  // transformed tensors of a chunk of the weight gradient, in the third level,
constexpr int64_t CHUNK_PAIRS = 128;       // but at least so many pairs of tiles: sums are transformed back per chunk

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
inline void load_weights(const float* w, int64_t o_count, int64_t i_count, bool transposed, int64_t out0, int64_t in0,
                         __m512* stage) {
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
      rows[r] = _mm512_maskz_loadu_ps(inside ? mask16(have - 16 * b) : 0,
                                      inside ? w + ((out0 + r) * i_count + in0) * 9 + 16 * b : w);
    }
    transpose16(rows);
    for (int r = 0; r < 16; r++) stage[16 * b + r] = rows[r];
  }
}

inline void transform_weights(const float* w, int64_t o_count, int64_t i_count, float gain, bool transposed,
                              int64_t threads, uint32_t* u) {
  const int64_t in = transposed ? o_count : i_count;
  const WeightLayout layout(in, transposed ? i_count : o_count);
  sg::for_each_item(round_up(layout.outputs, 16) / 16, threads, [&](int64_t group, int64_t) {
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
          for (int c = 0; c < 4; c++) _mm512_storeu_si512(dst + (4 * r + c) * stride, round_words(a[c], b[c]));
        }
      }
    }
  });
}

// How a convolution is cut into items of work: blocks of pairs of tiles x groups of panels.
struct Cut {
  int64_t pairs, blocks, panels, groups;
};

inline Cut cut(int64_t pairs, const WeightLayout& w, int64_t threads) {
  const int64_t per_pair = 2 * FREQS * (4 * w.pairs + 4 * PANEL), panels = w.panels();
  const int64_t most = std::clamp<int64_t>(BLOCK_BYTES / per_pair / 3 * 3, 6, 48);
  const int64_t fewest = (pairs + most - 1) / most;
  Cut best{};
  double best_cost = 0;
  for (int64_t groups = 1; groups <= panels; groups *= 2)
    for (int64_t blocks = fewest; blocks < fewest + threads; blocks++) {
      Cut c{(pairs + blocks - 1) / blocks, 0, (panels + groups - 1) / groups, 0};
      c.blocks = (pairs + c.pairs - 1) / c.pairs;
      c.groups = (panels + c.panels - 1) / c.panels;
      // In cycles per pair of channels: products, transform of the input (about 5 cycles a tile), weights from the
      // third level.
      const double item = 2 * c.pairs * (c.panels * 64.0 + 5.0) + c.panels * PANEL * FREQS * 4 / 16.0;
      const double cost = item * ((c.blocks * c.groups + threads - 1) / threads);
      if (!best.pairs || cost < best_cost) best = c, best_cost = cost;
    }
  return best;
}

inline void store_outputs(const Image& s, bf16* out, const Corner& t, int64_t channel, const __m512 low[4],
                          const __m512 high[4]) {
  const __mmask32 m = mask32(s.channels - channel);
  for (int r = 0; r < 2; r++)
    for (int c = 0; c < 2; c++)
      if (t.y + r < s.height && t.x + c < s.width) {
        bf16* p = out + ((t.n * s.height + t.y + r) * s.width + t.x + c) * s.channels + channel;
        _mm512_mask_storeu_epi16(p, m, round_pair(low[2 * r + c], high[2 * r + c]));
      }
}

// out = conv(x, w), x as `in` describes, u from transform_weights; out has `layout.outputs` channels.
inline void convolve(const Image& in, const bf16* x, const uint32_t* u, const WeightLayout& layout, bf16* out,
                     int64_t threads) {
  const Image result{in.n, layout.outputs, in.height, in.width};
  const Cut c = cut(in.pairs(), layout, threads);
  const int64_t padded = layout.pairs * 2;                                              // channels, bfloat16
  const int64_t v_freq = 2 * c.pairs * padded + 32, m_freq = 2 * c.pairs * PANEL + 16;  // + one cache line, as above
  const int64_t v_bytes = round_up(FREQS * v_freq * 2, 64), item_bytes = v_bytes + FREQS * m_freq * 4;
  static thread_local sg::Scratch scratch;
  char* memory = scratch.get<char>(threads * item_bytes);
  const std::vector<bf16> zeros(padded);

  sg::for_each_item(c.blocks * c.groups, threads, [&](int64_t item, int64_t thread) {
    bf16* v = reinterpret_cast<bf16*>(memory + thread * item_bytes);
    float* m = reinterpret_cast<float*>(memory + thread * item_bytes + v_bytes);
    const int64_t first = item / c.groups * c.pairs, pairs = std::min(c.pairs, in.pairs() - first);
    for (int64_t t = 0; t < pairs; t++) {
      const Corner at = corner(in, first + t);
      const bf16* p[24];
      pixels<4, 6>(in, x, at.n, at.y - 1, at.x - 1, zeros.data(), p);
      for (int64_t ch = 0; ch < in.channels; ch += 32) {
        const __mmask32 mask = mask32(in.channels - ch);
        const auto store = [=](bf16* dst, int f, __m512 left, __m512 right) {
          const __m512i both = round_pair(left, right);
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(dst + f * v_freq), _mm512_castsi512_si256(both));
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(dst + f * v_freq + padded),
                              _mm512_extracti64x4_epi64(both, 1));
        };
        bf16* dst = v + 2 * t * padded + ch;
        transform_input<false>(p, ch, mask, [=](int f, __m512 a, __m512 b) { store(dst, f, a, b); });
        transform_input<true>(p, ch, mask, [=](int f, __m512 a, __m512 b) { store(dst + 16, f, a, b); });
      }
    }
    const int64_t panel0 = item % c.groups * c.panels, panel1 = std::min(panel0 + c.panels, layout.panels());
    for (int64_t panel = panel0; panel < panel1; panel++) {
      const int64_t width = layout.width(panel);
      const uint32_t* panel_u = u + panel * layout.panel_words();
      for (int f = 0; f < FREQS; f++)
        gemm(static_cast<int>(width / 16), 2 * pairs, reinterpret_cast<const uint32_t*>(v + f * v_freq), layout.pairs,
             1, panel_u + f * layout.frequency(panel), width, layout.pairs, m + f * m_freq, width);
      for (int64_t t = 0; t < 2 * pairs; t++) {
        Corner at = corner(in, first + t / 2);
        at.x += t % 2 * 2;
        for (int64_t j = 0; j < width; j += 32) {
          __m512 low[4], high[4] = {};
          transform_output(m + t * width + j, m_freq, low);
          if (j + 16 < width) transform_output(m + t * width + j + 16, m_freq, high);
          store_outputs(result, out, at, panel * PANEL + j, low, high);
        }
      }
    }
  });
}

// One operand of the weight gradient's products: for each frequency panels of 64 channels of [pairs of tiles][64]
// words.
struct PairLayout {
  int64_t channels, pairs;
  int64_t panel_words() const { return pairs * PANEL; }
  int64_t frequency() const { return round_up(channels, PANEL) * pairs + 16; }
  int64_t words() const { return FREQS * frequency(); }
};

// Words (first tile, second tile) of pair `k` of the chunk that begins with pair `first`: of the input (SIZE 4, with
// its border) or of the gradient (SIZE 2).
template <int SIZE>
inline void transform_pair(const Image& s, const bf16* x, const bf16* zeros, int64_t first, int64_t k,
                           const PairLayout& layout, uint32_t* v) {
  const bf16* p[SIZE * (SIZE + 2)];
  const Corner at = corner(s, first + k);
  pixels<SIZE, SIZE + 2>(s, x, at.n, at.y - (SIZE == 4), at.x - (SIZE == 4), zeros, p);
  const int64_t stride = layout.frequency();
  for (int64_t ch = 0; ch < s.channels; ch += 32) {
    const __mmask32 mask = mask32(s.channels - ch);
    uint32_t* dst = v + ch / PANEL * layout.panel_words() + k * PANEL + ch % PANEL;
    const auto even = [=](int f, __m512 left, __m512 right) {
      _mm512_storeu_si512(dst + f * stride, round_words(left, right));
    };
    const auto odd = [=](int f, __m512 left, __m512 right) {
      _mm512_storeu_si512(dst + f * stride + 16, round_words(left, right));
    };
    if constexpr (SIZE == 4) {
      transform_input<false>(p, ch, mask, even);
      transform_input<true>(p, ch, mask, odd);
    } else {
      transform_gradient<false>(p, ch, mask, even);
      transform_gradient<true>(p, ch, mask, odd);
    }
  }
}

// gw[o][i][9] of 32 inputs x 16 outputs from m + f * stride + 64 * input + output; `add` to what is there. The outputs
// are every second one from o0 on.
inline void store_weight_gradient(const float* m, int64_t stride, float gain, bool add, float* gw, int64_t o_count,
                                  int64_t i_count, int64_t o0, int64_t i0) {
  __m512 stage[32 * 9];
  for (int i = 0; i < 32; i++)
    transform_weight_gradient(m + PANEL * i, stride, _mm512_set1_ps(gain), stage + 9 * channel_of(i));
  write_stage(stage, add, gw, o_count, i_count, o0, i0);
}

// gw[o][i][9] = gain * sum over images and pixels of gy[o] x[i, shifted].
inline void weight_gradient(const Image& in, const bf16* x, const Image& result, const bf16* gy, float gain, float* gw,
                            int64_t threads) {
  const int64_t per_pair = FREQS * 4 * (round_up(in.channels, PANEL) + round_up(result.channels, PANEL));
  const int64_t all = in.pairs(), most = std::max<int64_t>(CHUNK_BYTES / per_pair, CHUNK_PAIRS);
  const int64_t chunks = (all + most - 1) / most, pairs = (all + chunks - 1) / chunks;
  const PairLayout a{in.channels, pairs}, b{result.channels, pairs};
  // An item is 64 inputs x 64 outputs, less where that would leave threads without work.
  int64_t rows = PANEL, cols = PANEL;
  const auto items = [&](int64_t n, int64_t size) { return (n + size - 1) / size; };
  while (rows > 32 && items(in.channels, rows) * items(result.channels, cols) < 2 * threads) rows /= 2;
  while (cols > 16 && items(in.channels, rows) * items(result.channels, cols) < 2 * threads) cols /= 2;
  const int64_t i_groups = items(in.channels, rows), o_groups = items(round_up(result.channels, 32), cols);
  const int64_t m_freq = rows * PANEL + 16;

  static thread_local sg::Scratch scratch;
  uint32_t* va = scratch.get<uint32_t>(a.words() + b.words() + threads * FREQS * m_freq);
  uint32_t* vb = va + a.words();
  float* products = reinterpret_cast<float*>(vb + b.words());
  const std::vector<bf16> zeros(round_up(std::max(in.channels, result.channels), 32));

  for (int64_t first = 0; first < all; first += pairs) {
    const int64_t count = std::min(pairs, all - first), step = 8;  // pairs of tiles per item
    sg::for_each_item((count + step - 1) / step, threads, [&](int64_t item, int64_t) {
      for (int64_t k = item * step; k < std::min(count, (item + 1) * step); k++) {
        transform_pair<4>(in, x, zeros.data(), first, k, a, va);
        transform_pair<2>(result, gy, zeros.data(), first, k, b, vb);
      }
    });
    sg::for_each_item(i_groups * o_groups, threads, [&](int64_t item, int64_t thread) {
      const int64_t i0 = item % i_groups * rows, o0 = item / i_groups * cols;
      const int64_t here = std::min(rows, round_up(in.channels - i0, 32)),
                    width = std::min(cols, round_up(result.channels, 32) - o0);
      float* m = products + thread * FREQS * m_freq;
      for (int f = 0; f < FREQS; f++)
        gemm(static_cast<int>(width / 16), here, va + f * a.frequency() + i0 / PANEL * a.panel_words() + i0 % PANEL, 1,
             PANEL, vb + f * b.frequency() + o0 / PANEL * b.panel_words() + o0 % PANEL, PANEL, count, m + f * m_freq,
             PANEL);
      for (int64_t i = 0; i < here; i += 32)
        for (int64_t j = 0; j < width; j += 16)
          store_weight_gradient(m + i * PANEL + j, m_freq, gain, first > 0, gw, result.channels, in.channels,
                                channel_of(o0 + j), i0 + i);
    });
  }
}

}  // namespace conv3x3
