// Batch normalisation and the activation behind it, channels last, in two passes over the images forward and two
// backward: stylegan2_ada/ops/norm_act.py tells what the ops compute and defines their schemas.
#include "norm_act_passes.h"

namespace {

using namespace norm_act;
using sg::ScalarType;
using torch::stable::Tensor;
using Floats = std::vector<float>;
constexpr auto CHANNELS_LAST = torch::headeronly::MemoryFormat::ChannelsLast;

Tensor images(const Tensor& x, const char* op) {
  STD_TORCH_CHECK(x.dim() == 4 && (x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::BFloat16),
                  "stylegan2_ada::", op, " takes float32 or bfloat16 [N, C, H, W]");
  return torch::stable::contiguous(x, CHANNELS_LAST);
}

Tensor images_like(const Tensor& x) {
  return torch::stable::empty({x.size(0), x.size(1), x.size(2), x.size(3)}, x.scalar_type(), std::nullopt, x.device(),
                              std::nullopt, CHANNELS_LAST);
}

Shape shape_of(const Tensor& x) {
  STD_TORCH_CHECK(x.numel() > 0, "stylegan2_ada::norm_act: there is no mean of no pixels");
  return Shape(x.size(1), x.numel() / x.size(1));
}

Floats channels_of(const Tensor& v, const Tensor& x, const char* op) {
  STD_TORCH_CHECK(v.dim() == 1 && v.numel() == x.size(1), "stylegan2_ada::", op, " takes vectors of ", x.size(1),
                  " channels");
  return sg::to_vector<float>(v, op);
}

Tensor tensor_of(const Floats& v, const Tensor& x) {
  const Tensor t = torch::stable::empty({static_cast<int64_t>(v.size())}, ScalarType::Float, std::nullopt, x.device());
  std::copy(v.begin(), v.end(), sg::out<float>(t));
  return t;
}

template <typename F>
void by_type(const Tensor& x, const F& f) {
  x.scalar_type() == ScalarType::Float ? f(float{}) : f(sg::bf16{});
}

template <typename F>
void by_kind(int64_t kind, const F& f) {
  STD_TORCH_CHECK(kind == CLAMP || kind == SWISH, "stylegan2_ada::norm_act: no activation has the number ", kind);
  kind == CLAMP ? f(std::integral_constant<int64_t, CLAMP>{}) : f(std::integral_constant<int64_t, SWISH>{});
}

// scale and shift of the normalisation, from mean, variance, weight and bias
std::pair<Floats, Floats> affine(const Floats& mean, const Floats& var, const Floats& w, const Floats& b, double eps) {
  Floats scale(mean.size()), shift(mean.size());
  for (size_t c = 0; c < mean.size(); ++c) {
    const double s = w[c] / std::sqrt(var[c] + eps);
    scale[c] = static_cast<float>(s);
    shift[c] = static_cast<float>(b[c] - mean[c] * s);
  }
  return {scale, shift};
}

template <typename T>
std::pair<Floats, Floats> mean_and_variance(const T* x, const Shape& s) {
  Floats first(s.channels);  // from which differences are summed: a mean far from zero costs no digits
  for (int64_t c = 0; c < s.channels; ++c) first[c] = sg::Num<T>::load(x[c]);
  const Floats from = s.repeated(first);
  const std::vector<T> last = last_row(s, x, x);
  Sums sums(s);
  s.pieces_and(last.data(), [&](int64_t piece, int64_t row, int64_t rows, const T* rest) {
    const T* at = rest ? rest : x + row * s.length;
    columns_of_row(s.length, [&](auto width, int64_t c) {
      moments<width()>(at + c, rows, s.length, from.data() + c, sums.first(piece) + c, sums.second(piece) + c);
    });
  });
  const std::vector<double> total = sums.total();
  Floats mean(s.channels), var(s.channels);
  for (int64_t c = 0; c < s.channels; ++c) {
    const double m = total[c] / s.pixels, v = total[s.channels + c] / s.pixels - m * m;
    mean[c] = static_cast<float>(first[c] + m);
    var[c] = static_cast<float>(v < 0 ? 0 : v);  // NaN stays
  }
  return {mean, var};
}

void scale_and_act(const Tensor& x, const Tensor& y, const Shape& s, const Floats& scale_, const Floats& shift_,
                   Act act) {
  const Floats scale = s.repeated(scale_), shift = s.repeated(shift_);
  by_kind(act.kind, [&](auto kind) {
    by_type(x, [&](auto zero) {
      using T = decltype(zero);
      const T* from = sg::in<T>(x);
      T* to = sg::out<T>(y);
      std::vector<T> last = last_row(s, from, from);
      s.pieces_and(last.data(), [&](int64_t, int64_t row, int64_t rows, T* rest) {
        const T* xs = rest ? rest : from + row * s.length;
        T* ys = rest ? rest : to + row * s.length;
        columns_of_row(s.length, [&](auto width, int64_t c) {
          const Vectors p{scale.data() + c, shift.data() + c};
          apply<kind(), width()>(xs + c, ys + c, rows, s.length, p, act);
        });
      });
      std::copy_n(last.data(), s.rest * s.channels, to + s.done());
    });
  });
}

std::tuple<Tensor, Tensor, Tensor> norm_act_op(const Tensor& x_, const Tensor& w, const Tensor& b, double eps,
                                               int64_t kind, double low, double high) {
  const Tensor x = images(x_, "norm_act"), y = images_like(x);
  const Shape s = shape_of(x);
  Floats mean, var;
  by_type(x, [&](auto zero) { std::tie(mean, var) = mean_and_variance(sg::in<decltype(zero)>(x), s); });
  const auto [scale, shift] = affine(mean, var, channels_of(w, x, "norm_act"), channels_of(b, x, "norm_act"), eps);
  scale_and_act(x, y, s, scale, shift, {kind, static_cast<float>(low), static_cast<float>(high)});
  return {y, tensor_of(mean, x), tensor_of(var, x)};
}

Tensor scale_act_op(const Tensor& x_, const Tensor& scale, const Tensor& shift, int64_t kind, double low, double high) {
  const Tensor x = images(x_, "scale_act"), y = images_like(x);
  if (x.numel())
    scale_and_act(x, y, shape_of(x), channels_of(scale, x, "scale_act"), channels_of(shift, x, "scale_act"),
                  {kind, static_cast<float>(low), static_cast<float>(high)});
  return y;
}

// What the passes backward need, repeated along a row.
struct Backward {
  Floats scale, shift, mean, c1, c0;

