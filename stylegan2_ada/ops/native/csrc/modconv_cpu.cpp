// What follows a modulated convolution, on the CPU, in one pass over memory each way:
//   out = clamp(gain * act(y * d[n, o] + noise[n, h, w] + b[o])) and all of its gradients,
// and the scaling of channels and its adjoint; see ops/modconv_epilogue.py.
#include "bias_act_cpu.h"
#include "modconv.h"

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
  return torch::stable::contiguous(
      torch::stable::to(t, std::is_same_v<S, double> ? ScalarType::Double : ScalarType::Float));
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

// Nearly all layers are linear or have a leaky ReLU: that is done in the loops that follow (BENT), other activations by
// a second loop over the same block.
inline bool is_bent(int64_t act, double alpha) { return act == LINEAR || (act == LRELU && alpha > 0); }

template <bool BENT, typename S>
SG_INLINE S finish(S z, const BiasActParams<S>& p) {
  return BENT ? bias_act_value<LRELU>(z, p) : z;
}

// z = x * d + b + noise along a plane: d and b are one number each, noise a row or absent.
template <bool BENT, typename S>
void affine_plane(const S* __restrict x, S* __restrict z, int64_t n, S d, S b, const S* __restrict noise,
                  const BiasActParams<S> p) {
  if (noise)
    for (int64_t i = 0; i < n; ++i) z[i] = finish<BENT>(modconv_input(x[i], d, b, noise[i]), p);
  else
    for (int64_t i = 0; i < n; ++i) z[i] = finish<BENT>(modconv_input(x[i], d, b, S(0)), p);
}

// The same along the channels of a pixel.
template <bool BENT, typename S>
void affine_pixel(const S* __restrict x, S* __restrict z, int64_t n, const S* __restrict d, const S* __restrict b,
                  S noise, const BiasActParams<S> p) {
  for (int64_t i = 0; i < n; ++i) z[i] = finish<BENT>(modconv_input(x[i], d[i], b[i], noise), p);
}

// What a flat index of an element means, and how far it goes on so.
struct Place {
  int64_t sample, channel, pixel, run;
};

SG_INLINE Place place(const Images& v, int64_t flat) {
  int64_t row = v.last ? v.c : v.pixels, major = flat / row, minor = flat % row;
  int64_t rows = v.last ? v.pixels : v.c, sample = major / rows;
  major -= sample * rows;
  return v.last ? Place{sample, minor, major, row - minor} : Place{sample, major, minor, row - minor};
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
    const bool bent = is_bent(act, alpha);
    if (act == LINEAR) p.alpha = S(1);
    const S none = S(0);
    parallel(y.numel(), 1, [&](int64_t begin, int64_t end) {
      by_block(
          end - begin, out<T>(o) + begin,
          [&](int64_t at, int64_t m, S* ob, const S* yb) {
            alignas(64) S z[BLOCK];
            for (int64_t i = 0, run; i < m; i += run) {
              Place q = place(k.v, begin + at + i);
              run = std::min({m - i, q.run, bent ? m : BLOCK});
              const S* noise = k.noise ? k.noise + q.sample * k.noise_step + q.pixel : nullptr;
              const S* d = &k.d[q.sample * k.v.c + q.channel];
              const S* b = &k.b[q.channel];
              if (bent && k.v.last)
                affine_pixel<true>(yb + i, ob + i, run, d, b, noise ? *noise : S(0), p);
              else if (bent)
                affine_plane<true>(yb + i, ob + i, run, *d, *b, noise, p);
              else if (k.v.last)
                affine_pixel<false>(yb + i, z, run, d, b, noise ? *noise : S(0), p);
              else
                affine_plane<false>(yb + i, z, run, *d, *b, noise, p);
              if (!bent) kernel(z, ob + i, run, &none, false, p);
            }
          },
          in<T>(y) + begin);
    });
  });
  return o;
}

// With e = g * (derivative of the activation): gy = e * d, the sums of e and of e * (v - b - noise), and e itself added
// up over channels for the gradient of the noise. Where y is not kept and the activation can be undone (RECOVER), e and
// v = y * d + b + noise are made of g and out; else e and v = y are given, and b and noise are zero.
template <bool RECOVER, typename S>
struct Terms {
  BiasActParams<S> p;
  S inv_alpha;
  SG_INLINE S e(S g, S out) const { return RECOVER ? g * bias_act_slope<LRELU, false>(out, p) : g; }
  SG_INLINE S v(S out) const { return RECOVER ? modconv_undone(out, p.inv_gain, inv_alpha) : out; }
};

