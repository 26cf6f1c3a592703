// Depthwise convolution on CPUs, channels last, in float32 or bfloat16 with float32 sums, and its two gradients:
// stylegan2_ada/ops/depthwise.py tells what the ops compute and defines their schemas.
#include "depthwise_rows.h"

namespace {

using namespace depthwise;
using sg::ScalarType;
using torch::stable::Tensor;
constexpr auto CHANNELS_LAST = torch::headeronly::MemoryFormat::ChannelsLast;
constexpr int64_t BAND_BYTES = 256 << 10, BLOCK_BYTES = 24 << 10;
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

// w [c, taps] as [groups][taps].
template <typename T>
std::vector<Pair> packed(const float* w, int64_t c, int64_t taps) {
  const Groups groups{c};
  std::vector<Pair> out(groups.count() * taps);
  for (int64_t g = 0; g < groups.count(); ++g)
    for (int64_t k = 0; k < taps; ++k) {
      float v[PAIR];
      for (int i = 0; i < PAIR; ++i) {
        const int64_t channel = groups.first(g) + sg::channel_at<T>(i);
        v[i] = channel < c ? w[channel * taps + k] : 0.0f;
      }
      std::memcpy(&out[g * taps + k], v, sizeof v);
    }
  return out;
}

// f(image, first row, rows) for bands of an image's `rows` rows, which stay in the second-level cache.
template <typename F>
void by_band(const Shape& s, int64_t rows, int64_t row_bytes, const F& f) {
  const int64_t band = std::max<int64_t>(BAND_BYTES / row_bytes, 1), bands = (rows + band - 1) / band;
  sg::for_each_item(s.n * bands, torch::stable::get_num_threads(), [&](int64_t item, int64_t) {
    const int64_t first = item % bands * band;
    f(item / bands, first, std::min(band, rows - first));
  });
}

// f(block) for as many groups together as there is first-level cache for the weights of.
template <typename F>
void by_block(const Shape& s, const Pair* start, int64_t ahead, const F& f) {
  const int64_t together = std::max<int64_t>(BLOCK_BYTES / (s.taps() * sizeof(Pair)), 1), groups = Groups{s.c}.count();
  for (int64_t g = 0; g < groups; g += together) f(Block{{s.c}, g, std::min(g + together, groups), s.taps(), ahead, start});
}

template <typename T>
void forward_band(const Shape& s, const T* x, const Pair* w, const Pair* bias, T* y, int64_t first, int64_t count) {
  const std::vector<T> zeros(s.c);
  const int64_t columns = std::max((s.ow - 1) * s.stride + s.kx, s.left + s.w);
  Rows<T> rows(x, s.w, s.c, s.left, columns, s.ky, s.stride, zeros.data());
  std::vector<Line<T>> lines(s.ky);
  by_block(s, bias, s.ow * s.c, [&](const Block& block) {
    for (int64_t oy = first; oy < first + count; ++oy) {
      int64_t used = 0;
      for (int64_t k = 0; k < s.ky; ++k) {
        const int64_t iy = oy * s.stride - s.top + k;
        if (iy >= 0 && iy < s.h) lines[used++] = {rows.row(iy), w + k * s.kx};
      }
      sum_row(s.kx, s.stride, lines.data(), used, s.ow, block, y + oy * s.ow * s.c, s.c);
    }
  });
}

// The columns x = first + stride * m of an input gradient: `taps` weights that meet gy from column m + from on.
struct Phase {
  int64_t first, count, taps, from;
  std::vector<Pair> w;  // [groups][ky][taps], in the order of gy's columns
};

std::vector<Phase> phases(const Shape& s, const std::vector<Pair>& w) {
  std::vector<Phase> all;
  for (int64_t first = 0; first < std::min(s.stride, s.w); ++first) {
    const int64_t k0 = (first + s.left) % s.stride, taps = k0 < s.kx ? (s.kx - k0 + s.stride - 1) / s.stride : 0;
    Phase p{first, (s.w - first + s.stride - 1) / s.stride, taps, (first + s.left - k0) / s.stride - (taps - 1), {}};
    for (int64_t gk = 0; gk < Groups{s.c}.count() * s.ky; ++gk)
      for (int64_t j = taps - 1; j >= 0; --j) p.w.push_back(w[gk * s.kx + k0 + s.stride * j]);
    all.push_back(std::move(p));
  }
  return all;
}

template <typename T>
void input_band(const Shape& s, const T* gy, const std::vector<Phase>& phases, T* gx, int64_t first, int64_t count) {
  const std::vector<T> zeros(s.c);
  const int64_t left = s.kx;
  int64_t columns = left + s.ow;
  for (const Phase& p : phases) columns = std::max(columns, left + p.from + p.count - 1 + std::max<int64_t>(p.taps, 1));
  Rows<T> rows(gy, s.ow, s.c, left, columns, (s.ky + s.stride - 1) / s.stride, 1, zeros.data());
  std::vector<Line<T>> lines(s.ky);
  by_block(s, nullptr, s.w * s.c, [&](Block block) {
    for (int64_t iy = first; iy < first + count; ++iy)
      for (const Phase& p : phases) {
        int64_t used = 0;
        for (int64_t k = (iy + s.top) % s.stride; p.taps && k < s.ky && k <= iy + s.top; k += s.stride) {
          const int64_t oy = (iy + s.top - k) / s.stride;
          if (oy < s.oh) lines[used++] = {rows.row(oy) + left + p.from, p.w.data() + k * p.taps};
        }
        block.apart = s.ky * p.taps;
        sum_row(p.taps, 1, lines.data(), used, p.count, block, gx + (iy * s.w + p.first) * s.c, s.stride * s.c);
      }
  });
}

// Adds an image's share to sums [groups][ky][kx].
template <typename T>
void weight_image(const Shape& s, const T* x, const T* gy, Pair* sums) {
  const std::vector<T> zeros(s.c);
  const int64_t columns = std::max((s.ow - 1) * s.stride + s.kx, s.left + s.w);
  Rows<T> rows(x, s.w, s.c, s.left, columns, s.ky, s.stride, zeros.data());
  std::vector<const T* const*> lines(s.ky);
  std::vector<Pair*> to(s.ky), at(s.ky);
  by_block(s, nullptr, 0, [&](const Block& block) {
    for (int64_t oy = 0; oy < s.oh; ++oy, gy += s.ow * s.c) {
      if (block.begin == 0) sg::prefetch(gy + s.ow * s.c, s.ow * s.c);
      int64_t count = 0;
      for (int64_t k = 0; k < s.ky; ++k) {
        const int64_t iy = oy * s.stride - s.top + k;
        if (iy >= 0 && iy < s.h) lines[count] = rows.row(iy), to[count++] = sums + k * s.kx;
      }
      for (int64_t g = block.begin; g < block.end; ++g) {
        for (int64_t l = 0; l < count; ++l) at[l] = to[l] + g * s.taps();
        product_rows(s.kx, s.stride, lines.data(), count, block.groups, block.groups.first(g), gy, s.c, s.ow, at.data());
      }
    }
    gy -= s.oh * s.ow * s.c;
  });
}

Tensor depthwise_op(const Tensor& x_, const Tensor& w_, std::optional<Tensor> bias_, int64_t stride,
                    std::vector<int64_t> padding) {
  const Tensor x = images(x_, "x"), w = checked_weights(w_, x.size(1));
  const Shape s = shape(x.size(0), x.size(1), x.size(2), x.size(3), w.size(2), w.size(3), stride, padding);
  STD_TORCH_CHECK(!bias_ || (bias_->numel() == s.c && bias_->scalar_type() == ScalarType::Float),
                  "stylegan2_ada::depthwise: bias must be float32 [", s.c, "]");
  const Tensor y = images_like(x, s.oh, s.ow);
  if (y.numel() == 0) return y;
  by_type(x, [&](auto zero) {
    using T = decltype(zero);
    const std::vector<Pair> weights = packed<T>(sg::in<float>(w), s.c, s.taps());
    std::vector<Pair> bias;
    if (bias_) bias = packed<T>(sg::in<float>(torch::stable::contiguous(*bias_)), s.c, 1);
    by_band(s, s.oh, s.stride * s.w * s.c * sizeof(T), [&](int64_t i, int64_t first, int64_t count) {
      forward_band(s, sg::in<T>(x) + i * s.h * s.w * s.c, weights.data(), bias_ ? bias.data() : nullptr,
                   sg::out<T>(y) + i * s.oh * s.ow * s.c, first, count);
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
  by_type(gy, [&](auto zero) {
    using T = decltype(zero);
    const std::vector<Phase> columns = phases(s, packed<T>(sg::in<float>(w), s.c, s.taps()));
    by_band(s, s.h, s.w * s.c * sizeof(T), [&](int64_t i, int64_t first, int64_t count) {
      input_band(s, sg::in<T>(gy) + i * s.oh * s.ow * s.c, columns, sg::out<T>(gx) + i * s.h * s.w * s.c, first, count);
    });
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
  float* out = sg::out<float>(gw);
  std::fill_n(out, gw.numel(), 0.0f);
  if (x.numel() == 0) return gw;
  const Groups groups{s.c};
  const int64_t pieces = std::min(s.n, PIECES), size = groups.count() * s.taps();
  std::vector<Pair> sums(pieces * size, Pair{});
  by_type(x, [&](auto zero) {
    using T = decltype(zero);
    sg::for_each_item(pieces, torch::stable::get_num_threads(), [&](int64_t piece, int64_t) {
      for (int64_t i = s.n * piece / pieces; i < s.n * (piece + 1) / pieces; ++i)
        weight_image(s, sg::in<T>(x) + i * s.h * s.w * s.c, sg::in<T>(gy) + i * s.oh * s.ow * s.c,
                     sums.data() + piece * size);
    });
    for (int64_t piece = 1; piece < pieces; ++piece)
      for (int64_t k = 0; k < size; ++k) sums[k].a += sums[piece * size + k].a, sums[k].b += sums[piece * size + k].b;
    for (int64_t k = 0; k < size; ++k) {
      float v[PAIR];
      std::memcpy(v, &sums[k], sizeof v);
      for (int i = 0; i < PAIR; ++i) {
        const int64_t channel = groups.first(k / s.taps()) + sg::channel_at<T>(i);
        if (channel < s.c) out[channel * s.taps() + k % s.taps()] = v[i];
      }
    }
  });
  return gw;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(stylegan2_ada, CPU, m) {
  m.impl("depthwise", TORCH_BOX(&depthwise_op));
  m.impl("depthwise_input_grad", TORCH_BOX(&depthwise_input_grad_op));
  m.impl("depthwise_weight_grad", TORCH_BOX(&depthwise_weight_grad_op));
}
