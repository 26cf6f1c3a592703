// upfirdn2d with four taps along both axes, as StyleGAN2 blurs, halves and doubles: all in registers.
//
// For a block of channels, a sweep along the row keeps the last few sums along y in registers, adds the next one and
// has the next output. Every sample is read once for R rows of the result, and nothing is written in between.
#pragma once

#include "upfirdn2d_rows.h"

namespace sg {

// UP, DOWN: 1 1, 1 2 or 2 1, the same along both axes. R: rows of the result at a time, 2 only without resampling.
// rows: the R - 1 + 4 / UP rows of samples that the taps along y, gy, are for. gx: four taps along x; for UP = 2 two for
// the even and two for the odd steps. `first`: sample of the first tap for output 0; for UP = 2 of the first even step,
// which is output -1 if `early`. size: samples in a row; c: channels of a pixel, at least a block. next_in, next_out: the
// rows that the next call will read for the first time and write, row_in and out_stride elements apart; processors
// follow rows by themselves, but here every row is read in strides of a pixel.
template <int R, int UP, int DOWN, typename T>
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
#pragma GCC unroll 8
      for (int t = 0; t < ROWS; t++) {
        const B x = B::load(row[t] + sample * c + k);
#pragma GCC unroll 2
        for (int r = 0; r < R; r++) {
          if (t == r) sum[r] = B::scaled(gy[0], x);
          if (t > r && t < r + TAPS) sum[r].add(gy[t - r], x);
        }
      }
    };
    const ptrdiff_t steps = (columns + UP - 1) / UP, done = at * steps;
    auto look_ahead = [&](ptrdiff_t step) __attribute__((always_inline)) {
      for (int r = 0; r < NEW; r++)
        for (int d = 0; d < DOWN; d++)
          __builtin_prefetch(next_in + r * row_in + (done + step * B::SIZE) * DOWN + d * B::SIZE, 0, 2);
      for (int r = 0; r < R; r++)
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
          B y = B::scaled(gx[0], a[r]);
          y.add(gx[1], b[r]);
          y.add(gx[2], d[r]);
          y.add(gx[3], e[r]);
          y.store(to + r * out_stride);
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
        B y = B::scaled(gx[0], a[0]);
        y.add(gx[1], b[0]);
        y.add(gx[2], d[0]);
        y.add(gx[3], e[0]);
        y.store(to);
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
        if (o >= 0) even.store(to + o * c);
        if (o + 1 < columns) odd.store(to + (o + 1) * c);
        a[0] = b[0];
        b[0] = d[0];
      }
    }
  }
}

}  // namespace sg
