// Convolutions of bfloat16 images by minimal filtering in fixed point (conv_fixed_ways.h).
//
// A sum of products of int16 must not leave int32. By Cauchy and Schwarz it is at most the product of the two vectors'
// lengths, so a tile's step is such that no vector of it is longer than LENGTH, an output's that none of its weights' is
// longer than 2^31 / LENGTH; and neither has a number beyond int16. Pixels and taps are looked at for the steps that
// they would need themselves; a sum of them needs no more than theirs times its factors' magnitudes, added up.
//
// What is not finite makes the step, and so all results of the tile or of the output, infinite or NaN.
#pragma once
#include <cmath>
#include <cstring>

#include "conv3x3_gemm.h"
#include "conv_fixed_ways.h"

namespace conv_fixed {

using conv3x3::bf16;
using conv3x3::mask16;
using conv3x3::mask32;

constexpr float LARGEST = 32766, LENGTH = 53000, WEIGHT_LENGTH = .98f * 2147483648.f / LENGTH;  // .98: they are rounded
constexpr int64_t AHEAD = 4;  // rows of transformed weights whose memory is asked for before they are written
constexpr int64_t WIDE = 64;  // outputs of a panel, the width of the micro-kernel

struct Image {  // channels-last
  int64_t n, channels, height, width;
};

// Of a step so small that 65536 times its inverse has no float32, 0. NaN stays NaN.
inline float inverse(float step) { return step < 1e-33f ? 0.f : 1 / step; }

// The steps of 16 vectors of `count` numbers, of which the sums of squares and the largest magnitudes are known. As bits:
// they have no sign, so these are in their order, NaN behind infinity. So is `largest`.
inline __m512i steps_of(__m512 squares, __m512i largest, int64_t count, float length) {
  const __m512 top = _mm512_castsi512_ps(largest);
  const __mmask16 normal = _mm512_cmp_ps_mask(top, _mm512_set1_ps(1e-15f), _CMP_GT_OQ) &
                           _mm512_cmp_ps_mask(top, _mm512_set1_ps(1e17f), _CMP_LT_OQ);
  // Otherwise the squares may have no float32.
  const __m512 bound = _mm512_mul_ps(top, _mm512_set1_ps(std::sqrt(static_cast<float>(count))));
  const __m512 norm = _mm512_mask_sqrt_ps(bound, normal, squares);
  const __m512 by_length = _mm512_div_ps(norm, _mm512_set1_ps(length));
  const __m512 by_largest = _mm512_div_ps(top, _mm512_set1_ps(LARGEST));
  return _mm512_max_epu32(_mm512_castps_si512(by_length), _mm512_castps_si512(by_largest));
}

// Each pixel's step.
inline void find_steps(const Image& s, const bf16* x, int64_t threads, float* steps) {
  const int64_t pixels = s.n * s.height * s.width;
  sg::for_each_item((pixels + 63) / 64, threads, [&](int64_t item, int64_t) {
    for (int64_t first = 64 * item; first < std::min(pixels, 64 * item + 64); first += 16) {
      __m512 squares[16] = {}, largest[16] = {};
      for (int64_t i = 0; i < std::min<int64_t>(16, pixels - first); i++) {
        const bf16* p = x + (first + i) * s.channels;
        __m512i top[2] = {};
        __m512 sum[2] = {};
        const auto look = [&](int k, __m512i v) {
          top[k] = _mm512_max_epu16(top[k], _mm512_and_si512(v, _mm512_set1_epi16(0x7fff)));
          sum[k] = _mm512_dpbf16_ps(sum[k], (__m512bh)v, (__m512bh)v);
        };
        int64_t ch = 0;
        for (; ch + 64 <= s.channels; ch += 64)
          look(0, _mm512_loadu_si512(p + ch)), look(1, _mm512_loadu_si512(p + ch + 32));
        for (; ch < s.channels; ch += 32) look(0, _mm512_maskz_loadu_epi16(mask32(s.channels - ch), p + ch));
        squares[i] = _mm512_add_ps(sum[0], sum[1]);
        top[0] = _mm512_max_epu16(top[0], top[1]);
        largest[i] = (__m512)_mm512_max_epu32(_mm512_slli_epi32(top[0], 16),
                                              _mm512_andnot_si512(_mm512_set1_epi32(0xffff), top[0]));
      }
      conv3x3::transpose16(squares);
      conv3x3::transpose16(largest);
      for (int i = 1; i < 16; i++) {
        squares[0] = _mm512_add_ps(squares[0], squares[i]);
        largest[0] = (__m512)_mm512_max_epu32((__m512i)largest[0], (__m512i)largest[i]);
      }
      _mm512_mask_storeu_epi32(steps + first, mask16(pixels - first),
                               steps_of(squares[0], (__m512i)largest[0], s.channels, LENGTH));
    }
  });
}

// Transformed weights: panels of WIDE outputs; in each for every point [pairs of inputs][width] words.
struct WeightLayout {
  int64_t points, outputs, pairs;
  WeightLayout(int64_t points, int64_t in, int64_t out)
      : points(points), outputs(out), pairs(conv3x3::round_up(in, 32) / 2) {}
  int64_t padded() const { return conv3x3::round_up(outputs, 16); }
  int64_t panels() const { return (outputs + WIDE - 1) / WIDE; }
  int64_t width(int64_t panel) const { return std::min(WIDE, padded() - panel * WIDE); }
  int64_t point(int64_t panel) const { return pairs * width(panel) + 16; }  // 16: not to all fall on one cache set
  int64_t panel_words() const { return points * (pairs * WIDE + 16); }
  int64_t words() const { return points * (pairs * padded() + 16 * panels()); }
};

// Float32 [o][i][9].
struct Weights {
  const float* w;
  int64_t o_count, i_count;
  bool by_input, turned;  // takes its i for outputs and its o for inputs; turns the kernel by 180 degrees
  int64_t inputs() const { return by_input ? o_count : i_count; }
  int64_t outputs() const { return by_input ? i_count : o_count; }

