// The nine activations, their first derivatives and the derivatives of those, for one number.
//
// With z = x + b, u = act(z) and y = clamp(gain * u): the derivative of an activation is read off the result where that
// is possible, so that y is all that is kept for the backward pass. `ref` is y then, and x + b for swish and for lrelu
// with a negative slope (`sg_reads_input`).
#pragma once

#include "elementary.h"

namespace sg {

enum Act { LINEAR = 0, RELU, LRELU, TANH, SIGMOID, ELU, SELU, SOFTPLUS, SWISH };

template <typename S>
SG_INLINE S sigmoid_(S z) {
  return S(1) / (S(1) + exp_(-z));
}

template <typename S>
struct BiasActParams {
  S alpha, gain, inv_gain;  // inv_gain is 0 where gain is 0: the result is then constant
  S clamp;                  // infinity: none
  S limit;                  // the clamp as the storage type holds it, NaN: none (no comparison with it is true)
};

// act(z)
template <int A, typename S>
SG_INLINE S act_value(S z, S alpha) {
  constexpr double scale = 1.0507009873554805, selu_alpha = 1.6732632423543772;
  if (A == RELU) return z > S(0) ? z : (z != z ? z : S(0));
  if (A == LRELU) return z > S(0) ? z : z * alpha;
  if (A == TANH) return tanh_(z);
  if (A == SIGMOID) return sigmoid_(z);
  if (A == ELU) return z > S(0) ? z : expm1_(z);
  if (A == SELU) return z > S(0) ? z * S(scale) : expm1_(z) * S(scale * selu_alpha);
  if (A == SOFTPLUS) return (z > S(0) ? z : S(0)) + log1p_(exp_(-abs_(z)));
  if (A == SWISH) return z * sigmoid_(z);
  return z;
}

// act'(z), from u = act(z), or from z itself where `IN`
template <int A, bool IN, typename S>
SG_INLINE S act_slope(S r, S alpha) {
  constexpr double scale = 1.0507009873554805, selu_alpha = 1.6732632423543772;
  if (A == RELU) return r > S(0) ? S(1) : S(0);
  if (A == LRELU) return r > S(0) ? S(1) : alpha;
  if (A == TANH) return S(1) - r * r;
  if (A == SIGMOID) return r * (S(1) - r);
  if (A == ELU) return r > S(0) ? S(1) : r + S(1);
  if (A == SELU) return r > S(0) ? S(scale) : r + S(scale * selu_alpha);
  if (A == SOFTPLUS) return -expm1_(-r);
  if (A == SWISH) {
    S s = sigmoid_(r);
    return s * (S(1) + r * (S(1) - s));
  }
  return S(1);
}

// derivative of act_slope with respect to its argument
template <int A, typename S>
SG_INLINE S act_bend(S r) {
  if (A == TANH) return S(-2) * r;
  if (A == SIGMOID) return S(1) - S(2) * r;
  if (A == ELU || A == SELU) return r > S(0) ? S(0) : S(1);
  if (A == SOFTPLUS) return exp_(-r);
  if (A == SWISH) {
    S s = sigmoid_(r);
    return s * (S(1) - s) * (S(2) + r * (S(1) - S(2) * s));
  }
  return S(0);
}

// y = clamp(gain * act(z))
template <int A, typename S>
SG_INLINE S bias_act_value(S z, const BiasActParams<S>& p) {
  S v = act_value<A>(z, p.alpha) * p.gain;
  v = v > p.clamp ? p.clamp : v;
  return v < -p.clamp ? -p.clamp : v;
}

// dy/dz from ref: y, or z where `IN`
template <int A, bool IN, typename S>
SG_INLINE S bias_act_slope(S ref, const BiasActParams<S>& p) {
  S slope = p.gain * act_slope<A, IN>(IN ? ref : ref * p.inv_gain, p.alpha);
  S y = IN ? act_value<A>(ref, p.alpha) * p.gain : ref;
  return abs_(y) >= p.limit ? S(0) : slope;
}

// d(dy/dz) / d ref
template <int A, bool IN, typename S>
SG_INLINE S bias_act_bend(S ref, const BiasActParams<S>& p) {
  S bend = act_bend<A>(IN ? ref : ref * p.inv_gain) * (IN ? p.gain : (p.inv_gain == S(0) ? S(0) : S(1)));
  S y = IN ? act_value<A>(ref, p.alpha) * p.gain : ref;
  return abs_(y) >= p.limit ? S(0) : bend;
}

}  // namespace sg
