// First and second derivatives of bias_act on the CPU; see ops/bias_act_native.py for what they are.
#include "bias_act_cpu.h"

namespace sg {
namespace {

template <int A, bool IN, typename S>
__attribute__((noinline)) void grad(const S* __restrict gy, const S* __restrict ref, S* __restrict gx, int64_t n,
                                    BiasActParams<S> p) {
  for (int64_t i = 0; i < n; ++i) gx[i] = gy[i] * bias_act_slope<A, IN>(ref[i], p);
}

template <int A, bool IN, typename S>
__attribute__((noinline)) void grad2(const S* __restrict ggx, const S* __restrict gy, const S* __restrict ref,
                                     S* __restrict gr, int64_t n, BiasActParams<S> p) {
  for (int64_t i = 0; i < n; ++i) gr[i] = ggx[i] * gy[i] * bias_act_bend<A, IN>(ref[i], p);
}

}  // namespace

template <typename S>
GradKernel<S> grad_kernel(int64_t act, double alpha) {
  return by_act_and_ref(
      act, alpha, [](auto a, auto in) -> GradKernel<S> { return &grad<decltype(a)::value, decltype(in)::value, S>; });
}
template GradKernel<float> grad_kernel<float>(int64_t, double);
template GradKernel<double> grad_kernel<double>(int64_t, double);

namespace {

Tensor bias_act_grad(const Tensor& gy_, const Tensor& ref_, int64_t act, double alpha, double gain, double clamp) {
  Tensor ref = dense(ref_), gy = laid_out(gy_, ref), gx = torch::stable::empty_like(ref);
  if (ref.numel() == 0) return gx;
  by_dtype(ref.scalar_type(), "bias_act_grad", [&](auto zero) {
    using T = decltype(zero);
    auto p = make_params<T>(alpha, gain, clamp);
    const T *g = in<T>(gy), *r = in<T>(ref);
    T* o = out<T>(gx);
    auto kernel = grad_kernel<acc_t<T>>(act, alpha);
    parallel(ref.numel(), 1, [&](int64_t i, int64_t end) {
      using S = acc_t<T>;
      auto f = [&](int64_t, int64_t m, S* ob, const S* gb, const S* rb) { kernel(gb, rb, ob, m, p); };
      by_block(end - i, o + i, f, g + i, r + i);
    });
  });
  return gx;
}

std::tuple<Tensor, Tensor> bias_act_grad_bias(const Tensor& gy_, const Tensor& ref_, int64_t dim, int64_t act,
                                              double alpha, double gain, double clamp) {
  Tensor ref = dense(ref_), gy = laid_out(gy_, ref), gx = torch::stable::empty_like(ref);
  dim = dim < 0 ? dim + ref.dim() : dim;
  bool wide = ref.scalar_type() == ScalarType::Double;
  Tensor gb = torch::stable::new_zeros(ref, {ref.size(dim)}, wide ? ScalarType::Double : ScalarType::Float);
  if (ref.numel() == 0) return {gx, gb};
  by_dtype(ref.scalar_type(), "bias_act_grad_bias", [&](auto zero) {
    using T = decltype(zero);
    using S = acc_t<T>;
    auto p = make_params<T>(alpha, gain, clamp);
    auto v = along(ref, dim);
    const T *g = in<T>(gy), *r = in<T>(ref);
    T* o = out<T>(gx);
    // Elements are summed in pieces that are the same for any number of threads, and so are the sums. A piece is some
    // planes that belong to one channel each, or some rows that hold all channels.
    bool planes = v.inner > 1;
    int64_t row = planes ? v.inner : v.size;
    int64_t rows = v.outer * (planes ? v.size : 1), per_piece = std::max<int64_t>(1, (planes ? BLOCK : GRAIN) / row);
    int64_t pieces = (rows + per_piece - 1) / per_piece;
    std::vector<S> sums(planes ? rows : pieces * v.size);
    auto kernel = grad_kernel<S>(act, alpha);
    parallel(pieces, per_piece * row, [&](int64_t piece, int64_t end) {
      for (; piece < end; ++piece) {
        int64_t first = piece * per_piece * row, last = std::min(rows, (piece + 1) * per_piece) * row;
        by_block(
            last - first, o + first,
            [&](int64_t at, int64_t m, S* ob, const S* gb, const S* rb) {
              for (int64_t i = 0, run; i < m; i += run) {  // short runs: still in the cache when they are summed
                int64_t flat = first + at + i, from = flat % row;
                run = std::min({m - i, row - from, 4 * BLOCK});
                kernel(gb + i, rb + i, ob + i, run, p);
                if (planes)
                  sums[flat / row] += total(ob + i, run);
                else
                  accumulate(ob + i, &sums[piece * v.size + from], run);
              }
            },
            g + first, r + first);
      }
    });
    S* channel = out<S>(gb);
    for (size_t i = 0; i < sums.size(); i += v.size) accumulate(&sums[i], channel, v.size);
  });
  return {gx, gb};
}

Tensor bias_act_grad2(const Tensor& ggx_, const Tensor& gy_, const Tensor& ref_, int64_t act, double alpha, double gain,
                      double clamp) {
  Tensor ref = dense(ref_), gy = laid_out(gy_, ref), ggx = laid_out(ggx_, ref), gr = torch::stable::empty_like(ref);
  if (ref.numel() == 0) return gr;
  by_dtype(ref.scalar_type(), "bias_act_grad2", [&](auto zero) {
    using T = decltype(zero);
    auto p = make_params<T>(alpha, gain, clamp);
    const T *gg = in<T>(ggx), *g = in<T>(gy), *r = in<T>(ref);
    T* o = out<T>(gr);
    using S = acc_t<T>;
    auto kernel =
        by_act_and_ref(act, alpha, [](auto a, auto in) { return &grad2<decltype(a)::value, decltype(in)::value, S>; });
    parallel(ref.numel(), 1, [&](int64_t i, int64_t end) {
      auto f = [&](int64_t, int64_t m, S* ob, const S* ggb, const S* gb, const S* rb) {
        kernel(ggb, gb, rb, ob, m, p);
      };
      by_block(end - i, o + i, f, gg + i, g + i, r + i);
    });
  });
  return gr;
}

}  // namespace
}  // namespace sg

STABLE_TORCH_LIBRARY_IMPL(stylegan2_ada, CPU, m) {
  m.impl("bias_act_grad", TORCH_BOX(&sg::bias_act_grad));
  m.impl("bias_act_grad_bias", TORCH_BOX(&sg::bias_act_grad_bias));
  m.impl("bias_act_grad2", TORCH_BOX(&sg::bias_act_grad2));
}
