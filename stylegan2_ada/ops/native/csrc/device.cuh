// What the CUDA kernels share: vectors of 16 bytes, conversion in pairs, division by multiplication.
//
// The kernels are compiled by three compilers: nvcc, NVRTC (no headers of CUDA or of the standard library are needed) and,
// for tests on machines without a GPU, g++ behind a header that emulates threads (tests/stylegan2_ada_ops).
// `-DSG_DTYPE=n` leaves only the kernels of one number type: 0 float, 1 double, 2 bfloat16, 3 float16.
#pragma once

#include "common.h"
#include "cuda_args.h"

#ifndef SG_DTYPE
#define SG_DTYPE -1
#endif
#define SG_WANTS(i) (SG_DTYPE < 0 || SG_DTYPE == i)

// MOST(type, suffix) for the number types that are wanted, but double's kernels by DOUBLE(type, suffix).
#if SG_WANTS(0)
#define SG_FLOATS(MOST) MOST(float, f32)
#else
#define SG_FLOATS(MOST)
#endif
#if SG_WANTS(1)
#define SG_DOUBLES(DOUBLE) DOUBLE(double, f64)
#else
#define SG_DOUBLES(DOUBLE)
#endif
#if SG_WANTS(2)
#define SG_BFLOATS(MOST) MOST(sg::bf16, bf16)
#else
#define SG_BFLOATS(MOST)
#endif
#if SG_WANTS(3)
#define SG_HALVES(MOST) MOST(sg::fp16, f16)
#else
#define SG_HALVES(MOST)
#endif
#define SG_EVERY_TYPE(MOST, DOUBLE) SG_FLOATS(MOST) SG_DOUBLES(DOUBLE) SG_BFLOATS(MOST) SG_HALVES(MOST)

#define SG_DEVICE __device__ __forceinline__

// A kernel with its unmangled name.
#define SG_KERNEL(NAME) extern "C" __global__ void __launch_bounds__(256) NAME

