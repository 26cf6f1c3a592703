// Minimal filtering in fixed point: the transformed numbers are int16 with a common step, their sums int32.
//
// Tiles of 4 x 4 need a quarter of the multiplications, but the values of a tile are differences of larger numbers and
// its results again; rounded to bfloat16 in between, a result is off by .012. An int16 has seven bits more, and the
// processor multiplies it as fast. What it lacks is an exponent: each tile of the images and each output of the weights
// has one step for all its numbers (conv_fixed.h).
//
// So B^T and G are scaled until the magnitudes of each row add up to 1, and A^T makes up for it: no point's numbers are
// then much larger than another's.
//
// A `Way` says how an axis of three taps is made AXIS numbers; how an axis of a tile, Y and X, of SIDE pixels is made
// NUMBERS and these RESULT pixels; which product (`of`) two numbers take part in, which of its rows (`copy`) they are, and
// which two of the weights' numbers (`weights`) it has.
#pragma once
#include "conv_strided_float.h"

// Where there is AMX, it does all 3x3 convolutions, and faster (conv_taps.cpp).
#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512VNNI__) && \
    !defined(__AMX_TILE__)
#define CONV_FIXED 1
#else
#define CONV_FIXED 0
#endif

namespace conv_fixed {

using namespace conv_forward;

// Rows of B^T and of G that add up to 1.
constexpr Matrices balanced(Matrices f, int m, int r) {
  for (int row = 0; row < m + r - 1; row++) {
    double of_b = 0, of_g = 0;
    for (int j = 0; j < m + r - 1; j++) of_b += f.bt[row][j] < 0 ? -f.bt[row][j] : f.bt[row][j];
    for (int k = 0; k < r; k++) of_g += f.g[row][k] < 0 ? -f.g[row][k] : f.g[row][k];
    for (int j = 0; j < m + r - 1; j++) f.bt[row][j] /= of_b;
    for (int k = 0; k < r; k++) f.g[row][k] /= of_g;
    for (int k = 0; k < m; k++) f.at[k][row] *= of_b * of_g;
  }
  return f;
}

template <int M, int R>
struct Balanced : Shape<M, R> {
  static constexpr Matrices MATRICES = balanced(Filter<M, R>::MATRICES, M, R);
};

// The magnitudes of a transform's matrix, [TO][FROM]: it is given the unit vectors, one a lane.
template <int FROM, int TO>
struct Magnitudes {
  float of[TO][FROM];
  template <typename T>
  explicit Magnitudes(const T& transform) {
    vec d[FROM] = {}, t[TO];
    for (int j = 0; j < FROM; j++) d[j][j] = 1;
    transform(d, t);
    for (int i = 0; i < TO; i++)
      for (int j = 0; j < FROM; j++) of[i][j] = t[i][j] < 0 ? -t[i][j] : t[i][j];
  }
};

// Where the pixels of a tile begin along an axis.
struct Start {
  int64_t step, before;
  int64_t at(int64_t tile) const { return step * tile - before; }
};

// Tiles of n images, and where their pixels and their results are.
struct Grid {
  int64_t n, rows, cols;
  Start in_y, in_x, out_y, out_x;
  int64_t tiles() const { return n * rows * cols; }
  struct Tile {
    int64_t n, row, col;
  };
  Tile tile(int64_t i) const { return {i / (rows * cols), i / cols % rows, i % cols}; }
};

// Stride 1 and padding 1.
struct Plain {
  using F = Balanced<4, 3>;
  struct Y {
    static constexpr int SIDE = F::SIZE, NUMBERS = F::SIZE, RESULT = F::OUT;
    SG_FORCE_INLINE static void input(const vec (&d)[SIDE], vec (&t)[NUMBERS]) { transform_input<F>(d, t); }
    SG_FORCE_INLINE static void output(const vec (&m)[NUMBERS], vec (&y)[RESULT]) { transform_output<F>(m, y); }
  };
  using X = Y;
  static constexpr int AXIS = F::SIZE, POINTS = AXIS * AXIS, COPIES = POINTS;
  static constexpr int of(int r, int c) { return r * AXIS + c; }
  static constexpr int copy(int, int) { return 0; }
  static constexpr int64_t copies(int64_t) { return 1; }
  static constexpr int64_t copies_before(int64_t point) { return point; }
  static constexpr int64_t weights(int64_t point) { return point; }
  static constexpr int point(int r, int c) { return of(r, c); }
  SG_FORCE_INLINE static void weight(const vec (&g)[3], vec (&t)[AXIS]) { transform_weight<F>(g, t); }
  // Whether it was measured faster, for images of this size: transforms of the weights have to pay.
  static bool pays(int64_t height, int64_t width) { return height * width >= 8 * 8; }
  static Grid grid(int64_t n, int64_t height, int64_t width) {
    const Start in{4, 1}, out{4, 0};
    return {n, (height + 3) / 4, (width + 3) / 4, in, in, out, out};
  }
};

using Axes = conv_float::StridedAxes<Balanced<4, 2>>;

// Stride 2.
struct Halved : Axes {
  struct Y {
    static constexpr int SIDE = Axes::NUMBERS, NUMBERS = Axes::NUMBERS, RESULT = OUT;
    SG_FORCE_INLINE static void input(const vec (&d)[SIDE], vec (&t)[NUMBERS]) { Axes::input<false>(d, t); }
    SG_FORCE_INLINE static void output(const vec (&m)[NUMBERS], vec (&y)[RESULT]) { Axes::output(m, y); }
  };
  using X = Y;
  static constexpr int POINTS = BOTH + 1, COPIES = Axes::NUMBERS * Axes::NUMBERS;
  static constexpr int64_t weights(int64_t point) { return point; }
  SG_FORCE_INLINE static void weight(const vec (&g)[3], vec (&t)[AXIS]) { Axes::weight<false>(g, t); }
  static bool pays(int64_t height, int64_t width) { return height * width >= 4 * 4; }  // as above, of the result
  static Grid grid(int64_t n, int64_t height, int64_t width, int64_t pad_y, int64_t pad_x) {  // of the result
    return {n, (height + 3) / 4, (width + 3) / 4, {8, pad_y}, {8, pad_x}, {4, 0}, {4, 0}};
  }
};

// Its transpose, y[2 j + 1 - pad] = x[j] w1 and y[2 j + 2 - pad] = x[j + 1] w0 + x[j] w2: tiles of 8 x 8 results of an even
// number of pixels are whole. Without padding that leaves out the first row and column, y[0] = x[0] w0: tiles one pixel
// high or wide (EDGE_Y, EDGE_X), whose weights are those of the point at infinity.
template <bool EDGE_Y, bool EDGE_X>
struct Doubled : Axes {
  struct Whole {
    static constexpr int SIDE = EVEN, NUMBERS = Axes::NUMBERS, RESULT = 2 * OUT;
    SG_FORCE_INLINE static void input(const vec (&d)[SIDE], vec (&t)[NUMBERS]) {
      vec even[EVEN];
      transform_input<F>(d, even);
      repeat<EVEN>([&](auto i) SG_INLINED { t[i] = even[i]; });
      repeat<ODD>([&](auto i) SG_INLINED { t[EVEN + i] = d[i]; });
    }
    SG_FORCE_INLINE static void output(const vec (&m)[NUMBERS], vec (&y)[RESULT]) {
      vec even[EVEN], t[OUT];
      repeat<EVEN>([&](auto i) SG_INLINED { even[i] = m[i]; });
      transform_output<F>(even, t);
      repeat<OUT>([&](auto i) SG_INLINED {
        y[2 * i] = m[EVEN + i];
        y[2 * i + 1] = t[i];
      });
    }
  };
  struct Edge {
    static constexpr int SIDE = 1, NUMBERS = 1, RESULT = 1;
    SG_FORCE_INLINE static void input(const vec (&d)[1], vec (&t)[1]) { t[0] = d[0]; }
    SG_FORCE_INLINE static void output(const vec (&m)[1], vec (&y)[1]) { y[0] = m[0]; }
  };
  using Y = std::conditional_t<EDGE_Y, Edge, Whole>;
  using X = std::conditional_t<EDGE_X, Edge, Whole>;

