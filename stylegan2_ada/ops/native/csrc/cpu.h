// What the CPU kernels share: dispatch on the dtype, memory layouts, loops over threads. Stable ABI only.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "common.h"

namespace sg {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Elements a thread should have at least before another one is woken for the rest.
constexpr int64_t GRAIN = 16384;

// Calls f(T{}) with the storage type of `dtype`.
template <typename F>
auto by_dtype(ScalarType dtype, const char* op, F&& f) {
  switch (dtype) {
    case ScalarType::Float:
      return f(float{});
    case ScalarType::Double:
      return f(double{});
    case ScalarType::BFloat16:
      return f(bf16{});
    case ScalarType::Half:
      return f(fp16{});
    default:
      STD_TORCH_CHECK(false, "stylegan2_ada::", op, " takes float32, float64, bfloat16 or float16");
  }
}

template <typename T>
const T* in(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}

template <typename T>
T* out(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

// Whether the elements fill one block of memory, in whatever order of the dimensions.
inline bool is_dense(const Tensor& x) {
  auto sizes = x.sizes();
  auto strides = x.strides();
  std::vector<std::pair<int64_t, int64_t>> dims;
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] == 0) return true;
    if (sizes[i] > 1) dims.emplace_back(strides[i], sizes[i]);
  }
  std::sort(dims.begin(), dims.end());
  int64_t expected = 1;
  for (auto [stride, size] : dims) {
    if (stride != expected) return false;
    expected *= size;
  }
  return true;
}

inline bool same_layout(const Tensor& a, const Tensor& b) {
  auto sizes = a.sizes();
  for (size_t i = 0; i < sizes.size(); ++i)
    if (sizes[i] > 1 && a.stride(i) != b.stride(i)) return false;
  return true;
}

inline Tensor copy_like(const Tensor& x, const Tensor& layout) {
  Tensor y = torch::stable::empty_like(layout);
  torch::stable::copy_(y, x);
  return y;
}

// x itself, or a copy that fills one block of memory in the order that empty_like(x) has.
inline Tensor dense(const Tensor& x) { return is_dense(x) ? x : copy_like(x, x); }

// x in the very memory order of `layout`, which is dense.
inline Tensor laid_out(const Tensor& x, const Tensor& layout) {
  return same_layout(x, layout) ? x : copy_like(x, layout);
}

// A dense tensor seen along one dimension: [outer, size, inner].
struct Along {
  int64_t outer, size, inner;
};

inline Along along(const Tensor& x, int64_t dim) {
  int64_t size = x.size(dim), stride = x.stride(dim), inner = 1;
  auto sizes = x.sizes();
  auto strides = x.strides();
  if (x.numel() == 0) return {0, size, 1};
  if (size == 1) return {1, 1, x.numel()};
  for (size_t i = 0; i < sizes.size(); ++i)
    if (static_cast<int64_t>(i) != dim && sizes[i] > 1 && strides[i] < stride) inner *= sizes[i];
  return {x.numel() / (size * inner), size, inner};
}

// A vector of numbers of any float dtype as S.
template <typename S>
std::vector<S> to_vector(const Tensor& t, const char* op) {
  std::vector<S> v(t.numel());
  if (v.empty()) return v;
  int64_t stride = t.dim() ? t.stride(t.dim() - 1) : 1;
  by_dtype(t.scalar_type(), op, [&](auto zero) {
    using T = decltype(zero);
    const T* p = in<T>(t);
    for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<S>(Num<T>::load(p[i * stride]));
  });
  return v;
}

template <typename F>
void parallel(int64_t count, int64_t work, const F& f) {  // `work`: elements per index
  int64_t grain = std::max<int64_t>(1, GRAIN / std::max<int64_t>(1, work));
  if (count <= grain)
    f(0, count);
  else
    torch::stable::parallel_for(0, count, grain, f);
}

// f(item, thread) for each item; threads take the next one when they are done, so that a disturbed thread is not
// waited for.
template <typename F>
void for_each_item(int64_t items, int64_t threads, const F& f) {
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, std::min(items, threads), 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++)
      for (int64_t i = next++; i < items; i = next++) f(i, t);
  });
}

}  // namespace sg
