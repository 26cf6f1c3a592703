// Vectors as wide as the processor's, and the products of small matrices that stay in its registers and caches.
#pragma once
#include <cstdint>
#include <cstring>
#include <utility>

#define SG_FORCE_INLINE inline __attribute__((always_inline))
#define SG_INLINED __attribute__((always_inline))  // of a lambda, behind its parameters

namespace conv_forward {

#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 14;  // 14 x 2 sums, two vectors of B and a broadcast: 31 of 32 registers
#else
constexpr int LANES = 8, ROWS = 6;  // 15 of 16
#endif
constexpr int PANEL = 2 * LANES;  // columns that are worked on together
constexpr int DEPTH = 128;        // terms of a sum that are: these rows of B stay in the first-level cache

typedef float vec __attribute__((vector_size(4 * LANES)));

SG_FORCE_INLINE vec load(const float* p) {
  vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
SG_FORCE_INLINE void store(float* p, vec v) { std::memcpy(p, &v, sizeof v); }
SG_FORCE_INLINE vec broadcast(float s) { return s - vec{}; }

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Calls f with 0 to N - 1, each known to the compiler.
template <int N, typename F>
SG_FORCE_INLINE void repeat(F&& f) {
  [&]<int... I>(std::integer_sequence<int, I...>) SG_INLINED {
    (f(std::integral_constant<int, I>{}), ...);
  }(std::make_integer_sequence<int, N>{});
}

// A square of vectors along both axes: `down` makes Y numbers of a column of ROWS_, `across` X of a row of COLS.
// get(r, c) is a vector, put(r, row) takes a row of the result.
template <int ROWS_, int COLS, int Y, int X, typename Get, typename Down, typename Across, typename Put>
SG_FORCE_INLINE void along_both_axes(const Get& get, const Down& down, const Across& across, const Put& put) {
  vec half[Y][COLS];
  repeat<COLS>([&](auto c) SG_INLINED {
    vec d[ROWS_], t[Y];
    repeat<ROWS_>([&](auto r) SG_INLINED { d[r] = get(r, c); });
    down(d, t);
    repeat<Y>([&](auto r) SG_INLINED { half[r][c] = t[r]; });
  });
  repeat<Y>([&](auto r) SG_INLINED {
    vec t[X];
    across(half[r], t);
    put(r, t);
  });
}

// C[r, j] = sum over k of A[r, k] B[k, j]. A lies in blocks of LANES values of k: a[block * a_block + r * LANES + lane],
// B is [k][COLS * LANES], C has `c_row` values a row. Every `together` blocks the sums are added to C: one long sum
// would have a larger rounding error. The blocks are those from `block` to `blocks`; 0 is where C is set.
template <int R, int COLS>
void kernel(const float* a, int64_t a_block, const float* b, int64_t block, int64_t blocks, int64_t together, float* c,
            int64_t c_row) {
  while (block < blocks) {
    const bool first = block == 0;
    const int64_t end = block + together < blocks ? block + together : blocks;
    vec sum[R][COLS] = {};
    for (; block < end; block++, a += a_block) {
#pragma GCC unroll 4
      for (int k = 0; k < LANES; k++, b += COLS * LANES) {
        vec row[COLS];
#pragma GCC unroll 2
        for (int j = 0; j < COLS; j++) row[j] = load(b + j * LANES);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
          const vec x = broadcast(a[r * LANES + k]);
#pragma GCC unroll 2
          for (int j = 0; j < COLS; j++) sum[r][j] += x * row[j];
        }
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
      for (int j = 0; j < COLS; j++) {
        float* to = c + r * c_row + j * LANES;
        store(to, first ? sum[r][j] : load(to) + sum[r][j]);
      }
  }
}

using Kernel = void (*)(const float*, int64_t, const float*, int64_t, int64_t, int64_t, float*, int64_t);

template <int COLS, int... R>
constexpr auto kernels(std::integer_sequence<int, R...>) {
  struct {
    Kernel of[sizeof...(R)];
  } table{{kernel<R + 1, COLS>...}};
  return table;
}

// f(size, first) for groups of at most ROWS rows, of about the same size.
template <typename F>
SG_FORCE_INLINE void in_groups(int64_t rows, const F& f) {
  for (int64_t groups = (rows + ROWS - 1) / ROWS, r = 0; groups > 0; groups--) {
    const int64_t here = (rows - r) / groups;
    f(here, r);
    r += here;
  }
}

// As `kernel`, for any number of rows.
inline void multiply(int64_t rows, int cols, const float* a, int64_t a_block, const float* b, int64_t block,
                     int64_t blocks, int64_t together, float* c, int64_t c_row) {
  static constexpr auto one = kernels<1>(std::make_integer_sequence<int, ROWS>{});
  static constexpr auto two = kernels<2>(std::make_integer_sequence<int, ROWS>{});
  const Kernel* table = cols > LANES ? two.of : one.of;
  const int64_t step = together > DEPTH / LANES ? together : DEPTH / LANES;
  const int64_t b_step = LANES * (cols > LANES ? PANEL : LANES);
  for (; block < blocks; block += step, a += step * a_block, b += step * b_step) {
    const int64_t end = block + step < blocks ? block + step : blocks;
    in_groups(rows, [&](int64_t here, int64_t r) {
      table[here - 1](a + r * LANES, a_block, b, block, end, together, c + r * c_row, c_row);
    });
  }
}

}  // namespace conv_forward
