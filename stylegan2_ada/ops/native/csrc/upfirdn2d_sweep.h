// upfirdn2d with four symmetric taps along both axes, as StyleGAN2 blurs, halves and doubles: all in registers.
//
// For a block of channels, a sweep along the row keeps the last few sums along y in registers, adds the next one and
// has the next output. Every sample is read once for R rows of the result, and nothing is written in between. Equal
// taps are shared: additions run beside multiplications in most processors.
#pragma once

#include "upfirdn2d_rows.h"

namespace sg {

// UP, DOWN: 1 1, 1 2 or 2 1, the same along both axes. R: rows of the result at a time, 2 only without resampling.
// rows: the R - 1 + 4 / UP rows of samples that a result needs. For UP = 1 the taps along y are 1, gy[0], gy[0], 1 and
// those along x gx[0], gx[1], gx[1], gx[0]; for UP = 2 two along y are in gy, and in gx two for the even and two for
// the odd steps along x. `first`: sample of the first tap for output 0; for UP = 2 of the first even step, which is
// output -1 if `early`. size: samples in a row; c: channels of a pixel, at least a block. next_in, next_out: the rows
// that the next call will read for the first time and write, row_in and out_stride elements apart; processors follow
// rows by themselves, but here every row is read in strides of a pixel. STREAM: the result goes past the caches.
template <int R, int UP, int DOWN, bool STREAM, typename T>
void sweep(T* out, ptrdiff_t out_stride, ptrdiff_t columns, const T* const* rows, const acc_t<T>* gy,
           const acc_t<T>* gx, ptrdiff_t first, ptrdiff_t size, ptrdiff_t c, bool early, const T* next_in,
           ptrdiff_t row_in, const T* next_out) {
  typedef Block<T> B;
  constexpr int TAPS = 4 / UP, ROWS = R - 1 + TAPS, NEW = R * DOWN;
  const T* row[ROWS];
  for (int k = 0; k < ROWS; k++) row[k] = rows[k];
  for (ptrdiff_t at = 0; at < c; at += B::SIZE) {
    const ptrdiff_t k = at + B::SIZE <= c ? at : c - B::SIZE;  // the last block may overlap the one before
    auto along_y = [&](ptrdiff_t sample, B* sum) __attribute__((always_inline)) {
      if (size_t(sample) >= size_t(size)) {
        for (int r = 0; r < R; r++) sum[r] = B::zero();
        return;
      }
      B x[ROWS];
#pragma GCC unroll 8
      for (int t = 0; t < ROWS; t++) x[t] = B::load(row[t] + sample * c + k);
#pragma GCC unroll 2
      for (int r = 0; r < R; r++) {
        if constexpr (UP == 2) {
          sum[r] = B::scaled(gy[0], x[0]);
          sum[r].add(gy[1], x[1]);
        } else {
          sum[r] = B::sum(x[r], x[r + 3]);
          sum[r].add(gy[0], B::sum(x[r + 1], x[r + 2]));
        }
      }
    };
    auto four = [&](const B& a, const B& b, const B& d, const B& e) __attribute__((always_inline)) {
      B y = B::scaled(gx[0], B::sum(a, e));
      y.add(gx[1], B::sum(b, d));
      return y;
    };
    auto put = [&](T* p, const B& block) __attribute__((always_inline)) {
      if constexpr (STREAM)
        stream_line(p, block);
      else
        block.store(p);
    };
    const ptrdiff_t steps = (columns + UP - 1) / UP, done = at * steps;
    auto look_ahead = [&](ptrdiff_t step) __attribute__((always_inline)) {
      for (int r = 0; r < NEW; r++)
        for (int d = 0; d < DOWN; d++)
          __builtin_prefetch(next_in + r * row_in + (done + step * B::SIZE) * DOWN + d * B::SIZE, 0, 2);
      for (int r = 0; r < R && !STREAM; r++)
        for (int u = 0; u < UP; u++)
          __builtin_prefetch(next_out + r * out_stride + (done + step * B::SIZE) * UP + u * B::SIZE, 1, 2);
    };
    ptrdiff_t sample = first;
    T* to = out + k;
    B a[R], b[R], d[R], e[R];
    along_y(sample, a);
    along_y(sample + 1, b);
    if constexpr (UP == 1 && DOWN == 1) {
      along_y(sample + 2, d);
      for (ptrdiff_t o = 0; o < columns; o++, to += c) {
        look_ahead(o);
        along_y(sample + 3 + o, e);
#pragma GCC unroll 2
        for (int r = 0; r < R; r++) {
          put(to + r * out_stride, four(a[r], b[r], d[r], e[r]));
          a[r] = b[r];
          b[r] = d[r];
          d[r] = e[r];
        }
      }
    } else if constexpr (DOWN == 2) {
      for (ptrdiff_t o = 0; o < columns; o++, to += c) {
        look_ahead(o);
        along_y(sample + 2 * o + 2, d);
        along_y(sample + 2 * o + 3, e);
        put(to, four(a[0], b[0], d[0], e[0]));
        a[0] = d[0];
        b[0] = e[0];
      }
    } else {
      for (ptrdiff_t o = early ? -1 : 0; o < columns; o += 2, sample++) {
        look_ahead(o / 2);
        along_y(sample + 2, d);
        B even = B::scaled(gx[0], a[0]), odd = B::scaled(gx[2], b[0]);
        even.add(gx[1], b[0]);
        odd.add(gx[3], d[0]);
        if (o >= 0) put(to + o * c, even);
        if (o + 1 < columns) put(to + (o + 1) * c, odd);
        a[0] = b[0];
        b[0] = d[0];
      }
    }
  }
}

}  // namespace sg
