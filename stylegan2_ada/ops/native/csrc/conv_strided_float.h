// 3x3 convolutions with stride 2 of float32 images, and their transposes, by minimal filtering of their parts.
//
// Along an axis, y[q] = sum over d of x[2 q + d - pad] w[d] is a convolution of the even x with (w0, w2) and one of the
// odd x with w1 (polyphase). For four y the first takes F(4, 2) in five multiplications, the second four; together nine,
//
//     y = [A^T 1] ( [G (w0, w2); w1 w1 w1 w1] * [B^T x_even; x_odd] ),
//
// along both axes 81 for 16 y, where the direct convolution has 144. The transpose, y[2 j - pad] = x[j] w0 + x[j - 1] w2
// and y[2 j + 1 - pad] = x[j] w1, has the same nine along an axis and sorts the results. The four that have the same
// weight are rows of one product: 36 products for the 81.
#pragma once
#include "conv_float.h"

namespace conv_float {

// The numbers of an axis, and their products.
template <typename F_>
struct StridedAxes {
  using F = F_;
  static constexpr int OUT = F::OUT, EVEN = F::SIZE, ODD = OUT, AXIS = EVEN + 1, NUMBERS = EVEN + ODD;
  // The product of two numbers of the axes of the weights, and of two of the nine of the images; which row of a tile it
  // is in that product.
  static constexpr int point(int r, int c) {
    return r < EVEN && c < EVEN ? r * EVEN + c : r < EVEN ? EVEN * EVEN + r : EVEN * EVEN + EVEN + c;
  }
  static constexpr int of(int r, int c) { return point(r < EVEN ? r : EVEN, c < EVEN ? c : EVEN); }
  static constexpr int copy(int r, int c) {
    return (r < EVEN ? 0 : r - EVEN) * (c < EVEN ? 1 : ODD) + (c < EVEN ? 0 : c - EVEN);
  }

  static constexpr int64_t MIXED = EVEN * EVEN, BOTH = MIXED + 2 * EVEN;  // the first of mixed products, that of odd ones
  static constexpr int64_t copies(int64_t point) { return point < MIXED ? 1 : point < BOTH ? ODD : ODD * ODD; }
  static constexpr int64_t copies_before(int64_t point) {
    return point <= MIXED ? point : point <= BOTH ? MIXED + ODD * (point - MIXED) : NUMBERS * NUMBERS;
  }

  template <bool SCATTER>
  SG_FORCE_INLINE static void weight(const vec (&g)[3], vec (&out)[AXIS]) {
    const vec even[2] = {g[SCATTER ? 2 : 0], g[SCATTER ? 0 : 2]};
    vec t[EVEN];
    transform_weight<F>(even, t);
    repeat<EVEN>([&](auto i) SG_INLINED { out[i] = t[i]; });
    out[EVEN] = g[1];
  }

  // The nine numbers of an axis from x: nine x of a convolution, five of a transpose.
  template <bool SCATTER>
  SG_FORCE_INLINE static void input(const vec (&d)[SCATTER ? EVEN : NUMBERS], vec (&out)[NUMBERS]) {
    vec even[EVEN], t[EVEN];
    repeat<EVEN>([&](auto i) SG_INLINED { even[i] = d[SCATTER ? i : 2 * i]; });
    transform_input<F>(even, t);
    repeat<EVEN>([&](auto i) SG_INLINED { out[i] = t[i]; });
    repeat<ODD>([&](auto i) SG_INLINED { out[EVEN + i] = d[SCATTER ? i + 1 : 2 * i + 1]; });
  }

  template <int SIDE>
  SG_FORCE_INLINE static void output(const vec (&m)[NUMBERS], vec (&out)[SIDE]) {
    vec even[EVEN], t[OUT];
    repeat<EVEN>([&](auto i) SG_INLINED { even[i] = m[i]; });
    transform_output<F>(even, t);
    repeat<OUT>([&](auto i) SG_INLINED {
      if constexpr (SIDE == OUT) {
        out[i] = t[i] + m[EVEN + i];
      } else {
        out[2 * i] = t[i];
        out[2 * i + 1] = m[EVEN + i];
      }
    });
  }
};

struct Strided : StridedAxes<Filter<4, 2>> {
  bool scatter;  // the transpose
  int64_t pad_y, pad_x;
  Strided(bool scatter, int64_t pad_y, int64_t pad_x) : scatter(scatter), pad_y(pad_y), pad_x(pad_x) {}

