// What convolutions of float32 images with 3x3 weights that are learnt share: weights to their transforms, and the
// gradient in the weights as the adjoint of the convolution by minimal filtering,
//
//     gw = G^T [ sum over tiles of (B^T d B) * (A gy A^T) ] G.
//
// Its sums over the tiles are products [inputs, tiles] x [tiles, outputs], one for each point. Tiles whose transforms
// fit the third-level cache are summed at once, GROUP x PANEL channels at a time at all points, so that sums go from the
// second level straight through the back transform.
//
// A `Way` (Filtered of conv_forward_passes.h and its like) knows points, copies and tiles; besides, AXIS numbers of an
// axis of the weights, their `weight` (three taps to AXIS) and `weight_back` (to three), the `point` of two of
// them, and how a tile of the gradient is read.
#pragma once
#include <bit>

#include "conv_forward_passes.h"

namespace conv_float {

using namespace conv_forward;

constexpr int TAPS = 9;
constexpr int64_t GROUP = 48;              // inputs of an item of the weight gradient
constexpr int64_t CHUNK_BYTES = 10 << 20;  // transforms that are summed at once, but
constexpr int64_t CHUNK_ROWS = 64;         // at least so many numbers a sum: each chunk's are transformed back

template <typename Way>
int64_t weight_count(const Way& way, int64_t in, int64_t out) {
  return way.points() * round_up(in, LANES) * round_up(out, LANES);
}

// LANES rows of LANES numbers, transposed in place: halves, then quarters … change places.
SG_FORCE_INLINE void transpose(vec (&r)[LANES]) {
  repeat<std::bit_width(unsigned{LANES}) - 1>([&](auto k) SG_INLINED {
    constexpr int apart = 1 << k;
    [&]<size_t... E>(std::index_sequence<E...>) SG_INLINED {
      for (int i = 0; i < LANES; i++) {
        if (i & apart) continue;
        const vec a = r[i], b = r[i + apart];
#ifdef __clang__
        r[i] = __builtin_shufflevector(a, b, (E & apart ? LANES + E - apart : E)...);
        r[i + apart] = __builtin_shufflevector(a, b, (E & apart ? LANES + E : E + apart)...);
#else
        using Indices = std::remove_cvref_t<decltype(a < b)>;
        r[i] = __builtin_shuffle(a, b, Indices{(E & apart ? LANES + int(E) - apart : int(E))...});
        r[i + apart] = __builtin_shuffle(a, b, Indices{(E & apart ? LANES + int(E) : int(E) + apart)...});
#endif
      }
    }(std::make_index_sequence<LANES>());
  });
}

// Float32 [o][i][9], times gain. `by_input` takes i for outputs and o for inputs; `turned` turns the kernel by 180 degrees.
struct Weights {
  const float* w;
  int64_t o_count, i_count;
  float gain;
  bool by_input, turned;
  int64_t inputs() const { return by_input ? o_count : i_count; }
  int64_t outputs() const { return by_input ? i_count : o_count; }

  // [input][tap] of LANES inputs from i0 on, vectors of as many outputs from o0 on.
  void read_whole(int64_t i0, int64_t o0, vec (&stage)[LANES * TAPS]) const {
    vec rows[LANES];
    if (!by_input) {
      for (int b = 0; b < TAPS; b++) {
        for (int64_t o = 0; o < LANES; o++) {
          const float* from = w + ((o0 + o) * i_count + i0) * TAPS + b * LANES;
          rows[o] = load(from);
          __builtin_prefetch(from + LANES * TAPS);  // the next inputs'
        }
        transpose(rows);
        std::copy(rows, rows + LANES, stage + b * LANES);
      }
      return;
    }
    for (int64_t i = 0; i < LANES; i++) {
      const float *from = w + ((i0 + i) * i_count + o0) * TAPS, *next = from + LANES * i_count * TAPS;
      for (int b = 0; b < TAPS; b++) __builtin_prefetch(next + b * LANES);
      if constexpr (LANES > TAPS) {
        for (int64_t o = 0; o < LANES; o++) {
          rows[o] = o + 1 < LANES ? load(from + o * TAPS) : last_taps(from + o * TAPS);  // not beyond the weights
        }
        transpose(rows);
        std::copy(rows, rows + TAPS, stage + i * TAPS);
      } else {
        for (int64_t o = 0; o < LANES; o++) rows[o] = load(from + o * TAPS);
        transpose(rows);
        std::copy(rows, rows + LANES, stage + i * TAPS);
        for (int t = LANES; t < TAPS; t++)
          for (int o = 0; o < LANES; o++) stage[i * TAPS + t][o] = from[o * TAPS + t];
      }
    }
  }
  static vec last_taps(const float* from) {
    vec v = {};
    std::memcpy(&v, from, TAPS * sizeof(float));
    return v;
  }

