// Convolutions of 3x3 and 1x1 with stride 1 or 2, and their transposes, on CPUs with AVX512-BF16 or AMX; of float32 images
// with stride 2 also with AVX2 or AVX-512. stylegan2_ada/ops/conv_taps.py tells what the ops compute and defines their
// schemas.
#include "cpu.h"

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define CONV_TAPS_BF16 1
#include "conv_fixed_ways.h"
#include "conv_taps_passes.h"
#if CONV_FIXED
#include "conv_fixed_passes.h"
#include "conv_fixed_wgrad.h"
#endif
#else
#define CONV_TAPS_BF16 0
#endif

#if (defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))) && defined(__unix__)
#define CONV_TAPS_FLOAT 1
#include "conv_strided_float.h"
#else
#define CONV_TAPS_FLOAT 0
#endif

namespace {

using sg::ScalarType;
using torch::stable::Tensor;

constexpr int64_t VECTORS = 1, TILES = 2, FLOAT = 4;

bool tiles_allowed() {
#if CONV_TAPS_BF16
  return conv_taps::tiles_allowed();
#else
  return false;
#endif
}

int64_t supported() { return CONV_TAPS_BF16 * VECTORS + tiles_allowed() * TILES + CONV_TAPS_FLOAT * FLOAT; }

#if CONV_TAPS_FLOAT
constexpr auto CHANNELS_LAST = torch::headeronly::MemoryFormat::ChannelsLast;

Tensor images(const Tensor& x, const char* name) {
  const bool known = x.scalar_type() == ScalarType::Float || (CONV_TAPS_BF16 && x.scalar_type() == ScalarType::BFloat16);
  STD_TORCH_CHECK(x.dim() == 4 && known, "stylegan2_ada::conv_taps: ", name, " must be ",
                  CONV_TAPS_BF16 ? "bfloat16 or float32" : "float32 (bfloat16 needs AVX512-BF16)", " [N, C, H, W]");
  return torch::stable::contiguous(x, CHANNELS_LAST);
}

int64_t threads() { return torch::stable::get_num_threads(); }

// Whether minimal filtering does it: float32 where there are no tile registers.
bool filtered(const Tensor& x, int64_t ky, int64_t kx, const std::vector<int64_t>& window) {
  const bool fits = ky == 3 && kx == 3 && window[0] == 2;
  const bool is = x.scalar_type() == ScalarType::Float && fits && !tiles_allowed();
  STD_TORCH_CHECK(is || CONV_TAPS_BF16, "stylegan2_ada::conv_taps: without AVX512-BF16 only 3x3 with stride 2");
  return is;
}

#if CONV_TAPS_BF16
using conv_taps::bf16;

template <typename F>
void by_type(const Tensor& x, const F& f) {
  x.scalar_type() == ScalarType::Float ? f(float{}) : f(bf16{});
}
#endif

#if CONV_FIXED
// Whether minimal filtering is faster, and then it is done.
template <typename Way, typename... Edges>
bool by_filtering(const Tensor& x, const conv_fixed::Weights& w, double gain, const std::vector<int64_t>& window,
                  const Tensor& y) {
  const conv_fixed::Image in{x.size(0), x.size(1), x.size(2), x.size(3)}, out{in.n, y.size(1), y.size(2), y.size(3)};
  if (!Way::pays(out.height, out.width)) return false;
  const auto grid = [&](auto way) { return way.grid(out.n, out.height, out.width, window[1], window[2]); };
  conv_fixed::convolve<Way, Edges...>(grid, in, sg::in<uint16_t>(x), w, static_cast<float>(gain), out,
                                      sg::out<uint16_t>(y), threads());
  return true;
}
#endif

// window: stride, padding along y and along x.
void check_axis(int64_t large, int64_t small, int64_t kernel, const std::vector<int64_t>& window, int axis) {
  STD_TORCH_CHECK(window.size() == 3, "stylegan2_ada::conv_taps: window is (stride, padding of y, padding of x)");
  const int64_t stride = window[0], pad = window[1 + axis];
  STD_TORCH_CHECK(stride >= 1 && pad >= 0 && pad < kernel && large > 0 && small > 0 &&
                      (large + 2 * pad - kernel) / stride + 1 == small && large + 2 * pad >= kernel,
                  "stylegan2_ada::conv_taps: ", small, " is not the size of a convolution of ", large, " by ", kernel,
                  " with stride ", stride, " and padding ", pad);
}

// x [N, I, H, W] and the size of the result; w is [O, I, kh, kw], `by_input` [I, O, kh, kw].
Tensor conv_taps_op(const Tensor& x_, const Tensor& w_, double gain, std::vector<int64_t> window, bool transposed,
                    bool flip, bool by_input, std::vector<int64_t> size) {
  const Tensor x = images(x_, "x"), w = torch::stable::contiguous(w_);
  STD_TORCH_CHECK(w.dim() == 4 && w.scalar_type() == ScalarType::Float && w.size(2) * w.size(3) <= 16,
                  "stylegan2_ada::conv_taps: w must be float32 [O, I, kh, kw] of at most 16 taps");
  STD_TORCH_CHECK(x.size(1) == w.size(by_input ? 0 : 1), "stylegan2_ada::conv_taps: the weights take ",
                  w.size(by_input ? 0 : 1), " channels");
  const int64_t out = w.size(by_input ? 1 : 0);
  const Tensor y = torch::stable::empty({x.size(0), out, size[0], size[1]}, x.scalar_type(), std::nullopt, x.device(),
                                        std::nullopt, CHANNELS_LAST);
  for (int axis = 0; axis < 2; axis++) {
    const int64_t own = x.size(2 + axis), other = size[axis];
    check_axis(transposed ? other : own, transposed ? own : other, w.size(2 + axis), window, axis);
  }
  if (y.numel() == 0) return y;
  if (x.size(1) == 0) return torch::stable::fill_(y, 0);
  if (filtered(x, w.size(2), w.size(3), window)) {
    const conv_float::Strided way{transposed, window[1], window[2]};
    conv_float::convolve(way, x, {sg::in<float>(w), w.size(0), w.size(1), static_cast<float>(gain), by_input, flip}, y,
                         threads());
    return y;
  }
#if CONV_TAPS_BF16
#if CONV_FIXED
  if (x.scalar_type() == ScalarType::BFloat16 && w.size(2) == 3 && w.size(3) == 3 && window[0] == 2) {
    const conv_fixed::Weights weights{sg::in<float>(w), w.size(0), w.size(1), by_input, flip};
    using conv_fixed::Doubled;
    const auto done = transposed ? by_filtering<Doubled<false, false>, Doubled<true, false>, Doubled<false, true>,
                                                Doubled<true, true>>(x, weights, gain, window, y)
                                 : by_filtering<conv_fixed::Halved>(x, weights, gain, window, y);
    if (done) return y;
  }
#endif
  const conv_taps::Plan plan({x.size(0), x.size(1), x.size(2), x.size(3), out, size[0], size[1], w.size(2), w.size(3),
                              window[0], window[1], window[2], transposed, flip});
  const conv_taps::Weights layout{out, x.size(1), plan.conv.taps()};
  by_type(x, [&](auto zero) {
    using T = decltype(zero);
    static thread_local sg::Scratch scratch;
    char* u = scratch.get<char>(layout.part_bytes() * conv_taps::PARTS<T>);
    conv_taps::pack_weights<conv_taps::PARTS<T>>(sg::in<float>(w), w.size(0), w.size(1), layout,
                                                 static_cast<float>(gain), by_input, threads(), u);
    conv_taps::convolve(plan, sg::in<T>(x), layout, u, sg::out<T>(y), threads());
  });
#endif
  return y;
}

// large [N, A, H, W], small [N, B, h, w] of a convolution from large to small; [B, A, kh, kw], `by_large` [A, B, kh, kw].
Tensor conv_taps_wgrad_op(const Tensor& large_, const Tensor& small_, double gain, std::vector<int64_t> window,
                          bool flip, bool by_large, std::vector<int64_t> kernel) {
  const Tensor large = images(large_, "large"), small = images(small_, "small");
  STD_TORCH_CHECK(large.size(0) == small.size(0) && large.scalar_type() == small.scalar_type(),
                  "stylegan2_ada::conv_taps_wgrad: the images must have the same batch size and dtype");
  STD_TORCH_CHECK(kernel[0] * kernel[1] <= 16, "stylegan2_ada::conv_taps_wgrad: at most 16 taps");
  const int64_t a = large.size(1), b = small.size(1);
  const Tensor gw = torch::stable::empty({by_large ? a : b, by_large ? b : a, kernel[0], kernel[1]}, ScalarType::Float,
                                         std::nullopt, large.device());
  if (gw.numel() == 0) return gw;
  if (large.numel() == 0 || small.numel() == 0) return torch::stable::fill_(gw, 0);
  for (int axis = 0; axis < 2; axis++)
    check_axis(large.size(2 + axis), small.size(2 + axis), kernel[axis], window, axis);
  if (filtered(large, kernel[0], kernel[1], window)) {
    const conv_float::Strided way{false, window[1], window[2]};
    conv_float::weight_gradient(way, conv_float::images(large), conv_float::images(small), static_cast<float>(gain),
                                by_large, flip, sg::out<float>(gw), threads());
    return gw;
  }
#if CONV_TAPS_BF16
#if CONV_FIXED
  using Way = conv_fixed::StridedGradient;
  if (large.scalar_type() == ScalarType::BFloat16 && kernel[0] == 3 && kernel[1] == 3 && window[0] == 2 &&
      Way::pays(small.size(2), small.size(3))) {
    const conv_fixed::Image of_large{large.size(0), a, large.size(2), large.size(3)};
    const conv_fixed::Image of_small{small.size(0), b, small.size(2), small.size(3)};
    const conv_fixed::Side<Way::Large> from{of_large, sg::in<uint16_t>(large), window[1], window[2]};
    const conv_fixed::Side<Way::Small> to{of_small, sg::in<uint16_t>(small), 0, 0};
    const auto find = [&](const auto& i, const auto& o) {
      conv_fixed::weight_gradient<Way>(i, o, of_small.height, of_small.width, static_cast<float>(gain), flip,
                                       sg::out<float>(gw), threads());
    };
    by_large ? find(to, from) : find(from, to);
    return gw;
  }
#endif
  const conv_taps::Plan plan({large.size(0), a, large.size(2), large.size(3), b, small.size(2), small.size(3),
                              kernel[0], kernel[1], window[0], window[1], window[2], false, flip}, true);
  by_type(large, [&](auto zero) {
    using T = decltype(zero);
    conv_taps::weight_gradient(plan, sg::in<T>(large), sg::in<T>(small), static_cast<float>(gain), by_large,
                               sg::out<float>(gw), threads());
  });
#endif
  return gw;
}
#endif

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(stylegan2_ada, CompositeExplicitAutograd, m) {
  m.impl("conv_taps_supported", TORCH_BOX(&supported));
}

#if CONV_TAPS_FLOAT
STABLE_TORCH_LIBRARY_IMPL(stylegan2_ada, CPU, m) {
  m.impl("conv_taps", TORCH_BOX(&conv_taps_op));
  m.impl("conv_taps_wgrad", TORCH_BOX(&conv_taps_wgrad_op));
}
#endif
