// bias_act and its derivatives on the CPU: one pass over memory each, the arithmetic of bias_act.h.
#include <cmath>

#include "bias_act.h"
#include "cpu.h"

namespace sg {
namespace {

// Calls f(act) with the activation as a compile-time constant.
template <typename F>
void by_act(int64_t act, F&& f) {
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
      STD_TORCH_CHECK(false, "stylegan2_ada::bias_act: no activation number ", act);
  }
}

template <typename T>
BiasActParams<acc_t<T>> make_params(double alpha, double gain, double clamp) {
  using S = acc_t<T>;
  S limit = std::numeric_limits<S>::quiet_NaN();
  if (clamp >= 0) limit = Num<T>::load(Num<T>::store(static_cast<S>(clamp)));
  return {static_cast<S>(alpha), static_cast<S>(gain), gain == 0 ? S(0) : static_cast<S>(1 / gain),
          clamp >= 0 ? static_cast<S>(clamp) : std::numeric_limits<S>::infinity(), limit};
}

template <int A, typename T>
void forward_row(const T* __restrict x, T* __restrict y, int64_t n, acc_t<T> b, const BiasActParams<acc_t<T>> p) {
  for (int64_t i = 0; i < n; ++i) y[i] = Num<T>::store(bias_act_value<A>(Num<T>::load(x[i]) + b, p));
}

template <int A, typename T>
void forward_row(const T* __restrict x, T* __restrict y, int64_t n, const acc_t<T>* __restrict b,
                 const BiasActParams<acc_t<T>> p) {
  for (int64_t i = 0; i < n; ++i) y[i] = Num<T>::store(bias_act_value<A>(Num<T>::load(x[i]) + b[i], p));
}

Tensor bias_act(const Tensor& x_, std::optional<Tensor> b, int64_t dim, int64_t act, double alpha, double gain,
                double clamp) {
  Tensor x = dense(x_), y = torch::stable::empty_like(x);
  dim = dim < 0 ? dim + x.dim() : dim;
  if (x.numel() == 0) return y;
  by_dtype(x.scalar_type(), "bias_act", [&](auto zero) {
    using T = decltype(zero);
    using S = acc_t<T>;
    auto p = make_params<T>(alpha, gain, clamp);
    const T* xp = in<T>(x);
    T* yp = out<T>(y);
    by_act(act, [&](auto a) {
      constexpr int A = decltype(a)::value;
      if (!b.has_value()) {
        parallel(x.numel(), 1, [&](int64_t i, int64_t end) { forward_row<A>(xp + i, yp + i, end - i, S(0), p); });
        return;
      }
      auto v = along(x, dim);
      auto bias = to_vector<S>(*b, "bias_act");
      if (v.inner > 1) {
        parallel(v.outer * v.size, v.inner, [&](int64_t i, int64_t end) {
          for (; i < end; ++i) forward_row<A>(xp + i * v.inner, yp + i * v.inner, v.inner, bias[i % v.size], p);
        });
      } else {
        parallel(v.outer, v.size, [&](int64_t i, int64_t end) {
          for (; i < end; ++i) forward_row<A>(xp + i * v.size, yp + i * v.size, v.size, bias.data(), p);
        });
      }
    });
  });
  return y;
}

template <int A, bool IN, typename T>
void grad_row(const T* __restrict gy, const T* __restrict ref, T* __restrict gx, int64_t n,
              const BiasActParams<acc_t<T>> p) {
  for (int64_t i = 0; i < n; ++i)
    gx[i] = Num<T>::store(Num<T>::load(gy[i]) * bias_act_slope<A, IN>(Num<T>::load(ref[i]), p));
}

template <int A, bool IN, typename T>
void grad2_row(const T* __restrict ggx, const T* __restrict gy, const T* __restrict ref, T* __restrict gr, int64_t n,
               const BiasActParams<acc_t<T>> p) {
  for (int64_t i = 0; i < n; ++i)
    gr[i] = Num<T>::store(Num<T>::load(ggx[i]) * Num<T>::load(gy[i]) *
                          bias_act_bend<A, IN>(Num<T>::load(ref[i]), p));
}

// Calls f(act, IN): whether `ref` is the input of the activation, not the result.
template <typename F>
void by_act_and_ref(int64_t act, double alpha, F&& f) {
  by_act(act, [&](auto a) {
    constexpr int A = decltype(a)::value;
    if constexpr (A == SWISH)
      f(a, std::true_type{});
    else if (A == LRELU && alpha < 0)
      f(a, std::true_type{});
    else
      f(a, std::false_type{});
  });
}

Tensor bias_act_grad(const Tensor& gy_, const Tensor& ref_, int64_t act, double alpha, double gain, double clamp) {
  Tensor ref = dense(ref_), gy = laid_out(gy_, ref), gx = torch::stable::empty_like(ref);
  if (ref.numel() == 0) return gx;
  by_dtype(ref.scalar_type(), "bias_act_grad", [&](auto zero) {
    using T = decltype(zero);
    auto p = make_params<T>(alpha, gain, clamp);
    by_act_and_ref(act, alpha, [&](auto a, auto input) {
      parallel(ref.numel(), 1, [&](int64_t i, int64_t end) {
        grad_row<decltype(a)::value, decltype(input)::value>(in<T>(gy) + i, in<T>(ref) + i, out<T>(gx) + i, end - i, p);
      });
    });
  });
  return gx;
}

// As grad_row, and returns the sum of what it writes, before rounding to T. Sixteen partial sums let the loop run in
// vectors without the licence to reorder sums.
template <int A, bool IN, typename T>
acc_t<T> grad_row_sum(const T* __restrict gy, const T* __restrict ref, T* __restrict gx, int64_t n,
                      const BiasActParams<acc_t<T>> p) {
  using S = acc_t<T>;
  constexpr int LANES = 16;
  S sums[LANES] = {};
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) {
    for (int l = 0; l < LANES; ++l) {
      S g = Num<T>::load(gy[i + l]) * bias_act_slope<A, IN>(Num<T>::load(ref[i + l]), p);
      sums[l] += g;
      gx[i + l] = Num<T>::store(g);
    }
  }
  S total = S(0);
  for (; i < n; ++i) {
    S g = Num<T>::load(gy[i]) * bias_act_slope<A, IN>(Num<T>::load(ref[i]), p);
    total += g;
    gx[i] = Num<T>::store(g);
  }
  for (int l = 0; l < LANES; ++l) total += sums[l];
  return total;
}

