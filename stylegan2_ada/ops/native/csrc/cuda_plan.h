// Which kernel is launched over which grid. For the host: cuda_binding.cpp here, and the same formulas in Python for the
// NVRTC route (../cuda_plan.py; a test compares the two).
#pragma once

#include "cuda_args.h"

namespace sg {

struct Launch {
  int kernel;  // in the order of the tables at the end of each .cu file
  long long grid;
  unsigned int x, y, z;
};

#ifdef __CUDACC__
// What the tables are read with: kernel what.kernel of the number type's row, or an error if there is none.
inline int launch_from(const void* const* row, const Launch& what, const void* args, void* stream) {
  void* parameters[1] = {const_cast<void*>(args)};
  if (!row[what.kernel]) return cudaErrorInvalidDeviceFunction;
  if (what.grid > 0x7fffffff) return cudaErrorInvalidConfiguration;
  return cudaLaunchKernel(row[what.kernel], dim3(static_cast<unsigned int>(what.grid)), dim3(what.x, what.y, what.z), parameters, 0,
                          static_cast<cudaStream_t>(stream));
}
#endif

inline int bytes_of(int dtype) { return dtype == 0 ? 4 : dtype == 1 ? 8 : 2; }
inline long long ceil_div(long long a, long long b) { return (a + b - 1) / b; }
inline long long least(long long a, long long b) { return a < b ? a : b; }
inline long long most(long long a, long long b) { return a > b ? a : b; }

inline long long largest_divisor(long long n, long long limit) {
  long long d = least(n, limit);
  while (n % d != 0) --d;
  return d;
}

inline Divisor make_divisor(unsigned int d) {
  Divisor r = {d, 0, 0};
  if (d <= 1) return r;
  while ((1u << r.shift) < d) ++r.shift;  // 2^(shift - 1) < d <= 2^shift
  --r.shift;
  r.factor = static_cast<unsigned int>(((1ull << (32 + r.shift)) + d - 1) / d);
  return r;
}

// upfirdn2d: 0 any; 1 + 3 * (up 1 down 1: 0, up 2: 1, down 2: 2) + (vec 0, one 1, plane 2) for 4 taps; 10 and 11 for 12
// taps, up 2 and down 2. Fills in the last five arguments. `aligned`: x begins at a multiple of 16 bytes, as does y.
// `processors`: multiprocessors of the GPU.
inline Launch plan_upfirdn2d(UpfirdnArgs& a, int dtype, bool aligned, int processors) {
  const int width = 16 / bytes_of(dtype);
  const int up = a.up_x, down = a.down_x;
  int factors = up == 1 && down == 1 ? 0 : up == 2 && down == 1 ? 1 : up == 1 && down == 2 ? 2 : -1;
  if (a.up_y != up || a.down_y != down || a.taps_x != a.taps_y || dtype == 1) factors = -1;
  const bool four = factors >= 0 && a.taps_x == 4, twelve = factors > 0 && a.taps_x == 12 && a.separable;
  a.rows = a.groups = a.strips = a.tiles_x = a.chunks = 1;
  if (!four && !twelve) {
    const long long elements = static_cast<long long>(a.planes) * a.oh * a.ow * a.c;
    return {0, ceil_div(elements, 256), 256, 1, 1};
  }
  int way = 1;
  if (four && aligned && a.c == 1 && a.ow % width == 0 && static_cast<long long>(a.planes) * a.h * a.w % width == 0)
    way = 2;
  else if (four && aligned && a.c % width == 0)
    way = 0;
  const int odd_x = up == 2 ? a.pad_x & 1 : 0, odd_y = up == 2 ? a.pad_y & 1 : 0;
  a.strips = static_cast<int>(way == 2 ? a.ow / width : ceil_div(a.ow + odd_x, 2));
  const long long lanes = way == 0 ? a.c / width : a.c;  // across the channels
  const long long x = largest_divisor(lanes, way == 0 ? 8 : 32);
  a.chunks = static_cast<int>(lanes / x);
  for (a.rows = 16; a.rows > 4; a.rows /= 2)  // fewer rows a thread if there are not threads enough to fill the GPU
    if (a.planes * lanes * a.strips * ceil_div(a.oh + odd_y, a.rows) >= processors * 1024ll) break;
  a.groups = static_cast<int>(ceil_div(a.oh + odd_y, a.rows));
  const long long y = least(a.strips, least(64, most(1, 128 / x)));
  a.tiles_x = static_cast<int>(ceil_div(a.strips, y));
  const long long groups = static_cast<long long>(a.planes) * a.groups;
  const long long z = least(groups, least(64, most(1, 256 / (x * y))));
  return {four ? 1 + 3 * factors + way : 9 + factors, a.chunks * ceil_div(groups, z) * a.tiles_x,
          static_cast<unsigned int>(x), static_cast<unsigned int>(y), static_cast<unsigned int>(z)};
}

inline int power_of_two_at_least(long long n, int limit) {
  int p = 1;
  while (p < n && p < limit) p *= 2;
  return p;
}

// bias_act: 0; bias_act_grad: 1; bias_act_grad2: 2. A piece of at most 2^30 elements of [outer, size, inner]; the caller
// has set all arguments but elements, inner, size, mode and periodic.
inline Launch plan_bias_act(PointwiseArgs& a, int order, int dtype, long long elements, long long size, long long inner) {
  const int width = 16 / bytes_of(dtype), vectors = order == 0 ? 4 : 2;
  a.elements = static_cast<int>(elements);
  a.inner = make_divisor(static_cast<unsigned int>(inner));
  a.size = make_divisor(static_cast<unsigned int>(size));
  a.mode = !a.b ? 0 : inner % width == 0 ? 1 : inner == 1 && size % width == 0 ? 2 : 3;
  a.periodic = 256 * width % size == 0;
  return {order, ceil_div(elements, 256ll * vectors * width), 256, 1, 1};
}

// A piece of [outer, size, inner]: elements from `start` on, with the biases from `channel` on.
struct Piece {
  long long start, elements, channel, size, inner;
};

const long long LIMIT = 1ll << 30;  // elements that a kernel of bias_act takes at a time

// The next piece after `start` elements, of at most `limit` ones. Pieces begin at multiples of 16 bytes where that is
// possible without dividing a channel.
inline Piece next_piece(long long start, long long total, long long size, long long inner, long long limit) {
  const long long period = size * inner;
  if (period * 8 <= limit) return {start, least(limit / (period * 8) * (period * 8), total - start), 0, size, inner};
  const long long row = start % period / inner;  // of biases
  if (inner * 8 <= limit) {
    const long long rows = least(limit / (inner * 8) * 8, size - row);
    return {start, rows * inner, row, rows, inner};
  }
  return {start, least(limit, inner - start % inner), row, 1, inner};
}

// Fills in lanes, groups and pieces; `last`: the channels are the fastest dimension. The kernels: 4 * gradient + 2 * last
// + (1 unless `vector`), the last one 8.
inline Launch plan_epilogue(EpilogueArgs& a, bool gradient, bool last, int dtype, bool aligned, int processors) {
  const int full = 16 / bytes_of(dtype);
  const bool vector = aligned && dtype != 1 && (last ? a.c : a.pixels) % full == 0;
  const int width = vector ? full : 1;
  const long long threads = processors * 2048ll;  // to aim at
  long long grid;
  if (last) {
    const long long vectors = a.c / width;
    a.lanes = power_of_two_at_least(vectors, 32);
    a.groups = static_cast<int>(ceil_div(vectors, a.lanes));
    const long long wanted = ceil_div(threads, 256ll * a.n * a.groups), most_pieces = ceil_div(a.pixels, 4 * (256 / a.lanes));
    a.pieces = static_cast<int>(least(wanted, most_pieces));
    grid = static_cast<long long>(a.n) * a.pieces * a.groups;
  } else {
    const long long vectors = a.pixels / width;
    a.lanes = power_of_two_at_least(vectors, 32);
    a.pieces = static_cast<int>(ceil_div(vectors, a.lanes));
    const long long teams = static_cast<long long>(a.n) * a.pieces;
    a.groups = static_cast<int>(least(ceil_div(threads, teams * a.lanes), ceil_div(a.c, 4)));
    grid = ceil_div(teams * a.groups * a.lanes, 256);
  }
  return {4 * gradient + 2 * last + !vector, grid, 256, 1, 1};
}

inline Launch plan_finish(const FinishArgs& a) {
  const long long pixels = a.gn ? (a.noise_each ? static_cast<long long>(a.n) : 1) * a.pixels : 0;
  return {8, a.c + ceil_div(pixels, 256), 256, 1, 1};
}

}  // namespace sg