  static constexpr int INFINITY_ = EVEN - 1;
  static_assert(F::MATRICES.g[INFINITY_][1] == 1, "what an edge's weights are");
  static constexpr bool WHOLE = !EDGE_Y && !EDGE_X, ONE = EDGE_Y != EDGE_X;  // of two edges there is one number
  static constexpr int POINTS = WHOLE ? BOTH + 1 : ONE ? EVEN + 1 : 1, COPIES = Y::NUMBERS * X::NUMBERS;
  static constexpr int of(int r, int c) { return WHOLE ? Axes::of(r, c) : std::min(EVEN, r + c); }
  static constexpr int copy(int r, int c) { return WHOLE ? Axes::copy(r, c) : std::max(0, r + c - EVEN); }
  static constexpr int64_t copies(int64_t point) { return WHOLE ? Axes::copies(point) : point < EVEN ? 1 : ODD; }
  static constexpr int64_t copies_before(int64_t point) {
    return WHOLE ? Axes::copies_before(point) : point <= EVEN ? point : EVEN + ODD;
  }
  static constexpr int64_t weights(int64_t point) {
    const int i = static_cast<int>(point);
    return WHOLE ? i : Axes::point(EDGE_Y ? INFINITY_ : i, EDGE_X ? INFINITY_ : i);
  }
  SG_FORCE_INLINE static void weight(const vec (&g)[3], vec (&t)[AXIS]) { Axes::weight<true>(g, t); }
  static bool pays(int64_t height, int64_t width) { return height * width >= 9 * 9; }
  static Grid grid(int64_t n, int64_t height, int64_t width, int64_t pad_y, int64_t pad_x) {
    const Start in{4, 0};
    const auto tiles = [](bool edge, int64_t out, int64_t pad) { return edge ? pad == 0 : (out - 1 + pad + 7) / 8; };
    const auto out = [](bool edge, int64_t pad) { return Start{8, edge ? 0 : pad - 1}; };
    return {n, tiles(EDGE_Y, height, pad_y), tiles(EDGE_X, width, pad_x), in, in, out(EDGE_Y, pad_y), out(EDGE_X, pad_x)};
  }
};

}  // namespace conv_fixed
