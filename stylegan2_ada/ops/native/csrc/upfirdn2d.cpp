// upfirdn2d on the CPU: pad, upsample, FIR and downsample in one pass over the image.
//
// An image is H rows of W pixels of C interleaved channels; a contiguous (NCHW) tensor is N * C images of one channel.
// For every row of the result the filter along y is applied first, to a row buffer that stays in the cache, then the
// filter along x from there to the result. In both passes the vector registers run over the row, whatever C is.
//
// - Four taps along both axes and many channels, most of what StyleGAN2 asks for, never leave the registers (`sweep`).
// - Small NCHW images, whose rows would not fill a register, are interleaved first.
// - A filter that is no outer product takes the two steps once for every row of its taps.

#include <cstdint>
#include <memory>

#include "cpu.h"
#include "upfirdn2d_plan.h"
#include "upfirdn2d_sweep.h"

namespace sg {
namespace {

// Rows of one image in memory.
template <typename T>
struct Rows {
  T* first;
  Index stride;
  T* operator[](Index i) const { return first + i * stride; }
};

// Images in memory: outer * inner of them.
struct Images {
  Index outer, inner, outer_stride, inner_stride, row_stride;

  template <typename T>
  Rows<T> at(T* data, Index i) const {
    return {data + i / inner * outer_stride + i % inner * inner_stride, row_stride};
  }
};

// A stretch of a row of the result, and the samples it needs.
struct Stretch {
  Index first, count;    // outputs
  Index start, samples;  // samples start + [0, samples), of which
  Index from, to;        // [from, to) are in the image

  template <typename A>
  Stretch(const Plan<A>& plan, Index tile) {
    first = tile * plan.tile;
    count = std::min<Index>(plan.tile, plan.x_axis.out - first);
    start = span_unbounded(plan.x_axis, first).sample;
    samples = plan.samples_of(first, count);
    from = std::clamp<Index>(start, 0, plan.x_axis.size);
    to = std::clamp<Index>(start + samples, from, plan.x_axis.size);
  }
};

// The buffers of one thread.
template <typename A>
struct Scratch {
  static constexpr Index SLACK = 16;  // some copies write a little too much
  std::unique_ptr<A[]> memory;
  A *row, *sorted, *phases, *line, *sum;
  std::vector<Index> offsets;  // of the rows above each other, for `sum_rows`