namespace sg {

typedef long long i64;
typedef unsigned long long u64;

template <typename T>
struct Width {
  static const int full = 16 / sizeof(T);  // elements of a 16-byte access
};

// Neighbouring elements as they lie in memory, copied by one instruction since the alignment is the size. They are kept
// as words: compilers shuffle elements of two bytes about where a vector has two possible origins.
template <int BYTES>
struct alignas(BYTES) Bits {
  static const int WORDS = BYTES / 4;
  u32 w[WORDS];
};
template <>
struct alignas(2) Bits<2> {
  static const int WORDS = 1;
  u16 w[1];
};
template <typename T, int V>
using Vec = Bits<int(sizeof(T)) * V>;

template <typename T, int V>
SG_DEVICE Vec<T, V> load_vec(const T* p) {
  return *reinterpret_cast<const Vec<T, V>*>(p);
}

template <typename T, int V>
SG_DEVICE void store_vec(T* p, const Vec<T, V>& v) {
  *reinterpret_cast<Vec<T, V>*>(p) = v;
}

template <typename T, int V>
SG_DEVICE Vec<T, V> zero_vec() {
  Vec<T, V> r;
#pragma unroll
  for (int i = 0; i < Vec<T, V>::WORDS; ++i) r.w[i] = 0;
  return r;
}

// Two numbers of two bytes as a word.
template <typename T>
SG_DEVICE u32 word_of(float low, float high) {
  return u32(Num<T>::store(low).bits) | u32(Num<T>::store(high).bits) << 16;
}
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
template <>
SG_DEVICE u32 word_of<bf16>(float low, float high) {
  u32 word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}
template <>
SG_DEVICE u32 word_of<fp16>(float low, float high) {
  u32 word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}
#endif

// Element i of a vector as a number; numbers as a vector.
template <typename T>
struct Element {
  template <typename B>
  static SG_DEVICE float get(const B& b, int i) {
    return Num<T>::load(T{u16(b.w[i / 2] >> (16 * (i % 2)))});
  }
  template <int V>
  static SG_DEVICE Vec<T, V> pack(const float* v) {
    Vec<T, V> r;
    if (V == 1) r.w[0] = Num<T>::store(v[0]).bits;
#pragma unroll
    for (int i = 0; i < V / 2; ++i) r.w[i] = word_of<T>(v[2 * i], v[2 * i + 1]);
    return r;
  }
};
template <>
struct Element<float> {
  template <typename B>
  static SG_DEVICE float get(const B& b, int i) {
    return as_float(b.w[i]);
  }
  template <int V>
  static SG_DEVICE Vec<float, V> pack(const float* v) {
    Vec<float, V> r;
#pragma unroll
    for (int i = 0; i < V; ++i) r.w[i] = as_bits(v[i]);
    return r;
  }
};
template <>
struct Element<double> {
  template <typename B>
  static SG_DEVICE double get(const B& b, int i) {
#ifdef __CUDA_ARCH__
    return __hiloint2double(int(b.w[2 * i + 1]), int(b.w[2 * i]));
#else
    double value;
    __builtin_memcpy(&value, &b.w[2 * i], sizeof value);
    return value;
#endif
  }
  template <int V>
  static SG_DEVICE Vec<double, V> pack(const double* v) {
    Vec<double, V> r;
#pragma unroll
    for (int i = 0; i < V; ++i) {
#ifdef __CUDA_ARCH__
      r.w[2 * i] = u32(__double2loint(v[i]));
      r.w[2 * i + 1] = u32(__double2hiint(v[i]));
#else
      __builtin_memcpy(&r.w[2 * i], &v[i], sizeof v[i]);
#endif
    }
    return r;
  }
};

// `count` elements, the rest zero, one after the other.
template <typename T, int V>
SG_DEVICE Vec<T, V> gather_vec(const T* p, int count) {
  acc_t<T> v[V];
#pragma unroll
  for (int i = 0; i < V; ++i) v[i] = i < count ? acc_t<T>(Num<T>::load(p[i])) : acc_t<T>(0);
  return Element<T>::template pack<V>(v);
}

template <typename T, int V>
SG_DEVICE void unpack(const Vec<T, V>& b, acc_t<T>* out) {
#pragma unroll
  for (int i = 0; i < V; ++i) out[i] = Element<T>::get(b, i);
}

template <typename T, int V>
SG_DEVICE Vec<T, V> pack(const acc_t<T>* in) {
  return Element<T>::template pack<V>(in);
}

// n / d for n < 2^31.
SG_DEVICE u32 divide(u32 n, const Divisor& d) {
#ifdef __CUDA_ARCH__
  const u32 high = __umulhi(n, d.factor);
#else
  const u32 high = u32((u64(n) * d.factor) >> 32);
#endif
  return d.d == 1 ? n : high >> d.shift;
}

// Biases, factors and noise: of type T, or (`wide`) of float where T has two bytes. What is loaded and what it means are
// told apart because a conversion next to a load in a branch would wait for it there.
template <typename T, int V>
struct Small {
  Vec<T, V> w;
};
template <int V>
struct Small<bf16, V> {
  u32 w[V];
};
template <int V>
struct Small<fp16, V> {
  u32 w[V];
};

// Elements i ... i + V - 1; i is a multiple of V.
template <typename T, int V>
SG_DEVICE Small<T, V> load_small(const void* p, bool wide, i64 i) {
  Small<T, V> r;
  if constexpr (sizeof(T) > 2) {
    r.w = load_vec<T, V>(static_cast<const T*>(p) + i);
  } else if (V == 1) {
    r.w[0] = wide ? static_cast<const u32*>(p)[i] : u32(static_cast<const u16*>(p)[i]);
  } else if (wide) {
    constexpr int W = V < 4 ? V : 4;
#pragma unroll
    for (int k = 0; k < V; k += W) {
      const Vec<float, W> part = load_vec<float, W>(static_cast<const float*>(p) + i + k);
#pragma unroll
      for (int j = 0; j < W; ++j) r.w[k + j] = part.w[j];
    }
  } else {
    const Bits<V == 1 ? 4 : 2 * V> part = *reinterpret_cast<const Bits<V == 1 ? 4 : 2 * V>*>(static_cast<const u16*>(p) + i);
#pragma unroll
    for (int j = 0; j < V; ++j) r.w[j] = part.w[j / 2] >> (16 * (j % 2)) & 0xffffu;
  }
  return r;
}

template <typename T, int V>
SG_DEVICE acc_t<T> small_value(const Small<T, V>& r, bool wide, int i) {
  if constexpr (sizeof(T) > 2)
    return Element<T>::get(r.w, i);
  else
    return wide ? as_float(r.w[i]) : Num<T>::load(T{u16(r.w[i])});
}

}  // namespace sg