  // LANES inputs from i0 on by LANES outputs from o0 on, transformed: to[point * step + input * row], vectors of outputs.
  template <typename Way>
  void transform(const Way& way, int64_t i0, int64_t o0, float* to, int64_t step, int64_t row) const {
    const auto transform = [&](const auto& g, auto& t) SG_INLINED { way.weight(g, t); };
    const int64_t ins = std::min<int64_t>(LANES, inputs() - i0), outs = std::min<int64_t>(LANES, outputs() - o0);
    vec stage[LANES * TAPS];  // [input][tap], of outputs
    if (ins < LANES || outs < LANES) {
      float some[LANES][TAPS][LANES] = {};
      for (int64_t i = 0; i < ins; i++)
        for (int64_t o = 0; o < outs; o++)
          for (int t = 0; t < TAPS; t++)
            some[i][t][o] = w[(by_input ? (i0 + i) * i_count + o0 + o : (o0 + o) * i_count + i0 + i) * TAPS + t];
      std::memcpy(stage, some, sizeof stage);
    } else {
      read_whole(i0, o0, stage);
    }
    for (int64_t k = 0; k < LANES; k++)
      along_both_axes<3, 3, Way::AXIS, Way::AXIS>(
          [&](auto r, auto c) SG_INLINED { return stage[k * TAPS + (turned ? TAPS - 1 - 3 * r - c : 3 * r + c)] * gain; },
          transform, transform, [&](auto r, const auto& t) SG_INLINED {
            repeat<Way::AXIS>([&](auto c) SG_INLINED { store(to + Way::point(r, c) * step + k * row, t[c]); });
          });
  }
};

// Weights as conv_forward wants them.
template <typename Way>
void transform_weights(const Way& way, const Weights& w, int64_t threads, float* u) {
  const int64_t rows = round_up(w.inputs(), LANES), padded = round_up(w.outputs(), LANES);
  sg::for_each_item(padded / LANES, threads, [&](int64_t group, int64_t) {
    const int64_t o0 = group * LANES, panel = o0 / PANEL * PANEL, cols = std::min<int64_t>(PANEL, padded - panel);
    for (int64_t i0 = 0; i0 < rows; i0 += LANES)
      w.transform(way, i0, o0, u + panel * rows + i0 * cols + o0 - panel, rows * padded, cols);
  });
}

// The convolution of a few tiles. The transformed weights are larger than the weights, and each is needed once for all
// tiles: they are made BLOCKS * LANES inputs and PANEL outputs at a time, and never leave the second-level cache.
template <typename Way>
void convolve_few(const Way& way, const Images<const float>& x, const Weights& w, const Part& part, int64_t threads) {
  constexpr int64_t BLOCKS = 64 / LANES;  // also of a sum: see `together` of conv_forward::convolve
  const int64_t points = way.points(), blocks = way.blocks(x.channels), padded = part.padded();
  const Tiles tiles = way.tiles(part.y);
  const int64_t count = x.n * tiles.rows * tiles.cols, step = BLOCKS * LANES * PANEL + LANES;
  const Layout layout(count, blocks * LANES), results(count, PANEL);
  static thread_local sg::Scratch scratch;
  const int64_t v_size = round_up(way.at(points, layout), LANES), m_size = round_up(way.at(points, results), LANES);
  float* v = scratch.get<float>(v_size + threads * (points * step + m_size));
  const std::vector<float> zeros(round_up(x.channels, LANES));
  for (int64_t t = 0; t < count; t++) way.read(x, tiles.corner(t), zeros.data(), v, t, layout);
  sg::for_each_item((padded + PANEL - 1) / PANEL, threads, [&](int64_t panel, int64_t thread) {
    float *u = v + v_size + thread * (points * step + m_size), *m = u + points * step;
    const int64_t o0 = panel * PANEL, cols = std::min<int64_t>(PANEL, padded - o0);
    for (int64_t block = 0; block < blocks; block += BLOCKS) {
      const int64_t end = std::min(block + BLOCKS, blocks);
      for (int64_t i = block; i < end; i++)
        for (int64_t o = 0; o < cols; o += LANES)
          w.transform(way, i * LANES, o0 + o, u + (i - block) * LANES * cols + o, step, cols);
      for (int64_t p = 0; p < points; p++) {
        const int64_t copies = way.copies(p);
        multiply(count * copies, cols, v + way.at(p, layout) + layout.block(block, copies), layout.block(1, copies),
                 u + p * step, block, end, BLOCKS, m + way.at(p, results), PANEL);
      }
    }
    for (int64_t t = 0; t < count; t++)
      for (int64_t o = 0; o < cols; o += LANES) way.write(m + o, t, results, part, o0 + o, tiles.corner(t));
  });
}

// An operand of the weight gradient's products: [point][panel of `width` channels][row][channel].
struct Operand {
  int64_t tiles, width, padded, step;
  Operand(int64_t channels, int64_t width, int64_t tiles)
      : tiles(tiles), width(width), padded(round_up(channels, width)), step(padded * tiles + LANES) {}
  int64_t at(int64_t point) const { return point * step; }
  int64_t at(int64_t point, int64_t copies_before) const { return copies_before * tiles * padded + point * LANES; }
  int64_t panel(int64_t channel, int64_t copies) const { return channel / width * width * tiles * copies; }
  int64_t block(int64_t block, int64_t copies = 1) const {
    return panel(block * LANES, copies) + block * LANES % width;
  }
  int64_t row(int64_t row) const { return row * width; }
};

// C[r, j] = sum over t of A[t, r] B[t, j]: A has GROUP values a row, B and C PANEL.
template <int R, int COLS>
void sum_tiles(const float* a, const float* b, int64_t rows, float* c) {
  vec sum[R][COLS] = {};
  for (int64_t t = 0; t < rows; t++, a += GROUP, b += PANEL) {
    vec row[COLS];
#pragma GCC unroll 2
    for (int j = 0; j < COLS; j++) row[j] = load(b + j * LANES);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      const vec x = broadcast(a[r]);
#pragma GCC unroll 2
      for (int j = 0; j < COLS; j++) sum[r][j] += x * row[j];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int j = 0; j < COLS; j++) store(c + r * PANEL + j * LANES, sum[r][j]);
}

using SumTiles = void (*)(const float*, const float*, int64_t, float*);

template <int COLS, int... R>
constexpr auto sums_of_tiles(std::integer_sequence<int, R...>) {
  struct {
    SumTiles of[sizeof...(R)];
  } table{{sum_tiles<R + 1, COLS>...}};
  return table;
}

// As `sum_tiles`, for any number of inputs.
inline void multiply_tiles(int64_t inputs, int64_t cols, const float* a, const float* b, int64_t rows, float* c) {
  static constexpr auto one = sums_of_tiles<1>(std::make_integer_sequence<int, ROWS>{});
  static constexpr auto two = sums_of_tiles<2>(std::make_integer_sequence<int, ROWS>{});
  const SumTiles* table = cols > LANES ? two.of : one.of;
  in_groups(inputs, [&](int64_t here, int64_t r) { table[here - 1](a + r, b, rows, c + r * PANEL); });
}

// sums[9][LANES outputs] from the products of one input at all points; `add` to what is there.
template <typename Way>
void transform_back(const Way& way, const float* m, int64_t step, bool add, float* sums, int64_t tap) {
  const auto transform = [&](const auto& u, auto& t) SG_INLINED { way.weight_back(u, t); };
  along_both_axes<Way::AXIS, Way::AXIS, 3, 3>(
      [&](auto r, auto c) SG_INLINED { return load(m + Way::point(r, c) * step); }, transform, transform,
      [&](auto r, const auto& t) SG_INLINED {
        repeat<3>([&](auto c) SG_INLINED {
          float* to = sums + (3 * r + c) * tap;
          store(to, add ? load(to) + t[c] : t[c]);
        });
      });
}

// gw[o][i][9] = gain * sum over images and positions of y[o] x[i, shifted by the tap]. by_input: gw[i][o][9]; turned: the
// kernel by 180 degrees.
template <typename Way>
void weight_gradient(const Way& way, const Images<const float>& x, const Images<const float>& y, float gain,
                     bool by_input, bool turned, float* gw, int64_t threads) {
  const int64_t inputs = x.channels, outputs = y.channels, padded = round_up(outputs, LANES), points = way.points();
  const Tiles tiles = way.tiles(y);
  const int64_t all = y.n * tiles.rows * tiles.cols;
  const int64_t per_tile = way.copies() * sizeof(float) * (round_up(inputs, GROUP) + round_up(outputs, PANEL));
  const int64_t most = std::max<int64_t>(CHUNK_BYTES / per_tile, CHUNK_ROWS * points / way.copies());
  const int64_t chunks = (all + most - 1) / most, together = (all + chunks - 1) / chunks;
  const Operand a(inputs, GROUP, together), b(outputs, PANEL, together);
  const int64_t groups = (inputs + GROUP - 1) / GROUP, panels = (outputs + PANEL - 1) / PANEL;
  const int64_t step = GROUP * PANEL + LANES, tap = padded, one_input = TAPS * padded;

  static thread_local sg::Scratch scratch;
  const int64_t a_count = way.at(points, a), b_count = way.at(points, b);
  float* va = scratch.get<float>(a_count + b_count + threads * points * step + inputs * one_input);
  float *vb = va + a_count, *products = vb + b_count, *sums = products + threads * points * step;
  const std::vector<float> zeros(round_up(std::max(inputs, outputs), LANES));

  for (int64_t first = 0; first < all; first += together) {
    const int64_t count = std::min(together, all - first), once = 4;
    sg::for_each_item((count + once - 1) / once, threads, [&](int64_t item, int64_t) {
      for (int64_t t = item * once; t < std::min(count, (item + 1) * once); t++) {
        const Tiles::Corner at = tiles.corner(first + t);
        way.read(x, at, zeros.data(), va, t, a);
        way.read_gradient(y, at, zeros.data(), vb, t, b);
      }
    });
    sg::for_each_item(groups * panels, threads, [&](int64_t item, int64_t thread) {
      const int64_t i0 = item % groups * GROUP, o0 = item / groups * PANEL;
      const int64_t rows = std::min(GROUP, inputs - i0), cols = std::min<int64_t>(PANEL, padded - o0);
      float* m = products + thread * points * step;
      for (int64_t p = 0; p < points; p++) {
        const int64_t copies = way.copies(p);
        multiply_tiles(rows, cols, va + way.at(p, a) + a.panel(i0, copies), vb + way.at(p, b) + b.panel(o0, copies),
                       count * copies, m + p * step);
      }
      for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j += LANES)
          transform_back(way, m + i * PANEL + j, step, first > 0, sums + (i0 + i) * one_input + o0 + j, tap);
    });
  }

