// Float32 convolutions with bias and ReLU for networks that only run forward, by minimal filtering where that takes
// fewer multiplications: stylegan2_ada/ops/conv_forward.py tells what the ops compute and defines their schemas.
#include "cpu.h"

#if (defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))) && defined(__unix__)
#define CONV_FORWARD_SUPPORTED 1
#include "conv_forward_passes.h"
#else
#define CONV_FORWARD_SUPPORTED 0
#endif

namespace {

using sg::ScalarType;
using torch::stable::Tensor;

#if CONV_FORWARD_SUPPORTED
using namespace conv_forward;

int64_t lanes() { return LANES; }

template <typename T>
Images<T> images(const Tensor& x, T* data) {
  STD_TORCH_CHECK(x.dim() == 4 && x.scalar_type() == ScalarType::Float && (x.size(1) == 1 || x.stride(1) == 1),
                  "stylegan2_ada::conv_forward: images must be float32 [N, C, H, W] with channels last in memory");
  return {data, x.size(0), x.size(1), x.size(2), x.size(3), x.stride(0), x.stride(2), x.stride(3)};
}

void check_size(const Images<const float>& x, const Window& w, const Images<float>& y) {
  STD_TORCH_CHECK(w.stride > 0 && y.n == x.n && y.height == (x.height + 2 * w.pad_y - w.taps_y) / w.stride + 1 &&
                      y.width == (x.width + 2 * w.pad_x - w.taps_x) / w.stride + 1,
                  "stylegan2_ada::conv_forward: the result has another size");
}

// Calls f with the transforms for OUT_Y x OUT_X results of a window of TAPS_Y x TAPS_X.
template <typename F>
void by_filter(int64_t out_y, int64_t out_x, const Window& w, const F& f) {
  const auto is = [&](int64_t oy, int64_t ty, int64_t ox, int64_t tx) {
    return out_y == oy && out_x == ox && w.taps_y == ty && w.taps_x == tx && w.stride == 1;
  };
  using One = Filter<1, 1>;
  if (is(4, 3, 4, 3)) return f(Filtered<Filter<4, 3>, Filter<4, 3>>{w});
  if (is(4, 5, 4, 5)) return f(Filtered<Filter<4, 5>, Filter<4, 5>>{w});
  if (is(1, 1, 4, 7)) return f(Filtered<One, Filter<4, 7>>{w});
  if (is(4, 7, 1, 1)) return f(Filtered<Filter<4, 7>, One>{w});
  if (is(1, 1, 4, 3)) return f(Filtered<One, Filter<4, 3>>{w});
  if (is(4, 3, 1, 1)) return f(Filtered<Filter<4, 3>, One>{w});
  if (is(1, 1, 1, 1)) return f(Filtered<One, One>{w});
  STD_TORCH_CHECK(out_y == 1 && out_x == 1, "stylegan2_ada::conv_forward: no transforms F(", out_y, " x ", out_x, ", ",
                  w.taps_y, " x ", w.taps_x, ")");
  f(Direct{w});
}

void conv_forward_op(const Tensor& x_, std::vector<Tensor> u, std::vector<Tensor> bias, std::vector<int64_t> relu,
                     std::vector<int64_t> tile, std::vector<int64_t> window, std::vector<Tensor> out) {
  STD_TORCH_CHECK(tile.size() == 2 && window.size() == 5 && u.size() == out.size() && bias.size() == out.size() &&
                      relu.size() == out.size() && !out.empty(),
                  "stylegan2_ada::conv_forward: lists of the wrong length");
  const auto x = images<const float>(x_, sg::in<float>(x_));
  const Window w{window[0], window[1], window[2], window[3], window[4]};
  by_filter(tile[0], tile[1], w, [&](const auto& way) {
    std::vector<Part> parts;
    for (size_t i = 0; i < out.size(); i++) {
      const Part part{sg::in<float>(u[i]), sg::in<float>(bias[i]), images<float>(out[i], sg::out<float>(out[i])),
                      relu[i] != 0};
      check_size(x, w, part.y);
      STD_TORCH_CHECK(u[i].numel() == way.points() * way.blocks(x.channels) * LANES * part.padded() &&
                          bias[i].numel() == part.padded() && u[i].scalar_type() == ScalarType::Float &&
                          bias[i].scalar_type() == ScalarType::Float,
                      "stylegan2_ada::conv_forward: weights are not of conv_forward.prepare for ", x.channels, " to ",
                      part.y.channels, " channels");
      parts.push_back(part);
    }
    if (parts[0].y.n * parts[0].y.height * parts[0].y.width > 0)
      convolve(way, x, parts, torch::stable::get_num_threads());
  });
}

void pool_forward_op(const Tensor& x_, bool mean, std::vector<int64_t> window, bool relu, const Tensor& out) {
  STD_TORCH_CHECK(window.size() == 5, "stylegan2_ada::pool_forward: a window is five numbers");
  const auto x = images<const float>(x_, sg::in<float>(x_));
  const auto y = images<float>(out, sg::out<float>(out));
  const Window w{window[0], window[1], window[2], window[3], window[4]};
  check_size(x, w, y);
  STD_TORCH_CHECK(x.channels == y.channels && 2 * w.pad_y <= w.taps_y && 2 * w.pad_x <= w.taps_x,
                  "stylegan2_ada::pool_forward: other channels, or windows of nothing but padding");
  pool(x, w, mean, relu, y);
}

template <int M, int R>
void fill(double* g) {
  for (int i = 0; i < Filter<M, R>::SIZE; i++)
    for (int k = 0; k < R; k++) *g++ = Filter<M, R>::MATRICES.g[i][k];
}

// G of F(out, taps): float64 [out + taps - 1, taps].
Tensor conv_forward_matrix_op(int64_t out, int64_t taps) {
  const Tensor g = torch::stable::empty({out + taps - 1, taps}, ScalarType::Double);
  double* data = sg::out<double>(g);
  if (out == 4 && taps == 3)
    fill<4, 3>(data);
  else if (out == 4 && taps == 5)
    fill<4, 5>(data);
  else if (out == 4 && taps == 7)
    fill<4, 7>(data);
  else
    STD_TORCH_CHECK(false, "stylegan2_ada::conv_forward: no transforms F(", out, ", ", taps, ")");
  return g;
}
#else
int64_t lanes() { return 0; }
#endif

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(stylegan2_ada, CompositeExplicitAutograd, m) {
  m.impl("conv_forward_lanes", TORCH_BOX(&lanes));
#if CONV_FORWARD_SUPPORTED
  m.impl("conv_forward_matrix", TORCH_BOX(&conv_forward_matrix_op));
#endif
}

#if CONV_FORWARD_SUPPORTED
STABLE_TORCH_LIBRARY_IMPL(stylegan2_ada, CPU, m) {
  m.impl("conv_forward", TORCH_BOX(&conv_forward_op));
  m.impl("pool_forward", TORCH_BOX(&pool_forward_op));
}
#endif
