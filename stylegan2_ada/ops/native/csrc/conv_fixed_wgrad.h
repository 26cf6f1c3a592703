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

inline sg::Scratch& scratch_of_gradient() {
  static thread_local sg::Scratch scratch;
  return scratch;
}

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
             int64_t threads, float* to) const {
    sg::for_each_item(padded / 16, threads, [&](int64_t item, int64_t) {
      const int64_t ch = 16 * item;
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
    });
  }
};

// How tiles of a convolution's larger image (`Large`) and of the smaller are made numbers, and their sums the three taps of
// an axis. SIDE x SIDE pixels, STEP apart, become NUMBERS x NUMBERS; two of these belong to a point (`of`) and are a row of
// it (`copy`).
struct PlainGradient {
  using F = Summed<4, 3>;
  static constexpr int AXIS = F::SIZE, NUMBERS = F::SIZE, POINTS = AXIS * AXIS, COPIES = POINTS;
  struct Large {
    static constexpr int SIDE = F::SIZE, STEP = F::OUT;
    SG_FORCE_INLINE static void transform(const vec (&d)[SIDE], vec (&t)[NUMBERS]) { transform_input<F>(d, t); }
  };
  struct Small {
    static constexpr int SIDE = F::OUT, STEP = F::OUT;
    SG_FORCE_INLINE static void transform(const vec (&d)[SIDE], vec (&t)[NUMBERS]) { transform_output_back<F>(d, t); }
  };
  static constexpr int of(int r, int c) { return r * AXIS + c; }
  static constexpr int copy(int, int) { return 0; }
  static constexpr int64_t copies(int64_t) { return 1; }
  static constexpr int64_t copies_before(int64_t point) { return point; }
  static constexpr int point(int r, int c) { return of(r, c); }
  SG_FORCE_INLINE static void taps(const vec (&u)[AXIS], vec (&t)[3]) { transform_weight_back<F>(u, t); }
  // Whether it was measured faster, for images of this size: transforming sums back has to pay.
  static bool pays(int64_t height, int64_t width) { return height * width >= 256; }
};

// With stride 2 (conv_strided_float.h). The four odd numbers of an axis are summed at one point, so they are halved: then
// four, or sixteen, of them add up to no more than the squares of their pixels do on average.
struct StridedGradient : conv_float::StridedAxes<Summed<4, 2>> {
  using Axes = conv_float::StridedAxes<Summed<4, 2>>;
  static constexpr int POINTS = BOTH + 1, COPIES = NUMBERS * NUMBERS;
  static constexpr float ODD_SCALE = .5f;
  struct Large {
    static constexpr int SIDE = Axes::NUMBERS, STEP = 2 * OUT;
    SG_FORCE_INLINE static void transform(const vec (&d)[SIDE], vec (&t)[Axes::NUMBERS]) {
      Axes::input<false>(d, t);
      repeat<ODD>([&](auto i) SG_INLINED { t[EVEN + i] = t[EVEN + i] * ODD_SCALE; });
    }
  };
  struct Small {
    static constexpr int SIDE = OUT, STEP = OUT;
    SG_FORCE_INLINE static void transform(const vec (&d)[SIDE], vec (&t)[Axes::NUMBERS]) {
      vec even[EVEN];
      transform_output_back<F>(d, even);
      repeat<EVEN>([&](auto i) SG_INLINED { t[i] = even[i]; });
      repeat<ODD>([&](auto i) SG_INLINED { t[EVEN + i] = d[i] * ODD_SCALE; });
    }
  };
  SG_FORCE_INLINE static void taps(const vec (&u)[AXIS], vec (&t)[3]) {
    vec even[EVEN], both[2];
    repeat<EVEN>([&](auto i) SG_INLINED { even[i] = u[i]; });
    transform_weight_back<F>(even, both);
    t[0] = both[0];
    t[1] = u[EVEN] * (1 / (ODD_SCALE * ODD_SCALE));
    t[2] = both[1];
  }
  // Whether it was measured faster, for a smaller image of this size: larger ones wait for memory.
  static bool pays(int64_t height, int64_t width) { return height * width >= 8 * 8 && height * width <= 32 * 32; }
};