  sg::for_each_item(padded / LANES, threads, [&](int64_t group, int64_t) {
    const int64_t o0 = group * LANES, outs = std::min<int64_t>(LANES, outputs - o0);
    for (int64_t i = 0; i < inputs; i++) {
      float taps[TAPS][LANES];
      for (int t = 0; t < TAPS; t++)
        store(taps[turned ? TAPS - 1 - t : t], load(sums + i * one_input + t * tap + o0) * gain);
      for (int64_t r = 0; r < outs; r++) {
        float* to = gw + (by_input ? i * outputs + o0 + r : (o0 + r) * inputs + i) * TAPS;
        for (int t = 0; t < TAPS; t++) to[t] = taps[t][r];
      }
    }
  });
}

// ---- of tensors: float32, channels last ------------------------------------------------------------------------------

template <typename T>
Images<T> images(const sg::Tensor& x, T* data) {
  const int64_t c = x.size(1), h = x.size(2), w = x.size(3);  // strides of a size 1 say nothing
  return {data, x.size(0), c, h, w, h * w * c, w * c, c};
}
inline Images<const float> images(const sg::Tensor& x) { return images(x, sg::in<float>(x)); }

constexpr int64_t FEW_TILES = 64;  // for which transforming weights as they are met was measured faster

// y = the convolution of x.
template <typename Way>
void convolve(const Way& way, const sg::Tensor& x, const Weights& w, const sg::Tensor& y, int64_t threads) {
  const std::vector<float> no_bias(round_up(y.size(1), LANES));
  const Images<const float> from = images(x);
  Part part{nullptr, no_bias.data(), images(y, sg::out<float>(y)), false};
  const Tiles tiles = way.tiles(part.y);
  if (from.n * tiles.rows * tiles.cols <= FEW_TILES) return convolve_few(way, from, w, part, threads);
  static thread_local sg::Scratch scratch;
  float* u = scratch.get<float>(weight_count(way, x.size(1), y.size(1)));
  transform_weights(way, w, threads, u);
  part.u = u;
  conv_forward::convolve(way, from, {part}, threads);
}

}  // namespace conv_float
