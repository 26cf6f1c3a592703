// What follows a modulated convolution, for one number: out = clamp(gain * act(y * d + noise + b)), and back.
#pragma once

#include "bias_act.h"

namespace sg {

template <typename S>
SG_INLINE S modconv_input(S y, S d, S b, S noise) {
  return y * d + (b + noise);
}

// y * d + b + noise from the result, where the activation can be turned round: linear (inv_alpha 1) or a leaky ReLU with
// positive slope, and a positive gain.
template <typename S>
SG_INLINE S modconv_undone(S out, S inv_gain, S inv_alpha) {
  const S u = out * inv_gain;
  return u > S(0) ? u : u * inv_alpha;
}

}  // namespace sg
