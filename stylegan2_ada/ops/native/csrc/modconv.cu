// The CUDA kernels of modconv_epilogue: out = clamp(gain * act(y * d[n, c] + noise[n, h, w] + b[c])) in one pass, and its
// gradients in another. Those of curved activations are left to bias_act_grad, and come here as the linear one's.
#include "modconv.cuh"

namespace sg {

const int AHEAD = 4;  // planes or pixels that a thread loads before it uses the first of them

template <typename T, int V>
SG_DEVICE void epilogue_planes(const EpilogueArgs& a) {
  typedef acc_t<T> S;
  const BiasActParams<S> p = params_of<T>(a.alpha, a.gain, a.inv_gain, a.clamp);
  const PlaneTeam t = plane_team<V>(a);
  if (!t.inside) return;
  S noise[V];
  operand_values<T, V>(
      load_operand<T, V>(a.noise, a.noise_wide, i64(a.noise_each ? t.sample : 0) * a.pixels + t.pixel), a.noise,
      a.noise_wide, S(0), noise);
  const T* y = static_cast<const T*>(a.y) + t.at;
  T* out = static_cast<T*>(a.result) + t.at;
#pragma unroll 1
  for (int c = t.group; c < a.c; c += AHEAD * a.groups) {
    Vec<T, V> raw[AHEAD];
    Small<T, 1> d[AHEAD], b[AHEAD];
#pragma unroll
    for (int u = 0; u < AHEAD; ++u) {
      const int channel = c + u * a.groups;
      if (channel >= a.c) break;
      raw[u] = load_vec<T, V>(y + i64(channel) * a.pixels);
      d[u] = load_operand<T, 1>(a.d, true, i64(t.sample) * a.c + channel);
      b[u] = load_operand<T, 1>(a.b, a.b_wide, channel);
    }
#pragma unroll
    for (int u = 0; u < AHEAD; ++u) {
      const int channel = c + u * a.groups;
      if (channel >= a.c) break;
      S v[V];
      unpack<T, V>(raw[u], v);
#pragma unroll
      for (int k = 0; k < V; ++k)
        v[k] = modconv_input(v[k], operand_value<T>(d[u], a.d, true, S(1)), operand_value<T>(b[u], a.b, a.b_wide, S(0)),
                             noise[k]);
      activate<V>(a.act, p, v);
      store_vec<T, V>(out + i64(channel) * a.pixels, pack<T, V>(v));
    }
  }
}

template <typename T, int V>
SG_DEVICE void epilogue_pixels(const EpilogueArgs& a) {
  typedef acc_t<T> S;
  const BiasActParams<S> p = params_of<T>(a.alpha, a.gain, a.inv_gain, a.clamp);
  const PixelTeam t = pixel_team<V>(a);
  if (!t.inside) return;
  S d[V], b[V];
  operand_values<T, V>(load_operand<T, V>(a.d, true, i64(t.sample) * a.c + t.channel), a.d, true, S(1), d);
  operand_values<T, V>(load_operand<T, V>(a.b, a.b_wide, t.channel), a.b, a.b_wide, S(0), b);
  const i64 at = i64(t.sample) * a.pixels * a.c + t.channel, noise_at = i64(a.noise_each ? t.sample : 0) * a.pixels;
  const T* y = static_cast<const T*>(a.y) + at;
  T* out = static_cast<T*>(a.result) + at;
#pragma unroll 1
  for (int pixel = t.first; pixel < t.end; pixel += AHEAD * t.step) {
    Vec<T, V> raw[AHEAD];
    Small<T, 1> noise[AHEAD];
#pragma unroll
    for (int u = 0; u < AHEAD; ++u) {
      const int q = pixel + u * t.step;
      if (q >= t.end) break;
      raw[u] = load_vec<T, V>(y + i64(q) * a.c);
      noise[u] = load_operand<T, 1>(a.noise, a.noise_wide, noise_at + q);
    }
#pragma unroll
    for (int u = 0; u < AHEAD; ++u) {
      const int q = pixel + u * t.step;
      if (q >= t.end) break;
      S v[V];
      unpack<T, V>(raw[u], v);
#pragma unroll
      for (int k = 0; k < V; ++k)
        v[k] = modconv_input(v[k], d[k], b[k], operand_value<T>(noise[u], a.noise, a.noise_wide, S(0)));
      activate<V>(a.act, p, v);
      store_vec<T, V>(out + i64(q) * a.c, pack<T, V>(v));
    }
  }
}

// What both gradients know about the activation.
template <typename T>
struct Backward {
  typedef acc_t<T> S;
  BiasActParams<S> p;
  S inv_alpha;
  bool given;  // y; else y * d is recovered from out
};

template <typename T>
SG_DEVICE Backward<T> backward_of(const EpilogueArgs& a) {
  Backward<T> w;
  w.p = straight(a.act, params_of<T>(a.alpha, a.gain, a.inv_gain, a.clamp));
  w.inv_alpha = acc_t<T>(1) / w.p.alpha;
  w.given = a.y != nullptr;
  return w;
}

template <typename T, int V>
SG_DEVICE void epilogue_grad_planes(const EpilogueArgs& a) {
  typedef acc_t<T> S;
  const Backward<T> w = backward_of<T>(a);
  const PlaneTeam t = plane_team<V>(a);
  const bool any_sum = a.dots != nullptr || a.sums != nullptr;
  S noise[V], by_pixel[V];
#pragma unroll
  for (int k = 0; k < V; ++k) noise[k] = by_pixel[k] = S(0);
  if (t.inside && !w.given)
    operand_values<T, V>(
        load_operand<T, V>(a.noise, a.noise_wide, i64(a.noise_each ? t.sample : 0) * a.pixels + t.pixel), a.noise,
        a.noise_wide, S(0), noise);
  const int rounds = (a.c - 1) / a.groups + 1;  // the same for all threads, which meet in the sums
#pragma unroll 1
  for (int r = 0; r < rounds; r += 2) {
    Vec<T, V> raw_g[2], raw_o[2], raw_y[2];
    Small<T, 1> raw_d[2], raw_b[2];
#pragma unroll
    for (int u = 0; u < 2; ++u) {
      const int channel = t.group + (r + u) * a.groups;
      if (!t.inside || channel >= a.c) break;
      const i64 at = t.at + i64(channel) * a.pixels;
      raw_g[u] = load_vec<T, V>(static_cast<const T*>(a.g) + at);
      raw_o[u] = load_vec<T, V>(static_cast<const T*>(a.out) + at);
      if (w.given) raw_y[u] = load_vec<T, V>(static_cast<const T*>(a.y) + at);
      raw_d[u] = load_operand<T, 1>(a.d, true, i64(t.sample) * a.c + channel);
      raw_b[u] = load_operand<T, 1>(w.given ? nullptr : a.b, a.b_wide, channel);
    }
#pragma unroll
    for (int u = 0; u < 2; ++u) {
      const int channel = t.group + (r + u) * a.groups;
      const bool inside = t.inside && channel < a.c;
      S dot = S(0), sum = S(0);
      if (inside) {
        S g[V], o[V], y[V], gy[V];
        unpack<T, V>(raw_g[u], g);
        unpack<T, V>(raw_o[u], o);
        if (w.given) unpack<T, V>(raw_y[u], y);
        const S d = operand_value<T>(raw_d[u], a.d, true, S(1));
        const S b = operand_value<T>(raw_b[u], w.given ? nullptr : a.b, a.b_wide, S(0));
#pragma unroll
        for (int k = 0; k < V; ++k) {
          const S e = g[k] * bias_act_slope<LRELU, false>(o[k], w.p);
          dot += e * (w.given ? y[k] : modconv_undone(o[k], w.p.inv_gain, w.inv_alpha) - (b + noise[k]));
          sum += e;
          by_pixel[k] += e;
          gy[k] = e * d;
        }
        store_vec<T, V>(static_cast<T*>(a.result) + t.at + i64(channel) * a.pixels, pack<T, V>(gy));
      }
      if (any_sum) {
        dot = team_sum(dot, a.lanes);
        sum = team_sum(sum, a.lanes);
        if (inside && threadIdx.x % u32(a.lanes) == 0) {
          const i64 at = (i64(t.sample) * a.c + channel) * a.pieces + t.piece;
          if (a.dots) static_cast<S*>(a.dots)[at] = dot;
          if (a.sums) static_cast<S*>(a.sums)[at] = sum;
        }
      }
    }
  }
  if (a.by_pixel && t.inside) {
    S* to = static_cast<S*>(a.by_pixel) + (i64(t.sample) * a.groups + t.group) * a.pixels + t.pixel;
#pragma unroll
    for (int k = 0; k < V; ++k) to[k] = by_pixel[k];
  }
}

// The sums of v[k] over the teams of a block, by one team of threads; the others' come back as they went in.
template <int V, typename S>
SG_DEVICE void block_sum(S* v, int lanes) {
  __shared__ S shared[256 * V];
#pragma unroll
  for (int k = 0; k < V; ++k) shared[k * 256 + threadIdx.x] = v[k];
  __syncthreads();
  if (int(threadIdx.x) < lanes) {
#pragma unroll 1
    for (int other = int(threadIdx.x) + lanes; other < 256; other += lanes) {
#pragma unroll
      for (int k = 0; k < V; ++k) v[k] += shared[k * 256 + other];
    }
  }
  __syncthreads();
}

template <typename T, int V>
SG_DEVICE void epilogue_grad_pixels(const EpilogueArgs& a) {
  typedef acc_t<T> S;
  const Backward<T> w = backward_of<T>(a);
  const PixelTeam t = pixel_team<V>(a);
  S d[V], b[V], dot[V], sum[V];
#pragma unroll
  for (int k = 0; k < V; ++k) d[k] = b[k] = dot[k] = sum[k] = S(0);
  if (t.inside) {
    operand_values<T, V>(load_operand<T, V>(a.d, true, i64(t.sample) * a.c + t.channel), a.d, true, S(1), d);
    const void* bias = w.given ? nullptr : a.b;
    operand_values<T, V>(load_operand<T, V>(bias, a.b_wide, t.channel), bias, a.b_wide, S(0), b);
  }
  const i64 start = i64(t.sample) * a.pixels * a.c + t.channel, noise_at = i64(a.noise_each ? t.sample : 0) * a.pixels;
  const int rounds = (t.end - (t.first - int(threadIdx.x / u32(a.lanes))) + t.step - 1) / t.step;
#pragma unroll 1
  for (int r = 0; r < rounds; r += 2) {
    Vec<T, V> raw_g[2], raw_o[2], raw_y[2];
    Small<T, 1> noise[2];
#pragma unroll
    for (int u = 0; u < 2; ++u) {
      const int pixel = t.first + (r + u) * t.step;
      if (!t.inside || pixel >= t.end) break;
      const i64 at = start + i64(pixel) * a.c;
      raw_g[u] = load_vec<T, V>(static_cast<const T*>(a.g) + at);
      raw_o[u] = load_vec<T, V>(static_cast<const T*>(a.out) + at);
      if (w.given) raw_y[u] = load_vec<T, V>(static_cast<const T*>(a.y) + at);
      noise[u] = load_operand<T, 1>(w.given ? nullptr : a.noise, a.noise_wide, noise_at + pixel);
    }
#pragma unroll
    for (int u = 0; u < 2; ++u) {
      const int pixel = t.first + (r + u) * t.step;
      const bool inside = t.inside && pixel < t.end;
      S by_pixel = S(0);
      if (inside) {
        S g[V], o[V], y[V], gy[V];
        unpack<T, V>(raw_g[u], g);
        unpack<T, V>(raw_o[u], o);
        if (w.given) unpack<T, V>(raw_y[u], y);
        const S here = operand_value<T>(noise[u], w.given ? nullptr : a.noise, a.noise_wide, S(0));
#pragma unroll
        for (int k = 0; k < V; ++k) {
          const S e = g[k] * bias_act_slope<LRELU, false>(o[k], w.p);
          dot[k] += e * (w.given ? y[k] : modconv_undone(o[k], w.p.inv_gain, w.inv_alpha) - (b[k] + here));
          sum[k] += e;
          by_pixel += e;
          gy[k] = e * d[k];
        }
        store_vec<T, V>(static_cast<T*>(a.result) + start + i64(pixel) * a.c, pack<T, V>(gy));
      }
      if (a.by_pixel) {
        by_pixel = team_sum(by_pixel, a.lanes);
        if (inside && t.lane == 0)
          static_cast<S*>(a.by_pixel)[(i64(t.sample) * a.groups + t.group) * a.pixels + pixel] = by_pixel;
      }
    }
  }
  const i64 to = (i64(t.sample) * a.c + t.channel) * a.pieces + t.piece;
  if (a.dots) {
    block_sum<V>(dot, a.lanes);
    if (t.inside && int(threadIdx.x) < a.lanes) {
#pragma unroll
      for (int k = 0; k < V; ++k) static_cast<S*>(a.dots)[to + i64(k) * a.pieces] = dot[k];
    }
  }
  if (a.sums) {
    block_sum<V>(sum, a.lanes);
    if (t.inside && int(threadIdx.x) < a.lanes) {
#pragma unroll
      for (int k = 0; k < V; ++k) static_cast<S*>(a.sums)[to + i64(k) * a.pieces] = sum[k];
    }
  }
}

// Blocks 0 ... c - 1: the sums of a channel, a warp for a sample. The blocks after that: those of the pixels.
template <typename S>
SG_DEVICE void finish(const FinishArgs& a) {
  if (int(blockIdx.x) < a.c) {
    __shared__ S by_warp[8];
    const int channel = int(blockIdx.x), warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
    S total = S(0);
#pragma unroll 1
    for (int n = warp; n < a.n; n += 8) {
      const i64 at = (i64(n) * a.c + channel) * a.pieces;
      S dot = S(0), sum = S(0);
#pragma unroll 4
      for (int i = lane; i < a.pieces; i += 32) {
        if (a.dots) dot += static_cast<const S*>(a.dots)[at + i];
        if (a.sums) sum += static_cast<const S*>(a.sums)[at + i];
      }
      dot = team_sum(dot, 32);
      total += team_sum(sum, 32);
      if (a.gd && lane == 0) {
        if (a.divide) {
          const S d = static_cast<const S*>(a.d)[i64(n) * a.c + channel];
          dot = d == S(0) ? S(0) : dot / d;
        }
        static_cast<S*>(a.gd)[i64(n) * a.c + channel] = dot;
      }
    }
    if (lane == 0) by_warp[warp] = total;
    __syncthreads();
    if (a.gb && threadIdx.x == 0) {
      total = S(0);
      for (int i = 0; i < 8; ++i) total += by_warp[i];
      static_cast<S*>(a.gb)[channel] = total;
    }
    return;
  }
  // gn is [n, pixels], or [pixels] where all samples have the same noise.
  const i64 i = i64(blockIdx.x - u32(a.c)) * 256 + threadIdx.x;
  if (i >= (a.noise_each ? i64(a.n) : 1) * a.pixels) return;
  const i64 sample = a.noise_each ? i / a.pixels : 0, pixel = i - sample * a.pixels;
  const int terms = a.noise_each ? a.groups : a.groups * a.n;
  const S* from = static_cast<const S*>(a.by_pixel) + sample * a.groups * a.pixels + pixel;
  S sum = S(0);
#pragma unroll 4
  for (int k = 0; k < terms; ++k) sum += from[i64(k) * a.pixels];
  static_cast<S*>(a.gn)[i] = sum;
}

}  // namespace sg

