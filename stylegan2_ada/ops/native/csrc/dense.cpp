// Matrix products of few rows, as dense layers have them, on the CPU: stylegan2_ada/ops/dense.py tells what the ops
// compute and defines their schemas. The weights are read or written once, which is all the time it takes; every sum is
// made in one order whatever the number of threads.
#include "cpu.h"
#include "lanes.h"

namespace {

using sg::LANES;
using sg::ScalarType;
using sg::Vec;
using torch::stable::Tensor;

constexpr int ROWS = LANES == 16 ? 8 : 4;  // of the layer's input at a time: twice as many sums stay in registers
constexpr int64_t OUTPUTS = 4;             // whose weights are read side by side

Tensor matrix(const Tensor& t, const char* op) {
  STD_TORCH_CHECK(t.dim() == 2 && t.scalar_type() == ScalarType::Float, "stylegan2_ada::", op,
                  " takes float32 matrices");
  return torch::stable::contiguous(t);
}

Tensor make(const Tensor& like, int64_t rows, int64_t columns) {
  return torch::stable::empty({rows, columns}, ScalarType::Float, std::nullopt, like.device());
}

// f(n), where n is at most MOST, with n as a constant.
template <int MOST, typename F>
SG_INLINE void at_most(int64_t n, const F& f) {
  if constexpr (MOST > 1) {
    if (n < MOST) return at_most<MOST - 1>(n, f);
  }
  f(std::integral_constant<int, MOST>{});
}

// f(i, load, store) for each vector of a row of n numbers, the last of which may not be whole.
template <typename F>
SG_INLINE void by_vectors(int64_t begin, int64_t end, int64_t n, const F& f) {
  const int64_t whole = std::min(end, n / LANES);
  const auto load = [](const float* x) { return sg::load(x); };
  const auto store = [](Vec v, float* x) { sg::store(v, x); };
  for (int64_t v = begin; v < whole; ++v) f(v * LANES, load, store);
  const int64_t left = n % LANES;
  if (whole < end)
    f(
        whole * LANES, [=](const float* x) { return sg::load_some(x, left); },
        [=](Vec v, float* x) { sg::store_some(v, x, left); });
}

int64_t pieces(int64_t n, int64_t width) { return (n + width - 1) / width; }

float total(Vec v) {
  float sum = 0;
  for (int l = 0; l < LANES; ++l) sum += v[l];
  return sum;
}

Tensor dense(const Tensor& x_, const Tensor& w_, std::optional<Tensor> b_, double gain, double bias_gain) {
  const Tensor x = matrix(x_, "dense"), w = matrix(w_, "dense");
  const int64_t n = x.size(0), in = x.size(1), outputs = w.size(0);
  STD_TORCH_CHECK(w.size(1) == in, "stylegan2_ada::dense: weights of ", w.size(1), " inputs for ", in);
  const std::vector<float> b = b_ ? sg::to_vector<float>(*b_, "dense") : std::vector<float>(outputs);
  STD_TORCH_CHECK(int64_t(b.size()) == outputs, "stylegan2_ada::dense: a bias of ", b.size(), " for ", outputs);
  const Tensor y = make(x, n, outputs);
  const float *px = sg::in<float>(x), *pw = sg::in<float>(w);
  float* py = sg::out<float>(y);
  sg::parallel(pieces(outputs, 2), 2 * in, [&, px, pw, py](int64_t begin, int64_t end) {
    for (int64_t o = 2 * begin; o < std::min(2 * end, outputs); o += 2)
      for (int64_t first = 0; first < n; first += ROWS)
        at_most<2>(outputs - o, [&](auto pair) {
          at_most<ROWS>(n - first, [&](auto count) {
            constexpr int many = pair, rows = count;
            Vec sums[rows][many] = {};
            by_vectors(0, pieces(in, LANES), in, [&](int64_t i, auto load, auto) {
              Vec weights[many];
              for (int k = 0; k < many; ++k) weights[k] = load(pw + (o + k) * in + i);
              for (int r = 0; r < rows; ++r) {
                const Vec x = load(px + (first + r) * in + i);
                for (int k = 0; k < many; ++k) sums[r][k] += weights[k] * x;
              }
            });
            for (int r = 0; r < rows; ++r)
              for (int k = 0; k < many; ++k)
                py[(first + r) * outputs + o + k] = float(gain) * total(sums[r][k]) + float(bias_gain) * b[o + k];
          });
        });
  });
  return y;
}

Tensor dense_input(const Tensor& gy_, const Tensor& w_, double gain) {
  const Tensor gy = matrix(gy_, "dense_input"), w = matrix(w_, "dense_input");
  const int64_t n = gy.size(0), outputs = w.size(0), in = w.size(1);
  STD_TORCH_CHECK(gy.size(1) == outputs, "stylegan2_ada::dense_input: gradients of ", gy.size(1), " for ", outputs);
  const Tensor gx = make(gy, n, in);
  const float *pg = sg::in<float>(gy), *pw = sg::in<float>(w);
  float* px = sg::out<float>(gx);
  std::vector<float> scaled(n * outputs);
  for (int64_t k = 0; k < n * outputs; ++k) scaled[k] = float(gain) * pg[k];
  const float* factors = scaled.data();
  sg::parallel(pieces(in, LANES), LANES * outputs, [=](int64_t begin, int64_t end) {
    for (int64_t o = 0; o < outputs; o += OUTPUTS)
      by_vectors(begin, end, in, [&](int64_t i, auto load, auto store) {
        const int64_t many = std::min(OUTPUTS, outputs - o);
        Vec weights[OUTPUTS] = {};
        for (int64_t k = 0; k < many; ++k) weights[k] = load(pw + (o + k) * in + i);
        for (int64_t r = 0; r < n; ++r) {
          Vec sum = o ? load(px + r * in + i) : Vec{};
          for (int64_t k = 0; k < many; ++k) sum += weights[k] * factors[r * outputs + o + k];
          store(sum, px + r * in + i);
        }
      });
  });
  return gx;
}

Tensor dense_weight(const Tensor& gy_, const Tensor& x_, double gain) {
  const Tensor gy = matrix(gy_, "dense_weight"), x = matrix(x_, "dense_weight");
  const int64_t n = gy.size(0), outputs = gy.size(1), in = x.size(1);
  STD_TORCH_CHECK(x.size(0) == n, "stylegan2_ada::dense_weight: ", x.size(0), " inputs for ", n, " gradients");
  const Tensor gw = make(gy, outputs, in);
  const float *pg = sg::in<float>(gy), *px = sg::in<float>(x);
  float* pw = sg::out<float>(gw);
  sg::parallel(outputs, in, [=](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o)
      by_vectors(0, pieces(in, LANES), in, [&](int64_t i, auto load, auto store) {
        Vec sum = {};
        for (int64_t r = 0; r < n; ++r) sum += load(px + r * in + i) * (float(gain) * pg[r * outputs + o]);
        store(sum, pw + o * in + i);
      });
  });
  return gw;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(stylegan2_ada, CPU, m) {
  m.impl("dense", TORCH_BOX(&dense));
  m.impl("dense_input", TORCH_BOX(&dense_input));
  m.impl("dense_weight", TORCH_BOX(&dense_weight));
}
