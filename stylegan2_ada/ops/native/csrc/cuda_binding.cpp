// The operators on CUDA tensors where nvcc compiled the kernels: checks, memory for the results, launches. The same in
// Python, for kernels that NVRTC compiled: ../cuda_ops.py.
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "cpu.h"
#include "cuda_plan.h"

extern "C" {
// At the end of each .cu file; a cudaError_t.
int sg_launch_upfirdn2d(int dtype, const sg::Launch* what, const sg::UpfirdnArgs* args, void* stream);
int sg_launch_bias_act(int dtype, const sg::Launch* what, const sg::PointwiseArgs* args, void* stream);
int sg_launch_modconv(int dtype, const sg::Launch* what, const sg::EpilogueArgs* args, void* stream);
int sg_launch_modconv_finish(int dtype, const sg::Launch* what, const sg::FinishArgs* args, void* stream);
}

namespace sg {
namespace {

using torch::headeronly::MemoryFormat;
using torch::stable::empty_like;
using torch::stable::accelerator::DeviceGuard;
typedef std::optional<Tensor> Maybe;

int code_of(const Tensor& x, const char* op) {
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return 0;
    case ScalarType::Double:
      return 1;
    case ScalarType::BFloat16:
      return 2;
    case ScalarType::Half:
      return 3;
    default:
      STD_TORCH_CHECK(false, "stylegan2_ada::", op, " takes float32, float64, bfloat16 or float16");
  }
}

const void* at(const Tensor& t) { return t.const_data_ptr(); }
bool is_aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

int processors(int device) {
  static int counts[256] = {};  // two threads may both find out
  if (device >= 256) device = 255;
  if (counts[device] == 0) cudaDeviceGetAttribute(&counts[device], cudaDevAttrMultiProcessorCount, device);
  return counts[device] > 0 ? counts[device] : 1;
}

void* stream_of(const Tensor& x) {
  void* stream;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
  return stream;
}

void check(int error, const char* op) {
  STD_TORCH_CHECK(error == 0, "launching stylegan2_ada::", op, " failed: ",
                  cudaGetErrorString(static_cast<cudaError_t>(error)));
}

ScalarType sum_type(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

Tensor upfirdn2d(const Tensor& images, const Tensor& taps, int64_t up_x, int64_t up_y, int64_t down_x, int64_t down_y,
                 int64_t pad_x, int64_t pad_y, int64_t out_h, int64_t out_w, bool flip, double gain) {
  const int dtype = code_of(images, "upfirdn2d");
  const bool wide = taps.scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK(images.dim() == 4 && taps.numel() > 0 && (taps.dim() == 1 || taps.dim() == 2) &&
                      (wide || taps.scalar_type() == ScalarType::Float) &&
                      taps.get_device_index() == images.get_device_index() && !taps.is_cpu(),
                  "stylegan2_ada::upfirdn2d takes [N, C, H, W] and a float32 or float64 filter on one device");
  STD_TORCH_CHECK(std::min({up_x, up_y, down_x, down_y}) >= 1, "stylegan2_ada::upfirdn2d takes factors of at least 1");
  const DeviceGuard guard(images.get_device_index());
  const int64_t n = images.size(0), c = images.size(1);
  const bool last = c > 1 && images.stride(1) == 1 && !images.is_contiguous();
  const Tensor x = torch::stable::contiguous(images, last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
  const Tensor f = torch::stable::contiguous(taps);
  const int64_t sizes[4] = {n, c, out_h, out_w};
  const int64_t nchw[4] = {c * out_h * out_w, out_h * out_w, out_w, 1}, nhwc[4] = {c * out_h * out_w, 1, out_w * c, c};
  AtenTensorHandle handle;
  int32_t type;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(x.get(), &type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(4, sizes, last ? nhwc : nchw, type,
                                                         aoti_torch_device_type_cuda(), x.get_device_index(), &handle));
  Tensor y(handle);
  if (y.numel() == 0) return y;
  UpfirdnArgs a = {};
  a.x = at(x);
  a.f = at(f);
  a.y = y.mutable_data_ptr();
  a.gain = gain;
  a.planes = static_cast<int>(last ? n : n * c);
  a.c = static_cast<int>(last ? c : 1);
  a.h = static_cast<int>(x.size(2));
  a.w = static_cast<int>(x.size(3));
  a.oh = static_cast<int>(out_h);
  a.ow = static_cast<int>(out_w);
  a.up_x = static_cast<int>(up_x);
  a.up_y = static_cast<int>(up_y);
  a.down_x = static_cast<int>(down_x);
  a.down_y = static_cast<int>(down_y);
  a.pad_x = static_cast<int>(pad_x);
  a.pad_y = static_cast<int>(pad_y);
  a.taps_x = static_cast<int>(f.size(f.dim() - 1));
  a.taps_y = static_cast<int>(f.size(0));
  a.separable = f.dim() == 1;
  a.f_double = wide;
  a.flip = flip;
  const Launch what = plan_upfirdn2d(a, dtype, is_aligned(a.x), processors(x.get_device_index()));
  check(sg_launch_upfirdn2d(dtype, &what, &a, stream_of(x)), "upfirdn2d");
  return y;
}

// A bias, factor or noise as kernels take it.
struct Operand {
  Tensor kept;
  const void* at = nullptr;
  bool wide = false;

  Operand(const Maybe& t, const Tensor& x, bool always_wide = false) {
    if (!t.has_value()) return;
    STD_TORCH_CHECK(!t->is_cpu() && t->get_device_index() == x.get_device_index(),
                    "stylegan2_ada: operands are on different devices");
    const bool half = x.scalar_type() == ScalarType::BFloat16 || x.scalar_type() == ScalarType::Half;
    wide = half && (always_wide || t->scalar_type() != x.scalar_type());
    const ScalarType type = wide ? ScalarType::Float : x.scalar_type();
    kept = t->scalar_type() == type ? *t : torch::stable::to(*t, type);
    kept = torch::stable::contiguous(kept);
    if (!is_aligned(sg::at(kept))) kept = torch::stable::clone(kept);
    at = sg::at(kept);
  }
};

// order: 0 bias_act, 1 and 2 its derivatives. All arrays lie as `x` does.
Tensor pointwise(int order, const Tensor& x, const Maybe& x2, const Maybe& ref, const Maybe& bias, int64_t dim,
                 int64_t act, double alpha, double gain, double clamp) {
  const int dtype = code_of(x, "bias_act");
  Tensor y = empty_like(x);
  const int64_t total = x.numel();
  if (total == 0) return y;
  const Operand b(bias, x);
  int64_t size = 1, inner = total;
  if (b.at) {
    const Along v = along(x, dim < 0 ? dim + x.dim() : dim);
    size = v.size;
    inner = v.inner;
  }
  const int64_t bytes = bytes_of(dtype), b_bytes = b.wide ? 4 : bytes;
  const auto moved = [&](const void* p, int64_t by) -> const void* {
    return p ? static_cast<const char*>(p) + by : nullptr;
  };
  for (int64_t start = 0; start < total;) {
    Piece piece = {0, total, 0, size, inner};
    if (total > LIMIT) piece = next_piece(start, total, size, inner, LIMIT);
    PointwiseArgs a = {};
    a.x = moved(at(x), piece.start * bytes);
    a.x2 = moved(x2.has_value() ? at(*x2) : nullptr, piece.start * bytes);
    a.ref = moved(ref.has_value() ? at(*ref) : nullptr, piece.start * bytes);
    a.b = moved(b.at, piece.channel * b_bytes);
    a.y = const_cast<void*>(moved(y.mutable_data_ptr(), piece.start * bytes));
    a.alpha = alpha;
    a.gain = gain;
    a.inv_gain = gain == 0 ? 0 : 1 / gain;
    a.clamp = clamp;
    a.act = static_cast<int>(act);
    a.wide = b.wide;
    a.aligned = is_aligned(a.x) && is_aligned(a.x2) && is_aligned(a.ref) && is_aligned(a.y) && is_aligned(a.b);
    const Launch what = plan_bias_act(a, order, dtype, piece.elements, piece.size, piece.inner);
    check(sg_launch_bias_act(dtype, &what, &a, stream_of(x)), "bias_act");
    start += piece.elements;
  }
  return y;
}

void check_act(int64_t act) { STD_TORCH_CHECK(act >= 0 && act <= 8, "stylegan2_ada: no activation has the number ", act); }

void check_like(const Tensor& a, const Tensor& b) {
  bool same = a.dim() == b.dim() && a.scalar_type() == b.scalar_type() && !a.is_cpu() &&
              a.get_device_index() == b.get_device_index();
  for (int64_t i = 0; same && i < a.dim(); ++i) same = a.size(i) == b.size(i);
  STD_TORCH_CHECK(same, "stylegan2_ada: two tensors that belong together differ in shape, dtype or device");
}

Tensor bias_act(const Tensor& x, Maybe b, int64_t dim, int64_t act, double alpha, double gain, double clamp) {
  check_act(act);
  const DeviceGuard guard(x.get_device_index());
  return pointwise(0, dense(x), {}, {}, b, dim, act, alpha, gain, clamp);
}

Tensor bias_act_grad(const Tensor& gy, const Tensor& ref_, int64_t act, double alpha, double gain, double clamp) {
  check_act(act);
  check_like(gy, ref_);
  const DeviceGuard guard(ref_.get_device_index());
  const Tensor ref = dense(ref_);
  return pointwise(1, laid_out(gy, ref), {}, ref, {}, 0, act, alpha, gain, clamp);
}

Tensor bias_act_grad2(const Tensor& ggx, const Tensor& gy, const Tensor& ref_, int64_t act, double alpha, double gain,
                      double clamp) {
  check_act(act);
  check_like(gy, ref_);
  check_like(ggx, ref_);
  const DeviceGuard guard(ref_.get_device_index());
  const Tensor ref = dense(ref_);
  return pointwise(2, laid_out(gy, ref), laid_out(ggx, ref), ref, {}, 0, act, alpha, gain, clamp);
}

bool is_straight(int64_t act, double alpha) { return act < 2 || (act == 2 && alpha >= 0); }

// What an epilogue works on.
struct Images {
  int64_t n, c, pixels;
  bool last;  // channels
};

bool is_layout(const Tensor& x, std::array<int64_t, 4> order) {
  int64_t expected = 1;
  for (int64_t k : order) {
    if (x.size(k) > 1 && x.stride(k) != expected) return false;
    expected *= x.size(k);
  }
  return true;
}

bool is_last(const Tensor& x) { return x.numel() > 0 && !x.is_contiguous() && is_layout(x, {1, 3, 2, 0}); }
Tensor regular(const Tensor& x) {
  return x.numel() == 0 || x.is_contiguous() || is_last(x) ? x : torch::stable::contiguous(x);
}
Images images(const Tensor& x) { return {x.size(0), x.size(1), x.size(2) * x.size(3), is_last(x)}; }

EpilogueArgs arguments(const Images& v, int64_t act, double alpha, double gain, double clamp, const Operand& d,
                       const Operand& noise, bool noise_each, const Operand& b) {
  EpilogueArgs a = {};
  a.d = d.at;
  a.noise = noise.at;
  a.b = b.at;
  a.alpha = alpha;
  a.gain = gain;
  a.inv_gain = gain == 0 ? 0 : 1 / gain;
  a.clamp = clamp;
  a.act = static_cast<int>(act);
  a.n = static_cast<int>(v.n);
  a.c = static_cast<int>(v.c);
  a.pixels = static_cast<int>(v.pixels);
  a.noise_wide = noise.wide;
  a.b_wide = b.wide;
  a.noise_each = noise_each;
  return a;
}

Tensor modconv_epilogue(const Tensor& y_, Maybe d_, Maybe noise_, Maybe b_, int64_t act, double alpha, double gain,
                        double clamp) {
  check_act(act);
  const int dtype = code_of(y_, "modconv_epilogue");
  const DeviceGuard guard(y_.get_device_index());
  const Tensor y = regular(y_);
  Tensor out = empty_like(y);
  if (y.numel() == 0) return out;
  const Images v = images(y);
  const Operand d(d_, y, true), noise(noise_, y), b(b_, y);
  EpilogueArgs a = arguments(v, act, alpha, gain, clamp, d, noise, noise.at && noise_->size(0) > 1, b);
  a.y = at(y);
  a.result = out.mutable_data_ptr();
  const Launch what = plan_epilogue(a, false, v.last, dtype, is_aligned(a.y) && is_aligned(a.result),
                                    processors(y.get_device_index()));
  check(sg_launch_modconv(dtype, &what, &a, stream_of(y)), "modconv_epilogue");
  return out;
}

// Fills gy and those of gd, gb, gn that are given.
void epilogue_grad(const Images& v, const Tensor& g, const Tensor& out, const Maybe& y, const Maybe& d_,
                   const Maybe& noise_, const Maybe& b_, Tensor& gy, Tensor* gd, Tensor* gb, Tensor* gn, int64_t act,
                   double alpha, double gain, double clamp) {
  const int dtype = code_of(out, "modconv_epilogue_grad");
  const Operand d(d_, out, true), noise(noise_, out), b(b_, out);
  const bool each = noise.at && noise_->size(0) > 1;
  EpilogueArgs a = arguments(v, act, alpha, gain, clamp, d, noise, each, b);
  a.y = y.has_value() ? at(*y) : nullptr;
  a.out = at(out);
  a.g = at(g);
  a.result = gy.mutable_data_ptr();
  const bool aligned = is_aligned(a.y) && is_aligned(a.out) && is_aligned(a.g) && is_aligned(a.result);
  const Launch what = plan_epilogue(a, true, v.last, dtype, aligned, processors(out.get_device_index()));
  const int64_t by_channel = v.n * v.c * a.pieces, by_pixel = v.n * a.groups * v.pixels;
  const int64_t dots = gd ? by_channel : 0, sums = gb ? by_channel : 0;
  Tensor scratch = torch::stable::new_empty(out, {dots + sums + (gn ? by_pixel : 0)}, sum_type(out));
  char* to = static_cast<char*>(scratch.mutable_data_ptr());
  const int64_t bytes = dtype == 1 ? 8 : 4;
  a.dots = gd ? to : nullptr;
  a.sums = gb ? to + dots * bytes : nullptr;
  a.by_pixel = gn ? to + (dots + sums) * bytes : nullptr;
  void* stream = stream_of(out);
  check(sg_launch_modconv(dtype, &what, &a, stream), "modconv_epilogue_grad");
  if (!gd && !gb && !gn) return;
  FinishArgs f = {};
  f.dots = a.dots;
  f.sums = a.sums;
  f.by_pixel = a.by_pixel;
  f.d = d.at;
  f.gd = gd ? gd->mutable_data_ptr() : nullptr;
  f.gb = gb ? gb->mutable_data_ptr() : nullptr;
  f.gn = gn ? gn->mutable_data_ptr() : nullptr;
  f.divide = d.at && !a.y;
  f.n = a.n;
  f.c = a.c;
  f.pixels = a.pixels;
  f.groups = a.groups;
  f.pieces = a.pieces;
  f.noise_each = each;
  const Launch then = plan_finish(f);
  check(sg_launch_modconv_finish(dtype, &then, &f, stream), "modconv_epilogue_grad");
}

std::tuple<Tensor, Tensor> bias_act_grad_bias(const Tensor& gy_, const Tensor& ref_, int64_t dim, int64_t act,
                                              double alpha, double gain, double clamp) {
  check_act(act);
  check_like(gy_, ref_);
  const DeviceGuard guard(ref_.get_device_index());
  const Tensor ref = dense(ref_);
  dim = dim < 0 ? dim + ref.dim() : dim;
  Tensor g = laid_out(gy_, ref), out = ref;
  if (!is_straight(act, alpha)) {  // sums of what the other kernel makes
    g = out = pointwise(1, g, {}, ref, {}, 0, act, alpha, gain, clamp);
    act = 0, alpha = 0, gain = 1, clamp = -1;
  }
  Tensor gx = empty_like(ref), gb = torch::stable::new_zeros(ref, {ref.size(dim)}, sum_type(ref));
  if (ref.numel() == 0) return {gx, gb};
  const Along v = along(ref, dim);
  const Images shape = v.inner == 1 ? Images{1, v.size, v.outer, true} : Images{v.outer, v.size, v.inner, false};
  epilogue_grad(shape, g, out, {}, {}, {}, {}, gx, nullptr, &gb, nullptr, act, alpha, gain, clamp);
  return {gx, gb};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> modconv_epilogue_grad(const Tensor& g_, const Tensor& out_, Maybe y, Maybe d,
                                                                 Maybe noise, Maybe b, int64_t act, double alpha,
                                                                 double gain, double clamp) {
  check_act(act);
  check_like(g_, out_);
  const DeviceGuard guard(out_.get_device_index());
  const Tensor out = regular(out_);
  Tensor g = laid_out(g_, out);
  if (!is_straight(act, alpha)) {
    g = pointwise(1, g, {}, out, {}, 0, act, alpha, gain, clamp);
    act = 0, alpha = 0, gain = 1, clamp = -1;
  }
  if (y.has_value()) {
    check_like(*y, out);
    y = laid_out(*y, out);
  }
  const Images v = images(out);
  const ScalarType wide = sum_type(out);
  const int64_t h = out.size(2), w = out.size(3);
  Tensor gy = empty_like(out);
  Tensor gd = torch::stable::new_zeros(out, {d.has_value() ? v.n : 0, v.c}, wide);
  Tensor gn = torch::stable::new_zeros(out, {noise.has_value() ? noise->size(0) : 0, 1, h, w}, wide);
  Tensor gb = torch::stable::new_zeros(out, {b.has_value() ? v.c : 0}, wide);
  if (out.numel() > 0)
    epilogue_grad(v, g, out, y, d, noise, b, gy, d.has_value() ? &gd : nullptr, b.has_value() ? &gb : nullptr,
                  noise.has_value() ? &gn : nullptr, act, alpha, gain, clamp);
  return {gy, gd, gn, gb};
}

}  // namespace
}  // namespace sg

STABLE_TORCH_LIBRARY_IMPL(stylegan2_ada, CUDA, m) {
  m.impl("upfirdn2d", TORCH_BOX(&sg::upfirdn2d));
  m.impl("bias_act", TORCH_BOX(&sg::bias_act));
  m.impl("bias_act_grad", TORCH_BOX(&sg::bias_act_grad));
  m.impl("bias_act_grad2", TORCH_BOX(&sg::bias_act_grad2));
  m.impl("bias_act_grad_bias", TORCH_BOX(&sg::bias_act_grad_bias));
  m.impl("modconv_epilogue", TORCH_BOX(&sg::modconv_epilogue));
  m.impl("modconv_epilogue_grad", TORCH_BOX(&sg::modconv_epilogue_grad));
}
