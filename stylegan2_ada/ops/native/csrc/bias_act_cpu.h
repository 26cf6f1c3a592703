// What the CPU kernels of bias_act and of the epilogue of modulated convolutions share.
#pragma once

#include "bias_act.h"
#include "blocks.h"
#include "cpu.h"

namespace sg {

// Kernels: plain functions for float or double that do a piece of a row, and that all dtypes, layouts and threads call.

// y[i] = clamp(gain * act(x[i] + b[i])), or + b[0] for all i unless `vector`.
template <typename S>
using ForwardKernel = void (*)(const S* x, S* y, int64_t n, const S* b, bool vector, BiasActParams<S> p);
template <typename S>
ForwardKernel<S> forward_kernel(int64_t act);

// gx[i] = gy[i] * dy/dx, from ref[i].
template <typename S>
using GradKernel = void (*)(const S* gy, const S* ref, S* gx, int64_t n, BiasActParams<S> p);
template <typename S>
GradKernel<S> grad_kernel(int64_t act, double alpha);

// Calls f(act) with the activation as a compile-time constant.
template <typename F>
auto by_act(int64_t act, F&& f) {
  switch (act) {
#define SG_CASE(A) \
  case A:          \
    return f(std::integral_constant<int, A>{});
    SG_CASE(LINEAR)
    SG_CASE(RELU)
    SG_CASE(LRELU)
    SG_CASE(TANH)
    SG_CASE(SIGMOID)
    SG_CASE(ELU)
    SG_CASE(SELU)
    SG_CASE(SOFTPLUS)
    SG_CASE(SWISH)
#undef SG_CASE
    default:
      STD_TORCH_CHECK(false, "stylegan2_ada: no activation has the number ", act);
  }
}

// As by_act, for what is read from `ref`: f(act, whether ref is the input of the activation, not the result).
template <typename F>
auto by_act_and_ref(int64_t act, double alpha, F&& f) {
  if (act == LRELU && alpha < 0) return f(std::integral_constant<int, LRELU>{}, std::true_type{});
  return by_act(act, [&](auto a) { return f(a, std::bool_constant<decltype(a)::value == SWISH>{}); });
}

template <typename T>
BiasActParams<acc_t<T>> make_params(double alpha, double gain, double clamp) {
  using S = acc_t<T>;
  S limit = std::numeric_limits<S>::quiet_NaN();
  if (clamp >= 0) limit = Num<T>::load(Num<T>::store(static_cast<S>(clamp)));
  return {static_cast<S>(alpha), static_cast<S>(gain), gain == 0 ? S(0) : static_cast<S>(1 / gain),
          clamp >= 0 ? static_cast<S>(clamp) : std::numeric_limits<S>::infinity(), limit};
}

// Repeats a short vector that lies along the fastest dimension, so that loops over it are long; returns its new size.
template <typename S>
int64_t repeat(std::vector<S>& v, int64_t size) {
  int64_t times = size < BLOCK ? BLOCK / size : 1;
  v.resize(times * size);
  for (int64_t i = size; i < times * size; ++i) v[i] = v[i - size];
  return times * size;
}

// The sum of n numbers. Sixteen partial sums let the loop run in vectors without the licence to reorder sums.
template <typename S>
S total(const S* __restrict x, int64_t n) {
  constexpr int LANES = 16;
  S sums[LANES] = {}, rest = S(0);
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    for (int l = 0; l < LANES; ++l) sums[l] += x[i + l];
  for (; i < n; ++i) rest += x[i];
  for (int l = 0; l < LANES; ++l) rest += sums[l];
  return rest;
}

template <typename S>
void accumulate(const S* __restrict x, S* __restrict sums, int64_t n) {
  for (int64_t i = 0; i < n; ++i) sums[i] += x[i];
}

}  // namespace sg
