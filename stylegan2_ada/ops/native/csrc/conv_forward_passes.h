// A convolution block by block: some tiles of the input are transformed into a scratch that stays in the second-level
// cache, multiplied with the weights value by value, transformed back, and written with bias and ReLU.
#pragma once
#include <algorithm>
#include <vector>

#include "conv_forward_filters.h"
#include "cpu.h"
#include "scratch.h"

namespace conv_forward {

// Float32 [n][channels][height][width] in any order of memory but with channels next to each other.
template <typename T>
struct Images {
  T* data;
  int64_t n, channels, height, width, step_n, step_y, step_x;
};

// One of several convolutions of the same input: weights as `prepare` of conv_forward.py lays them out.
struct Part {
  const float *u, *bias;
  Images<float> y;
  bool relu;
  int64_t padded() const { return round_up(y.channels, LANES); }
};

struct Window {
  int64_t taps_y, taps_x, pad_y, pad_x, stride;
};

// Tiles of OUT x OUT results, numbered image by image, row by row.
struct Tiles {
  int64_t rows, cols, out_y, out_x;
  struct Corner {
    int64_t n, y, x;
  };
  Corner corner(int64_t tile) const {
    return {tile / (rows * cols), tile / cols % rows * out_y, tile % cols * out_x};
  }
};

// Where a block's transformed numbers lie: [point][block of LANES channels][row][lane] of the input, [point][row][channel]
// of the result. A tile has a row at each point, or several where points have the same weights (`copies`).
struct Layout {
  int64_t tiles, width, step;  // width: numbers of a row
  Layout(int64_t tiles, int64_t width)
      // An odd number of cache lines from point to point, so that they don't compete for the same places in the cache.
      : tiles(tiles), width(width), step((tiles * width / LANES | 1) * LANES) {}
  int64_t at(int64_t point) const { return point * step; }
  int64_t at(int64_t point, int64_t copies_before) const { return copies_before * tiles * width + point * LANES; }
  int64_t block(int64_t block, int64_t copies = 1) const { return block * tiles * copies * LANES; }
  int64_t row(int64_t row) const { return row * LANES; }  // of the input
};

// Where the channels of ROWS x COLS pixels begin, row by row; those outside of the image are `zeros`.
template <int ROWS_, int COLS>
void find_pixels(const Images<const float>& x, int64_t n, int64_t y0, int64_t x0, const float* zeros,
                 const float* (&p)[ROWS_ * COLS]) {
  for (int r = 0; r < ROWS_; r++)
    for (int c = 0; c < COLS; c++) {
      const int64_t row = y0 + r, col = x0 + c;
      const bool inside = row >= 0 && row < x.height && col >= 0 && col < x.width;
      p[r * COLS + c] = inside ? x.data + n * x.step_n + row * x.step_y + col * x.step_x : zeros;
    }
}

// f(pixels, channel, block) for each LANES channels of the pixels; behind the last channel are zeros.
template <int N, typename F>
void by_vectors(const float* (&p)[N], int64_t channels, const F& f) {
  const int64_t whole = channels / LANES, rest = channels % LANES;
  for (int64_t block = 0; block < whole; block++) f(p, block * LANES, block);
  if (rest) {
    float copy[N][LANES] = {};
    for (int i = 0; i < N; i++) {
      std::memcpy(copy[i], p[i] + whole * LANES, rest * sizeof(float));
      p[i] = copy[i];
    }
    f(p, 0, whole);
  }
}

// ROWS_ x COLS pixels, LANES channels at a time, along both axes made Y x X numbers. places(block) is a function that
// says where the number (r, c) of these channels goes: it has copies of what it needs, as a store could change the rest.
template <int ROWS_, int COLS, int Y, int X, typename Down, typename Across, typename Places>
SG_FORCE_INLINE void read_pixels(const Images<const float>& x, int64_t n, int64_t y0, int64_t x0, const float* zeros,
                                 const Down& down, const Across& across, const Places& places) {
  const float* p[ROWS_ * COLS];
  find_pixels<ROWS_, COLS>(x, n, y0, x0, zeros, p);
  by_vectors(p, x.channels, [&](const auto& p, int64_t channel, int64_t block) SG_INLINED {
    const auto place = places(block);
    along_both_axes<ROWS_, COLS, Y, X>(
        [&](auto r, auto c) SG_INLINED { return load(p[r * COLS + c] + channel); }, down, across,
        [&](auto r, const auto& t) SG_INLINED { repeat<X>([&](auto c) SG_INLINED { store(place(r, c), t[c]); }); });
  });
}

// LANES channels of N pixels of a row, of those that lie inside of the image.
template <int N>
SG_FORCE_INLINE void write_row(const Images<float>& y, int64_t n, int64_t row, int64_t col, int64_t channel,
                               const vec (&values)[N]) {
  if (row < 0 || row >= y.height) return;
  float* to = y.data + n * y.step_n + row * y.step_y + col * y.step_x + channel;
  const int64_t rest = y.channels - channel;
  repeat<N>([&](auto c) SG_INLINED {
    if (col + c < 0 || col + c >= y.width) return;
    if (rest >= LANES)
      store(to + c * y.step_x, values[c]);
    else
      std::memcpy(to + c * y.step_x, &values[c], rest * sizeof(float));
  });
}

// Minimal filtering FY x FX.
template <typename FY, typename FX>
struct Filtered {
  static constexpr int POINTS = FY::SIZE * FX::SIZE;
  Window window;
  int64_t points() const { return POINTS; }
  int64_t copies() const { return POINTS; }  // in all
  int64_t copies(int64_t) const { return 1; }
  template <typename To>
  int64_t at(int64_t point, const To& to) const { return to.at(point); }
  int64_t blocks(int64_t channels) const { return (channels + LANES - 1) / LANES; }
  template <typename T>
  Tiles tiles(const Images<T>& y) const {
    return {(y.height + FY::OUT - 1) / FY::OUT, (y.width + FX::OUT - 1) / FX::OUT, FY::OUT, FX::OUT};
  }

