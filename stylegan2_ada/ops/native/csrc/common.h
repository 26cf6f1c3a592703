// Number types shared by the CPU and CUDA translation units: storage as float, double, bfloat16 or float16, arithmetic
// in float (double for double). No torch and no standard headers: NVRTC compiles this text too.
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define SG_INLINE __host__ __device__ __forceinline__
#else
#define SG_INLINE inline __attribute__((always_inline))
#endif

namespace sg {

typedef unsigned short u16;
typedef unsigned int u32;

struct bf16 {
  u16 bits;
};
struct fp16 {
  u16 bits;
};

SG_INLINE float as_float(u32 bits) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(bits);
#else
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
#endif
}

SG_INLINE u32 as_bits(float value) {
#ifdef __CUDA_ARCH__
  return __float_as_uint(value);
#else
  u32 bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
#endif
}

// The conversions have no branches and no tables, so that compilers turn loops over them into vector code; GPUs have
// instructions for them.

SG_INLINE float bf16_to_float(u16 h) { return as_float(u32(h) << 16); }

SG_INLINE u16 float_to_bf16(float f) {  // to nearest, ties to even; NaN stays NaN
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  u16 h;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(f));
  return h;
#endif
  u32 u = as_bits(f);
  u32 rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  return u16((u & 0x7fffffffu) > 0x7f800000u ? ((u >> 16) | 0x40u) : rounded);
}

SG_INLINE float fp16_to_float(u16 h) {
#ifdef __CUDA_ARCH__
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
  return f;
#endif
  u32 magnitude = u32(h & 0x7fffu) << 13, sign = u32(h & 0x8000u) << 16;
  float scaled = as_float(magnitude) * as_float(0x77800000u);                    // 2^112: subnormals come out exact
  u32 bits = magnitude >= 0x0f800000u ? (magnitude | 0x7f800000u) : as_bits(scaled);  // infinities and NaN
  return as_float(bits | sign);
}

SG_INLINE u16 float_to_fp16(float f) {  // to nearest, ties to even
#ifdef __CUDA_ARCH__
  u16 h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
  return h;
#endif
  u32 u = as_bits(f), sign = u & 0x80000000u;
  u ^= sign;
  u32 special = u > 0x7f800000u ? 0x7e00u : 0x7c00u;
  u32 tiny = as_bits(as_float(u) + as_float(0x3f000000u)) - 0x3f000000u;  // adding 0.5 rounds to the grid of subnormals
  u32 normal = (u + 0xc8000fffu + ((u >> 13) & 1u)) >> 13;
  u32 bits = u >= 0x47800000u ? special : (u < 0x38800000u ? tiny : normal);
  return u16(bits | (sign >> 16));
}

template <typename T>
struct Num;
template <>
struct Num<float> {
  typedef float acc;
  static SG_INLINE float load(float v) { return v; }
  static SG_INLINE float store(float v) { return v; }
};
template <>
struct Num<double> {
  typedef double acc;
  static SG_INLINE double load(double v) { return v; }
  static SG_INLINE double store(double v) { return v; }
};
template <>
struct Num<bf16> {
  typedef float acc;
  static SG_INLINE float load(bf16 v) { return bf16_to_float(v.bits); }
  static SG_INLINE bf16 store(float v) { return bf16{float_to_bf16(v)}; }
};
template <>
struct Num<fp16> {
  typedef float acc;
  static SG_INLINE float load(fp16 v) { return fp16_to_float(v.bits); }
  static SG_INLINE fp16 store(float v) { return fp16{float_to_fp16(v)}; }
};

template <typename T>
using acc_t = typename Num<T>::acc;

}  // namespace sg