  // The steps of 16 outputs from out0 on.
  template <typename Way>
  vec steps(int64_t out0) const {
    __m512 squares[9] = {}, largest[9] = {};
    const auto look = [&](const float* from, int64_t have) SG_INLINED {  // at most 144 numbers
#pragma GCC unroll 9
      for (int64_t b = 0; b < 9; b++) {
        const __m512 v = have >= 144 ? _mm512_loadu_ps(from + 16 * b)
                                     : _mm512_maskz_loadu_ps(mask16(have - 16 * b), from + 16 * b);
        squares[b] = _mm512_fmadd_ps(v, v, squares[b]);
        largest[b] = (__m512)_mm512_max_epu32((__m512i)largest[b], (__m512i)_mm512_abs_ps(v));
      }
    };
    float sums[9][16] = {};
    uint32_t tops[9][16] = {};
    const auto keep = [&](int64_t output, int64_t begin, int64_t end) {
      const float *s = reinterpret_cast<const float*>(squares), *l = reinterpret_cast<const float*>(largest);
      for (int64_t i = begin; i < end; i += 9)
        for (int64_t t = 0; t < 9; t++) {
          uint32_t bits;
          std::memcpy(&bits, l + i + t, 4);
          sums[t][output] += s[i + t], tops[t][output] = std::max(tops[t][output], bits);
        }
    };
    const int64_t here = std::min<int64_t>(16, outputs() - out0);
    if (by_input) {
      for (int64_t o = 0; o < o_count; o++) {
        const float* from = w + (o * i_count + out0) * 9;
        for (int b = 0; b < 9; b++) __builtin_prefetch(from + 8 * 9 * i_count + 16 * b);
        look(from, 9 * here);
      }
      for (int64_t r = 0; r < here; r++) keep(r, 9 * r, 9 * r + 9);
    } else {
      for (int64_t r = 0; r < here; r++) {
        for (int b = 0; b < 9; b++) squares[b] = largest[b] = _mm512_setzero_ps();
        for (int64_t i = 0; i < i_count; i += 16) look(w + ((out0 + r) * i_count + i) * 9, 9 * (i_count - i));
        keep(r, 0, 144);
      }
    }
    static const Magnitudes<3, Way::AXIS> factors([](const auto& g, auto& t) SG_INLINED { Way::weight(g, t); });
    vec half[Way::AXIS][3] = {};
    for (int t = 0; t < 9; t++) {
      const int from = turned ? 8 - t : t;
      const vec s = (vec)steps_of(_mm512_loadu_ps(sums[from]), _mm512_loadu_si512(tops[from]), inputs(), WEIGHT_LENGTH);
      for (int r = 0; r < Way::AXIS; r++) half[r][t % 3] += s * factors.of[r][t / 3];
    }
    __m512i most = _mm512_setzero_si512();
    for (int r = 0; r < Way::AXIS; r++)
      for (int c = 0; c < Way::AXIS; c++) {
        vec s = {};
        for (int t = 0; t < 3; t++) s += half[r][t] * factors.of[c][t];
        most = _mm512_max_epu32(most, (__m512i)s);
      }
    return (vec)most;
  }
};

// 16 outputs from out0 on, transformed; u: where their panel is to be.
template <typename Way>
void transform_weights(const Weights& w, const WeightLayout& layout, int64_t out0, uint32_t* u, float* steps) {
  const auto transform = [](const auto& g, auto& t) SG_INLINED { Way::weight(g, t); };
  const int64_t width = layout.width(out0 / WIDE), stride = layout.point(out0 / WIDE);
  uint32_t* base = u + out0 % WIDE;
  if (out0 % WIDE == 0)
    for (int p = 0; p < Way::POINTS; p++) _mm512_storeu_si512(base + (p + 1) * stride - 16, _mm512_setzero_si512());
  float inverses[16];
  store(steps, w.steps<Way>(out0));
  for (int i = 0; i < 16; i++) inverses[i] = inverse(steps[i]);
  const vec scale = load(inverses);
  __m512 stage[32 * 9];
  for (int64_t in0 = 0; in0 < w.inputs(); in0 += 32) {
    conv3x3::stage_weights(w.w, w.o_count, w.i_count, 9, w.by_input, out0, in0, stage);
    for (int64_t k = 0; k < 16; k++) {
      __m512i first[Way::POINTS];
      uint32_t* to = base + (in0 / 2 + k) * width;
      const auto transformed = [&](const __m512* g, const auto& put) SG_INLINED {
        along_both_axes<3, 3, Way::AXIS, Way::AXIS>(
            [&](auto r, auto c) SG_INLINED { return (vec)g[w.turned ? 8 - 3 * r - c : 3 * r + c] * scale; }, transform,
            transform, [&](auto r, const auto& t) SG_INLINED {
              repeat<Way::AXIS>([&](auto c) SG_INLINED {
                put(std::integral_constant<int, Way::point(r, c)>(), _mm512_cvtps_epi32((__m512)t[c]));
              });
            });
      };
      transformed(stage + 18 * k, [&](auto p, __m512i v) SG_INLINED {
        first[p] = v;
        __builtin_prefetch(to + p * stride + AHEAD * width, 1);
      });
      transformed(stage + 18 * k + 9, [&](auto p, __m512i v) SG_INLINED {
        const __m512i word = _mm512_mask_blend_epi16(0xaaaaaaaa, first[p], _mm512_slli_epi32(v, 16));
        _mm512_storeu_si512(to + p * stride, word);
      });
    }
  }
}

}  // namespace conv_fixed