// As grad_row, and adds what it writes to sums[0 … n).
template <int A, bool IN, typename T>
void grad_row_sums(const T* __restrict gy, const T* __restrict ref, T* __restrict gx, acc_t<T>* __restrict sums,
                   int64_t n, const BiasActParams<acc_t<T>> p) {
  for (int64_t i = 0; i < n; ++i) {
    acc_t<T> g = Num<T>::load(gy[i]) * bias_act_slope<A, IN>(Num<T>::load(ref[i]), p);
    sums[i] += g;
    gx[i] = Num<T>::store(g);
  }
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
    // The pieces summed one by one are the same for any number of threads, and so are the sums.
    int64_t rows = v.inner > 1 ? 1 : std::max<int64_t>(1, GRAIN / v.size);
    int64_t pieces = (v.outer + rows - 1) / rows;
    std::vector<S> sums(pieces * v.size);
    by_act_and_ref(act, alpha, [&](auto a, auto input) {
      constexpr int A = decltype(a)::value;
      constexpr bool IN = decltype(input)::value;
      if (v.inner > 1) {
        parallel(v.outer * v.size, v.inner, [&](int64_t i, int64_t end) {
          for (; i < end; ++i) {
            int64_t at = i * v.inner;
            sums[i] = grad_row_sum<A, IN>(g + at, r + at, o + at, v.inner, p);
          }
        });
      } else {
        parallel(pieces, rows * v.size, [&](int64_t piece, int64_t end) {
          for (; piece < end; ++piece) {
            for (int64_t row = piece * rows; row < std::min(v.outer, (piece + 1) * rows); ++row) {
              int64_t at = row * v.size;
              grad_row_sums<A, IN>(g + at, r + at, o + at, &sums[piece * v.size], v.size, p);
            }
          }
        });
      }
    });
    S* total = out<S>(gb);
    for (int64_t piece = 0; piece < pieces; ++piece)
      for (int64_t c = 0; c < v.size; ++c) total[c] += sums[piece * v.size + c];
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
    by_act_and_ref(act, alpha, [&](auto a, auto input) {
      parallel(ref.numel(), 1, [&](int64_t i, int64_t end) {
        grad2_row<decltype(a)::value, decltype(input)::value>(in<T>(ggx) + i, in<T>(gy) + i, in<T>(ref) + i,
                                                             out<T>(gr) + i, end - i, p);
      });
    });
  });
  return gr;
}

}  // namespace
}  // namespace sg

STABLE_TORCH_LIBRARY_IMPL(stylegan2_ada, CPU, m) {
  m.impl("bias_act", TORCH_BOX(&sg::bias_act));
  m.impl("bias_act_grad", TORCH_BOX(&sg::bias_act_grad));
  m.impl("bias_act_grad_bias", TORCH_BOX(&sg::bias_act_grad_bias));
  m.impl("bias_act_grad2", TORCH_BOX(&sg::bias_act_grad2));
}
