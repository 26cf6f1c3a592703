// 1x1 convolutions with each sample's own weights and few outputs, as StyleGAN2's ToRGB is one, on the CPU:
// stylegan2_ada/ops/few_outputs.py tells what the ops compute and defines their schemas. The image is read or written once,
// which is all the time it takes; every sum is made in one order whatever the number of threads.
#include "cpu.h"
#include "lanes.h"

namespace {

using sg::LANES;
using sg::ScalarType;
using sg::Vec;
using torch::stable::Tensor;

constexpr auto CHANNELS_LAST = torch::headeronly::MemoryFormat::ChannelsLast;
constexpr int64_t MOST = 4;     // outputs
constexpr int64_t PIECE = 128;  // pixels that are summed by themselves

struct Shape {
  int64_t n, channels, pixels, outputs;
  Shape(int64_t n, int64_t channels, int64_t pixels, int64_t outputs)
      : n(n), channels(channels), pixels(pixels), outputs(outputs) {
    STD_TORCH_CHECK(outputs > 0 && outputs <= MOST && channels % 16 == 0, "stylegan2_ada::few_outputs takes 1 to ", MOST,
                    " outputs and a multiple of 16 channels, not ", outputs, " and ", channels);
  }
  int64_t pieces() const { return (pixels + PIECE - 1) / PIECE; }
};

Tensor image(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 4 && (x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::BFloat16),
                  "stylegan2_ada::few_outputs takes float32 or bfloat16 images [N, C, H, W]");
  return torch::stable::contiguous(x, CHANNELS_LAST);
}

Tensor floats(const Tensor& t, int64_t dim) {
  STD_TORCH_CHECK(t.dim() == dim && t.scalar_type() == ScalarType::Float, "stylegan2_ada::few_outputs: weights [N, O, C] and ",
                  "results [N, O, H, W] must be float32");
  return dim == 4 ? torch::stable::contiguous(t, CHANNELS_LAST) : torch::stable::contiguous(t);
}

void check(bool fits) { STD_TORCH_CHECK(fits, "stylegan2_ada::few_outputs: the shapes do not fit each other"); }

// f(T{}, the number of outputs as a constant)
template <int N = MOST, typename F>
void by_kind(bool wide, int64_t outputs, const F& f) {
  if constexpr (N > 1) {
    if (outputs < N) return by_kind<N - 1>(wide, outputs, f);
  }
  const std::integral_constant<int, N> count;
  wide ? f(float{}, count) : f(sg::bf16{}, count);
}

// f(sample, first pixel, pixels) for all pieces
template <typename F>
void by_piece(const Shape& s, const F& f) {
  sg::parallel(s.n * s.pieces(), PIECE * s.channels, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % s.pieces() * PIECE;
      f(i / s.pieces(), first, std::min(PIECE, s.pixels - first));
    }
  });
}

float total(Vec v) {
  for (int l = LANES / 2; l > 0; l /= 2)
    for (int k = 0; k < l; ++k) v[k] += v[k + l];
  return v[0];
}

Tensor few_outputs(const Tensor& x_, const Tensor& m_) {
  const Tensor x = image(x_), m = floats(m_, 3);
  check(m.size(0) == x.size(0) && m.size(2) == x.size(1));
  const Shape s(x.size(0), x.size(1), x.size(2) * x.size(3), m.size(1));
  const Tensor y = torch::stable::empty({s.n, s.outputs, x.size(2), x.size(3)}, ScalarType::Float, std::nullopt, x.device(),
                                        std::nullopt, CHANNELS_LAST);
  const float* pm = sg::in<float>(m);
  float* py = sg::out<float>(y);
  by_kind(x.scalar_type() == ScalarType::Float, s.outputs, [&](auto zero, auto outputs) {
    using T = decltype(zero);
    constexpr int O = outputs, TOGETHER = 4;  // pixels
    const T* px = sg::in<T>(x);
    by_piece(s, [&](int64_t n, int64_t first, int64_t count) {
      const float* weights = pm + n * O * s.channels;
      const auto sums = [&](int64_t p, auto many) {
        Vec sum[many()][O] = {};
        const T* from = px + (n * s.pixels + p) * s.channels;
        for (int64_t c = 0; c < s.channels; c += LANES)
          for (int k = 0; k < many; ++k) {
            const Vec v = sg::load(from + k * s.channels + c);
            for (int o = 0; o < O; ++o) sum[k][o] += v * sg::load(weights + o * s.channels + c);
          }
        for (int k = 0; k < many; ++k)
          for (int o = 0; o < O; ++o) py[(n * s.pixels + p + k) * O + o] = total(sum[k][o]);
      };
      int64_t p = first;
      for (; p + TOGETHER <= first + count; p += TOGETHER) sums(p, std::integral_constant<int, TOGETHER>{});
      for (; p < first + count; ++p) sums(p, std::integral_constant<int, 1>{});
    });
  });
  return y;
}