  Scratch(const Plan<A>& plan, Index row_stride) {
    const Index row_size = plan.tile_samples * plan.channels + SLACK, line_size = plan.tile * plan.channels + SLACK;
    const Index sorted_size = plan.sorted ? plan.sorted_pitch * plan.in_stride + SLACK : 0;
    memory.reset(new A[row_size + sorted_size + 3 * line_size]);
    row = memory.get();
    sorted = row + row_size;
    phases = sorted + sorted_size;
    line = phases + line_size;
    sum = line + line_size;
    for (Index k = 0; k <= plan.y_axis.taps / plan.y_axis.up; k++) offsets.push_back(k * row_stride);
  }
};

template <typename A, typename Out, typename In>
void convert(Out* out, const In* in, Index n) {
  const Index offset = 0;
  const A one = 1;
  weighted_sum<1>(out, in, &offset, &one, 1, n);
}

// Copy `count` pixels of c elements, every in_step-th to every out_step-th place (in elements), in rising order.
// `exact` forbids to write past the last.
template <typename A>
SG_INLINE void copy_pixels(A* out, const A* in, Index count, Index c, Index out_step, Index in_step, bool exact) {
  Index m = 0;
  if (c <= 4)  // the fourth element is overwritten by the next pixel, or never read
    for (; m < count - exact; m++) std::memcpy(out + m * out_step, in + m * in_step, 4 * sizeof(A));
  for (; m < count; m++)
    for (Index k = 0; k < c; k++) out[m * out_step + k] = in[m * in_step + k];
}

// Sort pixels by their index modulo `stride`.
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
  for (Index r = 0; r < std::min(stride, samples); r++)
    copy_pixels(sorted + r * pitch, row + r * c, (samples - r + stride - 1) / stride, c, c, stride * c, false);
}

// The way back: `count` pixels that lie sorted by index modulo `stride`.
template <typename A>
void interleave_pixels(A* __restrict out, const A* __restrict phases, Index count, Index c, Index stride, Index pitch) {
  if (c <= 4 && stride == 2) {
    const A* odd = phases + pitch;
    Index m = 0;
    for (; m < count / 2 - 1; m++) {
      std::memcpy(out + 2 * m * c, phases + m * c, 4 * sizeof(A));
      std::memcpy(out + (2 * m + 1) * c, odd + m * c, 4 * sizeof(A));
    }
    for (Index o = 2 * m; o < count; o++) {
      const A* pixel = (o % 2 ? odd : phases) + o / 2 * c;
      for (Index k = 0; k < c; k++) out[o * c + k] = pixel[k];
    }
    return;
  }
  for (Index p = 0; p < stride; p++)
    for (Index o = p, m = 0; o < count; o += stride, m++)
      for (Index k = 0; k < c; k++) out[o * c + k] = phases[p * pitch + m * c + k];
}

// The filter along x: from the row buffer to `out`.
template <typename Out, typename A>
void along_x(Out* out, const Stretch& s, const Plan<A>& plan, const std::vector<Phase<A>>& phases,
             const Scratch<A>& scratch) {
  const Index c = plan.channels, step = plan.out_stride;
  const A* in = scratch.row;
  if (plan.sorted) {
    sort_pixels(scratch.sorted, scratch.row, s.samples, c, plan.in_stride, plan.sorted_pitch);
    in = scratch.sorted;
  }
  if (step == 1 && (plan.sorted || plan.in_stride == 1)) {
    const Phase<A>& p = phases[0];
    sum_rows(out, in, p.at.data(), p.taps.data(), p.taps.size(), s.count * c);
    return;
  }
  if (c >= Plan<A>::LONG_PIXEL) {
    for (Index o = 0; o < s.count; o += step, in += plan.in_stride * c)
      for (Index q = 0; q < std::min(step, s.count - o); q++) {
        const Phase<A>& p = phases[q];
        sum_rows(out + (o + q) * c, in, p.at.data(), p.taps.data(), p.taps.size(), c);
      }
    return;
  }
  if (c == 1 && step == 2) {
    const Phase<A>&even = phases[0], &odd = phases[1];
    zipped_sums(out, in, even.at.data(), even.taps.data(), even.taps.size(), odd.at.data(), odd.taps.data(),
                odd.taps.size(), s.count);
    return;
  }
  const Index pitch = plan.tile / step * c;
  for (Index q = 0; q < std::min(step, s.count); q++) {
    const Phase<A>& p = phases[q];
    const Index n = (s.count - q + step - 1) / step;
    sum_rows(scratch.phases + q * pitch, in, p.at.data(), p.taps.data(), p.taps.size(), n * c);
  }
  if constexpr (std::is_same_v<Out, A>) {
    interleave_pixels(out, scratch.phases, s.count, c, step, pitch);
  } else {
    interleave_pixels(scratch.line, scratch.phases, s.count, c, step, pitch);
    convert<A>(out, scratch.line, s.count * c);
  }
}

// A stretch of row oy of the result.
template <typename T, typename A>
void one_row(T* out, Rows<const T> in, Index oy, const Stretch& s, const Plan<A>& plan, const Scratch<A>& scratch) {
  const Index c = plan.channels, n = (s.to - s.from) * c;
  const Row& row = plan.rows[oy];
  if (row.count == 0 || n == 0) {
    std::memset((void*)out, 0, s.count * c * sizeof(T));
    return;
  }
  A* middle = scratch.row + (s.from - s.start) * c;
  if (s.from > s.start) std::fill(scratch.row, middle, A(0));
  if (s.to < s.start + s.samples) std::fill(middle + n, scratch.row + s.samples * c, A(0));
  const T* first = in[row.sample] + s.from * c;
  if (plan.product()) {
    if (plan.y_axis.down > 1 && n * sizeof(T) >= 512)  // rows in leaps, too short for the processor to run ahead of
      for (Index r = 0; r < plan.y_axis.down; r++) {
        const char* next = (const char*)(first + (row.count + r) * in.stride);
        for (Index byte = 0; byte < std::min<Index>(n * sizeof(T), 1024); byte += 64) __builtin_prefetch(next + byte);
      }
    sum_rows(middle, first, scratch.offsets.data(), plan.taps_y.data() + row.tap, row.count, n);
    along_x(out, s, plan, plan.phases[0], scratch);
    return;
  }
  for (Index k = 0; k < row.count; k++) {
    convert<A>(middle, first + k * in.stride, n);
    along_x(k == 0 ? scratch.sum : scratch.line, s, plan, plan.phases[row.filter_row + k * plan.y_axis.up], scratch);
    if (k > 0)
      for (Index i = 0; i < s.count * c; i++) scratch.sum[i] += scratch.line[i];
  }
  convert<A>(out, scratch.sum, s.count * c);
}

// Four symmetric taps along both axes, all in registers.
template <typename T>
struct Sweep {
  typedef acc_t<T> A;
  const Plan<A>& plan;
  Index up, down, first;
  bool early, stream;
  A gx[4];                  // as for `sweep`
  std::vector<A> gy[2];     // by row of the result modulo `up`
  std::vector<T> zero_row;  // stands for the rows outside the image

