// What follows a modulated convolution, on the CPU, in one pass over memory each way:
//   out = clamp(gain * act(y * d[n, o] + noise[n, h, w] + b[o])) and all of its gradients,
// and the scaling of channels and its adjoint; see ops/modconv_epilogue.py.
#include "bias_act_cpu.h"

namespace sg {
namespace {

using torch::stable::empty_like;
using torch::stable::new_empty;
using torch::stable::new_zeros;

// [N, C, H, W] seen as [outer, rows, row]: planes of one channel, or (`last`) pixels of all channels.
struct Images {
  int64_t n, c, pixels;
  bool last;
};

bool is_layout(const Tensor& x, bool last) {
  int64_t expected = 1;
  for (int64_t k : last ? std::array<int64_t, 4>{1, 3, 2, 0} : std::array<int64_t, 4>{3, 2, 1, 0}) {
    if (x.size(k) > 1 && x.stride(k) != expected) return false;
    expected *= x.size(k);
  }
  return true;
}

Images images(const Tensor& x) {
  return {x.size(0), x.size(1), x.size(2) * x.size(3), !is_layout(x, false) && is_layout(x, true)};
}

// x itself if it lies as [N, C, H, W] or [N, H, W, C], else a copy that does.
Tensor regular(const Tensor& x) {
  if (x.numel() == 0 || is_layout(x, false) || is_layout(x, true)) return x;
  return torch::stable::contiguous(x);
}

ScalarType sum_type(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// A small operand as contiguous numbers of type S.
template <typename S>
Tensor plain(const Tensor& t) {
  return torch::stable::contiguous(torch::stable::to(t, std::is_same_v<S, double> ? ScalarType::Double : ScalarType::Float));
}

// The operands of the epilogue; absent ones are neutral.
template <typename S>
struct Operands {
  Images v;
  std::vector<S> d, b;  // [N * C], [C]
  Tensor noise_tensor;
  const S* noise = nullptr;  // [N or 1, pixels]
  int64_t noise_step = 0;    // from one sample to the next

  Operands(const Tensor& x, const std::optional<Tensor>& d_, const std::optional<Tensor>& noise_,
           const std::optional<Tensor>& b_)
      : v(images(x)), d(v.n * v.c, S(1)), b(v.c, S(0)) {
    if (d_.has_value()) d = to_vector<S>(plain<S>(torch::stable::reshape(*d_, {-1})), "modconv_epilogue");
    if (b_.has_value()) b = to_vector<S>(*b_, "modconv_epilogue");
    if (noise_.has_value()) {
      noise_tensor = plain<S>(*noise_);
      noise = in<S>(noise_tensor);
      noise_step = noise_->size(0) == 1 ? 0 : v.pixels;
    }
  }
};

// z = x * d + b + noise along a plane: d and b are one number each, noise a row or absent.
template <typename S>
void affine_plane(const S* __restrict x, S* __restrict z, int64_t n, S d, S b, const S* __restrict noise) {
  if (noise)
    for (int64_t i = 0; i < n; ++i) z[i] = x[i] * d + b + noise[i];
  else
    for (int64_t i = 0; i < n; ++i) z[i] = x[i] * d + b;
}

// The same along the channels of a pixel.
template <typename S>
void affine_pixel(const S* __restrict x, S* __restrict z, int64_t n, const S* __restrict d, const S* __restrict b,
                  S noise) {
  for (int64_t i = 0; i < n; ++i) z[i] = x[i] * d[i] + (b[i] + noise);
}

// What a flat index of an element means, and how far it goes on so.
struct Place {
  int64_t sample, channel, pixel, run;
};

SG_INLINE Place place(const Images& v, int64_t flat) {
  int64_t image = v.c * v.pixels, sample = flat / image, rest = flat % image;
  if (v.last) return {sample, rest % v.c, rest / v.c, v.c - rest % v.c};
  return {sample, rest / v.pixels, rest % v.pixels, v.pixels - rest % v.pixels};
}

Tensor modconv_epilogue(const Tensor& y_, std::optional<Tensor> d, std::optional<Tensor> noise, std::optional<Tensor> b,
                        int64_t act, double alpha, double gain, double clamp) {
  Tensor y = regular(y_), o = empty_like(y);
  if (y.numel() == 0) return o;
  by_dtype(y.scalar_type(), "modconv_epilogue", [&](auto zero) {
    using T = decltype(zero);
    using S = acc_t<T>;
    const Operands<S> k(y, d, noise, b);
    auto p = make_params<T>(alpha, gain, clamp);
    auto kernel = forward_kernel<S>(act);
    const S none = S(0);
    parallel(y.numel(), 1, [&](int64_t begin, int64_t end) {
      by_block(end - begin, out<T>(o) + begin, [&](int64_t at, int64_t m, S* ob, const S* yb) {
        alignas(64) S z[BLOCK];
        for (int64_t i = 0, run; i < m; i += run) {
          Place q = place(k.v, begin + at + i);
          run = std::min({m - i, q.run, BLOCK});
          const S* noise = k.noise ? k.noise + q.sample * k.noise_step + q.pixel : nullptr;
          const S* d = &k.d[q.sample * k.v.c + q.channel];
          if (k.v.last)
            affine_pixel(yb + i, z, run, d, &k.b[q.channel], noise ? *noise : S(0));
          else
            affine_plane(yb + i, z, run, *d, k.b[q.channel], noise);
          kernel(z, ob + i, run, &none, false, p);
        }
      }, in<T>(y) + begin);
    });
  });
  return o;
}

// y * d + b + noise from the result, where the activation can be turned round: leaky ReLU with positive slope and gain.
template <typename S>
void undo(const S* __restrict o, S* __restrict z, int64_t n, S inv_gain, S inv_alpha) {
  for (int64_t i = 0; i < n; ++i) {
    S u = o[i] * inv_gain;
    z[i] = u > S(0) ? u : u * inv_alpha;
  }
}

// Along a plane: gy = g * d; returns the sums of g * (v - b - noise) and of g, and adds g to gn if that is wanted.
template <typename S>
std::pair<S, S> grad_plane(const S* __restrict g, const S* __restrict v, S* __restrict gy, int64_t n, S d, S b,
                           const S* __restrict noise, S* __restrict gn) {
  constexpr int LANES = 16;
  S dots[LANES] = {}, sums[LANES] = {}, dot = S(0), sum = S(0);
  int64_t i = 0;
  auto loop = [&](auto with_noise) {
    for (; i + LANES <= n; i += LANES)
      for (int l = 0; l < LANES; ++l) {
        S e = g[i + l];
        if constexpr (with_noise) {
          dots[l] += e * (v[i + l] - b - noise[i + l]);
          gn[i + l] += e;
        } else {
          dots[l] += e * (v[i + l] - b);
        }
        sums[l] += e;
        gy[i + l] = e * d;
      }
  };
  noise ? loop(std::true_type{}) : loop(std::false_type{});
  for (; i < n; ++i) {
    S e = g[i];
    dot += e * (v[i] - b - (noise ? noise[i] : S(0)));
    if (noise) gn[i] += e;
    sum += e;
    gy[i] = e * d;
  }
  for (int l = 0; l < LANES; ++l) dot += dots[l], sum += sums[l];
  return {dot, sum};
}

// Along the channels of a pixel; the sums are kept for each channel.
template <typename S>
void grad_pixel(const S* __restrict g, const S* __restrict v, S* __restrict gy, int64_t n, const S* __restrict d,
                const S* __restrict b, S noise, S* __restrict dots, S* __restrict sums) {
  for (int64_t i = 0; i < n; ++i) {
    S e = g[i];
    dots[i] += e * (v[i] - (b[i] + noise));
    sums[i] += e;
    gy[i] = e * d[i];
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor> modconv_epilogue_grad(
    const Tensor& g_, const Tensor& out_, std::optional<Tensor> y_, std::optional<Tensor> d,
    std::optional<Tensor> noise, std::optional<Tensor> b, int64_t act, double alpha, double gain, double clamp) {
  Tensor o = regular(out_), g = laid_out(g_, o), gy = empty_like(o);
  Tensor y = y_.has_value() ? laid_out(*y_, o) : o;
  Images v = images(o);
  ScalarType wide = sum_type(o);
  Tensor gd = new_zeros(o, {d.has_value() ? v.n : 0, v.c}, wide), gb = new_zeros(o, {b.has_value() ? v.c : 0}, wide);
  Tensor gn = noise.has_value() ? new_zeros(o, {noise->size(0), 1, o.size(2), o.size(3)}, wide)
                                : new_zeros(o, {0, 1, o.size(2), o.size(3)}, wide);
  if (o.numel() == 0) return {gy, gd, gn, gb};
  by_dtype(o.scalar_type(), "modconv_epilogue_grad", [&](auto zero) {
    using T = decltype(zero);
    using S = acc_t<T>;
    const Operands<S> k(o, d, noise, b);
    auto p = make_params<T>(alpha, gain, clamp);
    auto kernel = grad_kernel<S>(act, alpha);
    bool given = y_.has_value();  // else y * d is recovered from out
    S inv_alpha = act == LRELU ? static_cast<S>(1 / alpha) : S(1);

    // Every sample in pieces that are the same for any number of threads: some pixels, all channels. A piece has its
    // own sums over its pixels, and its pixels of the noise gradient belong to it alone.
    int64_t pixels = v.last ? std::max<int64_t>(1, GRAIN / v.c) : std::clamp<int64_t>(v.pixels / 8, 256, 2048);
    int64_t per_sample = (v.pixels + pixels - 1) / pixels, pieces = v.n * per_sample;
    std::vector<S> dots(pieces * v.c), sums(pieces * v.c), per_pixel(noise.has_value() ? v.n * v.pixels : 0);
    parallel(pieces, pixels * v.c, [&](int64_t piece, int64_t end) {
      alignas(64) S e[BLOCK], u[BLOCK];
      for (; piece < end; ++piece) {
        int64_t n = piece / per_sample, first = piece % per_sample * pixels, count = std::min(pixels, v.pixels - first);
        S *dot = &dots[piece * v.c], *sum = &sums[piece * v.c];
        auto span = [&](int64_t flat, int64_t length) {  // neighbours in memory
          by_block(length, out<T>(gy) + flat, [&](int64_t at, int64_t m, S* gyb, const S* gb, const S* ob, const S* yb) {
            for (int64_t i = 0, run; i < m; i += run) {
              Place q = place(v, flat + at + i);
              run = std::min({m - i, q.run, BLOCK});
              kernel(gb + i, ob + i, e, run, p);
              const S* w = yb + i;
              if (!given) undo(ob + i, u, run, p.inv_gain, inv_alpha), w = u;
              const S* noise = k.noise ? k.noise + n * k.noise_step + q.pixel : nullptr;
              S* gnoise = noise ? &per_pixel[n * v.pixels + q.pixel] : nullptr;
              const S *d = &k.d[n * v.c + q.channel], *b = &k.b[q.channel];
              if (v.last) {
                static const S zeros[BLOCK] = {};
                grad_pixel(e, w, gyb + i, run, d, given ? zeros : b, noise && !given ? *noise : S(0), dot + q.channel,
                           sum + q.channel);
                if (noise) *gnoise += total(e, run);
              } else {
                auto [x, s] = grad_plane(e, w, gyb + i, run, *d, given ? S(0) : *b, given ? nullptr : noise, gnoise);
                if (given && noise) accumulate(e, gnoise, run);
                dot[q.channel] += x;
                sum[q.channel] += s;
              }
            }
          }, in<T>(g) + flat, in<T>(o) + flat, in<T>(y) + flat);
        };
        int64_t image = n * v.c * v.pixels;
        if (v.last)
          span(image + first * v.c, count * v.c);
        else
          for (int64_t c = 0; c < v.c; ++c) span(image + c * v.pixels + first, count);
      }
    });
    if (d.has_value())
      for (int64_t piece = 0; piece < pieces; ++piece)
        accumulate(&dots[piece * v.c], out<S>(gd) + piece / per_sample * v.c, v.c);
    if (d.has_value() && !given)  // the sums were of g * y * d
      for (int64_t i = 0; i < v.n * v.c; ++i) out<S>(gd)[i] = k.d[i] == S(0) ? S(0) : out<S>(gd)[i] / k.d[i];
    if (b.has_value())
      for (int64_t piece = 0; piece < pieces; ++piece) accumulate(&sums[piece * v.c], out<S>(gb), v.c);
    if (noise.has_value())
      for (int64_t n = 0; n < v.n; ++n)
        accumulate(&per_pixel[n * v.pixels], out<S>(gn) + (k.noise_step ? n * v.pixels : 0), v.pixels);
  });
  return {gy, gd, gn, gb};
}

}  // namespace
}  // namespace sg

STABLE_TORCH_LIBRARY_IMPL(stylegan2_ada, CPU, m) {
  m.impl("modconv_epilogue", TORCH_BOX(&sg::modconv_epilogue));
  m.impl("modconv_epilogue_grad", TORCH_BOX(&sg::modconv_epilogue_grad));
}
