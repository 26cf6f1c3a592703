// Sums over each kernel of convolution weights, and factors on each kernel, on the CPU: stylegan2_ada/ops/kernel_sums.py
// tells what the ops compute and defines their schemas.
#include "cpu.h"

namespace {

using sg::ScalarType;
using torch::stable::Tensor;

struct Kernels {
  int64_t count, taps;
};

Kernels check(const Tensor& a, const char* op) {
  STD_TORCH_CHECK(a.dim() == 4 && a.scalar_type() == ScalarType::Float, "stylegan2_ada::", op,
                  " takes float32 weights [O, I, kh, kw]");
  return {a.size(0) * a.size(1), a.size(2) * a.size(3)};
}

// Calls f with the number of taps, as a constant where it is 3 x 3.
template <typename F>
void by_taps(const Kernels& k, const F& f) {
  const auto part = [&](auto taps) {
    sg::parallel(k.count, k.taps, [&](int64_t begin, int64_t end) { f(begin, end, taps); });
  };
  k.taps == 9 ? part(std::integral_constant<int64_t, 9>{}) : part(k.taps);
}

Tensor kernel_dot(const Tensor& a_, const Tensor& b_) {
  const Tensor a = torch::stable::contiguous(a_), b = torch::stable::contiguous(b_);
  const Kernels k = check(a, "kernel_dot");
  check(b, "kernel_dot");
  for (int i = 0; i < 4; i++)
    STD_TORCH_CHECK(a.size(i) == b.size(i), "stylegan2_ada::kernel_dot: the weights must have the same shape");
  const Tensor y = torch::stable::empty({a.size(0), a.size(1)}, ScalarType::Float, std::nullopt, a.device());
  const float *pa = sg::in<float>(a), *pb = sg::in<float>(b);
  float* out = sg::out<float>(y);
  by_taps(k, [=](int64_t begin, int64_t end, auto taps) {
    for (int64_t i = begin; i < end; i++) {
      float sum = 0;
      for (int64_t t = 0; t < taps; t++) sum += pa[i * taps + t] * pb[i * taps + t];
      out[i] = sum;
    }
  });
  return y;
}

// The weights a, factors s and their number, where these fit.
Kernels check_factors(const Tensor& a, const Tensor& s, const char* op) {
  const Kernels k = check(a, op);
  STD_TORCH_CHECK(s.dim() == 2 && s.scalar_type() == ScalarType::Float && s.size(0) == a.size(0) && s.size(1) == a.size(1),
                  "stylegan2_ada::", op, ": factors must be float32 [", a.size(0), ", ", a.size(1), "]");
  return k;
}

Tensor kernel_scale(const Tensor& a_, const Tensor& s_) {
  const Tensor a = torch::stable::contiguous(a_), s = torch::stable::contiguous(s_);
  const Kernels k = check_factors(a, s, "kernel_scale");
  const Tensor y = torch::stable::empty(a.sizes(), ScalarType::Float, std::nullopt, a.device());
  const float *pa = sg::in<float>(a), *ps = sg::in<float>(s);
  float* out = sg::out<float>(y);
  by_taps(k, [=](int64_t begin, int64_t end, auto taps) {
    for (int64_t i = begin; i < end; i++)
      for (int64_t t = 0; t < taps; t++) out[i * taps + t] = pa[i * taps + t] * ps[i];
  });
  return y;
}

void kernel_scale_add_(const Tensor& y, const Tensor& a_, const Tensor& s_) {
  const Tensor a = torch::stable::contiguous(a_), s = torch::stable::contiguous(s_);
  const Kernels k = check_factors(a, s, "kernel_scale_add_");
  check(y, "kernel_scale_add_");
  STD_TORCH_CHECK(y.is_contiguous() && y.numel() == a.numel(),
                  "stylegan2_ada::kernel_scale_add_ adds to contiguous weights of the same size");
  const float *pa = sg::in<float>(a), *ps = sg::in<float>(s);
  float* out = sg::out<float>(y);
  by_taps(k, [=](int64_t begin, int64_t end, auto taps) {
    for (int64_t i = begin; i < end; i++)
      for (int64_t t = 0; t < taps; t++) out[i * taps + t] += pa[i * taps + t] * ps[i];
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(stylegan2_ada, CPU, m) {
  m.impl("kernel_dot", TORCH_BOX(&kernel_dot));
  m.impl("kernel_scale", TORCH_BOX(&kernel_scale));
  m.impl("kernel_scale_add_", TORCH_BOX(&kernel_scale_add_));
}
