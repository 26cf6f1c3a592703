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
// A `Way` says how an axis of three taps, of SIDE pixels, of RESULT pixels is made AXIS numbers, NUMBERS numbers and back,
// which product (`of`) two numbers take part in, and which of its rows (`copy`) they are.
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
  static constexpr int SIDE = F::SIZE, NUMBERS = F::SIZE, AXIS = F::SIZE, RESULT = F::OUT;
  static constexpr int POINTS = AXIS * AXIS, COPIES = POINTS;
  static constexpr int of(int r, int c) { return r * AXIS + c; }
  static constexpr int copy(int, int) { return 0; }
  static constexpr int64_t copies(int64_t) { return 1; }
  static constexpr int64_t copies_before(int64_t point) { return point; }
  static constexpr int point(int r, int c) { return of(r, c); }
  SG_FORCE_INLINE static void weight(const vec (&g)[3], vec (&t)[AXIS]) { transform_weight<F>(g, t); }
  SG_FORCE_INLINE static void input(const vec (&d)[SIDE], vec (&t)[NUMBERS]) { transform_input<F>(d, t); }
  SG_FORCE_INLINE static void output(const vec (&m)[NUMBERS], vec (&y)[RESULT]) { transform_output<F>(m, y); }
  // Whether it was measured faster, for images of this size: transforms of the weights have to pay.
  static bool pays(int64_t height, int64_t width) { return height * width >= 256; }
  static Grid grid(int64_t n, int64_t height, int64_t width) {
    const Start in{4, 1}, out{4, 0};
    return {n, (height + 3) / 4, (width + 3) / 4, in, in, out, out};
  }
};

// Stride 2, or its transpose.
template <bool SCATTER>
struct Strided : conv_float::StridedAxes<Balanced<4, 2>> {
  using Axes = conv_float::StridedAxes<Balanced<4, 2>>;
  static constexpr int SIDE = SCATTER ? EVEN : NUMBERS, RESULT = SCATTER ? 2 * OUT : OUT;
  static constexpr int POINTS = BOTH + 1, COPIES = NUMBERS * NUMBERS;
  SG_FORCE_INLINE static void weight(const vec (&g)[3], vec (&t)[AXIS]) { Axes::template weight<SCATTER>(g, t); }
  SG_FORCE_INLINE static void input(const vec (&d)[SIDE], vec (&t)[NUMBERS]) { Axes::template input<SCATTER>(d, t); }
  SG_FORCE_INLINE static void output(const vec (&m)[NUMBERS], vec (&y)[RESULT]) { Axes::output(m, y); }
  // As above, of the result. From 16 to 33 pixels a tile in five is mostly border: .9 to 1.05 of the direct one's time.
  static bool pays(int64_t height, int64_t width) { return height * width >= (SCATTER ? 34 * 34 : 8 * 8); }
  static Grid grid(int64_t n, int64_t height, int64_t width, int64_t pad_y, int64_t pad_x) {  // of the result
    if (!SCATTER) return {n, (height + 3) / 4, (width + 3) / 4, {8, pad_y}, {8, pad_x}, {4, 0}, {4, 0}};
    const auto tiles = [](int64_t out, int64_t pad) { return ((out - 1 + pad) / 2 + 4) / 4; };
    return {n, tiles(height, pad_y), tiles(width, pad_x), {4, 1}, {4, 1}, {8, pad_y}, {8, pad_x}};
  }
};

}  // namespace conv_fixed