  template <typename To>
  void read(const Images<const float>& x, Tiles::Corner at, const float* zeros, float* v, int64_t tile,
            const To& to) const {
    read_pixels<FY::SIZE, FX::SIZE, FY::SIZE, FX::SIZE>(
        x, at.n, at.y - window.pad_y, at.x - window.pad_x, zeros,
        [](const auto& d, auto& t) SG_INLINED { transform_input<FY>(d, t); },
        [](const auto& d, auto& t) SG_INLINED { transform_input<FX>(d, t); },
        [&](int64_t block) {
          return [first = v + to.row(tile) + to.block(block), step = to.step](auto r, auto c) SG_INLINED {
            return first + (r * FX::SIZE + c) * step;
          };
        });
  }

  // LANES channels of a tile's results.
  static void write(const float* m, int64_t tile, const Layout& from, const Part& part, int64_t channel,
                    Tiles::Corner at) {
    const int64_t step = from.step;
    m += tile * from.width;
    const vec bias = load(part.bias + channel), floor = broadcast(part.relu ? 0.f : -__builtin_inff());
    along_both_axes<FY::SIZE, FX::SIZE, FY::OUT, FX::OUT>(
        [&](auto r, auto c) SG_INLINED { return load(m + (r * FX::SIZE + c) * step); },
        [](const auto& d, auto& t) SG_INLINED { transform_output<FY>(d, t); },
        [](const auto& d, auto& t) SG_INLINED { transform_output<FX>(d, t); },
        [&](auto r, vec(&t)[FX::OUT]) SG_INLINED {
          repeat<FX::OUT>([&](auto c) SG_INLINED {
            t[c] += bias;
            t[c] = t[c] < floor ? floor : t[c];  // NaN stays NaN
          });
          write_row(part.y, at.n, at.y + r, at.x, channel, t);
        });
  }
};

// Every product of a window of any size and stride, as one product of matrices.
struct Direct {
  Window window;
  int64_t points() const { return 1; }
  int64_t copies() const { return 1; }
  int64_t copies(int64_t) const { return 1; }
  int64_t at(int64_t point, const Layout& to) const { return to.at(point); }
  int64_t blocks(int64_t channels) const { return (window.taps_y * window.taps_x * channels + LANES - 1) / LANES; }
  template <typename T>
  Tiles tiles(const Images<T>& y) const { return {y.height, y.width, 1, 1}; }