#define SG_ONE(T, NAME, WAY, V)                                                                                    \
  SG_KERNEL(modconv_planes_##WAY##_##NAME)(const __grid_constant__ sg::EpilogueArgs a) {                           \
    sg::epilogue_planes<T, V>(a);                                                                                  \
  }                                                                                                                \
  SG_KERNEL(modconv_pixels_##WAY##_##NAME)(const __grid_constant__ sg::EpilogueArgs a) {                           \
    sg::epilogue_pixels<T, V>(a);                                                                                  \
  }                                                                                                                \
  SG_KERNEL(modconv_grad_planes_##WAY##_##NAME)(const __grid_constant__ sg::EpilogueArgs a) {                      \
    sg::epilogue_grad_planes<T, V>(a);                                                                             \
  }                                                                                                                \
  SG_KERNEL(modconv_grad_pixels_##WAY##_##NAME)(const __grid_constant__ sg::EpilogueArgs a) {                      \
    sg::epilogue_grad_pixels<T, V>(a);                                                                             \
  }
#define SG_FINISH(S, NAME) \
  SG_KERNEL(modconv_finish_##NAME)(const __grid_constant__ sg::FinishArgs a) { sg::finish<S>(a); }
#define SG_ALL(T, NAME)                      \
  SG_ONE(T, NAME, vec, sg::Width<T>::full)   \
  SG_ONE(T, NAME, one, 1)                    \
  SG_FINISH(float, NAME)
#define SG_DOUBLE(T, NAME)  \
  SG_ONE(T, NAME, one, 1)   \
  SG_FINISH(T, NAME)

SG_EVERY_TYPE(SG_ALL, SG_DOUBLE)

#if defined(__CUDACC__) && !defined(__CUDACC_RTC__)  // launches for cuda_binding.cpp, where nvcc compiles this
#include "cuda_plan.h"

#define SG_ROW(NAME)                                                                                             \
  {(const void*)modconv_planes_vec_##NAME,      (const void*)modconv_planes_one_##NAME,                          \
   (const void*)modconv_pixels_vec_##NAME,      (const void*)modconv_pixels_one_##NAME,                          \
   (const void*)modconv_grad_planes_vec_##NAME, (const void*)modconv_grad_planes_one_##NAME,                     \
   (const void*)modconv_grad_pixels_vec_##NAME, (const void*)modconv_grad_pixels_one_##NAME,                     \
   (const void*)modconv_finish_##NAME}

static const void* const sg_modconv_kernels[4][9] = {
    SG_ROW(f32),
    {nullptr, (const void*)modconv_planes_one_f64, nullptr, (const void*)modconv_pixels_one_f64, nullptr,
     (const void*)modconv_grad_planes_one_f64, nullptr, (const void*)modconv_grad_pixels_one_f64,
     (const void*)modconv_finish_f64},
    SG_ROW(bf16),
    SG_ROW(f16)};

extern "C" int sg_launch_modconv(int dtype, const sg::Launch* what, const sg::EpilogueArgs* args, void* stream) {
  return sg::launch_from(sg_modconv_kernels[dtype], *what, args, stream);
}

extern "C" int sg_launch_modconv_finish(int dtype, const sg::Launch* what, const sg::FinishArgs* args, void* stream) {
  return sg::launch_from(sg_modconv_kernels[dtype], *what, args, stream);
}
#endif
