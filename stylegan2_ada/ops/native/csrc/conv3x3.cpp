// 3x3 convolution with fewer multiplications than a direct one: of bfloat16 images on CPUs with AVX512-BF16 (Zen 4,
// Sapphire Rapids and later), of float32 images with AVX2 or AVX-512. stylegan2_ada/ops/conv3x3.py tells what the ops
// compute and defines their schemas.
#include "cpu.h"

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define CONV3X3_BF16 1
#include "conv3x3_passes.h"
#include "conv_fixed_ways.h"
#if CONV_FIXED
#include "conv_fixed_passes.h"
#include "conv_fixed_wgrad.h"
#endif
#else
#define CONV3X3_BF16 0
#define CONV_FIXED 0
#endif

#if (defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))) && defined(__unix__)
#define CONV3X3_FLOAT 1
#include "conv3x3_float.h"
#else
#define CONV3X3_FLOAT 0
#endif

namespace {

using sg::ScalarType;
using torch::stable::Tensor;

constexpr int64_t BF16 = 1, FLOAT = 2, FIXED = 4;

int64_t supported() { return CONV3X3_BF16 * BF16 + CONV3X3_FLOAT * FLOAT + CONV_FIXED * FIXED; }

#if CONV3X3_FLOAT
constexpr auto CHANNELS_LAST = torch::headeronly::MemoryFormat::ChannelsLast;

Tensor images(const Tensor& x, const char* name) {
  const bool known = x.scalar_type() == ScalarType::Float || (CONV3X3_BF16 && x.scalar_type() == ScalarType::BFloat16);
  STD_TORCH_CHECK(x.dim() == 4 && known, "stylegan2_ada::conv3x3: ", name, " must be ",
                  CONV3X3_BF16 ? "bfloat16 or float32" : "float32 (bfloat16 needs AVX512-BF16)", " [N, C, H, W]");
  return torch::stable::contiguous(x, CHANNELS_LAST);
}

const float* check_weights(const Tensor& w) {
  STD_TORCH_CHECK(w.dim() == 4 && w.scalar_type() == ScalarType::Float && w.size(2) == 3 && w.size(3) == 3,
                  "stylegan2_ada::conv3x3: w must be float32 [O, I, 3, 3]");
  return sg::in<float>(w);
}

int64_t threads() { return torch::stable::get_num_threads(); }

#if CONV3X3_BF16
conv3x3::Image describe(const Tensor& x) { return {x.size(0), x.size(1), x.size(2), x.size(3)}; }

void convolve(const Tensor& x, const float* w, int64_t o, int64_t i, float gain, bool transposed, const Tensor& y) {
#if CONV_FIXED
  using Way = conv_fixed::Plain;
  if (Way::pays(y.size(2), y.size(3))) {
    const conv_fixed::Image in{x.size(0), x.size(1), x.size(2), x.size(3)}, out{in.n, y.size(1), in.height, in.width};
    conv_fixed::convolve<Way>([&](Way) { return Way::grid(out.n, out.height, out.width); }, in, sg::in<uint16_t>(x),
                              {w, o, i, transposed, transposed}, gain, out, sg::out<uint16_t>(y), threads());
    return;
  }
#endif
  const conv3x3::WeightLayout layout(x.size(1), y.size(1));
  static thread_local sg::Scratch scratch;
  uint32_t* u = scratch.get<uint32_t>(layout.words());
  conv3x3::transform_weights(w, o, i, gain, transposed, threads(), u);
  conv3x3::convolve(describe(x), sg::in<uint16_t>(x), u, layout, sg::out<uint16_t>(y), threads());
}
#endif

Tensor conv3x3_op(const Tensor& x_, const Tensor& w_, double gain_, bool transposed) {
  const Tensor w = torch::stable::contiguous(w_), x = images(x_, "x");
  const float* data = check_weights(w);
  const int64_t o = w.size(0), i = w.size(1), in = transposed ? o : i, out = transposed ? i : o;
  STD_TORCH_CHECK(x.size(1) == in, "stylegan2_ada::conv3x3: the weights take ", in, " channels");
  const Tensor y = torch::stable::empty({x.size(0), out, x.size(2), x.size(3)}, x.scalar_type(), std::nullopt,
                                        x.device(), std::nullopt, CHANNELS_LAST);
  if (y.numel() == 0) return y;
  if (in == 0) return torch::stable::fill_(y, 0);
  const float gain = static_cast<float>(gain_);
#if CONV3X3_BF16
  if (x.scalar_type() == ScalarType::BFloat16) {
    convolve(x, data, o, i, gain, transposed, y);
    return y;
  }
#endif
  conv_float::convolve(conv_float::Plain(), x, {data, o, i, gain, transposed, transposed}, y, threads());
  return y;
}

Tensor conv3x3_wgrad_op(const Tensor& x_, const Tensor& gy_, double gain_) {
  const Tensor x = images(x_, "x"), gy = images(gy_, "gy");
  STD_TORCH_CHECK(x.scalar_type() == gy.scalar_type() && x.size(0) == gy.size(0) && x.size(2) == gy.size(2) &&
                      x.size(3) == gy.size(3),
                  "stylegan2_ada::conv3x3_wgrad: x and gy must have the same type, batch size, height and width");
  const Tensor gw = torch::stable::empty({gy.size(1), x.size(1), 3, 3}, ScalarType::Float, std::nullopt, x.device());
  if (gw.numel() == 0) return gw;
  if (x.numel() == 0) return torch::stable::fill_(gw, 0);
  const float gain = static_cast<float>(gain_);
  float* to = sg::out<float>(gw);
#if CONV_FIXED
  if (x.scalar_type() == ScalarType::BFloat16 && conv_fixed::PlainGradient::pays(x.size(2), x.size(3))) {
    const conv_fixed::Image in{x.size(0), x.size(1), x.size(2), x.size(3)}, out{in.n, gy.size(1), in.height, in.width};
    using Way = conv_fixed::PlainGradient;
    const conv_fixed::Side<Way::Large> large{in, sg::in<uint16_t>(x), 1, 1};
    const conv_fixed::Side<Way::Small> small{out, sg::in<uint16_t>(gy), 0, 0};
    conv_fixed::weight_gradient<Way>(large, small, out.height, out.width, gain, false, to, threads());
    return gw;
  }
#endif
#if CONV3X3_BF16
  if (x.scalar_type() == ScalarType::BFloat16) {
    conv3x3::weight_gradient(describe(x), sg::in<uint16_t>(x), describe(gy), sg::in<uint16_t>(gy), gain, to,
                             threads());
    return gw;
  }
#endif
  conv_float::weight_gradient(conv_float::Plain(), conv_float::images(x), conv_float::images(gy), gain, false, false, to,
                              threads());
  return gw;
}
#endif

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(stylegan2_ada, CompositeExplicitAutograd, m) {
  m.impl("conv3x3_supported", TORCH_BOX(&supported));
}

#if CONV3X3_FLOAT
STABLE_TORCH_LIBRARY_IMPL(stylegan2_ada, CPU, m) {
  m.impl("conv3x3", TORCH_BOX(&conv3x3_op));
  m.impl("conv3x3_wgrad", TORCH_BOX(&conv3x3_wgrad_op));
}
#endif
