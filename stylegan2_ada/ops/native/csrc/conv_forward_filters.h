// Minimal filtering in one dimension, F(m, r): m results of an r-tap correlation in m + r - 1 multiplications.
//
//     y = A^T [ (G g) * (B^T d) ]
//
// by Toom and Cook's method: data and taps are polynomials, known by their values at m + r - 2 points and "at infinity"
// (Lavin & Gray 2015, arXiv 1509.09308, section 4; Barabasz et al. 2020, arXiv 1803.10986, on the choice of points).
// The points are pairs +p, -p, whose sums and differences are shared, and 0 where their number is even. Where weights
// are learnt, G and the transposes are wanted as well.
#pragma once
#include "conv_forward_gemm.h"

namespace conv_forward {

constexpr int MOST = 16;  // more than any m + r - 1

struct Matrices {
  double bt[MOST][MOST] = {}, at[MOST][MOST] = {}, g[MOST][MOST] = {};
};

// Rows: the point 0 if m + r is odd, +p and -p for each of the `pairs`, infinity.
template <int PAIRS>
constexpr Matrices matrices(int m, int r, const double (&pairs)[PAIRS]) {
  Matrices f;
  const int finite = m + r - 2, zero = finite % 2;
  double points[MOST] = {};
  for (int i = 0; i < PAIRS; i++) {
    points[2 * i + zero] = pairs[i];
    points[2 * i + zero + 1] = -pairs[i];
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
    const double sign = row < finite && row >= zero && (row - zero) % 2 == 1 && degree % 2 == 1 ? -1 : 1;
    for (int j = 0; j <= degree; j++) f.bt[row][j] = sign * product[j];
    double power = 1;
    for (int k = 0; k < m || k < r; k++, power *= points[row]) {
      if (k < m) f.at[k][row] = row < finite ? power : k == m - 1;
      if (k < r) f.g[row][k] = row < finite ? sign * power / others : k == r - 1;
    }
  }
  return f;
}

// OUT results of TAPS taps from SIZE values; the first pair of points is in row ZERO.
template <int M, int R>
struct Shape {
  static constexpr int OUT = M, TAPS = R, SIZE = M + R - 1, ZERO = SIZE % 2 == 0;
};

template <int M, int R>
struct Filter;

template <>
struct Filter<1, 1> : Shape<1, 1> {};

// The points: those of the least rounding error among fractions for which B^T and A^T are exact in float32, so that a
// transformed constant is 0 where it should be. Activations are nearly constant in many places: with rounded matrices
// (points like 2/3) a network's result had 2 to 3 times the error.
template <>
struct Filter<4, 2> : Shape<4, 2> {
  static constexpr Matrices MATRICES = matrices<2>(4, 2, {1 / 2., 5 / 4.});
};

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
static_assert(exact<Filter<4, 2>>() && exact<Filter<4, 3>>() && exact<Filter<4, 5>>() && exact<Filter<4, 7>>());

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

// f(row of +p, row of -p) for each pair.
template <typename F, typename G>
SG_FORCE_INLINE void by_pairs(G&& f) {
  repeat<(F::SIZE - 1) / 2>([&](auto pair) SG_INLINED {
    f(std::integral_constant<int, 2 * pair + F::ZERO>{}, std::integral_constant<int, 2 * pair + F::ZERO + 1>{});
  });
}

// out = B^T d
template <typename F>
SG_FORCE_INLINE void transform_input(const vec (&d)[F::SIZE], vec (&out)[F::SIZE]) {
  if constexpr (F::SIZE == 1) {
    out[0] = d[0];
  } else {
    vec sums[2];  // of the even and the odd columns
    const auto row_sums = [&](auto row) SG_INLINED {
      repeat<F::SIZE>([&](auto j) SG_INLINED {
        constexpr double c = F::MATRICES.bt[row][j];
        add<first(F::MATRICES.bt[row], j), state(c)>(sums[j % 2], d[j], static_cast<float>(c));
      });
    };
    if constexpr (F::ZERO) {
      row_sums(std::integral_constant<int, 0>{});
      out[0] = sums[0];  // the others are 0
    }
    by_pairs<F>([&](auto plus, auto minus) SG_INLINED {
      row_sums(plus);
      out[plus] = sums[0] + sums[1];
      out[minus] = sums[0] - sums[1];
    });
    row_sums(std::integral_constant<int, F::SIZE - 1>{});
    out[F::SIZE - 1] = sums[F::ZERO];
  }
}

// out = A^T m
template <typename F>
SG_FORCE_INLINE void transform_output(const vec (&m)[F::SIZE], vec (&out)[F::OUT]) {
  if constexpr (F::SIZE == 1) {
    out[0] = m[0];
  } else {
    constexpr double zero = F::MATRICES.at[0][0], infinity = F::MATRICES.at[F::OUT - 1][F::SIZE - 1];
    if constexpr (F::ZERO) add<true, state(zero)>(out[0], m[0], static_cast<float>(zero));
    add<true, state(infinity)>(out[F::OUT - 1], m[F::SIZE - 1], static_cast<float>(infinity));
    by_pairs<F>([&](auto plus, auto minus) SG_INLINED {
      const vec both[2] = {m[plus] + m[minus], m[plus] - m[minus]};
      repeat<F::OUT>([&](auto k) SG_INLINED {
        constexpr double c = F::MATRICES.at[k][plus];
        constexpr bool begun = plus > F::ZERO || (k == 0 && F::ZERO) || k == F::OUT - 1;
        add<!begun, state(c)>(out[k], both[k % 2], static_cast<float>(c));
      });
    });
  }
}

// out = M x, of a matrix whose rows of +p and -p differ in the signs of the odd columns.
template <typename F, int N>
SG_FORCE_INLINE void spread(const double (&m)[F::SIZE][N], const vec (&x)[N], vec (&out)[F::SIZE]) {
  if constexpr (F::ZERO) out[0] = x[0] * static_cast<float>(m[0][0]);  // the others are 0
  by_pairs<F>([&](auto plus, auto minus) SG_INLINED {
    vec both[2] = {};
    repeat<N>([&](auto k) SG_INLINED { both[k % 2] += x[k] * static_cast<float>(m[plus][k]); });
    out[plus] = both[0] + both[1];
    out[minus] = both[0] - both[1];
  });
  out[F::SIZE - 1] = x[N - 1] * static_cast<float>(m[F::SIZE - 1][N - 1]);
}

template <typename F>
struct Spread {  // G and A as `spread` takes them
  double g[F::SIZE][F::TAPS] = {}, a[F::SIZE][F::OUT] = {};
  constexpr Spread() {
    for (int row = 0; row < F::SIZE; row++) {
      for (int k = 0; k < F::TAPS; k++) g[row][k] = F::MATRICES.g[row][k];
      for (int k = 0; k < F::OUT; k++) a[row][k] = F::MATRICES.at[k][row];
    }
  }
};
template <typename F>
inline constexpr Spread<F> SPREAD{};

// out = G g
template <typename F>
SG_FORCE_INLINE void transform_weight(const vec (&g)[F::TAPS], vec (&out)[F::SIZE]) {
  spread<F>(SPREAD<F>.g, g, out);
}

// out = A y
template <typename F>
SG_FORCE_INLINE void transform_output_back(const vec (&y)[F::OUT], vec (&out)[F::SIZE]) {
  spread<F>(SPREAD<F>.a, y, out);
}

// out = G^T u
template <typename F>
SG_FORCE_INLINE void transform_weight_back(const vec (&u)[F::SIZE], vec (&out)[F::TAPS]) {
  repeat<F::TAPS>([&](auto k) SG_INLINED { out[k] = vec{}; });
  if constexpr (F::ZERO) out[0] = u[0] * static_cast<float>(F::MATRICES.g[0][0]);
  out[F::TAPS - 1] += u[F::SIZE - 1] * static_cast<float>(F::MATRICES.g[F::SIZE - 1][F::TAPS - 1]);
  by_pairs<F>([&](auto plus, auto minus) SG_INLINED {
    const vec both[2] = {u[plus] + u[minus], u[plus] - u[minus]};
    repeat<F::TAPS>([&](auto k) SG_INLINED { out[k] += both[k % 2] * static_cast<float>(F::MATRICES.g[plus][k]); });
  });
}

}  // namespace conv_forward