  void read(const Images<const float>& x, Tiles::Corner at, const float* zeros, float* v, int64_t tile,
            const Layout& to) const {
    v += to.row(tile);
    const int64_t step = to.block(1), blocks = to.width / LANES, n = x.channels;
    const int64_t y0 = at.y * window.stride - window.pad_y, x0 = at.x * window.stride - window.pad_x;
    const float* image = x.data + at.n * x.step_n;
    if (n % LANES == 0) {
      pixels(x, y0, x0, [&](int64_t row, int64_t col, bool inside) {
        const float* p = inside ? image + row * x.step_y + col * x.step_x : zeros;
        for (int64_t channel = 0; channel < n; channel += LANES, v += step) store(v, load(p + channel));
      });
      return;
    }
    static thread_local std::vector<float> window_values;
    window_values.resize(to.width);
    float* to_value = window_values.data();
    if (x.step_x == n && y0 >= 0 && x0 >= 0 && y0 + window.taps_y <= x.height && x0 + window.taps_x <= x.width) {
      for (int64_t r = 0; r < window.taps_y; r++, to_value += window.taps_x * n)
        std::memcpy(to_value, image + (y0 + r) * x.step_y + x0 * n, window.taps_x * n * sizeof(float));
    } else {
      pixels(x, y0, x0, [&](int64_t row, int64_t col, bool inside) {
        const float* p = inside ? image + row * x.step_y + col * x.step_x : zeros;
        std::memcpy(to_value, p, n * sizeof(float));
        to_value += n;
      });
    }
    for (int64_t block = 0; block < blocks; block++) store(v + block * step, load(&window_values[block * LANES]));
  }

  template <typename F>
  void pixels(const Images<const float>& x, int64_t y0, int64_t x0, const F& f) const {
    for (int64_t row = y0; row < y0 + window.taps_y; row++)
      for (int64_t col = x0; col < x0 + window.taps_x; col++)
        f(row, col, row >= 0 && row < x.height && col >= 0 && col < x.width);
  }

