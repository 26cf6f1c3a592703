// upfirdn2d on the CPU: pad, upsample, FIR and downsample in one pass over the image.
//
// An image is H rows of W pixels of C interleaved channels; a contiguous (NCHW) tensor is N * C images of one channel.
// For every row of the result the filter along y is applied first, to a row buffer that stays in the cache, then the
// filter along x from there to the result. In both passes the vector registers run over the row, whatever C is.
// A filter that is no outer product takes the same two steps once for every row of taps.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <vector>

#include "upfirdn2d.h"
#include "upfirdn2d_rows.h"

namespace {

using sg::Axis;
using sg::Span;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
typedef ptrdiff_t Index;

// The outputs phase, phase + out_stride, ... along x: the same taps slid over the row of samples.
template <typename A>
struct Phase {
  Index start;              // sample of the first tap for output `phase`, counted from the tile's first sample
  std::vector<A> taps;      // those that meet a sample
  std::vector<Index> at;    // where they find it in the row buffer, for output `phase`
};

// What is known before any image is seen.
template <typename A>
struct Plan {
  Axis x_axis, y_axis;
  Index channels;                     // interleaved
  Index out_stride, in_stride;        // up and down without their common factor
  Index tile, tile_samples;           // outputs along x that are worked on at a time, samples they need
  bool split;                         // sort the samples by their index modulo in_stride, to slide over them in order
  Index split_pitch;                  // elements of one such sort
  std::vector<A> taps_y;              // empty if the filter is not separable
  std::vector<std::vector<Phase<A>>> phases;  // of the filter along x, or of every row of the filter
};

// Taps in the order of a correlation, gain included; [fh, fw] with fh == 1 for a separable filter given as one row.
template <typename A>
struct Filter {
  Index fh, fw;
  std::vector<A> taps_y, taps_x;  // if separable
  std::vector<A> taps;            // else
};

template <typename A, typename F>
Filter<A> read_filter(const Tensor& f, bool flip, double gain) {
  const F* p = f.const_data_ptr<F>();
  const bool row = f.dim() == 1;
  const Index fh = f.size(0), fw = f.size(f.dim() - 1);
  Filter<A> filter{fh, fw, {}, {}, {}};
  std::vector<double> g((row ? 1 : fh) * fw);
  for (Index i = 0; i < (Index)g.size(); i++) g[i] = p[sg::stored_tap(i, g.size(), flip)];
  if (row) {
    filter.taps_x.assign(g.begin(), g.end());
    for (double v : g) filter.taps_y.push_back(A(v * gain));
    return filter;
  }
  // A product of two filters is known by its largest tap: all rows are multiples of that one's. Products of float32
  // taps were rounded to float32, and anything nearer than that is the same filter to float32 images.
  const Index top =
      std::max_element(g.begin(), g.end(), [](double a, double b) { return std::abs(a) < std::abs(b); }) - g.begin();
  const Index i = top / fw, j = top % fw;
  const double largest = g[top], tolerance = (sizeof(A) == 8 ? 1e-15 : 3e-7) * std::abs(largest);
  bool separable = true;
  for (Index r = 0; r < fh; r++)
    for (Index c = 0; c < fw; c++)
      separable &= largest == 0 || !(std::abs(g[r * fw + j] * g[i * fw + c] / largest - g[r * fw + c]) > tolerance);
  if (separable) {
    for (Index c = 0; c < fw; c++) filter.taps_x.push_back(A(largest == 0 ? 0 : g[i * fw + c] / largest));
    for (Index r = 0; r < fh; r++) filter.taps_y.push_back(A(g[r * fw + j] * gain));
  } else {
    for (double v : g) filter.taps.push_back(A(v * gain));
  }
  return filter;
}

// Elements of the row buffer that are worked on at a time, so that it and the rows above it stay in the cache.
constexpr Index TILE_ELEMENTS = 8192;
constexpr Index LONG_PIXEL = 16;  // channels from which on a pixel fills vector registers by itself

// Samples between the first and the last that `count` outputs from `first` on may need.
Index samples_of(const Axis& a, Index first, Index count) {
  const Index last = sg::floor_div((first + count - 1) * a.down - a.pad + a.taps - 1, a.up);
  return std::max<Index>(last - sg::span_unbounded(a, first).sample + 1, 1);
}

template <typename A>
std::vector<Phase<A>> phases_of(const Plan<A>& plan, const A* taps) {
  const Axis& a = plan.x_axis;
  const Index first = sg::span_unbounded(a, 0).sample, c = plan.channels;
  std::vector<Phase<A>> phases;
  for (Index p = 0; p < plan.out_stride; p++) {
    const Span s = sg::span_unbounded(a, p);
    Phase<A> phase{Index(s.sample) - first, {}, {}};
    for (Index k = 0; k < s.count; k++) {
      const Index sample = phase.start + k;
      phase.taps.push_back(taps[s.tap + k * a.up]);
      phase.at.push_back(plan.split ? sample % plan.in_stride * plan.split_pitch + sample / plan.in_stride * c
                                    : sample * c);
    }
    phases.push_back(std::move(phase));
  }
  return phases;
}

template <typename A>
Plan<A> make_plan(const Axis& y_axis, const Axis& x_axis, Index channels, const Filter<A>& filter) {
  const Index common = std::gcd(x_axis.up, x_axis.down);
  Plan<A> plan{x_axis, y_axis, channels, Index(x_axis.up) / common, Index(x_axis.down) / common,
               0,      0,      false,    0,                         filter.taps_y,
               {}};
  // Neighbouring tiles share fw / up samples, so a tile is several times that; it starts with phase 0.
  const Index halo = x_axis.taps / x_axis.up + 1;
  const Index samples = std::max(TILE_ELEMENTS / channels, 8 * halo);
  const Index periods = std::max<Index>(samples / plan.in_stride, 1);
  const Index all = (x_axis.out + plan.out_stride - 1) / plan.out_stride;
  plan.tile = (all <= periods + periods / 2 ? all : periods) * plan.out_stride;
  plan.tile_samples = samples_of(x_axis, 0, plan.tile);
  plan.split = plan.in_stride > 1 && channels < LONG_PIXEL;
  plan.split_pitch = (plan.tile_samples / plan.in_stride + 2) * channels;
  if (!filter.taps_y.empty()) {
    plan.phases.push_back(phases_of(plan, filter.taps_x.data()));
  } else {
    for (Index r = 0; r < filter.fh; r++) plan.phases.push_back(phases_of(plan, filter.taps.data() + r * filter.fw));
  }
  return plan;
}

// The buffers of one thread.
template <typename A>
struct Scratch {
  std::unique_ptr<A[]> memory;
  A *row, *sorted, *phase, *line, *sum;