// An operand: [point][panel of CHANNELS channels][pair of tiles][copy][channel] words.
template <typename Way>
struct Pairs {
  int64_t padded, pairs;
  Pairs(int64_t channels, int64_t pairs) : padded(conv3x3::round_up(channels, CHANNELS)), pairs(pairs) {}
  int64_t point(int64_t p) const { return Way::copies_before(p) * padded * pairs + 16 * p; }  // 16: see WeightLayout
  int64_t panel(int64_t channel, int64_t copies) const { return channel / CHANNELS * CHANNELS * pairs * copies; }
  int64_t at(int64_t p, int64_t channel) const {
    return point(p) + panel(channel, Way::copies(p)) + channel % CHANNELS;
  }
  int64_t words() const { return point(Way::POINTS); }
};

// Where two neighbouring tiles begin in an image.
struct Place {
  int64_t n, y, x;
};

// Two neighbouring tiles, transformed, as words (first tile's, second's) of `pair`.
template <typename Way, typename T>
void read_pair(const Image s, const bf16* x, const Place at, const bf16* zeros, const float* inverses,
               const Pairs<Way> to, int64_t pair, uint32_t* v) {
  constexpr int FROM = T::SIDE, TO = Way::NUMBERS;
  const bf16* p[2][FROM * FROM];
  for (int64_t second = 0; second < 2; second++)
    for (int64_t r = 0; r < FROM; r++)
      for (int64_t c = 0; c < FROM; c++) {
        const int64_t row = at.y + r, col = at.x + c + second * T::STEP;
        const bool inside = row >= 0 && row < s.height && col >= 0 && col < s.width;
        p[second][FROM * r + c] = inside ? x + ((at.n * s.height + row) * s.width + col) * s.channels : zeros;
      }
  const __m512i low = _mm512_set1_epi32(0xffff);
  const vec half = broadcast(32768);
  const auto transform = [](const auto& d, auto& t) SG_INLINED { T::transform(d, t); };
  for (int64_t ch = 0; ch < s.channels; ch += 32) {
    const __mmask32 mask = mask32(s.channels - ch);
    for (int64_t r = 0; r < FROM; r++)  // the next two tiles'
      for (int64_t c = FROM - T::STEP; c < FROM; c++) {
        __builtin_prefetch(p[0][FROM * r + c] + 2 * T::STEP * s.channels + ch);
        __builtin_prefetch(p[1][FROM * r + c] + 2 * T::STEP * s.channels + ch);
      }
    const auto of_parity = [&](auto odd) SG_INLINED {
      const auto place_of = [&](int64_t channel, int64_t pair) SG_INLINED {
        const int64_t panel = to.panel(channel, 1);
        return [=, first = v + channel % CHANNELS + 16 * odd](auto r, auto c) SG_INLINED {
          constexpr int64_t point = Way::of(r, c), copies = Way::copies(point), copy = Way::copy(r, c);
          return first + to.point(point) + panel * copies + (pair * copies + copy) * CHANNELS;
        };
      };
      const auto place = place_of(ch, pair);
      const auto next = ch + 32 < s.channels ? place_of(ch + 32, pair) : place_of(0, pair + 1);  // is written next
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
              __builtin_prefetch(next(r, c), 1);
            });
          });
      along_both_axes<FROM, FROM, TO, TO>(
          [&](auto r, auto c) SG_INLINED { return pixel(1, r, c); }, transform, transform,
          [&](auto r, const auto& t) SG_INLINED {
            repeat<TO>([&](auto c) SG_INLINED {
              const __m512i above = _mm512_cvtps_epi32((__m512)(t[c] * upper + half));
              const __m512i word = _mm512_ternarylogic_epi32(low, first[r][c], above, 0xca);  // bits of first where low
              _mm512_storeu_si512(place(r, c), word);
            });
          });
    };
    of_parity(std::false_type());
    of_parity(std::true_type());
  }
}

