// The CUDA kernels of upfirdn2d. Which one is launched, and over which grid: plan_upfirdn2d in cuda_plan.h.
#include "upfirdn2d_planes.cuh"

namespace sg {

template <typename S>
SG_DEVICE S stored_value(const UpfirdnArgs& a, int i) {
  return a.f_double ? S(static_cast<const double*>(a.f)[i]) : S(static_cast<const float*>(a.f)[i]);
}

// Tap (i, j) of the correlation along y and x, without the gain.
template <typename S>
SG_DEVICE S tap_value(const UpfirdnArgs& a, int i, int j) {
  const int row = int(stored_tap(i, a.taps_y, a.flip)), column = int(stored_tap(j, a.taps_x, a.flip));
  if (a.separable) return stored_value<S>(a, row) * stored_value<S>(a, column);
  return stored_value<S>(a, row * a.taps_x + column);
}

// One sample of the result, by the definition.
template <typename T>
SG_DEVICE T filtered(const UpfirdnArgs& a, i64 plane, int channel, int oy, int ox) {
  typedef acc_t<T> S;
  const Axis y_axis = {a.h, a.up_y, a.down_y, a.pad_y, a.oh, a.taps_y};
  const Axis x_axis = {a.w, a.up_x, a.down_x, a.pad_x, a.ow, a.taps_x};
  const Span sy = span(y_axis, oy), sx = span(x_axis, ox);
  const T* x = static_cast<const T*>(a.x) + (plane * a.h + sy.sample) * a.w * a.c + sx.sample * a.c + channel;
  S sum = S(0);
#pragma unroll 1
  for (int i = 0; i < int(sy.count); ++i) {
    S row = S(0);
#pragma unroll 1
    for (int j = 0; j < int(sx.count); ++j) {
      const S tap = tap_value<S>(a, int(sy.tap) + i * a.up_y, int(sx.tap) + j * a.up_x);
      row += tap * Num<T>::load(x[(i64(i) * a.w + j) * a.c]);
    }
    sum += row;
  }
  return Num<T>::store(sum * S(a.gain));
}

// Any filter and any factors: one sample of the result per thread.
template <typename T>
SG_DEVICE void upfirdn2d_any(const UpfirdnArgs& a) {
  const i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x, elements = i64(a.planes) * a.oh * a.ow * a.c;
  if (i >= elements) return;
  i64 plane;
  int oy, ox, channel;
  if (elements < (i64(1) << 31)) {  // 32-bit division is several times as fast
    const u32 n = u32(i), row = n / u32(a.ow * a.c), rest = n % u32(a.ow * a.c);
    plane = row / u32(a.oh);
    oy = int(row % u32(a.oh));
    ox = int(rest / u32(a.c));
    channel = int(rest % u32(a.c));
  } else {
    const i64 pixel = i / a.c, row = pixel / a.ow;
    channel = int(i % a.c);
    ox = int(pixel % a.ow);
    oy = int(row % a.oh);
    plane = row / a.oh;
  }
  static_cast<T*>(a.y)[i] = filtered<T>(a, plane, channel, oy, ox);
}

}  // namespace sg

#define SG_ANY(T, NAME) \
  SG_KERNEL(upfirdn2d_any_##NAME)(const __grid_constant__ sg::UpfirdnArgs a) { sg::upfirdn2d_any<T>(a); }

// T taps, factors up and down, 2 pixels per thread: `vec` with 16 bytes of channels, `one` with one channel.
#define SG_PIXELS(T, NAME, TAPS, UP, DOWN, WAY, V)                                                           \
  SG_KERNEL(upfirdn2d_t##TAPS##_u##UP##d##DOWN##_##WAY##_##NAME)(const __grid_constant__ sg::UpfirdnArgs a) { \
    sg::march_pixels<T, TAPS, UP, DOWN, 2, V>(a);                                                            \
  }
#define SG_PLANE(T, NAME, UP, DOWN)                                                                     \
  SG_KERNEL(upfirdn2d_t4_u##UP##d##DOWN##_plane_##NAME)(const __grid_constant__ sg::UpfirdnArgs a) {     \
    sg::march_plane<T, UP, DOWN>(a);                                                                    \
  }
#define SG_FOUR_TAPS(T, NAME, UP, DOWN)                                \
  SG_PIXELS(T, NAME, 4, UP, DOWN, vec, sg::Width<T>::full)             \
  SG_PIXELS(T, NAME, 4, UP, DOWN, one, 1)                              \
  SG_PLANE(T, NAME, UP, DOWN)
#define SG_ALL(T, NAME)                \
  SG_ANY(T, NAME)                      \
  SG_FOUR_TAPS(T, NAME, 1, 1)          \
  SG_FOUR_TAPS(T, NAME, 2, 1)          \
  SG_FOUR_TAPS(T, NAME, 1, 2)          \
  SG_PIXELS(T, NAME, 12, 2, 1, one, 1) \
  SG_PIXELS(T, NAME, 12, 1, 2, one, 1)

SG_EVERY_TYPE(SG_ALL, SG_ANY)

#if defined(__CUDACC__) && !defined(__CUDACC_RTC__)  // launches for cuda_binding.cpp, where nvcc compiles this
#include "cuda_plan.h"

#define SG_WAYS(NAME, FACTORS)                                                                              \
  (const void*)upfirdn2d_t4_##FACTORS##_vec_##NAME, (const void*)upfirdn2d_t4_##FACTORS##_one_##NAME,      \
      (const void*)upfirdn2d_t4_##FACTORS##_plane_##NAME
#define SG_ROW(NAME)                                                                           \
  {(const void*)upfirdn2d_any_##NAME, SG_WAYS(NAME, u1d1), SG_WAYS(NAME, u2d1), SG_WAYS(NAME, u1d2), \
   (const void*)upfirdn2d_t12_u2d1_one_##NAME, (const void*)upfirdn2d_t12_u1d2_one_##NAME}

extern "C" int sg_launch_upfirdn2d(int dtype, const sg::Launch* what, const sg::UpfirdnArgs* args, void* stream) {
  static const void* const kernels[4][12] = {
      SG_ROW(f32), {(const void*)upfirdn2d_any_f64}, SG_ROW(bf16), SG_ROW(f16)};
  return sg::launch_from(kernels[dtype], *what, args, stream);
}
#endif
