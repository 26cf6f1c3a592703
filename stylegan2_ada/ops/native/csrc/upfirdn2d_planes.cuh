// upfirdn2d of a NCHW tensor, 16 bytes of neighbouring pixels per thread and row: see upfirdn2d_march.cuh.
//
// The rows of the result start at multiples of 16 bytes, those of the image need not (2 * 64 + 1 pixels after a
// transposed convolution, say): a thread loads the aligned vectors around its samples and picks the samples out of them
// at one of a few distances from the first vector's start. That distance is the same for a whole row, so the threads of
// a warp, which share it, take one way through the `switch`.
#pragma once

#include "upfirdn2d_march.cuh"

namespace sg {

template <typename T, int TAPS, int UP, int DOWN>
struct Plane {
  static const int V = Width<T>::full;                         // pixels of the result
  static const int L = UP == 2 ? V / 2 : V;                    // elements of one load
  static const int SAMPLES = UP == 2 ? V / 2 + TAPS / 2 : (V - 1) * DOWN + TAPS;
  static const int LOADS = (SAMPLES + 2 * (L - 1)) / L;        // vectors that hold them at the worst distance
  struct Raw {
    Vec<T, L> v[LOADS];
    int distance;  // of the first sample from the start of the first vector; -1: a row of zeros
  };
  const T* x;      // the whole tensor
  i64 elements;    // of it; a multiple of V, so that no vector lies half outside
  i64 at;          // index of sample 0 of a row
  T* q;            // pixel 0 of a row of the result
  int pitch_in, pitch_out;
  const float* g;  // UP = 1: the taps; UP = 2: five numbers, see below
  u32 seen;        // bit k: sample k lies within the row
  bool edge;       // some do not
  bool at_end;     // some vectors of the patch may lie outside of the tensor

  SG_DEVICE void load(bool inside, Raw& raw) {
    raw.distance = -1;
#pragma unroll
    for (int j = 0; j < LOADS; ++j) raw.v[j] = zero_vec<T, L>();
    if (inside) {
      raw.distance = int(at) & (L - 1);
      const i64 start = at - raw.distance;
      const T* p = x + start;
#pragma unroll
      for (int j = 0; j < LOADS; ++j)
        if (!at_end || static_cast<unsigned long long>(start + j * L) < static_cast<unsigned long long>(elements))
          raw.v[j] = load_vec<T, L>(p + j * L);
    }
    at += pitch_in;
  }

  template <int DISTANCE>
  SG_DEVICE void pick(const Raw& raw, float* v) const {
#pragma unroll
    for (int k = 0; k < SAMPLES; ++k) v[k] = Element<T>::get(raw.v[(k + DISTANCE) / L], (k + DISTANCE) % L);
  }

  SG_DEVICE void filter(const Raw& raw, float* h_row) const {
    float v[SAMPLES];
#pragma unroll
    for (int k = 0; k < SAMPLES; ++k) v[k] = 0.f;
    switch (raw.distance) {
      case 0: pick<0>(raw, v); break;
      case 1: pick<1 % L>(raw, v); break;
      case 2: pick<2 % L>(raw, v); break;
      case 3: pick<3 % L>(raw, v); break;
      case 4: pick<4 % L>(raw, v); break;
      case 5: pick<5 % L>(raw, v); break;
      case 6: pick<6 % L>(raw, v); break;
      case 7: pick<7 % L>(raw, v); break;
      default: break;
    }
    if (edge) {
#pragma unroll
      for (int k = 0; k < SAMPLES; ++k) v[k] = seen >> k & 1u ? v[k] : 0.f;
    }
    if (UP == 2) {
      // Rows of the result start at pixel 0, so whether the first pixel has the even or the odd taps depends on the
      // padding. Both cases are: pixel 2k = g0 v[k] + g1 v[k+1], pixel 2k+1 = g2 v[k] + g3 v[k+1] + g4 v[k+2].
#pragma unroll
      for (int k = 0; k < V / 2; ++k) {
        h_row[2 * k] = g[0] * v[k] + g[1] * v[k + 1];
        h_row[2 * k + 1] = g[2] * v[k] + g[3] * v[k + 1] + g[4] * v[k + 2];
      }
    } else {
#pragma unroll
      for (int i = 0; i < V; ++i) {
        h_row[i] = 0.f;
#pragma unroll
        for (int j = 0; j < TAPS; ++j) h_row[i] += g[j] * v[i * DOWN + j];
      }
    }
  }

  SG_DEVICE void store(bool inside, const float* sum) {
    if (inside) store_vec<T, V>(q, pack<T, V>(sum));
    q += pitch_out;
  }
};

template <typename T, int UP, int DOWN>
SG_DEVICE void march_plane(const UpfirdnArgs& a) {
  constexpr int TAPS = 4;
  typedef Plane<T, TAPS, UP, DOWN> P;
  __shared__ Taps<TAPS> taps;
  const bool separable = separate<TAPS>(a, taps);
  const Patch p = patch_of_thread(a);
  if (!p.inside) return;
  int out_y, in_y;
  patch_start<UP, DOWN>(p.group, a.rows, a.pad_y, out_y, in_y);
  const int out_x = p.strip * P::V;
  const int in_x = UP == 2 ? int(floor_div(out_x - a.pad_x + 1, 2)) : out_x * DOWN - a.pad_x;
  if (!separable) {
    patch_by_definition<T, TAPS, UP, DOWN>(a, taps.all, p, out_y, out_x, P::V, 1);
    return;
  }
  float gy[TAPS], gx[5];
  const bool odd = a.pad_x & 1;
#pragma unroll
  for (int j = 0; j < TAPS; ++j) {
    gy[j] = taps.y[j];
    gx[j] = taps.x[j];
  }
  gx[4] = 0.f;
  if (UP == 2) {
    const float* t = taps.x;
    gx[0] = t[odd ? 1 : 0];
    gx[1] = t[odd ? 3 : 2];
    gx[2] = odd ? t[0] : 0.f;
    gx[3] = t[odd ? 2 : 1];
    gx[4] = odd ? 0.f : t[3];
  }
  P plane;
  plane.x = static_cast<const T*>(a.x);
  plane.elements = i64(a.planes) * a.h * a.w;
  plane.at = (p.plane * a.h + in_y) * a.w + in_x;
  plane.q = static_cast<T*>(a.y) + (p.plane * a.oh + out_y) * a.ow + out_x;
  plane.pitch_in = a.w;
  plane.pitch_out = a.ow;
  plane.g = gx;
  plane.seen = within(in_x, P::SAMPLES, a.w);
  plane.edge = in_x < 0 || in_x + P::SAMPLES > a.w;
  const i64 reach = i64(a.rows + TAPS) * DOWN * a.w + P::LOADS * P::L;  // more than a patch spans
  plane.at_end = plane.at < P::L || plane.at + reach > plane.elements;
  march<TAPS, UP, DOWN, P::V>(gy, a.rows, in_y, a.h, out_y, a.oh, plane);
}

}  // namespace sg
