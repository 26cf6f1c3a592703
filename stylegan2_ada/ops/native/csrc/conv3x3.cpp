// 3x3 convolution of bfloat16 images on CPUs with AVX512-BF16 (Zen 4, Sapphire Rapids and later), with fewer
// multiplications than a direct one: stylegan2_ada/ops/conv3x3.py tells what the ops compute and defines their schemas.
#include "cpu.h"

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define CONV3X3_SUPPORTED 1
#include "conv3x3_passes.h"
#else
#define CONV3X3_SUPPORTED 0
#endif

namespace {

using sg::ScalarType;
using torch::stable::Tensor;

bool supported() { return CONV3X3_SUPPORTED; }

#if CONV3X3_SUPPORTED
constexpr auto CHANNELS_LAST = torch::headeronly::MemoryFormat::ChannelsLast;

Tensor images(const Tensor& x, const char* name) {
  STD_TORCH_CHECK(x.dim() == 4 && x.scalar_type() == ScalarType::BFloat16, "stylegan2_ada::conv3x3: ", name,
                  " must be bfloat16 [N, C, H, W]");
  return torch::stable::contiguous(x, CHANNELS_LAST);
}

conv3x3::Image describe(const Tensor& x) { return {x.size(0), x.size(1), x.size(2), x.size(3)}; }

const float* check_weights(const Tensor& w) {
  STD_TORCH_CHECK(w.dim() == 4 && w.scalar_type() == ScalarType::Float && w.size(2) == 3 && w.size(3) == 3,
                  "stylegan2_ada::conv3x3: w must be float32 [O, I, 3, 3]");
  return sg::in<float>(w);
}

int64_t threads() { return torch::stable::get_num_threads(); }

// conv(x, w) for weights that `weights(layout)` gives when they are needed.
template <typename F>
Tensor convolve(const Tensor& x_, int64_t out, const F& weights) {
  const Tensor x = images(x_, "x");
  const Tensor y = torch::stable::empty({x.size(0), out, x.size(2), x.size(3)}, ScalarType::BFloat16, std::nullopt,
                                        x.device(), std::nullopt, CHANNELS_LAST);
  if (y.numel() == 0) return y;
  if (x.size(1) == 0) return torch::stable::fill_(y, 0);
  const conv3x3::WeightLayout layout(x.size(1), out);
  conv3x3::convolve(describe(x), sg::in<uint16_t>(x), weights(layout), layout, sg::out<uint16_t>(y), threads());
  return y;
}

Tensor conv3x3_op(const Tensor& x, const Tensor& w_, double gain, bool transposed) {
  const Tensor w = torch::stable::contiguous(w_);
  const float* data = check_weights(w);
  const int64_t o = w.size(0), i = w.size(1), in = transposed ? o : i;
  STD_TORCH_CHECK(x.dim() == 4 && x.size(1) == in, "stylegan2_ada::conv3x3: the weights take ", in, " channels");
  return convolve(x, transposed ? i : o, [&](const conv3x3::WeightLayout& layout) -> const uint32_t* {
    static thread_local sg::Scratch scratch;
    uint32_t* u = scratch.get<uint32_t>(layout.words());
    conv3x3::transform_weights(data, o, i, static_cast<float>(gain), transposed, threads(), u);
    return u;
  });
}

Tensor conv3x3_prepare_op(const Tensor& w_, double gain, bool transposed) {
  const Tensor w = torch::stable::contiguous(w_);
  const float* data = check_weights(w);
  const int64_t o = w.size(0), i = w.size(1);
  const conv3x3::WeightLayout layout(transposed ? o : i, transposed ? i : o);
  const Tensor u = torch::stable::empty({layout.words()}, ScalarType::Int, std::nullopt, w.device());
  if (w.numel())
    conv3x3::transform_weights(data, o, i, static_cast<float>(gain), transposed, threads(), sg::out<uint32_t>(u));
  return u;
}

Tensor conv3x3_apply_op(const Tensor& x, const Tensor& u_, int64_t out) {
  const Tensor u = torch::stable::contiguous(u_);
  return convolve(x, out, [&](const conv3x3::WeightLayout& layout) -> const uint32_t* {
    STD_TORCH_CHECK(u.scalar_type() == ScalarType::Int && u.numel() == layout.words(),
                    "stylegan2_ada::conv3x3_apply: u is not of conv3x3_prepare for weights of ", out, " x ", x.size(1),
                    " channels");
    return sg::in<uint32_t>(u);
  });
}

Tensor conv3x3_wgrad_op(const Tensor& x_, const Tensor& gy_, double gain) {
  const Tensor x = images(x_, "x"), gy = images(gy_, "gy");
  STD_TORCH_CHECK(x.size(0) == gy.size(0) && x.size(2) == gy.size(2) && x.size(3) == gy.size(3),
                  "stylegan2_ada::conv3x3_wgrad: x and gy must have the same batch size, height and width");
  const Tensor gw = torch::stable::empty({gy.size(1), x.size(1), 3, 3}, ScalarType::Float, std::nullopt, x.device());
  if (gw.numel() == 0) return gw;
  if (x.numel() == 0) return torch::stable::fill_(gw, 0);
  conv3x3::weight_gradient(describe(x), sg::in<uint16_t>(x), describe(gy), sg::in<uint16_t>(gy),
                           static_cast<float>(gain), sg::out<float>(gw), threads());
  return gw;
}
#endif

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(stylegan2_ada, CompositeExplicitAutograd, m) {
  m.impl("conv3x3_supported", TORCH_BOX(&supported));
}

#if CONV3X3_SUPPORTED
STABLE_TORCH_LIBRARY_IMPL(stylegan2_ada, CPU, m) {
  m.impl("conv3x3", TORCH_BOX(&conv3x3_op));
  m.impl("conv3x3_wgrad", TORCH_BOX(&conv3x3_wgrad_op));
  m.impl("conv3x3_prepare", TORCH_BOX(&conv3x3_prepare_op));
  m.impl("conv3x3_apply", TORCH_BOX(&conv3x3_apply_op));
}
#endif
