// bias_act and its derivatives on the CPU: one pass over memory each, the arithmetic of bias_act.h.
#include "bias_act_cpu.h"

namespace sg {
namespace {

template <int A, typename S>
__attribute__((noinline)) void forward(const S* __restrict x, S* __restrict y, int64_t n, const S* __restrict b,
                                       bool vector, BiasActParams<S> p) {
  if (vector)
    for (int64_t i = 0; i < n; ++i) y[i] = bias_act_value<A>(x[i] + b[i], p);
  else
    for (int64_t i = 0; i < n; ++i) y[i] = bias_act_value<A>(x[i] + *b, p);
}

}  // namespace

template <typename S>
ForwardKernel<S> forward_kernel(int64_t act) {
  return by_act(act, [](auto a) -> ForwardKernel<S> { return &forward<decltype(a)::value, S>; });
}
template ForwardKernel<float> forward_kernel<float>(int64_t);
template ForwardKernel<double> forward_kernel<double>(int64_t);

namespace {

Tensor bias_act(const Tensor& x_, std::optional<Tensor> b, int64_t dim, int64_t act, double alpha, double gain,
                double clamp) {
  Tensor x = dense(x_), y = torch::stable::empty_like(x);
  if (x.numel() == 0) return y;
  by_dtype(x.scalar_type(), "bias_act", [&](auto zero) {
    using T = decltype(zero);
    using S = acc_t<T>;
    auto p = make_params<T>(alpha, gain, clamp);
    const T* xp = in<T>(x);
    T* yp = out<T>(y);
    Along v{1, 1, x.numel()};
    std::vector<S> bias(1);
    if (b.has_value()) {
      v = along(x, dim < 0 ? dim + x.dim() : dim);
      bias = to_vector<S>(*b, "bias_act");
      if (v.inner == 1) v.size = repeat(bias, v.size);
    }
    auto kernel = forward_kernel<S>(act);
    bool vector = v.inner == 1;
    parallel(x.numel(), 1, [&](int64_t begin, int64_t end) {
      by_block(
          end - begin, yp + begin,
          [&](int64_t at, int64_t m, S* yb, const S* xb) {
            for (int64_t i = 0, run; i < m; i += run) {
              int64_t flat = begin + at + i, from = flat % (vector ? v.size : v.inner);
              run = std::min(m - i, (vector ? v.size : v.inner) - from);
              kernel(xb + i, yb + i, run, &bias[vector ? from : flat / v.inner % v.size], vector, p);
            }
          },
          xp + begin);
    });
  });
  return y;
}

}  // namespace
}  // namespace sg

STABLE_TORCH_LIBRARY_IMPL(stylegan2_ada, CPU, m) { m.impl("bias_act", TORCH_BOX(&sg::bias_act)); }
