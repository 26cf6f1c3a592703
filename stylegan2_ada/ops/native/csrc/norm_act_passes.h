// Passes over images [pixels, channels] for batch normalisation and the activation behind it.
#pragma once

#include <cmath>
#include <numeric>

#include "cpu.h"
#include "elementary.h"
#include "lanes.h"

namespace norm_act {

using sg::LANES;
using sg::Vec;

constexpr int64_t PIECE = 32768;  // elements that are summed by themselves, whatever the number of threads
constexpr int64_t LONG = 4 * LANES;  // elements that a pass does side by side
constexpr int64_t CLAMP = 0, SWISH = 1;

struct Act {
  int64_t kind;
  float low, high;
};

SG_INLINE Vec sigmoid(Vec z) {
  float v[LANES];
  std::memcpy(v, &z, sizeof z);
  for (int l = 0; l < LANES; ++l) v[l] = 1.0f / (1.0f + sg::exp_(-v[l]));
  std::memcpy(&z, v, sizeof z);
  return z;
}

template <int64_t KIND>
SG_INLINE Vec act_of(Vec z, Vec low, Vec high) {
  if (KIND == SWISH) return z * sigmoid(z);
  z = z < low ? low : z;  // NaN stays
  return z > high ? high : z;
}

// g times the activation's slope at z
template <int64_t KIND>
SG_INLINE Vec through(Vec g, Vec z, Vec low, Vec high) {
  if (KIND == SWISH) {
    const Vec s = sigmoid(z);
    return g * s * (1.0f + z * (1.0f - s));
  }
  g = z <= low ? Vec{} : g;
  return z >= high ? Vec{} : g;
}

// Images as rows of `length` numbers, whole pixels whose channels fill whole vectors; `rest` pixels are left over.
struct Shape {
  int64_t channels, pixels, times, length, rows, rest, rows_a_piece, pieces;

  Shape(int64_t channels, int64_t pixels) : channels(channels), pixels(pixels) {
    times = LANES / std::gcd<int64_t>(channels, LANES);
    times *= std::max<int64_t>(1, LONG / (times * channels));
    length = times * channels;
    rows = pixels / times;
    rest = pixels % times;
    rows_a_piece = std::max<int64_t>(1, PIECE / length);
    pieces = (rows + rows_a_piece - 1) / rows_a_piece;
  }

  int64_t done() const { return rows * length; }  // elements before the pixels that are left over

  std::vector<float> repeated(const std::vector<float>& v) const {
    std::vector<float> out;
    for (int64_t t = 0; t < times; ++t) out.insert(out.end(), v.begin(), v.end());
    return out;
  }

