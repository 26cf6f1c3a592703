// Products of tiles: C[m, o] = sum over taps t and k of A[m + shift of t, k] B[t, k, o], in bfloat16 with float32 sums,
// by AMX's tile registers or by AVX512-BF16.
//
// Both read the same memory. A row of A is a pixel (or a channel, in the gradient of the weights) whose numbers lie side
// by side; a tap only moves where rows begin. B lies in tiles of 1 KB: 16 pairs of k x 16 outputs x 2.
#pragma once
#include <cstring>

#include "conv3x3_gemm.h"

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#define CONV_TAPS_AMX 1
#else
#define CONV_TAPS_AMX 0
#endif

namespace conv_taps {

using conv3x3::bf16;
using conv3x3::mask16;
using conv3x3::mask32;
using conv3x3::round_up;

constexpr int64_t TILE = 1024;       // bytes of a tile of B
constexpr int64_t DEPTH = 32;        // numbers of A that meet a tile of B
constexpr int COLUMNS = 4;           // tiles of 16 outputs that a product makes at most
constexpr int64_t C_ROW = 16 * COLUMNS;

struct Step {  // where operands begin, in bytes, and how many tiles of B follow one another
  int64_t a, b, depth;
  bool again = false;  // the very numbers of A of the step before, of depth 1
};

struct Product {
  const char* a[2];  // 16 rows each
  int rows[2];       // of them wanted; the others may be computed
  int64_t a_row;     // bytes from row to row
  const Step* steps;
  int64_t count;  // of steps
  const char* b;
  int64_t b_column;  // bytes from 16 outputs to the next
  int columns;
  float* c;  // rows of 16 * COLUMNS
  bool add;  // to what is in c
};

template <int ROWS, int COLS>
inline void sums(const Product& p, const char* a0, const char* b0, float* c) {
  __m512 acc[ROWS][COLS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
    for (int j = 0; j < COLS; j++) acc[r][j] = p.add ? _mm512_loadu_ps(c + r * C_ROW + 16 * j) : _mm512_setzero_ps();
  for (int64_t s = 0; s < p.count; s++) {
    const char *a = a0 + p.steps[s].a, *b = b0 + p.steps[s].b;
    for (int64_t k = 0; k < 16 * p.steps[s].depth; k++, a += 4, b += 64) {
      __m512i bv[COLS];
#pragma GCC unroll 4
      for (int j = 0; j < COLS; j++) {
        bv[j] = _mm512_loadu_si512(b + j * p.b_column);
        _mm_prefetch(b + j * p.b_column + 512, _MM_HINT_T0);
      }
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; r++) {
        int word;
        std::memcpy(&word, a + r * p.a_row, 4);
        const __m512i av = _mm512_set1_epi32(word);
#pragma GCC unroll 4
        for (int j = 0; j < COLS; j++) acc[r][j] = _mm512_dpbf16_ps(acc[r][j], (__m512bh)av, (__m512bh)bv[j]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
    for (int j = 0; j < COLS; j++) _mm512_storeu_ps(c + r * C_ROW + 16 * j, acc[r][j]);
}

template <int COLS>
inline void columns_by_vectors(const Product& p, const char* b, float* c) {
  for (int t = 0; t < 2; t++) {
    int r = 0;
    const auto call = [&](auto kernel, int n) {
      kernel(p, p.a[t] + r * p.a_row, b, c + (16 * t + r) * C_ROW);
      r += n;
    };
    while (p.rows[t] - r > 4) call(sums<6, COLS>, 6);  // the rows behind the last are there, as tiles have 16
    if (p.rows[t] - r > 2) call(sums<4, COLS>, 4);
    if (p.rows[t] - r > 0) call(sums<2, COLS>, 2);
  }
}

inline void by_vectors(const Product& p) {
  switch (p.columns) {
    case 1:
      return columns_by_vectors<1>(p, p.b, p.c);
    case 2:
      return columns_by_vectors<2>(p, p.b, p.c);
    case 3:
      return columns_by_vectors<3>(p, p.b, p.c);
    default:
      return columns_by_vectors<4>(p, p.b, p.c);
  }
}

#if CONV_TAPS_AMX
// Whether the system lets this process use tiles. $ONEDNN_MAX_CPU_ISA, by which oneDNN is kept from them, counts.
inline bool tiles_allowed() {
  static const bool allowed = [] {
    const char* most = std::getenv("ONEDNN_MAX_CPU_ISA");
    if (most && *most && !std::strstr(most, "AMX") && !std::strstr(most, "DEFAULT")) return false;
    constexpr int REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
  }();
  return allowed;
}

// The tile registers as 8 of 16 rows of 64 bytes, for as long as this lives; of the calling thread.
class Tiles {
 public:
  explicit Tiles(bool wanted) : wanted_(wanted) {
    if (!wanted) return;
    // A constant, since gcc's intrinsic doesn't tell that all 64 bytes are read: palette 1; bytes of a row; rows.
    alignas(64) static constexpr uint8_t config[64] = {1,  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,   //
                                                       64, 0, 64, 0, 64, 0, 64, 0, 64, 0, 64, 0, 64, 0, 64, 0,   //
                                                       0,  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,   //
                                                       16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0};
    _tile_loadconfig(config);
  }
  ~Tiles() {
    if (wanted_) _tile_release();
  }
  Tiles(const Tiles&) = delete;

 private:
  bool wanted_;
};

// Two tiles of A by two of B, or fewer: four products for four loads.
template <int ROWS, int COLS>
inline void two_by_two(const Product& p, const char* b0, float* c) {
  constexpr int64_t ROW = C_ROW * sizeof(float);
  float *c1 = c + 16, *c2 = c + 16 * C_ROW, *c3 = c2 + 16;
  if (p.add) {
    _tile_loadd(0, c, ROW);
    if constexpr (COLS == 2) _tile_loadd(1, c1, ROW);
    if constexpr (ROWS == 2) _tile_loadd(2, c2, ROW);
    if constexpr (ROWS == 2 && COLS == 2) _tile_loadd(3, c3, ROW);
  } else {
    _tile_zero(0);
    if constexpr (COLS == 2) _tile_zero(1);
    if constexpr (ROWS == 2) _tile_zero(2);
    if constexpr (ROWS == 2 && COLS == 2) _tile_zero(3);
  }
  for (int64_t s = 0; s < p.count; s++) {
    const char *b = b0 + p.steps[s].b, *first = p.a[0] + p.steps[s].a, *second = p.a[1] + p.steps[s].a;
    if (p.steps[s].again) {
      _tile_loadd(6, b, 64);
      _tile_dpbf16ps(0, 4, 6);
      if constexpr (ROWS == 2) _tile_dpbf16ps(2, 5, 6);
      if constexpr (COLS == 2) {
        _tile_loadd(7, b + p.b_column, 64);
        _tile_dpbf16ps(1, 4, 7);
        if constexpr (ROWS == 2) _tile_dpbf16ps(3, 5, 7);
      }
      continue;
    }
    for (int64_t k = 0; k < p.steps[s].depth; k++, b += TILE, first += 64, second += 64) {
      _tile_loadd(6, b, 64);
      _tile_loadd(4, first, p.a_row);
      _tile_dpbf16ps(0, 4, 6);
      if constexpr (COLS == 2) {
        _tile_loadd(7, b + p.b_column, 64);
        _tile_dpbf16ps(1, 4, 7);
      }
      if constexpr (ROWS == 2) {
        _tile_loadd(5, second, p.a_row);
        _tile_dpbf16ps(2, 5, 6);
        if constexpr (COLS == 2) _tile_dpbf16ps(3, 5, 7);
      }
    }
  }
  _tile_stored(0, c, ROW);
  if constexpr (COLS == 2) _tile_stored(1, c1, ROW);
  if constexpr (ROWS == 2) _tile_stored(2, c2, ROW);
  if constexpr (ROWS == 2 && COLS == 2) _tile_stored(3, c3, ROW);
}

inline void by_tiles(const Product& p) {
  asm volatile("" ::: "memory");  // the intrinsics that load don't tell compilers so
  for (int j = 0; j < p.columns; j += 2) {
    const char* b = p.b + j * p.b_column;
    float* c = p.c + 16 * j;
    if (p.columns - j > 1)
      p.rows[1] ? two_by_two<2, 2>(p, b, c) : two_by_two<1, 2>(p, b, c);
    else
      p.rows[1] ? two_by_two<2, 1>(p, b, c) : two_by_two<1, 1>(p, b, c);
  }
}
#else
inline bool tiles_allowed() { return false; }
struct Tiles {
  explicit Tiles(bool) {}
};
inline void by_tiles(const Product& p) { by_vectors(p); }
#endif

// How many tiles of 16 outputs a product had best make: what B they need shall stay in the second level.
inline int columns_at_once() { return tiles_allowed() ? 2 : COLUMNS; }

inline void multiply(const Product& p) { tiles_allowed() ? by_tiles(p) : by_vectors(p); }

}  // namespace conv_taps
