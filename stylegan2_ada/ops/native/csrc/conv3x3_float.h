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

  static void read_gradient(const Images<const float>& y, Tiles::Corner at, const float* zeros, float* v, int64_t tile,
                            const Operand& to) {
    const auto transform = [](const auto& d, auto& t) SG_INLINED { transform_output_back<F>(d, t); };
    read_pixels<F::OUT, F::OUT, AXIS, AXIS>(
        y, at.n, at.y, at.x, zeros, transform, transform, [&](int64_t block) {
          return [first = v + to.row(tile) + to.block(block), step = to.step](auto r, auto c) SG_INLINED {
            return first + point(r, c) * step;
          };
        });
  }
};

}  // namespace conv_float
