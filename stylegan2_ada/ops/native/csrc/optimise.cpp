// What an optimiser does with all weights at once, on the CPU: stylegan2_ada/ops/optimise.py tells what the ops compute
// and defines their schemas. Memory is all the time it takes, so each number is read, and written, once.
#include <cmath>

#include "cpu.h"

namespace {

using sg::ScalarType;
using torch::stable::Tensor;

constexpr int64_t CHUNK = 65536;  // numbers that one thread takes at a time

struct Chunk {
  int64_t tensor, begin, end;
};

std::vector<Chunk> chunks(const std::vector<Tensor>& tensors, const char* op) {
  std::vector<Chunk> all;
  for (size_t k = 0; k < tensors.size(); ++k) {
    const Tensor& t = tensors[k];
    STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float && sg::is_dense(t), "stylegan2_ada::", op,
                    " takes float32 tensors that fill their memory");
    for (int64_t i = 0; i < t.numel(); i += CHUNK) all.push_back({int64_t(k), i, std::min(i + CHUNK, int64_t(t.numel()))});
  }
  return all;
}

template <typename T>
std::vector<T*> pointers(const std::vector<Tensor>& tensors) {
  std::vector<T*> all;
  for (const Tensor& t : tensors)
    if constexpr (std::is_const_v<T>)
      all.push_back(sg::in<std::remove_const_t<T>>(t));
    else
      all.push_back(sg::out<T>(t));
  return all;
}

Tensor norm_of_all(std::vector<Tensor> tensors) {
  const std::vector<Chunk> all = chunks(tensors, "norm_of_all");
  const auto data = pointers<const float>(tensors);
  std::vector<float> sums(all.size());
  sg::parallel(all.size(), CHUNK, [&](int64_t first, int64_t last) {
    for (int64_t c = first; c < last; ++c) {
      constexpr int WIDE = 64;  // sums side by side: the order is the same whatever the vectors' width
      float part[WIDE] = {};
      const float* x = data[all[c].tensor];
      int64_t i = all[c].begin;
      for (; i + WIDE <= all[c].end; i += WIDE)
        for (int l = 0; l < WIDE; ++l) part[l] += x[i + l] * x[i + l];
      for (int l = 0; i + l < all[c].end; ++l) part[l] += x[i + l] * x[i + l];
      float sum = 0;
      for (float p : part) sum += p;
      sums[c] = sum;
    }
  });
  double sum = 0;
  for (float part : sums) sum += part;
  const std::vector<int64_t> scalar;
  const Tensor y = torch::stable::empty(scalar, ScalarType::Float);
  *sg::out<float>(y) = float(std::sqrt(sum));
  return y;
}

void adam_step(float* __restrict w, float* __restrict v, const float* __restrict g, int64_t n, float rate, float keep,
               float take, float spread, float least) {
  for (int64_t i = 0; i < n; ++i) {
    const float square = keep * v[i] + take * (g[i] * g[i]);
    v[i] = square;
    w[i] -= rate * g[i] / (std::sqrt(square) * spread + least);
  }
}

void adam_(std::vector<Tensor> weights, std::vector<Tensor> gradients, std::vector<Tensor> squares,
           std::vector<Tensor> steps, double rate, double beta2, double eps) {
  const size_t n = weights.size();
  STD_TORCH_CHECK(gradients.size() == n && squares.size() == n && steps.size() == n,
                  "stylegan2_ada::adam_ takes as many gradients, squares and steps as weights");
  for (size_t k = 0; k < n; ++k) {
    STD_TORCH_CHECK(sg::same_layout(weights[k], gradients[k]) && sg::same_layout(weights[k], squares[k]) &&
                        weights[k].numel() == gradients[k].numel() && weights[k].numel() == squares[k].numel() &&
                        steps[k].numel() == 1 && steps[k].scalar_type() == ScalarType::Float,
                    "stylegan2_ada::adam_: gradients and squares must be like the weights, and steps numbers");
  }
  const std::vector<Chunk> all = chunks(weights, "adam_");
  chunks(gradients, "adam_");
  chunks(squares, "adam_");
  const auto w = pointers<float>(weights), v = pointers<float>(squares), count = pointers<float>(steps);
  const auto g = pointers<const float>(gradients);
  std::vector<float> spread(n);  // sqrt(v) is multiplied by, for its late start
  for (size_t k = 0; k < n; ++k) spread[k] = float(1 / std::sqrt(1 - std::pow(beta2, double(++*count[k]))));
  const float keep = float(beta2), take = float(1 - beta2), lr = float(rate), least = float(eps);
  sg::parallel(all.size(), CHUNK, [&](int64_t first, int64_t last) {
    for (int64_t c = first; c < last; ++c) {
      const Chunk& here = all[c];
      adam_step(w[here.tensor] + here.begin, v[here.tensor] + here.begin, g[here.tensor] + here.begin,
                here.end - here.begin, lr, keep, take, spread[here.tensor], least);
    }
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(stylegan2_ada, CPU, m) {
  m.impl("norm_of_all", TORCH_BOX(&norm_of_all));
  m.impl("adam_", TORCH_BOX(&adam_));
}