  static void write(const float* m, int64_t tile, const Layout& from, const Part& part, int64_t channel,
                    Tiles::Corner at) {
    Filtered<Filter<1, 1>, Filter<1, 1>>::write(m, tile, from, part, channel, at);
  }
};

// Of transformed input and of products, in a second level of 1 MB (or half of one).
constexpr int64_t V_BYTES = 256 << 10, M_BYTES = 128 << 10;
constexpr int64_t FEWEST_TILES = 64, MOST_TILES = 168;

template <typename Way>
void convolve(const Way& way, const Images<const float>& x, const std::vector<Part>& parts, int64_t threads) {
  const int64_t points = way.points(), copies = way.copies(), blocks = way.blocks(x.channels);
  const int64_t together = (points == 1 ? 256 : 64) / LANES;  // transforms make rounding errors larger
  const Tiles tiles = way.tiles(parts[0].y);
  const int64_t count = x.n * tiles.rows * tiles.cols;
  // As many tiles at once as keep their transforms in the cache, and as many blocks as divide evenly among the threads.
  int64_t most = V_BYTES / (copies * blocks * LANES * int64_t(sizeof(float))) / ROWS * ROWS;
  most = std::clamp<int64_t>(most, FEWEST_TILES, MOST_TILES);
  const int64_t jobs = round_up((count + most - 1) / most, threads);
  const int64_t here = (count + jobs - 1) / jobs;
  const Layout layout(here, blocks * LANES);
  const int64_t v_size = round_up(way.at(points, layout), LANES);
  // Results of as many panels at once as stay in the cache; of all, if the input does not stay there anyway.
  const bool large = v_size * int64_t(sizeof(float)) > 2 * V_BYTES;
  int64_t widest = 0;
  for (const Part& part : parts) widest = std::max(widest, part.padded());
  int64_t width = M_BYTES / (copies * here * int64_t(sizeof(float))) / PANEL * PANEL;
  width = large ? widest : std::clamp<int64_t>(width, PANEL, widest);
  const Layout results(here, width);
  const std::vector<float> zeros(round_up(x.channels, LANES));

  sg::for_each_item(jobs, threads, [&](int64_t job, int64_t) {
    static thread_local sg::Scratch scratch;
    float* v = scratch.get<float>(v_size + way.at(points, results));
    float* m = v + v_size;
    const int64_t first = count * job / jobs, rows = count * (job + 1) / jobs - first;
    for (int64_t t = 0; t < rows; t++) way.read(x, tiles.corner(first + t), zeros.data(), v, t, layout);
    for (const Part& part : parts)
      for (int64_t o = 0; o < part.padded(); o += width) {
        const int64_t o_end = std::min(o + width, part.padded());
        for (int64_t point = 0; point < points; point++)
          for (int64_t j = o; j < o_end; j += PANEL)
            multiply(rows * way.copies(point), std::min<int64_t>(PANEL, o_end - j), v + way.at(point, layout),
                     layout.block(1, way.copies(point)), part.u + (point * part.padded() + j) * blocks * LANES, 0, blocks,
                     together, m + way.at(point, results) + j - o, width);
        for (int64_t t = 0; t < rows; t++)
          for (int64_t j = o; j < o_end; j += LANES)
            way.write(m + j - o, t, results, part, j, tiles.corner(first + t));
      }
  });
}

// The greatest value or the mean of a window, of those of its pixels that lie inside of the image.
inline void pool(const Images<const float>& x, const Window& w, bool mean, bool relu, const Images<float>& y) {
  sg::parallel(y.n * y.height, y.width * y.channels, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      const int64_t n = row / y.height, top = row % y.height * w.stride - w.pad_y;
      const int64_t y0 = std::max<int64_t>(top, 0), y1 = std::min(top + w.taps_y, x.height);
      for (int64_t col = 0; col < y.width; col++) {
        const int64_t left = col * w.stride - w.pad_x;
        const int64_t x0 = std::max<int64_t>(left, 0), x1 = std::min(left + w.taps_x, x.width);
        const float* from = x.data + n * x.step_n + y0 * x.step_y + x0 * x.step_x;
        float* to = y.data + n * y.step_n + row % y.height * y.step_y + col * y.step_x;
        const float part = 1.f / ((y1 - y0) * (x1 - x0));
        const auto reduce = [&](auto get, auto put) {
          auto found = get(from);
          for (int64_t i = 0; i < y1 - y0; i++)
            for (int64_t j = i == 0; j < x1 - x0; j++) {
              const auto value = get(from + i * x.step_y + j * x.step_x);
              if (mean)
                found = found + value;
              else
                found = (value > found) | (value != value) ? value : found;
            }
          if (mean) found = found * part;
          if (relu) found = found < decltype(found){} ? decltype(found){} : found;
          put(found);
        };
        int64_t c = 0;
        for (; c + LANES <= y.channels; c += LANES, from += LANES)
          reduce([](const float* p) { return load(p); }, [&](vec v) { store(to + c, v); });
        for (; c < y.channels; c++, from++) reduce([](const float* p) { return *p; }, [&](float v) { to[c] = v; });
      }
    }
  });
}

}  // namespace conv_forward