  static constexpr bool COMPILED = SPECIALISED<T>;

  static bool possible(const Axis& y, const Axis& x, Index channels, const Filter<A>& f) {
    const auto symmetric = [](const std::vector<A>& g) {
      return g.size() == 4 && g[0] == g[3] && g[1] == g[2] && g[0] != 0;
    };
    return COMPILED && channels >= Block<T>::SIZE && symmetric(f.along_x) && symmetric(f.along_y) && x.up == y.up &&
           x.down == y.down && x.up * x.down <= 2 && x.size > 0 && y.size > 0;
  }

  Sweep(const Plan<A>& p, const Filter<A>& filter, bool stream)
      : plan(p), up(p.x_axis.up), down(p.x_axis.down), stream(stream && up == 1), zero_row(p.x_axis.size * p.channels) {
    const Span s = span_unbounded(plan.x_axis, 0);
    early = up == 2 && s.tap == 1;  // output 0 is an odd step
    first = s.sample - early;
    const std::vector<A>&x = filter.along_x, &y = filter.along_y;
    if (up == 1) {
      gy[0] = {y[1] / y[0]};
      gx[0] = x[0] * y[0];
      gx[1] = x[1] * y[0];
      return;
    }
    for (Index i = 0; i < 4; i++) gx[i] = x[i / 2 + i % 2 * 2];
    for (Index p = 0; p < 2; p++)
      for (Index i = span_unbounded(plan.y_axis, p).tap; i < 4; i += 2) gy[p].push_back(y[i]);
  }

  template <int R, int UP, int DOWN>
  void rows(Rows<T> out, Rows<const T> in, Index oy) const {
    const Axis& y = plan.y_axis;
    const T* from[R - 1 + 4 / UP];
    Index sample = span_unbounded(y, oy).sample;
    for (const T*& row : from) {
      row = sample >= 0 && sample < y.size ? in[sample] : zero_row.data();
      sample++;
    }
    const bool more = sample + R * DOWN <= y.size && oy + R < y.out;
    const auto along = stream ? sweep<R, UP, DOWN, STREAMS && UP == 1, T> : sweep<R, UP, DOWN, false, T>;
    along(out[oy], out.stride, plan.x_axis.out, from, gy[UP == 2 ? oy % 2 : 0].data(), gx, first, plan.x_axis.size,
          plan.channels, early, in[more ? sample : sample - 1], more ? in.stride : 0, out[more ? oy + R : oy]);
  }

  void operator()(Rows<T> out, Rows<const T> in, Index begin, Index end) const {
    for (Index oy = begin; oy < end; oy++) {
      if (up == 2) {
        rows<1, 2, 1>(out, in, oy);
      } else if (down == 2) {
        rows<1, 1, 2>(out, in, oy);
      } else if (oy + 1 < end) {
        rows<2, 1, 1>(out, in, oy++);
      } else {
        rows<1, 1, 1>(out, in, oy);
      }
    }
    if (stream) end_of_stream();
  }
};

// Work for a thread: about as much as it takes to wake one.
Index grain(Index elements) { return std::max<Index>(1, GRAIN / std::max<Index>(1, elements)); }

template <typename F>
void threads(Index units, Index least, const F& work) {
  if (units <= least)
    work(0, units);
  else
    torch::stable::parallel_for(0, units, least, work);
}

// All that is needed for images of so many interleaved channels, whichever of the ways they go.
template <typename T>
struct Kernel {
  typedef acc_t<T> A;
  Index row_stride;  // of the samples
  Plan<A> plan;
  std::optional<Sweep<T>> sweep;

