// Convolutions with and without a stride, and their transposes, as sums over taps of shifted images: which images
// (planes) those are, how far each tap shifts, and where the sums go.
//
// Gathering, y[q] = sum over d of x[s q + d - pad] w[d]: with d = s e + r, x is parted into planes x[s j + r - pad], one
// for each remainder r, in which tap d is the plane of r shifted by e.
// Scattering, its transpose, y[s p + d - pad] += x[p] w[d]: the outputs are parted by r = (q + pad) mod s; those of one
// remainder, q = s j + r - pad, are sums over d = s e + r of x[j - e].
// So nothing is multiplied by inserted zeros, and nothing is computed to be dropped.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

namespace conv_taps {

struct Conv {
  int64_t n, in, height, width;               // x
  int64_t out, out_height, out_width;         // y
  int64_t ky, kx, stride, pad_y, pad_x;
  bool scatter, flip;  // flip: the kernel turned by 180 degrees
  int64_t taps() const { return ky * kx; }
};

struct Tap {
  int64_t plane, dy, dx, index;  // the last: of [ky][kx] of the weights
};

// One axis: positions j per image, how far taps shift beyond them, and which coordinate of x a plane's cell is.
struct Axis {
  int64_t kernel, stride, pad, out, size;
  bool scatter;
  int64_t reach() const { return (kernel - 1) / stride; }
  int64_t positions() const { return scatter ? (out - 1 + pad) / stride + 1 : out; }
  int64_t planes() const { return scatter ? 1 : std::min(stride, kernel); }
  int64_t source(int64_t plane, int64_t cell) const {
    return scatter ? cell - reach() : stride * cell + plane - pad;
  }
  int64_t targets() const { return scatter ? stride : 1; }
  int64_t target(int64_t phase, int64_t position) const { return scatter ? stride * position + phase - pad : position; }
  int64_t taps(int64_t phase) const { return scatter ? std::max<int64_t>(0, (kernel - 1 - phase + stride) / stride) : kernel; }
  int64_t tap(int64_t phase, int64_t e) const { return scatter ? stride * e + phase : e; }
  int64_t plane(int64_t tap) const { return scatter ? 0 : tap % stride; }
  int64_t shift(int64_t tap) const { return scatter ? reach() - tap / stride : tap / stride; }
};

struct Plan {
  Conv conv;
  bool even;  // rows of planes have an even number of cells
  Axis y, x;
  explicit Plan(const Conv& c, bool even_rows = false)
      : conv(c),
        even(even_rows),
        y{c.ky, c.stride, c.pad_y, c.out_height, c.height, c.scatter},
        x{c.kx, c.stride, c.pad_x, c.out_width, c.width, c.scatter} {}
  int64_t planes() const { return y.planes() * x.planes(); }
  int64_t targets() const { return y.targets() * x.targets(); }
  int64_t pitch() const { return (x.positions() + x.reach() + even) / (1 + even) * (1 + even); }
  std::vector<Tap> taps(int64_t target) const {
    std::vector<Tap> found;
    const int64_t py = target / x.targets(), px = target % x.targets();
    for (int64_t a = 0; a < y.taps(py); a++)
      for (int64_t b = 0; b < x.taps(px); b++) {
        const int64_t ty = y.tap(py, a), tx = x.tap(px, b), index = ty * conv.kx + tx;
        found.push_back({y.plane(ty) * x.planes() + x.plane(tx), y.shift(ty), x.shift(tx),
                         conv.flip ? conv.taps() - 1 - index : index});
      }
    return found;
  }
};

// Rows of positions of one image that are worked on together; its cells lie in a block from `cell` on.
struct Segment {
  int64_t image, first, rows, cell;
};

struct Block {
  std::vector<Segment> segments;
  int64_t cells = 0;
  void add(const Plan& plan, int64_t image, int64_t first, int64_t rows) {
    segments.push_back({image, first, rows, cells});
    cells += (rows + plan.y.reach()) * plan.pitch();
  }
};

// The rows of all images in blocks of about `most` cells, at least a row each and at least `fewest` of them if possible.
inline std::vector<Block> blocks_of(const Plan& plan, int64_t most, int64_t fewest) {
  const int64_t rows = plan.y.positions(), pitch = plan.pitch(), halo = plan.y.reach(), images = plan.conv.n;
  std::vector<Block> blocks;
  const int64_t image = (rows + halo) * pitch;
  const int64_t together = std::clamp<int64_t>(most / image, 0, (images + fewest - 1) / fewest);
  if (together >= 1) {
    for (int64_t n = 0; n < images; n += together) {
      blocks.emplace_back();
      for (int64_t i = n; i < std::min(n + together, images); i++) blocks.back().add(plan, i, 0, rows);
    }
    return blocks;
  }
  const int64_t parts_wanted = std::max((image + most - 1) / most, (fewest + images - 1) / images);
  const int64_t per = std::max<int64_t>(1, (rows + parts_wanted - 1) / parts_wanted);
  for (int64_t n = 0; n < images; n++)
    for (int64_t first = 0; first < rows; first += per) {
      blocks.emplace_back();
      blocks.back().add(plan, n, first, std::min(per, rows - first));
    }
  return blocks;
}

// 16 neighbouring cells of a block, and which positions they are.
struct Cells {
  int64_t cell, image;
  int count;  // the last wanted + 1
  int32_t row[16], column[16];  // -1: a cell that is no position
};

inline std::vector<Cells> tiles_of(const Plan& plan, const Block& block) {
  const int64_t pitch = plan.pitch(), width = plan.x.positions();
  std::vector<Cells> tiles;
  for (const Segment& s : block.segments) {
    const int64_t flat = (s.rows - 1) * pitch + width, aligned = (width + 15) / 16 * s.rows;
    const auto add = [&](int64_t start, int64_t end) {
      Cells t{s.cell + start, s.image, 0, {}, {}};
      for (int64_t i = 0; i < 16; i++) {
        const int64_t row = (start + i) / pitch, column = (start + i) % pitch;
        const bool inside = start + i < end && column < width;
        t.row[i] = inside ? static_cast<int32_t>(s.first + row) : -1;
        t.column[i] = static_cast<int32_t>(column);
        if (inside) t.count = static_cast<int>(i) + 1;
      }
      if (t.count) tiles.push_back(t);
    };
    if ((flat + 15) / 16 < aligned)
      for (int64_t i = 0; i < flat; i += 16) add(i, flat);
    else
      for (int64_t r = 0; r < s.rows; r++)
        for (int64_t i = 0; i < width; i += 16) add(r * pitch + i, r * pitch + width);
  }
  return tiles;
}

}  // namespace conv_taps