  // f(piece, first row, rows, null) for each piece; then, if pixels are left over, f(pieces, 0, 1, last).
  template <typename T, typename F>
  void pieces_and(T* last, const F& f) const {
    sg::for_each_item(pieces, torch::stable::get_num_threads(), [&](int64_t piece, int64_t) {
      const int64_t row = piece * rows_a_piece;
      f(piece, row, std::min(rows_a_piece, rows - row), static_cast<T*>(nullptr));
    });
    if (rest) f(pieces, 0, 1, last);
  }
};

// By channel, repeated along a row: what the passes need. Those that a pass doesn't need are null.
struct Vectors {
  const float *scale, *shift, *mean, *c1, *c0;
};

template <int WIDTH>
struct Loaded {
  Vec v[WIDTH];
  SG_INLINE explicit Loaded(const float* x) {
    for (int i = 0; i < WIDTH; ++i) v[i] = sg::load(x + i * LANES);
  }
};

// sums, squares: of x - mean
template <int WIDTH, typename T>
void moments(const T* x, int64_t rows, int64_t length, const float* mean, float* sums, float* squares) {
  const Loaded<WIDTH> m(mean);
  Vec s[WIDTH] = {}, q[WIDTH] = {};
  for (int64_t r = 0; r < rows; ++r, x += length)
    for (int i = 0; i < WIDTH; ++i) {
      const Vec d = sg::load(x + i * LANES) - m.v[i];
      s[i] += d;
      q[i] += d * d;
    }
  for (int i = 0; i < WIDTH; ++i) sg::store(s[i], sums + i * LANES), sg::store(q[i], squares + i * LANES);
}

// y = act(x * scale + shift)
template <int64_t KIND, int WIDTH, typename T>
void apply(const T* x, T* y, int64_t rows, int64_t length, Vectors p, Act a) {
  const Loaded<WIDTH> scale(p.scale), shift(p.shift);
  const Vec low = sg::all_lanes(a.low), high = sg::all_lanes(a.high);
  for (int64_t r = 0; r < rows; ++r, x += length, y += length)
    for (int i = 0; i < WIDTH; ++i)
      sg::store(act_of<KIND>(sg::load(x + i * LANES) * scale.v[i] + shift.v[i], low, high), y + i * LANES);
}

// Numbers as they were loaded: the compiler would put the load behind the mask that a clamp's slope is, to wait for it.
SG_INLINE Vec loaded(Vec v) {
#if defined(__AVX512F__)
  asm("" : "+v"(v));
#endif
  return v;
}

// sums of g = gy act'(x * scale + shift), and of g (x - mean)
template <int64_t KIND, int WIDTH, typename T>
void gradient_sums(const T* gy, const T* x, int64_t rows, int64_t length, Vectors p, Act a, float* sums,
                   float* products) {
  const Loaded<WIDTH> scale(p.scale), shift(p.shift), mean(p.mean);
  const Vec low = sg::all_lanes(a.low), high = sg::all_lanes(a.high);
  Vec s[WIDTH] = {}, t[WIDTH] = {};
  for (int64_t r = 0; r < rows; ++r, x += length, gy += length)
    for (int i = 0; i < WIDTH; ++i) {
      const Vec v = sg::load(x + i * LANES);
      const Vec g = through<KIND>(loaded(sg::load(gy + i * LANES)), v * scale.v[i] + shift.v[i], low, high);
      s[i] += g;
      t[i] += g * (v - mean.v[i]);
    }
  for (int i = 0; i < WIDTH; ++i) sg::store(s[i], sums + i * LANES), sg::store(t[i], products + i * LANES);
}

// gx = scale g + c1 (x - mean) + c0
template <int64_t KIND, int WIDTH, typename T>
void input_gradient(const T* gy, const T* x, T* gx, int64_t rows, int64_t length, Vectors p, Act a) {
  const Loaded<WIDTH> scale(p.scale), shift(p.shift), mean(p.mean), c1(p.c1), c0(p.c0);
  const Vec low = sg::all_lanes(a.low), high = sg::all_lanes(a.high);
  for (int64_t r = 0; r < rows; ++r, x += length, gy += length, gx += length)
    for (int i = 0; i < WIDTH; ++i) {
      const Vec v = sg::load(x + i * LANES);
      const Vec g = through<KIND>(loaded(sg::load(gy + i * LANES)), v * scale.v[i] + shift.v[i], low, high);
      sg::store(scale.v[i] * g + c1.v[i] * (v - mean.v[i]) + c0.v[i], gx + i * LANES);
    }
}

// Two sums a channel, made piece by piece and added in double.
class Sums {
 public:
  explicit Sums(const Shape& s) : shape_(s), all_((s.pieces + 1) * 2 * s.length) {}

  float* first(int64_t piece) { return all_.data() + 2 * piece * shape_.length; }
  float* second(int64_t piece) { return first(piece) + shape_.length; }

  std::vector<double> total() const {  // [2][channels]
    std::vector<double> t(2 * shape_.channels);
    const float* from = all_.data();
    for (int64_t row = 0; row < 2 * (shape_.pieces + 1); ++row)
      for (int64_t i = 0; i < shape_.times; ++i, from += shape_.channels)
        for (int64_t c = 0; c < shape_.channels; ++c) t[row % 2 * shape_.channels + c] += from[c];
    return t;
  }

 private:
  const Shape& shape_;
  std::vector<float> all_;  // [pieces and what is left over][2][length]
};

// The pixels that are left over as a row, which the passes take as any other; pixel `fill` stands where there is none.
template <typename T>
std::vector<T> last_row(const Shape& s, const T* x, const T* fill) {
  std::vector<T> row(x + s.done(), x + s.pixels * s.channels);
  while (static_cast<int64_t>(row.size()) < s.length) row.insert(row.end(), fill, fill + s.channels);
  return row;
}

// f(width, column) for the columns of one row.
template <typename F>
void columns_of_row(int64_t length, const F& f) {
  int64_t c = 0;
  for (; c + 4 * LANES <= length; c += 4 * LANES) f(std::integral_constant<int, 4>{}, c);
  for (; c + 2 * LANES <= length; c += 2 * LANES) f(std::integral_constant<int, 2>{}, c);
  for (; c < length; c += LANES) f(std::integral_constant<int, 1>{}, c);
}

}  // namespace norm_act
