// The CUDA kernels of bias_act and its derivatives. A tensor is seen as a flat array, whatever its shape; the grid and
// the pieces of large tensors come from plan_bias_act in cuda_plan.h.
#include "bias_act.cuh"

namespace sg {

// 16 bytes from element i on; zeros beyond the end.
template <typename T>
SG_DEVICE Vec<T, Width<T>::full> load_flat(const void* p, int i, int elements, bool aligned) {
  constexpr int V = Width<T>::full;
  const T* x = static_cast<const T*>(p) + i;
  return aligned && i + V <= elements ? load_vec<T, V>(x) : gather_vec<T, V>(x, elements - i);
}

template <typename T>
SG_DEVICE void store_flat(void* p, int i, int elements, bool aligned, const acc_t<T>* v) {
  constexpr int V = Width<T>::full;
  T* y = static_cast<T*>(p) + i;
  if (aligned && i + V <= elements) {
    store_vec<T, V>(y, pack<T, V>(v));
  } else {
#pragma unroll
    for (int k = 0; k < V; ++k)
      if (i + k < elements) y[k] = Num<T>::store(v[k]);
  }
}

SG_DEVICE int channel_of(const PointwiseArgs& a, u32 i) {
  const u32 row = divide(i, a.inner);
  return int(row - divide(row, a.size) * a.size.d);
}

template <typename T>
SG_DEVICE void bias_act_kernel(const PointwiseArgs& a) {
  typedef acc_t<T> S;
  constexpr int V = Width<T>::full, VECTORS = 4;  // per thread; all are loaded before the first is used
  const BiasActParams<S> p = params_of<T>(a.alpha, a.gain, a.inv_gain, a.clamp);
  const int first = (int(blockIdx.x) * VECTORS * 256 + int(threadIdx.x)) * V;
  Vec<T, V> raw[VECTORS];
  Small<T, 1> one[VECTORS];
  Small<T, V> all = {};
#pragma unroll
  for (int u = 0; u < VECTORS; ++u) {
    const int i = first + u * 256 * V;
    raw[u] = load_flat<T>(a.x, i, a.elements, a.aligned);
    if (a.mode == 1 && i < a.elements) one[u] = load_small<T, 1>(a.b, a.wide, channel_of(a, u32(i)));
  }
#pragma unroll
  for (int u = 0; u < VECTORS; ++u) {
    const int i = first + u * 256 * V;
    if (i >= a.elements) break;
    S v[V];
    unpack<T, V>(raw[u], v);
    if (a.mode == 1) {
      const S b = small_value<T, 1>(one[u], a.wide, 0);
#pragma unroll
      for (int k = 0; k < V; ++k) v[k] += b;
    } else if (a.mode == 2) {
      if (u == 0 || !a.periodic) all = load_small<T, V>(a.b, a.wide, channel_of(a, u32(i)));
#pragma unroll
      for (int k = 0; k < V; ++k) v[k] += small_value<T, V>(all, a.wide, k);
    } else if (a.mode == 3) {
#pragma unroll
      for (int k = 0; k < V; ++k)
        if (i + k < a.elements)
          v[k] += small_value<T, 1>(load_small<T, 1>(a.b, a.wide, channel_of(a, u32(i + k))), a.wide, 0);
    }
    activate<V>(a.act, p, v);
    store_flat<T>(a.y, i, a.elements, a.aligned, v);
  }
}

// ORDER 1: x * slope(ref). ORDER 2: x2 * x * bend(ref).
template <typename T, int ORDER>
SG_DEVICE void bias_act_grad_kernel(const PointwiseArgs& a) {
  typedef acc_t<T> S;
  constexpr int V = Width<T>::full, VECTORS = 2;
  const BiasActParams<S> p = params_of<T>(a.alpha, a.gain, a.inv_gain, a.clamp), q = straight(a.act, p);
  const int first = (int(blockIdx.x) * VECTORS * 256 + int(threadIdx.x)) * V;
  Vec<T, V> raw_g[VECTORS], raw_r[VECTORS], raw_gg[VECTORS];
#pragma unroll
  for (int u = 0; u < VECTORS; ++u) {
    const int i = first + u * 256 * V;
    raw_g[u] = load_flat<T>(a.x, i, a.elements, a.aligned);
    raw_r[u] = load_flat<T>(a.ref, i, a.elements, a.aligned);
    if (ORDER == 2) raw_gg[u] = load_flat<T>(a.x2, i, a.elements, a.aligned);
  }
#pragma unroll
  for (int u = 0; u < VECTORS; ++u) {
    const int i = first + u * 256 * V;
    if (i >= a.elements) break;
    S g[V], r[V], gg[V];
    unpack<T, V>(raw_g[u], g);
    unpack<T, V>(raw_r[u], r);
    if (ORDER == 2) {
      unpack<T, V>(raw_gg[u], gg);
#pragma unroll
      for (int k = 0; k < V; ++k) g[k] = gg[k] * g[k] * curved_bend<S>(a.act, r[k], p);
    } else if (is_straight(a.act, a.alpha)) {
#pragma unroll
      for (int k = 0; k < V; ++k) g[k] *= bias_act_slope<LRELU, false>(r[k], q);
    } else {
#pragma unroll
      for (int k = 0; k < V; ++k) g[k] *= curved_slope<S>(a.act, r[k], p);
    }
    store_flat<T>(a.y, i, a.elements, a.aligned, g);
  }
}

}  // namespace sg

#define SG_ALL(T, NAME)                                                                                          \
  SG_KERNEL(bias_act_##NAME)(const __grid_constant__ sg::PointwiseArgs a) { sg::bias_act_kernel<T>(a); }         \
  SG_KERNEL(bias_act_grad_##NAME)(const __grid_constant__ sg::PointwiseArgs a) {                                 \
    sg::bias_act_grad_kernel<T, 1>(a);                                                                           \
  }                                                                                                              \
  SG_KERNEL(bias_act_grad2_##NAME)(const __grid_constant__ sg::PointwiseArgs a) {                                \
    sg::bias_act_grad_kernel<T, 2>(a);                                                                           \
  }

SG_EVERY_TYPE(SG_ALL, SG_ALL)

#if defined(__CUDACC__) && !defined(__CUDACC_RTC__)  // launches for cuda_binding.cpp, where nvcc compiles this
#include "cuda_plan.h"

#define SG_ROW(NAME) \
  {(const void*)bias_act_##NAME, (const void*)bias_act_grad_##NAME, (const void*)bias_act_grad2_##NAME}

extern "C" int sg_launch_bias_act(int dtype, const sg::Launch* what, const sg::PointwiseArgs* args, void* stream) {
  static const void* const kernels[4][3] = {SG_ROW(f32), SG_ROW(f64), SG_ROW(bf16), SG_ROW(f16)};
  return sg::launch_from(kernels[dtype], *what, args, stream);
}
#endif
