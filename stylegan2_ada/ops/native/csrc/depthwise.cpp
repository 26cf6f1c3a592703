// Depthwise convolution on CPUs, channels last, in float32 or bfloat16 with float32 sums, and its two gradients:
// stylegan2_ada/ops/depthwise.py tells what the ops compute and defines their schemas.
#include "depthwise_rows.h"

namespace {

using namespace depthwise;
using sg::ScalarType;
using torch::stable::Tensor;
constexpr auto CHANNELS_LAST = torch::headeronly::MemoryFormat::ChannelsLast;
constexpr int64_t PIECES = 16;  // of a batch, summed each by itself: sums don't depend on the number of threads

// x [n, c, h, w], y [n, c, oh, ow]: y(y, x) meets x(y * stride - top + ky, x * stride - left + kx).
struct Shape {
  int64_t n, c, h, w, oh, ow, ky, kx, stride, top, left;

  int64_t taps() const { return ky * kx; }
};

Shape shape(int64_t n, int64_t c, int64_t h, int64_t w, int64_t ky, int64_t kx, int64_t stride,
            const std::vector<int64_t>& padding) {
  STD_TORCH_CHECK(padding.size() == 4 && *std::min_element(padding.begin(), padding.end()) >= 0 && stride > 0,
                  "stylegan2_ada::depthwise: padding is four numbers (top, bottom, left, right) from 0, stride from 1");
  const int64_t high = h + padding[0] + padding[1] - ky, wide = w + padding[2] + padding[3] - kx;
  STD_TORCH_CHECK(ky > 0 && kx > 0 && high >= 0 && wide >= 0,
                  "stylegan2_ada::depthwise: the window is larger than the padded image");
  return {n, c, h, w, high / stride + 1, wide / stride + 1, ky, kx, stride, padding[0], padding[2]};
}

Tensor images(const Tensor& x, const char* name) {
  STD_TORCH_CHECK(x.dim() == 4 && (x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::BFloat16),
                  "stylegan2_ada::depthwise: ", name, " must be float32 or bfloat16 [N, C, H, W]");
  return torch::stable::contiguous(x, CHANNELS_LAST);
}

Tensor images_like(const Tensor& x, int64_t h, int64_t w) {
  return torch::stable::empty({x.size(0), x.size(1), h, w}, x.scalar_type(), std::nullopt, x.device(), std::nullopt,
                              CHANNELS_LAST);
}

Tensor checked_weights(const Tensor& w, int64_t channels) {
  STD_TORCH_CHECK(w.dim() == 4 && w.scalar_type() == ScalarType::Float && w.size(0) == channels && w.size(1) == 1,
                  "stylegan2_ada::depthwise: w must be float32 [", channels, ", 1, kh, kw]");
  return torch::stable::contiguous(w);
}

template <typename F>
void by_type(const Tensor& x, const F& f) {
  x.scalar_type() == ScalarType::Float ? f(float{}) : f(sg::bf16{});
}

// Vectors of memory that a thread keeps between calls.
Vec* kept(int64_t count) {
  static thread_local sg::Scratch scratch;
  return scratch.get<Vec>(count);
}

// w [c, taps] as [groups][taps], zeros for the channels that there are not.
std::vector<Vec> packed(const float* w, int64_t c, int64_t taps) {
  std::vector<Vec> out(groups(c) * taps, Vec{});
  for (int64_t i = 0; i < c; ++i)
    for (int64_t k = 0; k < taps; ++k) out[i / LANES * taps + k][i % LANES] = w[i * taps + k];
  return out;
}

// Some neighbouring channels of an image.
struct Part {
  int64_t image, first, channels;