// Along a plane. Returns the two sums.
template <bool RECOVER, typename S>
std::pair<S, S> grad_plane(const Terms<RECOVER, S> t, const S* __restrict g, const S* __restrict o, S* __restrict gy,
                           int64_t n, S d, S b, const S* __restrict noise, S* __restrict gnoise) {
  constexpr int LANES = 16;
  S dots[LANES] = {}, sums[LANES] = {}, dot = S(0), sum = S(0);
  int64_t i = 0;
  auto loop = [&](auto subtract, auto add) {
    for (; i + LANES <= n; i += LANES)
      for (int l = 0; l < LANES; ++l) {
        S e = t.e(g[i + l], o[i + l]), v = t.v(o[i + l]) - b;
        if constexpr (subtract) v -= noise[i + l];
        if constexpr (add) gnoise[i + l] += e;
        dots[l] += e * v;
        sums[l] += e;
        gy[i + l] = e * d;
      }
  };
  if (!gnoise)
    loop(std::false_type{}, std::false_type{});
  else if (noise)
    loop(std::true_type{}, std::true_type{});
  else
    loop(std::false_type{}, std::true_type{});
  for (; i < n; ++i) {
    S e = t.e(g[i], o[i]);
    dot += e * (t.v(o[i]) - b - (noise ? noise[i] : S(0)));
    sum += e;
    if (gnoise) gnoise[i] += e;
    gy[i] = e * d;
  }
  for (int l = 0; l < LANES; ++l) dot += dots[l], sum += sums[l];
  return {dot, sum};
}