  Kernel(const Axis& y, const Axis& x, Index channels, const Filter<A>& filter, Index in_row_stride, bool stream = false)
      : row_stride(in_row_stride), plan(y, x, channels, filter, Sweep<T>::possible(y, x, channels, filter)) {
    if constexpr (Sweep<T>::COMPILED)
      if (Sweep<T>::possible(y, x, channels, filter)) sweep.emplace(plan, filter, stream);
  }

  Index tiles() const { return (plan.x_axis.out + plan.tile - 1) / plan.tile; }

  // Rows [begin, end) of one tile of an image.
  void operator()(Rows<T> out, Rows<const T> in, Index tile, Index begin, Index end, const Scratch<A>& scratch) const {
    if constexpr (Sweep<T>::COMPILED)
      if (sweep) return (*sweep)(out, in, begin, end);
    const Stretch stretch(plan, tile);
    for (Index oy = begin; oy < end; oy++)
      one_row(out[oy] + stretch.first * plan.channels, in, oy, stretch, plan, scratch);
  }
};

// Results beyond what a core finds in its caches again; doubled images, four results to a sample, gain nothing.
constexpr Index STREAM_BYTES = 16 << 20;

// Images of `channels` interleaved channels.
template <typename T>
void interleaved(T* out, const Images& to, const T* in, const Images& from, const Axis& y, const Axis& x,
                 Index channels, const Filter<acc_t<T>>& filter) {
  const Index images = to.outer * to.inner;
  const bool lines = channels % Block<T>::SIZE == 0 && reinterpret_cast<uintptr_t>(out) % 64 == 0;
  const bool stream = lines && images * y.out * x.out * channels * Index(sizeof(T)) >= STREAM_BYTES;
  const Kernel<T> kernel(y, x, channels, filter, from.row_stride, stream);
  const Index height = y.out, tiles = kernel.tiles();
  const Index least = grain(std::min<Index>(kernel.plan.tile, x.out) * channels);
  threads(images * tiles * height, least, [&](Index begin, Index end) {
    const Scratch<acc_t<T>> scratch(kernel.plan, from.row_stride);
    while (begin < end) {  // from row to row of one tile of one image
      const Index oy = begin % height, tile = begin / height % tiles, image = begin / height / tiles;
      const Index rows = std::min(end - begin, height - oy);
      kernel(to.at(out, image), from.at(in, image), tile, oy, oy + rows, scratch);
      begin += rows;
    }
  });
}

constexpr Index SMALL = 24;  // pixels along an axis

// Small images of one channel: groups of them are interleaved, filtered together and taken apart.
template <typename T>
void small_planes(T* out, const Images& to, const T* in, const Images& from, const Axis& y, const Axis& x,
                  const Filter<acc_t<T>>& filter) {
  typedef acc_t<T> A;
  constexpr int GROUP = 16;
  const Index groups = (from.inner + GROUP - 1) / GROUP;  // per image of the batch
  const Kernel<A> kernel(y, x, GROUP, filter, x.size * GROUP);
  threads(from.outer * groups, grain(y.out * x.out * GROUP), [&](Index begin, Index end) {
    const Scratch<A> scratch(kernel.plan, kernel.row_stride);
    std::vector<A> pixels(y.size * x.size * GROUP), filtered(y.out * x.out * GROUP);
    for (Index group = begin; group < end; group++) {
      // Neighbouring channels, a group of which does not reach over to the next image of the batch.
      const Index n = group / groups, i = group % groups * GROUP, count = std::min<Index>(GROUP, from.inner - i);
      const T* first = in + n * from.outer_stride + i * from.inner_stride;
      T* result = out + n * to.outer_stride + i * to.inner_stride;
      if (from.row_stride == x.size)
        interleave_planes<GROUP>(pixels.data(), first, from.inner_stride, count, y.size * x.size);
      else
        for (Index r = 0; r < y.size; r++)
          interleave_planes<GROUP>(pixels.data() + r * kernel.row_stride, first + r * from.row_stride,
                                   from.inner_stride, count, x.size);
      kernel({filtered.data(), Index(x.out) * GROUP}, {pixels.data(), kernel.row_stride}, 0, 0, y.out, scratch);
      part_planes<GROUP>(result, filtered.data(), to.inner_stride, count, y.out * x.out);
    }
  });
}

template <typename T>
void resample(Tensor& y, const Tensor& x, bool channels_last, const Tensor& f, const Axis& y_axis, const Axis& x_axis,
              bool flip, double gain) {
  typedef acc_t<T> A;
  const auto filter =
      make_filter<A>(to_vector<double>(f, "upfirdn2d"), f.dim() == 1, y_axis.taps, x_axis.taps, flip, gain);
  const Index inner = channels_last ? 1 : x.size(1);
  const Images from{Index(x.size(0)), inner, x.stride(0), x.stride(1), x.stride(2)};
  const Images to{Index(x.size(0)), inner, y.stride(0), y.stride(1), y.stride(2)};
  if (!channels_last && std::max({x_axis.size, x_axis.out, y_axis.size, y_axis.out}) <= SMALL && x.size(1) >= 8)
    small_planes(out<T>(y), to, in<T>(x), from, y_axis, x_axis, filter);
  else
    interleaved(out<T>(y), to, in<T>(x), from, y_axis, x_axis, channels_last ? x.size(1) : 1, filter);
}

Tensor upfirdn2d(const Tensor& images, const Tensor& taps, int64_t up_x, int64_t up_y, int64_t down_x, int64_t down_y,
                 int64_t pad_x0, int64_t pad_y0, int64_t out_h, int64_t out_w, bool flip, double gain) {
  using torch::headeronly::MemoryFormat;
  STD_TORCH_CHECK(images.dim() == 4, "stylegan2_ada::upfirdn2d takes images [N, C, H, W]");
  STD_TORCH_CHECK(
      taps.is_cpu() && taps.numel() > 0 && (taps.dim() == 1 || taps.dim() == 2) &&
          (taps.scalar_type() == ScalarType::Float || taps.scalar_type() == ScalarType::Double),
      "stylegan2_ada::upfirdn2d takes a float32 or float64 filter [taps] or [fh, fw], on the CPU as the images");
  STD_TORCH_CHECK(std::min({up_x, up_y, down_x, down_y}) >= 1 && std::min(out_h, out_w) >= 0,
                  "stylegan2_ada::upfirdn2d takes factors of at least 1 and sizes of at least 0");
  const Tensor f = taps.is_contiguous() ? taps : torch::stable::contiguous(taps);
  const int64_t c = images.size(1), w = images.size(3);
  const bool channels_last = c > 1 && images.stride(1) == 1 && !images.is_contiguous();
  // Images and rows may lie anywhere, but the pixels of a row have to follow each other.
  const bool usable = w <= 1 || images.stride(3) == (channels_last ? c : 1);
  const MemoryFormat format = channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
  const Tensor x = usable ? images : torch::stable::contiguous(images, format);

  const int64_t sizes[4] = {x.size(0), c, out_h, out_w};
  const int64_t nchw[4] = {c * out_h * out_w, out_h * out_w, out_w, 1}, nhwc[4] = {c * out_h * out_w, 1, out_w * c, c};
  AtenTensorHandle handle;
  int32_t dtype;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(x.get(), &dtype));
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(4, sizes, channels_last ? nhwc : nchw, dtype, aoti_torch_device_type_cpu(), 0, &handle));
  Tensor y(handle);
  if (y.numel() == 0) return y;
  const Axis y_axis{x.size(2), up_y, down_y, pad_y0, out_h, f.size(0)};
  const Axis x_axis{w, up_x, down_x, pad_x0, out_w, f.size(f.dim() - 1)};
  by_dtype(x.scalar_type(), "upfirdn2d",
           [&](auto zero) { resample<decltype(zero)>(y, x, channels_last, f, y_axis, x_axis, flip, gain); });
  return y;
}

}  // namespace
}  // namespace sg

STABLE_TORCH_LIBRARY_IMPL(stylegan2_ada, CPU, m) { m.impl("upfirdn2d", TORCH_BOX(&sg::upfirdn2d)); }