  int64_t group() const { return first / LANES; }
};

// Calls f(part) for all of them.
template <typename F>
void by_part(const Shape& s, const F& f) {
  const int64_t parts = (s.c + TOGETHER - 1) / TOGETHER;
  sg::for_each_item(s.n * parts, torch::stable::get_num_threads(), [&](int64_t item, int64_t) {
    const int64_t first = item % parts * TOGETHER;
    f(Part{item / parts, first, std::min(TOGETHER, s.c - first)});
  });
}

// A row of the part, [groups][n], to the image's row `out`.
template <typename T>
void store_row(const Vec* row, int64_t n, const Part& part, int64_t channels, T* out) {
  out += part.first;
  if (part.channels == TOGETHER) {  // both groups of a pixel at once: whole cache lines
    for (int64_t x = 0; x < n; ++x, out += channels) sg::store_two(row[x], row[n + x], out);
    return;
  }
  for (int64_t first = 0; first < part.channels; first += LANES, row += n) {
    const int64_t lanes = std::min<int64_t>(LANES, part.channels - first);
    if (lanes == LANES)
      for (int64_t x = 0; x < n; ++x) sg::store(row[x], out + x * channels + first);
    else
      for (int64_t x = 0; x < n; ++x) sg::store_some(row[x], out + x * channels + first, lanes);
  }
}

template <typename T>
void forward_part(const Shape& s, const Part& part, const T* x, const Vec* w, const Vec* bias, T* y) {
  const int64_t columns = std::max((s.ow - 1) * s.stride + s.kx, s.left + s.w);
  const int64_t words = Rows<T>::words(columns, s.ky);
  Vec *memory = kept(words + groups(TOGETHER) * s.ow), *out = memory + words;
  Rows<T> rows(x + part.image * s.h * s.w * s.c + part.first, s.w, s.c, part.channels, s.left, columns, s.ky, memory);
  w += part.group() * s.taps(), bias += part.group(), y += part.image * s.oh * s.ow * s.c;
  std::vector<Line> from(s.ky), lines(s.ky);
  for (int64_t oy = 0; oy < s.oh; ++oy) {
    int64_t count = 0;
    for (int64_t k = 0; k < s.ky; ++k) {
      const int64_t iy = oy * s.stride - s.top + k;
      if (iy >= 0 && iy < s.h) from[count++] = {rows.row(iy), w + k * s.kx};
    }
    for (int64_t g = 0; g < groups(part.channels); ++g) {
      for (int64_t l = 0; l < count; ++l) lines[l] = {from[l].x + g * rows.pitch, from[l].w + g * s.taps()};
      sum_row(s.kx, s.stride, lines.data(), count, bias[g], s.ow, out + g * s.ow, 1);
    }
    store_row(out, s.ow, part, s.c, y + oy * s.ow * s.c);
  }
}

// The columns x = first + stride * m of an input gradient: `taps` weights that meet gy from column m + from on.
struct Phase {
  int64_t first, count, taps, from;
  std::vector<Vec> w;  // [groups][ky][taps], in the order of gy's columns
};

std::vector<Phase> phases(const Shape& s, const std::vector<Vec>& w) {
  std::vector<Phase> all;
  for (int64_t first = 0; first < std::min(s.stride, s.w); ++first) {
    const int64_t k0 = (first + s.left) % s.stride, taps = k0 < s.kx ? (s.kx - k0 + s.stride - 1) / s.stride : 0;
    Phase p{first, (s.w - first + s.stride - 1) / s.stride, taps, (first + s.left - k0) / s.stride - (taps - 1), {}};
    for (int64_t gk = 0; gk < groups(s.c) * s.ky; ++gk)
      for (int64_t j = taps - 1; j >= 0; --j) p.w.push_back(w[gk * s.kx + k0 + s.stride * j]);
    all.push_back(std::move(p));
  }
  return all;
}

template <typename T>
void input_part(const Shape& s, const Part& part, const T* gy, const std::vector<Phase>& phases, T* gx) {
  const int64_t left = s.kx;
  int64_t columns = left + s.ow;
  for (const Phase& p : phases) columns = std::max(columns, left + p.from + p.count - 1 + std::max<int64_t>(p.taps, 1));
  const int64_t held = (s.ky + s.stride - 1) / s.stride, words = Rows<T>::words(columns, held);
  Vec *memory = kept(words + groups(TOGETHER) * s.w), *out = memory + words;
  Rows<T> rows(gy + part.image * s.oh * s.ow * s.c + part.first, s.ow, s.c, part.channels, left, columns, held, memory);
  gx += part.image * s.h * s.w * s.c;
  std::vector<const Vec*> from(s.ky);
  std::vector<int64_t> taps(s.ky);
  std::vector<Line> lines(s.ky);
  for (int64_t iy = 0; iy < s.h; ++iy) {
    int64_t count = 0;
    for (int64_t k = (iy + s.top) % s.stride; k < s.ky && k <= iy + s.top; k += s.stride) {
      const int64_t oy = (iy + s.top - k) / s.stride;
      if (oy < s.oh) from[count] = rows.row(oy), taps[count++] = k;
    }
    for (int64_t g = 0; g < groups(part.channels); ++g) {
      for (const Phase& p : phases) {
        for (int64_t l = 0; l < count; ++l)
          lines[l] = {from[l] + g * rows.pitch + left + p.from, p.w.data() + ((part.group() + g) * s.ky + taps[l]) * p.taps};
        sum_row(p.taps, 1, lines.data(), p.taps ? count : 0, Vec{}, p.count, out + g * s.w + p.first,
                s.stride);
      }
    }
    store_row(out, s.w, part, s.c, gx + iy * s.w * s.c);
  }
}

// Adds the part's share to sums [groups][ky][kx].
template <typename T>
void weight_part(const Shape& s, const Part& part, const T* x, const T* gy, Vec* sums) {
  const int64_t columns = std::max((s.ow - 1) * s.stride + s.kx, s.left + s.w);
  const int64_t words = Rows<T>::words(columns, s.ky);
  Vec* memory = kept(words + Rows<T>::words(s.ow, 1));
  Rows<T> rows(x + part.image * s.h * s.w * s.c + part.first, s.w, s.c, part.channels, s.left, columns, s.ky, memory);
  Rows<T> gradients(gy + part.image * s.oh * s.ow * s.c + part.first, s.ow, s.c, part.channels, 0, s.ow, 1,
                    memory + words);
  sums += part.group() * s.taps();
  std::vector<const Vec*> from(s.ky), lines(s.ky);
  std::vector<Vec*> to(s.ky), at(s.ky);
  for (int64_t oy = 0; oy < s.oh; ++oy) {
    int64_t count = 0;
    for (int64_t k = 0; k < s.ky; ++k) {
      const int64_t iy = oy * s.stride - s.top + k;
      if (iy >= 0 && iy < s.h) from[count] = rows.row(iy), to[count++] = sums + k * s.kx;
    }
    const Vec* gradient = gradients.row(oy);
    for (int64_t g = 0; g < groups(part.channels); ++g) {
      for (int64_t l = 0; l < count; ++l) lines[l] = from[l] + g * rows.pitch, at[l] = to[l] + g * s.taps();
      product_rows(s.kx, s.stride, lines.data(), count, gradient + g * gradients.pitch, s.ow, at.data());
    }
  }
}

Tensor depthwise_op(const Tensor& x_, const Tensor& w_, std::optional<Tensor> bias_, int64_t stride,
                    std::vector<int64_t> padding) {
  const Tensor x = images(x_, "x"), w = checked_weights(w_, x.size(1));
  const Shape s = shape(x.size(0), x.size(1), x.size(2), x.size(3), w.size(2), w.size(3), stride, padding);
  const Tensor y = images_like(x, s.oh, s.ow);
  if (y.numel() == 0) return y;
  const std::vector<Vec> weights = packed(sg::in<float>(w), s.c, s.taps());
  std::vector<Vec> bias(groups(s.c), Vec{});
  if (bias_) {
    const Tensor b = torch::stable::contiguous(*bias_);
    STD_TORCH_CHECK(b.numel() == s.c && b.scalar_type() == ScalarType::Float,
                    "stylegan2_ada::depthwise: bias must be float32 [", s.c, "]");
    bias = packed(sg::in<float>(b), s.c, 1);
  }
  by_type(x, [&](auto zero) {
    using T = decltype(zero);
    by_part(s, [&](const Part& part) {
      forward_part(s, part, sg::in<T>(x), weights.data(), bias.data(), sg::out<T>(y));
    });
  });
  return y;
}

Tensor depthwise_input_grad_op(const Tensor& gy_, const Tensor& w_, int64_t height, int64_t width, int64_t stride,
                               std::vector<int64_t> padding) {
  const Tensor gy = images(gy_, "gy"), w = checked_weights(w_, gy.size(1));
  const Shape s = shape(gy.size(0), gy.size(1), height, width, w.size(2), w.size(3), stride, padding);
  STD_TORCH_CHECK(gy.size(2) == s.oh && gy.size(3) == s.ow, "stylegan2_ada::depthwise_input_grad: gy is not of ",
                  height, " x ", width, " pixels");
  const Tensor gx = images_like(gy, height, width);
  if (gx.numel() == 0) return gx;
  const std::vector<Phase> columns = phases(s, packed(sg::in<float>(w), s.c, s.taps()));
  by_type(gy, [&](auto zero) {
    using T = decltype(zero);
    by_part(s, [&](const Part& part) { input_part(s, part, sg::in<T>(gy), columns, sg::out<T>(gx)); });
  });
  return gx;
}

Tensor depthwise_weight_grad_op(const Tensor& x_, const Tensor& gy_, int64_t ky, int64_t kx, int64_t stride,
                                std::vector<int64_t> padding) {
  const Tensor x = images(x_, "x"), gy = images(gy_, "gy");
  const Shape s = shape(x.size(0), x.size(1), x.size(2), x.size(3), ky, kx, stride, padding);
  STD_TORCH_CHECK(gy.scalar_type() == x.scalar_type() && gy.size(0) == s.n && gy.size(1) == s.c &&
                      gy.size(2) == s.oh && gy.size(3) == s.ow,
                  "stylegan2_ada::depthwise_weight_grad: gy is not of this x");
  const Tensor gw = torch::stable::empty({s.c, 1, ky, kx}, ScalarType::Float, std::nullopt, x.device());
  if (gw.numel() == 0) return gw;
  const int64_t parts = (s.c + TOGETHER - 1) / TOGETHER;
  const int64_t pieces = std::min(s.n, PIECES), size = groups(s.c) * s.taps();
  std::vector<Vec> sums(std::max<int64_t>(pieces, 1) * size, Vec{});
  by_type(x, [&](auto zero) {
    using T = decltype(zero);
    sg::for_each_item(pieces * parts, torch::stable::get_num_threads(), [&](int64_t item, int64_t) {
      const int64_t piece = item / parts, first = item % parts * TOGETHER;
      for (int64_t i = s.n * piece / pieces; i < s.n * (piece + 1) / pieces; ++i)
        weight_part(s, Part{i, first, std::min(TOGETHER, s.c - first)}, sg::in<T>(x), sg::in<T>(gy),
                    sums.data() + piece * size);
    });
  });
  for (int64_t piece = 1; piece < pieces; ++piece)
    for (int64_t k = 0; k < size; ++k) sums[k] += sums[piece * size + k];
  float* out = sg::out<float>(gw);
  for (int64_t i = 0; i < s.c; ++i)
    for (int64_t k = 0; k < s.taps(); ++k) out[i * s.taps() + k] = sums[i / LANES * s.taps() + k][i % LANES];
  return gw;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(stylegan2_ada, CPU, m) {
  m.impl("depthwise", TORCH_BOX(&depthwise_op));
  m.impl("depthwise_input_grad", TORCH_BOX(&depthwise_input_grad_op));
  m.impl("depthwise_weight_grad", TORCH_BOX(&depthwise_weight_grad_op));
}
