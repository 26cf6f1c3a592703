// What the CPU kernel of upfirdn2d works out before it looks at any image: the filter, and where its taps fall.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "upfirdn2d.h"

namespace sg {

typedef ptrdiff_t Index;

// Taps in the order of a correlation, gain included: of both axes where the filter is a product, else all.
template <typename A>
struct Filter {
  Index height, width;
  std::vector<A> along_y, along_x, taps;
};

// stored: [taps], for both axes, or [fh, fw].
template <typename A>
Filter<A> make_filter(const std::vector<double>& stored, bool one_row, Index fh, Index fw, bool flip, double gain) {
  std::vector<double> g = stored;
  if (!flip) std::reverse(g.begin(), g.end());  // `stored_tap`
  Filter<A> filter{fh, fw, {}, {}, {}};
  if (one_row) {
    filter.along_x.assign(g.begin(), g.end());
    for (double tap : g) filter.along_y.push_back(A(tap * gain));
    return filter;
  }
  // In a product all rows are multiples of that with the largest tap. Products of float32 taps were rounded to float32,
  // and what is nearer than that is the same filter to float32 images.
  const auto smaller = [](double a, double b) { return std::abs(a) < std::abs(b); };
  const Index top = std::max_element(g.begin(), g.end(), smaller) - g.begin();
  const double largest = g[top], tolerance = (sizeof(A) == 8 ? 1e-15 : 3e-7) * std::abs(largest);
  const double *row = g.data() + top / fw * fw, *column = g.data() + top % fw;
  bool product = largest != 0;
  for (Index i = 0; i < fh; i++)
    for (Index j = 0; j < fw; j++)
      product &= std::abs(column[i * fw] * row[j] / largest - g[i * fw + j]) <= tolerance;  // false for NaN
  if (product) {
    for (Index j = 0; j < fw; j++) filter.along_x.push_back(A(row[j] / largest));
    for (Index i = 0; i < fh; i++) filter.along_y.push_back(A(column[i * fw] * gain));
  } else {
    for (double tap : g) filter.taps.push_back(A(tap * gain));
  }
  return filter;
}

// Along x: the outputs phase, phase + out_stride, ... are the same taps slid over the samples.
template <typename A>
struct Phase {
  std::vector<A> taps;    // those that meet a sample
  std::vector<Index> at;  // where the first of these outputs finds them in the row buffer
};

// Along y: what meets one row of the result. Samples outside the image are left out.
struct Row {
  Index sample, count;  // rows of samples
  Index filter_row;     // the first tap; the others follow in steps of `up`
  Index tap;            // where the first tap is in Plan::taps_y
};

template <typename A>
struct Plan {
  static constexpr Index LONG_PIXEL = 16;       // channels from which on a pixel fills registers by itself
  static constexpr Index TILE_ELEMENTS = 8192;  // of a row, so that the buffer and the rows above stay in the cache

  Axis y_axis, x_axis;
  Index channels;               // interleaved
  Index out_stride, in_stride;  // along x, up and down without their common factor
  Index tile, tile_samples;     // outputs along x that are worked on at a time, and the samples they need
  bool sorted;                  // samples are sorted by their index modulo in_stride, so that taps slide over them
  Index sorted_pitch;           // elements of one such class
  std::vector<Row> rows;
  std::vector<A> taps_y;                      // sorted by index modulo up; empty if the filter is no product
  std::vector<std::vector<Phase<A>>> phases;  // of the filter along x, or of every row of the filter

  Plan(const Axis& y, const Axis& x, Index interleaved, const Filter<A>& filter, bool whole_rows)
      : y_axis(y), x_axis(x), channels(interleaved) {
    const Index up = x.up, common = std::gcd(up, Index(x.down));
    out_stride = up / common, in_stride = x.down / common;
    // Neighbouring tiles share width / up samples, so a tile is several times that. It starts with phase 0.
    const Index samples = std::max(TILE_ELEMENTS / channels, 8 * (filter.width / up + 1));
    const Index all = (x.out + out_stride - 1) / out_stride, periods = std::max<Index>(samples / in_stride, 1);
    tile = (whole_rows || all <= periods + periods / 2 ? all : periods) * out_stride;
    tile_samples = samples_of(0, tile);
    sorted = in_stride > 1 && channels < LONG_PIXEL;
    sorted_pitch = (tile_samples / in_stride + 2) * channels + 4;
    plan_rows(filter);
    if (!filter.along_x.empty()) phases.push_back(phases_of(filter.along_x.data()));
    for (Index i = 0; i < Index(filter.taps.size()); i += filter.width)
      phases.push_back(phases_of(filter.taps.data() + i));
  }

  bool product() const { return !taps_y.empty(); }

  // Samples between the first and the last that `count` outputs from `first` on may need.
  Index samples_of(Index first, Index count) const {
    const Index last = floor_div((first + count - 1) * x_axis.down - x_axis.pad + x_axis.taps - 1, x_axis.up);
    return std::max<Index>(last - span_unbounded(x_axis, first).sample + 1, 1);
  }

 private:
  void plan_rows(const Filter<A>& filter) {
    std::vector<Index> start;  // of the taps p, p + up, ... in taps_y
    for (Index p = 0; p < std::min<Index>(y_axis.up, filter.height); p++) {
      start.push_back(taps_y.size());
      for (Index i = p; i < Index(filter.along_y.size()); i += y_axis.up) taps_y.push_back(filter.along_y[i]);
    }
    rows.reserve(y_axis.out);
    for (Index o = 0; o < y_axis.out; o++) {
      const Span s = span(y_axis, o);
      Row row{Index(s.sample), Index(s.count), Index(s.tap), 0};
      if (s.count > 0) row.tap = start[s.tap % y_axis.up] + s.tap / y_axis.up;
      rows.push_back(row);
    }
  }

  std::vector<Phase<A>> phases_of(const A* taps) const {
    const Index origin = span_unbounded(x_axis, 0).sample;
    std::vector<Phase<A>> result;
    for (Index p = 0; p < out_stride; p++) {
      const Span s = span_unbounded(x_axis, p);
      Phase<A> phase;
      for (Index k = 0; k < s.count; k++) {
        const Index sample = s.sample - origin + k;
        phase.taps.push_back(taps[s.tap + k * x_axis.up]);
        phase.at.push_back(sorted ? sample % in_stride * sorted_pitch + sample / in_stride * channels
                                  : sample * channels);
      }
      result.push_back(std::move(phase));
    }
    return result;
  }
};

}  // namespace sg
