// Gradients in the weights of 3x3 convolutions of bfloat16 images by minimal filtering in fixed point: the adjoint,
//
//     gw = G^T [ sum over tiles of (B^T d B) * (A gy A^T) ] G.
//
// The sums run over tiles, so each channel of either image has a step for its numbers of a chunk of tiles, whose
// transforms fit the third-level cache; a chunk's int32 sums are transformed back in float32 and added to the result.
// B^T and A are scaled until the magnitudes of each row add up to 1, and G makes up for it: then the squares of a
// channel's numbers at a point add up to no more than those of its pixels at some place of the tiles. These are known
// without the tiles, from the sums of each row of pixels over columns of the same remainder. By Cauchy and Schwarz a
// sum stays in int32 if neither vector is longer than SUM_LENGTH.
//
// Memory is asked for before it is read or written: up to a third of the time was waiting for it.
//
// What is not finite makes the step, and so all of the channel's results, infinite or NaN.
#pragma once
#include <algorithm>
#include <vector>

#include "conv_fixed.h"
#include "cpu.h"
#include "scratch.h"

namespace conv_fixed {

constexpr float SUM_LENGTH = 46000;         // 2^15.5, less what rounding adds
constexpr int64_t SUMMED_BYTES = 12 << 20;  // transformed tensors of a chunk, in the third level
constexpr int64_t MOST_PAIRS = 320;         // of tiles of a chunk: steps grow by the square root
constexpr int64_t FEWEST_PAIRS = 64;        // as each chunk's sums are transformed back
constexpr int64_t CHANNELS = 64;            // of either image in an item of work
constexpr int64_t AT_ONCE = 12;             // of them that are multiplied before more memory is asked for

// Rows of B^T and of A that add up to 1.
constexpr Matrices summed(Matrices f, int m, int r) {
  for (int row = 0; row < m + r - 1; row++) {
    double of_b = 0, of_a = 0;
    for (int j = 0; j < m + r - 1; j++) of_b += f.bt[row][j] < 0 ? -f.bt[row][j] : f.bt[row][j];
    for (int k = 0; k < m; k++) of_a += f.at[k][row] < 0 ? -f.at[k][row] : f.at[k][row];
    for (int j = 0; j < m + r - 1; j++) f.bt[row][j] /= of_b;
    for (int k = 0; k < m; k++) f.at[k][row] /= of_a;
    for (int k = 0; k < r; k++) f.g[row][k] *= of_b * of_a;
  }
  return f;
}

template <int M, int R>
struct Summed : Shape<M, R> {
  static constexpr Matrices MATRICES = summed(Filter<M, R>::MATRICES, M, R);
};

// Of a channels-last image, for each row of pixels and remainder of the column by REMAINDERS: sums of squares; and each
// row's largest magnitudes, as bits. Of 32 channels the even-numbered come first, then the odd-numbered, also below.
template <int REMAINDERS>
struct Squares {
  int64_t padded;
  float* sums;
  uint32_t* largest;
  explicit Squares(const Image& s) : padded(conv3x3::round_up(s.channels, 32)) {}
  int64_t words(const Image& s) const { return s.n * s.height * (REMAINDERS + 1) * padded; }
  const float* sum(int64_t row, int64_t remainder) const { return sums + (row * REMAINDERS + remainder) * padded; }

  void find(const Image& s, const bf16* x, int64_t threads, uint32_t* memory) {
    sums = reinterpret_cast<float*>(memory);
    largest = memory + s.n * s.height * REMAINDERS * padded;
    sg::for_each_item(s.n * s.height, threads, [&](int64_t row, int64_t) {
      const bf16* from = x + row * s.width * s.channels;
      for (int64_t ch = 0; ch < s.channels; ch += 32) {
        const __mmask32 mask = mask32(s.channels - ch);
        vec even[REMAINDERS] = {}, odd[REMAINDERS] = {};
        __m512i top = _mm512_setzero_si512();
        for (int64_t first = 0; first < s.width; first += REMAINDERS)
          repeat<REMAINDERS>([&](auto k) SG_INLINED {
            if (first + k >= s.width) return;
            const bf16* pixel = from + (first + k) * s.channels + ch;
            const __m512i v = _mm512_maskz_loadu_epi16(mask, pixel);
            __builtin_prefetch(pixel + s.width * s.channels);  // the next row's
            const vec a = (vec)conv3x3::widen<false>(v), b = (vec)conv3x3::widen<true>(v);
            even[k] += a * a;
            odd[k] += b * b;
            top = _mm512_max_epu16(top, _mm512_and_si512(v, _mm512_set1_epi16(0x7fff)));
          });
        for (int k = 0; k < REMAINDERS; k++) {
          float* to = sums + (row * REMAINDERS + k) * padded + ch;
          store(to, even[k]);
          store(to + 16, odd[k]);
        }
        store(reinterpret_cast<float*>(largest + row * padded + ch), (vec)conv3x3::widen<false>(top));
        store(reinterpret_cast<float*>(largest + row * padded + ch + 16), (vec)conv3x3::widen<true>(top));
      }
    });
  }

