// upfirdn2d by marching down the rows: the quick kernels for filters of 4 or 12 taps along each axis.
//
// A thread filters the rows of the image along x as it goes down, keeps the last few of them in registers, and filters
// those along y into rows of the result. So every sample is loaded once per thread (and from the cache where threads
// overlap), multiplied T / UP times along x and as often along y. Two kinds of threads:
//
// Pixels: V neighbouring channels of S neighbouring pixels; channels_last images with V of 16 bytes, and anything with
//     V = 1 (a NCHW tensor is N * C images of one channel).
// Plane: 16 bytes of neighbouring pixels of a NCHW tensor; see upfirdn2d_planes.cuh.
//
// The filter is 1-D, or 2-D and found to be an outer product here: asking the host would make it wait for the GPU.
#pragma once

#include "device.cuh"
#include "upfirdn2d.h"

namespace sg {

// Which part of the result a thread makes, in the order of the threads in memory.
struct Patch {
  i64 plane;
  int group, strip, lane;  // of `rows` rows, of the width, of the channels
  bool inside;
};

SG_DEVICE Patch patch_of_thread(const UpfirdnArgs& a) {
  const u32 chunk = blockIdx.x % u32(a.chunks), rest = blockIdx.x / u32(a.chunks);
  const u32 tile = rest % u32(a.tiles_x), z = rest / u32(a.tiles_x) * blockDim.z + threadIdx.z;
  Patch p;
  p.plane = z / u32(a.groups);
  p.group = int(z % u32(a.groups));
  p.strip = int(tile * blockDim.y + threadIdx.y);
  p.lane = int(chunk * blockDim.x + threadIdx.x);
  p.inside = p.plane < a.planes && p.strip < a.strips;
  return p;
}

// The filter in shared memory, in the order of a correlation.
template <int T>
struct Taps {
  float y[T], x[T];  // gain included in y
  float all[T * T];  // of a 2-D filter; without the gain
};

// Fills `taps`; false if the filter is no outer product. For all threads of a block.
template <int T>
SG_DEVICE bool separate(const UpfirdnArgs& a, Taps<T>& taps) {
  const int thread = int((threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x);
  const int threads = int(blockDim.x * blockDim.y * blockDim.z), count = a.separable ? T : T * T;
  const float gain = float(a.gain);
#pragma unroll 1
  for (int i = thread; i < count; i += threads) {
    const int from = a.flip ? i : count - 1 - i;  // a table turned round is its list turned round
    taps.all[i] = a.f_double ? float(static_cast<const double*>(a.f)[from]) : static_cast<const float*>(a.f)[from];
  }
  __syncthreads();
  // All rows of an outer product are multiples of the middle one, up to the rounding of float taps. A filter with a
  // zero in the middle is left to the definition.
  constexpr int MIDDLE = T / 2 - 1;
  const float middle = a.separable ? 1.f : taps.all[MIDDLE * T + MIDDLE];
  const float factor = gain / middle;
#pragma unroll 1
  for (int i = thread; i < T; i += threads) {
    taps.x[i] = taps.all[a.separable ? i : MIDDLE * T + i];
    taps.y[i] = taps.all[a.separable ? i : i * T + MIDDLE] * factor;
  }
  int differs = middle == 0.f;
  if (!a.separable) {
    float largest = 0.f;
#pragma unroll 1
    for (int i = 0; i < T * T; ++i) largest = fmaxf(largest, fabsf(taps.all[i]));
#pragma unroll 1
    for (int i = thread; i < T * T; i += threads) {
      const float error = taps.all[i / T * T + MIDDLE] * taps.all[MIDDLE * T + i % T] - taps.all[i] * middle;
      differs |= !(fabsf(error) <= 3e-7f * largest * fabsf(middle));
    }
  }
  return !__syncthreads_or(differs);
}

// What the rows of the image have to do with the rows of the result. For UP = 2 rows of the result are made in pairs that
// use the same rows of the image.
template <int T, int UP, int DOWN>
struct March {
  static const int BEFORE = UP == 2 ? T / 2 : T - DOWN;  // rows kept from earlier steps
  static const int STEP = 2;                             // rows loaded in one step, before the first of them is used
};

// Bit k: whether start + k is one of the numbers 0 ... size - 1.
SG_DEVICE u32 within(int start, int count, int size) {
  u32 bits = 0;
  for (int k = 0; k < count; ++k) bits |= u32(u32(start + k) < u32(size)) << k;
  return bits;
}

// First row of the result that a patch covers, first row of the image that it needs; the same along x.
template <int UP, int DOWN>
SG_DEVICE void patch_start(int index, int size, int pad, int& out, int& in) {
  if (UP == 2) {
    out = index * size - (pad & 1);  // an even distance from sample to tap 0
    in = (out - pad) / 2;            // exact
  } else {
    out = index * size;
    in = out * DOWN - pad;
  }
}

// Goes down `rows` rows of the result, from the image's row `in` on, whose height is `h`. `Rows` holds where in memory it
// is: load(inside, Raw&) and store(values) go to the next row, filter(Raw, h) filters along x.
template <int T, int UP, int DOWN, int N, typename Rows>
SG_DEVICE void march(const float* g, int rows, int in, int h, int out, int oh, Rows& r) {
  constexpr int BEFORE = March<T, UP, DOWN>::BEFORE, STEP = March<T, UP, DOWN>::STEP;
  float window[BEFORE + STEP][N], sum[N];
#pragma unroll
  for (int i = 0; i < BEFORE * N; ++i) window[i / N][i % N] = 0.f;
  if (rows > oh - out) rows = oh - out;
  const int needed = UP == 2 ? (rows + 1) / 2 + T / 2 : (rows - 1) * DOWN + T;
#pragma unroll 1
  for (int k = 0; k < needed; k += STEP) {
    typename Rows::Raw raw[STEP];
#pragma unroll
    for (int u = 0; u < STEP; ++u) r.load(u32(in + k + u) < u32(h), raw[u]);
#pragma unroll
    for (int u = 0; u < STEP; ++u) r.filter(raw[u], window[BEFORE + u]);
    constexpr int MADE = UP == 2 ? 2 * STEP : STEP / DOWN;  // rows of the result
#pragma unroll
    for (int m = 0; m < MADE; ++m) {
      const int row = (k - BEFORE) * UP / DOWN + m;  // counted from `out`
      constexpr int TAPS = UP == 2 ? T / 2 : T;
      const int start = UP == 2 ? m / 2 + m % 2 : m * DOWN, phase = UP == 2 ? m % 2 : 0;
#pragma unroll
      for (int i = 0; i < N; ++i) {
        sum[i] = 0.f;
#pragma unroll
        for (int j = 0; j < TAPS; ++j) sum[i] += g[UP * j + phase] * window[start + j][i];
      }
      if (row >= 0) r.store(row < rows && out + row >= 0, sum);
    }
#pragma unroll
    for (int i = 0; i < BEFORE * N; ++i) window[i / N][i % N] = window[i / N + STEP][i % N];
  }
}

// S neighbouring pixels, V neighbouring channels.
template <typename T, int TAPS, int UP, int DOWN, int S, int V>
struct Pixels {
  static const int SAMPLES = UP == 2 ? S / 2 + TAPS / 2 : (S - 1) * DOWN + TAPS;
  struct Raw {
    Vec<T, V> v[SAMPLES];
  };
  const T* p;  // sample 0 of a row of the image
  T* q;        // pixel 0 of a row of the result
  i64 pitch_in, pitch_out;
  int c;
  const float* g;
  u32 seen, made;  // bit k: sample k, pixel k lies within the row
  bool inner;      // all samples do
  bool pair;       // two pixels are stored by one instruction

  SG_DEVICE void load(bool inside, Raw& raw) {
#pragma unroll
    for (int k = 0; k < SAMPLES; ++k) raw.v[k] = zero_vec<T, V>();
    if (inside && inner) {
#pragma unroll
      for (int k = 0; k < SAMPLES; ++k) raw.v[k] = load_vec<T, V>(p + i64(k) * c);
    } else if (inside) {
#pragma unroll
      for (int k = 0; k < SAMPLES; ++k)
        if (seen >> k & 1u) raw.v[k] = load_vec<T, V>(p + i64(k) * c);
    }
    p += pitch_in;
  }

  // Samples along x -> pixels of the result.
  SG_DEVICE void filter(const Raw& raw, float* h) const {
    float v[SAMPLES * V];
#pragma unroll
    for (int k = 0; k < SAMPLES; ++k) unpack<T, V>(raw.v[k], v + k * V);
#pragma unroll
    for (int i = 0; i < S * V; ++i) {
      constexpr int COUNT = UP == 2 ? TAPS / 2 : TAPS;
      const int s = i / V, start = UP == 2 ? s / 2 + s % 2 : s * DOWN, phase = UP == 2 ? s % 2 : 0;
      h[i] = 0.f;
#pragma unroll
      for (int j = 0; j < COUNT; ++j) h[i] += g[UP * j + phase] * v[(start + j) * V + i % V];
    }
  }

  SG_DEVICE void store(bool inside, const float* sum) {
    if (inside && V == 1 && S == 2 && pair) {
      store_vec<T, 2>(q, pack<T, 2>(sum));
    } else if (inside) {
#pragma unroll
      for (int s = 0; s < S; ++s)
        if (made >> s & 1u) store_vec<T, V>(q + i64(s) * c, pack<T, V>(sum + s * V));
    }
    q += pitch_out;
  }
};

// By the definition, where a 2-D filter proved to be no outer product: rows and s pixels, v channels of the result.
template <typename T, int TAPS, int UP, int DOWN>
SG_DEVICE void patch_by_definition(const UpfirdnArgs& a, const float* taps, const Patch& p, int out_y, int out_x, int s,
                                   int v) {
  const T* x = static_cast<const T*>(a.x) + p.plane * a.h * a.w * a.c + p.lane * v;
  T* y = static_cast<T*>(a.y) + p.plane * a.oh * a.ow * a.c + p.lane * v;
#pragma unroll 1
  for (int i = 0; i < a.rows * s * v; ++i) {
    const int e = i % v, ox = out_x + i / v % s, oy = out_y + i / v / s;
    if (oy < 0 || oy >= a.oh || ox < 0 || ox >= a.ow) continue;
    float sum = 0.f;
#pragma unroll 1
    for (int j = 0; j < TAPS * TAPS; ++j) {
      const int uy = oy * DOWN + j / TAPS - a.pad_y, ux = ox * DOWN + j % TAPS - a.pad_x;  // in the enlarged image
      if (uy < 0 || ux < 0 || uy % UP != 0 || ux % UP != 0 || uy / UP >= a.h || ux / UP >= a.w) continue;
      sum += taps[j] * Num<T>::load(x[(i64(uy / UP) * a.w + ux / UP) * a.c + e]);
    }
    y[(i64(oy) * a.ow + ox) * a.c + e] = Num<T>::store(sum * float(a.gain));
  }
}

template <typename T, int TAPS, int UP, int DOWN, int S, int V>
SG_DEVICE void march_pixels(const UpfirdnArgs& a) {
  __shared__ Taps<TAPS> taps;
  const bool separable = separate<TAPS>(a, taps);
  const Patch p = patch_of_thread(a);
  if (!p.inside) return;
  int out_y, in_y, out_x, in_x;
  patch_start<UP, DOWN>(p.group, a.rows, a.pad_y, out_y, in_y);
  patch_start<UP, DOWN>(p.strip, S, a.pad_x, out_x, in_x);
  if (!separable) {
    patch_by_definition<T, TAPS, UP, DOWN>(a, taps.all, p, out_y, out_x, S, V);
    return;
  }
  float gy[TAPS], gx[TAPS];
#pragma unroll
  for (int j = 0; j < TAPS; ++j) {
    gy[j] = taps.y[j];
    gx[j] = taps.x[j];
  }
  typedef Pixels<T, TAPS, UP, DOWN, S, V> P;
  P pixels;
  pixels.p = static_cast<const T*>(a.x) + ((p.plane * a.h + in_y) * a.w + in_x) * a.c + p.lane * V;
  pixels.q = static_cast<T*>(a.y) + ((p.plane * a.oh + out_y) * a.ow + out_x) * a.c + p.lane * V;
  pixels.pitch_in = i64(a.w) * a.c;
  pixels.pitch_out = i64(a.ow) * a.c;
  pixels.c = a.c;
  pixels.g = gx;
  pixels.seen = within(in_x, P::SAMPLES, a.w);
  pixels.made = within(out_x, S, a.ow);
  pixels.inner = in_x >= 0 && in_x + P::SAMPLES <= a.w;
  pixels.pair = a.c == 1 && a.ow % 2 == 0 && out_x % 2 == 0;
  march<TAPS, UP, DOWN, S * V>(gy, a.rows, in_y, a.h, out_y, a.oh, pixels);
}

}  // namespace sg