  Vectors at(int64_t c) const {
    return {scale.data() + c, shift.data() + c, mean.data() + c, c1.data() + c, c0.data() + c};
  }
};

// [2][channels]: sums of g and of g (x - mean), g the gradient behind the normalisation
template <int64_t KIND, typename T>
std::vector<double> sums_backward(const Shape& s, const T* gy, const T* x, const Backward& p, Act act) {
  const std::vector<T> none(s.channels, T{}), last_x = last_row(s, x, x), last_gy = last_row(s, gy, none.data());
  Sums sums(s);
  s.pieces_and(last_x.data(), [&](int64_t piece, int64_t row, int64_t rows, const T* rest) {
    const T *xs = rest ? rest : x + row * s.length, *gs = rest ? last_gy.data() : gy + row * s.length;
    columns_of_row(s.length, [&](auto width, int64_t c) {
      gradient_sums<KIND, width()>(gs + c, xs + c, rows, s.length, p.at(c), act, sums.first(piece) + c,
                                   sums.second(piece) + c);
    });
  });
  return sums.total();
}

template <int64_t KIND, typename T>
void images_backward(const Shape& s, const T* gy, const T* x, T* gx, const Backward& p, Act act) {
  const std::vector<T> last_x = last_row(s, x, x);
  std::vector<T> last = last_row(s, gy, gy);
  s.pieces_and(last.data(), [&](int64_t, int64_t row, int64_t rows, T* rest) {
    const T *xs = rest ? last_x.data() : x + row * s.length, *gs = rest ? rest : gy + row * s.length;
    T* to = rest ? rest : gx + row * s.length;
    columns_of_row(s.length, [&](auto width, int64_t c) {
      input_gradient<KIND, width()>(gs + c, xs + c, to + c, rows, s.length, p.at(c), act);
    });
  });
  std::copy_n(last.data(), s.rest * s.channels, gx + s.done());
}

// gx = scale (g - mean of g - (x - mean) / (var + eps) * mean of g (x - mean))
std::tuple<Tensor, Tensor, Tensor> norm_act_grad_op(const Tensor& gy_, const Tensor& x_, const Tensor& mean_,
                                                    const Tensor& var_, const Tensor& w, const Tensor& b, double eps,
                                                    int64_t kind, double low, double high) {
  const Tensor gy = images(gy_, "norm_act_grad"), x = images(x_, "norm_act_grad"), gx = images_like(x);
  const Shape s = shape_of(x);
  STD_TORCH_CHECK(gy.scalar_type() == x.scalar_type() && gy.numel() == x.numel() && gy.size(1) == x.size(1),
                  "stylegan2_ada::norm_act_grad: gy is not of this x");
  const Floats mean = channels_of(mean_, x, "norm_act_grad"), var = channels_of(var_, x, "norm_act_grad");
  const auto [scale, shift] =
      affine(mean, var, channels_of(w, x, "norm_act_grad"), channels_of(b, x, "norm_act_grad"), eps);
  const Act act{kind, static_cast<float>(low), static_cast<float>(high)};
  Backward p{s.repeated(scale), s.repeated(shift), s.repeated(mean), Floats(s.length), Floats(s.length)};
  Floats gw(s.channels), gb(s.channels), c1(s.channels), c0(s.channels);
  by_kind(kind, [&](auto kind) {
    by_type(x, [&](auto zero) {
      using T = decltype(zero);
      const std::vector<double> total = sums_backward<kind()>(s, sg::in<T>(gy), sg::in<T>(x), p, act);
      for (int64_t c = 0; c < s.channels; ++c) {
        const double rstd = 1 / std::sqrt(var[c] + eps), dot = total[s.channels + c];
        gb[c] = static_cast<float>(total[c]);
        gw[c] = static_cast<float>(dot * rstd);
        c1[c] = static_cast<float>(-scale[c] * rstd * rstd * dot / s.pixels);
        c0[c] = static_cast<float>(-scale[c] * total[c] / s.pixels);
      }
      p.c1 = s.repeated(c1), p.c0 = s.repeated(c0);
      images_backward<kind()>(s, sg::in<T>(gy), sg::in<T>(x), sg::out<T>(gx), p, act);
    });
  });
  return {gx, tensor_of(gw, x), tensor_of(gb, x)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(stylegan2_ada, CPU, m) {
  m.impl("norm_act", TORCH_BOX(&norm_act_op));
  m.impl("norm_act_grad", TORCH_BOX(&norm_act_grad_op));
  m.impl("scale_act", TORCH_BOX(&scale_act_op));
}
