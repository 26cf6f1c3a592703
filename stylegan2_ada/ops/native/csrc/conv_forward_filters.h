// Minimal filtering in one dimension, F(m, r): m results of an r-tap correlation in m + r - 1 multiplications.
//
//     y = A^T [ (G g) * (B^T d) ]
//
// by Toom and Cook's method: data and taps are polynomials, known by their values at m + r - 2 points and "at infinity"
// (Lavin & Gray 2015, arXiv 1509.09308, section 4; Barabasz et al. 2020, arXiv 1803.10986, on the choice of points).
// The points are 0 and pairs +p, -p, whose sums and differences are shared. B^T and A^T are here, G is for weights.
#pragma once
#include "conv_forward_gemm.h"

namespace conv_forward {

constexpr int MOST = 16;  // more than any m + r - 1

struct Matrices {
  double bt[MOST][MOST] = {}, at[MOST][MOST] = {}, g[MOST][MOST] = {};
};

// Rows: the point 0, +p and -p for each of the `pairs`, infinity.
template <int PAIRS>
constexpr Matrices matrices(int m, int r, const double (&pairs)[PAIRS]) {
  Matrices f;
  const int finite = 1 + 2 * PAIRS;
  double points[MOST] = {};
  for (int i = 0; i < PAIRS; i++) {
    points[2 * i + 1] = pairs[i];
    points[2 * i + 2] = -pairs[i];
  }
  for (int row = 0; row <= finite; row++) {
    double product[MOST] = {1}, others = 1;  // of (x - point) over the other points, and its value at this one
    int degree = 0;
    for (int i = 0; i < finite; i++) {
      if (i == row) continue;
      for (int j = ++degree; j >= 0; j--) product[j] = (j ? product[j - 1] : 0) - points[i] * product[j];
      others *= points[row] - points[i];
    }
    // The row of -p is to be (even columns) - (odd ones) of +p's, whatever the sign of the polynomial.
    const double sign = row < finite && row > 0 && row % 2 == 0 && degree % 2 == 1 ? -1 : 1;
    for (int j = 0; j <= degree; j++) f.bt[row][j] = sign * product[j];
    double power = 1;
    for (int k = 0; k < m || k < r; k++, power *= points[row]) {
      if (k < m) f.at[k][row] = row < finite ? power : k == m - 1;
      if (k < r) f.g[row][k] = row < finite ? sign * power / others : k == r - 1;
    }
  }
  return f;
}

// OUT results of TAPS taps from SIZE values.
template <int M, int R>
struct Shape {
  static constexpr int OUT = M, TAPS = R, SIZE = M + R - 1;
};

template <int M, int R>
struct Filter;

template <>
struct Filter<1, 1> : Shape<1, 1> {};

// The points: those of the least rounding error among fractions for which B^T and A^T are exact in float32, so that a
// transformed constant is 0 where it should be. Activations are nearly constant in many places: with rounded matrices
// (points like 2/3) a network's result had 2 to 3 times the error.
template <>
struct Filter<4, 3> : Shape<4, 3> {
  static constexpr Matrices MATRICES = matrices<2>(4, 3, {5 / 8., 3 / 2.});
};

template <>
struct Filter<4, 5> : Shape<4, 5> {
  static constexpr Matrices MATRICES = matrices<3>(4, 5, {1 / 2., 1., 2.});
};

template <>
struct Filter<4, 7> : Shape<4, 7> {
  static constexpr Matrices MATRICES = matrices<4>(4, 7, {7 / 16., 3 / 4., 5 / 4., 5 / 2.});
};

template <typename F>
constexpr bool exact() {
  for (int i = 0; i < F::SIZE; i++)
    for (int j = 0; j < F::SIZE; j++)
      if (float(F::MATRICES.bt[i][j]) != F::MATRICES.bt[i][j] || float(F::MATRICES.at[j][i]) != F::MATRICES.at[j][i])
        return false;
  return true;
}
static_assert(exact<Filter<4, 3>>() && exact<Filter<4, 5>>() && exact<Filter<4, 7>>());

// sum + c * x, without what a `c` of 0, 1 or -1 and the first term save.
template <bool FIRST, int STATE>
SG_FORCE_INLINE void add(vec& sum, vec x, float c) {
  if constexpr (STATE == 2)
    sum = FIRST ? x * c : sum + x * c;
  else if constexpr (STATE == 1)
    sum = FIRST ? x : sum + x;
  else if constexpr (STATE == -1)
    sum = FIRST ? -x : sum - x;
}
constexpr int state(double c) { return c == 0 ? 0 : c == 1 ? 1 : c == -1 ? -1 : 2; }

// Whether the row is 0 in the columns j - 2, j - 4...
constexpr bool first(const double (&row)[MOST], int j) {
  for (j -= 2; j >= 0; j -= 2)
    if (row[j] != 0) return false;
  return true;
}

// out = B^T d
template <typename F>
SG_FORCE_INLINE void transform_input(const vec (&d)[F::SIZE], vec (&out)[F::SIZE]) {
  if constexpr (F::SIZE == 1) {
    out[0] = d[0];
  } else {
    vec sums[2];  // of the even and the odd columns
    const auto row_sums = [&](auto row) {
      repeat<F::SIZE>([&](auto j) {
        constexpr double c = F::MATRICES.bt[row][j];
        add<first(F::MATRICES.bt[row], j), state(c)>(sums[j % 2], d[j], static_cast<float>(c));
      });
    };
    row_sums(std::integral_constant<int, 0>{});
    out[0] = sums[0];  // the others are 0
    repeat<(F::SIZE - 2) / 2>([&](auto pair) {
      row_sums(std::integral_constant<int, 2 * pair + 1>{});
      out[2 * pair + 1] = sums[0] + sums[1];
      out[2 * pair + 2] = sums[0] - sums[1];
    });
    row_sums(std::integral_constant<int, F::SIZE - 1>{});
    out[F::SIZE - 1] = sums[1];
  }
}

// out = A^T m
template <typename F>
SG_FORCE_INLINE void transform_output(const vec (&m)[F::SIZE], vec (&out)[F::OUT]) {
  if constexpr (F::SIZE == 1) {
    out[0] = m[0];
  } else {
    out[0] = m[0];
    out[F::OUT - 1] = m[F::SIZE - 1];
    repeat<(F::SIZE - 2) / 2>([&](auto pair) {
      constexpr int row = 1 + 2 * pair;
      const vec both[2] = {m[row] + m[row + 1], m[row] - m[row + 1]};
      repeat<F::OUT>([&](auto k) {
        constexpr double c = F::MATRICES.at[k][row];
        add<pair == 0 && k != 0 && k != F::OUT - 1, state(c)>(out[k], both[k % 2], static_cast<float>(c));
      });
    });
  }
}

}  // namespace conv_forward