// Along the channels of a pixel: sums are kept for each channel, and the sum of all e is returned.
template <bool RECOVER, typename S>
S grad_pixel(const Terms<RECOVER, S> t, const S* __restrict g, const S* __restrict o, S* __restrict gy, int64_t n,
             const S* __restrict d, const S* __restrict b, S noise, S* __restrict dots, S* __restrict sums) {
  constexpr int LANES = 16;
  S lanes[LANES] = {}, all = S(0);
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    for (int l = 0; l < LANES; ++l) {
      S e = t.e(g[i + l], o[i + l]), v = t.v(o[i + l]) - noise;
      dots[i + l] += e * (b ? v - b[i + l] : v);
      sums[i + l] += e;
      lanes[l] += e;
      gy[i + l] = e * d[i + l];
    }
  for (; i < n; ++i) {
    S e = t.e(g[i], o[i]);
    dots[i] += e * (t.v(o[i]) - noise - (b ? b[i] : S(0)));
    sums[i] += e;
    all += e;
    gy[i] = e * d[i];
  }
  for (int l = 0; l < LANES; ++l) all += lanes[l];
  return all;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> modconv_epilogue_grad(const Tensor& g_, const Tensor& out_,
                                                                 std::optional<Tensor> y_, std::optional<Tensor> d,
                                                                 std::optional<Tensor> noise, std::optional<Tensor> b,
                                                                 int64_t act, double alpha, double gain, double clamp) {
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
    const bool recover = !y_.has_value() && is_bent(act, alpha) && gain > 0;
    const bool as_it_is = !recover && act == LINEAR && gain == 1 && clamp < 0;  // out is not looked at
    if (act == LINEAR) p.alpha = S(1);
    const Terms<true, S> undoing{p, S(1) / p.alpha};
    const Terms<false, S> given{p, S(1)};

    // Every sample in pieces that are the same for any number of threads, with sums of their own that are added up in
    // the end: some pixels with all of their channels (`last`), or some channels with all of their pixels.
    int64_t part = v.last ? std::max<int64_t>(1, GRAIN / v.c) : std::max<int64_t>(16, (v.c + 7) / 8);
    int64_t per_sample = ((v.last ? v.pixels : v.c) + part - 1) / part, pieces = v.n * per_sample;
    int64_t noises = noise.has_value() ? (v.last ? v.n : pieces) * v.pixels : 0;
    std::vector<S> dots((v.last ? pieces : v.n) * v.c), sums(dots.size()), per_pixel(noises);
    parallel(pieces, part * (v.last ? v.c : v.pixels), [&](int64_t piece, int64_t end) {
      alignas(64) S product[BLOCK];
      for (; piece < end; ++piece) {
        int64_t n = piece / per_sample, image = n * v.c * v.pixels, table = (v.last ? piece : n) * v.c;
        // A run of neighbours in memory that are of one channel or of one pixel.
        auto step = [&](auto terms, const S* e, const S* w, S* to, Place q, int64_t run, const S* b, const S* noise) {
          const S* d = &k.d[n * v.c + q.channel];
          S *dot = &dots[table + q.channel], *sum = &sums[table + q.channel];
          S* gnoise = k.noise ? &per_pixel[(v.last ? n : piece) * v.pixels + q.pixel] : nullptr;
          if (v.last) {
            S all = grad_pixel(terms, e, w, to, run, d, b, noise ? *noise : S(0), dot, sum);
            if (gnoise) *gnoise += all;
          } else {
            auto [more_dot, more_sum] = grad_plane(terms, e, w, to, run, *d, b ? *b : S(0), noise, gnoise);
            *dot += more_dot;
            *sum += more_sum;
          }
        };
        auto span = [&](int64_t first, int64_t length) {  // of neighbours in memory, of whatever channels and pixels
          auto block = [&](int64_t at, int64_t m, S* to, const S* gb, const S* ob, const S* yb) {
            for (int64_t i = 0, run; i < m; i += run) {
              Place q = place(v, first + at + i);
              run = std::min({m - i, q.run, recover || as_it_is ? m : BLOCK});
              if (recover) {
                const S* noise = k.noise ? k.noise + n * k.noise_step + q.pixel : nullptr;
                step(undoing, gb + i, ob + i, to + i, q, run, &k.b[q.channel], noise);
              } else {
                const S* e = as_it_is ? gb + i : product;
                if (!as_it_is) kernel(gb + i, ob + i, product, run, p);
                step(given, e, yb ? yb + i : e, to + i, q, run, nullptr, nullptr);
              }
            }
          };
          int64_t flat = image + first;
          by_block(length, out<T>(gy) + flat, block, in<T>(g) + flat, as_it_is ? nullptr : in<T>(o) + flat,
                   y_.has_value() ? in<T>(y) + flat : nullptr);
        };
        int64_t from = piece % per_sample * part, to = std::min(from + part, v.last ? v.pixels : v.c);
        if (v.last) {
          span(from * v.c, (to - from) * v.c);
        } else {
          constexpr int64_t STRIP = 2048;  // so that the gradient of the noise stays in the first-level cache
          for (int64_t pixel = 0; pixel < v.pixels; pixel += STRIP)
            for (int64_t c = from; c < to; ++c) {
              int64_t first = c * v.pixels + pixel, length = std::min(STRIP, v.pixels - pixel);
              if (length < v.pixels && c + 1 < to) {  // the hardware foresees only what is next in memory
                prefetch(in<T>(g) + image + first + v.pixels, length);
                prefetch(in<T>(o) + image + first + v.pixels, length);
              }
              span(first, length);
            }
        }
      }
    });
    int64_t tables = dots.size() / v.c, tables_per_sample = tables / v.n;
    if (d.has_value())
      for (int64_t i = 0; i < tables; ++i) accumulate(&dots[i * v.c], out<S>(gd) + i / tables_per_sample * v.c, v.c);
    if (d.has_value() && recover)  // the sums were of g * y * d
      for (int64_t i = 0; i < v.n * v.c; ++i) out<S>(gd)[i] = k.d[i] == S(0) ? S(0) : out<S>(gd)[i] / k.d[i];
    if (b.has_value())
      for (int64_t i = 0; i < tables; ++i) accumulate(&sums[i * v.c], out<S>(gb), v.c);
    for (int64_t i = 0; i < noises; i += v.pixels) {
      int64_t n = i / (noises / v.n);
      accumulate(&per_pixel[i], out<S>(gn) + (k.noise_step ? n * v.pixels : 0), v.pixels);
    }
  });
  return {gy, gd, gn, gb};
}

}  // namespace
}  // namespace sg

STABLE_TORCH_LIBRARY_IMPL(stylegan2_ada, CPU, m) {
  m.impl("modconv_epilogue", TORCH_BOX(&sg::modconv_epilogue));
  m.impl("modconv_epilogue_grad", TORCH_BOX(&sg::modconv_epilogue_grad));
}