// gw[o][i][9], `turned` by 180 degrees, of 32 inputs x 16 outputs from the sums m + point * step + CHANNELS * input +
// output; `add` to what is there. The outputs are every second one from o0 on.
template <typename Way>
void write_gradient(const float* m, int64_t step, const float* of_inputs, vec of_outputs, float gain, bool turned,
                    bool add, float* gw, int64_t o_count, int64_t i_count, int64_t o0, int64_t i0) {
  __m512 stage[32 * 9];
  const auto transform = [](const auto& u, auto& t) SG_INLINED { Way::taps(u, t); };
  for (int64_t i = 0; i < 32; i++) {
    const vec scale = of_outputs * (of_inputs[i] * gain);
    __m512* to = stage + 9 * conv3x3::channel_of(i);
    along_both_axes<Way::AXIS, Way::AXIS, 3, 3>(
        [&](auto r, auto c) SG_INLINED {
          return (vec)_mm512_cvtepi32_ps(_mm512_loadu_si512(m + Way::point(r, c) * step + CHANNELS * i));
        },
        transform, transform, [&](auto r, const auto& t) SG_INLINED {
          repeat<3>([&](auto c) SG_INLINED { to[turned ? 8 - 3 * r - c : 3 * r + c] = (__m512)(t[c] * scale); });
        });
  }
  conv3x3::write_stage(stage, add, gw, o_count, i_count, o0, i0);
}

// An image of which the gradient is, how its tiles are read (`T`), and where they begin.
template <typename T>
struct Side {
  Image s;
  const bf16* x;
  int64_t pad_y, pad_x;
  Start rows() const { return {T::STEP, pad_y}; }
  Start cols() const { return {T::STEP, pad_x}; }
};