  // The channels' steps for rows of tiles from `first` on, of which `per_image` make an image: `side` rows of pixels
  // each. `numbers`: how many of a channel are added up at a point.
  void steps(const Image& s, Start start, int64_t side, int64_t per_image, int64_t first, int64_t rows, int64_t numbers,
             float* to) const {
    for (int64_t ch = 0; ch < padded; ch += 16) {
      __m512i most = _mm512_setzero_si512(), top = most;
      for (int64_t i = 0; i < side; i++) {
        vec here[REMAINDERS] = {};
        for (int64_t tile = first; tile < first + rows; tile++) {
          const int64_t y = start.at(tile % per_image) + i, row = tile / per_image * s.height + y;
          if (y < 0 || y >= s.height) continue;
          for (int k = 0; k < REMAINDERS; k++) here[k] += load(sum(row, k) + ch);
          top = _mm512_max_epu32(top, _mm512_loadu_si512(largest + row * padded + ch));
        }
        for (int k = 0; k < REMAINDERS; k++) most = _mm512_max_epu32(most, (__m512i)here[k]);
      }
      store(to + ch, (vec)steps_of((__m512)most, top, numbers, SUM_LENGTH));
    }
  }
};

// An operand: [point][panel of CHANNELS channels][pair of tiles][channel] words.
struct Pairs {
  int64_t padded, pairs;
  Pairs(int64_t channels, int64_t pairs) : padded(conv3x3::round_up(channels, CHANNELS)), pairs(pairs) {}
  int64_t point() const { return padded * pairs + 16; }  // 16: not to all fall on one cache set
  int64_t at(int64_t channel) const { return channel / CHANNELS * CHANNELS * pairs + channel % CHANNELS; }
};

// Two tiles of FROM x FROM pixels, `apart` columns from each other, transformed, as words (first tile's, second's).
template <int FROM, int TO, typename T>
void read_pair(const Image& s, const bf16* x, int64_t n, int64_t y0, int64_t x0, int64_t apart, const bf16* zeros,
               const float* inverses, const T& transform, const Pairs& to, uint32_t* v) {
  const bf16* p[2][FROM * FROM];
  for (int64_t second = 0; second < 2; second++)
    for (int64_t r = 0; r < FROM; r++)
      for (int64_t c = 0; c < FROM; c++) {
        const int64_t row = y0 + r, col = x0 + c + second * apart;
        const bool inside = row >= 0 && row < s.height && col >= 0 && col < s.width;
        p[second][FROM * r + c] = inside ? x + ((n * s.height + row) * s.width + col) * s.channels : zeros;
      }
  const int64_t point = to.point();
  const __m512i low = _mm512_set1_epi32(0xffff);
  const vec half = broadcast(32768);
  for (int64_t ch = 0; ch < s.channels; ch += 32) {
    const __mmask32 mask = mask32(s.channels - ch);
    for (int64_t r = 0; r < FROM; r++)  // the next two tiles'
      for (int64_t c = FROM - apart; c < FROM; c++) {
        __builtin_prefetch(p[0][FROM * r + c] + 2 * apart * s.channels + ch);
        __builtin_prefetch(p[1][FROM * r + c] + 2 * apart * s.channels + ch);
      }
    const auto of_parity = [&](auto odd) SG_INLINED {
      uint32_t* dst = v + to.at(ch) + 16 * odd;
      const int64_t ahead = (ch + 32 < s.channels ? to.at(ch + 32) : CHANNELS) - to.at(ch);  // where is written next
      const vec scale = load(inverses + ch + 16 * odd), upper = scale * 65536.f;
      const auto pixel = [&](int second, int r, int c) SG_INLINED {
        return (vec)conv3x3::widen<odd>(_mm512_maskz_loadu_epi16(mask, p[second][FROM * r + c] + ch));
      };
      __m512i first[TO][TO];
      along_both_axes<FROM, FROM, TO, TO>(
          [&](auto r, auto c) SG_INLINED { return pixel(0, r, c); }, transform, transform,
          [&](auto r, const auto& t) SG_INLINED {
            repeat<TO>([&](auto c) SG_INLINED {
              first[r][c] = _mm512_cvtps_epi32((__m512)(t[c] * scale));
              __builtin_prefetch(dst + (r * TO + c) * point + ahead, 1);
            });
          });
      along_both_axes<FROM, FROM, TO, TO>(
          [&](auto r, auto c) SG_INLINED { return pixel(1, r, c); }, transform, transform,
          [&](auto r, const auto& t) SG_INLINED {
            repeat<TO>([&](auto c) SG_INLINED {
              const __m512i above = _mm512_cvtps_epi32((__m512)(t[c] * upper + half));
              const __m512i word = _mm512_ternarylogic_epi32(low, first[r][c], above, 0xca);  // bits of first where low
              _mm512_storeu_si512(dst + (r * TO + c) * point, word);
            });
          });
    };
    of_parity(std::false_type());
    of_parity(std::true_type());
  }
}

// gw[o][i][9] of 32 inputs x 16 outputs from the sums m + point * step + CHANNELS * input + output; `add` to what is
// there. The outputs are every second one from o0 on.
template <typename F>
void write_gradient(const float* m, int64_t step, const float* of_inputs, vec of_outputs, float gain, bool add,
                    float* gw, int64_t o_count, int64_t i_count, int64_t o0, int64_t i0) {
  __m512 stage[32 * 9];
  const auto transform = [](const auto& u, auto& t) SG_INLINED { transform_weight_back<F>(u, t); };
  for (int64_t i = 0; i < 32; i++) {
    const vec scale = of_outputs * (of_inputs[i] * gain);
    __m512* to = stage + 9 * conv3x3::channel_of(i);
    along_both_axes<F::SIZE, F::SIZE, 3, 3>(
        [&](auto r, auto c) SG_INLINED {
          return (vec)_mm512_cvtepi32_ps(_mm512_loadu_si512(m + (r * F::SIZE + c) * step + CHANNELS * i));
        },
        transform, transform, [&](auto r, const auto& t) SG_INLINED {
          repeat<3>([&](auto c) SG_INLINED { to[3 * r + c] = (__m512)(t[c] * scale); });
        });
  }
  conv3x3::write_stage(stage, add, gw, o_count, i_count, o0, i0);
}

// gw[o][i][9] = gain * sum over images and pixels of gy[o] x[i, shifted], with stride 1 and padding 1.
inline void weight_gradient(const Image& in, const bf16* x, const Image& result, const bf16* gy, float gain, float* gw,
                            int64_t threads) {
  using F = Summed<4, 3>;
  constexpr int POINTS = F::SIZE * F::SIZE;
  constexpr Start START{F::OUT, 1}, RESULT_START{F::OUT, 0};
  const int64_t per_image = (in.height + F::OUT - 1) / F::OUT, cols = (in.width + F::OUT - 1) / F::OUT;
  const int64_t all = in.n * per_image, per_row = (cols + 1) / 2;  // pairs of neighbouring tiles

  const int64_t of_pair = POINTS * 4 * (Pairs(in.channels, 1).padded + Pairs(result.channels, 1).padded);
  const int64_t most = std::clamp(SUMMED_BYTES / of_pair, FEWEST_PAIRS, MOST_PAIRS);
  const int64_t most_rows = std::max<int64_t>(most / per_row, 1), chunks = (all + most_rows - 1) / most_rows;
  const int64_t rows = (all + chunks - 1) / chunks;  // of tiles, in a chunk
  const Pairs a(in.channels, rows * per_row), b(result.channels, rows * per_row);
  const int64_t step = CHANNELS * CHANNELS + 16;

  Squares<F::OUT> of_x(in), of_y(result);
  static thread_local sg::Scratch scratch;
  const int64_t a_words = POINTS * a.point(), b_words = POINTS * b.point(), m_words = POINTS * step;
  uint32_t* va = scratch.get<uint32_t>(a_words + b_words + threads * m_words + of_x.words(in) + of_y.words(result));
  uint32_t *vb = va + a_words, *products = vb + b_words, *squares = products + threads * m_words;
  of_x.find(in, x, threads, squares);
  of_y.find(result, gy, threads, squares + of_x.words(in));
  const std::vector<bf16> zeros(std::max(of_x.padded, of_y.padded));
  std::vector<float> x_steps(of_x.padded), y_steps(of_y.padded), x_inverses(of_x.padded), y_inverses(of_y.padded);

  for (int64_t first = 0; first < all; first += rows) {
    const int64_t here = std::min(rows, all - first), count = here * per_row;
    of_x.steps(in, START, F::SIZE, per_image, first, here, 2 * count, x_steps.data());
    of_y.steps(result, RESULT_START, F::OUT, per_image, first, here, 2 * count, y_steps.data());
    std::transform(x_steps.begin(), x_steps.end(), x_inverses.begin(), inverse);
    std::transform(y_steps.begin(), y_steps.end(), y_inverses.begin(), inverse);
    const int64_t once = 8;  // pairs of an item
    sg::for_each_item((count + once - 1) / once, threads, [&](int64_t item, int64_t) {
      for (int64_t k = item * once; k < std::min(count, (item + 1) * once); k++) {
        const int64_t row = first + k / per_row, n = row / per_image, y0 = row % per_image, x0 = k % per_row * 2;
        read_pair<F::SIZE, F::SIZE>(in, x, n, START.at(y0), START.at(x0), F::OUT, zeros.data(), x_inverses.data(),
                                    [](const auto& d, auto& t) SG_INLINED { transform_input<F>(d, t); }, a,
                                    va + k * CHANNELS);
        read_pair<F::OUT, F::SIZE>(result, gy, n, RESULT_START.at(y0), RESULT_START.at(x0), F::OUT, zeros.data(),
                                   y_inverses.data(),
                                   [](const auto& d, auto& t) SG_INLINED { transform_output_back<F>(d, t); }, b,
                                   vb + k * CHANNELS);
      }
    });
    const int64_t i_groups = a.padded / CHANNELS, o_groups = b.padded / CHANNELS;
    sg::for_each_item(i_groups * o_groups, threads, [&](int64_t item, int64_t thread) {
      const int64_t i0 = item % i_groups * CHANNELS, o0 = item / i_groups * CHANNELS;
      const int64_t height = std::min(CHANNELS, of_x.padded - i0), width = std::min(CHANNELS, of_y.padded - o0);
      float* m = reinterpret_cast<float*>(products + thread * m_words);
      for (int64_t p = 0; p < POINTS; p++) {
        const uint32_t *mine = va + p * a.point() + a.at(i0), *other = vb + p * b.point() + b.at(o0);
        for (int64_t r = 0; r < height; r += AT_ONCE) {
          conv3x3::gemm<conv3x3::IntPairs>(static_cast<int>(width / 16), std::min(AT_ONCE, height - r), mine + r, 1,
                                           CHANNELS, other, CHANNELS, count, m + p * step + r * CHANNELS, CHANNELS);
          const int64_t end = std::min(r + AT_ONCE, height) * count / height * CHANNELS;  // the next point's
          for (int64_t w = r * count / height * CHANNELS; w < end; w += 16) {
            _mm_prefetch(reinterpret_cast<const char*>(mine + a.point() + w), _MM_HINT_T1);
            _mm_prefetch(reinterpret_cast<const char*>(other + b.point() + w), _MM_HINT_T1);
          }
        }
      }
      for (int64_t i = 0; i < height; i += 32)
        for (int64_t j = 0; j < width; j += 16)
          write_gradient<F>(m + i * CHANNELS + j, step, x_steps.data() + i0 + i, load(y_steps.data() + o0 + j), gain,
                            first > 0, gw, result.channels, in.channels, conv3x3::channel_of(o0 + j), i0 + i);
    });
  }
}

}  // namespace conv_fixed
