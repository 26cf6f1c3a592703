// 3x3 convolutions of float32 images with stride 1 and padding 1 by minimal filtering F(4x4, 3x3): 36 multiplications
// for 144.
#pragma once
#include "conv_float.h"

namespace conv_float {

struct Plain : Filtered<Filter<4, 3>, Filter<4, 3>> {
  using F = Filter<4, 3>;
  static constexpr int AXIS = F::SIZE;
  Plain() : Filtered{Window{3, 3, 1, 1, 1}} {}
  static constexpr int point(int r, int c) { return r * AXIS + c; }
  static void weight(const vec (&g)[3], vec (&out)[AXIS]) { transform_weight<F>(g, out); }
  static void weight_back(const vec (&u)[AXIS], vec (&out)[3]) { transform_weight_back<F>(u, out); }
  template <typename To>
  int64_t at(int64_t point, const To& to) const {
    return to.at(point);
  }

  static void read_gradient(const Images<const float>& y, Tiles::Corner at, const float* zeros, float* v, int64_t tile,
                            const Operand& to) {
    const float* p[F::OUT * F::OUT];
    find_pixels<F::OUT, F::OUT>(y, at.n, at.y, at.x, zeros, p);
    by_vectors(p, y.channels, [&](const auto& p, int64_t channel, int64_t block) SG_INLINED {
      vec half[AXIS][F::OUT];
      repeat<F::OUT>([&](auto c) SG_INLINED {
        vec d[F::OUT], t[AXIS];
        repeat<F::OUT>([&](auto r) SG_INLINED { d[r] = load(p[r * F::OUT + c] + channel); });
        transform_output_back<F>(d, t);
        repeat<AXIS>([&](auto r) SG_INLINED { half[r][c] = t[r]; });
      });
      repeat<AXIS>([&](auto r) SG_INLINED {
        vec t[AXIS];
        transform_output_back<F>(half[r], t);
        repeat<AXIS>([&](auto c) SG_INLINED { store(v + to.at(point(r, c)) + to.row(tile) + to.block(block), t[c]); });
      });
    });
  }
};

}  // namespace conv_float