// gw[o][i][9] = gain * sum over images and pixels of a[i] b[o], one of them shifted: a of the channels i and b of the o.
// `small`: height and width of the smaller.
template <typename Way, typename A, typename B>
void weight_gradient(const Side<A>& a, const Side<B>& b, int64_t height, int64_t width, float gain, bool turned,
                     float* gw, int64_t threads) {
  const int64_t per_image = (height + 3) / 4, cols = (width + 3) / 4;
  const int64_t all = a.s.n * per_image, per_row = (cols + 1) / 2;  // pairs of neighbouring tiles

  const int64_t padded = Pairs<Way>(a.s.channels, 1).padded + Pairs<Way>(b.s.channels, 1).padded;
  const int64_t most = std::clamp(SUMMED_BYTES / (Way::COPIES * 4 * padded), FEWEST_PAIRS, MOST_PAIRS);
  const int64_t most_rows = std::max<int64_t>(most / per_row, 1), chunks = (all + most_rows - 1) / most_rows;
  const int64_t rows = (all + chunks - 1) / chunks;  // of tiles, in a chunk
  const Pairs<Way> of_a(a.s.channels, rows * per_row), of_b(b.s.channels, rows * per_row);
  const int64_t step = CHANNELS * CHANNELS + 16, m_words = Way::POINTS * step;

  Squares<A::STEP> a_squares(a.s);
  Squares<B::STEP> b_squares(b.s);
  const int64_t a_words = conv3x3::round_up(of_a.words(), 16), b_words = conv3x3::round_up(of_b.words(), 16);
  uint32_t* va = scratch_of_gradient().get<uint32_t>(a_words + b_words + threads * m_words + a_squares.words(a.s) +
                                                     b_squares.words(b.s));
  uint32_t *vb = va + a_words, *products = vb + b_words, *squares = products + threads * m_words;
  a_squares.find(a.s, a.x, threads, squares);
  b_squares.find(b.s, b.x, threads, squares + a_squares.words(a.s));
  const std::vector<bf16> zeros(std::max(a_squares.padded, b_squares.padded));
  std::vector<float> a_steps(a_squares.padded), b_steps(b_squares.padded);
  std::vector<float> a_inverses(a_squares.padded), b_inverses(b_squares.padded);

  for (int64_t first = 0; first < all; first += rows) {
    const int64_t here = std::min(rows, all - first), count = here * per_row;
    a_squares.steps(a.s, a.rows(), A::SIDE, per_image, first, here, 2 * count, threads, a_steps.data());
    b_squares.steps(b.s, b.rows(), B::SIDE, per_image, first, here, 2 * count, threads, b_steps.data());
    std::transform(a_steps.begin(), a_steps.end(), a_inverses.begin(), inverse);
    std::transform(b_steps.begin(), b_steps.end(), b_inverses.begin(), inverse);
    const int64_t once = 8;  // pairs of an item
    sg::for_each_item((count + once - 1) / once, threads, [&](int64_t item, int64_t) {
      for (int64_t k = item * once; k < std::min(count, (item + 1) * once); k++) {
        const int64_t row = first + k / per_row, n = row / per_image, y = row % per_image, x = k % per_row * 2;
        read_pair<Way, A>(a.s, a.x, {n, a.rows().at(y), a.cols().at(x)}, zeros.data(), a_inverses.data(), of_a, k, va);
        read_pair<Way, B>(b.s, b.x, {n, b.rows().at(y), b.cols().at(x)}, zeros.data(), b_inverses.data(), of_b, k, vb);
      }
    });
    const int64_t a_groups = of_a.padded / CHANNELS, b_groups = of_b.padded / CHANNELS;
    sg::for_each_item(a_groups * b_groups, threads, [&](int64_t item, int64_t thread) {
      const int64_t i0 = item % a_groups * CHANNELS, o0 = item / a_groups * CHANNELS;
      const int64_t height = std::min(CHANNELS, a_squares.padded - i0), width = std::min(CHANNELS, b_squares.padded - o0);
      float* m = reinterpret_cast<float*>(products + thread * m_words);
      for (int64_t p = 0; p < Way::POINTS; p++) {
        const int64_t terms = count * Way::copies(p), next = std::min<int64_t>(p + 1, Way::POINTS - 1);
        const uint32_t *mine = va + of_a.at(p, i0), *other = vb + of_b.at(p, o0);
        const uint32_t *my_next = va + of_a.at(next, i0), *other_next = vb + of_b.at(next, o0);
        for (int64_t r = 0; r < height; r += AT_ONCE) {
          conv3x3::gemm<conv3x3::IntPairs>(static_cast<int>(width / 16), std::min(AT_ONCE, height - r), mine + r, 1,
                                           CHANNELS, other, CHANNELS, terms, m + p * step + r * CHANNELS, CHANNELS);
          const int64_t soon = count * Way::copies(next), end = std::min(r + AT_ONCE, height) * soon / height;
          for (int64_t w = r * soon / height * CHANNELS; w < end * CHANNELS; w += 16) {
            _mm_prefetch(reinterpret_cast<const char*>(my_next + w), _MM_HINT_T1);
            _mm_prefetch(reinterpret_cast<const char*>(other_next + w), _MM_HINT_T1);
          }
        }
      }
      for (int64_t i = 0; i < height; i += 32)
        for (int64_t j = 0; j < width; j += 16)
          write_gradient<Way>(m + i * CHANNELS + j, step, a_steps.data() + i0 + i, load(b_steps.data() + o0 + j), gain,
                              turned, first > 0, gw, b.s.channels, a.s.channels, conv3x3::channel_of(o0 + j), i0 + i);
    });
  }
}

}  // namespace conv_fixed