  explicit Scratch(const Plan<A>& plan) {
    const Index row_size = plan.tile_samples * plan.channels, line_size = plan.tile * plan.channels;
    const Index sorted_size = plan.split ? plan.split_pitch * plan.in_stride : 0;
    memory.reset(new A[row_size + sorted_size + 3 * line_size + 64]);
    row = memory.get();
    sorted = row + row_size;
    phase = sorted + sorted_size;
    line = phase + line_size + 16;
    sum = line + line_size + 16;
  }
};

template <typename A, typename Out, typename In>
void convert_row(Out* out, const In* in, Index n) {
  const Index offset = 0;
  const A one = 1;
  sg::weighted_sum<1>(out, in, &offset, &one, 1, n);
}

// Sort pixels by index modulo `stride`: sorted[r * pitch + q * c] = row[(q * stride + r) * c].
template <typename A>
void sort_pixels(A* __restrict sorted, const A* __restrict row, Index samples, Index c, Index stride, Index pitch) {
  if (c == 1 && stride == 2) {
    A* __restrict odd = sorted + pitch;
    for (Index q = 0; q < samples / 2; q++) {
      sorted[q] = row[2 * q];
      odd[q] = row[2 * q + 1];
    }
    if (samples % 2) sorted[samples / 2] = row[samples - 1];
    return;
  }
  for (Index r = 0; r < stride; r++)
    for (Index s = r, q = 0; s < samples; s += stride, q++)
      for (Index k = 0; k < c; k++) sorted[r * pitch + q * c + k] = row[s * c + k];
}

// The inverse for `count` outputs: out[(m * stride + p) * c] = phase[p * pitch + m * c].
template <typename A>
void interleave_pixels(A* __restrict out, const A* __restrict phase, Index count, Index c, Index stride, Index pitch) {
  if (c == 1 && stride == 2) {
    const A* __restrict odd = phase + pitch;
    for (Index m = 0; m < count / 2; m++) {
      out[2 * m] = phase[m];
      out[2 * m + 1] = odd[m];
    }
    if (count % 2) out[count - 1] = phase[count / 2];
    return;
  }
  for (Index p = 0; p < stride; p++)
    for (Index o = p, m = 0; o < count; o += stride, m++)
      for (Index k = 0; k < c; k++) out[o * c + k] = phase[p * pitch + m * c + k];
}

// The filter along x: `count` outputs from the row buffer.
template <typename Out, typename A>
void along_x(Out* out, const Plan<A>& plan, const std::vector<Phase<A>>& phases, Index samples, Index count,
             const Scratch<A>& scratch) {
  const Index c = plan.channels;
  const A* in = scratch.row;
  if (plan.split) {
    sort_pixels(scratch.sorted, scratch.row, samples, c, plan.in_stride, plan.split_pitch);
    in = scratch.sorted;
  }
  const bool in_order = plan.split || plan.in_stride == 1;
  if (in_order && plan.out_stride == 1) {
    const Phase<A>& p = phases[0];
    sg::sum_rows(out, in, p.at.data(), p.taps.data(), p.taps.size(), count * c);
  } else if (c >= LONG_PIXEL) {
    for (Index o = 0, m = 0; o < count; m++)
      for (Index q = 0; q < plan.out_stride && o < count; q++, o++) {
        const Phase<A>& p = phases[q];
        sg::sum_rows(out + o * c, in + m * plan.in_stride * c, p.at.data(), p.taps.data(), p.taps.size(), c);
      }
  } else {
    const Index pitch = (plan.tile / plan.out_stride) * c;
    for (Index q = 0; q < plan.out_stride; q++) {
      const Phase<A>& p = phases[q];
      const Index n = (count - q + plan.out_stride - 1) / plan.out_stride;
      if (n > 0) sg::sum_rows(scratch.phase + q * pitch, in, p.at.data(), p.taps.data(), p.taps.size(), n * c);
    }
    if constexpr (std::is_same_v<Out, A>) {
      interleave_pixels(out, scratch.phase, count, c, plan.out_stride, pitch);
    } else {
      interleave_pixels(scratch.line, scratch.phase, count, c, plan.out_stride, pitch);
      convert_row<A>(out, scratch.line, count * c);
    }
  }
}

// One row of one image, outputs [first, first + count) along x.
template <typename T, typename A>
void output_row(T* out, const T* image, Index row_stride, Index oy, Index first, Index count, const Plan<A>& plan,
                const Scratch<A>& scratch) {
  const Index c = plan.channels;
  const Span sy = sg::span(plan.y_axis, oy);
  const Index start = sg::span_unbounded(plan.x_axis, first).sample;
  const Index samples = samples_of(plan.x_axis, first, count);
  const Index from = std::clamp<Index>(start, 0, plan.x_axis.size);
  const Index to = std::clamp<Index>(start + samples, from, plan.x_axis.size);
  if (sy.count == 0 || from == to) {
    std::memset((void*)out, 0, count * c * sizeof(T));
    return;
  }
  A* row = scratch.row;
  std::fill(row, row + (from - start) * c, A(0));
  std::fill(row + (to - start) * c, row + samples * c, A(0));
  const T* in = image + sy.sample * row_stride + from * c;
  A* middle = row + (from - start) * c;
  const Index n = (to - from) * c;
  if (!plan.taps_y.empty()) {
    Index offset_small[16];
    A taps_small[16];
    std::vector<Index> offset_large;
    std::vector<A> taps_large;
    Index* offset = offset_small;
    A* taps = taps_small;
    if (sy.count > 16) {
      offset_large.resize(sy.count);
      taps_large.resize(sy.count);
      offset = offset_large.data();
      taps = taps_large.data();
    }
    for (Index k = 0; k < sy.count; k++) {
      offset[k] = k * row_stride;
      taps[k] = plan.taps_y[sy.tap + k * plan.y_axis.up];
    }
    sg::sum_rows(middle, in, offset, taps, sy.count, n);
    along_x(out, plan, plan.phases[0], samples, count, scratch);
    return;
  }
  for (Index k = 0; k < sy.count; k++) {
    convert_row<A>(middle, in + k * row_stride, n);
    const auto& phases = plan.phases[sy.tap + k * plan.y_axis.up];
    if (k == 0) {
      along_x(scratch.sum, plan, phases, samples, count, scratch);
    } else {
      along_x(scratch.line, plan, phases, samples, count, scratch);
      for (Index i = 0; i < count * c; i++) scratch.sum[i] += scratch.line[i];
    }
  }
  convert_row<A>(out, scratch.sum, count * c);
}

// Images and rows in memory: outer * inner images, rows of `row_stride` elements.
struct Images {
  Index outer, inner, outer_stride, inner_stride, row_stride;
};

template <typename T>
void run(T* out, const Images& to, const T* in, const Images& from, const Plan<sg::acc_t<T>>& plan) {
  typedef sg::acc_t<T> A;
  const Index rows = plan.y_axis.out, columns = plan.x_axis.out;
  const Index tiles = (columns + plan.tile - 1) / plan.tile, images = to.outer * to.inner;
  const Index grain = std::max<Index>(1, 16384 / std::max<Index>(1, std::min(plan.tile, columns) * plan.channels));
  torch::stable::parallel_for(0, images * tiles * rows, grain, [&](int64_t begin, int64_t end) {
    const Scratch<A> scratch(plan);
    for (Index unit = begin; unit < end; unit++) {
      const Index oy = unit % rows, tile = unit / rows % tiles, image = unit / rows / tiles;
      const Index n = image / to.inner, i = image % to.inner, first = tile * plan.tile;
      output_row(out + n * to.outer_stride + i * to.inner_stride + oy * to.row_stride + first * plan.channels,
                 in + n * from.outer_stride + i * from.inner_stride, from.row_stride, oy, first,
                 std::min(plan.tile, columns - first), plan, scratch);
    }
  });
}

template <typename T>
void resample(Tensor& y, const Tensor& x, bool channels_last, const Tensor& f, const Axis& y_axis, const Axis& x_axis,
              bool flip, double gain) {
  typedef sg::acc_t<T> A;
  const auto filter = f.scalar_type() == ScalarType::Double ? read_filter<A, double>(f, flip, gain)
                                                           : read_filter<A, float>(f, flip, gain);
  const Index channels = channels_last ? x.size(1) : 1, inner = channels_last ? 1 : x.size(1);
  const Images from{x.size(0), inner, x.stride(0), x.stride(1), x.stride(2)};
  const Images to{y.size(0), inner, y.stride(0), y.stride(1), y.stride(2)};
  run<T>(static_cast<T*>(y.mutable_data_ptr()), to, static_cast<const T*>(x.const_data_ptr()), from,
         make_plan<A>(y_axis, x_axis, channels, filter));
}

Tensor upfirdn2d(const Tensor& input, const Tensor& filter, int64_t up_x, int64_t up_y, int64_t down_x, int64_t down_y,
                 int64_t pad_x0, int64_t pad_y0, int64_t out_h, int64_t out_w, bool flip, double gain) {
  Tensor x = input, f = filter;
  STD_TORCH_CHECK(x.dim() == 4 && (f.dim() == 1 || f.dim() == 2) && f.numel() > 0, "upfirdn2d: x [N, C, H, W], f [taps] or [fh, fw]");
  STD_TORCH_CHECK(std::min({up_x, up_y, down_x, down_y}) >= 1 && out_h >= 0 && out_w >= 0, "upfirdn2d: factors of at least 1, sizes of at least 0");
  STD_TORCH_CHECK(f.is_cpu() && (f.scalar_type() == ScalarType::Float || f.scalar_type() == ScalarType::Double), "upfirdn2d: f is a float32 or float64 tensor where x is");
  if (!f.is_contiguous()) f = torch::stable::contiguous(f);
  const int64_t n = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3);
  const bool channels_last = c > 1 && x.stride(1) == 1 && !x.is_contiguous();
  // Images and rows may lie anywhere, but the pixels of a row must follow each other.
  if (channels_last ? w > 1 && x.stride(3) != c : w > 1 && x.stride(3) != 1)
    x = torch::stable::contiguous(x, channels_last ? torch::headeronly::MemoryFormat::ChannelsLast
                                                   : torch::headeronly::MemoryFormat::Contiguous);
  const int64_t sizes[4] = {n, c, out_h, out_w};
  const int64_t nchw[4] = {c * out_h * out_w, out_h * out_w, out_w, 1}, nhwc[4] = {c * out_h * out_w, 1, out_w * c, c};
  AtenTensorHandle handle;
  int32_t dtype;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(x.get(), &dtype));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(4, sizes, channels_last ? nhwc : nchw, dtype,
                                                         aoti_torch_device_type_cpu(), 0, &handle));
  Tensor y(handle);
  if (y.numel() == 0) return y;
  const int64_t fh = f.size(0), fw = f.size(f.dim() - 1);
  const Axis y_axis{h, up_y, down_y, pad_y0, out_h, fh}, x_axis{w, up_x, down_x, pad_x0, out_w, fw};
  switch (x.scalar_type()) {
    case ScalarType::Float:
      resample<float>(y, x, channels_last, f, y_axis, x_axis, flip, gain);
      break;
    case ScalarType::Double:
      resample<double>(y, x, channels_last, f, y_axis, x_axis, flip, gain);
      break;
    case ScalarType::BFloat16:
      resample<sg::bf16>(y, x, channels_last, f, y_axis, x_axis, flip, gain);
      break;
    case ScalarType::Half:
      resample<sg::fp16>(y, x, channels_last, f, y_axis, x_axis, flip, gain);
      break;
    default:
      STD_TORCH_CHECK(false, "upfirdn2d: images of float32, float64, bfloat16 or float16");
  }
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(stylegan2_ada, CPU, m) { m.impl("upfirdn2d", TORCH_BOX(&upfirdn2d)); }