  int64_t points() const { return BOTH + 1; }
  int64_t copies() const { return NUMBERS * NUMBERS; }
  static constexpr int64_t copies(int64_t point) { return StridedAxes::copies(point); }
  template <typename To>
  int64_t at(int64_t point, const To& to) const {
    return to.at(point, copies_before(point));
  }
  int64_t blocks(int64_t channels) const { return (channels + LANES - 1) / LANES; }
  // Tiles of 4 x 4 positions q or j.
  template <typename T>
  Tiles tiles(const Images<T>& y) const {
    const int64_t rows = scatter ? (y.height - 1 + pad_y) / 2 + 1 : y.height;
    const int64_t cols = scatter ? (y.width - 1 + pad_x) / 2 + 1 : y.width;
    return {(rows + OUT - 1) / OUT, (cols + OUT - 1) / OUT, OUT, OUT};
  }

  void weight(const vec (&g)[3], vec (&out)[AXIS]) const {
    scatter ? StridedAxes::weight<true>(g, out) : StridedAxes::weight<false>(g, out);
  }
  void weight_back(const vec (&u)[AXIS], vec (&out)[3]) const {  // of the convolution, not of its transpose
    vec even[EVEN], t[2];
    repeat<EVEN>([&](auto i) SG_INLINED { even[i] = u[i]; });
    transform_weight_back<F>(even, t);
    out[0] = t[0];
    out[1] = u[EVEN];
    out[2] = t[1];
  }

  template <typename To>
  void read(const Images<const float>& x, Tiles::Corner at, const float* zeros, float* v, int64_t tile,
            const To& to) const {
    if (scatter)
      read_tile<EVEN>(x, at.n, at.y - 1, at.x - 1, zeros, v, tile, to,
                      [](const auto& d, auto& t) SG_INLINED { input<true>(d, t); });
    else
      read_tile<NUMBERS>(x, at.n, 2 * at.y - pad_y, 2 * at.x - pad_x, zeros, v, tile, to,
                         [](const auto& d, auto& t) SG_INLINED { input<false>(d, t); });
  }

  void read_gradient(const Images<const float>& y, Tiles::Corner at, const float* zeros, float* v, int64_t tile,
                     const Operand& to) const {
    read_tile<OUT>(y, at.n, at.y, at.x, zeros, v, tile, to, [](const vec(&d)[OUT], vec(&t)[NUMBERS]) SG_INLINED {
      vec even[EVEN];
      transform_output_back<F>(d, even);
      repeat<EVEN>([&](auto i) SG_INLINED { t[i] = even[i]; });
      repeat<ODD>([&](auto i) SG_INLINED { t[EVEN + i] = d[i]; });
    });
  }

  // SIDE x SIDE pixels, along both axes made nine numbers by `transform`.
  template <int SIDE, typename To, typename T>
  SG_FORCE_INLINE void read_tile(const Images<const float>& x, int64_t n, int64_t y0, int64_t x0, const float* zeros,
                                 float* v, int64_t tile, const To& to, const T& transform) const {
    read_pixels<SIDE, SIDE, NUMBERS, NUMBERS>(
        x, n, y0, x0, zeros, transform, transform, [&](int64_t block) {
          return [=](auto r, auto c) SG_INLINED {
            constexpr int64_t point = of(r, c), rows = copies(point);
            return v + at(point, to) + to.block(block, rows) + to.row(tile * rows + copy(r, c));
          };
        });
  }

  // A tile's results: 4 x 4, or of a transpose 8 x 8.
  void write(const float* m, int64_t tile, const Layout& from, const Part& part, int64_t channel,
             Tiles::Corner corner) const {
    if (scatter)
      write_tile<2 * OUT>(m, tile, from, part, channel, corner.n, 2 * corner.y - pad_y, 2 * corner.x - pad_x);
    else
      write_tile<OUT>(m, tile, from, part, channel, corner.n, corner.y, corner.x);
  }

  template <int SIDE>
  SG_FORCE_INLINE void write_tile(const float* m, int64_t tile, const Layout& from, const Part& part, int64_t channel,
                                  int64_t n, int64_t y0, int64_t x0) const {
    const auto transform = [](const auto& d, auto& t) SG_INLINED { output(d, t); };
    along_both_axes<NUMBERS, NUMBERS, SIDE, SIDE>(
        [&](auto r, auto c) SG_INLINED {
          constexpr int64_t point = of(r, c), rows = copies(point);
          return load(m + at(point, from) + (tile * rows + copy(r, c)) * from.width);
        },
        transform, transform,
        [&](auto r, const auto& t) SG_INLINED { write_row(part.y, n, y0 + r, x0, channel, t); });
  }
};

}  // namespace conv_float