Tensor few_outputs_input(const Tensor& g_, const Tensor& m_, bool wide) {
  const Tensor g = floats(g_, 4), m = floats(m_, 3);
  check(m.size(0) == g.size(0) && m.size(1) == g.size(1));
  const Shape s(g.size(0), m.size(2), g.size(2) * g.size(3), m.size(1));
  const Tensor x = torch::stable::empty({s.n, s.channels, g.size(2), g.size(3)},
                                        wide ? ScalarType::Float : ScalarType::BFloat16, std::nullopt, g.device(),
                                        std::nullopt, CHANNELS_LAST);
  const float *pg = sg::in<float>(g), *pm = sg::in<float>(m);
  by_kind(wide, s.outputs, [&](auto zero, auto outputs) {
    using T = decltype(zero);
    constexpr int O = outputs;
    T* px = sg::out<T>(x);
    by_piece(s, [&](int64_t n, int64_t first, int64_t count) {
      const float* weights = pm + n * O * s.channels;
      for (int64_t p = first; p < first + count; ++p) {
        float of[O];
        for (int o = 0; o < O; ++o) of[o] = pg[(n * s.pixels + p) * O + o];
        for (int64_t c = 0; c < s.channels; c += LANES) {
          Vec sum = {};
          for (int o = 0; o < O; ++o) sum += sg::load(weights + o * s.channels + c) * of[o];
          sg::store(sum, px + (n * s.pixels + p) * s.channels + c);
        }
      }
    });
  });
  return x;
}

Tensor few_outputs_weight(const Tensor& x_, const Tensor& g_) {
  const Tensor x = image(x_), g = floats(g_, 4);
  check(g.size(0) == x.size(0) && g.size(2) == x.size(2) && g.size(3) == x.size(3));
  const Shape s(x.size(0), x.size(1), x.size(2) * x.size(3), g.size(1));
  const Tensor m = torch::stable::empty({s.n, s.outputs, s.channels}, ScalarType::Float, std::nullopt, x.device());
  const float* pg = sg::in<float>(g);
  float* pm = sg::out<float>(m);
  const int64_t size = s.outputs * s.channels;
  std::vector<float> parts(s.n * s.pieces() * size);
  by_kind(x.scalar_type() == ScalarType::Float, s.outputs, [&](auto zero, auto outputs) {
    using T = decltype(zero);
    constexpr int O = outputs, WIDTH = 64 / LANES;  // vectors of a pixel: a line of bfloat16 or two
    const T* px = sg::in<T>(x);
    by_piece(s, [&](int64_t n, int64_t first, int64_t count) {
      const auto sums = [&](int64_t c, auto width) {
        Vec sum[O][width()] = {};
        for (int64_t p = first; p < first + count; ++p)
          for (int k = 0; k < width; ++k) {
            const Vec v = sg::load(px + (n * s.pixels + p) * s.channels + c + k * LANES);
            for (int o = 0; o < O; ++o) sum[o][k] += v * pg[(n * s.pixels + p) * O + o];
          }
        float* to = parts.data() + (n * s.pieces() + first / PIECE) * size + c;
        for (int o = 0; o < O; ++o)
          for (int k = 0; k < width; ++k) sg::store(sum[o][k], to + o * s.channels + k * LANES);
      };
      int64_t c = 0;
      for (; c + WIDTH * LANES <= s.channels; c += WIDTH * LANES) sums(c, std::integral_constant<int, WIDTH>{});
      for (; c < s.channels; c += LANES) sums(c, std::integral_constant<int, 1>{});
    });
  });
  for (int64_t n = 0; n < s.n; ++n)
    for (int64_t i = 0; i < size; ++i) {
      float sum = 0;
      for (int64_t k = 0; k < s.pieces(); ++k) sum += parts[(n * s.pieces() + k) * size + i];
      pm[n * size + i] = sum;
    }
  return m;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(stylegan2_ada, CPU, m) {
  m.impl("few_outputs", TORCH_BOX(&few_outputs));
  m.impl("few_outputs_input", TORCH_BOX(&few_outputs_input));
  m.impl("few_outputs_weight", TORCH_BOX(&few_outputs_weight));
}
