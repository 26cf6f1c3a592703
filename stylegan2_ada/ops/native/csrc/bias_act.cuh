// Activations on the GPU: the number of the activation is an argument, not a template parameter. The straight ones, which
// the networks are made of, are inlined; the curved ones are called, which keeps the kernels small.
#pragma once

#include "bias_act.h"
#include "device.cuh"

namespace sg {

// As make_params in bias_act_cpu.h.
template <typename T>
SG_DEVICE BiasActParams<acc_t<T>> params_of(double alpha, double gain, double inv_gain, double clamp) {
  typedef acc_t<T> S;
  BiasActParams<S> p;
  p.alpha = S(alpha);
  p.gain = S(gain);
  p.inv_gain = S(inv_gain);
  p.clamp = clamp >= 0 ? S(clamp) : S(as_float(0x7f800000u));                               // infinity
  p.limit = clamp >= 0 ? S(Num<T>::load(Num<T>::store(S(clamp)))) : S(as_float(0x7fc00000u));  // NaN
  return p;
}

template <typename S>
__device__ __noinline__ S curved_value(int act, S z, const BiasActParams<S> p) {
  switch (act) {
    case TANH:
      return bias_act_value<TANH>(z, p);
    case SIGMOID:
      return bias_act_value<SIGMOID>(z, p);
    case ELU:
      return bias_act_value<ELU>(z, p);
    case SELU:
      return bias_act_value<SELU>(z, p);
    case SOFTPLUS:
      return bias_act_value<SOFTPLUS>(z, p);
    default:
      return bias_act_value<SWISH>(z, p);
  }
}

template <typename S>
__device__ __noinline__ S curved_slope(int act, S ref, const BiasActParams<S> p) {
  switch (act) {
    case LRELU:  // with a negative slope, which the result does not tell
      return bias_act_slope<LRELU, true>(ref, p);
    case TANH:
      return bias_act_slope<TANH, false>(ref, p);
    case SIGMOID:
      return bias_act_slope<SIGMOID, false>(ref, p);
    case ELU:
      return bias_act_slope<ELU, false>(ref, p);
    case SELU:
      return bias_act_slope<SELU, false>(ref, p);
    case SOFTPLUS:
      return bias_act_slope<SOFTPLUS, false>(ref, p);
    default:
      return bias_act_slope<SWISH, true>(ref, p);
  }
}

template <typename S>
__device__ __noinline__ S curved_bend(int act, S ref, const BiasActParams<S> p) {
  switch (act) {
    case TANH:
      return bias_act_bend<TANH, false>(ref, p);
    case SIGMOID:
      return bias_act_bend<SIGMOID, false>(ref, p);
    case ELU:
      return bias_act_bend<ELU, false>(ref, p);
    case SELU:
      return bias_act_bend<SELU, false>(ref, p);
    case SOFTPLUS:
      return bias_act_bend<SOFTPLUS, false>(ref, p);
    case SWISH:
      return bias_act_bend<SWISH, true>(ref, p);
    default:
      return S(0);
  }
}

// v[i] = clamp(gain * act(v[i]))
template <int V, typename S>
SG_DEVICE void activate(int act, const BiasActParams<S>& p, S* v) {
  if (act == LINEAR) {
#pragma unroll
    for (int i = 0; i < V; ++i) v[i] = bias_act_value<LINEAR>(v[i], p);
  } else if (act == RELU) {
#pragma unroll
    for (int i = 0; i < V; ++i) v[i] = bias_act_value<RELU>(v[i], p);
  } else if (act == LRELU) {
#pragma unroll
    for (int i = 0; i < V; ++i) v[i] = bias_act_value<LRELU>(v[i], p);
  } else {
#pragma unroll
    for (int i = 0; i < V; ++i) v[i] = curved_value<S>(act, v[i], p);
  }
}

// The slope of an activation of straight pieces is that of a leaky ReLU, whose negative slope is put into the parameters
// here.
template <typename S>
SG_DEVICE BiasActParams<S> straight(int act, BiasActParams<S> p) {
  p.alpha = act == LINEAR ? S(1) : act == RELU ? S(0) : p.alpha;
  return p;
}

SG_DEVICE bool is_straight(int act, double alpha) { return act < LRELU || (act == LRELU && alpha >= 0); }

}  // namespace sg
